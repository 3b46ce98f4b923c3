//! `kubectl tidemark tasks`: what was asked of WALs, and how it ended.

use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use super::{
    client::KubectlClient,
    objects::{display_value, table, text},
    task_object::{TASK_RESOURCE, sort_by_age, tasks_of, verdict},
};
use crate::cli::output::print_line;

/// Characters of what a task says of itself that a row shows.
const MAX_VERDICT_CHARS: usize = 100;

/// List the tasks of WALs: snapshots, clean-ups, verifications, restores.
///
/// A task is made by a schedule of the WAL (column BY), by "kubectl tidemark snapshot", "restore" or "promote", or as an object of
/// kind `WALTask`. It ends as Succeeded, Failed or Rejected; the last column says why, or what it did.
#[derive(Debug, Args)]
#[command(after_help = "Examples: kubectl tidemark tasks orders -n data\n          kubectl tidemark tasks -A")]
pub(super) struct WalTasksCommand {
    /// The WAL; those of all WALs of the namespace if left out.
    #[arg(value_name = "WAL")]
    pub(super) wal: Option<String>,
    /// List the tasks of every namespace.
    #[arg(long, short = 'A', conflicts_with = "wal")]
    pub(super) all_namespaces: bool,
}

impl WalTasksCommand {
    pub(super) async fn run(self, client: &KubectlClient) -> anyhow::Result<()> {
        self.lines(client).await?.iter().try_for_each(|line| print_line(line))
    }

    pub(super) async fn lines(&self, client: &KubectlClient) -> anyhow::Result<Vec<String>> {
        let Self { wal, all_namespaces } = self;
        let tasks = if let Some(wal) = wal {
            tasks_of(client, wal).await?
        } else {
            let everywhere: &[&str] = if *all_namespaces { &["--all-namespaces"] } else { &[] };
            let mut tasks = client.list(&[&["get", TASK_RESOURCE], everywhere].concat()).await?;
            sort_by_age(&mut tasks);
            tasks
        };
        if tasks.is_empty() {
            let which = wal.as_deref().map_or("in this namespace; -A lists every namespace".to_owned(), |wal| {
                format!("of WAL \"{wal}\"; make one: kubectl tidemark snapshot {wal}")
            });
            return Ok(vec![format!("no tasks {which}")]);
        }
        let mut head = ["NAME", "WAL", "TYPE", "BY", "STATE", "STARTED", "TOOK", "WHAT"].map(str::to_owned).to_vec();
        let mut rows: Vec<Vec<String>> = tasks.iter().map(row).collect();
        if *all_namespaces {
            head.insert(0, "NAMESPACE".to_owned());
            for (row, task) in rows.iter_mut().zip(&tasks) {
                row.insert(0, display_value(task, "/metadata/namespace"));
            }
        }
        Ok(table(&std::iter::once(head).chain(rows).collect::<Vec<_>>()))
    }
}

fn row(task: &Value) -> Vec<String> {
    let by = if text(task, "/metadata/labels/tidemark.dev~1schedule").is_empty() { "hand" } else { "schedule" };
    let what: String = verdict(task).chars().take(MAX_VERDICT_CHARS).collect();
    vec![
        display_value(task, "/metadata/name"),
        display_value(task, "/spec/walRef/name"),
        display_value(task, "/spec/type"),
        by.to_owned(),
        display_value(task, "/status/state"),
        display_value(task, "/status/startTime"),
        took(task),
        what,
    ]
}

/// How long a task ran that has ended.
fn took(task: &Value) -> String {
    let time = |at| text(task, at).parse::<Timestamp>().ok();
    match time("/status/startTime").zip(time("/status/completionTime")) {
        Some((start, end)) => format!("{}s", end.duration_since(start).as_secs()),
        None => "-".to_owned(),
    }
}

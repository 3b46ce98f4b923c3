//! `kubectl tidemark sinks`: where the changes of WALs go, and how far that is.

use clap::Args;
use serde_json::Value;

use super::{
    client::KubectlClient,
    objects::{conditions, display_value, table, text},
};
use crate::cli::output::print_line;

/// The resource, with its group.
const SINK_RESOURCE: &str = "walsinks.tidemark.dev";
/// Characters of what keeps a sink from delivering that a row shows.
const MAX_CAUSE_CHARS: usize = 100;

/// List the sinks of WALs: where their changes go, and how far that is.
///
/// PHASE is the reason of the condition Ready: `Ready`, `Suspended` as the spec asks, or what keeps the sink from delivering, which the last
/// column says in full. LAG counts the records that are published and not acknowledged, and says how long the oldest of them has been
/// published. While the BREAKER is open nothing is sent for a while, and nothing is lost.
#[derive(Debug, Args)]
#[command(after_help = "Examples: kubectl tidemark sinks orders -n data\n          kubectl tidemark sinks -A")]
pub(super) struct WalSinksCommand {
    /// The WAL; those of all WALs of the namespace if left out.
    #[arg(value_name = "WAL")]
    pub(super) wal: Option<String>,
    /// List the sinks of every namespace.
    #[arg(long, short = 'A', conflicts_with = "wal")]
    pub(super) all_namespaces: bool,
}

impl WalSinksCommand {
    pub(super) async fn run(self, client: &KubectlClient) -> anyhow::Result<()> {
        self.lines(client).await?.iter().try_for_each(|line| print_line(line))
    }

    pub(super) async fn lines(&self, client: &KubectlClient) -> anyhow::Result<Vec<String>> {
        let Self { wal, all_namespaces } = self;
        let sinks = if let Some(wal) = wal {
            sinks_of(client, wal).await?
        } else {
            let everywhere: &[&str] = if *all_namespaces { &["--all-namespaces"] } else { &[] };
            client.list(&[&["get", SINK_RESOURCE], everywhere].concat()).await?
        };
        if sinks.is_empty() {
            let which = wal.as_ref().map_or("in this namespace; -A lists every namespace".to_owned(), |wal| {
                format!("of WAL \"{wal}\"; see how one is made: kubectl explain walsink.spec")
            });
            return Ok(vec![format!("no sinks {which}")]);
        }
        Ok(sink_table(&sinks, *all_namespaces))
    }
}

/// The sinks of a WAL.
pub(super) async fn sinks_of(client: &KubectlClient, wal: &str) -> anyhow::Result<Vec<Value>> {
    let mut sinks = client.list(&["get", SINK_RESOURCE]).await?;
    sinks.retain(|sink| text(sink, "/spec/walRef/name") == wal);
    Ok(sinks)
}

/// A line for each of these sinks, and one above them.
pub(super) fn sink_table(sinks: &[Value], with_namespace: bool) -> Vec<String> {
    let mut head =
        ["NAME", "WAL", "TYPE", "PHASE", "ACKNOWLEDGED", "LAG", "BREAKER", "WHY"].map(str::to_owned).to_vec();
    let mut rows: Vec<Vec<String>> = sinks.iter().map(row).collect();
    if with_namespace {
        head.insert(0, "NAMESPACE".to_owned());
        for (row, sink) in rows.iter_mut().zip(sinks) {
            row.insert(0, display_value(sink, "/metadata/namespace"));
        }
    }
    table(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

fn row(sink: &Value) -> Vec<String> {
    let ready = conditions(sink).iter().find(|condition| text(condition, "/type") == "Ready");
    let why = ready.filter(|ready| text(ready, "/status") != "True").map_or("", |ready| text(ready, "/message"));
    vec![
        display_value(sink, "/metadata/name"),
        display_value(sink, "/spec/walRef/name"),
        display_value(sink, "/spec/type"),
        ready.map_or("-".to_owned(), |ready| display_value(ready, "/reason")),
        display_value(sink, "/status/acknowledged/seq"),
        lag(sink),
        display_value(sink, "/status/breaker"),
        why.chars().take(MAX_CAUSE_CHARS).collect(),
    ]
}

fn lag(sink: &Value) -> String {
    let operations = display_value(sink, "/status/lagOperations");
    match sink.pointer("/status/lagSeconds") {
        Some(seconds) if operations != "-" => format!("{operations}, {seconds}s"),
        _ => operations,
    }
}

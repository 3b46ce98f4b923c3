//! A task of a WAL, as `kubectl` makes and shows it.

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Value, json};
use tidemark_crds::{TaskType, names};
use tokio::time::{Instant, sleep};

use super::{
    client::KubectlClient,
    objects::{WalObject, display_value, text},
};
use crate::cli::output::print_line;

/// The resource, with its group.
pub(super) const TASK_RESOURCE: &str = "waltasks.tidemark.dev";
/// How often a task that is waited for is read.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long a task may stand without a status before it is said that no operator looks at it.
const UNSEEN_TIMEOUT: Duration = Duration::from_secs(30);

/// What a command does that starts a task.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct TaskStartArgs {
    /// Stay until the task has ended, and show what it does. Exit code 1: it did not succeed.
    ///
    /// The task runs in the cluster: it goes on if this command is interrupted.
    #[arg(long)]
    pub(super) wait: bool,
}

/// Creates a task of `wal`, says so, and waits for its end if that is wanted.
///
/// `request` is what the spec has beside WAL and type.
pub(super) async fn start(
    wal: &WalObject,
    r#type: TaskType,
    request: Value,
    args: TaskStartArgs,
) -> anyhow::Result<()> {
    let WalObject { name, namespace, client, .. } = wal;
    let mut spec = json!({"walRef": {"name": name}, "type": r#type});
    if let (Value::Object(spec), Value::Object(request)) = (&mut spec, request) {
        spec.extend(request);
    }
    let task = json!({
        "apiVersion": format!("{}/{}", names::GROUP, names::VERSION),
        "kind": names::TASK_KIND,
        "metadata": {"generateName": format!("{name}-{}-", r#type.as_str().to_lowercase())},
        "spec": spec,
    });
    let created = client.create(&task).await.with_context(|| {
        format!("no task of WAL \"{namespace}/{name}\" was created; nothing runs; see whether you may: kubectl auth can-i create {TASK_RESOURCE} -n {namespace}")
    })?;
    let created = text(&created, "/metadata/name").to_owned();
    print_line(&format!("task {created} was created"))?;
    if args.wait {
        return wait(client, &created, POLL_INTERVAL, print_line).await;
    }
    print_line(&format!("see what it does: kubectl tidemark tasks {name} -n {namespace}"))
}

/// The tasks of a WAL, oldest first.
pub(super) async fn tasks_of(client: &KubectlClient, wal: &str) -> anyhow::Result<Vec<Value>> {
    let mut tasks = client.list(&["get", TASK_RESOURCE]).await?;
    tasks.retain(|task| text(task, "/spec/walRef/name") == wal);
    sort_by_age(&mut tasks);
    Ok(tasks)
}

pub(super) fn sort_by_age(tasks: &mut [Value]) {
    tasks.sort_by(|a, b| text(a, "/metadata/creationTimestamp").cmp(text(b, "/metadata/creationTimestamp")));
}

/// Shows each change of a task until it has ended.
pub(super) async fn wait(
    client: &KubectlClient,
    name: &str,
    interval: Duration,
    show: impl Fn(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let begin = Instant::now();
    let (mut shown, mut has_warned) = (String::new(), false);
    loop {
        let task = client.json(&["get", TASK_RESOURCE, name]).await?;
        let state = text(&task, "/status/state");
        let line = progress(&task);
        if !state.is_empty() && line != shown {
            show(&line)?;
            shown = line;
        } else if state.is_empty() && begin.elapsed() >= UNSEEN_TIMEOUT && !has_warned {
            show(
                "no operator has looked at the task yet; see that one runs and leads: kubectl get pods -A -l app.kubernetes.io/name=tidemark-operator",
            )?;
            has_warned = true;
        }
        match state {
            "Succeeded" => return Ok(()),
            "Failed" | "Rejected" => bail!("task \"{name}\" did not succeed: {}", verdict(&task)),
            _ => sleep(interval).await,
        }
    }
}

/// State and message on one line.
fn progress(task: &Value) -> String {
    let attempts = task.pointer("/status/attempts").and_then(Value::as_i64).unwrap_or_default();
    let attempt = if attempts > 1 { format!(" (attempt {attempts})") } else { String::new() };
    let state = display_value(task, "/status/state");
    match verdict(task) {
        "" => format!("{state}{attempt}"),
        verdict => format!("{state}{attempt}: {verdict}"),
    }
}

/// What the task says of itself: what it did, what it waits for, or why it did not succeed.
pub(super) fn verdict(task: &Value) -> &str {
    text(task, "/status/message")
}

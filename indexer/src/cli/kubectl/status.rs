//! `kubectl tidemark status`: the story of a WAL on one screen.

use clap::Args;
use serde_json::Value;

use super::{
    client::KubectlClient,
    objects::{
        PodReportResult, RESOURCE, WalObject, conditions, display_value, event_time, readiness, table, text, waiting,
    },
    sinks::{sink_table, sinks_of},
};
use crate::cli::output::print_line;

/// How many Events are shown.
const MAX_EVENTS: usize = 12;

/// Show the state of WALs: conditions, lag, pods and what they report, sinks, the last Events.
#[derive(Debug, Args)]
#[command(after_help = "Example: kubectl tidemark status orders -n data")]
pub(super) struct WalStatusCommand {
    /// The WAL; all of the namespace if left out.
    #[arg(value_name = "WAL")]
    wal: Option<String>,
    /// List the WALs of every namespace.
    #[arg(long, short = 'A', conflicts_with = "wal")]
    all_namespaces: bool,
}

impl WalStatusCommand {
    pub(super) async fn run(self, client: &KubectlClient) -> anyhow::Result<()> {
        let lines = match &self.wal {
            Some(name) => describe(&WalObject::get(client, name).await?).await?,
            None => overview(client, self.all_namespaces).await?,
        };
        lines.iter().try_for_each(|line| print_line(line))
    }
}

/// One line a WAL.
pub(super) async fn overview(client: &KubectlClient, everywhere: bool) -> anyhow::Result<Vec<String>> {
    let all: &[&str] = if everywhere { &["--all-namespaces"] } else { &[] };
    let wals = client.list(&[&["get", RESOURCE], all].concat()).await?;
    if wals.is_empty() {
        return Ok(vec!["no WAL in this namespace; -A lists every namespace".to_owned()]);
    }
    let head = ["NAMESPACE", "NAME", "READY", "REASON", "WATERMARK", "LAG", "ENTRIES"].map(str::to_owned).to_vec();
    let rows = wals.iter().map(|wal| {
        let ready = conditions(wal).iter().find(|condition| text(condition, "/type") == "Ready");
        vec![
            display_value(wal, "/metadata/namespace"),
            display_value(wal, "/metadata/name"),
            ready.map_or("-".to_owned(), |ready| display_value(ready, "/status")),
            ready.map_or("-".to_owned(), |ready| display_value(ready, "/reason")),
            display_value(wal, "/status/cursor/time"),
            lag(wal),
            display_value(wal, "/status/entries"),
        ]
    });
    Ok(table(&std::iter::once(head).chain(rows).collect::<Vec<_>>()))
}

fn lag(wal: &Value) -> String {
    wal.pointer("/status/lagSeconds").map_or("-".to_owned(), |lag| format!("{lag}s"))
}

/// Everything about one WAL.
pub(super) async fn describe(wal: &WalObject) -> anyhow::Result<Vec<String>> {
    let object = &wal.object;
    let mut lines = vec![
        format!("WAL {}/{}", wal.namespace, wal.name),
        format!("  log {}, index {}", display_value(object, "/spec/log/url"), display_value(object, "/spec/index/url")),
    ];
    if object.pointer("/metadata/deletionTimestamp").is_some() {
        lines.push(format!("  being deleted since {}", display_value(object, "/metadata/deletionTimestamp")));
    }
    if object.pointer("/spec/suspend") == Some(&Value::Bool(true)) {
        lines.push("  suspended: nothing is indexed, search answers from what is published".to_owned());
    }
    lines.extend(section("Conditions", reported_conditions(object)));
    lines.extend(section("Index", counters(object)));
    let pods = wal.processes(wal.pods().await?).await;
    lines.extend(section("Pods", table(&pods.iter().map(|(pod, process)| pod_row(pod, process)).collect::<Vec<_>>())));
    lines.extend(section("Problems", problems(&pods)));
    lines.extend(section("Sinks", sinks(wal).await));
    let events = wal.events().await?;
    let last = events.iter().rev().take(MAX_EVENTS).rev().map(event_row).collect::<Vec<_>>();
    lines.extend(section("Events", table(&last)));
    Ok(lines)
}

fn section(title: &str, lines: Vec<String>) -> Vec<String> {
    if lines.is_empty() && ["Problems", "Sinks"].contains(&title) {
        return Vec::new();
    }
    let lines = if lines.is_empty() { vec!["none".to_owned()] } else { lines };
    let lines = lines.into_iter().map(|line| format!("  {line}"));
    [String::new(), title.to_owned()].into_iter().chain(lines).collect()
}

/// Its sinks. Whoever may not list them sees the rest.
async fn sinks(wal: &WalObject) -> Vec<String> {
    match sinks_of(&wal.client, &wal.name).await {
        Ok(sinks) if sinks.is_empty() => Vec::new(),
        Ok(sinks) => sink_table(&sinks, false),
        Err(error) => vec![format!("not listed: {error:#}")],
    }
}

fn reported_conditions(wal: &Value) -> Vec<String> {
    let generation = wal.pointer("/metadata/generation");
    if conditions(wal).is_empty() {
        return vec![
            "none yet: does the operator run? kubectl get pods -A -l app.kubernetes.io/name=tidemark-operator"
                .to_owned(),
        ];
    }
    let row = |condition: &Value| {
        let cells = ["/type", "/status", "/reason", "/lastTransitionTime", "/message"];
        cells.iter().map(|cell| display_value(condition, cell)).collect()
    };
    let mut lines = table(&conditions(wal).iter().map(row).collect::<Vec<_>>());
    if wal.pointer("/status/observedGeneration") != generation {
        let observed = display_value(wal, "/status/observedGeneration");
        lines
            .push(format!("(of generation {observed}; the spec is at {})", display_value(wal, "/metadata/generation")));
    }
    lines
}

fn counters(wal: &Value) -> Vec<String> {
    let named = [
        ("watermark", "/status/cursor/time"),
        ("horizon", "/status/horizon"),
        ("entries", "/status/entries"),
        ("pending", "/status/pendingEntries"),
        ("epoch", "/status/epoch"),
        ("generation", "/status/generation"),
        ("version", "/status/version"),
        ("snapshot", "/status/lastSnapshot/name"),
        ("snapshot of", "/status/lastSnapshot/time"),
        ("restorable from", "/status/recoveryWindow/first"),
        ("restorable to", "/status/recoveryWindow/last"),
        ("cleaned up", "/status/lastCleanup/time"),
        ("entries freed", "/status/lastCleanup/deletedEntries"),
        ("bytes freed", "/status/lastCleanup/deletedBytes"),
        ("entries in log", "/status/logSize/entries"),
        ("bytes in log", "/status/logSize/bytes"),
        ("log counted", "/status/logSize/time"),
        ("verified", "/status/lastVerification/time"),
        ("last drill", "/status/lastVerification/lastDrill"),
        ("seen", "/status/observedTime"),
        ("search", "/status/search/url"),
    ];
    let mut rows: Vec<Vec<String>> = vec![vec!["lag".to_owned(), lag(wal)]];
    rows.extend(named.iter().map(|(name, at)| vec![(*name).to_owned(), display_value(wal, at)]));
    rows.retain(|row| row[1] != "-");
    table(&rows)
}

fn pod_row(pod: &Value, process: &PodReportResult) -> Vec<String> {
    let (ready, restarts) = readiness(pod);
    let mut phase = display_value(pod, "/status/phase");
    if let Some(waiting) = waiting(pod) {
        phase = waiting;
    }
    let says = match process {
        Ok(process) => {
            let mut says =
                format!("{} at manifest {}", display_value(process, "/phase"), display_value(process, "/manifest"));
            if process["kind"] == "indexer" {
                says = format!(
                    "{says}, epoch {}, lag {}s",
                    display_value(process, "/epoch"),
                    display_value(process, "/lagSeconds")
                );
            }
            says
        }
        Err(error) => format!("no report: {error:#}"),
    };
    let ready = if ready { "ready" } else { "not ready" };
    vec![display_value(pod, "/metadata/name"), phase, ready.to_owned(), format!("{restarts} restarts"), says]
}

/// What the pods report, each once.
pub(super) fn problems(pods: &[(Value, PodReportResult)]) -> Vec<String> {
    let mut reported = Vec::new();
    for (pod, process) in pods {
        let problems = process.as_ref().ok().and_then(|process| process["problems"].as_array());
        for problem in problems.into_iter().flatten() {
            let role = text(problem, "/role");
            let role = if role.is_empty() { String::new() } else { format!(" ({role})") };
            let name = text(pod, "/metadata/name");
            reported.push(format!("{name}: {}{role}: {}", text(problem, "/reason"), text(problem, "/message")));
        }
    }
    reported
}

fn event_row(event: &Value) -> Vec<String> {
    let time = event_time(event);
    // Whole seconds are enough.
    let time = time.split_once('.').map_or(time.to_owned(), |(seconds, _)| format!("{seconds}Z"));
    vec![time, display_value(event, "/type"), display_value(event, "/reason"), display_value(event, "/message")]
}

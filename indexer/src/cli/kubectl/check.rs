//! `kubectl tidemark check`: what is wrong with a WAL, and what to do.

use clap::Args;
use serde_json::Value;

use super::{
    client::KubectlClient,
    objects::{PodReportResult, WalObject, conditions, display_value, readiness, text, waiting},
    search::TokenArgs,
};
use crate::cli::output::print_line;

/// Find what keeps a WAL from being ready: its spec, its conditions, its pods, its search.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: kubectl tidemark check orders -n data\nExit code 1 says that something failed; each line names the remedy."
)]
pub(super) struct WalCheckCommand {
    /// The WAL; the only one of the namespace if left out.
    #[arg(value_name = "WAL")]
    wal: Option<String>,
    #[command(flatten)]
    token: TokenArgs,
}

/// One thing that was looked at.
#[derive(Debug)]
pub(super) struct CheckResult {
    pub(super) passed: bool,
    pub(super) what: String,
    pub(super) detail: String,
}

impl CheckResult {
    fn passed(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { passed: true, what: what.into(), detail: detail.into() }
    }

    fn failed(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { passed: false, what: what.into(), detail: detail.into() }
    }
}

impl WalCheckCommand {
    pub(super) async fn run(self, client: &KubectlClient) -> anyhow::Result<()> {
        let Self { wal, token } = self;
        let wal = WalObject::get_or_only(client, wal.as_deref()).await?;
        let lines = examine(&wal, token.read()?.as_deref()).await?;
        for CheckResult { passed, what, detail } in &lines {
            let verdict = if *passed { "passed" } else { "FAILED" };
            print_line(&format!("{verdict}  {what}: {detail}"))?;
        }
        let failed = lines.iter().filter(|line| !line.passed).count();
        anyhow::ensure!(
            failed == 0,
            "{failed} of {} checks of WAL \"{}/{}\" failed; each line above says what to do",
            lines.len(),
            wal.namespace,
            wal.name
        );
        Ok(())
    }
}

/// Everything that was looked at.
pub(super) async fn examine(wal: &WalObject, token: Option<&str>) -> anyhow::Result<Vec<CheckResult>> {
    let mut lines = vec![observed(&wal.object)];
    lines.extend(conditions(&wal.object).iter().map(condition));
    let pods = wal.processes(wal.pods().await?).await;
    for role in ["indexer", "search"] {
        lines.extend(role_pods(wal, role, &pods));
    }
    if search_wanted(&wal.object) {
        lines.push(search(wal, token).await);
    }
    Ok(lines)
}

/// Whether the operator has seen this spec.
fn observed(wal: &Value) -> CheckResult {
    let what = "operator";
    let (generation, observed) =
        (display_value(wal, "/metadata/generation"), display_value(wal, "/status/observedGeneration"));
    if generation == observed {
        return CheckResult::passed(what, format!("has seen generation {generation} of the spec"));
    }
    CheckResult::failed(
        what,
        format!(
            "has seen generation {observed} of the spec, which is at {generation}; see that it runs and leads: \
             kubectl get pods -A -l app.kubernetes.io/name=tidemark-operator"
        ),
    )
}

/// A condition as a check. `UpgradePending` and a schedule that is not there are choices, not faults, and nothing is wrong before a
/// first snapshot is due; `Reconciling` and `Stalled` are there only while something is wrong.
fn condition(condition: &Value) -> CheckResult {
    let kind = text(condition, "/type");
    let detail =
        format!("{} {}: {}", text(condition, "/status"), text(condition, "/reason"), text(condition, "/message"));
    let wanted = if matches!(kind, "Reconciling" | "Stalled") { "False" } else { "True" };
    let is_choice = kind == "UpgradePending" || matches!(text(condition, "/reason"), "NotScheduled" | "Pending");
    if is_choice || text(condition, "/status") == wanted {
        CheckResult::passed(kind, detail)
    } else {
        CheckResult::failed(kind, detail)
    }
}

fn search_wanted(wal: &Value) -> bool {
    wal.pointer("/spec/search/replicas").and_then(Value::as_u64).unwrap_or(1) > 0
}

fn role_pods(wal: &WalObject, role: &str, pods: &[(Value, PodReportResult)]) -> Vec<CheckResult> {
    let of_role = |pod: &Value| pod.pointer("/metadata/labels/app.kubernetes.io~1component") == Some(&role.into());
    let lines: Vec<_> =
        pods.iter().filter(|(pod, _)| of_role(pod)).map(|(pod, process)| one_pod(pod, process)).collect();
    let suspended = wal.object.pointer("/spec/suspend") == Some(&Value::Bool(true));
    let wanted = if role == "indexer" { !suspended } else { search_wanted(&wal.object) };
    if lines.is_empty() && wanted {
        let remedy = format!(
            "see what its Deployment says: kubectl describe deployment {}-{role} -n {}",
            wal.name, wal.namespace
        );
        return vec![CheckResult::failed(role, format!("has no pod; {remedy}"))];
    }
    lines
}

fn one_pod(pod: &Value, process: &PodReportResult) -> CheckResult {
    let name = text(pod, "/metadata/name");
    let what = format!("pod {name}");
    if let Some(waiting) = waiting(pod) {
        return CheckResult::failed(what, format!("is waiting: {waiting}; see kubectl describe pod {name}"));
    }
    match process {
        Err(error) => {
            CheckResult::failed(what, format!("did not report its status: {error:#}; see kubectl logs {name}"))
        }
        Ok(process) => {
            let problems = process["problems"].as_array().map_or(&[][..], Vec::as_slice);
            let reported: Vec<_> = problems
                .iter()
                .map(|problem| format!("{}: {}", text(problem, "/reason"), text(problem, "/message")))
                .collect();
            let (ready, restarts) = readiness(pod);
            if !reported.is_empty() {
                CheckResult::failed(what, reported.join("; "))
            } else if ready {
                CheckResult::passed(what, format!("{}, {restarts} restarts", display_value(process, "/phase")))
            } else {
                CheckResult::failed(
                    what,
                    format!("is \"{}\" and not ready; see kubectl logs {name}", display_value(process, "/phase")),
                )
            }
        }
    }
}

/// Whether search answers a query through its Service.
async fn search(wal: &WalObject, token: Option<&str>) -> CheckResult {
    let what = "search";
    let asked =
        async { wal.search_service().await?.get("/v1/search", &[("size".to_owned(), "1".to_owned())], token).await };
    match asked.await {
        Ok(answer) if answer.status.is_success() => CheckResult::passed(what, "the Service answers a query"),
        Ok(answer) if answer.status == reqwest::StatusCode::UNAUTHORIZED && token.is_none() => {
            CheckResult::passed(what, "the Service answers and requires a token; --token-file tries a query")
        }
        Ok(answer) => {
            CheckResult::failed(what, format!("the Service answers {}: {}", answer.status, answer.body.trim()))
        }
        Err(error) => CheckResult::failed(
            what,
            format!(
                "the Service does not answer: {error:#}; see its endpoints: kubectl get endpointslices -n {} -l kubernetes.io/service-name={}-search",
                wal.namespace, wal.name
            ),
        ),
    }
}

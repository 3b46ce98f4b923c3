//! `tidemark check`: whether a store holds what the protocol needs.

use clap::Args;
use serde::Serialize;
use tidemark_store::{Entropy, ProbeReport, ProbeVerdict, probe_store};

use super::{
    Exit,
    args::{LogArgs, OutputArgs},
    output::{print_json, print_line},
};

/// Prove that the stores of a log hold what Tidemark needs of them.
///
/// Writes and removes about a thousand small objects below `.tidemark/probe/` in each store: a second create is refused,
/// also among 32 racers; listings are complete past a thousand keys and start where they are told to; the store's time
/// moves forward; user metadata comes back; an expired signed URL is refused.
#[derive(Debug, Args)]
#[command(after_help = "Example: tidemark check --log s3://wal/orders --metadata s3://meta --metadata s3://vmeta\n\
    Exit code 3 names a store that must not be written to.")]
pub(super) struct Check {
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What is printed for a store with `--json`.
#[derive(Serialize)]
struct Checked<'a> {
    passed: bool,
    #[serde(flatten)]
    report: &'a ProbeReport,
}

impl Check {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { log, output } = self;
        let log = log.open()?;
        let entropy = Entropy::from_os();
        let mut unfit = Vec::new();
        for store in log.stores() {
            tracing::info!(store = %store.url(), "probing");
            let report = probe_store(store, &entropy).await;
            print(&report, output)?;
            if let Some(line) = report.failed_check() {
                unfit.push(format!("\"{}\" fails \"{}\": {}", store.url(), line.name, line.detail));
            }
        }
        if unfit.is_empty() {
            return Ok(());
        }
        let message =
            format!("{}; Tidemark refuses to write there, since it could not tell who wrote first", unfit.join("; "));
        Err(Exit::Unfit.with(anyhow::Error::msg(message)))
    }
}

fn print(report: &ProbeReport, output: OutputArgs) -> anyhow::Result<()> {
    if output.json {
        return print_json(&Checked { passed: report.passed(), report });
    }
    print_line(&report.url)?;
    for line in &report.checks {
        let verdict = match line.verdict {
            ProbeVerdict::Passed => "passed",
            ProbeVerdict::Failed => "FAILED",
            ProbeVerdict::NotApplicable => "n/a",
        };
        print_line(&format!("  {verdict:<7} {}: {}", line.name, line.detail))?;
    }
    Ok(())
}

//! `tidemark check`: whether a store holds the contract that the protocol needs.

use clap::Args;
use serde::Serialize;
use tidemark_store::{Entropy, ProbeReport, ProbeVerdict, Store, StoreConfiguration, probe_store};

use super::{
    args::{LogArgs, OutputArgs},
    exit::CommandExit,
    output::{print_json, print_line},
};

/// Check that the stores of a log give the guarantees that Tidemark needs.
///
/// Prints first what each store is reached with and where that comes from: endpoint, region, bucket, prefix, certificates, and the
/// variable, file or profile of its credentials, never a secret.
///
/// Writes and removes about a thousand small objects below `.tidemark/probe/` in each store: a second create is refused,
/// also among 32 racers; listings are complete past a thousand keys and start at the key that is asked for; the store's time
/// moves forward; user metadata comes back; an expired signed URL is refused.
#[derive(Debug, Args)]
#[command(after_help = "Example: tidemark check --log s3://wal/orders --metadata s3://meta --metadata s3://vmeta\n\
    Exit code 3: a store fails a check, and Tidemark does not write to it; the message names store and check.")]
pub(super) struct CheckCommand {
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What is printed for a store with `--json`.
#[derive(Serialize)]
struct ProbeReportJson<'a> {
    passed: bool,
    configuration: &'a StoreConfiguration,
    #[serde(flatten)]
    report: &'a ProbeReport,
}

impl CheckCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { log, output } = self;
        let log = log.open()?;
        let entropy = Entropy::from_os();
        let mut failed = Vec::new();
        for store in log.stores() {
            let configuration = store.configuration()?;
            if !output.json {
                print_configuration(store, &configuration)?;
            }
            tracing::info!(store = %store.url(), "probing");
            let report = probe_store(store, &entropy).await;
            print(&configuration, &report, output)?;
            if let Some(line) = report.failed_check() {
                failed.push(format!("\"{}\" fails \"{}\": {}", store.url(), line.name, line.detail));
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        let message = format!(
            "{}; Tidemark refuses to write there, since it could not tell which write came first",
            failed.join("; ")
        );
        Err(CommandExit::StoreUnsupported.with(anyhow::Error::msg(message)))
    }
}

fn print_configuration(store: &Store, configuration: &StoreConfiguration) -> anyhow::Result<()> {
    print_line(store.url().as_str())?;
    for (name, value) in configuration.lines() {
        print_line(&format!("  {name:<11} {value}"))?;
    }
    Ok(())
}

fn print(configuration: &StoreConfiguration, report: &ProbeReport, output: OutputArgs) -> anyhow::Result<()> {
    if output.json {
        return print_json(&ProbeReportJson { passed: report.passed(), configuration, report });
    }
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

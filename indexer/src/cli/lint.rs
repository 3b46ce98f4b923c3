//! `tidemark lint`: what the API server would say to a file of resources.

use std::{io::Read as _, path::PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use tidemark_crds::{LintFinding, LintReport, lint};

use super::{
    args::OutputArgs,
    exit::CommandExit,
    output::{print_json, print_line},
};

/// Check WAL resources in YAML files by the rules of the API server and the operator, without a cluster.
///
/// Unknown fields, types, patterns, defaults and the rules between fields. Rules on changes of a WAL are not checked, since they
/// need the present one. Documents of other kinds are skipped.
#[derive(Debug, Args)]
#[command(after_help = "Example: tidemark lint wal.yaml\n\
    helm template orders ./chart | tidemark lint -\n\
    Exit codes: 0 nothing found, 1 something found, 2 a file cannot be read.")]
pub(super) struct LintCommand {
    /// YAML files, each with any number of documents; `-` reads standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// One finding as JSON.
#[derive(Serialize)]
struct LintFindingJson<'a> {
    file: &'a str,
    #[serde(flatten)]
    finding: &'a LintFinding,
}

impl LintCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Self { files, output: OutputArgs { json } } = self;
        let mut findings = 0;
        for file in &files {
            let name = file.display().to_string();
            let report = lint(&read(file).map_err(|error| CommandExit::Usage.with(error))?);
            findings += report.findings.len();
            if json { print_lines(&name, &report)? } else { print(&name, &report)? }
        }
        match findings {
            0 => Ok(()),
            1 => anyhow::bail!("1 finding: the API server or the operator would refuse this"),
            _ => anyhow::bail!("{findings} findings: the API server or the operator would refuse this"),
        }
    }
}

fn read(file: &PathBuf) -> anyhow::Result<String> {
    if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("standard input cannot be read")?;
        return Ok(text);
    }
    std::fs::read_to_string(file).with_context(|| format!("\"{}\" cannot be read", file.display()))
}

fn print_lines(file: &str, report: &LintReport) -> anyhow::Result<()> {
    report.findings.iter().try_for_each(|finding| print_json(&LintFindingJson { file, finding }))
}

fn print(file: &str, report: &LintReport) -> anyhow::Result<()> {
    for LintFinding { document, path, message } in &report.findings {
        let path = if path.is_empty() { String::new() } else { format!("{path}: ") };
        print_line(&format!("{file}: document {document}: {path}{message}"))?;
    }
    if report.findings.is_empty() {
        let skipped = match report.skipped.len() {
            0 => String::new(),
            count => format!(", {count} of other kinds skipped"),
        };
        print_line(&format!("{file}: {} checked{skipped}", report.checked))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "apiVersion: tidemark.dev/v1alpha1\nkind: WAL\nmetadata: {name: a}\nspec:\n  \
        storage: {credentials: {type: WorkloadIdentity}}\n  log: {url: s3://wal, expiry: 1h}\n  \
        metadata: {urls: [s3://meta]}\n  index: {url: s3://idx}\n";

    fn exit_for(text: &str) -> CommandExit {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("wal.yaml");
        std::fs::write(&file, text).unwrap();
        CommandExit::of(LintCommand { files: vec![file], output: OutputArgs { json: true } }.run())
    }

    #[test]
    fn each_end_has_a_code_of_its_own() {
        assert_eq!(exit_for(GOOD), CommandExit::Done);
        assert_eq!(exit_for(&GOOD.replace("1h", "1d")), CommandExit::Failed);
        let missing = LintCommand { files: vec!["no/such.yaml".into()], output: OutputArgs { json: false } };
        assert_eq!(CommandExit::of(missing.run()), CommandExit::Usage);
    }
}

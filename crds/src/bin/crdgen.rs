//! Writes the generated YAML of the resources, or checks that it is what the types say.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Parser;

/// Writes crds/generated/wals.yaml and the chart's copy of it.
#[derive(Debug, Parser)]
struct Args {
    /// Write nothing; exit with 1 if the file is not what would be written.
    #[arg(long)]
    check: bool,
    /// The files.
    #[arg(long, value_name = "FILE", default_values = [
        concat!(env!("CARGO_MANIFEST_DIR"), "/generated/wals.yaml"),
        concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/tidemark/files/wals.yaml"),
    ])]
    file: Vec<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let Args { check, file: files } = Args::parse();
    let wanted = tidemark_crds::wal_crd_yaml().context("the definition of WAL cannot be written as YAML")?;
    let mut drifted = false;
    for file in files {
        let named = || format!("\"{}\"", file.display());
        if !check {
            std::fs::write(&file, &wanted).with_context(named)?;
        } else if std::fs::read_to_string(&file).with_context(named)? != wanted {
            eprintln!("{} is not what the types say; run `cargo run -p tidemark-crds --bin crdgen`", named());
            drifted = true;
        }
    }
    Ok(if drifted { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

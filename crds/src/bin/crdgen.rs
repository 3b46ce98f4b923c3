//! Writes the generated YAML of the resources, or checks that it is what the types say.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Parser;

/// Writes crds/generated/wals.yaml.
#[derive(Debug, Parser)]
struct Args {
    /// Write nothing; exit with 1 if the file is not what would be written.
    #[arg(long)]
    check: bool,
    /// The file.
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/generated/wals.yaml"))]
    file: PathBuf,
}

fn main() -> anyhow::Result<ExitCode> {
    let Args { check, file } = Args::parse();
    let wanted = tidemark_crds::wal_crd_yaml().context("the definition of WAL cannot be written as YAML")?;
    let named = || format!("\"{}\"", file.display());
    if !check {
        std::fs::write(&file, wanted).with_context(named)?;
        return Ok(ExitCode::SUCCESS);
    }
    if std::fs::read_to_string(&file).with_context(named)? == wanted {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("{} is not what the types say; run `cargo run -p tidemark-crds --bin crdgen`", named());
    Ok(ExitCode::FAILURE)
}

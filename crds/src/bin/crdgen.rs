//! Writes the files that are made of the table of kinds, or checks that they match it.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Parser;
use tidemark_crds::{GeneratedFile, generated_files};

/// Writes the definition of each kind to crds/generated and to the chart, and the chart's rules that name kinds.
#[derive(Debug, Parser)]
struct CrdgenArgs {
    /// Write nothing; exit with 1 if a file is not what would be written.
    #[arg(long)]
    check: bool,
    /// The repository's root.
    #[arg(long, value_name = "FOLDER", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/.."))]
    root: PathBuf,
}

fn main() -> anyhow::Result<ExitCode> {
    let CrdgenArgs { check, root } = CrdgenArgs::parse();
    let mut drifted = false;
    for GeneratedFile { path, content } in generated_files().context("a definition cannot be written as YAML")? {
        let file = root.join(&path);
        let named = || format!("\"{}\"", file.display());
        if !check {
            std::fs::write(&file, &content).with_context(named)?;
        } else if std::fs::read_to_string(&file).with_context(named)? != content {
            eprintln!("\"{path}\" is not what the types and the table of kinds say; run `make generate`");
            drifted = true;
        }
    }
    Ok(if drifted { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

//! Writes the generated YAML of the resources, or checks that it matches the types.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Parser;
use tidemark_crds::KINDS;

/// Writes the definition of each kind to crds/generated and to the chart.
#[derive(Debug, Parser)]
struct CrdgenArgs {
    /// Write nothing; exit with 1 if a file is not what would be written.
    #[arg(long)]
    check: bool,
    /// The folders.
    #[arg(long, value_name = "FOLDER", default_values = [
        concat!(env!("CARGO_MANIFEST_DIR"), "/generated"),
        concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/tidemark/files"),
    ])]
    folder: Vec<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let CrdgenArgs { check, folder: folders } = CrdgenArgs::parse();
    let mut drifted = false;
    for kind in KINDS {
        let unwritable = || format!("the definition of {} cannot be written as YAML", kind.kind);
        let wanted = kind.definition_yaml().with_context(unwritable)?;
        for folder in &folders {
            let file = folder.join(kind.file_name());
            let named = || format!("\"{}\"", file.display());
            if !check {
                std::fs::write(&file, &wanted).with_context(named)?;
            } else if std::fs::read_to_string(&file).with_context(named)? != wanted {
                eprintln!("{} is not what the types say; run `cargo run -p tidemark-crds --bin crdgen`", named());
                drifted = true;
            }
        }
    }
    Ok(if drifted { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

//! `sbom`: writes what the product is made of.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Parser;
use tidemark_image::BillOfMaterials;

/// Writes what the programs of the workspace here are made of: a `CycloneDX` document, the same for the same lock file.
#[derive(Parser)]
struct SbomArguments {
    /// The product's name
    #[arg(long)]
    name: String,
    /// A package whose programs are in the product, repeated; its version is that of the first
    #[arg(long, required = true)]
    package: Vec<String>,
    /// The cargo features that the programs were built with, such as `tidemark-indexer/demo`
    #[arg(long, default_value = "")]
    features: String,
    /// The package URL of something from the operating system, repeated
    #[arg(long)]
    system: Vec<String>,
    /// The document
    output: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let SbomArguments { name, package, features, system, output } = SbomArguments::parse();
    let json = BillOfMaterials { name, packages: package, features, system }.json(Path::new("."))?;
    std::fs::write(&output, json).with_context(|| format!("\"{}\" is not written", output.display()))
}

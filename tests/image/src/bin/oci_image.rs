//! `oci-image`: writes a folder as an image.

use std::{fs::File, io::BufWriter, path::PathBuf};

use anyhow::Context;
use clap::Parser;
use tidemark_image::{ImageArchive, ImageLayer};

/// Writes a folder as a container image: an OCI archive of one layer, the same bytes for the same content.
#[derive(Parser)]
struct ImageArguments {
    /// The folder that becomes the image's root
    #[arg(long)]
    root: PathBuf,
    /// The image's name with registry and tag
    #[arg(long)]
    name: String,
    /// The program and its first arguments, repeated
    #[arg(long, required = true)]
    entry_point: Vec<String>,
    /// User and group by number
    #[arg(long, default_value = "65532:65532")]
    user: String,
    /// A label KEY=VALUE, repeated
    #[arg(long)]
    label: Vec<String>,
    /// A variable NAME=VALUE, repeated
    #[arg(long)]
    env: Vec<String>,
    /// The archive
    output: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let ImageArguments { root, name, entry_point, user, label, env, output } = ImageArguments::parse();
    let labels = label.iter().map(|label| {
        let (key, value) = label.split_once('=').with_context(|| format!("label \"{label}\" has no \"=\""))?;
        Ok((key.to_owned(), value.to_owned()))
    });
    let image = ImageArchive {
        reference: name,
        layer: ImageLayer::from_folder(&root).with_context(|| format!("\"{}\" is not readable", root.display()))?,
        entry_point,
        user,
        environment: env,
        labels: labels.collect::<anyhow::Result<_>>()?,
    };
    let new = output.with_extension("new");
    image
        .write(BufWriter::new(File::create(&new)?))
        .with_context(|| format!("\"{}\" is not written", new.display()))?;
    Ok(std::fs::rename(new, output)?)
}

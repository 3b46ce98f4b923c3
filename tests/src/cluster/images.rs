//! Images for pods, as OCI archives: made of programs that were built here, since no registry is at hand.

use std::{
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
};

use anyhow::Context;
use tidemark_image::{ImageArchive, ImageLayer};

use super::node::PAUSE;
use crate::{root, tools};

/// The name of the product's image.
pub const PRODUCT: &str = "tidemark.dev/tidemark:dev";
/// The name of the MinIO that the demo runs.
pub const MINIO: &str = "docker.io/minio/minio:RELEASE.2025-09-07T16-13-09Z";
/// The name of an image of `kubectl`, for pods that ask something.
pub const KUBECTL: &str = "tidemark.dev/kubectl:test";

/// The product's image as `make image` makes it, but of the debug build. `TIDEMARK_IMAGE` names one that is built already.
pub async fn product() -> anyhow::Result<PathBuf> {
    match std::env::var_os("TIDEMARK_IMAGE") {
        Some(archive) => Ok(archive.into()),
        None => tokio::task::spawn_blocking(|| tools::script("image.sh", &["dev"])).await?,
    }
}

/// The image of the demo's writer. `TIDEMARK_DEMO_IMAGE` names one that is built already.
pub async fn demo() -> anyhow::Result<PathBuf> {
    match std::env::var_os("TIDEMARK_DEMO_IMAGE") {
        Some(archive) => Ok(archive.into()),
        None => tokio::task::spawn_blocking(|| tools::script("image.sh", &["dev", "demo"])).await?,
    }
}

/// MinIO, called as the demo calls it: `args: [server, /data]`.
pub async fn minio() -> anyhow::Result<PathBuf> {
    let folder = tools::go("minio").await?;
    let image = program(MINIO, &folder.join("minio"), "/usr/bin/minio")?;
    cached(&folder, &ImageArchive { layer: image.layer.folder("data", 0o777), ..image })
}

/// `kubectl`: with `--server=http://NAME get --raw PATH` it asks any server as `curl` would.
pub async fn kubectl() -> anyhow::Result<PathBuf> {
    let folder = tools::go("kubernetes").await?;
    cached(&folder, &program(KUBECTL, &folder.join("kubectl"), "/kubectl")?)
}

/// What holds a pod's namespaces.
pub(crate) async fn pause() -> anyhow::Result<PathBuf> {
    let folder = tools::go("pause").await?;
    let image = program(PAUSE, &folder.join("pause"), "/pause")?;
    cached(&folder, &ImageArchive { user: "65535:65535".to_owned(), ..image })
}

/// An image of one static program, which is its entry point.
pub fn program(name: &str, file: &Path, path: &str) -> anyhow::Result<ImageArchive> {
    let bytes = fs::read(file).with_context(|| format!("\"{}\" is not readable", file.display()))?;
    let layer = ImageLayer::default().folder("tmp", 0o1777).file(path, 0o755, bytes);
    let layer =
        layer.file("etc/passwd", 0o644, *b"root:x:0:0::/:/sbin/nologin\nnobody:x:65532:65532::/:/sbin/nologin\n");
    Ok(ImageArchive {
        reference: name.to_owned(),
        layer,
        entry_point: vec![path.to_owned()],
        environment: vec!["PATH=/usr/bin:/bin".to_owned()],
        ..ImageArchive::default()
    })
}

/// Writes an image below `target/image`, under a name that changes with the programs' folder.
fn cached(programs: &Path, image: &ImageArchive) -> anyhow::Result<PathBuf> {
    let folder = root().join("target/image");
    fs::create_dir_all(&folder)?;
    let name = programs.file_name().context("the folder has a name")?.display().to_string();
    let archive = folder.join(format!("{name}.tar"));
    if !archive.exists() {
        let new = tempfile::NamedTempFile::new_in(&folder)?;
        image.write(BufWriter::new(File::create(new.path())?))?;
        new.persist(&archive)?;
    }
    Ok(archive)
}

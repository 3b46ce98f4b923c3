//! Where the programs of a cluster are; builds the ones that the cache lacks.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Mutex,
};

use anyhow::{Context, ensure};

use crate::root;

static BUILT: Mutex<BTreeMap<&str, PathBuf>> = Mutex::new(BTreeMap::new());

/// The folder with the programs of a Go tool family. The first call on a machine builds them, which takes minutes.
pub(crate) async fn go(family: &'static str) -> anyhow::Result<PathBuf> {
    built("go.sh", family).await
}

/// The folder with the Node packages of a tool family. The first call on a machine installs them.
pub(crate) async fn npm(family: &'static str) -> anyhow::Result<PathBuf> {
    built("npm.sh", family).await
}

async fn built(builder: &'static str, family: &'static str) -> anyhow::Result<PathBuf> {
    tokio::task::spawn_blocking(move || {
        let mut built = BUILT.lock().ok().context("a build panicked")?;
        if let Some(folder) = built.get(family) {
            return Ok(folder.clone());
        }
        let folder = script(builder, &[family])?;
        built.insert(family, folder.clone());
        Ok(folder)
    })
    .await?
}

/// Runs a script of `tests/tools` and gives the path that its last line says.
pub(crate) fn script(name: &str, arguments: &[&str]) -> anyhow::Result<PathBuf> {
    let script = root().join("tests/tools").join(name);
    let ended = Command::new(&script).args(arguments).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let ended = ended.with_context(|| format!("\"{}\" does not run", script.display()))?;
    ensure!(ended.status.success(), "\"{}\" failed ({}); its words are above", script.display(), ended.status);
    let said = String::from_utf8(ended.stdout)?;
    Ok(PathBuf::from(said.trim().lines().last().unwrap_or_default()))
}

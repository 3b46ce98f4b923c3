//! Where the programs of a cluster are; builds the ones that the cache lacks.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Mutex,
};

use anyhow::{Context, ensure};

use crate::root;

/// What a script ends with where this machine lacks something. In CI it may not.
const LACKS_SOMETHING: i32 = 3;
/// What a script ends with where a registry does not answer, which is no fault of the machine and none of ours.
const NO_ANSWER: i32 = 4;

static BUILT: Mutex<BTreeMap<&str, PathBuf>> = Mutex::new(BTreeMap::new());

/// The folder with the programs of a Go tool family. The first call on a machine builds them, which takes minutes.
pub(crate) async fn go(family: &'static str) -> anyhow::Result<PathBuf> {
    tokio::task::spawn_blocking(move || {
        let mut built = BUILT.lock().ok().context("a build panicked")?;
        if let Some(folder) = built.get(family) {
            return Ok(folder.clone());
        }
        let folder = script("go.sh", &[family])?;
        built.insert(family, folder.clone());
        Ok(folder)
    })
    .await?
}

/// The folder with the Node packages of a tool family; `None` where there is no Node.js (in CI an error), or its registry does
/// not answer. The first call on a machine installs them.
pub(crate) async fn npm(family: &'static str) -> anyhow::Result<Option<PathBuf>> {
    tokio::task::spawn_blocking(move || optional_script("npm.sh", &[family])).await?
}

/// Runs a script of `tests/tools` and gives the path that its last line says.
pub(crate) fn script(name: &str, arguments: &[&str]) -> anyhow::Result<PathBuf> {
    optional_script(name, arguments)?.with_context(|| format!("\"{name}\" lacks something; its words are above"))
}

/// As [`script`], but `None` where this machine lacks something that cannot be installed, which is an error in CI, or where a
/// registry does not answer.
pub fn optional_script(name: &str, arguments: &[&str]) -> anyhow::Result<Option<PathBuf>> {
    let script = root().join("tests/tools").join(name);
    let ended = Command::new(&script).args(arguments).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let ended = ended.with_context(|| format!("\"{}\" does not run", script.display()))?;
    match ended.status.code() {
        Some(LACKS_SOMETHING) if std::env::var("CI").as_deref() != Ok("true") => return Ok(None),
        Some(NO_ANSWER) => return Ok(None),
        _ => {}
    }
    ensure!(ended.status.success(), "\"{}\" failed ({}); its words are above", script.display(), ended.status);
    let said = String::from_utf8(ended.stdout)?;
    Ok(Some(PathBuf::from(said.trim().lines().last().unwrap_or_default())))
}

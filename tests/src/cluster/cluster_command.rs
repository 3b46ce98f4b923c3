//! Programs that a person would type: `kubectl` and `helm`.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use anyhow::{Context, ensure};
use tokio::{io::AsyncWriteExt, process::Command};

/// Runs a program on a cluster, as a person with its kubeconfig would.
#[derive(Clone, Debug)]
pub struct ClusterCommand {
    program: PathBuf,
    kubeconfig: PathBuf,
    /// Where programs keep their caches: the cluster's own folder, so that two clusters never meet.
    home: PathBuf,
    path: OsString,
}

impl ClusterCommand {
    pub(crate) fn new(program: PathBuf, kubeconfig: PathBuf, home: PathBuf) -> Self {
        let mut path = program.parent().map_or_else(OsString::new, |folder| folder.as_os_str().to_owned());
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        Self { program, kubeconfig, home, path }
    }

    /// Runs it to its end and gives standard output. Another exit code than 0 is an error with standard error in it.
    pub async fn run<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> anyhow::Result<String> {
        self.run_with(words, "").await
    }

    /// The same with something on standard input.
    pub async fn run_with<W: AsRef<OsStr>>(
        &self,
        words: impl IntoIterator<Item = W>,
        input: &str,
    ) -> anyhow::Result<String> {
        let words: Vec<OsString> = words.into_iter().map(|word| word.as_ref().to_owned()).collect();
        let ended = self.output(&words, input).await?;
        let errors = String::from_utf8_lossy(&ended.stderr);
        let what = self.program.file_name().unwrap_or_default().display();
        ensure!(ended.status.success(), "{what} {words:?} failed ({}): {}", ended.status, errors.trim());
        Ok(String::from_utf8(ended.stdout)?)
    }

    /// Runs it to its end and gives everything, whatever the exit code.
    pub async fn output<W: AsRef<OsStr>>(
        &self,
        words: impl IntoIterator<Item = W>,
        input: &str,
    ) -> anyhow::Result<Output> {
        let mut command = Command::from(self.command());
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("\"{}\" does not run", self.program.display()))?;
        let mut stdin = child.stdin.take().context("its input is piped")?;
        let ((), ended) = tokio::join!(
            async move {
                // A program that does not want its input closes it.
                let _ = stdin.write_all(input.as_bytes()).await;
            },
            child.wait_with_output()
        );
        Ok(ended?)
    }

    /// The program with its environment, to be started by hand.
    pub fn command(&self) -> std::process::Command {
        let mut command = std::process::Command::new(&self.program);
        command.env("KUBECONFIG", &self.kubeconfig).env("HOME", &self.home).env("PATH", &self.path);
        command
    }

    /// The kubeconfig's path.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }
}

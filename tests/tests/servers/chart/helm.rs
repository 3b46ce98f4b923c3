//! Helm, and what it renders.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize as _;
use serde_json::Value;

pub(crate) const NAMESPACE: &str = "tidemark-system";

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

pub(crate) fn chart() -> PathBuf {
    root().join("charts/tidemark")
}

/// The values files that the chart is tried with.
pub(crate) fn values_files() -> Vec<PathBuf> {
    let mut files = yaml_files(&chart().join("ci"));
    assert!(files.len() >= 4, "{files:?}");
    files.sort();
    files
}

pub(crate) fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect()
}

/// The folder of a family of Go programs, built if they are not there yet.
pub(crate) fn tools(family: &str) -> PathBuf {
    let output = Command::new(root().join("tests/tools/go.sh")).arg(family).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().into()
}

/// Helm with folders of its own, so that two tests never meet.
pub(crate) struct HelmProgram {
    home: tempfile::TempDir,
    kubeconfig: Option<PathBuf>,
}

impl HelmProgram {
    pub(crate) fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap(), kubeconfig: None }
    }

    /// Helm on a cluster.
    pub(crate) fn on(kubeconfig: &Path) -> Self {
        Self { kubeconfig: Some(kubeconfig.to_owned()), ..Self::new() }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(tools("helm").join("helm"));
        command.args(words).env("HOME", self.home.path()).env_remove("KUBECONFIG");
        for folder in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(folder, self.home.path().join(folder));
        }
        if let Some(kubeconfig) = &self.kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        command
    }

    /// What it prints; its errors are an `Err`.
    pub(crate) fn try_run(&self, words: &[&str]) -> Result<String, String> {
        let output = self.command(words).output().unwrap();
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout).unwrap());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    pub(crate) fn run(&self, words: &[&str]) -> String {
        self.try_run(words).unwrap_or_else(|error| panic!("helm {words:?}: {error}"))
    }

    /// The chart as YAML, as release `tidemark` in [`NAMESPACE`].
    pub(crate) fn template(&self, more: &[&str]) -> Result<String, String> {
        let chart = chart();
        self.try_run(&[&["template", "tidemark", chart.to_str().unwrap(), "--namespace", NAMESPACE], more].concat())
    }
}

/// The objects of a YAML text.
pub(crate) fn objects(yaml: &str) -> Vec<Value> {
    let documents = serde_norway::Deserializer::from_str(yaml);
    let values = documents.map(|document| Value::deserialize(document).unwrap());
    values.filter(|value| !value.is_null()).collect()
}

/// The objects of a kind.
pub(crate) fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

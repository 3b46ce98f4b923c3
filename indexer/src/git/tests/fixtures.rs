//! A repository that the `git` program makes, and a log to import it into.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use futures::TryStreamExt as _;
use serde_json::Value;
use tempfile::TempDir;
use tidemark_catalog::RootChain;
use tidemark_store::{Entropy, Store};
use tidemark_wal::{DatamonDescriptor, DatamonPath, Log, LogParameters, read_descriptor};

use super::super::{GitImportError, GitWarning, ImportEvent, ImportSummary, import_git};

/// Bytes of an object that are read at most.
const MAX_BYTES: u64 = 4 << 20;

/// A repository in a folder of its own, beside which clones and worktrees have room.
pub(super) struct GitFixture {
    folder: TempDir,
    pub(super) path: PathBuf,
}

impl GitFixture {
    /// An empty repository.
    pub(super) fn empty() -> Self {
        Self::initialized(&[])
    }

    pub(super) fn initialized(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("project");
        git(folder.path(), &[&["init", "-q", "-b", "main"], options, &["project"]].concat(), b"");
        Self { folder, path }
    }

    /// A path beside the repository.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn git(&self, arguments: &[&str]) -> String {
        git(&self.path, arguments, b"")
    }

    /// Writes a file and commits it; gives the commit's hash.
    pub(super) fn commit(&self, file: &str, message: &str) -> String {
        commit_in(&self.path, file, message)
    }

    /// Writes a commit as it stands, with the tree of `HEAD` and the given parent, and moves `HEAD` to it.
    pub(super) fn commit_literally(&self, parent: Option<&str>, rest: &[u8]) -> String {
        let tree = git(&self.path, &["mktree"], b"");
        let parent = parent.map(|parent| format!("parent {parent}\n")).unwrap_or_default();
        let body = [format!("tree {tree}\n{parent}").as_bytes(), rest].concat();
        let id = git(&self.path, &["hash-object", "-t", "commit", "-w", "--literally", "--stdin"], &body);
        std::fs::write(self.path.join(".git/refs/heads/main"), format!("{id}\n")).unwrap();
        id
    }

    /// Deletes a loose object.
    pub(super) fn lose(&self, id: &str) {
        std::fs::remove_file(self.path.join(".git/objects").join(&id[..2]).join(&id[2..])).unwrap();
    }

    pub(super) fn fast_import(&self, commands: &str) {
        git(&self.path, &["fast-import", "--quiet"], commands.as_bytes());
    }
}

pub(super) fn commit_in(path: &Path, file: &str, message: &str) -> String {
    let place = path.join(file);
    std::fs::create_dir_all(place.parent().unwrap()).unwrap();
    std::fs::write(place, format!("{file}: {message}\n")).unwrap();
    git(path, &["add", "--all"], b"");
    git(path, &["commit", "-q", "-m", message], b"");
    git(path, &["rev-parse", "HEAD"], b"")
}

/// Runs git away from the configuration of the machine.
pub(super) fn git(folder: &Path, arguments: &[&str], input: &[u8]) -> String {
    let mut command = Command::new("git");
    command.current_dir(folder).args(["-c", "protocol.file.allow=always", "-c", "uploadpack.allowFilter=true"]);
    command.args(arguments).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    for role in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{role}_NAME"), "Ada").env(format!("GIT_{role}_EMAIL"), "ada@example.org");
        command.env(format!("GIT_{role}_DATE"), "1700000000 +0100");
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A log in memory.
pub(super) struct LogFixture {
    pub(super) log: Log,
}

impl LogFixture {
    pub(super) async fn new() -> Self {
        let parameters = LogParameters::with_expiry(Duration::from_mins(10));
        Self::over(Log::over(Store::memory(), vec![Store::memory()]), parameters).await
    }

    pub(super) async fn over(log: Log, parameters: LogParameters) -> Self {
        let root = RootChain::open(&log, Entropy::from_os());
        root.ensure(&parameters).await.unwrap();
        Self { log }
    }

    /// What an import did, and its warnings.
    pub(super) async fn import(&self, path: &Path) -> Result<(ImportSummary, Vec<GitWarning>), GitImportError> {
        let mut warnings = Vec::new();
        let summary = import_git(&self.log, path, |event| {
            if let ImportEvent::Warning(warning) = event {
                warnings.push(warning);
            }
        });
        let summary = summary.await?;
        assert_eq!(summary.warnings, warnings.len() as u64);
        Ok((summary, warnings))
    }

    /// As [`Self::import`], of a history without anything odd.
    pub(super) async fn import_clean(&self, path: &Path) -> ImportSummary {
        let (summary, warnings) = self.import(path).await.unwrap();
        assert_eq!(warnings, [], "{}", path.display());
        summary
    }

    /// The bundle of a commit.
    pub(super) async fn bundle(&self, commit: &str) -> DatamonDescriptor {
        self.bundle_of("project", commit).await.unwrap_or_else(|| panic!("{commit} was not imported"))
    }

    pub(super) async fn bundle_of(&self, repo: &str, commit: &str) -> Option<DatamonDescriptor> {
        self.descriptor(&DatamonPath::Bundle { repo: repo.to_owned(), bundle: commit.to_owned() }).await
    }

    /// The bundle that a label names.
    pub(super) async fn label(&self, label: &str) -> Option<String> {
        let place = DatamonPath::Label { repo: "project".to_owned(), label: label.to_owned() };
        self.descriptor(&place).await.and_then(|label| label.id)
    }

    async fn descriptor(&self, place: &DatamonPath) -> Option<DatamonDescriptor> {
        let found = self.log.descriptors().get(&place.path().unwrap(), MAX_BYTES).await.unwrap()?;
        Some(read_descriptor(place, &found.body.unwrap()).unwrap())
    }

    /// All entries, by token.
    pub(super) async fn entries(&self) -> Vec<Value> {
        let listed: Vec<_> = self.log.entries.list("", None).try_collect().await.unwrap();
        let mut entries = Vec::new();
        for object in listed.iter().filter(|object| !object.key.starts_with('.')) {
            let body = self.log.entries.get(&object.key, MAX_BYTES).await.unwrap().unwrap().body.unwrap();
            entries.push(serde_json::from_slice(&body).unwrap());
        }
        entries
    }

    /// The commits that were imported, by token.
    pub(super) async fn commits(&self) -> Vec<String> {
        let entries = self.entries().await;
        let paths = entries.iter().filter_map(|entry| entry.pointer("/ops/0/descriptor")?.as_str());
        let ids = paths.filter_map(|path| path.strip_prefix("bundles/")?.split('/').nth(1));
        ids.map(str::to_owned).collect()
    }

    /// How many files the entry of a commit says that it added, changed and deleted.
    pub(super) async fn files(&self, commit: &str) -> Option<[u64; 3]> {
        let entries = self.entries().await;
        let path = |entry: &Value| entry.pointer("/ops/0/descriptor").unwrap_or_default().to_string();
        let entry = entries.iter().find(|entry| path(entry).contains(commit)).unwrap();
        let files = entry.pointer("/attributes/files")?;
        Some(["added", "changed", "deleted"].map(|what| files[what].as_u64().unwrap()))
    }
}

//! Appends what the metadata bucket does not have yet, through the ordinary writer.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tidemark_store::StoreError;
use tidemark_wal::{AppendError, DraftOperation, EntryDraft, Log, LogWriter};

use super::history::{Commit, GitError, History, Person, Tag, safe_name};

/// Appends in flight at once.
const CONCURRENCY: usize = 16;
/// Commits read from the repository at once.
const CHUNK: usize = 256;
/// Bytes of a completion marker that are read at most.
const MARKER_LIMIT: u64 = 4096;

/// What an import did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Commits that were appended.
    pub commits: u64,
    /// Tags that were appended or moved.
    pub tags: u64,
    /// Commits that were there already.
    pub present: u64,
}

/// Why an import stopped. What was acknowledged before stays, and a second run adds the rest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The repository cannot be read.
    #[error(transparent)]
    Git(#[from] GitError),
    /// The metadata bucket cannot be listed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An append failed.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// A descriptor cannot be written as YAML.
    #[error("the descriptor of \"{0}\" cannot be written as YAML")]
    Yaml(String),
    /// The thread that reads the repository ended early.
    #[error("reading the git repository was interrupted")]
    Interrupted,
}

/// Appends the commits and tags of the repository at `path` that `log` does not have yet. After each append `progress`
/// hears how many of how many are done.
pub async fn import(
    path: &Path,
    log: &Log,
    writer: &LogWriter,
    progress: impl Fn(u64, u64),
) -> Result<Imported, ImportError> {
    let path = path.to_owned();
    let (mut history, repo) = blocking(move || {
        let history = History::open(&path)?;
        let repo = Repo { name: history.name(), commits: history.commits()?, tags: history.tags()? };
        Ok::<_, GitError>((history, repo))
    })
    .await??;
    let new = repo.unknown_to(log).await?;
    let total = new.commits.len() + new.tags.len();
    let mut done = 0;
    let mut appended = |count: usize| {
        done += count;
        progress(done as u64, total as u64);
    };
    if new.present == 0 {
        writer.append(repo_draft(&repo.name)?).await?;
    }
    for chunk in new.commits.chunks(CHUNK) {
        let chunk = chunk.to_vec();
        let read: Result<Vec<Commit>, GitError>;
        (history, read) = blocking(move || {
            let read = chunk.iter().map(|id| history.commit(id)).collect();
            (history, read)
        })
        .await?;
        let drafts = read?.iter().map(|commit| bundle_draft(&repo.name, commit)).collect::<Result<_, _>>()?;
        append_all(writer, drafts, &mut appended).await?;
    }
    let drafts = new.tags.iter().map(|tag| label_draft(&repo.name, tag)).collect::<Result<_, _>>()?;
    append_all(writer, drafts, &mut appended).await?;
    Ok(Imported { commits: new.commits.len() as u64, tags: new.tags.len() as u64, present: new.present })
}

/// What a git repository holds.
struct Repo {
    name: String,
    commits: Vec<String>,
    tags: Vec<Tag>,
}

/// What of it the log does not have.
struct New {
    commits: Vec<String>,
    tags: Vec<Tag>,
    present: u64,
}

impl Repo {
    /// Compares with the bundles and labels in the metadata bucket. A commit whose entry was written but whose descriptor
    /// was not is new: its idempotency key lets it count once.
    async fn unknown_to(&self, log: &Log) -> Result<New, StoreError> {
        let bundles = last_segments(log, &format!("bundles/{}", self.name), "bundle.yaml").await?;
        let labels = newest_markers(log, &self.name).await?;
        let commits: Vec<String> = self.commits.iter().filter(|id| !bundles.contains(*id)).cloned().collect();
        let moved = |tag: &&Tag| labels.get(&safe_name(&tag.name)) != Some(&tag.commit);
        Ok(New {
            present: (self.commits.len() - commits.len()) as u64,
            commits,
            tags: self.tags.iter().filter(moved).cloned().collect(),
        })
    }
}

/// The folders below `prefix` that hold an object of the given name.
async fn last_segments(log: &Log, prefix: &str, name: &str) -> Result<BTreeSet<String>, StoreError> {
    let mut found = BTreeSet::new();
    let Some(store) = log.metadata.first() else { return Ok(found) };
    let mut objects = store.list(prefix, None);
    while let Some(object) = objects.try_next().await? {
        let mut segments = object.key.rsplit('/');
        if segments.next() == Some(name)
            && let Some(folder) = segments.next()
        {
            found.insert(folder.to_owned());
        }
    }
    Ok(found)
}

/// The value of the newest completion marker of each label of `repo`.
async fn newest_markers(log: &Log, repo: &str) -> Result<BTreeMap<String, String>, StoreError> {
    let mut newest = BTreeMap::new();
    let Some(store) = log.metadata.last() else { return Ok(newest) };
    let mut objects = store.list(&format!(".tidemark/done/{repo}"), None);
    while let Some(object) = objects.try_next().await? {
        // Markers of one label sort by token: the last one wins.
        if let Some(label) = object.key.rsplit('/').nth(1) {
            newest.insert(label.to_owned(), object.key.clone());
        }
    }
    let mut values = BTreeMap::new();
    for (label, key) in newest {
        if let Some(body) = store.get(&key, MARKER_LIMIT).await?.and_then(|marker| marker.body) {
            values.insert(label, String::from_utf8_lossy(&body).trim().to_owned());
        }
    }
    Ok(values)
}

async fn append_all(
    writer: &LogWriter,
    drafts: Vec<EntryDraft>,
    appended: &mut impl FnMut(usize),
) -> Result<(), ImportError> {
    let mut appends = stream::iter(drafts).map(|draft| writer.append(draft)).buffered(CONCURRENCY);
    while appends.try_next().await?.is_some() {
        appended(1);
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> Result<T, ImportError> {
    tokio::task::spawn_blocking(read).await.map_err(|_| ImportError::Interrupted)
}

/// `repo.yaml` with Datamon's field names.
#[derive(Serialize)]
struct RepoDescriptor<'a> {
    name: &'a str,
    description: String,
}

/// `bundle.yaml` with Datamon's field names.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BundleDescriptor<'a> {
    id: &'a str,
    message: &'a str,
    parents: &'a [String],
    timestamp: jiff::Timestamp,
    contributors: Vec<Contributor<'a>>,
    count: u64,
    version: u32,
}

/// `label.yaml` with Datamon's field names.
#[derive(Serialize)]
struct LabelDescriptor<'a> {
    name: &'a str,
    id: &'a str,
}

#[derive(Serialize)]
struct Contributor<'a> {
    name: &'a str,
    email: &'a str,
}

impl<'a> From<&'a Person> for Contributor<'a> {
    fn from(person: &'a Person) -> Self {
        Self { name: &person.name, email: &person.email }
    }
}

fn repo_draft(repo: &str) -> Result<EntryDraft, ImportError> {
    let path = format!("repos/{repo}/repo.yaml");
    let descriptor = RepoDescriptor { name: repo, description: format!("history of the git repository \"{repo}\"") };
    let body = yaml(&path, &descriptor)?;
    Ok(draft(format!("git/{repo}"), Map::new(), DraftOperation::Descriptor { path, body }))
}

fn bundle_draft(repo: &str, commit: &Commit) -> Result<EntryDraft, ImportError> {
    let changes = commit.changes;
    let path = format!("bundles/{repo}/{}/bundle.yaml", commit.id);
    let descriptor = BundleDescriptor {
        id: &commit.id,
        message: &commit.message,
        parents: &commit.parents,
        timestamp: commit.time,
        contributors: commit.people.iter().map(Contributor::from).collect(),
        count: changes.added + changes.changed + changes.deleted,
        version: 1,
    };
    let body = yaml(&path, &descriptor)?;
    let files = json!({"added": changes.added, "changed": changes.changed, "deleted": changes.deleted});
    let attributes = Map::from_iter([("files".to_owned(), files)]);
    Ok(draft(format!("git/{repo}/{}", commit.id), attributes, DraftOperation::Descriptor { path, body }))
}

fn label_draft(repo: &str, tag: &Tag) -> Result<EntryDraft, ImportError> {
    let label = safe_name(&tag.name);
    let body = yaml(&tag.name, &LabelDescriptor { name: &label, id: &tag.commit })?;
    let key = format!("git/{repo}/{label}/{}", tag.commit);
    let attributes = Map::from_iter([("tag".to_owned(), Value::from(tag.name.clone()))]);
    let op = DraftOperation::Label { repo: repo.to_owned(), label, bundle: tag.commit.clone(), body };
    Ok(draft(key, attributes, op))
}

fn draft(key: String, attributes: Map<String, Value>, op: DraftOperation) -> EntryDraft {
    EntryDraft { writer: Some("git".to_owned()), idempotency_key: Some(key), attributes, ops: vec![op] }
}

fn yaml(name: &str, descriptor: &impl Serialize) -> Result<Bytes, ImportError> {
    let text = serde_norway::to_string(descriptor).map_err(|_| ImportError::Yaml(name.to_owned()))?;
    Ok(Bytes::from(text))
}

//! Appends what the metadata bucket does not have yet, through the ordinary writer.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    pin::pin,
    sync::Arc,
};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use gix::ObjectId;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tidemark_catalog::RootChain;
use tidemark_store::{Entropy, StoreError};
use tidemark_wal::{
    AppendError, CompletionMarker, DatamonPath, DraftOperation, EntryDraft, Log, LogWriter, LogWriterOptions, Token,
    marker_key, read_descriptor, repo_marker_folder,
};
use tokio::sync::mpsc;

use super::{
    commit_object::{GitPerson, GitWarning},
    history::{FileChangeCounts, GitCommit, GitError, GitReferences, GitRepository, GitTag},
    safe_name::{is_too_long, safe_name},
};

/// Appends in flight at once.
const CONCURRENCY: usize = 16;
/// Commits that are read ahead of the appends.
const MAX_COMMITS_AHEAD: usize = 64;
/// Bytes of a completion marker that are read at most.
const MAX_MARKER_BYTES: u64 = 4096;

/// What an import did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImportSummary {
    /// Commits that were appended.
    pub commits: u64,
    /// Tags that were appended or moved.
    pub tags: u64,
    /// Commits that were there already.
    pub present: u64,
    /// Objects that were odd.
    pub warnings: u64,
}

/// What an import tells while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportEvent {
    /// So many commits and tags of so many are done.
    Progress {
        /// Appended, or left out with a warning.
        done: u64,
        /// All that are new.
        total: u64,
    },
    /// An object is odd; the import goes on.
    Warning(GitWarning),
}

/// Why an import stopped. What was acknowledged before stays, and a second run adds the rest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GitImportError {
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
    #[error("the descriptor of \"{0}\" cannot be written as YAML; the import stopped there; report this as a bug")]
    Yaml(String),
    /// The thread that reads the repository ended early.
    #[error("reading the git repository was interrupted; the import stopped; start it again, and it adds the rest")]
    Interrupted,
}

/// Appends the commits and tags of the repository at `path` that `log` does not have yet, through the ordinary writer, and
/// calls `on_event` on its way.
///
/// The writer's tokens ascend, and commits are appended in the order of the history: it is the order of the log.
pub async fn import_git(
    log: &Log,
    path: &Path,
    on_event: impl FnMut(ImportEvent),
) -> Result<ImportSummary, GitImportError> {
    import_git_by(GitRepository::commit, log, path, on_event).await
}

/// As [`import_git`], with commits read by `read`.
pub(super) async fn import_git_by(
    mut read: impl FnMut(&mut GitRepository, ObjectId) -> Result<GitCommit, GitWarning> + Send + 'static,
    log: &Log,
    path: &Path,
    on_event: impl FnMut(ImportEvent),
) -> Result<ImportSummary, GitImportError> {
    let entropy = Entropy::from_os();
    let root = Arc::new(RootChain::open(log, entropy.clone()));
    let writer = LogWriter::open(log.clone(), root, LogWriterOptions::named("git"), entropy).await?;
    let opened = {
        let path = path.to_owned();
        blocking(move || OpenedHistory::open(&path)).await??
    };
    let OpenedHistory { mut repository, repo, mut commits, references } = opened;
    let GitReferences { mut tags, warnings, .. } = references;
    let present = imported_commits(log, &repo).await?;
    let labels = newest_markers(log, &repo).await?;
    let all = commits.len();
    commits.retain(|id| !present.contains(id));
    tags.retain(|tag| labels.get(&safe_name(&tag.name)).and_then(|at| at.bundle.as_ref()) != Some(&tag.commit));

    let total = (commits.len() + tags.len()) as u64;
    let mut progress = ImportProgress { total, done: 0, first: None, summary: ImportSummary::default(), on_event };
    progress.summary.present = (all - commits.len()) as u64;
    for warning in warnings {
        progress.warn(warning);
    }
    let repo_path = DatamonPath::Repo { repo: repo.clone() }.path().unwrap_or_default();
    if log.descriptors().head(&repo_path).await?.is_none() {
        writer.append(repo_draft(&repo, repo_path)?).await?;
    }
    let commits = commits.into_iter().map(move |id| read(&mut repository, id));
    progress.summary.commits = append_commits(&writer, &repo, commits, &mut progress).await?;
    if progress.summary.commits + progress.summary.present == 0 {
        return Err(GitRepository::unreadable(path, progress.first.as_ref()).into());
    }
    let drafts = tags.iter().map(|tag| label_draft(&repo, tag, labels.get(&safe_name(&tag.name))));
    let drafts = drafts.collect::<Result<Vec<_>, _>>()?;
    let mut appends = pin!(stream::iter(drafts).map(|new| append(&writer, new)).buffered(CONCURRENCY));
    while let Some(appended) = appends.try_next().await? {
        progress.summary.tags += u64::from(progress.advance(appended));
    }
    Ok(progress.summary)
}

/// Appends `commits` while the next ones are read; gives how many were appended.
async fn append_commits(
    writer: &LogWriter,
    repo: &str,
    commits: impl Iterator<Item = Result<GitCommit, GitWarning>> + Send + 'static,
    progress: &mut ImportProgress<impl FnMut(ImportEvent)>,
) -> Result<u64, GitImportError> {
    let (sender, mut receiver) = mpsc::channel(MAX_COMMITS_AHEAD);
    let reader = tokio::task::spawn_blocking(move || {
        for commit in commits {
            // Nobody receives after an append has failed.
            if sender.blocking_send(commit).is_err() {
                break;
            }
        }
    });
    let read = stream::poll_fn(move |context| receiver.poll_recv(context));
    // In the order of the stream, and so are the tokens: an append takes its token when it is polled first.
    let mut appends = pin!(
        read.map(|read| async {
            match read {
                Ok(commit) => append(writer, bundle_draft(repo, commit)?).await,
                Err(warning) => Ok(AppendedObject { appended: false, warning: Some(warning) }),
            }
        })
        .buffered(CONCURRENCY)
    );
    let mut count = 0;
    while let Some(appended) = appends.try_next().await? {
        count += u64::from(progress.advance(appended));
    }
    reader.await.map_err(|_| GitImportError::Interrupted)?;
    Ok(count)
}

/// Appends one object. One that the log refuses is left out.
async fn append(writer: &LogWriter, new: ObjectDraft) -> Result<AppendedObject, GitImportError> {
    let ObjectDraft { object, draft, warning } = new;
    match writer.append(draft).await {
        Ok(_) => Ok(AppendedObject { appended: true, warning }),
        Err(AppendError::Invalid { why }) => {
            let what = format!("{why}; it is not imported");
            Ok(AppendedObject { appended: false, warning: Some(GitWarning { object, what }) })
        }
        Err(error) => Err(error.into()),
    }
}

/// A commit or a tag, ready to be appended.
struct ObjectDraft {
    /// What a warning calls it.
    object: String,
    draft: EntryDraft,
    warning: Option<GitWarning>,
}

/// What became of a commit or a tag.
struct AppendedObject {
    appended: bool,
    warning: Option<GitWarning>,
}

/// How far an import is.
struct ImportProgress<F> {
    total: u64,
    done: u64,
    /// The first warning.
    first: Option<GitWarning>,
    summary: ImportSummary,
    on_event: F,
}

impl<F: FnMut(ImportEvent)> ImportProgress<F> {
    fn warn(&mut self, warning: GitWarning) {
        self.summary.warnings += 1;
        self.first.get_or_insert_with(|| warning.clone());
        (self.on_event)(ImportEvent::Warning(warning));
    }

    /// Says whether the object was appended.
    fn advance(&mut self, AppendedObject { appended, warning }: AppendedObject) -> bool {
        if let Some(warning) = warning {
            self.warn(warning);
        }
        self.done += 1;
        (self.on_event)(ImportEvent::Progress { done: self.done, total: self.total });
        appended
    }
}

/// A git repository and what is to be imported of it.
struct OpenedHistory {
    repository: GitRepository,
    repo: String,
    /// The oldest first.
    commits: Vec<ObjectId>,
    references: GitReferences,
}

impl OpenedHistory {
    fn open(path: &Path) -> Result<Self, GitError> {
        let repository = GitRepository::open(path)?;
        let references = repository.references()?;
        let commits = repository.commits(&references)?;
        Ok(Self { repo: repository.name(), repository, commits, references })
    }
}

/// Commits of `repo` whose bundle is in the metadata bucket. One whose entry was written but whose descriptor was not is new:
/// its idempotency key lets it count once.
async fn imported_commits(log: &Log, repo: &str) -> Result<HashSet<ObjectId>, StoreError> {
    let mut found = HashSet::new();
    let mut objects = log.descriptors().list(&format!("bundles/{repo}"), None);
    while let Some(object) = objects.try_next().await? {
        let mut segments = object.key.rsplit('/');
        if segments.next() == Some("bundle.yaml")
            && let Some(id) = segments.next().and_then(|id| ObjectId::from_hex(id.as_bytes()).ok())
        {
            found.insert(id);
        }
    }
    Ok(found)
}

/// The newest completion marker of a label.
struct NewestMarker {
    /// The entry that moved the label there.
    token: Token,
    /// The bundle that the label names.
    bundle: Option<String>,
}

/// The newest completion marker of each label of `repo`.
async fn newest_markers(log: &Log, repo: &str) -> Result<BTreeMap<String, NewestMarker>, StoreError> {
    let mut newest: BTreeMap<String, CompletionMarker> = BTreeMap::new();
    let store = log.values();
    let mut objects = store.list(&repo_marker_folder(repo), None);
    while let Some(object) = objects.try_next().await? {
        let Some((label, marker)) = CompletionMarker::read_of_repo(repo, &object.key, object.time) else { continue };
        let newest = newest.entry(label.to_owned()).or_insert_with(|| marker.clone());
        if marker.sort_key() > newest.sort_key() {
            *newest = marker;
        }
    }
    let mut markers = BTreeMap::new();
    for (label, CompletionMarker { token, op, .. }) in newest {
        let key = marker_key(repo, &label, token, op);
        let body = store.get(&key, MAX_MARKER_BYTES).await?.and_then(|marker| marker.body);
        let place = DatamonPath::Label { repo: repo.to_owned(), label: label.clone() };
        let bundle = body.and_then(|body| read_descriptor(&place, &body).ok()).and_then(|value| value.id);
        markers.insert(label, NewestMarker { token, bundle });
    }
    Ok(markers)
}

async fn blocking<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> Result<T, GitImportError> {
    tokio::task::spawn_blocking(read).await.map_err(|_| GitImportError::Interrupted)
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
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<jiff::Timestamp>,
    contributors: Vec<ContributorDescriptor<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    version: u32,
}

/// `label.yaml` with Datamon's field names.
#[derive(Serialize)]
struct LabelDescriptor<'a> {
    name: &'a str,
    id: &'a str,
}

#[derive(Serialize)]
struct ContributorDescriptor<'a> {
    name: &'a str,
    email: &'a str,
}

impl<'a> From<&'a GitPerson> for ContributorDescriptor<'a> {
    fn from(person: &'a GitPerson) -> Self {
        Self { name: &person.name, email: &person.email }
    }
}

fn repo_draft(repo: &str, path: String) -> Result<EntryDraft, GitImportError> {
    let descriptor = RepoDescriptor { name: repo, description: format!("history of the git repository \"{repo}\"") };
    let body = yaml(&path, &descriptor)?;
    Ok(draft(format!("git/{repo}"), Map::new(), DraftOperation::Descriptor { path, body }))
}

fn bundle_draft(repo: &str, commit: GitCommit) -> Result<ObjectDraft, GitImportError> {
    let path = format!("bundles/{repo}/{}/bundle.yaml", commit.id);
    let descriptor = BundleDescriptor {
        id: &commit.id,
        message: &commit.message,
        parents: &commit.parents,
        timestamp: commit.time,
        contributors: commit.people.iter().map(ContributorDescriptor::from).collect(),
        count: commit.changes.map(|changes| changes.added + changes.changed + changes.deleted),
        version: 1,
    };
    let body = yaml(&path, &descriptor)?;
    let files = commit.changes.map(|FileChangeCounts { added, changed, deleted }| {
        ("files".to_owned(), json!({"added": added, "changed": changed, "deleted": deleted}))
    });
    let op = DraftOperation::Descriptor { path, body };
    let draft = draft(format!("git/{repo}/{}", commit.id), files.into_iter().collect(), op);
    Ok(ObjectDraft { object: format!("commit {}", commit.id), draft, warning: commit.warning })
}

/// Moves the label of `tag` on from `newest`. The key names what it moves from: a label that comes back to a commit moves again.
fn label_draft(repo: &str, tag: &GitTag, newest: Option<&NewestMarker>) -> Result<ObjectDraft, GitImportError> {
    let label = safe_name(&tag.name);
    let body = yaml(&tag.name, &LabelDescriptor { name: &label, id: &tag.commit })?;
    let from = newest.map_or_else(|| "new".to_owned(), |marker| marker.token.to_string());
    let key = format!("git/{repo}/{label}/{from}/{}", tag.commit);
    let attributes = Map::from_iter([("tag".to_owned(), Value::from(tag.name.clone()))]);
    let object = format!("tag \"{}\"", tag.name);
    let warning = is_too_long(&tag.name).then(|| GitWarning {
        object: object.clone(),
        what: format!("its name of {} bytes is too long for a label; the label is \"{label}\"", tag.name.len()),
    });
    let op = DraftOperation::Label { repo: repo.to_owned(), label, bundle: tag.commit.clone(), body };
    Ok(ObjectDraft { object, draft: draft(key, attributes, op), warning })
}

fn draft(key: String, attributes: Map<String, Value>, op: DraftOperation) -> EntryDraft {
    EntryDraft {
        writer: Some("git".to_owned()),
        idempotency_key: Some(key),
        attributes,
        ops: vec![op],
        ..EntryDraft::default()
    }
}

fn yaml(name: &str, descriptor: &impl Serialize) -> Result<Bytes, GitImportError> {
    let text = serde_norway::to_string(descriptor).map_err(|_| GitImportError::Yaml(name.to_owned()))?;
    Ok(Bytes::from(text))
}

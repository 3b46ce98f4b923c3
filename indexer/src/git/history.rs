//! Reads a git repository: commits oldest first, tags, and who wrote what.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Display,
    path::{Path, PathBuf},
};

use gix::{
    ObjectId,
    diff::tree::{Recorder, State, recorder::Change},
    objs::{Kind, TreeRefIter},
};

use super::{
    commit_object::{CommitObject, CommitText, GitPerson, GitWarning},
    safe_name::safe_name,
    traversal::oldest_first,
};

/// Bytes of objects that are kept, for the next commit's trees.
const OBJECT_CACHE_BYTES: usize = 16 << 20;

/// What to do about a repository that is damaged.
const FSCK: &str = "run \"git fsck\" there";

/// Why a git repository cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("git repository \"{path}\" cannot be read: {why}; nothing was imported; {remedy}", path = path.display())]
pub struct GitError {
    path: PathBuf,
    why: String,
    remedy: &'static str,
}

impl GitError {
    fn new(path: &Path, why: impl Display, remedy: &'static str) -> Self {
        Self { path: path.to_owned(), why: why.to_string(), remedy }
    }
}

/// One commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitCommit {
    /// The commit's hash in hexadecimal: the bundle's id.
    pub id: String,
    /// Hashes of the parents.
    pub parents: Vec<String>,
    /// The whole message.
    pub message: String,
    /// When the author wrote it, where the commit says so.
    pub time: Option<jiff::Timestamp>,
    /// The author, then the committer and the co-authors that the trailers name.
    pub people: Vec<GitPerson>,
    /// Files added, changed and deleted against the first parent, where the trees are there.
    pub changes: Option<FileChangeCounts>,
    /// What is odd about it.
    pub warning: Option<GitWarning>,
}

/// How many files a commit touches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileChangeCounts {
    /// Files that are new.
    pub added: u64,
    /// Files whose content, mode or name changed. One whose content and name changed is a deleted and an added one: contents are
    /// never read, since a partial clone lacks them.
    pub changed: u64,
    /// Files that are gone.
    pub deleted: u64,
}

/// A tag and the commit that it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitTag {
    /// The short name.
    pub name: String,
    /// The commit's hash.
    pub commit: String,
}

/// What branches, tags and `HEAD` lead to.
#[derive(Debug, Default)]
pub struct GitReferences {
    /// Commits that they lead to.
    tips: BTreeSet<ObjectId>,
    /// All tags that lead to a commit, by name.
    pub tags: Vec<GitTag>,
    /// References that lead nowhere.
    pub warnings: Vec<GitWarning>,
}

/// An open repository.
pub struct GitRepository {
    pub(super) repository: gix::Repository,
    path: PathBuf,
    /// Commits whose parents a shallow clone left out.
    shallow: BTreeSet<ObjectId>,
    /// Whether a commit's tree was missing already.
    lacks_trees: bool,
}

impl GitRepository {
    /// Opens the repository in which `path` lies.
    pub fn open(path: &Path) -> Result<Self, GitError> {
        check_formats(path)?;
        let mut repository = gix::discover(path)
            .map_err(|error| GitError::new(path, error, "name a folder in which \"git log\" answers"))?;
        repository.object_cache_size_if_unset(OBJECT_CACHE_BYTES);
        let shallow = repository
            .shallow_commits()
            .map_err(|error| GitError::new(path, error, FSCK))?
            .map(|commits| commits.iter().copied().collect());
        let opened =
            Self { repository, path: path.to_owned(), shallow: shallow.unwrap_or_default(), lacks_trees: false };
        opened.check_borrowed_objects()?;
        Ok(opened)
    }

    /// The name of the folder that holds the repository: the name of the repo. Worktrees share the one of their repository.
    pub fn name(&self) -> String {
        let git_folder = self.repository.common_dir();
        let is_linked = self.repository.git_dir() != git_folder;
        let folder = self.repository.workdir().filter(|_| !is_linked).unwrap_or(git_folder);
        let folder = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
        let folder = if folder.ends_with(".git") { folder.parent().unwrap_or(&folder) } else { &folder };
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        safe_name(name.strip_suffix(".git").unwrap_or(&name))
    }

    /// What branches, tags and `HEAD` lead to.
    pub fn references(&self) -> Result<GitReferences, GitError> {
        let mut found = GitReferences::default();
        let head = self.repository.head().map_err(|error| self.refused(error))?;
        if !head.is_unborn() {
            found.tips.extend(found_commit(head.into_peeled_id(), "HEAD", &mut found.warnings));
        }
        let references = self.repository.references().map_err(|error| self.refused(error))?;
        let branches = references.local_branches().map_err(|error| self.refused(error))?;
        let remote = references.remote_branches().map_err(|error| self.refused(error))?;
        let tags = references.tags().map_err(|error| self.refused(error))?;
        for reference in branches.chain(remote).chain(tags) {
            let mut reference = match reference {
                Ok(reference) => reference,
                Err(error) => {
                    let what = format!("it cannot be read: {error}; what only it leads to is not imported");
                    found.warnings.push(GitWarning { object: "a reference".to_owned(), what });
                    continue;
                }
            };
            let name = reference.name().as_bstr().to_string();
            let Some(commit) = found_commit(reference.peel_to_id(), &name, &mut found.warnings) else { continue };
            found.tips.insert(commit);
            if let Some(name) = name.strip_prefix("refs/tags/") {
                found.tags.push(GitTag { name: name.to_owned(), commit: commit.to_string() });
            }
        }
        found.tags.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Hashes of all commits that a reference leads to, parents before their children, else by date, the oldest first.
    pub fn commits(&self, references: &GitReferences) -> Result<Vec<ObjectId>, GitError> {
        if references.tips.is_empty() {
            let why = match references.warnings.first() {
                None => "it has no commit".to_owned(),
                Some(warning) => format!("none of its references leads to a commit ({warning})"),
            };
            return Err(GitError::new(&self.path, why, "name a repository in which \"git log\" answers"));
        }
        oldest_first(&self.repository, &self.shallow, &references.tips).map_err(|error| self.refused(error))
    }

    /// The commit with hash `id`, or why it cannot be read. A missing tree is reported once.
    pub fn commit(&mut self, id: ObjectId) -> Result<GitCommit, GitWarning> {
        let object = format!("commit {id}");
        let unreadable =
            |why: String| GitWarning { object: object.clone(), what: format!("{why}; it is not imported") };
        let found =
            self.repository.try_find_object(id).map_err(|error| unreadable(format!("it cannot be read: {error}")))?;
        let found = found.ok_or_else(|| unreadable("it is missing".to_owned()))?;
        if found.kind != Kind::Commit {
            return Err(unreadable(format!("it is a {}", found.kind)));
        }
        let commit = CommitObject::parse(&found.data);
        let CommitText { message, time, people, mut problems } = commit.text();
        let changes = self.changes(id, &commit);
        if changes.is_none() && !std::mem::replace(&mut self.lacks_trees, true) {
            problems.push(
                "a tree is missing, as in a partial clone, and the number of changed files is left out, here and wherever else \
                 it cannot be told"
                    .to_owned(),
            );
        }
        let warning = (!problems.is_empty()).then(|| GitWarning { object: object.clone(), what: problems.join("; ") });
        let parents = commit.parents.iter().map(ToString::to_string).collect();
        Ok(GitCommit { id: id.to_string(), parents, message, time, people, changes, warning })
    }

    /// The error of a repository of which no commit could be read.
    pub(super) fn unreadable(path: &Path, warning: Option<&GitWarning>) -> GitError {
        let why = warning.map_or_else(|| "it has no commit".to_owned(), |first| format!("no commit can be ({first})"));
        GitError::new(path, why, FSCK)
    }

    /// `None` if a tree is missing.
    fn changes(&self, id: ObjectId, commit: &CommitObject<'_>) -> Option<FileChangeCounts> {
        let new = self.repository.find_tree(commit.tree?).ok()?;
        let old = match commit.parents.first() {
            // A shallow clone lacks the parents of its oldest commits: as in git, all files of those are new.
            Some(parent) if !self.shallow.contains(&id) => {
                let parent = self.repository.try_find_object(*parent).ok()??;
                self.repository.find_tree(CommitObject::parse(&parent.data).tree?).ok()?
            }
            _ => self.repository.empty_tree(),
        };
        let [old, new] = [&old, &new].map(|tree| TreeRefIter::from_bytes(&tree.data, tree.id.kind()));
        let mut differences = Recorder::default().track_location(None);
        gix::diff::tree(old, new, State::default(), &self.repository.objects, &mut differences).ok()?;
        Some(FileChangeCounts::of(&differences.records))
    }

    /// A clone that borrows objects (`--shared`, `--reference`) is empty without them, and gix does not say why.
    fn check_borrowed_objects(&self) -> Result<(), GitError> {
        let objects = self.repository.common_dir().join("objects");
        let borrowed = gix::odb::alternate::resolve(objects, self.repository.current_dir());
        let borrowed = borrowed.map_err(|error| self.refused(error))?;
        match borrowed.iter().find(|folder| !folder.is_dir()) {
            None => Ok(()),
            Some(gone) => {
                let why = format!("it borrows objects from \"{}\", which is gone", gone.display());
                Err(GitError::new(&self.path, why, "bring that folder back, or make a new clone"))
            }
        }
    }

    fn refused(&self, why: impl Display) -> GitError {
        GitError::new(&self.path, why, FSCK)
    }
}

impl FileChangeCounts {
    /// A file that is gone here and there again under another name is a changed one.
    fn of(differences: &[Change]) -> Self {
        let mut counts = Self::default();
        let mut gone: HashMap<ObjectId, u64> = HashMap::new();
        for difference in differences {
            match difference {
                Change::Deletion { entry_mode, oid, .. } if !entry_mode.is_tree() => {
                    counts.deleted += 1;
                    *gone.entry(*oid).or_default() += 1;
                }
                Change::Modification { entry_mode, .. } if !entry_mode.is_tree() => counts.changed += 1,
                _ => {}
            }
        }
        for difference in differences {
            if let Change::Addition { entry_mode, oid, .. } = difference
                && !entry_mode.is_tree()
            {
                match gone.get_mut(oid).filter(|left| **left > 0) {
                    None => counts.added += 1,
                    Some(left) => {
                        *left -= 1;
                        counts.deleted -= 1;
                        counts.changed += 1;
                    }
                }
            }
        }
        counts
    }
}

/// The commit that reference `name` leads to. Tags of trees and of files lead to none.
fn found_commit(peeled: gix::Result<gix::Id<'_>>, name: &str, warnings: &mut Vec<GitWarning>) -> Option<ObjectId> {
    match peeled.and_then(|id| id.object()) {
        Ok(object) => (object.kind == Kind::Commit).then_some(object.id),
        Err(error) => {
            let what = format!("it leads to no object: {error}; what only it leads to is not imported");
            warnings.push(GitWarning { object: name.to_owned(), what });
            None
        }
    }
}

/// Refuses formats that gix does not read. It opens some of them and then finds nothing, so that the configuration is looked at.
fn check_formats(path: &Path) -> Result<(), GitError> {
    // What is no repository is refused where it is opened.
    let Ok((found, _)) = gix::discover::upwards(path) else { return Ok(()) };
    let (git_folder, _) = found.into_repository_and_work_tree_directories();
    let common = std::fs::read_to_string(git_folder.join("commondir"));
    let config = common.map_or_else(|_| git_folder.clone(), |common| git_folder.join(common.trim())).join("config");
    let Ok(config) = gix::config::File::from_path_no_includes(config, gix::config::Source::Local) else {
        return Ok(());
    };
    let format_of = |key: &str| config.string(key).map(|value| value.to_string().to_ascii_lowercase());
    if let Some(format) = format_of("extensions.objectFormat").filter(|format| format != "sha1") {
        return Err(GitError::new(
            path,
            format!("its objects are named by {format}, and only SHA-1 is read"),
            "name a repository with SHA-1 objects",
        ));
    }
    match format_of("extensions.refStorage").filter(|format| format != "files") {
        None => Ok(()),
        Some(format) => Err(GitError::new(
            path,
            format!("its references are kept as {format}, and only files are read"),
            "run \"git refs migrate --ref-format=files\" there, or name a clone made with \"--ref-format=files\"",
        )),
    }
}

//! Reads a git repository: commits oldest first, tags, and who wrote what.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use gix::{
    bstr::{BStr, ByteSlice as _},
    object::tree::diff::ChangeDetached,
    revision::walk::Sorting,
    traverse::commit::simple::CommitTimeOrder,
};

/// Why a git repository cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("git repository \"{path}\" cannot be read: {why}", path = path.display())]
pub struct GitError {
    path: PathBuf,
    why: String,
}

/// Someone who took part in a commit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GitPerson {
    /// As git has it.
    pub name: String,
    /// As git has it.
    pub email: String,
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
    /// When the author wrote it.
    pub time: jiff::Timestamp,
    /// The author, then the committer and the co-authors that the trailers name.
    pub people: Vec<GitPerson>,
    /// Files added, changed and deleted against the first parent.
    pub changes: FileChangeCounts,
}

/// How many files a commit touches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileChangeCounts {
    /// Files that are new.
    pub added: u64,
    /// Files whose content, mode or name changed.
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

/// An open repository.
pub struct GitRepository {
    repository: gix::Repository,
    path: PathBuf,
}

impl GitRepository {
    /// Opens the repository in which `path` lies.
    pub fn open(path: &Path) -> Result<Self, GitError> {
        let refused = |why: &dyn std::fmt::Display| GitError { path: path.to_owned(), why: why.to_string() };
        let mut repository = gix::discover(path).map_err(|error| refused(&error))?;
        repository.object_cache_size_if_unset(16 << 20);
        Ok(Self { repository, path: path.to_owned() })
    }

    /// The name of the folder that holds the repository: the name of the repo.
    pub fn name(&self) -> String {
        let folder = self.repository.workdir().unwrap_or_else(|| self.repository.git_dir());
        let folder = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        safe_name(name.strip_suffix(".git").unwrap_or(&name))
    }

    /// Hashes of all commits that a branch, a tag or `HEAD` leads to, oldest first.
    pub fn commits(&self) -> Result<Vec<String>, GitError> {
        let mut tips: BTreeSet<gix::ObjectId> = self.repository.head_id().map(gix::Id::detach).into_iter().collect();
        let references = self.repository.references().map_err(|error| self.refused(&error))?;
        let branches = references.local_branches().map_err(|error| self.refused(&error))?;
        let remote = references.remote_branches().map_err(|error| self.refused(&error))?;
        let tags = references.tags().map_err(|error| self.refused(&error))?;
        for mut reference in branches.chain(remote).chain(tags).flatten() {
            if let Ok(id) = reference.peel_to_id()
                && id.object().is_ok_and(|object| object.kind == gix::object::Kind::Commit)
            {
                tips.insert(id.detach());
            }
        }
        let newest_first = Sorting::ByCommitTime(CommitTimeOrder::NewestFirst);
        let walk = self.repository.rev_walk(tips).sorting(newest_first).all().map_err(|error| self.refused(&error))?;
        let mut ids = Vec::new();
        for info in walk {
            ids.push(info.map_err(|error| self.refused(&error))?.id.to_string());
        }
        ids.reverse();
        Ok(ids)
    }

    /// The commit with hash `id`.
    pub fn commit(&self, id: &str) -> Result<GitCommit, GitError> {
        let object = gix::ObjectId::from_hex(id.as_bytes()).map_err(|error| self.refused(&error))?;
        let commit = self.repository.find_commit(object).map_err(|error| self.refused(&error))?;
        let author = commit.author().map_err(|error| self.refused(&error))?;
        let seconds = author.time().map(|time| time.seconds).unwrap_or_default();
        Ok(GitCommit {
            id: id.to_owned(),
            parents: commit.parent_ids().map(|parent| parent.to_string()).collect(),
            message: commit.message_raw_sloppy().to_str_lossy().trim().to_owned(),
            time: jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH),
            people: self.people(&commit)?,
            changes: self.changes(&commit)?,
        })
    }

    /// All tags that lead to a commit, by name.
    pub fn tags(&self) -> Result<Vec<GitTag>, GitError> {
        let references = self.repository.references().map_err(|error| self.refused(&error))?;
        let mut tags = Vec::new();
        for mut reference in references.tags().map_err(|error| self.refused(&error))?.flatten() {
            let name = reference.name().shorten().to_str_lossy().into_owned();
            if let Ok(id) = reference.peel_to_id()
                && id.object().is_ok_and(|object| object.kind == gix::object::Kind::Commit)
            {
                tags.push(GitTag { name, commit: id.to_string() });
            }
        }
        tags.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(tags)
    }

    fn people(&self, commit: &gix::Commit<'_>) -> Result<Vec<GitPerson>, GitError> {
        let author = commit.author().map_err(|error| self.refused(&error))?;
        let committer = commit.committer().map_err(|error| self.refused(&error))?;
        let mut people = vec![person(author.name, author.email), person(committer.name, committer.email)];
        if let Some(body) = commit.message().ok().and_then(|message| message.body()) {
            for trailer in body.trailers().co_authored_by() {
                if let Some((name, rest)) = trailer.value.to_str_lossy().split_once('<') {
                    let email = rest.trim_end().trim_end_matches('>');
                    people.push(GitPerson { name: name.trim().to_owned(), email: email.to_owned() });
                }
            }
        }
        let mut seen = BTreeSet::new();
        people.retain(|one| seen.insert(one.clone()));
        Ok(people)
    }

    fn changes(&self, commit: &gix::Commit<'_>) -> Result<FileChangeCounts, GitError> {
        let new = commit.tree().map_err(|error| self.refused(&error))?;
        let old = match commit.parent_ids().next() {
            // A shallow clone lacks the parents of its oldest commits: those then count as added in full.
            Some(parent) => parent.object().ok().and_then(|object| object.peel_to_tree().ok()),
            None => None,
        };
        let diff = self.repository.diff_tree_to_tree(&old, &new, None).map_err(|error| self.refused(&error))?;
        let mut changes = FileChangeCounts::default();
        for change in diff.iter().filter(|change| !change.entry_mode().is_tree()) {
            match change {
                ChangeDetached::Addition { .. } => changes.added += 1,
                ChangeDetached::Deletion { .. } => changes.deleted += 1,
                ChangeDetached::Modification { .. } | ChangeDetached::Rewrite { .. } => changes.changed += 1,
            }
        }
        Ok(changes)
    }

    fn refused(&self, why: &dyn std::fmt::Display) -> GitError {
        GitError { path: self.path.clone(), why: why.to_string() }
    }
}

/// `name` with every character that a repo's or label's key must not hold replaced by `-`. A name that had to be changed
/// ends with a digest of what it was, so that two names stay two.
pub(super) fn safe_name(name: &str) -> String {
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-');
    let safe: String = name.chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    match safe.trim_matches('.') {
        "" => "repository".to_owned(),
        safe if safe == name => safe.to_owned(),
        safe => format!("{safe}-{:016x}", xxhash_rust::xxh3::xxh3_64(name.as_bytes())),
    }
}

fn person(name: &BStr, email: &BStr) -> GitPerson {
    GitPerson { name: name.to_str_lossy().trim().to_owned(), email: email.to_str_lossy().trim().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_nothing_that_a_key_must_not() {
        assert!(safe_name("release/v1.0").starts_with("release-v1.0-"));
        assert_eq!(safe_name(".."), "repository");
        assert_eq!(safe_name("größe_1"), "größe_1");
    }

    #[test]
    fn names_that_differ_stay_apart() {
        let names = ["release/v1", "release-v1", "release:v1", "release v1", ".release-v1"].map(safe_name);
        assert_eq!(BTreeSet::from(names.clone()).len(), 5, "{names:?}");
        assert_eq!(names[1], "release-v1");
    }

    #[test]
    fn a_folder_without_a_repository_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let error = GitRepository::open(folder.path()).err().unwrap();
        assert!(error.to_string().contains(&folder.path().display().to_string()), "{error}");
    }
}

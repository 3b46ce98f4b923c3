//! The history of a git repository as Datamon-style metadata, so that a person searches their own data at once.
//!
//! A commit is a bundle, a tag is a label, the repository is a repo. Tokens are always fresh: a commit's own date is the
//! bundle's client timestamp, never its token. They ascend with the history, a commit after its parents: newest first is the
//! order of the commits. What the metadata bucket has already is not appended again.
//!
//! What is odd in one object is a [`GitWarning`] that names it, and the import goes on. What hides the whole history is a
//! [`GitError`]. Commits are read while earlier ones are appended; of all commits together only the hashes, their dates and
//! their parents are in memory, of the text a bounded number.

mod commit_object;
mod history;
mod import;
mod safe_name;
mod traversal;

#[cfg(test)]
mod tests;

pub use commit_object::{GitPerson, GitWarning};
pub use history::{FileChangeCounts, GitCommit, GitError, GitReferences, GitRepository, GitTag};
pub use import::{GitImportError, ImportEvent, ImportSummary, import_git};

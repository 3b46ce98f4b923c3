//! The history of a git repository as Datamon-style metadata, so that a person searches their own data at once.
//!
//! A commit is a bundle, a tag is a label, the repository is a repo. Tokens are always fresh: a commit's own date is the
//! bundle's client timestamp, never its token. What the metadata bucket has already is not appended again.

mod history;
mod import;

pub use history::{GitCommit, GitError, GitPerson, GitRepository, GitTag};
pub use import::{GitImportError, ImportSummary, import_git};

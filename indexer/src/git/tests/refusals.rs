//! What hides the whole history is an error with a remedy.

use std::fs;

use super::fixtures::{GitFixture, LogFixture, git};

/// The error of an import that must append nothing.
async fn refusal(path: &std::path::Path) -> String {
    let log = LogFixture::new().await;
    let error = log.import(path).await.unwrap_err().to_string();
    assert!(error.contains(path.to_str().unwrap()) && error.contains("nothing was imported; "), "{error}");
    assert_eq!(log.commits().await.len(), 0);
    error
}

#[tokio::test]
async fn a_folder_without_a_repository_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = refusal(folder.path()).await;
    assert!(error.contains("name a folder in which \"git log\" answers"), "{error}");
}

#[tokio::test]
async fn an_empty_repository_is_refused() {
    let error = refusal(&GitFixture::empty().path).await;
    assert!(error.contains("it has no commit"), "{error}");
}

#[tokio::test]
async fn a_repository_without_head_is_refused() {
    let repository = GitFixture::empty();
    repository.commit("a", "first");
    fs::remove_file(repository.path.join(".git/HEAD")).unwrap();
    let error = refusal(&repository.path).await;
    assert!(error.contains("name a folder in which \"git log\" answers"), "{error}");
}

#[tokio::test]
async fn a_head_that_leads_nowhere_is_refused() {
    let repository = GitFixture::empty();
    let only = repository.commit("a", "first");
    repository.lose(&only);
    let error = refusal(&repository.path).await;
    assert!(error.contains("none of its references leads to a commit (HEAD: "), "{error}");
}

#[tokio::test]
async fn sha_256_objects_are_refused() {
    let repository = GitFixture::initialized(&["--object-format=sha256"]);
    repository.commit("a", "first");
    let error = refusal(&repository.path).await;
    assert!(error.contains("named by sha256, and only SHA-1 is read"), "{error}");
}

/// The git of this machine may be too old to make such a repository.
#[tokio::test]
async fn reftable_is_refused() {
    let repository = GitFixture::empty();
    repository.commit("a", "first");
    let git_folder = repository.path.join(".git");
    repository.git(&["config", "core.repositoryFormatVersion", "1"]);
    repository.git(&["config", "extensions.refStorage", "reftable"]);
    fs::write(git_folder.join("HEAD"), "ref: refs/heads/.invalid\n").unwrap();
    fs::remove_dir_all(git_folder.join("refs")).unwrap();
    fs::create_dir(git_folder.join("refs")).unwrap();
    fs::write(git_folder.join("refs/heads"), "this repository uses the reftable format\n").unwrap();
    fs::create_dir(git_folder.join("reftable")).unwrap();
    fs::write(git_folder.join("reftable/tables.list"), "").unwrap();
    let error = refusal(&repository.path).await;
    assert!(error.contains("kept as reftable") && error.contains("git refs migrate --ref-format=files"), "{error}");
}

#[tokio::test]
async fn a_borrowed_object_store_that_is_gone_is_named() {
    let repository = GitFixture::empty();
    repository.commit("a", "first");
    let clone = repository.beside("clone");
    git(&repository.beside(""), &["clone", "-q", "--shared", "project", "clone"], b"");
    let log = LogFixture::new().await;
    assert_eq!(log.import_clean(&clone).await.commits, 1);
    fs::rename(&repository.path, repository.beside("elsewhere")).unwrap();
    let error = refusal(&clone).await;
    let gone = repository.path.join(".git/objects");
    assert!(error.contains(&format!("it borrows objects from \"{}\", which is gone", gone.display())), "{error}");
}

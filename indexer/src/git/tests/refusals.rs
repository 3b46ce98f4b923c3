//! What hides the whole history is an error with a remedy.

use std::{fs, process::Command};

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

/// A repository whose references are a reftable, as git from 2.45 on leaves it.
fn reftable_by_hand() -> GitFixture {
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
    repository
}

/// The same as the git of this machine makes it; one before 2.45 does not know the format.
fn reftable_by_git() -> Option<GitFixture> {
    let options = Command::new("git").args(["init", "-h"]).output().unwrap();
    let usage = [options.stdout, options.stderr].concat();
    String::from_utf8_lossy(&usage).contains("--ref-format").then(|| {
        let repository = GitFixture::initialized(&["--ref-format=reftable"]);
        repository.commit("a", "first");
        repository
    })
}

#[tokio::test]
async fn reftable_is_refused() {
    for repository in [Some(reftable_by_hand()), reftable_by_git()].into_iter().flatten() {
        let inside = repository.path.join("folder");
        fs::create_dir(&inside).unwrap();
        for path in [&repository.path, &repository.path.join(".git"), &inside] {
            let error = refusal(path).await;
            assert!(error.contains("its references are kept as reftable, and only files are read"), "{error}");
            assert!(error.contains("run \"git refs migrate --ref-format=files\" there"), "{error}");
        }
    }
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

//! What else a repository may be.

use super::fixtures::{GitFixture, LogFixture, commit_in, git};
use crate::git::GitRepository;

#[tokio::test]
async fn a_submodule_is_a_file_of_its_repository() {
    let library = GitFixture::empty();
    let inside = library.commit("lib.c", "library");
    let repository = GitFixture::empty();
    repository.commit("a", "first");
    repository.git(&["submodule", "--quiet", "add", library.path.to_str().unwrap(), "vendor/library"]);
    let with_submodule = repository.commit("b", "with a submodule");
    let log = LogFixture::new().await;
    assert_eq!(log.import_clean(&repository.path).await.commits, 2);
    // b, .gitmodules and the submodule.
    assert_eq!(log.files(&with_submodule).await, Some([3, 0, 0]));
    assert_eq!(log.bundle_of("project", &inside).await, None);
    // The submodule itself is a repository.
    assert_eq!(log.import_clean(&repository.path.join("vendor/library")).await.commits, 1);
    assert!(log.bundle_of("library", &inside).await.is_some());
}

#[tokio::test]
async fn an_octopus_names_all_its_parents() {
    let repository = GitFixture::empty();
    let base = repository.commit("base", "base");
    let arms = ["x", "y", "z"].map(|arm| {
        repository.git(&["checkout", "-q", "-b", arm, &base]);
        repository.commit(arm, arm)
    });
    repository.git(&["checkout", "-q", "x"]);
    repository.git(&["merge", "-q", "-m", "octopus", "y", "z"]);
    let merge = repository.git(&["rev-parse", "HEAD"]);
    let log = LogFixture::new().await;
    assert_eq!(log.import_clean(&repository.path).await.commits, 5);
    assert_eq!(log.bundle(&merge).await.parents, arms);
    // Against the first parent.
    assert_eq!(log.files(&merge).await, Some([2, 0, 0]));
}

#[tokio::test]
async fn a_replaced_commit_is_what_replaces_it() {
    let repository = GitFixture::empty();
    let (first, second) = (repository.commit("a", "first"), repository.commit("b", "second"));
    let people = "author A <a@x> 1700000000 +0000\ncommitter A <a@x> 1700000000 +0000\n\n";
    let other = repository.commit_literally(Some(&first), format!("{people}replaced").as_bytes());
    repository.git(&["update-ref", "refs/heads/main", &second]);
    repository.git(&["replace", &second, &other]);
    let log = LogFixture::new().await;
    assert_eq!(log.import_clean(&repository.path).await.commits, 2);
    assert_eq!(log.bundle(&second).await.message.as_deref(), Some("replaced"));
    assert_eq!(log.bundle_of("project", &other).await, None);
}

#[tokio::test]
async fn a_worktree_is_its_repository() {
    let repository = GitFixture::empty();
    let first = repository.commit("a", "first");
    let worktree = repository.beside("worktree");
    repository.git(&["worktree", "add", "-q", "--detach", worktree.to_str().unwrap()]);
    let detached = commit_in(&worktree, "b", "only this worktree leads to it");
    let log = LogFixture::new().await;
    assert_eq!(log.import_clean(&worktree).await.commits, 2);
    assert_eq!(log.bundle(&detached).await.parents, [first]);
    assert_eq!(log.import_clean(&repository.path).await.present, 1);
}

#[tokio::test]
async fn a_shallow_clone_is_what_it_has() {
    let repository = GitFixture::empty();
    let commits = ["a", "b", "c"].map(|file| repository.commit(file, file));
    let url = format!("file://{}", repository.path.display());
    git(&repository.beside(""), &["clone", "-q", "--depth", "2", &url, "clone/project"], b"");
    let log = LogFixture::new().await;
    assert_eq!(log.import_clean(&repository.beside("clone/project")).await.commits, 2);
    assert_eq!(log.commits().await, commits[1..]);
    // It names the parent that is not there; all its files are new.
    assert_eq!(log.bundle(&commits[1]).await.parents, commits[..1]);
    assert_eq!(log.files(&commits[1]).await, Some([2, 0, 0]));
    // The rest comes when the clone is deepened.
    git(&repository.beside("clone/project"), &["fetch", "-q", "--unshallow"], b"");
    let deepened = log.import_clean(&repository.beside("clone/project")).await;
    assert_eq!((deepened.commits, deepened.present), (1, 2));
}

#[tokio::test]
async fn branches_count_where_head_has_no_commit() {
    let repository = GitFixture::empty();
    repository.commit("a", "first");
    repository.git(&["symbolic-ref", "HEAD", "refs/heads/unborn"]);
    assert_eq!(LogFixture::new().await.import_clean(&repository.path).await.commits, 1);
}

/// gix reads all trees of `HEAD` for each comparison in a repository without an index, if one lets it.
#[tokio::test]
async fn a_commit_of_a_bare_repository_needs_no_trees_but_its_own() {
    let repository = GitFixture::empty();
    let first = repository.commit("a", "first");
    let head = repository.commit("folder/b", "second");
    let tree = repository.git(&["rev-parse", &format!("{head}:folder")]);
    repository.git(&["config", "core.bare", "true"]);
    std::fs::remove_file(repository.path.join(".git/index")).unwrap();
    repository.lose(&tree);
    let mut opened = GitRepository::open(&repository.path).unwrap();
    let mut read = |id: &str| opened.commit(gix::ObjectId::from_hex(id.as_bytes()).unwrap()).unwrap();
    let (first, head) = (read(&first), read(&head));
    assert_eq!((first.changes.map(|changes| changes.added), first.warning), (Some(1), None));
    assert_eq!(head.changes, None);
}

#[tokio::test]
async fn contributors_are_authors_committers_and_those_of_trailers() {
    let repository = GitFixture::empty();
    let commit = repository
        .commit("a", "pair\n\nCo-authored-by: Grace Hopper <grace@example.org>\nCo-authored-by: Ada <ada@example.org>");
    let log = LogFixture::new().await;
    log.import_clean(&repository.path).await;
    let found = log.bundle(&commit).await;
    let people: Vec<_> = found.contributors.iter().map(|who| format!("{} {}", who.name, who.email)).collect();
    assert_eq!(people, ["Ada ada@example.org", "Grace Hopper grace@example.org"]);
    assert_eq!((found.count, found.timestamp.unwrap().to_string()), (Some(1), "2023-11-14T22:13:20Z".to_owned()));
}

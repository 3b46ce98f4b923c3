//! `tidemark dev --git`, as a newcomer runs it: the program from its start to the first answer, or to its error.

use std::{collections::BTreeMap, path::Path, process::Command, time::Duration};

use serde_json::Value;
use tidemark_tests::TidemarkProcess;

fn git(repository: &Path, arguments: &[&str], date: u64) -> String {
    let mut command = Command::new("git");
    command.args(arguments).current_dir(repository).env("GIT_CONFIG_GLOBAL", "/dev/null");
    for role in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{role}_NAME"), "A Writer").env(format!("GIT_{role}_EMAIL"), "writer@example.org");
        command.env(format!("GIT_{role}_DATE"), format!("{date} +0000"));
    }
    let ran = command.output().expect("git runs");
    assert!(ran.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).expect("it is text").trim().to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary folder has a plain name")
}

/// What takes in the history of `repository`. Its appends have time on a busy machine.
fn dev<'a>(repository: &'a Path, folder: &'a Path) -> [&'a str; 9] {
    let (git, dir) = (text(repository), text(folder));
    ["dev", "--git", git, "--dir", dir, "--expiry", "30s", "--listen", "127.0.0.1:0"]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_that_cannot_be_read_ends_dev_with_an_error() {
    let (folder, repository) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    git(repository.path(), &["init", "--quiet"], 0);
    let dev = dev(repository.path(), folder.path());
    let ended = TidemarkProcess::ended(&dev, &BTreeMap::new()).await.expect("it ends");
    let log = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{log}");
    assert!(log.contains("it has no commit; nothing was imported; name a repository"), "{log}");
    assert!(!log.contains("is in the log"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newest_first_is_the_order_of_the_commits_and_hits_show_the_clients_time() {
    let (folder, repository) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    git(repository.path(), &["init", "--quiet", "--initial-branch", "main"], 0);
    let commits: Vec<String> = (1..=60)
        .map(|n| {
            // The later a commit, the earlier its author's clock.
            let arguments = ["commit", "--quiet", "--allow-empty", "--message", &format!("commit {n}")];
            git(repository.path(), &arguments, 1_700_000_000 - n);
            git(repository.path(), &["rev-parse", "HEAD"], 0)
        })
        .collect();
    let dev = dev(repository.path(), folder.path());
    let program = TidemarkProcess::serving(&dev, &BTreeMap::new()).await.expect("it starts");
    let all = async {
        loop {
            let page = program.get("/v1/search?kind=bundle&size=100").await.unwrap_or_default();
            let hits = page["hits"].as_array().cloned().unwrap_or_default();
            if hits.len() == commits.len() {
                return hits;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let hits: Vec<Value> = tokio::time::timeout(Duration::from_mins(2), all).await.expect("all commits are found");
    let found: Vec<&str> = hits.iter().rev().map(|hit| hit["bundle"].as_str().expect("it has a bundle")).collect();
    assert_eq!(found, commits);
    for (n, hit) in (1..=60).zip(hits.iter().rev()) {
        // 1 700 000 000 is 22:13:20 of that day.
        let seconds = 800 - n;
        let time = format!("2023-11-14T22:{:02}:{:02}Z", seconds / 60, seconds % 60);
        assert_eq!(hit["client_time"], time.as_str(), "commit {n}");
    }
    assert!(program.stop().await.expect("it stops").success(), "it ends well when it is asked to");
}

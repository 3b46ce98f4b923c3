//! `tidemark index` removes its index when it is asked to, says so, stays, and does not make it again.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tidemark_tests::{TidemarkProcess, folder_environment};

/// The folders of one log, and what a pod is asked to do.
struct LogFolders {
    folder: tempfile::TempDir,
}

impl LogFolders {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().expect("a folder") };
        std::fs::create_dir(place.path("control")).expect("a folder");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn environment(&self, uid: &str) -> BTreeMap<String, String> {
        let variables = [
            ("TIDEMARK_OWNER", format!("k8s:cluster/data/orders/{uid}")),
            ("TIDEMARK_IDENTITY", format!("pod-{uid}")),
            ("TIDEMARK_CONTROL_DIR", self.path("control").display().to_string()),
            ("TIDEMARK_WAIT", "true".to_owned()),
        ];
        let own = variables.into_iter().map(|(name, value)| (name.to_owned(), value));
        folder_environment(self.folder.path()).into_iter().chain(own).collect()
    }

    async fn pod(&self, uid: &str) -> TidemarkProcess {
        TidemarkProcess::serving(&["index"], &self.environment(uid)).await.expect("the indexer starts")
    }

    fn asks_for(&self, uid: &str) {
        std::fs::write(self.path("control/purge"), uid).expect("the file is written");
    }

    /// Every file below the index, by its path there.
    fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        files(&self.path("index"), "", &mut left);
        left.retain(|name| !name.starts_with('.'));
        left.sort();
        left
    }
}

fn files(folder: &Path, below: &str, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            files(&entry.path(), &format!("{name}/"), found);
        } else {
            found.push(name);
        }
    }
}

async fn phase(pod: &TidemarkProcess, phase: &str) -> Value {
    pod.until_answer("/v1/process", |process| process["phase"] == phase).await
}

async fn indexed(pod: &TidemarkProcess, entries: u64) -> Value {
    pod.until_answer("/v1/process", |process| process["entries"].as_u64() >= Some(entries)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_is_removed_once_and_the_next_resource_starts_a_generation_of_its_own() {
    let place = LogFolders::new();
    let pod = place.pod("uid-1").await;
    phase(&pod, "writing").await;
    let count = ["demo", "--count", "12", "--every", "0s", "--seed", "1"];
    TidemarkProcess::output(&count, &place.environment("uid-1")).await.expect("the log is filled");
    indexed(&pod, 12).await;
    std::fs::write(place.path("index/notes.txt"), "somebody's own").expect("a file is written");
    let log: Vec<String> = {
        let mut log = Vec::new();
        files(&place.path("log"), "", &mut log);
        // What a write stages there is renamed at once.
        log.retain(|name| !name.starts_with(".tidemark-aside/"));
        log
    };

    // Somebody else's UID means nothing.
    place.asks_for("uid-0");
    let warning = "ignoring purge request: it names a different owner";
    pod.until_answer("/v1/process", |_| pod.log().contains(warning)).await;
    assert_eq!(phase(&pod, "writing").await["generation"], "g1");

    place.asks_for("uid-1");
    phase(&pod, "purged").await;
    let left = place.left();
    assert_eq!(left.len(), 3, "a fence of two and a stranger: {left:?}");
    assert!(left.contains(&"notes.txt".to_owned()), "{left:?}");
    assert!(left.iter().filter(|name| name.starts_with("g1/manifest/")).count() == 2, "{left:?}");
    for name in log {
        assert!(place.path("log").join(&name).exists(), "\"{name}\" of the log is gone");
    }

    // It is started again, with and without the file.
    pod.kill().await.expect("it is killed");
    let again = place.pod("uid-1").await;
    phase(&again, "purged").await;
    assert!(again.stop().await.expect("it ends").success());
    std::fs::remove_file(place.path("control/purge")).expect("the file is removed");
    let again = place.pod("uid-1").await;
    phase(&again, "purged").await;
    assert!(again.stop().await.expect("it ends").success());
    assert_eq!(place.left(), left);

    // The resource is made again.
    let next = place.pod("uid-2").await;
    let process = indexed(&next, 12).await;
    assert_eq!((&process["generation"], &process["phase"]), (&"g2".into(), &"writing".into()));
}

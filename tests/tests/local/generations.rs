//! `tidemark reindex`, `restore` and `promote` beside an indexer that serves: answers change only as asked for, and indexing goes on. And
//! from what is left where an index is lost.

use std::collections::BTreeMap;

use serde_json::Value;
use tidemark_crds::{Reason, TaskResult, TaskState};
use tidemark_tests::{LocalIndex, TidemarkProcess};

async fn answers_as(before: &BTreeMap<&'static str, Value>, indexer: &TidemarkProcess) {
    let answers = LocalIndex::answers(indexer).await.expect("it answers");
    for (query, before) in before {
        assert_eq!(*before, answers[query], "{query}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_is_rebuilt_restored_and_promoted_beside_its_indexer() {
    let world = LocalIndex::new().expect("the server starts");
    let to = world.ago(600).to_string();
    for number in 0..40 {
        world.bundle(900 - number, &format!("b{number}"));
    }
    world.entry(700, "bundles/repo/never/bundle.yaml".to_owned());
    world.bundle(500, "last");
    let indexer = world.indexer(&[]).await.expect("it starts");
    let of = |generation: &'static str, committed: u64| {
        move |status: &Value| status["generation"] == generation && status["entries"]["committed"] == committed
    };
    indexer.until_answer("/v1/status", of("g1", 41)).await;
    let before = LocalIndex::answers(&indexer).await.expect("it answers");

    let rebuilt = world.done("reindex", &[]).await.expect("it ends");
    assert_eq!((&rebuilt["generation"], &rebuilt["records"]), (&"g2".into(), &42.into()), "{rebuilt}");
    indexer.until_answer("/v1/status", of("g2", 41)).await;
    answers_as(&before, &indexer).await;
    world.bundle(0, "after");
    indexer.until_answer("/v1/status", of("g2", 42)).await;

    let result = tempfile::NamedTempFile::new().expect("a file");
    let result_file = result.path().to_str().expect("a path of text");
    let told = || TaskResult::from_json(&std::fs::read_to_string(result.path()).expect("it is written")).expect("JSON");
    let future = world
        .run("restore", &["--to-time", "2100-01-01T00:00:00Z", "--result-file", result_file])
        .await
        .expect("it ends");
    assert_eq!(future.status.code(), Some(1), "{future:?}");
    assert!(String::from_utf8_lossy(&future.stderr).contains("what is recorded reaches from"), "{future:?}");
    assert_eq!((told().state, told().reason), (TaskState::Refused, Some(Reason::OutsideRecoveryWindow)));
    assert!(!world.server.keys("index").iter().any(|key| key.starts_with("g3/")), "a refused restore writes nothing");

    let restored = world
        .done("restore", &["--to-time", &to, "--task", "r1", "--result-file", result_file])
        .await
        .expect("it ends");
    assert_eq!((&restored["generation"], &restored["records"]), (&"g3".into(), &41.into()), "{restored}");
    assert_eq!((told().state, told().figures.generation.as_deref()), (TaskState::Succeeded, Some("g3")));
    indexer.until_answer("/v1/status", of("g3", 40)).await;
    // What follows the time of the restore is not served from the log either, and nothing is indexed.
    let last = indexer.get("/v1/search?q=bundle:last").await.expect("it answers");
    assert_eq!(last["total"]["value"].as_u64().or(last["total"].as_u64()), Some(0), "{last}");
    assert_eq!(world.done("restore", &["--to-time", &to, "--task", "r1"]).await.expect("it ends")["generation"], "g3");

    let promoted = world.done("promote", &["--task", "p1"]).await.expect("it ends");
    assert_eq!((&promoted["generation"], &promoted["records"]), (&"g3".into(), &43.into()), "{promoted}");
    assert_eq!(
        world.done("promote", &["--task", "p1"]).await.expect("it ends")["generation"],
        "g3",
        "its answer may have been lost"
    );
    world.bundle(0, "since");
    indexer.until_answer("/v1/status", of("g3", 43)).await;
    let again = world.run("promote", &["--result-file", result_file]).await.expect("it ends");
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    assert_eq!((told().state, told().reason), (TaskState::Refused, Some(Reason::NothingToPromote)));
    assert!(indexer.stop().await.expect("it ends").success());
}

/// Entries of some days ago are archived by the first snapshot. Then all of the index is lost but the archive, and the archived entries are
/// cleaned up from the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_was_lost_is_made_again_from_its_archive() {
    let world = LocalIndex::new().expect("the server starts");
    let archived: Vec<_> = (0..40).map(|number| world.bundle(300_000 - number, &format!("b{number}"))).collect();
    world.bundle(500, "last");
    let indexer = world.indexer(&[]).await.expect("it starts");
    let committed = |count: u64| move |status: &Value| status["entries"]["committed"] == count;
    indexer.until_answer("/v1/status", committed(41)).await;
    let before = LocalIndex::answers(&indexer).await.expect("it answers");
    world.until_audited(&indexer, world.ago(200_000)).await;
    let made = world.done("snapshot", &[]).await.expect("it ends");
    assert_eq!(made["archived"], 40, "{made}");
    assert!(indexer.stop().await.expect("it ends").success());
    for key in world.server.keys("index").into_iter().filter(|key| !key.starts_with("archive/")) {
        world.server.remove("index", &key);
    }
    for token in archived {
        world.server.remove("log", &token.to_string());
    }

    let restored = world.done("restore", &["--latest"]).await.expect("it ends");
    assert_eq!((&restored["generation"], &restored["records"]), (&"g2".into(), &40.into()), "{restored}");
    world.done("promote", &[]).await.expect("it ends");
    let indexer = world.indexer(&[]).await.expect("it starts");
    indexer.until_answer("/v1/status", committed(41)).await;
    answers_as(&before, &indexer).await;
    assert!(indexer.stop().await.expect("it ends").success());
}

//! A log that is cleaned up, and an index that is lost: what the log has no more is in the archive below the index, and in the
//! copies of its snapshots.

use std::time::Duration;

use futures::TryStreamExt as _;
use kube::api::DeleteParams;
use serde_json::Value;
use tidemark_crds::ConditionType;
use tidemark_store::Store;
use tidemark_tests::{
    cluster::product::{LogOutside, PATIENCE, TestWal, until},
    faults::{FaultRule, InjectedFault, StoreOperation},
};
use tokio::time::Instant;

use super::{story, task_world::TaskWorld};

/// What is asked before and after.
const QUERIES: [&[(&str, &str)]; 4] = [
    &[("sort", "oldest"), ("size", "100")],
    &[("q", "import"), ("sort", "newest"), ("size", "5"), ("facets", "repo")],
    &[("q", "repo:orders AND outcome:committed"), ("size", "100"), ("sort", "oldest")],
    &[("q", "\"import 3\" OR \"import 7\""), ("sort", "oldest")],
];

/// How long a read of a copied segment takes until the restore was seen: the operator polls a pod that restores every two seconds.
const SLOW_READ: Duration = Duration::from_secs(5);

/// Cleans the log up and loses all of the index but its archive. The WAL is made again and begins with the archive, and a second one,
/// whose index is elsewhere and empty, begins with the copies of the snapshots: the same answers, and both go on.
pub(crate) async fn comes_back(world: &TaskWorld<'_>, log: &LogOutside) {
    let wal = &world.wal;
    let old = log.entries().await.expect("the log is listed");
    world.until_settled(log, &old).await;
    wal.agrees_with(log).await;
    let answers = answers(wal).await;

    world.plugin("snapshot orders --name settled --wait").await;
    world.record_keeps().await;
    world.make("clean-up", "Cleanup").await;
    let cleaned = world.succeeded("clean-up").await;
    let deleted = cleaned.result.clone().unwrap_or_default().deleted_entries.unwrap_or_default();
    let left = log.entries().await.expect("the log is listed");
    println!("clean-up: {} entries were deleted, {} are left: {:?}", deleted, left.len(), cleaned.message);
    assert!(usize::try_from(deleted).is_ok_and(|deleted| deleted >= old.len()), "{cleaned:#?}");
    assert!(old.is_disjoint(&left), "what is in the archive is gone from the log: {left:?}");
    assert_same(&answers, &self::answers(wal).await, "after the clean-up");

    wal.api().delete("orders", &DeleteParams::default()).await.expect("it is deleted");
    until("the WAL and its pods are gone", PATIENCE, async || {
        let pods =
            ["get", "pods", "-n", &world.plan.namespace, "-l", "app.kubernetes.io/component=indexer", "-o", "name"];
        let is_gone = wal.api().get_opt("orders").await.ok()?.is_none();
        (is_gone && world.cluster.kubectl(pods).await.ok()?.is_empty()).then_some(())
    })
    .await;
    lose(&world.index()).await;
    let ((), second) = tokio::join!(from_archive(world, &answers), from_copies(world, &answers));

    let writer = log.writer("ada").await.expect("the writer opens");
    let token = log.append(&writer, "orders", "after the loss").await.expect("it is appended").to_string();
    for wal in [wal, &second] {
        wal.until("indexing goes on", async |_| {
            let found = wal.ask("/v1/search", &[("q", "loss")]).await.ok()?;
            (found["hits"][0]["token"] == *token && sealed(&found)).then_some(())
        })
        .await;
    }
}

async fn from_archive(world: &TaskWorld<'_>, before: &[Value]) {
    let began = Instant::now();
    world.plan.clone().apply(world.cluster).await.expect("it is applied again");
    answers_as(before, &world.wal, "from the archive").await;
    println!("from the archive: {:.1} s", began.elapsed().as_secs_f64());
}

async fn from_copies<'a>(world: &TaskWorld<'a>, before: &[Value]) -> TestWal<'a> {
    let began = Instant::now();
    let slow = FaultRule::always(InjectedFault::Delay(SLOW_READ)).on(StoreOperation::Get);
    let slow = world.copies.inject(slow.key("-copies/orders/g1/segment/"));
    let wal = world.plan_from_copies("second").apply(world.cluster).await.expect("the second WAL is made");
    wal.until_condition(ConditionType::Indexing, "False", "Restoring").await;
    let said = world.plugin("status second").await;
    assert!(said.contains("Restoring"), "{said}");
    world.copies.lift(slow);
    answers_as(before, &wal, "from the copies").await;
    println!("from the copies: {:.1} s", began.elapsed().as_secs_f64());
    let wanted = ["Restoring", "RoleTaken", "CaughtUp"];
    story::assert_in_order(&story::events_until(world.cluster, &wal.namespace, &wal.name, &wanted).await, &wanted);
    wal
}

/// Waits until a WAL that was begun is ready and has all entries, and compares its answers with those before.
async fn answers_as(before: &[Value], wal: &TestWal<'_>, when: &str) {
    wal.until_ready().await;
    wal.until("the index has all entries", async |_| {
        let found = wal.ask("/v1/search", QUERIES[0]).await.ok()?;
        (found["total"] == before[0]["total"] && sealed(&found)).then_some(())
    })
    .await;
    assert_same(before, &answers(wal).await, when);
}

/// Deletes everything of an index but its archive.
async fn lose(index: &Store) {
    let keys: Vec<String> = index.list("", None).map_ok(|listed| listed.key).try_collect().await.expect("it is listed");
    let (archive, rest): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| key.starts_with("archive/"));
    assert!(!archive.is_empty() && !rest.is_empty(), "{archive:?} {rest:?}");
    index.delete(&rest).await.expect("it is deleted");
}

async fn answers(wal: &TestWal<'_>) -> Vec<Value> {
    let mut answers = Vec::new();
    for query in QUERIES {
        answers.push(until("search answers", PATIENCE, async || wal.ask("/v1/search", query).await.ok()).await);
    }
    answers
}

fn sealed(found: &Value) -> bool {
    found["hits"].as_array().is_some_and(|hits| hits.iter().all(|hit| hit["sealed"] == true))
}

/// Compares what does not change with the manifest.
fn assert_same(before: &[Value], after: &[Value], when: &str) {
    for (query, (before, after)) in QUERIES.iter().zip(before.iter().zip(after)) {
        assert!(before["hits"].as_array().is_some_and(|hits| !hits.is_empty()), "{query:?}: {before}");
        for part in ["hits", "total", "facets"] {
            assert_eq!(before[part], after[part], "{when}: {part} of {query:?}");
        }
    }
}

//! A log that is cleaned up, and an index that is lost: the archive has what the log has no more.

use std::{collections::BTreeSet, time::Duration};

use futures::TryStreamExt as _;
use kube::api::DeleteParams;
use serde_json::Value;
use tidemark_catalog::{Generation, IndexChain, LogCursor, RootChain};
use tidemark_store::{Entropy, Store};
use tidemark_tests::{
    cluster::product::{LogOutside, PATIENCE, TestWal, until},
    stores,
};
use tidemark_wal::{Log, Token};

use super::task_world::TaskWorld;

/// What is asked before and after.
const QUERIES: [&[(&str, &str)]; 4] = [
    &[("sort", "oldest"), ("size", "100")],
    &[("q", "import"), ("sort", "newest"), ("size", "5"), ("facets", "repo")],
    &[("q", "repo:orders AND outcome:committed"), ("size", "100"), ("sort", "oldest")],
    &[("q", "\"import 3\" OR \"import 7\""), ("sort", "oldest")],
];

/// Cleans the log up, loses all of the index but its archive, and makes the WAL again: the same answers, and it goes on.
pub(crate) async fn comes_back_from_the_archive(world: &TaskWorld<'_>, log: &LogOutside) {
    let wal = &world.wal;
    let old = log.entries().await.expect("the log is listed");
    settled(world, log, &old).await;
    wal.agrees_with(log).await;
    let answers = answers(wal).await;

    world.plugin("snapshot orders --name settled --wait").await;
    keep(world).await;
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
    lose(&index(world)).await;
    world.plan.clone().apply(world.cluster).await.expect("it is applied again");
    // Its indexer begins with the archive.
    wal.until_ready().await;
    until("the index has all entries", PATIENCE, async || {
        let found = wal.ask("/v1/search", QUERIES[0]).await.ok()?;
        (found["total"] == answers[0]["total"] && sealed(&found)).then_some(())
    })
    .await;
    assert_same(&answers, &self::answers(wal).await, "from the archive");

    let writer = log.writer("ada").await.expect("the writer opens");
    let token = log.append(&writer, "orders", "after the loss").await.expect("it is appended").to_string();
    wal.until("indexing goes on", async |_| {
        let found = wal.ask("/v1/search", &[("q", "loss")]).await.ok()?;
        (found["hits"][0]["token"] == *token && sealed(&found)).then_some(())
    })
    .await;
}

/// Appends until the last look at these entries is published, after which nothing of them changes.
async fn settled(world: &TaskWorld<'_>, log: &LogOutside, entries: &BTreeSet<Token>) {
    let writer = log.writer("grace").await.expect("the writer opens");
    let appending = log.append_forever(writer, "orders", Duration::from_secs(10));
    let (chain, newest) = (chain(world), entries.last().expect("there are entries").second());
    until("the entries are settled", PATIENCE, async || {
        let latest = chain.latest().await.ok()??;
        (latest.state.audited > newest).then_some(())
    })
    .await;
    appending.abort();
}

/// Records what the index keeps of the log, as its indexer does within the hour.
async fn keep(world: &TaskWorld<'_>) {
    let chain = chain(world);
    let latest = chain.latest().await.expect("the index answers").expect("it has a manifest");
    let place = |path: &str| {
        let url = world.plan.spec.pointer(path).and_then(Value::as_str).expect("a place");
        stores::open(url, &world.wal.store.environment())
    };
    let log = Log::over(place("/log/url"), vec![place("/metadata/urls/0"), place("/metadata/urls/1")]);
    let root = RootChain::open(&log, Entropy::from_os());
    let name = chain.index().url().to_string();
    root.keep(&name, chain.generation(), LogCursor(latest.state.audited)).await.expect("it is recorded");
}

fn index(world: &TaskWorld<'_>) -> Store {
    let url = world.plan.spec.pointer("/index/url").and_then(Value::as_str).expect("a place");
    stores::open(url, &world.wal.store.environment())
}

fn chain(world: &TaskWorld<'_>) -> IndexChain {
    IndexChain::open(&index(world), Generation::first(), Entropy::from_os())
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

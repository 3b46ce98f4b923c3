//! What goes and what stays when a WAL or its namespace is deleted.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, ResourceExt as _, api::DeleteParams};
use serde_json::json;
use tidemark_tests::cluster::{
    Cluster,
    product::{PATIENCE, TestWal, WalPlan, until},
};

use super::setup::{cluster, events, objects, plan, unaffected};

const GOING: &str = "going";

/// The keys of a WAL's log and metadata, with their buckets.
async fn written(wal: &TestWal<'_>) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for place in ["wal", "meta", "vmeta"] {
        let bucket = format!("{}-{}-{place}", wal.namespace, wal.name);
        all.extend(objects(&wal.store, &bucket).await.into_iter().map(|key| format!("{bucket}/{key}")));
    }
    all
}

async fn index(wal: &TestWal<'_>) -> BTreeSet<String> {
    objects(&wal.store, &format!("{}-{}-idx", wal.namespace, wal.name)).await
}

/// Applies it, and appends what its index then holds.
async fn filled(plan: WalPlan, cluster: &Cluster) -> TestWal<'_> {
    let wal = plan.apply(cluster).await.expect("it is applied");
    let log = wal.log().await.expect("the log opens");
    let writer = log.writer("test").await.expect("the log has parameters");
    for number in 0..5 {
        log.append(&writer, "orders", &format!("update {number}")).await.expect("it is appended");
    }
    wal.until_ready().await;
    wal.until("all is indexed", async |wal| {
        let status = wal.status.as_ref()?;
        (status.entries? >= 5).then_some(())
    })
    .await;
    wal
}

pub(crate) async fn gone(wal: &TestWal<'_>) {
    until("the WAL is gone", PATIENCE, async || {
        wal.api().get_opt(&wal.name).await.ok().filter(Option::is_none).map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn purge_removes_the_index_alone_and_retain_removes_nothing() {
    let cluster = cluster().await;
    let work = Box::pin(async { tokio::join!(purged(cluster), retained(cluster), namespace_goes(cluster)) });
    unaffected(cluster, GOING, work).await;
}

async fn purged(cluster: &Cluster) {
    let plan = plan(cluster, GOING, "purged").await.with(&json!({"deletionPolicy": "Purge"}));
    let wal = filled(plan, cluster).await;
    let (before, indexed) = (written(&wal).await, index(&wal).await);
    assert!(!indexed.is_empty(), "something is indexed");
    wal.api().delete("purged", &DeleteParams::default()).await.expect("it is deleted");
    gone(&wal).await;
    // The fence stays: a slot and its boundary, so that no writer who wakes up late finds an empty prefix.
    let left = index(&wal).await;
    assert!(
        left.len() <= 2 && left.iter().all(|key| key.contains("/manifest/")),
        "more than the fence stays: {left:?}"
    );
    let after = written(&wal).await;
    assert!(before.is_subset(&after), "log and metadata stay: {:?}", before.difference(&after).collect::<Vec<_>>());
    until("the Event is there", PATIENCE, async || events(cluster, GOING).await.contains("Purged").then_some(())).await;
    println!("purged {} objects of the index; {} of log and metadata stay", indexed.len(), after.len());
}

async fn retained(cluster: &Cluster) {
    let plan = plan(cluster, GOING, "retained").await;
    let wal = filled(plan.clone(), cluster).await;
    let first = wal.get().await.expect("it is there");
    let (before, indexed) = (written(&wal).await, index(&wal).await);
    wal.api().delete("retained", &DeleteParams::default()).await.expect("it is deleted");
    gone(&wal).await;
    assert!(before.is_subset(&written(&wal).await) && !index(&wal).await.is_empty(), "everything stays");
    plan.apply(cluster).await.expect("it is applied again").until_ready().await;
    let again = wal.get().await.expect("it is there");
    assert_ne!(first.uid(), again.uid());
    let epoch = |wal: &tidemark_crds::Wal| wal.status.as_ref().and_then(|status| status.epoch).unwrap_or_default();
    assert!(epoch(&again) > epoch(&first), "{} after {}", epoch(&again), epoch(&first));
    let entries = again.status.and_then(|status| status.entries);
    assert!(entries >= first.status.and_then(|status| status.entries), "the index is used on");
    until("the Event is there", PATIENCE, async || events(cluster, GOING).await.contains("OwnerAdopted").then_some(()))
        .await;
    println!("{} objects of the index were used on", indexed.len());
}

async fn namespace_goes(cluster: &Cluster) {
    let plan = plan(cluster, "going-whole", "whole").await.with(&json!({"deletionPolicy": "Purge"}));
    let wal = filled(plan, cluster).await;
    let before = written(&wal).await;
    let api = Api::<Namespace>::all(cluster.client());
    api.delete("going-whole", &DeleteParams::default()).await.expect("it is deleted");
    let from = tokio::time::Instant::now();
    until("the namespace is gone", Duration::from_mins(6), async || {
        api.get_opt("going-whole").await.ok().filter(Option::is_none).map(drop)
    })
    .await;
    let after = written(&wal).await;
    assert!(before.is_subset(&after), "log and metadata stay: {:?}", before.difference(&after).collect::<Vec<_>>());
    let left = index(&wal).await.len();
    println!("the namespace went in {:?}; {left} objects of the index stay", from.elapsed());
}

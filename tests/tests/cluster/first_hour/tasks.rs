//! Tasks of a WAL that runs: real Jobs in a real cluster, what they leave in the store, and what `kubectl` shows of them.

use kube::{Api, ResourceExt, api::ListParams};
use serde_json::{Value, json};
use tidemark_crds::{ConditionType, TaskFailureClass, TaskFigures, WalTask, WalTaskState, WalTaskStatus, names};
use tidemark_tests::{
    Cluster,
    cluster::product::{TestWal, WalPlan},
};

use super::setup::{installed, shell};
use crate::frozen_job::FrozenJob;

/// A Secret that only the pods of snapshots have.
const COPY_SECRET: &str = "copies";

async fn make_task(cluster: &Cluster, namespace: &str, name: &str, kind: &str) {
    let task = json!({
        "apiVersion": "tidemark.dev/v1alpha1", "kind": "WALTask", "metadata": {"name": name, "namespace": namespace},
        "spec": {"walRef": {"name": "orders"}, "type": kind},
    });
    cluster.apply(&task.to_string()).await.expect("the task is made");
}

/// The status of the task once it ended. Panics unless it succeeded, with the story of its namespace.
async fn ended(wal: &TestWal<'_>, cluster: &Cluster, name: &str) -> WalTaskStatus {
    let tasks = Api::<WalTask>::namespaced(cluster.client(), &wal.namespace);
    let status = wal
        .until(&format!("task {name} ends"), async |_| {
            let status = tasks.get(name).await.ok()?.status?;
            status.state?.is_terminal().then_some(status)
        })
        .await;
    assert_eq!(status.state, Some(WalTaskState::Succeeded), "{status:#?}\n{}", wal.story().await);
    status
}

/// A WAL that copies its snapshots to a bucket with a Secret of its own.
async fn make_wal<'a>(cluster: &'a Cluster, namespace: &str, snapshots: Value) -> TestWal<'a> {
    let store = cluster.minio().await.expect("the store starts");
    let copies = format!("{namespace}-copies");
    let copy_to = json!({"url": format!("s3://{copies}/orders"), "storage": {
        "endpoint": store.endpoint, "region": "us-east-1", "allowHTTP": true,
        "credentials": {"type": "Secret", "secretRef": {"name": COPY_SECRET}},
    }});
    let plan = WalPlan::new(namespace, "orders", &store)
        .with(&json!({"snapshots": snapshots}))
        .with(&json!({"snapshots": {"copyTo": copy_to}}));
    let wal = plan.prepare(cluster).await.expect("its places are made");
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": COPY_SECRET, "namespace": namespace},
        "stringData": {"AWS_ACCESS_KEY_ID": store.access_key, "AWS_SECRET_ACCESS_KEY": store.secret_key},
    });
    store.create_bucket(&copies).await.expect("the bucket of the copies is made");
    cluster.apply(&format!("{secret}\n---\n{}", plan.resource())).await.expect("the WAL is made");
    wal
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn jobs_snapshot_and_verify_a_wal_and_search_answers_the_same() {
    const NAMESPACE: &str = "tasks";
    let cluster = installed().await;
    // No schedule: all tasks are those of the test.
    let by_hand = json!({"schedule": "", "afterEntries": 0, "afterSize": "0", "afterAge": "0s"});
    let wal = make_wal(cluster, NAMESPACE, by_hand).await;
    let log = wal.log().await.expect("its log opens");
    let writer = log.writer("ada").await.expect("the writer opens");
    for n in 0..10 {
        log.append(&writer, "orders", &format!("import {n}")).await.expect("it is appended");
    }
    wal.until_ready().await;
    let entries = wal.agrees_with(&log).await;

    let made = shell(cluster, &format!("kubectl tidemark snapshot orders -n {NAMESPACE} --wait")).await;
    println!("{}", made.unwrap_or_else(|error| panic!("{error}\n")));
    for (name, kind) in [("check", "Verify"), ("collect", "GC")] {
        make_task(cluster, NAMESPACE, name, kind).await;
        let TaskFigures { damaged, .. } = ended(&wal, cluster, name).await.result.unwrap_or_default();
        assert_eq!(damaged.unwrap_or_default(), 0, "{kind}");
    }
    let all = Api::<WalTask>::namespaced(cluster.client(), NAMESPACE).list(&ListParams::default()).await;
    let all = all.expect("the API server answers").items.len();
    let table = cluster.kubectl(["get", "waltask", "-n", NAMESPACE]).await.expect("it is shown");
    println!("{table}");
    assert_eq!(table.matches("Succeeded").count(), all, "{table}");

    wal.until("the newest snapshot is told", async |wal| {
        wal.status.as_ref()?.last_snapshot.as_ref()?.verified.then_some(())
    })
    .await;
    log.append(&writer, "orders", "after the jobs").await.expect("it is appended");
    assert!(wal.agrees_with(&log).await > entries, "indexing goes on");
    wal.until_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn a_schedule_takes_snapshots_and_a_job_that_is_killed_is_tried_again() {
    const NAMESPACE: &str = "nightly";
    let cluster = installed().await;
    let wal = make_wal(cluster, NAMESPACE, json!({"schedule": "* * * * *"})).await;
    let log = wal.log().await.expect("its log opens");
    let writer = log.writer("ada").await.expect("the writer opens");
    log.append(&writer, "orders", "first import").await.expect("it is appended");
    wal.until_ready().await;
    wal.until_condition(ConditionType::SnapshotCurrent, "True", "SnapshotCurrent").await;
    let tasks = Api::<WalTask>::namespaced(cluster.client(), NAMESPACE);
    let made = tasks.list(&ListParams::default()).await.expect("the API server answers").items;
    assert!(made.iter().all(|task| task.labels().contains_key(names::LABEL_SCHEDULE)), "{made:#?}");
    let story = shell(cluster, &format!("kubectl tidemark tasks orders -n {NAMESPACE}")).await;
    let story = story.unwrap_or_else(|error| panic!("{error}"));
    println!("{story}");
    assert!(story.contains("schedule") && story.contains("Succeeded"), "{story}");

    // Nothing more by the schedule: of writing tasks one runs at a time.
    wal.patch(&json!({"spec": {"snapshots": {"schedule": ""}}})).await.expect("it is changed");
    let frozen = FrozenJob::watch(cluster, "halfway");
    make_task(cluster, NAMESPACE, "halfway", "Snapshot").await;
    let frozen = frozen.await.expect("it does not panic").expect("its job runs");
    make_task(cluster, NAMESPACE, "next", "GC").await;
    frozen.kill().expect("it is killed");
    let failed =
        wal.until("the attempt has failed", async |_| tasks.get("halfway").await.ok()?.status?.failure_class).await;
    assert_eq!(failed, TaskFailureClass::Crashed);
    let halfway = ended(&wal, cluster, "halfway").await;
    assert_eq!(halfway.attempts, Some(2), "{halfway:#?}");
    let next = ended(&wal, cluster, "next").await;
    assert!(next.start_time >= halfway.completion_time, "one at a time writes: {halfway:#?} {next:#?}");
    let table = cluster.kubectl(["get", "waltask", "-n", NAMESPACE, "-o", "wide"]).await.expect("it is shown");
    println!("{table}");
    assert!(wal.agrees_with(&log).await >= 1);
}

//! Tasks of a WAL that runs: real Jobs in a real cluster, what they leave in the store, and what `kubectl` shows of them.

use kube::{Api, api::ListParams};
use serde_json::json;
use tidemark_crds::{WalTask, WalTaskState};
use tidemark_tests::{
    Cluster,
    cluster::product::{TestWal, WalPlan},
};

use super::setup::{installed, shell};

const NAMESPACE: &str = "tasks";

/// The task once it ended. Panics unless it succeeded, with the story of its namespace.
async fn ended(cluster: &Cluster, wal: &TestWal<'_>, name: &str) -> WalTask {
    let tasks = Api::<WalTask>::namespaced(cluster.client(), NAMESPACE);
    let task = wal
        .until(&format!("task {name} ends"), async |_| {
            let task = tasks.get(name).await.ok()?;
            task.status.as_ref()?.state?.is_terminal().then_some(task)
        })
        .await;
    let state = task.status.as_ref().and_then(|status| status.state);
    assert_eq!(state, Some(WalTaskState::Succeeded), "{:#?}\n{}", task.status, wal.story().await);
    task
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn jobs_snapshot_and_verify_a_wal_and_search_answers_the_same() {
    let cluster = installed().await;
    let store = cluster.minio().await.expect("the store starts");
    let wal = WalPlan::new(NAMESPACE, "orders", &store).apply(cluster).await.expect("the WAL is made");
    let log = wal.log().await.expect("its log opens");
    let writer = log.writer("ada").await.expect("the writer opens");
    for n in 0..10 {
        log.append(&writer, "orders", &format!("import {n}")).await.expect("it is appended");
    }
    wal.until_ready().await;
    let entries = wal.agrees_with(&log).await;

    let made = shell(cluster, &format!("kubectl tidemark snapshot orders -n {NAMESPACE} --wait")).await;
    println!("{}", made.unwrap_or_else(|error| panic!("{error}")));
    for (name, kind) in [("check", "Verify"), ("collect", "GC")] {
        let task = json!({
            "apiVersion": "tidemark.dev/v1alpha1", "kind": "WALTask",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"walRef": {"name": "orders"}, "type": kind},
        });
        cluster.apply(&task.to_string()).await.expect("the task is made");
        let result = ended(cluster, &wal, name).await.status.and_then(|status| status.result);
        println!("{kind}: {}", serde_json::to_string(&result).expect("it is JSON"));
        assert_eq!(result.and_then(|result| result.damaged).unwrap_or_default(), 0, "{kind}");
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

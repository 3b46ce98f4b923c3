//! Tasks of WALs that run: real Jobs in a real cluster, what they leave in the store, and what `kubectl` shows of them.

use kube::ResourceExt;
use serde_json::json;
use tidemark_crds::{ConditionType, TaskFailureClass, names};
use tidemark_tests::Cluster;

use super::{lost_index, setup::installed, task_world::TaskWorld};
use crate::frozen_job::FrozenJob;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn tasks_by_hand_and_by_schedule_do_what_they_say() {
    let cluster = installed().await;
    // Side by side: each waits most of the time.
    Box::pin(async { tokio::join!(by_hand(cluster), by_schedule(cluster)) }).await;
}

/// Snapshot, verification and collection by hand; then the log is cleaned up, the index is lost, and the archive brings it back.
async fn by_hand(cluster: &Cluster) {
    let changes = json!({
        // What is sealed is settled.
        "log": {"auditWindow": "0s"},
        // No schedule: all tasks are those of the test.
        "snapshots": {"schedule": "", "afterEntries": 0, "afterSize": "0", "afterAge": "0s"},
        "cleanup": {"minAge": "1s", "keepSnapshots": 1},
    });
    let world = TaskWorld::create(cluster, "by-hand", &changes).await;
    let wal = &world.wal;
    let log = wal.log().await.expect("its log opens");
    let writer = log.writer("ada").await.expect("the writer opens");
    for n in 0..10 {
        log.append(&writer, "orders", &format!("import {n}")).await.expect("it is appended");
    }
    wal.until_ready().await;
    let entries = wal.agrees_with(&log).await;

    world.plugin("snapshot orders --wait").await;
    for (name, kind) in [("check", "Verify"), ("collect", "GC")] {
        world.make(name, kind).await;
        let figures = world.succeeded(name).await.result.unwrap_or_default();
        assert_eq!(figures.damaged.unwrap_or_default(), 0, "{kind}");
    }
    let (table, all) = (world.table().await, world.list().await.len());
    assert_eq!((table.matches("Succeeded").count(), all), (3, 3), "{table}");
    wal.until("the WAL says that the newest snapshot is verified", async |wal| {
        wal.status.as_ref()?.last_snapshot.as_ref()?.verified.then_some(())
    })
    .await;
    log.append(&writer, "orders", "after the jobs").await.expect("it is appended");
    assert!(wal.agrees_with(&log).await > entries, "indexing goes on");
    wal.until_ready().await;
    lost_index::comes_back_from_the_archive(&world, &log).await;
}

async fn by_schedule(cluster: &'static Cluster) {
    // The image has no files of time zones: the program has them.
    let changes = json!({
        "snapshots": {"schedule": "* * * * *", "timeZone": "Asia/Kathmandu"},
        "verify": {"schedule": "* * * * *", "timeZone": "America/St_Johns"},
    });
    let world = TaskWorld::create(cluster, "by-schedule", &changes).await;
    let wal = &world.wal;
    let log = wal.log().await.expect("its log opens");
    let writer = log.writer("ada").await.expect("the writer opens");
    log.append(&writer, "orders", "first import").await.expect("it is appended");
    wal.until_ready().await;
    wal.until_condition(ConditionType::SnapshotCurrent, "True", "SnapshotCurrent").await;
    wal.until("the WAL says when it was last verified", async |wal| {
        wal.status.as_ref()?.last_verification.as_ref().map(|last| assert!(!last.is_damaged(), "{last:?}"))
    })
    .await;
    let made = world.list().await;
    assert!(!made.is_empty() && made.iter().all(|task| task.labels().contains_key(names::LABEL_SCHEDULE)), "{made:#?}");
    let said = world.plugin("tasks orders").await;
    assert!(said.contains("schedule") && said.contains("Succeeded"), "{said}");

    // Nothing more by the schedule: of writing tasks one runs at a time.
    let none = json!({"schedule": ""});
    wal.patch(&json!({"spec": {"snapshots": none, "verify": none}})).await.expect("it is changed");
    let frozen = FrozenJob::watch(cluster, "halfway");
    world.make("halfway", "Snapshot").await;
    let frozen = frozen.await.expect("it does not panic").expect("its job runs");
    world.make("next", "GC").await;
    frozen.kill().expect("it is killed");
    let tasks = world.tasks();
    let failed =
        wal.until("the attempt has failed", async |_| tasks.get("halfway").await.ok()?.status?.failure_class).await;
    assert_eq!(failed, TaskFailureClass::Crashed);
    let halfway = world.succeeded("halfway").await;
    assert_eq!(halfway.attempts, Some(2), "{halfway:#?}");
    let next = world.succeeded("next").await;
    assert!(next.start_time >= halfway.completion_time, "one at a time writes: {halfway:#?} {next:#?}");
    assert!(wal.agrees_with(&log).await >= 1);

    let before =
        wal.get().await.expect("it is read").status.and_then(|status| status.generation).expect("it has a generation");
    world.make("again", "Reindex").await;
    let made = world.succeeded("again").await.result.and_then(|result| result.generation);
    assert!(made.as_ref().is_some_and(|made| *made != before), "{made:?} after {before}");
    wal.until("the WAL has the new generation", async |wal| (wal.status.as_ref()?.generation == made).then_some(()))
        .await;
    assert!(wal.agrees_with(&log).await >= 1);
    world.table().await;
}

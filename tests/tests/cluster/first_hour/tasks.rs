//! Tasks of WALs that run: real Jobs in a real cluster, what they leave in the store, and what `kubectl` shows of them.

use kube::ResourceExt;
use serde_json::{Value, json};
use tidemark_crds::{ConditionType, TaskFailureClass, TaskType, WalTask, WalTaskState, names};
use tidemark_tests::{
    Cluster,
    cluster::product::{LogOutside, SECRET},
};
use tidemark_wal::Token;

use super::{
    lost_index,
    setup::installed,
    task_world::{TaskWorld, storage},
};
use crate::{frozen_job::FrozenJob, held_store::HeldStore};

/// The version by which the archive begins: what was written before it is no part of anything.
const FIRST_VERSION: &str = "/metadata/v1.metadata.json";

/// What has a schedule, each in a time zone: the image has no files of them, the program has them.
const SCHEDULED: [(&str, TaskType, &str); 4] = [
    ("snapshots", TaskType::Snapshot, "Asia/Kathmandu"),
    ("cleanup", TaskType::Cleanup, "Pacific/Chatham"),
    ("verify", TaskType::Verify, "America/St_Johns"),
    ("gc", TaskType::GC, "Australia/Eucla"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn tasks_by_hand_and_by_schedule_do_what_they_say() {
    let cluster = installed().await;
    // Side by side: each waits most of the time.
    Box::pin(async { tokio::join!(by_hand(cluster), by_schedule(cluster)) }).await;
}

/// Snapshot, verification and collection by hand; then the log is cleaned up, the index is lost, and archive and copies bring it back.
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
    Box::pin(lost_index::comes_back(&world, &log)).await;
}

/// Nothing by a schedule at first, while a job is killed and the index is built again; then each schedule makes a task in the same minute,
/// and the clean-up follows the snapshot.
async fn by_schedule(cluster: &'static Cluster) {
    let store = cluster.minio().await.expect("the store starts");
    let way = HeldStore::before(cluster, &store).expect("it listens");
    let changes = json!({
        // What is sealed is settled.
        "log": {"auditWindow": "0s"},
        "index": {"storage": storage(way.endpoint(), SECRET)},
        "snapshots": {"schedule": ""},
        "cleanup": {"minAge": "1s", "keepSnapshots": 1},
    });
    let world = TaskWorld::create(cluster, "by-schedule", &changes).await;
    let wal = &world.wal;
    let log = wal.log().await.expect("its log opens");
    let writer = log.writer("ada").await.expect("the writer opens");
    let first = log.append(&writer, "orders", "first import").await.expect("it is appended");
    wal.until_ready().await;
    world.until_settled(&log, &[first].into()).await;
    killed_halfway(&world, &way).await;
    let generation = built_again(&world).await;
    // Else no snapshot is due.
    log.append(&writer, "orders", "after the snapshot").await.expect("it is appended");
    assert!(wal.agrees_with(&log).await >= 2);
    world.record_keeps().await;
    each_schedule(&world, &log, first).await;
    wal.until("the WAL has the new generation", async |wal| {
        (wal.status.as_ref()?.generation.as_ref() == Some(&generation)).then_some(())
    })
    .await;
}

/// A snapshot that is killed once it has written data of the archive, which no version names yet, is tried again, and the next task that
/// writes waits for its end.
async fn killed_halfway(world: &TaskWorld<'static>, way: &HeldStore) {
    let (wal, tasks) = (&world.wal, world.tasks());
    way.hold(FIRST_VERSION);
    world.make("halfway", "Snapshot").await;
    wal.until("the archive's first version is held up", async |_| way.is_holding().then_some(())).await;
    let written = world.archive().await;
    assert!(written.iter().any(|key| key.ends_with(".parquet")), "{written:?}");
    assert!(!written.iter().any(|key| key.contains(FIRST_VERSION)), "{written:?}");
    world.make("next", "GC").await;
    let frozen = FrozenJob::watch(world.cluster, "halfway").await.expect("it does not panic").expect("its job runs");
    frozen.kill().expect("it is killed");
    way.lift();
    let failed =
        wal.until("the attempt has failed", async |_| tasks.get("halfway").await.ok()?.status?.failure_class).await;
    assert_eq!(failed, TaskFailureClass::Crashed);
    let halfway = world.succeeded("halfway").await;
    assert_eq!(halfway.attempts, Some(2), "{halfway:#?}");
    let written = world.archive().await;
    assert!(written.iter().any(|key| key.contains(FIRST_VERSION)), "{written:?}");
    let next = world.succeeded("next").await;
    assert!(next.start_time >= halfway.completion_time, "one at a time writes: {halfway:#?} {next:#?}");
}

/// Turns all schedules on for a minute: the entry `first` is archived, deleted from the log, and still found.
async fn each_schedule(world: &TaskWorld<'_>, log: &LogOutside, first: Token) {
    let wal = &world.wal;
    schedule(world, "* * * * *").await;
    wal.until("each schedule has made a task that succeeded", async |_| {
        let made = world.list().await;
        let has_made = |kind| made.iter().any(|task| has_succeeded_by_schedule(task, kind));
        SCHEDULED.iter().all(|(_, kind, _)| has_made(*kind)).then_some(())
    })
    .await;
    wal.until_condition(ConditionType::SnapshotCurrent, "True", "SnapshotCurrent").await;
    let verified = wal
        .until("the WAL says when a snapshot was last restored for a trial", async |wal| {
            wal.status.as_ref()?.last_verification.clone().filter(|last| last.last_drill.is_some())
        })
        .await;
    println!("by schedule: {verified:?}");
    assert!(!verified.is_damaged() && verified.drill_damage.is_none(), "{verified:?}");
    let cleaned = wal
        .until("the WAL says what the last clean-up has freed", async |wal| {
            wal.status.as_ref()?.last_cleanup.clone().filter(|last| last.deleted_entries.is_some_and(|count| count > 0))
        })
        .await;
    println!("by schedule: {cleaned:?}");
    assert!(cleaned.deleted_bytes.is_some_and(|bytes| bytes > 0), "{cleaned:?}");
    schedule(world, "").await;
    let left = log.entries().await.expect("the log is listed");
    assert!(!left.contains(&first), "it is gone from the log: {left:?}");
    finds(world, first).await;

    let (table, tasks) = (world.table().await, world.plugin("tasks orders").await);
    for (_, kind, _) in SCHEDULED {
        let name = format!("orders-{}-", kind.as_str().to_lowercase());
        let is_shown = |said: &str, words: &[&str]| {
            said.lines().any(|line| line.starts_with(&name) && words.iter().all(|word| line.contains(word)))
        };
        assert!(is_shown(&table, &[kind.as_str(), "Succeeded"]), "{name}: {table}");
        assert!(is_shown(&tasks, &[kind.as_str(), "schedule", "Succeeded"]), "{name}: {tasks}");
    }
}

/// Gives everything that has a schedule this one.
async fn schedule(world: &TaskWorld<'_>, cron: &str) {
    let schedules = SCHEDULED.map(|(part, _, zone)| (part.to_owned(), json!({"schedule": cron, "timeZone": zone})));
    let mut spec = Value::Object(schedules.into_iter().collect());
    spec["cleanup"]["enabled"] = json!(true);
    spec["verify"]["drill"] = json!(true);
    world.wal.patch(&json!({"spec": spec})).await.expect("it is changed");
}

fn has_succeeded_by_schedule(task: &WalTask, kind: TaskType) -> bool {
    let state = task.status.as_ref().and_then(|status| status.state);
    let is_scheduled = task.labels().contains_key(names::LABEL_SCHEDULE);
    is_scheduled && task.spec.r#type == kind && state == Some(WalTaskState::Succeeded)
}

/// Gives the new generation.
async fn built_again(world: &TaskWorld<'_>) -> String {
    let before = world.wal.until("it has a generation", async |wal| wal.status.as_ref()?.generation.clone()).await;
    world.make("again", "Reindex").await;
    let made = world.succeeded("again").await.result.and_then(|result| result.generation);
    made.filter(|made| *made != before).expect("it is another generation")
}

/// Waits until search finds the sealed entry.
async fn finds(world: &TaskWorld<'_>, entry: Token) {
    let (wal, token) = (&world.wal, entry.to_string());
    wal.until("search finds the first import", async |_| {
        let found = wal.ask("/v1/search", &[("q", "\"first import\"")]).await.ok()?;
        let mut hits = found["hits"].as_array()?.iter();
        hits.any(|hit| hit["token"] == *token && hit["sealed"] == true).then_some(())
    })
    .await;
}

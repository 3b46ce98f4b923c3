//! Schedules on an API server in memory. Tasks do nothing there: the tests end them.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::events::v1::Event;
use kube::{
    ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
    runtime::reflector::store,
};
use serde_json::{Value, json};
use tidemark_crds::{ConditionType, Wal, WalStatus, WalTask, condition, names};
use tokio::time::sleep;

use crate::{
    clock,
    controllers::{
        fake_world::{FakeWorld, eventually, settings, settled, wal_spec},
        kind_controller::run_kind,
        wal::WalController,
    },
    reconcile_queues::ReconcileQueues,
    upgrade_slots::UpgradeSlots,
    writing_turns::WritingTurns,
};

/// One operator.
fn start_operator(world: &mut FakeWorld) {
    let mut queues = ReconcileQueues::default();
    let changed = queues.open(names::KIND, None);
    let context = world.context(queues, settings());
    let tasks = world.follow_tasks(&context);
    let slots = Arc::new(UpgradeSlots::new(1, 1));
    let controller = WalController::new(context.clone(), slots, WritingTurns::default(), tasks);
    world.run(context, |shared, listed| run_kind(controller, store(), shared, None, changed, listed));
}

/// A WAL whose snapshots are hourly and were last done with ten days ago, with an index that holds something.
async fn make_wal(world: &FakeWorld, change: impl FnOnce(&mut Value)) {
    let mut spec = wal_spec();
    spec["snapshots"] = json!({"schedule": "0 * * * *", "afterEntries": 0, "afterSize": "0", "afterAge": "0s"});
    change(&mut spec);
    world.make::<Wal>("orders", spec).await;
    let long_ago = clock::now() - SignedDuration::from_hours(240);
    let status = json!({"status": {"generation": "g1", "entries": 5, "schedules": {"snapshot": long_ago}}});
    patch_status(world, "orders", &status).await;
}

async fn patch_status(world: &FakeWorld, wal: &str, status: &Value) {
    let api = world.untyped::<Wal>();
    api.patch_status(wal, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
}

async fn tasks(world: &FakeWorld) -> Vec<WalTask> {
    world.api::<WalTask>().list(&ListParams::default()).await.unwrap().items
}

async fn only_task(world: &FakeWorld) -> WalTask {
    eventually("a task is made", async || tasks(world).await.into_iter().next()).await
}

async fn end(world: &FakeWorld, task: &str, status: Value) {
    let api = world.untyped::<WalTask>();
    api.patch_status(task, &PatchParams::default(), &Patch::Merge(&json!({"status": status}))).await.unwrap();
}

async fn status(world: &FakeWorld) -> WalStatus {
    world.api::<Wal>().get("orders").await.unwrap().status.unwrap_or_default()
}

/// Waits until `SnapshotCurrent` has this reason, and gives its message.
async fn is(world: &FakeWorld, reason: &str) -> String {
    eventually(&format!("SnapshotCurrent is {reason}"), async || {
        let status = status(world).await;
        let found = condition(&status.conditions, ConditionType::SnapshotCurrent)?;
        (found.reason == reason).then(|| found.message.clone())
    })
    .await
}

async fn events(world: &FakeWorld) -> Vec<String> {
    let events = world.api::<Event>().list(&ListParams::default()).await.unwrap();
    events.items.into_iter().filter_map(|event| event.reason).collect()
}

/// The full hour that began last.
fn this_hour() -> Timestamp {
    let second = clock::now().as_second();
    Timestamp::from_second(second - second % 3600).unwrap()
}

#[tokio::test(start_paused = true)]
async fn missed_slots_are_one_task_whose_result_becomes_the_status() {
    let mut world = FakeWorld::new();
    start_operator(&mut world);
    let before = this_hour();
    make_wal(&world, |_| ()).await;
    let task = only_task(&world).await;
    let slot = task.annotations()[names::ANNOTATION_SLOT].parse::<Timestamp>().unwrap();
    assert!(slot == before || slot == this_hour(), "{slot}");
    let minute = u64::try_from(slot.as_second() / 60).unwrap();
    assert_eq!(task.name_any(), names::scheduled_task("orders", "snapshot", minute));
    let wal = world.api::<Wal>().get("orders").await.unwrap();
    let owner = &task.owner_references()[0];
    assert_eq!(
        (owner.kind.as_str(), owner.uid.as_str(), owner.controller),
        ("WAL", wal.uid().unwrap().as_str(), Some(true))
    );
    assert_eq!(task.labels()[names::LABEL_SCHEDULE], "snapshot");
    eventually("the slot is done with", async || {
        status(&world).await.schedules?.snapshot.filter(|done| done.0 == slot)
    })
    .await;
    settled(|| world.server.writes()).await;
    assert_eq!(tasks(&world).await.len(), 1);

    let window = json!({"first": "2026-11-01T00:00:00Z", "last": "2026-11-20T00:00:00Z"});
    let result = json!({"snapshot": "s-1", "recoveryWindow": window});
    end(&world, &task.name_any(), json!({"state": "Succeeded", "completionTime": clock::now(), "result": result}))
        .await;
    let message = is(&world, "SnapshotCurrent").await;
    assert!(message.contains("\"s-1\""), "{message}");
    let told = status(&world).await;
    let last = told.last_snapshot.unwrap();
    assert_eq!((last.name.as_str(), last.verified, last.entries), ("s-1", true, Some(5)));
    assert!(told.recovery_window.is_some());
    assert!(events(&world).await.contains(&"SnapshotTaken".to_owned()));
    settled(|| world.server.writes()).await;
    assert_eq!(tasks(&world).await.len(), 1, "nothing has changed");
}

#[tokio::test(start_paused = true)]
async fn an_operator_that_starts_at_the_slot_and_a_second_one_make_no_other_task() {
    let mut world = FakeWorld::new();
    start_operator(&mut world);
    start_operator(&mut world);
    make_wal(&world, |_| ()).await;
    only_task(&world).await;
    settled(|| world.server.writes()).await;
    // What the first two wrote to the status is lost.
    let long_ago = clock::now() - SignedDuration::from_hours(240);
    patch_status(&world, "orders", &json!({"status": {"schedules": {"snapshot": long_ago}}})).await;
    start_operator(&mut world);
    sleep(Duration::from_mins(30)).await;
    assert_eq!(tasks(&world).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_a_condition_and_an_event() {
    let mut world = FakeWorld::new();
    start_operator(&mut world);
    make_wal(&world, |_| ()).await;
    let task = only_task(&world).await.name_any();
    end(
        &world,
        &task,
        json!({"state": "Failed", "completionTime": clock::now(), "message": "the disk is full; free some"}),
    )
    .await;
    let message = is(&world, "SnapshotFailed").await;
    assert!(message.contains("the disk is full; free some") && message.contains(&task), "{message}");
    let counted =
        "tidemark_operator_wals{condition=\"SnapshotCurrent\",status=\"False\",reason=\"SnapshotFailed\"} 1\n";
    assert!(world.metrics.encode().unwrap().contains(counted));
    assert!(
        world
            .metrics
            .encode()
            .unwrap()
            .contains("tidemark_operator_scheduled_tasks_total{type=\"Snapshot\",result=\"created\"} 1\n")
    );
    assert!(events(&world).await.contains(&"SnapshotFailed".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn no_task_is_made_while_the_wal_is_suspended() {
    let mut world = FakeWorld::new();
    start_operator(&mut world);
    make_wal(&world, |spec| spec["suspend"] = json!(true)).await;
    let message = is(&world, "SnapshotOverdue").await;
    assert!(message.contains("suspended"), "{message}");
    settled(|| world.server.writes()).await;
    assert!(tasks(&world).await.is_empty());
    let api = world.untyped::<Wal>();
    api.patch("orders", &PatchParams::default(), &Patch::Merge(&json!({"spec": {"suspend": false}}))).await.unwrap();
    only_task(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_cannot_be_made_is_reported_in_the_servers_words_and_tried_again() {
    let mut world = FakeWorld::new();
    start_operator(&mut world);
    world.server.refuse_creation(Some("waltasks"));
    make_wal(&world, |_| ()).await;
    let message = is(&world, "SnapshotOverdue").await;
    assert!(message.contains("no, says a policy"), "{message}");
    world.server.refuse_creation(None);
    only_task(&world).await;
}

#[tokio::test(start_paused = true)]
async fn a_foreign_object_that_has_the_name_stays_and_is_not_tried_for_ever() {
    let mut world = FakeWorld::new();
    let minute = |hour: Timestamp| u64::try_from(hour.as_second() / 60).unwrap();
    let name = names::scheduled_task("orders", "snapshot", minute(this_hour()));
    world.make::<WalTask>(&name, json!({"walRef": {"name": "bills"}, "type": "GC"})).await;
    start_operator(&mut world);
    make_wal(&world, |_| ()).await;
    eventually("the slot is done with", async || {
        let long_ago = clock::now() - SignedDuration::from_hours(2);
        status(&world).await.schedules?.snapshot.filter(|done| done.0 > long_ago)
    })
    .await;
    settled(|| world.server.writes()).await;
    let found = tasks(&world).await;
    assert!(found.iter().any(|task| task.name_any() == name && task.spec.wal_ref.name == "bills"));
}

#[tokio::test(start_paused = true)]
async fn old_tasks_of_a_schedule_are_removed() {
    let mut world = FakeWorld::new();
    for day in 10..16 {
        let ended = format!("2026-01-{day}T03:00:00Z");
        let name = format!("orders-snapshot-{day}");
        world.make::<WalTask>(&name, json!({"walRef": {"name": "orders"}, "type": "Snapshot"})).await;
        let label = json!({"metadata": {"labels": {names::LABEL_SCHEDULE: "snapshot"}}});
        world.untyped::<WalTask>().patch(&name, &PatchParams::default(), &Patch::Merge(&label)).await.unwrap();
        end(&world, &name, json!({"state": "Succeeded", "completionTime": ended})).await;
    }
    start_operator(&mut world);
    make_wal(&world, |spec| spec["suspend"] = json!(true)).await;
    let api = world.untyped::<Wal>();
    api.patch("orders", &PatchParams::default(), &Patch::Merge(&json!({"spec": {"suspend": false}}))).await.unwrap();
    eventually("the oldest are removed", async || {
        let mut left: Vec<_> = tasks(&world).await.iter().map(kube::ResourceExt::name_any).collect();
        left.retain(|name| name.len() == "orders-snapshot-10".len());
        (left == ["orders-snapshot-13", "orders-snapshot-14", "orders-snapshot-15"]).then_some(())
    })
    .await;
}

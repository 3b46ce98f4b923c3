//! Schedules of a WAL: the tasks that they make, and what their results say of the WAL. The pods of the tasks are acted.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tidemark_crds::{
    ConditionType, WalStatus, WalTask,
    names::{self, WalComponent},
};
use tidemark_tests::controller::{ControllerWorld, eventually, say};

/// Hourly, and by nothing else.
const HOURLY: &str = "snapshots: {schedule: '0 * * * *', afterEntries: 0, afterSize: '0', afterAge: '0s'}";

async fn tasks(world: &ControllerWorld) -> anyhow::Result<Vec<WalTask>> {
    Ok(world.api::<WalTask>().list(&ListParams::default()).await?.items)
}

async fn only_task(world: &ControllerWorld) -> WalTask {
    let made = eventually("a task is made", async || Ok(tasks(world).await?.into_iter().next())).await;
    let made = made.expect("it is made");
    assert_eq!(tasks(world).await.expect("they are listed").len(), 1);
    made
}

async fn status(world: &ControllerWorld) -> WalStatus {
    world.wals().get("orders").await.expect("it is there").status.unwrap_or_default()
}

/// The operator has done nothing for the schedule in ten days.
async fn forget(world: &ControllerWorld) -> Timestamp {
    let known = eventually("the schedule was looked at", async || Ok(status(world).await.schedules)).await;
    let now = known.expect("it is").snapshot.expect("snapshots have times").0;
    let long_ago = now - SignedDuration::from_hours(240);
    let status = json!({"status": {"schedules": {"snapshot": long_ago}}});
    world.wals().patch_status("orders", &PatchParams::default(), &Patch::Merge(&status)).await.expect("it is changed");
    long_ago
}

/// The pod of the task's Job ends with this result; one that is not a success is a failure of the pod.
async fn finish(world: &ControllerWorld, task: &str, result: Value) -> anyhow::Result<()> {
    let pods = world.api::<Pod>();
    let of_task = ListParams::default().labels(&format!("{}={task}", names::LABEL_TASK));
    let pod = eventually("the Job has a pod", async || Ok(pods.list(&of_task).await?.items.into_iter().next())).await?;
    let container = pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| &container.name).next();
    let (phase, code) = if result["state"] == "succeeded" { ("Succeeded", 0) } else { ("Failed", 1) };
    let ended = json!({"status": {
        "phase": phase,
        "containerStatuses": [{
            "name": container, "image": "i", "imageID": "i", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": code, "reason": "Completed", "message": result.to_string()}},
        }],
    }});
    pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&ended)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn missed_slots_are_one_task_whose_success_is_told_by_the_wal() {
    let world = ControllerWorld::create().await.expect("it starts");
    let operator = world.operator().await.expect("it starts");
    world.make("orders", HOURLY).await.expect("it is created");
    world.is_ready("orders").await.expect("it is indexed");
    world.is("orders", ConditionType::SnapshotCurrent, "Unknown/Pending").await.expect("nothing was due yet");
    assert!(tasks(&world).await.expect("they are listed").is_empty(), "a new schedule has missed nothing");

    forget(&world).await;
    let task = only_task(&world).await;
    let slot: Timestamp = task.annotations()[names::ANNOTATION_SLOT].parse().expect("it is a time");
    assert_eq!(slot.as_second() % 3600, 0, "{slot}");
    let minute = u64::try_from(slot.as_second() / 60).expect("it is not long ago");
    assert_eq!(task.name_any(), names::scheduled_task("orders", "snapshot", minute));

    // What the operator knew is lost, also of the slot.
    operator.kill();
    forget(&world).await;
    let operator = world.operator().await.expect("it starts");
    let window = json!({"first": "2026-11-01T00:00:00Z", "last": "2026-11-21T10:00:00Z"});
    let result = json!({"state": "succeeded", "message": "done", "snapshot": "s-1", "recoveryWindow": window});
    finish(&world, &task.name_any(), result).await.expect("it ends");
    let message = world.is("orders", ConditionType::SnapshotCurrent, "True/SnapshotCurrent").await.expect("it is told");
    assert!(message.contains("\"s-1\""), "{message}");
    assert_eq!(only_task(&world).await.uid(), task.uid());
    let told = status(&world).await;
    assert_eq!(told.last_snapshot.as_ref().map(|last| (last.name.as_str(), last.entries)), Some(("s-1", Some(10))));
    assert!(told.recovery_window.is_some());
    world.has_event("orders", "SnapshotTaken").await.expect("it is reported");
    eventually("the metrics tell it", async || {
        let first = operator.metric("tidemark_operator_wal_recovery_window_start_seconds", &["wal=\"orders\""]).await;
        Ok(first.ok().filter(|first| (*first - 1_793_491_200.0).abs() < 0.5))
    })
    .await
    .expect("they do");

    // Nothing has changed since: a slot passes without a task.
    world.api::<WalTask>().delete(&task.name_any(), &DeleteParams::background()).await.expect("it is deleted");
    eventually("the task is gone", async || Ok(tasks(&world).await?.is_empty().then_some(()))).await.expect("it goes");
    let long_ago = forget(&world).await;
    eventually("the slot is done with", async || {
        Ok(status(&world).await.schedules.and_then(|done| done.snapshot).filter(|done| done.0 > long_ago))
    })
    .await
    .expect("it passes");
    assert!(tasks(&world).await.expect("they are listed").is_empty());

    world.pods.say(WalComponent::Indexer, say::writing(1, 11));
    eventually("the entry is seen", async || Ok((status(&world).await.entries == Some(11)).then_some(())))
        .await
        .expect("it is counted");
    forget(&world).await;
    assert_ne!(only_task(&world).await.uid(), task.uid());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_has_grown_asks_for_a_snapshot_and_a_failure_is_told() {
    let world = ControllerWorld::create().await.expect("it starts");
    let _operator = world.operator().await.expect("it starts");
    world.make("orders", "snapshots: {schedule: '', afterEntries: 10}").await.expect("it is created");
    let task = only_task(&world).await.name_any();
    let result =
        json!({"state": "refused", "reason": "AccessDenied", "message": "the bucket cannot be written; grant it"});
    finish(&world, &task, result).await.expect("it ends");
    let message = world.is("orders", ConditionType::SnapshotCurrent, "False/SnapshotFailed").await.expect("it is told");
    assert!(message.contains("the bucket cannot be written; grant it"), "{message}");
    world.has_event("orders", "SnapshotFailed").await.expect("it is reported");
    world.is_ready("orders").await.expect("the log is indexed all the same");
    assert_eq!(tasks(&world).await.expect("they are listed").len(), 1, "it is not tried again at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_that_cannot_be_read_is_refused_in_words() {
    let world = ControllerWorld::create().await.expect("it starts");
    let _operator = world.operator().await.expect("it starts");
    world.make("orders", "verify: {schedule: '0 5 31 2 *'}").await.expect("the definition takes it");
    let message = world.is("orders", ConditionType::Ready, "False/ScheduleInvalid").await.expect("it is refused");
    assert!(message.contains("spec.verify.schedule") && message.contains("correct"), "{message}");
    let time_zone = json!({"spec": {"verify": {"schedule": "0 5 1 2 *", "timeZone": "Mars/Phobos"}}});
    world.change("orders", time_zone).await.expect("the definition takes it");
    eventually("the message names the time zone", async || {
        let message = world.is("orders", ConditionType::Ready, "False/ScheduleInvalid").await?;
        Ok(message.contains("unknown time zone \"Mars/Phobos\"").then_some(()))
    })
    .await
    .expect("it is refused");
    world.change("orders", json!({"spec": {"verify": {"timeZone": "Asia/Tokyo"}}})).await.expect("it is changed");
    world.is_ready("orders").await.expect("it is read");
    world.is("orders", ConditionType::Verified, "Unknown/Pending").await.expect("nothing was due yet");
}

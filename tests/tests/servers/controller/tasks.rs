//! Tasks: Kubernetes' own controller of Jobs makes their pods, which are acted.

use k8s_openapi::api::batch::v1::Job;
use kube::api::DeleteParams;
use serde_json::json;
use tidemark_crds::{ConditionType, TaskFailureClass, WalTaskState};
use tidemark_tests::controller::{ControllerWorld, eventually};

const DONE: &str = r#"{"state":"succeeded","message":"deleted 7 objects","entries":7,"bytes":1024}"#;
const FAILED: &str = r#"{"state":"failed","reason":"Unreachable","message":"the store does not answer"}"#;

async fn has_job(world: &ControllerWorld, name: &str) -> bool {
    world.api::<Job>().get_opt(name).await.expect("the API server answers").is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_runs_as_a_job_and_tells_what_it_did() {
    let (world, operator) = ControllerWorld::ready().await.expect("the WAL becomes ready");
    world.make_task("nightly", "").await.expect("it is created");
    let running = world.task_is("nightly", WalTaskState::Running).await.expect("it runs");
    assert_eq!((running.attempts, running.job_name.as_deref()), (Some(1), Some("nightly-1")));
    assert_eq!(running.image.as_deref(), Some("tidemark.dev/tidemark:one"), "what the writer runs");
    let pod = world.job_pod("nightly-1").await.expect("Kubernetes makes a pod").spec.expect("it has a spec");
    assert_eq!(pod.service_account_name.as_deref(), Some("orders-jobs"));
    assert_eq!(pod.containers[0].args, Some(vec!["gc".to_owned(), "--json".to_owned()]));
    world.end_job("nightly-1", 0, DONE).await.expect("it ends");
    let done = world.task_is("nightly", WalTaskState::Succeeded).await.expect("it succeeds");
    let result = done.result.expect("it has a result");
    assert_eq!((result.entries, result.bytes), (Some(7), Some(1024)));
    assert_eq!(done.message.as_deref(), Some("deleted 7 objects"));
    assert!(done.start_time.is_some() && done.completion_time >= done.start_time);
    let waited = world.server.kubectl([
        "wait",
        "waltask/nightly",
        "-n",
        &world.namespace,
        "--for=condition=Complete",
        "--timeout=10s",
    ]);
    waited.await.expect("people wait for it so");
    eventually("its story is told", async || {
        Ok((world.events_on("WALTask", "nightly").await? == ["AttemptStarted", "Succeeded"]).then_some(()))
    })
    .await
    .expect("it is");
    let count = operator.metric("tidemark_operator_tasks_ended_total", &["type=\"GC\"", "state=\"Succeeded\""]).await;
    assert!((count.expect("it counts") - 1.0).abs() < 0.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_fails_after_its_attempts() {
    let (world, _operator) = ControllerWorld::ready().await.expect("the WAL becomes ready");
    world.make_task("nightly", "maxAttempts: 2").await.expect("it is created");
    world.end_job("nightly-1", 1, FAILED).await.expect("it ends");
    let waiting = world.task_is("nightly", WalTaskState::Pending).await.expect("it waits");
    assert_eq!((waiting.attempts, waiting.failure_class), (Some(1), Some(TaskFailureClass::Failed)));
    world.end_job("nightly-2", 101, "thread 'main' panicked").await.expect("it ends");
    let failed = world.task_is("nightly", WalTaskState::Failed).await.expect("it fails");
    assert_eq!((failed.attempts, failed.failure_class), (Some(2), Some(TaskFailureClass::Crashed)));
    let message = failed.message.expect("it says why");
    assert!(message.contains("exit code 101): thread 'main' panicked; it was tried 2 times"), "{message}");
    assert!(!has_job(&world, "nightly-3").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_cannot_run_is_rejected_without_a_job() {
    let (world, _operator) = ControllerWorld::ready().await.expect("the WAL becomes ready");
    let refused = json!({"spec": {"snapshots": {"timeZone": "Mars/Phobos"}}});
    world.change("orders", refused).await.expect("it is changed");
    world.is("orders", ConditionType::Ready, "False/ScheduleInvalid").await.expect("it is refused");
    world.make_task("nightly", "").await.expect("it is created");
    let rejected = world.task_is("nightly", WalTaskState::Rejected).await.expect("it is rejected");
    assert!(rejected.message.expect("it says why").contains("Mars/Phobos"));
    assert!(!has_job(&world, "nightly-1").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wal_that_is_suspended_has_its_tasks_all_the_same() {
    let (world, _operator) = ControllerWorld::ready().await.expect("the WAL becomes ready");
    world.change("orders", json!({"spec": {"suspend": true}})).await.expect("it is changed");
    world.make_task("nightly", "").await.expect("it is created");
    world.task_is("nightly", WalTaskState::Running).await.expect("it runs");
    world.end_job("nightly-1", 0, DONE).await.expect("it ends");
    world.task_is("nightly", WalTaskState::Succeeded).await.expect("it succeeds");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writing_tasks_run_one_after_another() {
    let (world, _operator) = ControllerWorld::ready().await.expect("the WAL becomes ready");
    world.make_task("first", "").await.expect("it is created");
    world.task_is("first", WalTaskState::Running).await.expect("it runs");
    world.make_task("second", "").await.expect("it is created");
    let waiting = world.task_is("second", WalTaskState::Pending).await.expect("it waits");
    assert!(waiting.message.expect("it says for whom").contains("task \"first\" comes first"));
    assert!(!has_job(&world, "second-1").await);
    world.end_job("first-1", 0, DONE).await.expect("it ends");
    world.task_is("second", WalTaskState::Running).await.expect("it runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_is_started_again_finds_what_its_task_came_to() {
    let (world, operator) = ControllerWorld::ready().await.expect("the WAL becomes ready");
    world.make_task("nightly", "ttlAfterFinished: 20s").await.expect("it is created");
    world.task_is("nightly", WalTaskState::Running).await.expect("it runs");
    operator.kill();
    world.end_job("nightly-1", 0, DONE).await.expect("it ends");
    eventually("Kubernetes calls the Job complete", async || {
        let job = world.api::<Job>().get("nightly-1").await?;
        Ok(job.status.and_then(|status| status.succeeded).filter(|succeeded| *succeeded > 0))
    })
    .await
    .expect("it does");
    let _operator = world.operator().await.expect("it starts");
    world.task_is("nightly", WalTaskState::Succeeded).await.expect("it succeeds");
    eventually("its time to live ends, and its Job goes with it", async || {
        let gone = world.tasks().get_opt("nightly").await?.is_none() && !has_job(&world, "nightly-1").await;
        Ok(gone.then_some(()))
    })
    .await
    .expect("both go");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_runs_is_stopped_when_its_wal_is_deleted() {
    let (world, _operator) = ControllerWorld::ready().await.expect("the WAL becomes ready");
    world.make_task("nightly", "").await.expect("it is created");
    world.job_pod("nightly-1").await.expect("it has a pod");
    world.wals().delete("orders", &DeleteParams::default()).await.expect("it is deleted");
    let failed = world.task_is("nightly", WalTaskState::Failed).await.expect("it fails");
    assert!(failed.message.expect("it says why").contains("WAL \"orders\""));
    eventually("the Job is gone", async || Ok((!has_job(&world, "nightly-1").await).then_some(())))
        .await
        .expect("it goes");
}

//! Tasks: what comes next as a function of what exists, and the controllers of WALs and tasks on an API server in memory, where the
//! test does what Kubernetes does with Jobs and their pods.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod, events::v1::Event};
use kube::{
    Resource, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tidemark_crds::{
    CleanupTask, Reason, RecoveryWindow, TaskFailureClass, TaskType, VerifyTask, Wal, WalTask, WalTaskSpec,
    WalTaskState, WalTaskStatus, names,
};

use super::{
    WalTaskController,
    build::{AttemptPlan, build},
    dereference::{AccountState, LastAttempt, ObservedTask, OtherTask, TargetWal, WalLookup},
    plan::{TaskPlan, TaskStep, expires_in, plan},
    update_status::{events_between, next},
};
use crate::{
    cache::{ActiveAttempt, ChildKind, NamespacedName, ObjectCache, OwnedObject},
    controllers::{
        fake_world::{ControllerParts, FakeWorld, approving_settings, eventually, settings, wal_spec},
        wal::validate::validate,
    },
};

const NOW: i64 = 1_800_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn sample_wal(spec: &Value) -> Wal {
    let object = json!({
        "apiVersion": "tidemark.dev/v1alpha1", "kind": "WAL",
        "metadata": {"name": "orders", "namespace": "data", "uid": "w", "generation": 4},
        "spec": spec,
    });
    serde_json::from_value(object).unwrap()
}

fn found() -> TargetWal {
    TargetWal {
        uid: "w".to_owned(),
        deleted: false,
        suspended: false,
        validated: Ok(validate(&sample_wal(&wal_spec()), "c1").unwrap()),
        upgrading: false,
        account: AccountState::Ready,
        image: None,
        wanted_check: None,
        has_snapshot: true,
        recovery_window: None,
    }
}

/// A task of this type, made a second ago, whose WAL is ready.
fn task(kind: TaskType) -> ObservedTask {
    let mut spec = json!({"walRef": {"name": "orders"}, "type": kind});
    if kind == TaskType::Restore {
        spec["restore"] = json!({"time": at(NOW - 100).to_string()});
    }
    ObservedTask {
        key: NamespacedName::new("data", "nightly"),
        uid: "t".to_owned(),
        generation: Some(1),
        spec: serde_json::from_value(spec).unwrap(),
        created: Some(at(NOW - 1)),
        status: WalTaskStatus::default(),
        wal: WalLookup::Found(Box::new(found())),
        last: None,
        first_job: None,
        others: Vec::new(),
        writing: None,
    }
}

fn with_wal(kind: TaskType, change: impl FnOnce(&mut TargetWal)) -> ObservedTask {
    let mut wal = found();
    change(&mut wal);
    ObservedTask { wal: WalLookup::Found(Box::new(wal)), ..task(kind) }
}

/// The task with a Job that began at `created` and stands so.
fn with_job(mut task: ObservedTask, number: usize, created: i64, conditions: &Value) -> ObservedTask {
    let object = json!({
        "metadata": {
            "name": format!("nightly-{number}"), "namespace": "data", "uid": format!("j{number}"), "resourceVersion": "1",
            "creationTimestamp": at(created).to_string(),
            "labels": {"tidemark.dev/wal": "orders", "tidemark.dev/wal-uid": "w", "tidemark.dev/task": "nightly"},
            "ownerReferences": [{"kind": "WALTask", "name": "nightly", "uid": "t", "controller": true}],
        },
        "status": {"conditions": conditions},
    });
    let job = Arc::new(OwnedObject::read(ChildKind::Job, object).unwrap());
    task.first_job = Some(task.first_job.unwrap_or(at(created)).min(at(created)));
    task.last = Some(LastAttempt { number, job, pod: None });
    task
}

fn failed_at(second: i64) -> Value {
    json!([{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "lastTransitionTime": at(second).to_string()}])
}

fn starts(plan: &TaskPlan) -> Option<usize> {
    if let TaskStep::Start { number, .. } = plan.step { Some(number) } else { None }
}

fn says(task: &ObservedTask) -> (WalTaskState, Reason) {
    let plan = plan(task, at(NOW));
    assert!(!plan.message.is_empty());
    (plan.state, plan.reason)
}

#[test]
fn a_task_starts_when_nothing_is_in_its_way() {
    assert_eq!(starts(&plan(&task(TaskType::GC), at(NOW))), Some(1));
}

#[test]
fn a_task_that_cannot_run_is_rejected_before_there_is_a_pod() {
    use WalTaskState::{Pending, Rejected};
    let gc = |change: fn(&mut TargetWal)| with_wal(TaskType::GC, change);
    let lost = |created| ObservedTask { wal: WalLookup::Missing, created: Some(at(created)), ..task(TaskType::GC) };
    let cases = [
        ("no WAL for long", lost(NOW - 61), Rejected, Reason::WALNotFound),
        ("no WAL yet", lost(NOW - 59), Pending, Reason::WALNotFound),
        (
            "a WAL that cannot be read",
            ObservedTask { wal: WalLookup::Unreadable, ..task(TaskType::GC) },
            Rejected,
            Reason::SpecInvalid,
        ),
        (
            "a promotion of what is suspended",
            with_wal(TaskType::Promote, |wal| wal.suspended = true),
            Rejected,
            Reason::Suspended,
        ),
        ("deleted", gc(|wal| wal.deleted = true), Rejected, Reason::WALDeleted),
        ("refused", gc(|wal| wal.validated = Err("no".to_owned())), Rejected, Reason::SpecInvalid),
        ("no account yet", gc(|wal| wal.account = AccountState::Missing), Pending, Reason::Pending),
        ("another's account", gc(|wal| wal.account = AccountState::Foreign), Rejected, Reason::NameTaken),
        ("an upgrade", gc(|wal| wal.upgrading = true), Pending, Reason::WaitingForUpgrade),
    ];
    for (case, task, state, reason) in cases {
        assert_eq!(says(&task), (state, reason), "{case}");
        assert_eq!(plan(&task, at(NOW)).step, TaskStep::None, "{case}");
    }
}

/// They work on the stores alone.
#[test]
fn a_wal_that_is_suspended_has_its_tasks_all_the_same() {
    use TaskType::{Cleanup, GC, Reindex, Restore, Snapshot, Verify};
    for kind in [Snapshot, Cleanup, Verify, GC, Reindex, Restore] {
        let suspended = with_wal(kind, |wal| wal.suspended = true);
        assert_eq!(starts(&plan(&suspended, at(NOW))), Some(1), "{kind}");
    }
}

/// The operator learns the history of a WAL from its tasks; the job looks at the stores.
#[test]
fn what_history_does_not_allow_is_rejected_where_it_is_known() {
    let rejects = |task: &ObservedTask| match super::admit::admit(task, at(NOW)) {
        super::admit::AdmissionDecision::Refused(reason, _) => Some(reason),
        _ => None,
    };
    let window = |first| Some(RecoveryWindow { first: at(first), last: at(NOW) });
    let damaged = |kind| with_wal(kind, |wal| wal.wanted_check = Some(VerifyTask { all: true, drill: false }));
    let restore = |target: Value| {
        let mut restore = task(TaskType::Restore);
        restore.spec.restore = Some(serde_json::from_value(target).unwrap());
        restore
    };
    // It deletes nothing.
    let mut rehearsal = damaged(TaskType::Cleanup);
    rehearsal.spec.cleanup = Some(CleanupTask { dry_run: true });
    let refused = plan(&damaged(TaskType::Cleanup), at(NOW)).message;
    assert!(refused.contains("{\"all\": true}"), "{refused}");
    let cases = [
        (with_wal(TaskType::Cleanup, |wal| wal.has_snapshot = false), Some(Reason::NoVerifiedSnapshot)),
        (damaged(TaskType::Cleanup), Some(Reason::VerificationFailed)),
        (damaged(TaskType::Snapshot), None),
        (rehearsal, None),
        (
            with_wal(TaskType::Cleanup, |wal| wal.validated.as_mut().unwrap().jobs.archive = false),
            Some(Reason::NoVerifiedSnapshot),
        ),
        (task(TaskType::Cleanup), None),
        (
            with_wal(TaskType::Restore, |wal| wal.recovery_window = window(NOW - 99)),
            Some(Reason::OutsideRecoveryWindow),
        ),
        (with_wal(TaskType::Restore, |wal| wal.recovery_window = window(NOW - 100)), None),
        (task(TaskType::Restore), None),
        // The operator's clock may be behind the store's.
        (restore(json!({"time": at(NOW + 300).to_string()})), None),
        (restore(json!({"time": at(NOW + 301).to_string()})), Some(Reason::OutsideRecoveryWindow)),
        // The last second that a token can have.
        (restore(json!({"token": "aWgEPTl1tmebfsQzFP4bxwgy80V"})), Some(Reason::OutsideRecoveryWindow)),
        (restore(json!({"latest": true})), None),
    ];
    for (case, (task, wanted)) in cases.into_iter().enumerate() {
        assert_eq!(rejects(&task), wanted, "case {case}");
    }
    let future = plan(&restore(json!({"time": at(NOW + 86400).to_string()})), at(NOW));
    assert_eq!((future.step, future.state), (TaskStep::None, WalTaskState::Rejected));
    let words = [at(NOW + 86400).to_string(), at(NOW).to_string(), "choose a time that has passed".to_owned()];
    assert!(words.iter().all(|word| future.message.contains(word)), "{}", future.message);
}

#[test]
fn a_spec_that_the_schema_would_not_take_is_rejected() {
    let changed = |change: fn(&mut WalTaskSpec)| {
        let mut task = task(TaskType::GC);
        change(&mut task.spec);
        says(&task)
    };
    let rejected = (WalTaskState::Rejected, Reason::SpecInvalid);
    assert_eq!(changed(|spec| spec.deadline = tidemark_crds::TimeSpan::new("soon")), rejected);
    assert_eq!(changed(|spec| spec.restore = Some(tidemark_crds::RestoreTarget::default())), rejected);
    // The program would refuse them without a result.
    for (name, is_taken) in [("before-g2", false), ("before-upgrade", true)] {
        let mut snapshot = task(TaskType::Snapshot);
        snapshot.spec.snapshot = Some(tidemark_crds::SnapshotTask { name: Some(name.to_owned()) });
        assert_eq!(says(&snapshot) != rejected, is_taken, "{name}");
    }
    let token = Some("z".repeat(27));
    let target = tidemark_crds::RestoreTarget { token, ..Default::default() };
    let mut restore = task(TaskType::Restore);
    restore.spec.restore = Some(target);
    assert_eq!(says(&restore), rejected);
}

#[test]
fn writing_tasks_of_a_wal_run_one_after_another() {
    let other = |name: &str, kind, age, has_started, state| OtherTask {
        name: name.to_owned(),
        r#type: kind,
        created: Some(at(NOW - age)),
        has_started,
        state,
    };
    let with = |others| ObservedTask { others, ..task(TaskType::GC) };
    let waits_for = |task: &ObservedTask| {
        let plan = plan(task, at(NOW));
        (plan.reason == Reason::WaitingForTask).then(|| plan.message.split('"').nth(1).unwrap().to_owned())
    };
    let gc = TaskType::GC;
    for (case, others, wanted) in [
        ("an older one", vec![other("older", gc, 5, false, None)], Some("older")),
        ("a younger one", vec![other("younger", gc, 0, false, None)], None),
        ("a younger one that runs", vec![other("younger", gc, 0, true, None)], Some("younger")),
        ("an older one that ended", vec![other("older", gc, 5, true, Some(WalTaskState::Failed))], None),
        ("one that only reads", vec![other("older", TaskType::Verify, 5, true, None)], None),
        (
            "of the same second, by name",
            vec![other("a", gc, 1, false, None), other("z", gc, 1, false, None)],
            Some("a"),
        ),
        (
            "the one that runs of several",
            vec![other("older", gc, 9, false, None), other("runs", gc, 3, true, None)],
            Some("runs"),
        ),
    ] {
        assert_eq!(waits_for(&with(others)).as_deref(), wanted, "{case}");
    }
    // One that waits for its next attempt keeps its turn.
    let retrying = with_job(with(vec![other("older", gc, 5, false, None)]), 1, NOW - 90, &failed_at(NOW - 60));
    assert_eq!(starts(&plan(&retrying, at(NOW))), Some(2));
}

/// Also when that task is gone, and also when it is an earlier attempt of the task itself.
#[test]
fn a_writing_task_waits_for_what_still_writes_whatever_became_of_its_task() {
    let attempt = |pod: Option<&str>| ActiveAttempt { task: "gone".into(), writes: true, pod: pod.map(Into::into) };
    let with = |kind, pod| ObservedTask { writing: Some(attempt(pod)), ..task(kind) };
    for (pod, words) in [(None, "task \"gone\" comes first"), (Some("gone-1-x"), "pod \"gone-1-x\" of task \"gone\"")] {
        let plan = plan(&with(TaskType::GC, pod), at(NOW));
        assert_eq!(
            (plan.step, plan.state, plan.reason),
            (TaskStep::None, WalTaskState::Pending, Reason::WaitingForTask)
        );
        assert!(plan.message.starts_with(words), "{}", plan.message);
        assert_eq!(starts(&super::plan::plan(&with(TaskType::Verify, pod), at(NOW))), Some(1), "it only reads");
    }
    let retrying = with_job(with(TaskType::GC, Some("nightly-1-x")), 1, NOW - 90, &failed_at(NOW - 60));
    assert_eq!(says(&retrying), (WalTaskState::Pending, Reason::WaitingForTask));
}

#[test]
fn a_task_that_waits_for_longer_than_its_deadline_is_rejected() {
    let waiting = with_wal(TaskType::GC, |wal| wal.upgrading = true);
    let made = |ago| ObservedTask { created: Some(at(NOW - ago)), ..waiting.clone() };
    let deadline = 6 * 3600;
    assert_eq!(says(&made(deadline - 1)), (WalTaskState::Pending, Reason::WaitingForUpgrade));
    assert_eq!(says(&made(deadline)), (WalTaskState::Rejected, Reason::DeadlineExceeded));
}

#[test]
fn attempts_follow_each_other_with_longer_waits_until_there_is_none_left() {
    for (number, waited, wanted) in [(1, 9, None), (1, 10, Some(2)), (2, 19, None), (2, 20, Some(3))] {
        let task = with_job(task(TaskType::GC), number, NOW - 100, &failed_at(NOW - waited));
        let plan = plan(&task, at(NOW));
        assert_eq!(starts(&plan), wanted, "{number} failed {waited} s ago");
        assert_eq!(plan.class, Some(TaskFailureClass::Crashed));
        if wanted.is_none() {
            assert_eq!((plan.state, plan.reason), (WalTaskState::Pending, Reason::AttemptFailed));
        }
    }
    let last = with_job(task(TaskType::GC), 3, NOW - 100, &failed_at(NOW - 1));
    let plan = plan(&last, at(NOW));
    assert_eq!((plan.state, plan.reason), (WalTaskState::Failed, Reason::JobLost));
    assert_eq!(plan.completed, Some(at(NOW - 1)));
    assert!(plan.message.ends_with("it was tried 3 times; remove the cause and make another task"), "{}", plan.message);
}

#[test]
fn all_attempts_together_have_one_deadline() {
    let deadline = 6 * 3600;
    let plan_at = |began: i64| plan(&with_job(task(TaskType::GC), 1, NOW - began, &failed_at(NOW - 60)), at(NOW));
    let TaskStep::Start { number: 2, time_limit } = plan_at(deadline - 100).step else { panic!() };
    assert_eq!(time_limit.as_secs(), 100);
    let late = plan_at(deadline);
    assert_eq!((late.step, late.state), (TaskStep::None, WalTaskState::Failed));
    // Kubernetes stops a Job in time, unless its node is cut off.
    let running = |began: i64| plan(&with_job(task(TaskType::GC), 1, NOW - began, &json!([])), at(NOW));
    assert_eq!(running(deadline + 119).state, WalTaskState::Running);
    let overdue = running(deadline + 120);
    assert_eq!(
        (overdue.step, overdue.state, overdue.class),
        (TaskStep::Stop, WalTaskState::Failed, Some(TaskFailureClass::Deadline))
    );
}

#[test]
fn a_job_that_somebody_deleted_was_an_attempt() {
    let mut task = task(TaskType::GC);
    task.status.attempts = Some(1);
    task.status.job_name = Some("nightly-1".to_owned());
    assert_eq!(starts(&plan(&task, at(NOW))), Some(2));
    task.status.attempts = Some(3);
    assert_eq!(says(&task), (WalTaskState::Failed, Reason::JobLost));
}

#[test]
fn a_task_ends_with_its_wal() {
    let running = |task| with_job(task, 1, NOW - 10, &json!([]));
    let mut deleted = running(with_wal(TaskType::GC, |wal| wal.deleted = true));
    deleted.status.wal_uid = Some("w".to_owned());
    let mut replaced = running(with_wal(TaskType::GC, |wal| wal.uid = "another".to_owned()));
    replaced.status.wal_uid = Some("w".to_owned());
    let gone = ObservedTask { wal: WalLookup::Missing, ..running(task(TaskType::GC)) };
    for (task, reason) in [(deleted, Reason::WALDeleted), (replaced, Reason::WALNotFound), (gone, Reason::WALNotFound)]
    {
        let plan = plan(&task, at(NOW));
        assert_eq!((plan.step, plan.state, plan.reason), (TaskStep::Stop, WalTaskState::Failed, reason));
    }
    // A WAL that is suspended, or refused, stops nothing that runs.
    for task in [
        with_wal(TaskType::GC, |wal| wal.suspended = true),
        with_wal(TaskType::GC, |wal| wal.validated = Err(String::new())),
    ] {
        assert_eq!(says(&running(task)).0, WalTaskState::Running);
    }
}

#[test]
fn a_status_tells_programs_and_people_how_far_a_task_is() {
    let tell = |task: &ObservedTask| next(task, &plan(task, at(NOW)), at(NOW));
    let types = |status: &WalTaskStatus| {
        let shown = status.conditions.iter().map(|condition| format!("{}={}", condition.type_, condition.status));
        shown.collect::<Vec<_>>()
    };
    let running = tell(&with_job(task(TaskType::GC), 1, NOW - 10, &json!([])));
    assert_eq!(types(&running), ["Complete=False", "Failed=False", "Reconciling=True"]);
    assert_eq!(
        (running.attempts, running.job_name.as_deref(), running.wal_uid.as_deref()),
        (Some(1), Some("nightly-1"), Some("w"))
    );
    let complete = json!([{"type": "Complete", "status": "True", "lastTransitionTime": at(NOW - 2).to_string()}]);
    let succeeded = tell(&with_job(task(TaskType::GC), 1, NOW - 10, &complete));
    assert_eq!(types(&succeeded), ["Complete=True", "Failed=False"]);
    assert_eq!(
        (succeeded.state, succeeded.completion_time.as_ref().map(|time| time.0)),
        (Some(WalTaskState::Succeeded), Some(at(NOW - 2)))
    );
    assert_eq!((running.duration_seconds, succeeded.duration_seconds), (None, Some(8)));
    let rejected = tell(&with_wal(TaskType::GC, |wal| wal.deleted = true));
    assert_eq!(types(&rejected), ["Complete=False", "Failed=True", "Stalled=True"]);
    assert_eq!(rejected.duration_seconds, None, "it was not tried");
    let reasons = |before: &WalTaskStatus, after: &WalTaskStatus| {
        events_between(before, after).into_iter().map(|event| event.reason).collect::<Vec<_>>()
    };
    let nothing = WalTaskStatus::default();
    assert_eq!(reasons(&nothing, &running), ["AttemptStarted"]);
    assert_eq!(reasons(&running, &succeeded), ["Succeeded"]);
    assert_eq!(reasons(&nothing, &rejected), ["Rejected"]);
    assert_eq!(reasons(&running, &running), [""; 0]);
}

#[test]
fn a_task_goes_when_its_time_to_live_is_over() {
    let mut task = task(TaskType::GC);
    task.status.completion_time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(NOW)));
    let week = 168 * 3600;
    let left = |second| expires_in(&task.spec, &task.status, at(second));
    assert_eq!(left(NOW + week - 1).as_secs(), 1);
    assert!(left(NOW + week).is_zero());
}

/// The Job of a task of this type, of a WAL with this spec.
fn job(kind: TaskType, change_task: impl FnOnce(&mut WalTaskSpec), change_wal: impl FnOnce(&mut Value)) -> Value {
    let mut spec = wal_spec();
    change_wal(&mut spec);
    let wal = validate(&sample_wal(&spec), "c1").unwrap();
    let mut task = task(kind);
    change_task(&mut task.spec);
    let owner = serde_json::from_value(json!({
        "apiVersion": "tidemark.dev/v1alpha1", "kind": "WALTask", "name": "nightly", "uid": "t", "controller": true,
    }));
    let attempt = AttemptPlan {
        task: &task.key,
        owner: owner.unwrap(),
        spec: &task.spec,
        number: 2,
        image: "i@sha256:0",
        time_limit: std::time::Duration::from_millis(90_500),
    };
    serde_json::to_value(build(&attempt, &wal, &settings().platform)).unwrap()
}

#[test]
fn a_job_runs_once_with_the_rights_and_stores_of_its_wal() {
    let job = job(TaskType::GC, |_| (), |_| ());
    assert_eq!(job["metadata"]["name"], "nightly-2");
    assert_eq!(job["metadata"]["ownerReferences"][0]["kind"], "WALTask");
    assert_eq!(job["metadata"]["annotations"], json!({"tidemark.dev/wal-generation": "4"}));
    let labels = json!({
        "app.kubernetes.io/component": "jobs", "app.kubernetes.io/instance": "orders", "app.kubernetes.io/managed-by": "tidemark-operator",
        "app.kubernetes.io/name": "tidemark", "tidemark.dev/task": "nightly", "tidemark.dev/task-type": "GC",
        "tidemark.dev/wal": "orders", "tidemark.dev/wal-uid": "w",
    });
    assert_eq!((&job["metadata"]["labels"], &job["spec"]["template"]["metadata"]["labels"]), (&labels, &labels));
    let spec = &job["spec"];
    assert_eq!((&spec["backoffLimit"], &spec["activeDeadlineSeconds"]), (&json!(0), &json!(90)));
    assert!(spec["ttlSecondsAfterFinished"].is_null(), "a result that is read late would be lost");
    let pod = &spec["template"]["spec"];
    assert_eq!((&pod["restartPolicy"], &pod["serviceAccountName"]), (&json!("Never"), &json!("orders-jobs")));
    assert_eq!(pod["automountServiceAccountToken"], false);
    let container = &pod["containers"][0];
    assert_eq!((&container["image"], &container["args"]), (&json!("i@sha256:0"), &json!(["gc", "--json"])));
    let variables =
        container["env"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(
        variables,
        [
            "TIDEMARK_LOG",
            "TIDEMARK_METADATA",
            "TIDEMARK_INDEX",
            "TIDEMARK_STORES",
            "TIDEMARK_CACHE_DIR",
            "TIDEMARK_CACHE_MIB",
            "TIDEMARK_OWNER",
            "TIDEMARK_TASK",
            "TIDEMARK_RESULT_FILE",
        ]
    );
}

#[test]
fn each_type_has_its_arguments() {
    let arguments = |job: &Value| {
        let arguments = job["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap();
        arguments.iter().map(|one| one.as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    let plain = |kind| arguments(&job(kind, |_| (), |_| ()));
    assert_eq!(plain(TaskType::Snapshot), "snapshot --json --name nightly-t", "the same for each attempt");
    assert_eq!(plain(TaskType::Cleanup), "cleanup --json --min-age 2592000s --keep-snapshots 3");
    assert_eq!(plain(TaskType::Verify), "verify --json");
    assert_eq!(plain(TaskType::Reindex), "reindex --json");
    assert_eq!(plain(TaskType::Promote), "promote --json");
    assert_eq!(plain(TaskType::Restore), format!("restore --json --to-time {}", at(NOW - 100)));
    let of = |kind, task: Value, wal: Value| {
        let change_task = |spec: &mut WalTaskSpec| {
            let mut changed = serde_json::to_value(&*spec).unwrap();
            changed.as_object_mut().unwrap().extend(task.as_object().unwrap().clone());
            *spec = serde_json::from_value(changed).unwrap();
        };
        let change_wal = |spec: &mut Value| spec.as_object_mut().unwrap().extend(wal.as_object().unwrap().clone());
        arguments(&job(kind, change_task, change_wal))
    };
    assert_eq!(
        of(
            TaskType::Snapshot,
            json!({"snapshot": {"name": "before"}}),
            json!({"snapshots": {"copyTo": {"url": "s3://copies/a"}}})
        ),
        "snapshot --json --name before --keep-last 7 --copy-to s3://copies/a"
    );
    assert_eq!(
        of(
            TaskType::Cleanup,
            json!({"cleanup": {"dryRun": true}}),
            json!({"cleanup": {"minAge": "1h", "maxEntries": 9, "maxSize": "1Gi", "keepSnapshots": 2}})
        ),
        "cleanup --json --min-age 3600s --max-entries 9 --max-size 1073741824 --keep-snapshots 2 --dry-run"
    );
    assert_eq!(of(TaskType::Verify, json!({"verify": {"all": true}}), json!({})), "verify --json --all");
    let drill = json!({"verify": {"all": false, "drill": true}});
    assert_eq!(of(TaskType::Verify, drill, json!({})), "verify --json --restore-drill");
    assert_eq!(
        of(TaskType::Snapshot, json!({}), json!({"archive": {"enabled": false}})),
        "snapshot --json --name nightly-t --no-archive"
    );
    let again = json!({"promote": {"decideAgain": true}});
    assert_eq!(of(TaskType::Promote, again, json!({})), "promote --json --decide-again");
    assert_eq!(of(TaskType::Promote, json!({"promote": {}}), json!({})), "promote --json");
    let begun = |time: Value| {
        let mut bootstrap = json!({"bootstrap": {"fromURL": "s3://copies/a"}});
        if !time.is_null() {
            bootstrap["bootstrap"]["time"] = time;
        }
        of(TaskType::Promote, json!({}), bootstrap)
    };
    assert_eq!(begun(json!("2026-11-20T10:00:00Z")), "promote --json --from-url s3://copies/a");
    assert_eq!(begun(Value::Null), "promote --json", "all of what is recorded there was taken");
    let token = "0ujtsYcgvSTl8PAuAdqWYSMnLOv";
    for (target, wanted) in [
        (json!({"token": token}), format!("--to-token {token}")),
        (json!({"snapshot": "before"}), "--snapshot before".to_owned()),
        (json!({"latest": true}), "--latest".to_owned()),
    ] {
        assert_eq!(of(TaskType::Restore, json!({"restore": target}), json!({})), format!("restore --json {wanted}"));
    }
}

/// What copies snapshots has the store of the copies, and nothing else has.
#[test]
fn only_a_snapshot_has_the_credentials_of_the_copies() {
    let copied = |storage: Value| {
        move |spec: &mut Value| spec["snapshots"] = json!({"copyTo": {"url": "az://copies/a", "storage": storage}})
    };
    let pod = |kind, storage: &Value| job(kind, |_| (), copied(storage.clone()))["spec"]["template"].clone();
    let stores = |pod: &Value| {
        let variables = pod["spec"]["containers"][0]["env"].as_array().unwrap().clone();
        let stores = variables.into_iter().find(|one| one["name"] == "TIDEMARK_STORES").unwrap();
        serde_json::from_str::<Value>(stores["value"].as_str().unwrap()).unwrap()
    };
    let volumes = |pod: &Value| {
        let volumes = pod["spec"]["volumes"].as_array().unwrap();
        volumes.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let keys = json!({
        "account": "acct", "caRef": {"name": "dr-ca"}, "credentials": {"type": "Secret", "secretRef": {"name": "dr-keys"}},
    });
    let snapshot = pod(TaskType::Snapshot, &keys);
    assert_eq!(
        stores(&snapshot)["copy"],
        json!({"account": "acct", "caFile": "/etc/tidemark/ca/copy/ca.crt", "credentialsDir": "/etc/tidemark/credentials/copy"})
    );
    assert!(["credentials-copy", "ca-copy"].iter().all(|name| volumes(&snapshot).contains(&(*name).to_owned())));
    for kind in [TaskType::Cleanup, TaskType::Verify, TaskType::GC, TaskType::Restore] {
        let other = pod(kind, &keys);
        assert_eq!(
            (stores(&other).get("copy"), volumes(&other).iter().any(|name| name.contains("copy"))),
            (None, false)
        );
    }
    // The cloud finds the pods that get an identity by a label.
    let identity = "azure.workload.identity/use";
    let ambient = json!({"account": "acct", "credentials": {"type": "WorkloadIdentity"}});
    assert_eq!(pod(TaskType::Snapshot, &ambient)["metadata"]["labels"][identity], "true");
    assert!(pod(TaskType::GC, &ambient)["metadata"]["labels"][identity].is_null());
    // Without a store of its own the copy has the one of the spec.
    let common = job(
        TaskType::Snapshot,
        |_| (),
        |spec| {
            spec["storage"] = json!({"region": "r", "credentials": {"type": "Secret", "secretRef": {"name": "keys"}}});
            spec["snapshots"] = json!({"copyTo": {"url": "s3://copies/a"}});
        },
    );
    let common = &common["spec"]["template"];
    assert_eq!(stores(common)["copy"], stores(common)["log"]);
}

/// Resources, disk and pod template of `spec.jobs`, whatever the type.
#[test]
fn the_pods_of_all_jobs_are_made_as_the_spec_asks() {
    let asked = |spec: &mut Value| {
        spec["jobs"] = json!({
            "resources": {"requests": {"cpu": "3"}, "limits": {"memory": "5Gi"}},
            "cache": {"size": "9Gi"},
            "podTemplate": {
                "metadata": {"labels": {"team": "storage"}},
                "spec": {"nodeSelector": {"pool": "batch"}, "tolerations": [{"key": "batch", "operator": "Exists"}]},
            },
        });
    };
    for row in tidemark_crds::TASK_COMMANDS {
        let template = job(row.r#type, |_| (), asked)["spec"]["template"].clone();
        let (pod, container) = (&template["spec"], &template["spec"]["containers"][0]);
        assert_eq!(template["metadata"]["labels"]["team"], "storage", "{}", row.r#type);
        assert_eq!((&pod["nodeSelector"]["pool"], &pod["tolerations"][0]["key"]), (&json!("batch"), &json!("batch")));
        let resources = &container["resources"];
        assert_eq!((&resources["requests"]["cpu"], &resources["limits"]["memory"]), (&json!("3"), &json!("5Gi")));
        let cache = pod["volumes"].as_array().unwrap().iter().find(|one| one["name"] == "cache").unwrap();
        assert_eq!(cache["emptyDir"]["sizeLimit"], "9Gi");
    }
}

#[test]
fn only_a_cleanup_has_the_account_that_may_delete() {
    let annotated = |spec: &mut Value| spec["cleanup"] = json!({"serviceAccountAnnotations": {"role": "deletes"}});
    let account = |kind| job(kind, |_| (), annotated)["spec"]["template"]["spec"]["serviceAccountName"].clone();
    assert_eq!(account(TaskType::Cleanup), "orders-cleanup");
    for kind in [TaskType::Snapshot, TaskType::Verify, TaskType::GC, TaskType::Restore] {
        assert_eq!(account(kind), "orders-jobs");
    }
}

/// WALs and tasks on an API server in memory.
struct TaskWorld {
    world: FakeWorld,
    /// What the operator knows of Jobs and pods.
    cache: ObjectCache,
}

impl TaskWorld {
    /// A world with the WAL "orders".
    async fn start() -> Self {
        let mut world = FakeWorld::new();
        let cache = Self::run(&mut world);
        world.make::<Wal>("orders", wal_spec()).await;
        Self { world, cache }
    }

    /// Another operator takes over: the one before is gone, and with it everything that it knew.
    fn restart(&mut self) {
        self.world.stop();
        self.cache = Self::run(&mut self.world);
    }

    fn run(world: &mut FakeWorld) -> ObjectCache {
        world.run_beside_wals::<WalTaskController>(names::TASK_KIND, approving_settings(), |_, parts| {
            let ControllerParts { context, wals, objects: tasks, slots, turns } = parts;
            let controller =
                WalTaskController::new(context.clone(), tasks.clone(), wals.clone(), slots.clone(), turns.clone());
            (controller, tasks.clone())
        })
    }

    async fn make(&self, name: &str, more: Value) {
        let mut spec = json!({"walRef": {"name": "orders"}, "type": "GC", "deadline": "6h", "maxAttempts": 3, "ttlAfterFinished": "168h"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.world.make::<WalTask>(name, spec).await;
    }

    /// Waits until the task is in this state, and gives its status.
    async fn is(&self, name: &str, state: WalTaskState, reason: Reason) -> WalTaskStatus {
        eventually(&format!("{name} is {state:?} as {reason}"), async || {
            let status = self.world.api::<WalTask>().get(name).await.unwrap().status?;
            let complete = tidemark_crds::condition(&status.conditions, tidemark_crds::TaskConditionType::Complete)?;
            (status.state == Some(state) && complete.reason == reason.as_str()).then_some(status)
        })
        .await
    }

    /// Waits for a Job.
    async fn job(&self, name: &str) -> Job {
        eventually(&format!("there is a Job {name}"), async || self.world.api::<Job>().get_opt(name).await.unwrap())
            .await
    }

    /// Its pod has this status.
    async fn put_pod(&self, job: &str, status: Value) {
        let found = self.job(job).await;
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {
                "name": format!("{job}-x"), "labels": found.labels(),
                "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": found.uid(), "controller": true}],
            },
            "status": status,
        }))
        .unwrap();
        self.world.api::<Pod>().create(&PostParams::default(), &pod).await.unwrap();
    }

    /// Its pod ends with this message, and the Job with it.
    async fn end(&self, job: &str, succeeded: bool, message: &str) {
        let status = json!({"phase": if succeeded { "Succeeded" } else { "Failed" }, "containerStatuses": [{
            "name": "jobs", "image": "i", "imageID": "i", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": i32::from(!succeeded), "reason": "Completed", "message": message}},
        }]});
        self.put_pod(job, status).await;
        let (kind, reason) =
            if succeeded { ("Complete", "CompletionsReached") } else { ("Failed", "BackoffLimitExceeded") };
        // Long enough ago that no retry is waited for.
        let time = (crate::clock::now() - jiff::SignedDuration::from_mins(10)).to_string();
        let condition =
            json!({"type": kind, "status": "True", "reason": reason, "message": "so", "lastTransitionTime": time});
        let patch = Patch::Merge(json!({"status": {"conditions": [condition]}}));
        self.world.api::<Job>().patch_status(job, &PatchParams::default(), &patch).await.unwrap();
    }

    /// The reasons of the task's Events, in their order.
    async fn events(&self, task: &str) -> Vec<String> {
        let events = self.world.api::<Event>().list(&ListParams::default()).await.unwrap().items;
        let of_task = events.into_iter().filter(|event| {
            event
                .regarding
                .as_ref()
                .is_some_and(|about| about.kind.as_deref() == Some("WALTask") && about.name.as_deref() == Some(task))
        });
        of_task.filter_map(|event| event.reason).collect()
    }

    async fn exists<K>(&self, name: &str) -> bool
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        self.world.api::<K>().get_opt(name).await.unwrap().is_some()
    }
}

const DONE: &str = r#"{"state":"succeeded","message":"deleted 7 objects","entries":7}"#;
const DAMAGED: &str = r#"{"state":"failed","reason":"IndexDamaged","message":"2 findings","damaged":2}"#;
const FAILED: &str = r#"{"state":"failed","reason":"Unreachable","message":"the store does not answer"}"#;

#[tokio::test(start_paused = true)]
async fn a_task_runs_to_its_end_and_stays_there() {
    let world = TaskWorld::start().await;
    world.make("nightly", json!({})).await;
    let running = world.is("nightly", WalTaskState::Running, Reason::Starting).await;
    assert_eq!(
        (running.attempts, running.job_name.as_deref(), running.wal_generation),
        (Some(1), Some("nightly-1"), Some(1))
    );
    assert_eq!(running.image.as_deref(), Some("i"), "no pod writes: it is the Deployment's image");
    world.end("nightly-1", true, DONE).await;
    let done = world.is("nightly", WalTaskState::Succeeded, Reason::Succeeded).await;
    assert_eq!((done.message.as_deref(), done.result.as_ref().unwrap().entries), (Some("deleted 7 objects"), Some(7)));
    assert_eq!(world.events("nightly").await, ["AttemptStarted", "Succeeded"]);
    // Nothing moves it from there.
    world.world.api::<Job>().delete("nightly-1", &DeleteParams::default()).await.unwrap();
    world.make("next", json!({})).await;
    world.is("next", WalTaskState::Running, Reason::Starting).await;
    let still = world.world.api::<WalTask>().get("nightly").await.unwrap().status.unwrap();
    assert_eq!(still, done);
}

/// As after a list that was begun before the Job was made.
#[tokio::test(start_paused = true)]
async fn a_job_that_only_the_cache_lacks_is_not_lost() {
    let world = TaskWorld::start().await;
    world.make("nightly", json!({})).await;
    world.is("nightly", WalTaskState::Running, Reason::Starting).await;
    let namespace = world.job("nightly-1").await.namespace().unwrap();
    world.cache.remove_child(ChildKind::Job, &namespace, "nightly-1");
    let touched = Patch::Merge(json!({"metadata": {"annotations": {"looked": "at"}}}));
    world.world.api::<WalTask>().patch("nightly", &PatchParams::default(), &touched).await.unwrap();
    // Longer than a failed attempt waits for the next one.
    tokio::time::sleep(std::time::Duration::from_mins(1)).await;
    assert!(!world.exists::<Job>("nightly-2").await);
    world.end("nightly-1", true, DONE).await;
    let done = world.is("nightly", WalTaskState::Succeeded, Reason::Succeeded).await;
    assert_eq!((done.attempts, done.failure_class), (Some(1), None));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_fails_is_tried_as_often_as_it_may_be() {
    let world = TaskWorld::start().await;
    world.make("nightly", json!({"maxAttempts": 2})).await;
    world.end("nightly-1", false, FAILED).await;
    world.end("nightly-2", false, FAILED).await;
    let failed = world.is("nightly", WalTaskState::Failed, Reason::Unreachable).await;
    assert_eq!((failed.attempts, failed.failure_class), (Some(2), Some(TaskFailureClass::Failed)));
    assert!(!world.exists::<Job>("nightly-3").await);
    assert_eq!(world.events("nightly").await, ["AttemptStarted", "AttemptStarted", "Failed"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_not_tried_again() {
    let world = TaskWorld::start().await;
    world.make("nightly", json!({})).await;
    let refused = r#"{"state":"refused","reason":"NoVerifiedSnapshot","message":"no"}"#;
    world.end("nightly-1", false, refused).await;
    let failed = world.is("nightly", WalTaskState::Failed, Reason::NoVerifiedSnapshot).await;
    assert_eq!((failed.attempts, failed.failure_class), (Some(1), Some(TaskFailureClass::Refused)));
}

#[tokio::test(start_paused = true)]
async fn of_two_writing_tasks_the_second_waits_and_names_the_first() {
    let world = TaskWorld::start().await;
    world.make("first", json!({})).await;
    world.is("first", WalTaskState::Running, Reason::Starting).await;
    world.make("second", json!({})).await;
    let waiting = world.is("second", WalTaskState::Pending, Reason::WaitingForTask).await;
    assert!(waiting.message.unwrap().starts_with("task \"first\" comes first"));
    assert!(!world.exists::<Job>("second-1").await);
    world.end("first-1", true, DONE).await;
    world.is("second", WalTaskState::Running, Reason::Starting).await;
}

/// Kubernetes takes the Job away with its task, and lets the pod end.
#[tokio::test(start_paused = true)]
async fn a_task_that_is_deleted_while_it_runs_lets_no_other_one_begin_before_its_pod_has_ended() {
    let world = TaskWorld::start().await;
    world.make("first", json!({})).await;
    world.is("first", WalTaskState::Running, Reason::Starting).await;
    // The watch of pods is late at first.
    world.world.server.delay(Some("pods"));
    world.put_pod("first-1", json!({"phase": "Running"})).await;
    for late in [true, false] {
        world.world.server.delay(late.then_some("pods"));
        world.world.api::<WalTask>().delete("first", &DeleteParams::default()).await.ok();
        world.world.api::<Job>().delete("first-1", &DeleteParams::default()).await.ok();
        let second = format!("second-{late}");
        world.make(&second, json!({})).await;
        let waiting = world.is(&second, WalTaskState::Pending, Reason::WaitingForTask).await;
        let message = waiting.message.unwrap();
        assert!(message.starts_with("pod \"first-1-x\" of task \"first\" has not ended"), "{message}");
        assert!(!world.exists::<Job>(&format!("{second}-1")).await);
        world.world.api::<WalTask>().delete(&second, &DeleteParams::default()).await.unwrap();
    }
    world.make("second", json!({})).await;
    world.is("second", WalTaskState::Pending, Reason::WaitingForTask).await;
    world.world.api::<Pod>().delete("first-1-x", &DeleteParams::default()).await.unwrap();
    world.is("second", WalTaskState::Running, Reason::Starting).await;
}

/// The status of the WAL may be older than its tasks are.
#[tokio::test(start_paused = true)]
async fn a_cleanup_after_damage_was_found_is_rejected_before_the_wal_says_so() {
    let world = TaskWorld::start().await;
    world.make("taken", json!({"type": "Snapshot"})).await;
    world.end("taken-1", true, r#"{"state":"succeeded","message":"taken"}"#).await;
    world.is("taken", WalTaskState::Succeeded, Reason::Succeeded).await;
    world.world.server.delay(Some("wals"));
    world.make("look", json!({"type": "Verify"})).await;
    world.end("look-1", false, DAMAGED).await;
    world.is("look", WalTaskState::Failed, Reason::IndexDamaged).await;
    world.make("clean", json!({"type": "Cleanup"})).await;
    let rejected = world.is("clean", WalTaskState::Rejected, Reason::VerificationFailed).await;
    assert!(rejected.message.unwrap().contains("{\"all\": true}"));
    assert!(!world.exists::<Job>("clean-1").await);
}

/// As after a downgrade.
#[tokio::test(start_paused = true)]
async fn a_task_that_has_ended_keeps_its_status_when_its_spec_cannot_be_read_any_more() {
    let mut world = TaskWorld::start().await;
    world.make("nightly", json!({})).await;
    world.end("nightly-1", true, DONE).await;
    let done = world.is("nightly", WalTaskState::Succeeded, Reason::Succeeded).await;
    world.make("other", json!({})).await;
    world.is("other", WalTaskState::Running, Reason::Starting).await;
    world.world.stop();
    let newer = Patch::Merge(json!({"spec": {"type": "Defragment"}}));
    for name in ["nightly", "other"] {
        world.world.untyped::<WalTask>().patch(name, &PatchParams::default(), &newer).await.unwrap();
    }
    world.restart();
    let status = async |name: &str| {
        let found = world.world.untyped::<WalTask>().get(name).await.unwrap();
        serde_json::from_value::<WalTaskStatus>(found.data["status"].clone()).unwrap()
    };
    eventually("the other one is reported", async || {
        let conditions = status("other").await.conditions;
        let complete = tidemark_crds::condition(&conditions, tidemark_crds::TaskConditionType::Complete)?;
        (complete.reason == Reason::SpecInvalid.as_str()).then_some(())
    })
    .await;
    assert_eq!(status("nightly").await, done);
}

#[tokio::test(start_paused = true)]
async fn an_operator_that_starts_in_the_middle_goes_on() {
    let mut world = TaskWorld::start().await;
    world.make("nightly", json!({})).await;
    world.is("nightly", WalTaskState::Running, Reason::Starting).await;
    let before = world.job("nightly-1").await.uid();
    world.restart();
    world.end("nightly-1", true, DONE).await;
    let done = world.is("nightly", WalTaskState::Succeeded, Reason::Succeeded).await;
    assert_eq!((done.attempts, world.job("nightly-1").await.uid()), (Some(1), before));
    assert!(!world.exists::<Job>("nightly-2").await);
}

/// The operator made the Job and ended before it wrote the status.
#[tokio::test(start_paused = true)]
async fn a_job_of_which_the_status_says_nothing_is_the_attempt_that_it_is() {
    let mut world = TaskWorld::start().await;
    world.make("nightly", json!({})).await;
    world.is("nightly", WalTaskState::Running, Reason::Starting).await;
    world.world.stop();
    let patch = Patch::Merge(json!({"status": null}));
    world.world.untyped::<WalTask>().patch_status("nightly", &PatchParams::default(), &patch).await.unwrap();
    world.restart();
    let running = world.is("nightly", WalTaskState::Running, Reason::Starting).await;
    assert_eq!((running.attempts, running.wal_uid.is_some()), (Some(1), true));
    assert!(!world.exists::<Job>("nightly-2").await);
}

#[tokio::test(start_paused = true)]
async fn a_task_without_a_time_to_live_goes_at_its_end() {
    let world = TaskWorld::start().await;
    world.make("nightly", json!({"ttlAfterFinished": "0s"})).await;
    world.end("nightly-1", true, DONE).await;
    eventually("the task is gone", async || (!world.exists::<WalTask>("nightly").await).then_some(())).await;
}

/// The status of the WAL is all that is known of damage once the task is gone.
#[tokio::test(start_paused = true)]
async fn a_task_outlives_its_time_until_its_wal_has_its_result() {
    let world = TaskWorld::start().await;
    world.world.server.refuse(Some("wals"));
    world.make("look", json!({"type": "Verify", "ttlAfterFinished": "0s"})).await;
    world.end("look-1", false, DAMAGED).await;
    tokio::time::sleep(std::time::Duration::from_mins(1)).await;
    world.is("look", WalTaskState::Failed, Reason::IndexDamaged).await;
    world.world.server.refuse(None);
    eventually("the task is gone", async || (!world.exists::<WalTask>("look").await).then_some(())).await;
    let status = world.world.api::<Wal>().get("orders").await.unwrap().status.unwrap();
    assert!(status.last_verification.is_some_and(|last| last.is_damaged()));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_the_cluster_refuses_is_told_and_tried_again() {
    let world = TaskWorld::start().await;
    world.world.server.refuse_creation(Some("jobs"));
    world.make("nightly", json!({})).await;
    let waiting = world.is("nightly", WalTaskState::Pending, Reason::ChildRefused).await;
    assert!(waiting.message.unwrap().contains("no, says a policy"));
    world.world.server.refuse_creation(None);
    world.is("nightly", WalTaskState::Running, Reason::Starting).await;
}

#[tokio::test(start_paused = true)]
async fn a_job_of_somebody_else_is_left_alone() {
    let world = TaskWorld::start().await;
    let theirs: Job = serde_json::from_value(
        json!({"metadata": {"name": "nightly-1"}, "spec": {"template": {"spec": {"containers": []}}}}),
    )
    .unwrap();
    world.world.api::<Job>().create(&PostParams::default(), &theirs).await.unwrap();
    world.make("nightly", json!({})).await;
    world.is("nightly", WalTaskState::Rejected, Reason::NameTaken).await;
    assert!(world.exists::<Job>("nightly-1").await);
}

/// An upgrade waits for what writes, and what writes waits for an upgrade.
#[tokio::test(start_paused = true)]
async fn an_upgrade_waits_for_a_writing_task_and_the_next_task_for_the_upgrade() {
    let world = TaskWorld::start().await;
    world.make("first", json!({})).await;
    world.is("first", WalTaskState::Running, Reason::Starting).await;
    // As of a release before.
    let old = Patch::Merge(json!({"metadata": {"annotations": {names::ANNOTATION_RELEASE: "old"}}}));
    let deployments = world.world.api::<k8s_openapi::api::apps::v1::Deployment>();
    for name in ["orders-search", "orders-indexer"] {
        deployments.patch(name, &PatchParams::default(), &old).await.unwrap();
    }
    let pending = async |wanted: &str| {
        eventually(wanted, async || {
            let status = world.world.api::<Wal>().get("orders").await.unwrap().status?;
            let kind = tidemark_crds::ConditionType::UpgradePending;
            let message = tidemark_crds::condition(&status.conditions, kind)?.message.clone();
            message.contains(wanted).then_some(())
        })
        .await;
    };
    pending("it waits until task \"first\" has ended").await;
    let release = |deployment: &k8s_openapi::api::apps::v1::Deployment| {
        deployment.annotations()[names::ANNOTATION_RELEASE].clone()
    };
    assert_eq!(release(&deployments.get("orders-indexer").await.unwrap()), "old");
    world.make("second", json!({})).await;
    world.is("second", WalTaskState::Pending, Reason::WaitingForTask).await;
    // The upgrade takes its slot as soon as nothing writes; whichever is first, they never overlap.
    world.end("first-1", true, DONE).await;
    world.is("first", WalTaskState::Succeeded, Reason::Succeeded).await;
    eventually("the upgrade or the next task goes on", async || {
        let second = world.world.api::<WalTask>().get("second").await.unwrap().status?;
        let runs = second.state == Some(WalTaskState::Running);
        let rolls = release(&deployments.get("orders-search").await.unwrap()) != "old";
        assert!(!(runs && rolls), "a task runs while its WAL is upgraded");
        (runs || rolls).then_some(())
    })
    .await;
}

/// What a job writes after the index was removed would stay forever.
#[tokio::test(start_paused = true)]
async fn an_index_is_removed_when_the_jobs_of_its_wal_are_gone() {
    let mut world = TaskWorld { world: FakeWorld::new(), cache: ObjectCache::default() };
    let mut spec = wal_spec();
    spec["deletionPolicy"] = json!("Purge");
    world.world.make::<Wal>("orders", spec).await;
    TaskWorld::run(&mut world.world);
    world.make("nightly", json!({})).await;
    world.is("nightly", WalTaskState::Running, Reason::Starting).await;
    eventually("it has its finalizer", async || {
        let wal = world.world.api::<Wal>().get("orders").await.unwrap();
        (!wal.finalizers().is_empty()).then_some(())
    })
    .await;
    world.world.api::<Wal>().delete("orders", &DeleteParams::default()).await.unwrap();
    world.is("nightly", WalTaskState::Failed, Reason::WALDeleted).await;
    assert!(!world.exists::<Job>("nightly-1").await, "it is stopped");
    eventually("the index is to be removed", async || {
        let control = world.world.api::<k8s_openapi::api::core::v1::ConfigMap>().get("orders-control").await.unwrap();
        control.data?.contains_key(names::CONTROL_PURGE_KEY).then_some(())
    })
    .await;
}

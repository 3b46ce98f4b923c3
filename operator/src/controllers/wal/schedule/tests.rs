//! What is due, and what the tasks' results say, without an API server.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use proptest::prelude::*;
use serde_json::{Value, json};
use tidemark_crds::{
    CronSchedule, ScheduleStatus, SnapshotStatus, TaskType, VerificationStatus, VerifyTask, WalStatus, WalTask, names,
};

use super::{
    due_tasks::{DueTask, ScheduleInputs, ScheduleOutlook},
    task_history::{IndexFigures, TaskHistory},
    task_results::{apply_results, has_results},
};
use crate::{
    condition_value::ConditionValue,
    controllers::wal::{
        evaluate::{ProtectionInputs, snapshot_current, verified},
        validate::{ValidatedSchedules, ValidatedSnapshots, validated_schedules::ValidatedVerification},
    },
};

const CREATED: &str = "2026-11-01T00:00:00Z";
/// Schedules are done up to here.
const DONE: &str = "2026-11-20T03:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn cron(expression: &str) -> CronSchedule {
    CronSchedule::parse(expression, "Etc/UTC").unwrap()
}

/// A WAL with its schedules and tasks, at some time.
struct ScheduleCase {
    schedules: ValidatedSchedules,
    tasks: Vec<Arc<WalTask>>,
    status: WalStatus,
    index: Option<IndexFigures>,
}

impl ScheduleCase {
    /// Snapshots at three, which are done up to [`DONE`]; the index holds what no snapshot has.
    fn new() -> Self {
        let snapshots = ValidatedSnapshots { cron: Some(cron("0 3 * * *")), ..ValidatedSnapshots::default() };
        let schedules = ValidatedSchedules {
            snapshots: Some(snapshots),
            settling: SignedDuration::from_hours(26),
            ..ValidatedSchedules::default()
        };
        let done = Some(Time(at(DONE)));
        let done = ScheduleStatus { snapshot: done.clone(), cleanup: done.clone(), verify: done.clone(), gc: done };
        let status = WalStatus { schedules: Some(done), generation: Some("g1".to_owned()), ..WalStatus::default() };
        Self { schedules, tasks: Vec::new(), status, index: Some(figures(100, 1000)) }
    }

    fn snapshots(&mut self) -> &mut ValidatedSnapshots {
        self.schedules.snapshots.as_mut().unwrap()
    }

    fn task(mut self, task: Value) -> Self {
        self.tasks.push(Arc::new(serde_json::from_value(task).unwrap()));
        self
    }

    fn history(&self) -> TaskHistory {
        TaskHistory::of(self.tasks.clone(), "orders", "uid", at(CREATED))
    }

    fn outlook(&self, now: &str) -> ScheduleOutlook {
        let inputs = ScheduleInputs {
            schedules: &self.schedules,
            tasks: &self.history(),
            status: &self.status,
            index: self.index.as_ref(),
            created: at(CREATED),
        };
        inputs.outlook(at(now))
    }

    fn due(&self, now: &str) -> Vec<String> {
        let due = |DueTask { r#type, slot }: &DueTask| format!("{type} {slot}");
        self.outlook(now).due.iter().map(due).collect()
    }

    fn done(&self, now: &str) -> String {
        self.outlook(now).done.snapshot.unwrap().0.to_string()
    }
}

fn figures(entries: u64, bytes: u64) -> IndexFigures {
    IndexFigures { generation: "g1".to_owned(), entries, bytes }
}

/// A task that a schedule made for `slot`, and that ended in `state` ten minutes later, if it did.
fn task(r#type: TaskType, slot: &str, state: Option<&str>, found: &IndexFigures) -> Value {
    let schedule = r#type.as_str().to_lowercase();
    let minute = u64::try_from(at(slot).as_second() / 60).unwrap();
    let ended = at(slot) + SignedDuration::from_mins(10);
    let status = state.map(|state| {
        let completed = ["Succeeded", "Failed", "Rejected"].contains(&state).then_some(ended);
        json!({"state": state, "message": "it says", "completionTime": completed, "walUid": "uid"})
    });
    json!({
        "apiVersion": "tidemark.dev/v1alpha1", "kind": "WALTask",
        "metadata": {
            "name": names::scheduled_task("orders", &schedule, minute), "namespace": "data", "uid": slot,
            "creationTimestamp": slot,
            "labels": {names::LABEL_SCHEDULE: schedule},
            "annotations": {
                names::ANNOTATION_SLOT: slot,
                names::ANNOTATION_INDEX_FIGURES: serde_json::to_string(found).unwrap(),
            },
        },
        "spec": {"walRef": {"name": "orders"}, "type": r#type},
        "status": status,
    })
}

fn snapshot(slot: &str, state: &str, entries: u64) -> Value {
    task(TaskType::Snapshot, slot, Some(state), &figures(entries, 1000))
}

fn last_snapshot(time: &str, entries: i64) -> SnapshotStatus {
    let (name, time) = ("s".to_owned(), Time(at(time)));
    SnapshotStatus { name, time, verified: true, entries: Some(entries), bytes: None }
}

#[test]
fn a_slot_is_due_once_and_missed_ones_are_the_last_one() {
    let case = ScheduleCase::new();
    assert!(case.due("2026-11-21T02:59:59Z").is_empty());
    assert_eq!(case.due("2026-11-21T03:00:00Z"), ["Snapshot 2026-11-21T03:00:00Z"]);
    assert_eq!(case.due("2026-11-28T12:00:00Z"), ["Snapshot 2026-11-28T03:00:00Z"], "a week without an operator");
    assert_eq!(case.outlook("2026-11-28T12:00:00Z").next, Some(at("2026-11-29T03:00:00Z")));
    let made = case.task(snapshot("2026-11-28T03:00:00Z", "Succeeded", 90));
    assert!(made.due("2026-11-28T12:00:00Z").is_empty());
    assert_eq!(made.due("2026-11-29T03:00:00Z"), ["Snapshot 2026-11-29T03:00:00Z"]);
}

#[test]
fn what_was_due_before_the_schedule_was_there_was_not_missed() {
    let mut case = ScheduleCase::new();
    case.status.schedules = None;
    let outlook = case.outlook("2026-11-28T12:00:00Z");
    assert!(outlook.due.is_empty());
    assert_eq!(outlook.done.snapshot, Some(Time(at("2026-11-28T12:00:00Z"))));
    assert_eq!(outlook.next, Some(at("2026-11-29T03:00:00Z")));
}

#[test]
fn two_of_a_kind_never_run_at_once() {
    for state in [None, Some("Pending"), Some("Running")] {
        let active = task(TaskType::Snapshot, "2026-11-21T03:00:00Z", state, &figures(100, 1000));
        let case = ScheduleCase::new().task(active);
        assert!(case.due("2026-11-22T03:00:00Z").is_empty(), "{state:?}");
        assert_eq!(case.done("2026-11-22T03:00:00Z"), DONE, "the slot is not forgotten");
    }
    // What was due while it ran is done with when it ends.
    let case = ScheduleCase::new().task(snapshot("2026-11-21T02:55:00Z", "Failed", 100));
    assert!(case.due("2026-11-21T03:10:00Z").is_empty());
}

#[test]
fn nothing_is_due_when_nothing_changed() {
    let late = "2026-11-24T03:00:00Z";
    let same = ScheduleCase::new().task(snapshot("2026-11-22T03:00:00Z", "Succeeded", 100));
    assert!(same.due("2026-11-23T03:00:00Z").is_empty());
    assert_eq!(same.done("2026-11-23T03:00:00Z"), "2026-11-23T03:00:00Z", "the slot is done with");
    // What was not settled then is archived once it is.
    assert_eq!(same.due(late), [format!("Snapshot {late}")]);
    let settled = same.task(snapshot(late, "Succeeded", 100));
    for day in 25..29 {
        assert!(settled.due(&format!("2026-11-{day}T03:00:00Z")).is_empty());
    }
    let mut grown = ScheduleCase { index: Some(figures(101, 1000)), ..settled };
    assert_eq!(grown.due("2026-11-25T03:00:00Z"), ["Snapshot 2026-11-25T03:00:00Z"]);
    grown.index = Some(IndexFigures { generation: "g2".to_owned(), ..figures(100, 1000) });
    assert_eq!(grown.due("2026-11-25T03:00:00Z"), ["Snapshot 2026-11-25T03:00:00Z"], "another generation");
    let empty = ScheduleCase { index: Some(figures(0, 0)), ..ScheduleCase::new() };
    assert!(empty.due(late).is_empty());
}

#[test]
fn a_change_after_a_slot_at_which_nothing_had_changed_waits_for_the_next_slot() {
    let mut case = ScheduleCase::new().task(snapshot("2026-11-22T03:00:00Z", "Succeeded", 100));
    case.status.schedules = Some(case.outlook("2026-11-23T03:00:00Z").done);
    case.index = Some(figures(200, 1000));
    assert!(case.due("2026-11-23T10:00:00Z").is_empty());
    assert_eq!(case.due("2026-11-24T03:00:00Z"), ["Snapshot 2026-11-24T03:00:00Z"]);
}

#[test]
fn what_a_status_remembers_counts_where_the_tasks_are_gone() {
    let mut case = ScheduleCase::new();
    case.status.last_snapshot = Some(last_snapshot("2026-11-21T03:10:00Z", 100));
    assert!(case.due("2026-11-22T03:00:00Z").is_empty());
    assert_eq!(case.due("2026-11-23T03:00:00Z"), ["Snapshot 2026-11-23T03:00:00Z"], "what was not settled");
    case.index = Some(figures(101, 1000));
    assert_eq!(case.due("2026-11-22T03:00:00Z"), ["Snapshot 2026-11-22T03:00:00Z"]);
}

#[test]
fn nothing_is_due_while_it_is_not_known_what_the_index_holds() {
    let case = ScheduleCase { index: None, ..ScheduleCase::new() };
    assert!(case.due("2026-11-21T03:00:00Z").is_empty());
    assert_eq!(case.done("2026-11-21T03:00:00Z"), DONE);
}

#[test]
fn bounds_ask_for_a_snapshot_at_once_and_not_again_and_again() {
    let at_noon = "2026-11-22T12:00:30Z";
    let bounded = |change: fn(&mut ValidatedSnapshots), state: &str, taken: &str, index: IndexFigures| {
        let mut case = ScheduleCase::new().task(snapshot(taken, state, 100));
        case.status.last_snapshot = Some(last_snapshot("2026-11-22T03:10:00Z", 100));
        change(case.snapshots());
        case.index = Some(index);
        case.due(at_noon)
    };
    let long_ago = "2026-11-22T03:00:00Z";
    let due = ["Snapshot 2026-11-22T12:00:00Z"];
    let by_entries: fn(&mut ValidatedSnapshots) = |snapshots| snapshots.after_entries = Some(50);
    assert_eq!(bounded(by_entries, "Succeeded", long_ago, figures(150, 1000)), due);
    assert!(bounded(by_entries, "Succeeded", long_ago, figures(149, 1000)).is_empty());
    assert_eq!(bounded(|s| s.after_bytes = Some(500), "Succeeded", long_ago, figures(101, 1500)), due);
    assert!(
        bounded(|s| s.after_bytes = Some(500), "Succeeded", long_ago, figures(101, 900)).is_empty(),
        "a compaction"
    );
    assert_eq!(
        bounded(|s| s.after_age = Some(SignedDuration::from_hours(8)), "Succeeded", long_ago, figures(101, 1000)),
        due
    );
    assert!(
        bounded(|s| s.after_age = Some(SignedDuration::from_hours(9)), "Succeeded", long_ago, figures(101, 1000))
            .is_empty()
    );
    // It ended ten minutes later.
    let soon = bounded(by_entries, "Succeeded", "2026-11-22T11:45:00Z", figures(150, 1000));
    assert!(soon.is_empty(), "{soon:?}");
    assert_eq!(bounded(by_entries, "Succeeded", "2026-11-22T11:40:00Z", figures(150, 1000)), due);
    assert!(bounded(by_entries, "Failed", "2026-11-22T11:40:00Z", figures(150, 1000)).is_empty(), "a failure");
    assert_eq!(bounded(by_entries, "Failed", "2026-11-22T10:40:00Z", figures(150, 1000)), due);
}

#[test]
fn a_bound_that_time_alone_passes_is_looked_at_then() {
    let mut case = ScheduleCase::new().task(snapshot("2026-11-22T03:00:00Z", "Succeeded", 90));
    case.status.last_snapshot = Some(last_snapshot("2026-11-22T03:10:00Z", 90));
    case.snapshots().cron = None;
    case.snapshots().after_age = Some(SignedDuration::from_hours(12));
    assert_eq!(case.outlook("2026-11-22T12:00:00Z").next, Some(at("2026-11-22T15:10:00Z")));
    assert_eq!(case.outlook("2026-11-22T12:00:00Z").done.snapshot, None, "there is no slot to remember");
    assert_eq!(case.due("2026-11-22T15:10:00Z"), ["Snapshot 2026-11-22T15:10:00Z"]);
    case.snapshots().after_age = None;
    case.snapshots().after_entries = Some(5);
    let soon = case.task(snapshot("2026-11-22T12:00:00Z", "Succeeded", 90));
    assert_eq!(
        soon.outlook("2026-11-22T12:11:00Z").next,
        Some(at("2026-11-22T12:20:00Z")),
        "the next may be taken then"
    );
}

#[test]
fn a_cleanup_follows_a_verified_snapshot() {
    let mut case = ScheduleCase::new();
    case.schedules.cleanup = Some(cron("0 4 * * *"));
    let cleanups = |case: &ScheduleCase, now| {
        case.due(now).into_iter().filter(|due| due.starts_with("Cleanup")).collect::<Vec<_>>()
    };
    let four = "2026-11-21T04:00:00Z";
    assert!(cleanups(&case, four).is_empty(), "a snapshot is due");
    let failed = case.task(snapshot("2026-11-21T03:00:00Z", "Failed", 100));
    assert!(cleanups(&failed, four).is_empty(), "no snapshot is verified");
    assert_eq!(failed.outlook(four).done.cleanup, Some(Time(at(four))));
    let mut taken = failed.task(snapshot("2026-11-21T03:40:00Z", "Succeeded", 100));
    assert_eq!(
        cleanups(&taken, four),
        ["Cleanup 2026-11-21T04:00:00Z"],
        "the status is written after its end was seen"
    );
    taken.status.last_snapshot = Some(last_snapshot("2026-11-21T03:10:00Z", 100));
    assert_eq!(cleanups(&taken, four), ["Cleanup 2026-11-21T04:00:00Z"]);
    let running = taken.task(snapshot("2026-11-21T03:50:00Z", "Running", 100));
    assert!(cleanups(&running, four).is_empty(), "after the snapshot there is more to delete");
    assert_eq!(running.outlook(four).done.cleanup, Some(Time(at(DONE))));
}

/// A failed task of a user goes a week later, and the log may be the last that has what is lost.
#[test]
fn no_cleanup_is_made_from_when_damage_was_found_until_a_verification_finds_none() {
    let mut case = ScheduleCase::new();
    case.schedules = ValidatedSchedules { cleanup: Some(cron("0 4 * * *")), ..ValidatedSchedules::default() };
    case.status.last_snapshot = Some(last_snapshot("2026-11-21T03:10:00Z", 100));
    let verified = |slot: &str, state: &str, damaged: u64| {
        let mut verified = task(TaskType::Verify, slot, Some(state), &figures(100, 1000));
        verified["status"]["result"] = json!({"damaged": damaged});
        verified
    };
    let (four, due) = ("2026-11-22T04:00:00Z", ["Cleanup 2026-11-22T04:00:00Z"]);
    let fruitless = case.task(verified("2026-11-21T05:00:00Z", "Failed", 0));
    assert_eq!(fruitless.due(four), due, "a store that did not answer is no damage");
    let mut damaged = fruitless.task(verified("2026-11-21T06:00:00Z", "Failed", 2));
    assert!(damaged.due(four).is_empty());
    assert_eq!(damaged.outlook(four).done.cleanup, Some(Time(at(DONE))), "it is not forgotten");
    let known = damaged.history();
    apply_results(&mut damaged.status, &known);
    let last = damaged.status.last_verification.clone().unwrap();
    assert_eq!((last.time.0, last.damaged, last.last_drill), (at("2026-11-21T06:10:00Z"), Some(2), None));
    damaged.tasks.clear();
    assert!(damaged.due(four).is_empty(), "the task is gone");
    let failed_again = damaged.task(verified("2026-11-21T07:00:00Z", "Failed", 0));
    assert!(failed_again.due(four).is_empty(), "what found nothing because it could not look says nothing");
    let mut whole = verified("2026-11-21T08:00:00Z", "Succeeded", 0);
    whole["spec"]["verify"] = json!({"all": true});
    let repaired = failed_again.task(whole);
    assert_eq!(repaired.due(four), due);
}

/// A sample may miss what a look at all has found, and nothing but a drill looks at what a drill has found.
#[test]
fn damage_is_taken_for_repaired_by_a_verification_that_looks_at_as_much() {
    type Look = (bool, bool);
    const SAMPLE: Look = (false, false);
    const ALL: Look = (true, false);
    const DRILL: Look = (false, true);
    const BOTH: Look = (true, true);
    let four = "2026-11-22T04:00:00Z";
    let new = || {
        let mut case = ScheduleCase::new();
        case.schedules = ValidatedSchedules { cleanup: Some(cron("0 4 * * *")), ..ValidatedSchedules::default() };
        case.status.last_snapshot = Some(last_snapshot("2026-11-21T03:10:00Z", 100));
        case
    };
    let verified = |hour: usize, (all, drill): Look, damaged: u64| {
        let state = if damaged > 0 { "Failed" } else { "Succeeded" };
        let slot = format!("2026-11-21T{hour:02}:00:00Z");
        let mut verified = task(TaskType::Verify, &slot, Some(state), &figures(100, 1000));
        verified["spec"]["verify"] = json!({"all": all, "drill": drill});
        verified["status"]["result"] = json!({"damaged": damaged});
        verified
    };
    let cases: [(&[(Look, u64)], bool); 13] = [
        (&[(SAMPLE, 2), (SAMPLE, 0)], false),
        (&[(SAMPLE, 2), (ALL, 0)], true),
        (&[(ALL, 2), (SAMPLE, 0)], false),
        (&[(ALL, 2), (DRILL, 0)], false),
        (&[(ALL, 2), (ALL, 0)], true),
        (&[(ALL, 2), (SAMPLE, 0), (BOTH, 0)], true),
        (&[(DRILL, 1), (SAMPLE, 0)], false),
        (&[(DRILL, 1), (ALL, 0)], false),
        (&[(DRILL, 1), (DRILL, 0)], false),
        (&[(DRILL, 1), (BOTH, 0)], true),
        (&[(ALL, 2), (SAMPLE, 1), (SAMPLE, 0)], false),
        (&[(ALL, 2), (DRILL, 1), (ALL, 0)], false),
        (&[(ALL, 2), (DRILL, 1), (BOTH, 0), (SAMPLE, 1), (SAMPLE, 0)], false),
    ];
    for (looks, cleans) in cases {
        let (mut at_once, mut one_by_one) = (new(), new());
        for (hour, (look, damaged)) in looks.iter().enumerate() {
            let verified = verified(hour + 5, *look, *damaged);
            at_once = at_once.task(verified.clone());
            one_by_one = one_by_one.task(verified);
            for _ in 0..2 {
                let known = one_by_one.history();
                apply_results(&mut one_by_one.status, &known);
            }
            one_by_one.tasks.clear();
        }
        assert_eq!(!at_once.due(four).is_empty(), cleans, "{looks:?}");
        assert_eq!(!one_by_one.due(four).is_empty(), cleans, "{looks:?}, and the tasks are gone");
        let mut status = at_once.status.clone();
        apply_results(&mut status, &at_once.history());
        assert_eq!(status.last_verification, one_by_one.status.last_verification, "{looks:?}");
    }
    let missed = new().task(verified(5, ALL, 2)).task(verified(6, SAMPLE, 0));
    let words = ["2026-11-21T06:10:00Z", "2 objects", "no cleanup runs", "{\"all\": true}"];
    says(&conditions(&missed, four, None, None)[1], "False/VerificationFailed", &words);
}

/// A verification that ran beside others.
#[derive(Clone, Debug)]
struct VerificationRun {
    /// Minutes from [`DONE`] to its begin, and from there to its end.
    minutes: (i64, i64),
    look: VerifyTask,
    damaged: u64,
}

impl VerificationRun {
    fn began(&self) -> Timestamp {
        at(DONE) + SignedDuration::from_mins(self.minutes.0)
    }

    fn ended(&self) -> Timestamp {
        self.began() + SignedDuration::from_mins(self.minutes.1)
    }

    /// Whether it shows that what `other` found is repaired.
    fn clears(&self, other: &Self) -> bool {
        let looks_at_all = self.look.all && (self.look.drill || !other.look.drill);
        self.damaged == 0 && looks_at_all && self.began() > other.ended()
    }

    /// As a task, which was made a while before it began.
    fn task(&self, number: usize) -> Value {
        let state = if self.damaged > 0 { "Failed" } else { "Succeeded" };
        let mut task = task(TaskType::Verify, &self.began().to_string(), Some(state), &figures(100, 1000));
        task["metadata"]["name"] = json!(format!("look-{number}"));
        task["metadata"]["creationTimestamp"] = json!(self.began() - SignedDuration::from_mins(7));
        task["spec"]["verify"] = serde_json::to_value(&self.look).unwrap();
        task["status"]["startTime"] = json!(self.began());
        task["status"]["completionTime"] = json!(self.ended());
        task["status"]["result"] = json!({"damaged": self.damaged});
        task
    }
}

/// What a verification has to look at after these before damage is taken for repaired.
fn wanted_after(runs: &[&VerificationRun]) -> Option<VerifyTask> {
    let is_open = |found: &VerificationRun| found.damaged > 0 && !runs.iter().any(|run| run.clears(found));
    let open: Vec<_> = runs.iter().filter(|run| is_open(run)).collect();
    (!open.is_empty()).then(|| VerifyTask { all: true, drill: open.iter().any(|run| run.look.drill) })
}

/// Both ended while no operator ran, or their ends were seen one after the other, in either order.
#[test]
fn what_one_of_two_verifications_found_is_not_cleared_by_the_one_beside_it() {
    let look = |minutes, damaged| VerificationRun { minutes, look: VerifyTask { all: true, drill: false }, damaged };
    let (found, beside) = (look((120, 30), 2), look((130, 60), 0));
    let four = "2026-11-22T04:00:00Z";
    let mut case = ScheduleCase::new();
    case.schedules = ValidatedSchedules { cleanup: Some(cron("0 4 * * *")), ..ValidatedSchedules::default() };
    case.status.last_snapshot = Some(last_snapshot("2026-11-21T03:10:00Z", 100));
    for order in [vec![vec![&found, &beside]], vec![vec![&found], vec![&beside]], vec![vec![&beside], vec![&found]]] {
        let of = |runs: &[&VerificationRun], status: WalStatus| {
            let schedules = case.schedules.clone();
            let case = ScheduleCase { schedules, status, ..ScheduleCase::new() };
            runs.iter().enumerate().fold(case, |case, (number, run)| case.task(run.task(number)))
        };
        let mut status = case.status.clone();
        for seen in &order {
            let shown = of(seen, status.clone());
            apply_results(&mut status, &shown.history());
        }
        assert!(of(&[], status.clone()).due(four).is_empty(), "{order:?}");
        let last = status.last_verification.clone().unwrap();
        assert_eq!((last.damaged, last.time.0), (Some(2), beside.ended()), "{order:?}");
        // One that began in the second in which the damage was found may have begun before.
        for (begin, cleans) in [(150, false), (151, true)] {
            let later = look((begin, 60), 0);
            assert_eq!(!of(&[&later], status.clone()).due(four).is_empty(), cleans, "{order:?}, {begin}");
        }
    }
}

#[test]
fn a_snapshot_that_was_there_already_is_as_old_as_before() {
    let taken = |slot: &str, time: Value| {
        let mut taken = snapshot(slot, "Succeeded", 100);
        taken["status"]["result"] = json!({"snapshot": "monthly", "snapshotTime": time});
        taken
    };
    let mut status = WalStatus::default();
    let named_again = ScheduleCase::new().task(taken("2026-11-21T03:00:00Z", json!("2026-10-21T03:09:00Z")));
    apply_results(&mut status, &named_again.history());
    assert_eq!(status.last_snapshot.as_ref().unwrap().time.0, at("2026-10-21T03:09:00Z"));
    let newer = named_again.task(taken("2026-11-21T02:00:00Z", json!("2026-11-21T02:09:00Z")));
    apply_results(&mut status, &newer.history());
    assert_eq!(
        status.last_snapshot.as_ref().unwrap().time.0,
        at("2026-11-21T02:09:00Z"),
        "that the other task ended later says nothing"
    );
}

#[test]
fn a_cleanup_that_left_nothing_is_not_repeated_before_something_comes() {
    let mut case = ScheduleCase::new();
    case.schedules = ValidatedSchedules { cleanup: Some(cron("0 4 * * *")), ..ValidatedSchedules::default() };
    case.status.last_snapshot = Some(last_snapshot("2026-11-21T03:10:00Z", 100));
    let cleaned = |held_back: Value, found: IndexFigures| {
        let mut cleaned = task(TaskType::Cleanup, "2026-11-21T04:00:00Z", Some("Succeeded"), &found);
        cleaned["status"]["result"] = json!({"heldBack": held_back});
        let ScheduleCase { schedules, status, index, .. } = &case;
        let (schedules, status, index) = (schedules.clone(), status.clone(), index.clone());
        ScheduleCase { schedules, tasks: Vec::new(), status, index }.task(cleaned).due("2026-11-22T04:00:00Z")
    };
    assert!(cleaned(json!(0), figures(100, 1000)).is_empty());
    let due = ["Cleanup 2026-11-22T04:00:00Z"];
    assert_eq!(cleaned(json!(3), figures(100, 1000)), due, "what was too young gets older");
    assert_eq!(cleaned(json!(null), figures(100, 1000)), due);
    assert_eq!(cleaned(json!(0), figures(99, 1000)), due);
}

#[test]
fn a_verification_needs_an_index_and_no_change() {
    let mut case = ScheduleCase::new();
    let cron = Some(cron("0 5 * * 0"));
    let verification = Some(ValidatedVerification { cron, drill: true });
    case.schedules = ValidatedSchedules { verification, ..ValidatedSchedules::default() };
    let sunday = "2026-11-22T05:00:00Z";
    assert_eq!(case.due(sunday), ["Verify 2026-11-22T05:00:00Z"]);
    case.index = None;
    assert_eq!(case.due(sunday), ["Verify 2026-11-22T05:00:00Z"], "it reads the store");
    case.status.generation = None;
    assert!(case.due(sunday).is_empty());
}

#[test]
fn a_collection_deletes_what_was_seen_a_day_before_and_then_there_is_nothing() {
    let mut case = ScheduleCase::new();
    case.schedules = ValidatedSchedules { gc: Some(cron("0 2 * * *")), ..ValidatedSchedules::default() };
    let collected = |slot: &str| task(TaskType::GC, slot, Some("Succeeded"), &figures(100, 1000));
    assert_eq!(case.due("2026-11-21T02:00:00Z"), ["GC 2026-11-21T02:00:00Z"]);
    case = case.task(collected("2026-11-21T02:00:00Z"));
    assert!(case.due("2026-11-22T02:00:00Z").is_empty(), "what it saw is not a day old");
    assert_eq!(case.outlook("2026-11-22T02:00:00Z").done.gc, Some(Time(at("2026-11-22T02:00:00Z"))));
    assert_eq!(case.due("2026-11-23T02:00:00Z"), ["GC 2026-11-23T02:00:00Z"]);
    case = case.task(collected("2026-11-23T02:00:00Z"));
    for day in 24..29 {
        assert!(case.due(&format!("2026-11-{day}T02:00:00Z")).is_empty(), "nothing has changed");
    }
    let four = "2026-11-24T02:00:00Z";
    let compacted = ScheduleCase { index: Some(figures(100, 900)), tasks: case.tasks.clone(), ..ScheduleCase::new() };
    let compacted = ScheduleCase { schedules: case.schedules.clone(), ..compacted };
    assert_eq!(compacted.due(four), [format!("GC {four}")], "a compaction leaves objects");
    let left = case.task(snapshot("2026-11-23T03:00:00Z", "Failed", 100));
    assert_eq!(left.due(four), [format!("GC {four}")], "and so does a task");
}

#[test]
fn a_collection_needs_an_index_and_is_not_made_twice() {
    let mut case = ScheduleCase::new();
    case.schedules = ValidatedSchedules { gc: Some(cron("0 2 * * *")), ..ValidatedSchedules::default() };
    case.status.generation = None;
    assert!(case.due("2026-11-21T02:00:00Z").is_empty());
    case.status.generation = Some("g1".to_owned());
    let running = case.task(task(TaskType::GC, "2026-11-21T01:00:00Z", Some("Running"), &figures(100, 1000)));
    assert!(running.due("2026-11-21T02:00:00Z").is_empty());
    assert_eq!(running.outlook("2026-11-21T02:00:00Z").done.gc, Some(Time(at(DONE))));
}

#[test]
fn tasks_of_an_earlier_wal_or_of_another_one_do_not_count() {
    let mut other = snapshot("2026-11-21T03:00:00Z", "Running", 100);
    other["spec"]["walRef"]["name"] = json!("bills");
    let mut earlier = snapshot("2026-11-21T03:00:00Z", "Running", 100);
    earlier["status"]["walUid"] = json!("before");
    let mut old = snapshot("2026-10-21T03:00:00Z", "Running", 100);
    old["status"]["walUid"] = json!(null);
    let case = ScheduleCase::new().task(other).task(earlier).task(old);
    assert_eq!(case.due("2026-11-21T03:00:00Z"), ["Snapshot 2026-11-21T03:00:00Z"]);
    // Both stood in one file, and the WAL was made after its task.
    let waited = case.task(snapshot("2026-10-31T23:59:59Z", "Running", 100));
    assert!(waited.due("2026-11-21T03:00:00Z").is_empty());
}

#[test]
fn three_of_each_outcome_of_a_schedule_are_kept() {
    let mut case = ScheduleCase::new();
    for day in 10..20 {
        let state = if day % 2 == 0 { "Succeeded" } else { "Failed" };
        case = case.task(snapshot(&format!("2026-11-{day}T03:00:00Z"), state, 1));
    }
    let verify = task(TaskType::Verify, "2026-11-10T05:00:00Z", Some("Succeeded"), &figures(1, 1));
    let mut by_hand = snapshot("2026-11-09T03:00:00Z", "Succeeded", 1);
    by_hand["metadata"]["labels"] = json!({});
    let running = snapshot("2026-11-08T03:00:00Z", "Running", 1);
    case = case.task(verify).task(by_hand).task(running);
    let history = case.history();
    let mut expired: Vec<_> = history.expired().iter().map(|task| task.uid().unwrap()).collect();
    expired.sort();
    assert_eq!(
        expired,
        ["2026-11-10T03:00:00Z", "2026-11-11T03:00:00Z", "2026-11-12T03:00:00Z", "2026-11-13T03:00:00Z"]
    );
}

#[test]
fn results_become_a_part_of_the_status_and_stay_when_the_tasks_are_gone() {
    let mut taken = snapshot("2026-11-21T03:00:00Z", "Succeeded", 100);
    let window = json!({"first": "2026-11-01T00:00:00Z", "last": "2026-11-21T03:00:00Z"});
    taken["status"]["result"] = json!({"snapshot": "s-1", "recoveryWindow": window});
    let mut cleaned = task(TaskType::Cleanup, "2026-11-21T04:00:00Z", Some("Succeeded"), &figures(100, 1000));
    cleaned["status"]["result"] = json!({"entries": 10, "bytes": 100, "deletedEntries": 7, "deletedBytes": 70});
    let mut tried = cleaned.clone();
    tried["metadata"]["name"] = json!("by-hand");
    tried["spec"]["cleanup"] = json!({"dryRun": true});
    tried["status"]["completionTime"] = json!("2026-11-21T09:00:00Z");
    let mut drill = task(TaskType::Verify, "2026-11-22T05:00:00Z", Some("Succeeded"), &figures(100, 1000));
    drill["spec"]["verify"] = json!({"drill": true});
    drill["status"]["result"] = json!({"damaged": 0});
    let sample = task(TaskType::Verify, "2026-11-23T05:00:00Z", Some("Succeeded"), &figures(100, 1000));
    let failed = snapshot("2026-11-24T03:00:00Z", "Failed", 100);
    let mut case = ScheduleCase::new().task(taken).task(cleaned).task(tried).task(drill).task(failed);
    let mut status = case.status.clone();
    apply_results(&mut status, &case.history());
    let last = status.last_snapshot.clone().unwrap();
    assert_eq!(
        (last.name.as_str(), last.time.0, last.verified, last.entries),
        ("s-1", at("2026-11-21T03:10:00Z"), true, Some(100))
    );
    let window = status.recovery_window.clone().unwrap();
    assert_eq!((window.first.0, window.last.0), (at("2026-11-01T00:00:00Z"), at("2026-11-21T03:00:00Z")));
    let cleanup = status.last_cleanup.clone().unwrap();
    assert_eq!(
        (cleanup.time.0, cleanup.deleted_entries, cleanup.deleted_bytes),
        (at("2026-11-21T04:10:00Z"), Some(7), Some(70))
    );
    let drilled = status.last_verification.clone().unwrap();
    let drilled_at = Some(Time(at("2026-11-22T05:10:00Z")));
    assert_eq!((drilled.damaged, &drilled.last_drill), (Some(0), &drilled_at));

    case = case.task(sample);
    apply_results(&mut status, &case.history());
    let verification = status.last_verification.clone().unwrap();
    assert_eq!((verification.time.0, verification.last_drill), (at("2026-11-23T05:10:00Z"), drilled_at));
    let before = status.clone();
    apply_results(&mut status, &TaskHistory::default());
    assert_eq!(status, before);
}

/// The one that looked last may be the first to go, as one that somebody deletes.
#[test]
fn what_can_be_restored_is_what_was_found_last_also_when_only_an_older_task_is_left() {
    let looked = |r#type, slot: &str, [first, last]: [&str; 2]| {
        let mut looked = task(r#type, slot, Some("Succeeded"), &figures(100, 1000));
        looked["status"]["result"] = json!({"snapshot": "s-1", "recoveryWindow": {"first": first, "last": last}});
        looked
    };
    let mut status = WalStatus::default();
    let mut told = |case: &ScheduleCase| {
        apply_results(&mut status, &case.history());
        let known = status.recovery_window.clone().unwrap();
        (known.first.0, known.last.0)
    };
    let [older, newer] =
        [["2026-11-01T00:00:00Z", "2026-11-20T03:00:00Z"], ["2026-11-01T00:00:00Z", "2026-11-21T03:00:00Z"]];
    let before = looked(TaskType::Snapshot, "2026-11-20T03:00:00Z", older);
    let case = ScheduleCase::new().task(before.clone());
    assert_eq!(told(&case), (at(older[0]), at(older[1])));
    let case = case.task(looked(TaskType::Snapshot, "2026-11-21T03:00:00Z", newer));
    assert_eq!(told(&case), (at(newer[0]), at(newer[1])));
    let case = ScheduleCase::new().task(before);
    assert_eq!(told(&case), (at(newer[0]), at(newer[1])), "it was not looked since");
    // A later look that finds less counts: the archive has lost it, or a snapshot has served its time.
    let less = ["2026-11-19T00:00:00Z", "2026-11-20T09:00:00Z"];
    let case = case.task(looked(TaskType::Cleanup, "2026-11-22T03:00:00Z", less));
    assert_eq!(told(&case), (at(less[0]), at(less[1])));
}

/// Whatever became of the task otherwise, and whether or not it was a rehearsal.
#[test]
fn the_size_of_the_log_is_what_the_task_that_counted_last_found() {
    let counted = |r#type, slot: &str, state: &str, entries: Value| {
        let mut counted = task(r#type, slot, Some(state), &figures(100, 1000));
        counted["status"]["result"] = json!({"logEntries": entries, "logBytes": entries});
        counted
    };
    let mut status = WalStatus::default();
    let mut told = |case: &ScheduleCase| {
        apply_results(&mut status, &case.history());
        status.log_size.as_ref().map(|size| (size.time.0.to_string(), size.entries, size.bytes))
    };
    let of = |time: &str, entries| Some((time.to_owned(), entries, entries));
    let case = ScheduleCase::new();
    assert_eq!(told(&case), None);
    let case = case.task(counted(TaskType::Snapshot, "2026-11-21T03:00:00Z", "Succeeded", json!(70)));
    assert_eq!(told(&case), of("2026-11-21T03:10:00Z", 70));
    let case = case.task(counted(TaskType::Cleanup, "2026-11-21T04:00:00Z", "Failed", json!(30)));
    assert_eq!(told(&case), of("2026-11-21T04:10:00Z", 30));
    let case = case.task(counted(TaskType::Snapshot, "2026-11-21T05:00:00Z", "Succeeded", json!(null)));
    assert_eq!(told(&case), of("2026-11-21T04:10:00Z", 30), "its store did not answer the list");
    let mut rehearsal = counted(TaskType::Cleanup, "2026-11-21T06:00:00Z", "Succeeded", json!(31));
    rehearsal["spec"]["cleanup"] = json!({"dryRun": true});
    let case = case.task(rehearsal);
    assert_eq!(told(&case), of("2026-11-21T06:10:00Z", 31));
    let case = case.task(counted(TaskType::Verify, "2026-11-21T07:00:00Z", "Failed", json!(32)));
    assert_eq!(told(&case), of("2026-11-21T07:10:00Z", 32));
    assert_eq!(told(&ScheduleCase::new()), of("2026-11-21T07:10:00Z", 32), "the tasks are gone");
}

#[test]
fn a_restore_is_told_until_it_is_promoted() {
    let restored = |slot: &str, generation: &str| {
        let mut restored = task(TaskType::Restore, slot, Some("Succeeded"), &figures(1, 1));
        restored["spec"]["restore"] = json!({"latest": true});
        restored["status"]["result"] = json!({"generation": generation, "cursor": "2026-11-20T00:00:00Z"});
        restored
    };
    let promoted = |slot: &str, state: &str| task(TaskType::Promote, slot, Some(state), &figures(1, 1));
    let told = |case: &ScheduleCase, status: &mut WalStatus| {
        apply_results(status, &case.history());
        status.restored.clone().and_then(|restored| restored.generation)
    };
    let mut status = WalStatus::default();
    let mut case = ScheduleCase::new().task(promoted("2026-11-20T00:00:00Z", "Succeeded"));
    assert_eq!(told(&case, &mut status), None);
    case = case.task(restored("2026-11-21T00:00:00Z", "g2")).task(promoted("2026-11-21T01:00:00Z", "Failed"));
    assert_eq!(told(&case, &mut status).as_deref(), Some("g2"));
    assert_eq!(status.restored.as_ref().unwrap().cursor, Some(Time(at("2026-11-20T00:00:00Z"))));
    assert_eq!(told(&ScheduleCase::new(), &mut status).as_deref(), Some("g2"), "its task is gone");
    case = case.task(restored("2026-11-22T00:00:00Z", "g3"));
    assert_eq!(told(&case, &mut status).as_deref(), Some("g3"));
    // A pod writes again although no task has promoted the index: a person did.
    status.restored = None;
    assert!(has_results(&status, &case.history()), "tasks need not stay for that");
    case = case.task(promoted("2026-11-22T01:00:00Z", "Succeeded"));
    assert_eq!(told(&case, &mut status), None);
    assert_eq!(told(&case, &mut status), None, "it stays so");
}

/// `SnapshotCurrent` and `Verified` at some time, as `status/reason: message`.
fn conditions(case: &ScheduleCase, now: &str, blocked: Option<&'static str>, failure: Option<&str>) -> [String; 2] {
    let mut status = case.status.clone();
    let tasks = case.history();
    apply_results(&mut status, &tasks);
    let schedule = ScheduleInputs {
        schedules: &case.schedules,
        tasks: &tasks,
        status: &status,
        index: case.index.as_ref(),
        created: at(CREATED),
    };
    let failure = failure.map(|failure| (TaskType::Snapshot, failure.to_owned()));
    let protection = ProtectionInputs { schedule, failure, blocked, now: at(now) };
    let said = |value: ConditionValue| format!("{}/{}: {}", value.status.as_str(), value.reason, value.message);
    [said(snapshot_current::evaluate(&protection)), said(verified::evaluate(&protection))]
}

#[track_caller]
fn says(said: &str, verdict: &str, words: &[&str]) {
    assert!(said.starts_with(&format!("{verdict}: ")), "{said}");
    for word in words {
        assert!(said.contains(word), "\"{word}\" is not in {said}");
    }
}

#[test]
fn whether_the_newest_snapshot_is_as_new_as_the_schedule_asks_for() {
    let said = |case: &ScheduleCase, now| conditions(case, now, None, None)[0].clone();
    let (soon, late) = ("2026-11-21T03:59:00Z", "2026-11-21T04:00:00Z");
    let case = ScheduleCase::new();
    says(&said(&case, "2026-11-20T12:00:00Z"), "Unknown/Pending", &["no snapshot yet"]);
    says(&said(&case, soon), "Unknown/Pending", &[]);
    says(&said(&case, late), "False/SnapshotOverdue", &["due at 2026-11-21T03:00:00Z", "no task was made"]);
    let suspended = conditions(&case, late, Some("the WAL is suspended; set \"spec.suspend\" to false"), None);
    says(&suspended[0], "False/SnapshotOverdue", &["suspended", "spec.suspend"]);
    let refused = conditions(&case, "2026-11-21T03:00:05Z", None, Some("task \"t\" cannot be made: no quota"));
    says(&refused[0], "False/SnapshotOverdue", &["no quota"]);
    let empty = ScheduleCase { index: Some(figures(0, 0)), ..ScheduleCase::new() };
    says(&said(&empty, late), "Unknown/Pending", &[]);
    let waiting = ScheduleCase::new().task(snapshot("2026-11-21T03:00:00Z", "Pending", 90));
    says(&said(&waiting, soon), "Unknown/Pending", &[]);
    says(&said(&waiting, late), "False/SnapshotOverdue", &["has not begun: it says"]);
    let running = ScheduleCase::new().task(snapshot("2026-11-21T03:00:00Z", "Running", 90));
    says(&said(&running, "2026-11-21T08:00:00Z"), "Unknown/Pending", &[]);

    let taken = ScheduleCase::new().task(snapshot("2026-11-21T03:00:00Z", "Succeeded", 90));
    says(&said(&taken, "2026-11-22T03:30:00Z"), "True/SnapshotCurrent", &["of 2026-11-21T03:10:00Z"]);
    says(
        &said(&taken, "2026-11-22T04:00:00Z"),
        "False/SnapshotOverdue",
        &["due at 2026-11-22T03:00:00Z", "2026-11-21T03:10:00Z"],
    );
    let covered = ScheduleCase::new().task(snapshot("2026-11-21T03:00:00Z", "Succeeded", 100));
    says(&said(&covered, "2026-11-22T04:00:00Z"), "True/SnapshotCurrent", &["not changed since"]);
    let mut unscheduled = taken.task(snapshot("2026-11-22T03:00:00Z", "Failed", 90));
    says(&said(&unscheduled, "2026-11-22T03:30:00Z"), "False/SnapshotFailed", &["it says", "of 2026-11-21T03:10:00Z"]);
    unscheduled.schedules.snapshots = None;
    says(&said(&unscheduled, late), "False/NotScheduled", &["spec.snapshots"]);
}

#[test]
fn a_snapshot_that_is_too_old_is_late_without_a_cron_schedule() {
    let mut case = ScheduleCase::new().task(snapshot("2026-11-21T03:00:00Z", "Succeeded", 90));
    case.snapshots().cron = None;
    case.snapshots().after_age = Some(SignedDuration::from_hours(24));
    let said = |now| conditions(&case, now, None, None)[0].clone();
    says(&said("2026-11-22T04:09:00Z"), "True/SnapshotCurrent", &[]);
    says(&said("2026-11-22T04:10:00Z"), "False/SnapshotOverdue", &["due at 2026-11-22T03:10:00Z"]);
}

#[test]
fn a_users_task_that_is_rejected_says_nothing_of_the_schedule() {
    let mut by_hand = snapshot("2026-11-21T10:00:00Z", "Rejected", 90);
    by_hand["metadata"]["labels"] = json!({});
    let case = ScheduleCase::new().task(snapshot("2026-11-21T03:00:00Z", "Succeeded", 90)).task(by_hand);
    says(&conditions(&case, "2026-11-21T12:00:00Z", None, None)[0], "True/SnapshotCurrent", &[]);
    let scheduled = case.task(snapshot("2026-11-21T11:00:00Z", "Rejected", 90));
    says(&conditions(&scheduled, "2026-11-21T12:00:00Z", None, None)[0], "False/SnapshotFailed", &[]);
}

#[test]
fn whether_index_and_archive_were_verified_lately() {
    let said = |case: &ScheduleCase, now| conditions(case, now, None, None)[1].clone();
    let mut case = ScheduleCase::new();
    says(&said(&case, DONE), "False/NotScheduled", &["spec.verify"]);
    case.schedules.verification = Some(ValidatedVerification { cron: Some(cron("0 5 * * 0")), drill: false });
    says(&said(&case, "2026-11-22T05:30:00Z"), "Unknown/Pending", &["never verified"]);
    says(&said(&case, "2026-11-22T06:00:00Z"), "False/VerificationOverdue", &["due at 2026-11-22T05:00:00Z"]);
    let verified = case.task(task(TaskType::Verify, "2026-11-22T05:00:00Z", Some("Succeeded"), &figures(1, 1)));
    says(&said(&verified, "2026-11-28T12:00:00Z"), "True/Verified", &["2026-11-22T05:10:00Z", "right"]);
    let failed = verified.task(task(TaskType::Verify, "2026-11-29T05:00:00Z", Some("Failed"), &figures(1, 1)));
    says(&said(&failed, "2026-11-29T06:00:00Z"), "False/VerificationFailed", &["it says", "2026-11-22T05:10:00Z"]);
    let mut damaged = task(TaskType::Verify, "2026-11-30T05:00:00Z", Some("Succeeded"), &figures(1, 1));
    damaged["status"]["result"] = json!({"damaged": 2});
    let damaged = failed.task(damaged);
    says(&said(&damaged, "2026-11-30T06:00:00Z"), "False/VerificationFailed", &["2 objects", "no cleanup runs"]);
}

#[test]
fn a_verification_that_was_rejected_found_no_damage_and_hides_none() {
    let said = |case: &ScheduleCase, now| conditions(case, now, None, None)[1].clone();
    let verify = |slot: &str, state: &str| task(TaskType::Verify, slot, Some(state), &figures(1, 1));
    let mut case = ScheduleCase::new();
    case.schedules.verification = Some(ValidatedVerification { cron: Some(cron("0 5 * * *")), drill: true });
    let rejected = case.task(verify("2026-11-22T05:00:00Z", "Rejected"));
    let words = ["was not run: it says", "never verified"];
    says(&said(&rejected, "2026-11-22T05:30:00Z"), "False/VerificationOverdue", &words);
    let failed = rejected.task(verify("2026-11-21T05:00:00Z", "Failed"));
    says(&said(&failed, "2026-11-22T05:30:00Z"), "False/VerificationFailed", &["do not delete"]);
    let mut by_hand = verify("2026-11-23T09:00:00Z", "Rejected");
    by_hand["metadata"]["labels"] = json!({});
    let right = failed.task(verify("2026-11-23T05:00:00Z", "Succeeded")).task(by_hand);
    says(&said(&right, "2026-11-23T12:00:00Z"), "True/Verified", &["no snapshot was restored to try it yet"]);
}

#[test]
fn what_is_said_of_a_drill_is_what_the_last_one_was() {
    let said = |case: &ScheduleCase, now| conditions(case, now, None, None)[1].clone();
    let mut case = ScheduleCase::new();
    let cron = Some(cron("0 5 * * *"));
    let mut drill = task(TaskType::Verify, "2026-11-22T05:00:00Z", Some("Succeeded"), &figures(1, 1));
    drill["spec"]["verify"] = json!({"drill": true});
    case.schedules.verification = Some(ValidatedVerification { cron, drill: true });
    let tried = case.task(drill);
    let now = "2026-11-22T05:30:00Z";
    says(&said(&tried, now), "True/Verified", &["restored to try it at 2026-11-22T05:10:00Z"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The ends of verifications are seen in any order, and their tasks are gone at any time afterwards: what is known of damage is always
    /// what those that were seen say, and in the end the same as if all had been seen at once.
    #[test]
    fn what_is_known_of_damage_does_not_depend_on_the_order_in_which_it_is_seen(
        runs in prop::collection::vec(
            ((0_i64..40, 1_i64..20), any::<(bool, bool)>(), 0_u64..3, 0_usize..4, 0_usize..3),
            1..8,
        ),
    ) {
        let rounds: Vec<(usize, usize)> = runs.iter().map(|(_, _, _, seen, kept)| (*seen, seen + kept)).collect();
        let runs = runs.into_iter().map(|(minutes, (all, drill), damaged, ..)| {
            VerificationRun { minutes, look: VerifyTask { all, drill }, damaged }
        });
        let runs: Vec<_> = runs.collect();
        let shown = |is_shown: &dyn Fn(usize) -> bool| {
            let shown = (0..runs.len()).filter(|number| is_shown(*number));
            shown.fold(ScheduleCase::new(), |case, number| case.task(runs[number].task(number))).history()
        };
        let mut status = WalStatus::default();
        for round in 0..6 {
            apply_results(&mut status, &shown(&|number| rounds[number].0 <= round && round <= rounds[number].1));
            let seen: Vec<_> = runs.iter().zip(&rounds).filter(|(_, (seen, _))| *seen <= round).map(|(run, _)| run).collect();
            let known = status.last_verification.clone();
            prop_assert_eq!(known.as_ref().and_then(VerificationStatus::wanted_check), wanted_after(&seen));
            prop_assert_eq!(known.as_ref().map(|last| last.time.0), seen.iter().map(|run| run.ended()).max());
            let drills = seen.iter().filter(|run| run.look.drill && run.damaged == 0);
            prop_assert_eq!(known.and_then(|last| last.last_drill), drills.map(|run| Time(run.ended())).max());
        }
        let mut at_once = WalStatus::default();
        apply_results(&mut at_once, &shown(&|_| true));
        prop_assert_eq!(status.last_verification, at_once.last_verification);
    }

    /// An operator that comes and goes, on an index that grows: no slot is run twice, two of a kind never run at once, and a slot
    /// that an operator saw while something had changed is never lost.
    #[test]
    fn no_slot_runs_twice_and_none_is_lost(steps in prop::collection::vec((1_i64..40, 0_u8..8), 1..80)) {
        let mut case = ScheduleCase::new();
        case.snapshots().cron = Some(cron("*/30 * * * *"));
        let mut now = at(DONE);
        let mut slots = std::collections::BTreeSet::new();
        for (minutes, what) in steps {
            now += SignedDuration::from_mins(minutes);
            match what {
                0 => case.index.as_mut().unwrap().entries += 1,
                // The task that runs ends.
                1 | 2 => {
                    let state = if what == 1 { "Succeeded" } else { "Failed" };
                    for task in &mut case.tasks {
                        let mut ended = serde_json::to_value(&**task).unwrap();
                        if ended["status"]["state"] == "Running" {
                            ended["status"] = json!({"state": state, "completionTime": now});
                        }
                        *task = Arc::new(serde_json::from_value(ended).unwrap());
                    }
                }
                // The operator does not run.
                3 => {}
                // It does, and what it writes to the status is lost for some.
                _ => {
                    let running = case.history().active(TaskType::Snapshot).is_some();
                    let outlook = case.outlook(&now.to_string());
                    prop_assert!(outlook.next.is_none_or(|next| next > now));
                    for due in &outlook.due {
                        prop_assert!(!running, "two at once");
                        prop_assert!(slots.insert(due.slot), "{} again", due.slot);
                        prop_assert!(due.slot <= now && now.duration_since(due.slot) < SignedDuration::from_mins(30));
                        let slot = due.slot.to_string();
                        let mut made = task(due.r#type, &slot, Some("Running"), case.index.as_ref().unwrap());
                        made["metadata"]["creationTimestamp"] = json!(now);
                        case = case.task(made);
                    }
                    if what > 5 {
                        case.status.schedules = Some(outlook.done);
                    }
                }
            }
        }
    }
}

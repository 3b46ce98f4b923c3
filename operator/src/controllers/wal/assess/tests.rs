//! Every case is a line: what was seen, and which conditions follow.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;
use crate::{cache::WalKey, process::Problem};

fn rollout(available: i32) -> Rollout {
    Rollout { wanted: 1, replicas: 1, available, complete: available == 1, ..Rollout::default() }
}

fn pod(component: Component, name: &str) -> Pod {
    Pod {
        wal: WalKey::new("data", "orders"),
        name: name.into(),
        uid: format!("uid-{name}").into(),
        wal_uid: "w".into(),
        component,
        address: Some("10.0.0.1".into()),
        terminating: false,
        trouble: None,
    }
}

fn says(component: Component, name: &str, process: Process) -> Seen {
    let observation = Observation {
        process: Some(Arc::new(process)),
        seen: Some(Timestamp::from_second(1_000_000_000).unwrap()),
        failures: 0,
    };
    Seen { pod: Arc::new(pod(component, name)), observation }
}

fn indexer(process: Process) -> Seen {
    says(Component::Indexer, "orders-indexer-a", process)
}

fn silent(mut seen: Seen) -> Seen {
    seen.observation.failures = 2;
    seen
}

fn troubled(component: Component, trouble: Trouble) -> Seen {
    let pod = Pod { trouble: Some(trouble), address: None, ..pod(component, "p") };
    Seen { pod: Arc::new(pod), observation: Observation::default() }
}

fn writer() -> Process {
    Process {
        phase: Phase::Writing,
        caught_up: true,
        probed: true,
        epoch: Some(1),
        manifest: Some(1),
        lag_seconds: Some(0),
        ..Process::default()
    }
}

fn problem(reason: &str) -> Vec<Problem> {
    vec![Problem { reason: reason.to_owned(), role: Some("log".to_owned()), message: format!("{reason}; so; do") }]
}

fn before(kind: ConditionType, status: &str, reason: Reason) -> Condition {
    Condition {
        type_: kind.as_str().to_owned(),
        status: status.to_owned(),
        reason: reason.as_str().to_owned(),
        message: "as before".to_owned(),
        observed_generation: None,
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    }
}

struct Case {
    suspended: bool,
    search_wanted: bool,
    search: Option<Rollout>,
    indexer: Option<Rollout>,
    pods: Vec<Seen>,
    before: Vec<Condition>,
    refused: Option<Verdict>,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            suspended: false,
            search_wanted: true,
            search: Some(rollout(1)),
            indexer: Some(rollout(1)),
            pods: vec![indexer(writer())],
            before: Vec::new(),
            refused: None,
        }
    }
}

impl Case {
    fn assess(&self) -> Assessment {
        let Self { suspended, search_wanted, search, indexer, pods, before, refused } = self;
        let facts = Facts {
            suspended: *suspended,
            search_wanted: *search_wanted,
            indexer: indexer.as_ref(),
            search: search.as_ref(),
            pods,
            before,
            refused: refused.clone(),
        };
        facts.assess()
    }

    /// Ready, storage, indexing and search as `status/reason`.
    fn conditions(&self) -> [String; 4] {
        let Assessment { ready, storage, indexing, search } = self.assess();
        [ready, storage, indexing, search].map(|verdict| format!("{}/{}", verdict.status.as_str(), verdict.reason))
    }
}

#[test]
fn conditions_follow_from_what_was_seen() {
    let with = |process| vec![indexer(process)];
    let cases = [
        ("all well", Case::default(), ["True/Ready", "True/Probed", "True/CaughtUp", "True/Available"]),
        (
            "nothing is there yet",
            Case { pods: vec![], search: None, indexer: None, ..Case::default() },
            ["False/Starting", "Unknown/Starting", "False/Starting", "False/Starting"],
        ),
        (
            "the stores are probed",
            Case {
                pods: with(Process { phase: Phase::Probing, ..Process::default() }),
                search: None,
                ..Case::default()
            },
            ["False/Probing", "Unknown/Probing", "False/Probing", "False/Starting"],
        ),
        (
            "the first entries are indexed",
            Case { pods: with(Process { caught_up: false, ..writer() }), search: Some(rollout(0)), ..Case::default() },
            ["False/Backfilling", "True/Probed", "False/Backfilling", "False/Starting"],
        ),
        (
            "a bucket is missing from the start",
            Case {
                pods: with(Process { problems: problem("BucketMissing"), ..Process::default() }),
                search: Some(rollout(0)),
                ..Case::default()
            },
            ["False/BucketMissing", "False/BucketMissing", "False/BucketMissing", "False/Starting"],
        ),
        (
            "the store is down for a while: search goes on",
            Case { pods: with(Process { problems: problem("Unreachable"), ..writer() }), ..Case::default() },
            ["False/Unreachable", "False/Unreachable", "False/Unreachable", "True/Available"],
        ),
        (
            "an indexer that was fenced has fine stores",
            Case { pods: with(Process { problems: problem("Fenced"), ..writer() }), ..Case::default() },
            ["False/Fenced", "True/Probed", "False/Fenced", "True/Available"],
        ),
        (
            "search refuses every query for want of its token",
            Case {
                pods: vec![
                    indexer(writer()),
                    says(
                        Component::Search,
                        "s",
                        Process { problems: problem("AuthTokenMissing"), ..Process::default() },
                    ),
                ],
                ..Case::default()
            },
            ["False/AuthTokenMissing", "True/Probed", "True/CaughtUp", "False/AuthTokenMissing"],
        ),
        (
            "search is turned off",
            Case { search_wanted: false, search: Some(Rollout::default()), ..Case::default() },
            ["True/Ready", "True/Probed", "True/CaughtUp", "False/NoReplicas"],
        ),
        (
            "suspended: search stays, the stores are as they were",
            Case {
                suspended: true,
                pods: vec![],
                before: vec![before(ConditionType::StorageReady, "True", Reason::Probed)],
                ..Case::default()
            },
            ["True/Suspended", "True/Probed", "False/Suspended", "True/Available"],
        ),
        (
            "suspended, and search does not answer",
            Case { suspended: true, pods: vec![], search: Some(rollout(0)), ..Case::default() },
            ["False/Starting", "Unknown/Starting", "False/Suspended", "False/Starting"],
        ),
        (
            "the indexer is silent: search is not flipped, the stores stay known",
            Case {
                pods: vec![silent(indexer(writer()))],
                before: vec![before(ConditionType::StorageReady, "True", Reason::Probed)],
                ..Case::default()
            },
            ["Unknown/PodNotAnswering", "True/Probed", "Unknown/PodNotAnswering", "True/Available"],
        ),
        (
            "search is silent, but the kubelet calls it ready",
            Case {
                pods: vec![indexer(writer()), silent(says(Component::Search, "s", Process::default()))],
                ..Case::default()
            },
            ["True/Ready", "True/Probed", "True/CaughtUp", "True/Available"],
        ),
        (
            "only a standby answers",
            Case {
                pods: with(Process { phase: Phase::Standby, probed: true, ..Process::default() }),
                ..Case::default()
            },
            ["False/Standby", "True/Probed", "False/Standby", "True/Available"],
        ),
        (
            "a standby answers and the writer is silent: nobody knows whether it writes",
            Case {
                pods: vec![
                    silent(indexer(writer())),
                    says(
                        Component::Indexer,
                        "b",
                        Process { phase: Phase::Standby, probed: true, ..Process::default() },
                    ),
                ],
                ..Case::default()
            },
            ["Unknown/PodNotAnswering", "True/Probed", "Unknown/PodNotAnswering", "True/Available"],
        ),
        (
            "no node takes the indexer",
            Case {
                pods: vec![troubled(Component::Indexer, Trouble::Unschedulable("0/1 nodes".into()))],
                ..Case::default()
            },
            ["False/PodUnschedulable", "Unknown/Starting", "False/PodUnschedulable", "True/Available"],
        ),
        (
            "the image of search is wrong",
            Case {
                pods: vec![indexer(writer()), troubled(Component::Search, Trouble::Image("nope".into()))],
                search: Some(rollout(0)),
                ..Case::default()
            },
            ["False/ImageNotFound", "True/Probed", "True/CaughtUp", "False/ImageNotFound"],
        ),
        (
            "the cluster refuses the pods",
            Case {
                pods: vec![],
                indexer: Some(Rollout { failure: Some("quota".into()), ..Rollout::default() }),
                ..Case::default()
            },
            ["False/PodRefused", "Unknown/Starting", "False/PodRefused", "True/Available"],
        ),
        (
            "the spec is wrong: the last good one is still in force",
            Case { refused: Some(Verdict::no(Reason::SpecInvalid, "no; so; do")), ..Case::default() },
            ["False/SpecInvalid", "True/Probed", "True/CaughtUp", "True/Available"],
        ),
        (
            "the index is being removed",
            Case { pods: with(Process { phase: Phase::Purging, ..writer() }), ..Case::default() },
            ["False/Purging", "True/Probed", "False/Purging", "True/Available"],
        ),
    ];
    for (name, case, wanted) in cases {
        assert_eq!(case.conditions(), wanted, "{name}");
    }
}

#[test]
fn before_the_pods_were_asked_what_was_known_still_holds() {
    let unasked = |component| {
        let seen = says(component, "p", Process::default());
        Seen { observation: Observation::default(), ..seen }
    };
    let case = Case {
        pods: vec![unasked(Component::Indexer), unasked(Component::Search)],
        before: vec![
            before(ConditionType::StorageReady, "True", Reason::Probed),
            before(ConditionType::Indexing, "True", Reason::CaughtUp),
            before(ConditionType::SearchAvailable, "False", Reason::AuthTokenMissing),
        ],
        ..Case::default()
    };
    let wanted = ["False/AuthTokenMissing", "True/Probed", "True/CaughtUp", "False/AuthTokenMissing"];
    assert_eq!(case.conditions(), wanted);
}

#[test]
fn ready_repeats_the_message_of_what_fails_first() {
    let case =
        Case { pods: vec![indexer(Process { problems: problem("AccessDenied"), ..writer() })], ..Case::default() };
    let Assessment { ready, storage, .. } = case.assess();
    assert_eq!(ready, storage);
    assert_eq!(ready.message, "AccessDenied; so; do");
}

#[test]
fn a_standbys_figures_do_not_count_beside_a_writers() {
    let standby =
        |name| says(Component::Indexer, name, Process { phase: Phase::Standby, epoch: Some(9), ..Process::default() });
    for pods in [vec![standby("a"), indexer(writer()), standby("z")], vec![indexer(writer()), standby("z")]] {
        let case = Case { pods, ..Case::default() };
        assert_eq!(case.conditions()[0], "True/Ready");
    }
}

#[test]
fn of_two_that_believe_they_write_the_higher_epoch_counts() {
    let stale = says(Component::Indexer, "z", Process { epoch: Some(1), caught_up: false, ..writer() });
    let fresh = says(Component::Indexer, "a", Process { epoch: Some(2), ..writer() });
    let case = Case { pods: vec![stale, fresh], ..Case::default() };
    assert_eq!(case.conditions()[2], "True/CaughtUp");
}

#[test]
fn a_busy_log_is_a_little_behind_without_a_change_of_condition() {
    let was = |status, reason| vec![before(ConditionType::Indexing, status, reason)];
    let busy = |lag, before| {
        let process = Process { caught_up: false, lag_seconds: Some(lag), ..writer() };
        Case { pods: vec![indexer(process)], before, ..Case::default() }.conditions()[2].clone()
    };
    assert_eq!(busy(5, was("True", Reason::CaughtUp)), "True/CaughtUp");
    assert_eq!(busy(61, was("True", Reason::CaughtUp)), "False/Backfilling");
    assert_eq!(busy(5, was("False", Reason::Backfilling)), "False/Backfilling");
}

#[test]
fn a_pod_that_has_never_answered_may_be_starting_and_is_told_after_a_while() {
    let mut seen = indexer(Process::default());
    seen.observation = Observation { failures: 2, ..Observation::default() };
    let conditions = |seen: &Seen| Case { pods: vec![seen.clone()], ..Case::default() }.conditions()[2].clone();
    assert_eq!(conditions(&seen), "False/Starting");
    seen.observation.failures = NEVER_ANSWERED;
    assert_eq!(conditions(&seen), "Unknown/PodNotAnswering");
}

#[test]
fn a_silent_pods_message_names_when_it_was_seen_last_and_holds_nothing_that_moves() {
    let mut seen = silent(indexer(writer()));
    let message = |seen: &Seen| Case { pods: vec![seen.clone()], ..Case::default() }.assess().indexing.message;
    let first = message(&seen);
    assert!(first.contains("2001-09-09T01:46:40Z") && first.contains("orders-indexer-a"), "{first}");
    seen.observation.failures = 77;
    assert_eq!(message(&seen), first);
}

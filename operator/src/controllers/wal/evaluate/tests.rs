//! Every case is a line: what was seen, and which conditions follow.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use tidemark_crds::{
    ConditionStatus, ConditionType, DeletionPolicy, PodPhase, PodProblem, PodReport, Reason, RestoreProgress,
    RestoreStatus, StoreRole, WalStatus, names::WalComponent,
};

use super::*;
use crate::{
    cache::{DataPod, NamespacedName, ObjectCache, OwnedObjects, PodEviction, PodTrouble, RolloutStatus},
    condition_value::ConditionValue,
    controllers::wal::{
        kstatus::{KstatusVerdict, kstatus},
        next_status,
        observe::{ObservedWal, WalIntent},
        schedule::task_history::TaskHistory,
    },
    observed_pod::ObservedPod,
    pod_report_poller::{ForeignReport, MAX_UNANSWERED, PodObservation},
};

fn rollout(available: i32) -> RolloutStatus {
    RolloutStatus { wanted: 1, replicas: 1, available, complete: available == 1, ..RolloutStatus::default() }
}

fn pod(component: WalComponent, name: &str) -> DataPod {
    DataPod {
        wal: NamespacedName::new("data", "orders"),
        name: name.into(),
        uid: format!("uid-{name}").into(),
        wal_uid: "w".into(),
        component,
        image: None,
        address: Some("10.0.0.1".into()),
        terminating: false,
        created: Some(Timestamp::from_second(1_000_000_000).unwrap()),
        restarted: false,
        trouble: None,
        eviction: None,
    }
}

fn says(component: WalComponent, name: &str, process: PodReport) -> ObservedPod {
    let observation = PodObservation {
        process: Some(Arc::new(process)),
        seen: Some(Timestamp::from_second(1_000_000_000).unwrap()),
        ..PodObservation::default()
    };
    ObservedPod { pod: Arc::new(pod(component, name)), observation }
}

fn indexer(process: PodReport) -> ObservedPod {
    says(WalComponent::Indexer, "orders-indexer-a", process)
}

fn silent(mut seen: ObservedPod) -> ObservedPod {
    seen.observation.failures = 2;
    seen
}

fn troubled(component: WalComponent, trouble: PodTrouble) -> ObservedPod {
    let pod = DataPod { trouble: Some(trouble), address: None, ..pod(component, "p") };
    ObservedPod { pod: Arc::new(pod), observation: PodObservation::default() }
}

fn writer() -> PodReport {
    PodReport {
        phase: PodPhase::Writing,
        caught_up: true,
        probed: true,
        epoch: 1,
        manifest: 1,
        lag_seconds: 0,
        ..PodReport::default()
    }
}

fn problem(reason: &str) -> Vec<PodProblem> {
    let known = Reason::parse(reason).unwrap();
    vec![PodProblem { reason: known, role: Some(StoreRole::Log), message: format!("{reason}; so; do") }]
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

struct ConditionCase {
    suspended: bool,
    search_wanted: bool,
    search: Option<RolloutStatus>,
    indexer: Option<RolloutStatus>,
    pods: Vec<ObservedPod>,
    before: Vec<Condition>,
    refused: Option<ConditionValue>,
    unfinalized: Option<ConditionValue>,
    token_everywhere: bool,
    upgrade_pending: bool,
    held: bool,
    outdated: Vec<WalComponent>,
    unwritten: Option<String>,
    restored: Option<RestoreStatus>,
}

impl Default for ConditionCase {
    fn default() -> Self {
        Self {
            suspended: false,
            search_wanted: true,
            search: Some(rollout(1)),
            indexer: Some(rollout(1)),
            pods: vec![indexer(writer())],
            before: Vec::new(),
            refused: None,
            unfinalized: None,
            token_everywhere: true,
            upgrade_pending: false,
            held: false,
            outdated: Vec::new(),
            unwritten: None,
            restored: None,
        }
    }
}

impl ConditionCase {
    fn evaluate(&self) -> WalConditions {
        let Self {
            suspended,
            search_wanted,
            search,
            indexer,
            pods,
            before,
            refused,
            unfinalized,
            token_everywhere,
            upgrade_pending,
            held,
            outdated,
            unwritten,
            restored,
        } = self;
        let inputs = ConditionInputs {
            suspended: *suspended,
            search_wanted: *search_wanted,
            indexer: indexer.as_ref(),
            search: search.as_ref(),
            pods,
            before,
            refused: refused.clone(),
            unfinalized: unfinalized.clone(),
            token_everywhere: *token_everywhere,
            generation: Some(2),
            upgrade_pending: *upgrade_pending,
            held: *held,
            outdated: outdated.clone(),
            unwritten: unwritten.clone(),
            protection: ProtectionState::Refused,
            restored: restored.as_ref(),
        };
        let conditions = evaluate(&inputs);
        self.check_status(&inputs, &conditions);
        conditions
    }

    /// The status can be written, and a reader that follows kstatus takes no WAL for current while a pod may be of an earlier spec.
    fn check_status(&self, inputs: &ConditionInputs<'_>, conditions: &WalConditions) {
        let observed = ObservedWal {
            key: NamespacedName::new("data", "orders"),
            uid: "w".to_owned(),
            generation: inputs.generation,
            intent: WalIntent {
                suspended: self.suspended,
                search_wanted: self.search_wanted,
                token_secret: None,
                deletion_policy: DeletionPolicy::Retain,
                deleted: None,
                index_url: "s3://index/a".to_owned(),
                log_url: "s3://log/a".to_owned(),
                approved_release: None,
            },
            owned: OwnedObjects::default(),
            pods: self.pods.clone(),
            status: WalStatus { conditions: self.before.clone(), applied_generation: Some(1), ..WalStatus::default() },
            created: Timestamp::UNIX_EPOCH,
            tasks: TaskHistory::default(),
            tasks_listed: true,
            index: None,
        };
        let upgrade = ConditionValue::no(Reason::UpToDate, "");
        let before = observed.status.clone();
        let status = next_status::next(&observed, before, inputs, conditions, &upgrade, Timestamp::UNIX_EPOCH);
        assert!(status.conditions.iter().all(|condition| condition.message.len() <= 32768));
        let rolled_out = |rollout: &Option<RolloutStatus>| rollout.as_ref().is_some_and(RolloutStatus::is_rolled_out);
        let is_in_force = self.refused.is_none()
            && self.unfinalized.is_none()
            && !self.held
            && self.outdated.is_empty()
            && [&self.search, &self.indexer].into_iter().all(rolled_out);
        let found = kstatus(inputs.generation, &status);
        if is_in_force && self.unwritten.is_none() && conditions.ready.status == ConditionStatus::True {
            assert_eq!(found, KstatusVerdict::Current, "{status:#?}");
        } else {
            assert!(found != KstatusVerdict::Current || is_in_force, "{status:#?}");
        }
    }

    /// Ready, storage, indexing and search as `status/reason`.
    fn conditions(&self) -> [String; 4] {
        let WalConditions { ready, storage, indexing, search, .. } = self.evaluate();
        [ready, storage, indexing, search].map(|verdict| format!("{}/{}", verdict.status.as_str(), verdict.reason))
    }
}

#[test]
fn whether_the_pods_are_made_of_the_spec() {
    let rolling = RolloutStatus { complete: false, ..rollout(1) };
    let stalled = RolloutStatus { stalled: true, ..rolling.clone() };
    let paused = RolloutStatus { paused: true, ..stalled.clone() };
    let refused = ConditionValue::no(Reason::ChildRefused, "so");
    let applied = |generation| Condition {
        observed_generation: Some(generation),
        ..before(ConditionType::Applied, "True", Reason::Applied)
    };
    let all = ConditionCase::default;
    let unschedulable = troubled(WalComponent::Search, PodTrouble::Unschedulable("no memory".into()));
    let cases = [
        ("all well", all(), "True/Applied", "present spec"),
        ("search rolls", ConditionCase { search: Some(rolling.clone()), ..all() }, "False/RollingOut", "search"),
        ("the indexer rolls", ConditionCase { indexer: Some(rolling.clone()), ..all() }, "False/RollingOut", "indexer"),
        ("nothing is made yet", ConditionCase { indexer: None, search: None, ..all() }, "False/RollingOut", ""),
        (
            "search does not come up",
            ConditionCase {
                indexer: Some(rolling.clone()),
                search: Some(stalled),
                pods: vec![indexer(writer()), unschedulable],
                ..all()
            },
            "False/RollOutStalled",
            "no memory",
        ),
        ("it is held", ConditionCase { held: true, ..all() }, "False/Held", "UpgradePending"),
        ("it is refused", ConditionCase { refused: Some(refused), held: true, ..all() }, "False/ChildRefused", "so"),
        (
            "a write failed once",
            ConditionCase { unwritten: Some("no answer".to_owned()), before: vec![applied(1)], ..all() },
            "False/RollingOut",
            "no answer",
        ),
        (
            "a repair failed once",
            ConditionCase { unwritten: Some("no answer".to_owned()), before: vec![applied(2)], ..all() },
            "True/Applied",
            "as before",
        ),
        (
            "the roll-out is done, and something else cannot be written",
            ConditionCase {
                unwritten: Some("no answer".to_owned()),
                before: vec![Condition { status: "False".to_owned(), reason: "RollingOut".to_owned(), ..applied(2) }],
                ..all()
            },
            "False/RollingOut",
            "no answer",
        ),
        (
            "a repair fails, and a Deployment is gone",
            ConditionCase { unwritten: Some("no answer".to_owned()), before: vec![applied(2)], indexer: None, ..all() },
            "False/RollingOut",
            "no answer",
        ),
        (
            "the indexer follows when search is upgraded",
            ConditionCase { outdated: vec![WalComponent::Indexer], ..all() },
            "False/RollingOut",
            "the indexer pods",
        ),
        (
            "somebody has paused search",
            ConditionCase { search: Some(paused), ..all() },
            "False/RollOutStalled",
            "kubectl rollout resume",
        ),
    ];
    for (name, case, expected, words) in cases {
        let applied = case.evaluate().applied;
        assert_eq!(format!("{}/{}", applied.status.as_str(), applied.reason), expected, "{name}");
        assert!(applied.message.contains(words), "{name}: {}", applied.message);
    }
}

#[test]
fn search_that_waits_for_pods_with_the_token_is_reported() {
    let search = |token_everywhere, refused| {
        let search = ConditionCase { refused, token_everywhere, ..ConditionCase::default() }.evaluate().search;
        assert_eq!(search.reason, Reason::Available);
        search.message
    };
    let refused = || Some(ConditionValue::no(Reason::SpecInvalid, "so"));
    assert_eq!([search(true, None), search(true, refused())], ["search answers"; 2]);
    for (message, remedy) in
        [(search(false, None), "kubectl get pods"), (search(false, refused()), "the condition Applied")]
    {
        assert!(
            message.contains("admit no further clients until all of them do") && message.contains(remedy),
            "{message}"
        );
    }
}

#[test]
fn conditions_follow_from_what_was_seen() {
    let with = |process| vec![indexer(process)];
    let cases = [
        ("all well", ConditionCase::default(), ["True/Ready", "True/Probed", "True/CaughtUp", "True/Available"]),
        (
            "nothing is there yet",
            ConditionCase { pods: vec![], search: None, indexer: None, ..ConditionCase::default() },
            ["False/Starting", "Unknown/Starting", "False/Starting", "False/Starting"],
        ),
        (
            "the stores are probed",
            ConditionCase {
                pods: with(PodReport { phase: PodPhase::Probing, ..PodReport::default() }),
                search: None,
                ..ConditionCase::default()
            },
            ["False/Probing", "Unknown/Probing", "False/Probing", "False/Starting"],
        ),
        (
            "the first entries are indexed",
            ConditionCase {
                pods: with(PodReport { caught_up: false, ..writer() }),
                search: Some(rollout(0)),
                ..ConditionCase::default()
            },
            ["False/Backfilling", "True/Probed", "False/Backfilling", "False/Starting"],
        ),
        (
            "a bucket is missing from the start",
            ConditionCase {
                pods: with(PodReport { problems: problem("BucketMissing"), ..PodReport::default() }),
                search: Some(rollout(0)),
                ..ConditionCase::default()
            },
            ["False/BucketMissing", "False/BucketMissing", "False/BucketMissing", "False/Starting"],
        ),
        (
            "the store is down for a while: search goes on",
            ConditionCase {
                pods: with(PodReport { problems: problem("Unreachable"), ..writer() }),
                ..ConditionCase::default()
            },
            ["False/Unreachable", "False/Unreachable", "False/Unreachable", "True/Available"],
        ),
        (
            "an indexer that was fenced has fine stores",
            ConditionCase {
                pods: with(PodReport { problems: problem("Fenced"), ..writer() }),
                ..ConditionCase::default()
            },
            ["False/Fenced", "True/Probed", "False/Fenced", "True/Available"],
        ),
        (
            "search refuses every query for want of its token",
            ConditionCase {
                pods: vec![
                    indexer(writer()),
                    says(
                        WalComponent::Search,
                        "s",
                        PodReport { problems: problem("AuthTokenMissing"), ..PodReport::default() },
                    ),
                ],
                ..ConditionCase::default()
            },
            ["False/AuthTokenMissing", "True/Probed", "True/CaughtUp", "False/AuthTokenMissing"],
        ),
        (
            "the log has other parameters than the spec: it is indexed by its own",
            ConditionCase {
                pods: with(PodReport { problems: problem("ParametersDiffer"), ..writer() }),
                ..ConditionCase::default()
            },
            ["False/ParametersDiffer", "True/Probed", "True/CaughtUp", "True/Available"],
        ),
        (
            "the same while the operator has polled no pod yet",
            ConditionCase {
                pods: vec![ObservedPod { observation: PodObservation::default(), ..indexer(writer()) }],
                before: vec![
                    before(ConditionType::Ready, "False", Reason::ParametersDiffer),
                    before(ConditionType::StorageReady, "True", Reason::Probed),
                    before(ConditionType::Indexing, "True", Reason::CaughtUp),
                ],
                ..ConditionCase::default()
            },
            ["False/ParametersDiffer", "True/Probed", "True/CaughtUp", "True/Available"],
        ),
        (
            "search is turned off",
            ConditionCase { search_wanted: false, search: Some(RolloutStatus::default()), ..ConditionCase::default() },
            ["True/Ready", "True/Probed", "True/CaughtUp", "False/NoReplicas"],
        ),
        (
            "suspended: search stays, the stores are as they were",
            ConditionCase {
                suspended: true,
                pods: vec![],
                before: vec![before(ConditionType::StorageReady, "True", Reason::Probed)],
                ..ConditionCase::default()
            },
            ["True/Suspended", "True/Probed", "False/Suspended", "True/Available"],
        ),
        (
            "suspended, and search does not answer",
            ConditionCase { suspended: true, pods: vec![], search: Some(rollout(0)), ..ConditionCase::default() },
            ["False/Starting", "Unknown/Starting", "False/Suspended", "False/Starting"],
        ),
        (
            "the indexer is silent: search is not flipped, the stores stay known",
            ConditionCase {
                pods: vec![silent(indexer(writer()))],
                before: vec![before(ConditionType::StorageReady, "True", Reason::Probed)],
                ..ConditionCase::default()
            },
            ["Unknown/PodNotAnswering", "True/Probed", "Unknown/PodNotAnswering", "True/Available"],
        ),
        (
            "search is silent, but the kubelet calls it ready",
            ConditionCase {
                pods: vec![indexer(writer()), silent(says(WalComponent::Search, "s", PodReport::default()))],
                ..ConditionCase::default()
            },
            ["True/Ready", "True/Probed", "True/CaughtUp", "True/Available"],
        ),
        (
            "only a standby answers",
            ConditionCase {
                pods: with(PodReport { phase: PodPhase::Standby, probed: true, ..PodReport::default() }),
                ..ConditionCase::default()
            },
            ["False/Standby", "True/Probed", "False/Standby", "True/Available"],
        ),
        (
            "a standby answers and the writer is silent: whether it writes is not known",
            ConditionCase {
                pods: vec![
                    silent(indexer(writer())),
                    says(
                        WalComponent::Indexer,
                        "b",
                        PodReport { phase: PodPhase::Standby, probed: true, ..PodReport::default() },
                    ),
                ],
                ..ConditionCase::default()
            },
            ["Unknown/PodNotAnswering", "True/Probed", "Unknown/PodNotAnswering", "True/Available"],
        ),
        (
            "no node takes the indexer",
            ConditionCase {
                pods: vec![troubled(WalComponent::Indexer, PodTrouble::Unschedulable("0/1 nodes".into()))],
                ..ConditionCase::default()
            },
            ["False/PodUnschedulable", "Unknown/Starting", "False/PodUnschedulable", "True/Available"],
        ),
        (
            "the image of search is wrong",
            ConditionCase {
                pods: vec![indexer(writer()), troubled(WalComponent::Search, PodTrouble::Image("nope".into()))],
                search: Some(rollout(0)),
                ..ConditionCase::default()
            },
            ["False/ImageNotFound", "True/Probed", "True/CaughtUp", "False/ImageNotFound"],
        ),
        (
            "the cluster refuses the pods",
            ConditionCase {
                pods: vec![],
                indexer: Some(RolloutStatus { failure: Some("quota".into()), ..RolloutStatus::default() }),
                ..ConditionCase::default()
            },
            ["False/PodRefused", "Unknown/Starting", "False/PodRefused", "True/Available"],
        ),
        (
            "the spec is wrong: the last good one is still in force",
            ConditionCase {
                refused: Some(ConditionValue::no(Reason::SpecInvalid, "no; so; do")),
                ..ConditionCase::default()
            },
            ["False/SpecInvalid", "True/Probed", "True/CaughtUp", "True/Available"],
        ),
        (
            "the index is being removed",
            ConditionCase {
                pods: with(PodReport { phase: PodPhase::Purging, ..writer() }),
                ..ConditionCase::default()
            },
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
        let seen = says(component, "p", PodReport::default());
        ObservedPod { observation: PodObservation::default(), ..seen }
    };
    let case = ConditionCase {
        pods: vec![unasked(WalComponent::Indexer), unasked(WalComponent::Search)],
        before: vec![
            before(ConditionType::StorageReady, "True", Reason::Probed),
            before(ConditionType::Indexing, "True", Reason::CaughtUp),
            before(ConditionType::SearchAvailable, "False", Reason::AuthTokenMissing),
        ],
        ..ConditionCase::default()
    };
    let wanted = ["False/AuthTokenMissing", "True/Probed", "True/CaughtUp", "False/AuthTokenMissing"];
    assert_eq!(case.conditions(), wanted);
}

/// The pod that reported it, an indexer that is gone or search, reports it no longer.
#[test]
fn a_problem_of_a_store_goes_when_no_process_reports_it_and_no_indexer_is_about_to_answer() {
    let serves = || says(WalComponent::Search, "s", PodReport { phase: PodPhase::Serving, ..PodReport::default() });
    let case =
        |suspended, pods, before| ConditionCase { suspended, pods, before: vec![before], ..ConditionCase::default() };
    let denied = || before(ConditionType::StorageReady, "False", Reason::AccessDenied);
    let probing = || before(ConditionType::StorageReady, "Unknown", Reason::Probing);
    let probed = || before(ConditionType::StorageReady, "True", Reason::Probed);
    let crashes = || troubled(WalComponent::Indexer, PodTrouble::Crashing("Error".into()));
    let gone = || silent(indexer(writer()));
    let mut new = indexer(writer());
    new.observation = PodObservation::default();
    for (name, case, wanted) in [
        ("suspended", case(true, vec![serves()], denied()), "Unknown/Suspended"),
        ("suspended while it probed", case(true, vec![], probing()), "Unknown/Suspended"),
        ("suspended and fine before", case(true, vec![serves()], probed()), "True/Probed"),
        ("the indexer is silent", case(false, vec![gone(), serves()], denied()), "Unknown/PodNotAnswering"),
        ("the indexer crashes", case(false, vec![crashes(), serves()], denied()), "Unknown/PodCrashing"),
        ("the next indexer starts", case(false, vec![serves()], denied()), "False/AccessDenied"),
        ("the next indexer runs", case(false, vec![new, gone(), serves()], denied()), "False/AccessDenied"),
    ] {
        assert_eq!(case.conditions()[1], wanted, "{name}");
    }
    let crashing = case(false, vec![crashes(), serves()], denied());
    assert_eq!(crashing.conditions()[0], "False/PodCrashing", "what is the matter now");
}

#[test]
fn ready_repeats_the_message_of_what_fails_first() {
    let case = ConditionCase {
        pods: vec![indexer(PodReport { problems: problem("AccessDenied"), ..writer() })],
        ..ConditionCase::default()
    };
    let WalConditions { ready, storage, .. } = case.evaluate();
    assert_eq!(ready, storage);
    assert_eq!(ready.message, "AccessDenied; so; do");
}

#[test]
fn ready_reports_a_refused_child_and_a_refused_finalizer_and_applied_the_child_alone() {
    let child = || Some(ConditionValue::no(Reason::ChildRefused, "no child"));
    let finalizer = || Some(ConditionValue::no(Reason::FinalizerRefused, "no finalizer"));
    let ready_and_applied = |refused, unfinalized| {
        let WalConditions { ready, applied, .. } =
            ConditionCase { refused, unfinalized, ..ConditionCase::default() }.evaluate();
        [ready, applied].map(|value| (value.reason, value.message))
    };
    let of = |reason, message: &str| (reason, message.to_owned());
    let (both, one) = (of(Reason::ChildRefused, "no child; no finalizer"), of(Reason::ChildRefused, "no child"));
    assert_eq!(ready_and_applied(child(), finalizer()), [both, one.clone()]);
    assert_eq!(ready_and_applied(child(), None), [one.clone(), one]);
    let finalizer_alone = of(Reason::FinalizerRefused, "no finalizer");
    assert_eq!(ready_and_applied(None, finalizer()), [finalizer_alone.clone(), finalizer_alone]);
}

#[test]
fn ready_says_how_many_operations_are_in_the_index_without_their_content() {
    let message = |unreadable_entries| {
        let pods = vec![indexer(PodReport { unreadable_entries, ..writer() })];
        ConditionCase { pods, ..ConditionCase::default() }.evaluate().ready
    };
    assert_eq!((message(0).reason, message(3).reason), (Reason::Ready, Reason::Ready));
    assert!(!message(0).message.contains("except"), "{}", message(0).message);
    let message = message(3).message;
    assert!(message.contains("content of 3 operations") && message.matches("; ").count() >= 2, "{message}");
    assert!(message.contains("\"kubectl exec orders-indexer-a -- tidemark audit --unreadable\""), "{message}");
}

/// It crashes again and again, before or after it has probed the stores.
#[test]
fn what_is_known_of_the_stores_does_not_change_each_time_that_an_indexer_crashes() {
    let probing = |restarted| {
        let seen = indexer(PodReport { phase: PodPhase::Probing, ..PodReport::default() });
        let pod = Arc::new(DataPod { restarted, ..(*seen.pod).clone() });
        ObservedPod { pod, ..seen }
    };
    let storage = |seen: ObservedPod, (status, reason)| {
        let before = vec![before(ConditionType::StorageReady, status, reason)];
        ConditionCase { pods: vec![seen], before, ..ConditionCase::default() }.conditions()[1].clone()
    };
    let crashing = || troubled(WalComponent::Indexer, PodTrouble::Crashing("OOMKilled, exit code 137".into()));
    for (known, stays) in
        [(("True", Reason::Probed), "True/Probed"), (("Unknown", Reason::PodCrashing), "Unknown/PodCrashing")]
    {
        assert_eq!([storage(crashing(), known), storage(probing(true), known)], [stays; 2]);
        assert_eq!(storage(probing(false), known), "Unknown/Probing", "another pod may have another spec");
    }
    assert_eq!(storage(crashing(), ("Unknown", Reason::Probing)), "Unknown/PodCrashing");
    assert_eq!(storage(probing(true), ("False", Reason::BucketMissing)), "Unknown/Probing", "it may be over");
}

#[test]
fn a_standbys_figures_do_not_count_beside_a_writers() {
    let standby = |name| {
        says(WalComponent::Indexer, name, PodReport { phase: PodPhase::Standby, epoch: 9, ..PodReport::default() })
    };
    for pods in [vec![standby("a"), indexer(writer()), standby("z")], vec![indexer(writer()), standby("z")]] {
        let case = ConditionCase { pods, ..ConditionCase::default() };
        assert_eq!(case.conditions()[0], "True/Ready");
    }
}

#[test]
fn a_restored_index_waits_for_its_promotion_unless_somebody_holds_it() {
    let cursor = Some(Time("2026-11-20T10:00:00Z".parse().unwrap()));
    let time = Time(Timestamp::UNIX_EPOCH);
    let restored = Some(RestoreStatus { time, generation: Some("g2".to_owned()), cursor });
    let standby = |writer: Option<&str>| {
        let process = PodReport { phase: PodPhase::Standby, probed: true, ..PodReport::default() };
        let pods = vec![indexer(PodReport { writer: writer.map(str::to_owned), ..process })];
        ConditionCase { pods, restored: restored.clone(), ..ConditionCase::default() }
    };
    let waiting = standby(None);
    let wanted = ["False/AwaitingPromotion", "True/Probed", "False/AwaitingPromotion", "True/Available"];
    assert_eq!(waiting.conditions(), wanted);
    let message = waiting.evaluate().ready.message;
    assert!(
        message.contains("to 2026-11-20T10:00:00Z (generation \"g2\")") && message.contains("promote"),
        "{message}"
    );
    assert_eq!(standby(Some("other")).conditions()[2], "False/Standby", "it was promoted by hand");
    assert_eq!(ConditionCase { restored, ..ConditionCase::default() }.conditions()[2], "True/CaughtUp");
}

#[test]
fn an_index_that_is_begun_says_how_far_it_is_and_what_it_waits_for() {
    let case = |process: PodReport| ConditionCase { pods: vec![indexer(process)], ..ConditionCase::default() };
    let restoring = |progress| {
        let process = PodReport { phase: PodPhase::Restoring, probed: true, ..PodReport::default() };
        case(PodReport { restore: progress, ..process })
    };
    let wanted = ["False/Restoring", "True/Probed", "False/Restoring", "True/Available"];
    let begun = restoring(Some(RestoreProgress { copied: 3, total: 7 }));
    assert_eq!(begun.conditions(), wanted);
    assert!(begun.evaluate().ready.message.contains("3 of 7 operations"), "{}", begun.evaluate().ready.message);
    assert!(!restoring(None).evaluate().ready.message.contains("operations"));
    let to = Some("2026-11-20T10:00:00Z".parse().unwrap());
    let waiting = case(PodReport { phase: PodPhase::Standby, probed: true, restored_to: to, ..PodReport::default() });
    assert_eq!(waiting.conditions()[2], "False/AwaitingPromotion");
    let message = waiting.evaluate().ready.message;
    assert!(message.contains("to 2026-11-20T10:00:00Z") && message.contains("promote"), "{message}");
}

#[test]
fn of_two_that_believe_they_write_the_higher_epoch_counts() {
    let stale = says(WalComponent::Indexer, "z", PodReport { epoch: 1, caught_up: false, ..writer() });
    let fresh = says(WalComponent::Indexer, "a", PodReport { epoch: 2, ..writer() });
    let case = ConditionCase { pods: vec![stale, fresh], ..ConditionCase::default() };
    assert_eq!(case.conditions()[2], "True/CaughtUp");
}

#[test]
fn a_busy_log_is_a_little_behind_without_a_change_of_condition() {
    let was = |status, reason| vec![before(ConditionType::Indexing, status, reason)];
    let busy = |lag, before| {
        let process = PodReport { caught_up: false, lag_seconds: lag, ..writer() };
        ConditionCase { pods: vec![indexer(process)], before, ..ConditionCase::default() }.conditions()[2].clone()
    };
    assert_eq!(busy(5, was("True", Reason::CaughtUp)), "True/CaughtUp");
    assert_eq!(busy(61, was("True", Reason::CaughtUp)), "False/Backfilling");
    assert_eq!(busy(5, was("False", Reason::Backfilling)), "False/Backfilling");
}

#[test]
fn a_pod_that_has_never_answered_may_be_starting_and_is_reported_after_a_while() {
    let mut seen = indexer(PodReport::default());
    seen.observation = PodObservation { failures: 2, ..PodObservation::default() };
    let conditions = |seen: &ObservedPod| {
        ConditionCase { pods: vec![seen.clone()], ..ConditionCase::default() }.conditions()[2].clone()
    };
    assert_eq!(conditions(&seen), "False/Starting");
    seen.observation.failures = MAX_UNANSWERED;
    assert_eq!(conditions(&seen), "Unknown/PodNotAnswering");
}

#[test]
fn a_silent_pods_message_names_when_it_was_seen_last_and_holds_nothing_that_moves() {
    let mut seen = silent(indexer(writer()));
    let message = |seen: &ObservedPod| {
        ConditionCase { pods: vec![seen.clone()], ..ConditionCase::default() }.evaluate().indexing.message
    };
    let first = message(&seen);
    assert!(first.contains("2001-09-09T01:46:40Z") && first.contains("orders-indexer-a"), "{first}");
    seen.observation.failures = 77;
    assert_eq!(message(&seen), first);
}

/// An indexer that was evicted `before` seconds before its replacement was made, and that replacement.
fn evicted(before: i64, replacement: ObservedPod) -> Vec<ObservedPod> {
    let time = Timestamp::from_second(1_000_000_000 - before).ok();
    let message = "Usage of EmptyDir volume \"cache\" exceeds the limit \"8Gi\"".into();
    let mut old = silent(says(WalComponent::Indexer, "old", writer()));
    // What it said last is still known.
    old.observation.failures = 0;
    let created = Timestamp::from_second(900_000_000).ok();
    let eviction = Some(PodEviction { time, message, replaced: false });
    let cache = ObjectCache::default();
    let runs = DataPod { created, ..(*old.pod).clone() };
    cache.put_pod(runs.clone());
    cache.put_pod(DataPod { eviction, address: None, ..runs });
    cache.put_pod((*replacement.pod).clone());
    let pod = cache.pods().into_iter().find(|pod| pod.eviction.is_some()).unwrap();
    vec![ObservedPod { pod, ..old }, replacement]
}

#[test]
fn an_eviction_is_reported_in_the_kubelets_words_until_the_next_pod_runs() {
    let starting = ObservedPod {
        pod: Arc::new(DataPod { address: None, ..pod(WalComponent::Indexer, "new") }),
        observation: PodObservation::default(),
    };
    let case = |pods| ConditionCase { pods, ..ConditionCase::default() };
    let ready = case(evicted(2, starting.clone())).evaluate().ready;
    assert_eq!(ready.reason, Reason::PodEvicted);
    let wanted = "the node evicted pod \"old\" at 2001-09-09T01:46:38Z: Usage of EmptyDir volume \"cache\" exceeds the limit \"8Gi\"; ";
    assert!(
        ready.message.starts_with(wanted) && ready.message.contains("spec.indexer.cache.size"),
        "{}",
        ready.message
    );
    assert_eq!(case(evicted(2, indexer(writer()))).conditions()[0], "True/Ready");
    assert_eq!(case(evicted(3600, starting.clone())).conditions()[2], "False/Starting", "it is no news");
    let of_two = evicted(2, indexer(writer())).into_iter().take(1).chain([starting]).collect();
    assert_eq!(case(of_two).conditions()[2], "False/Starting", "the one that took its place is replaced in turn");
    let unscheduled = troubled(WalComponent::Indexer, PodTrouble::Unschedulable("0/1 nodes".into()));
    assert_eq!(case(evicted(2, unscheduled)).conditions()[2], "False/PodUnschedulable", "the later one");
    // Once the next pod runs it is that one which does not answer.
    let mut runs = indexer(PodReport::default());
    runs.observation = PodObservation::default();
    assert_eq!(case(evicted(2, runs.clone())).conditions()[2], "False/Starting");
    runs.observation.failures = MAX_UNANSWERED;
    assert_eq!(case(evicted(2, runs)).conditions()[2], "Unknown/PodNotAnswering");
}

#[test]
fn a_pod_that_does_not_say_that_it_is_this_pod_is_reported_so() {
    let indexing = |foreign, upgrade_pending| {
        let mut seen = silent(indexer(writer()));
        seen.observation.foreign = Some(foreign);
        let value = ConditionCase { pods: vec![seen], upgrade_pending, ..ConditionCase::default() }.evaluate().indexing;
        assert_eq!((value.status, value.reason), (ConditionStatus::Unknown, Reason::PodUnidentified));
        value.message
    };
    let message = indexing(ForeignReport::Unnamed, true);
    assert!(message.contains("older builds") && message.contains("UpgradePending"), "{message}");
    let message = indexing(ForeignReport::Unnamed, false);
    assert!(message.contains("which proxy answers") && !message.contains("pgrade"), "{message}");
    for upgrade_pending in [true, false] {
        let message = indexing(ForeignReport::Other, upgrade_pending);
        assert!(message.contains("another process answers at the address of pod"), "{message}");
    }
}

/// The API server refuses a status with a longer one.
#[test]
fn a_message_that_is_too_long_is_cut() {
    let message = "é".repeat(20_000);
    let problems = vec![PodProblem { reason: Reason::Unreachable, role: None, message }];
    let pods = vec![indexer(PodReport { problems, ..writer() })];
    assert_eq!(ConditionCase { pods, ..ConditionCase::default() }.conditions()[0], "False/Unreachable");
}

#[test]
fn tools_that_follow_kstatus_learn_whether_somebody_has_to_act() {
    let of = |case: ConditionCase| case.evaluate().progress.map(|(kind, value)| (kind, value.reason));
    let all = ConditionCase::default;
    assert_eq!(of(all()), None);
    let refused = Some(ConditionValue::no(Reason::SpecInvalid, "so"));
    for (case, kind, reason) in [
        (ConditionCase { held: true, ..all() }, ConditionType::Reconciling, Reason::Held),
        (ConditionCase { search: Some(rollout(0)), ..all() }, ConditionType::Reconciling, Reason::RollingOut),
        (ConditionCase { refused, ..all() }, ConditionType::Stalled, Reason::SpecInvalid),
    ] {
        assert_eq!(of(case), Some((kind, reason)));
    }
}

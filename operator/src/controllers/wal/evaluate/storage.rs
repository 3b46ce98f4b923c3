//! `StorageReady`: the buckets can be used, and this WAL owns the index.

use tidemark_crds::{ConditionStatus, ConditionType, PodPhase, PodProblem, PodReport, Reason, names::WalComponent};

use super::inputs::ConditionInputs;
use crate::condition_value::ConditionValue;
use crate::observed_pod::ObservedPod;

pub(super) fn evaluate(inputs: &ConditionInputs<'_>) -> ConditionValue {
    match inputs.active_indexer() {
        Some((seen, process)) => of_indexer(inputs, seen, process),
        None => without_indexer(inputs),
    }
}

fn of_indexer(inputs: &ConditionInputs<'_>, seen: &ObservedPod, process: &PodReport) -> ConditionValue {
    if let Some(problem) = problem(process) {
        return ConditionValue::no(problem.reason, problem.message.clone());
    }
    if process.probed {
        return ConditionValue::yes(Reason::Probed, "the buckets can be used, and this WAL owns the index");
    }
    // A container that is started again probes the same stores: while it crashes repeatedly, that says nothing new each time.
    let repeats = |before: &ConditionValue| {
        seen.pod.restarted && (before.status == ConditionStatus::True || before.reason == Reason::PodCrashing)
    };
    match (process.phase, known_before(inputs)) {
        (PodPhase::Probing, before) => before.filter(repeats).unwrap_or_else(probing),
        (_, before) => before.unwrap_or_else(not_yet),
    }
}

/// While no indexer answers, what was known stays known, unless search says otherwise. A problem stays only as long as an indexer may
/// be about to say whether it is over.
fn without_indexer(inputs: &ConditionInputs<'_>) -> ConditionValue {
    let problem = inputs.pods_of(WalComponent::Search).filter_map(ObservedPod::answer).find_map(problem);
    if let Some(problem) = problem {
        return ConditionValue::no(problem.reason, problem.message.clone());
    }
    match (known_before(inputs), absent(inputs)) {
        (None, _) => not_yet(),
        (Some(before), Some(absent)) if before.status != ConditionStatus::True => absent,
        (Some(before), _) => before,
    }
}

/// Why no indexer is about to answer.
fn absent(inputs: &ConditionInputs<'_>) -> Option<ConditionValue> {
    if inputs.suspended {
        return Some(ConditionValue::unknown(
            Reason::Suspended,
            "\"spec.suspend\" is set, and only an indexer probes the buckets; whether they can be used is not known; set it to false to find \
             out",
        ));
    }
    if inputs.has_unpolled(WalComponent::Indexer) {
        return None;
    }
    let failure = inputs.pod_failure(WalComponent::Indexer).or_else(|| inputs.not_answering(WalComponent::Indexer));
    failure.map(|ConditionValue { reason, message, .. }| ConditionValue::unknown(reason, message))
}

fn known_before(inputs: &ConditionInputs<'_>) -> Option<ConditionValue> {
    inputs.before(ConditionType::StorageReady).map(ConditionValue::repeated)
}

fn probing() -> ConditionValue {
    ConditionValue::unknown(Reason::Probing, "the indexer is probing the object stores")
}

fn not_yet() -> ConditionValue {
    ConditionValue::unknown(Reason::Starting, "no indexer has probed the buckets yet")
}

/// What is wrong with the stores, in the process's own words.
pub(super) fn problem(process: &PodReport) -> Option<&PodProblem> {
    process.problems.iter().find(|problem| problem.is_storage())
}

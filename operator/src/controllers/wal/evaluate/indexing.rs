//! `Indexing`: an indexer publishes what is sealed.

use tidemark_crds::{
    ConditionStatus, ConditionType, PodPhase, PodReport, Reason, RestoreProgress, RestoreStatus, names::WalComponent,
};

use super::{inputs::ConditionInputs, storage};
use crate::{condition_value::ConditionValue, observed_pod::ObservedPod};

/// An indexer that has caught up stays so until it is this many seconds behind: a busy log is always a little behind.
const MAX_LAG_SECS: u64 = 60;

pub(super) fn evaluate(inputs: &ConditionInputs<'_>) -> ConditionValue {
    if inputs.suspended {
        return ConditionValue::no(
            Reason::Suspended,
            "\"spec.suspend\" is set; the log grows and nothing is indexed; set it to false to resume",
        );
    }
    match inputs.active_indexer() {
        Some((seen, process)) => of_indexer(inputs, seen, process),
        None => without_answer(inputs),
    }
}

fn of_indexer(inputs: &ConditionInputs<'_>, seen: &ObservedPod, process: &PodReport) -> ConditionValue {
    if matches!(process.phase, PodPhase::Purging | PodPhase::Purged) {
        return ConditionValue::no(Reason::Purging, "the index is being removed, as \"spec.deletionPolicy\" asks");
    }
    // With other parameters than those of the spec it goes on all the same.
    let mut others = process.problems.iter().filter(|problem| problem.reason != Reason::ParametersDiffer);
    let problem = storage::problem(process).or_else(|| others.next());
    if let Some(problem) = problem {
        return ConditionValue::no(problem.reason, problem.message.clone());
    }
    match process.phase {
        PodPhase::Writing if process.caught_up || keeps_up(inputs, process) => {
            ConditionValue::yes(Reason::CaughtUp, "everything that is sealed is in the index")
        }
        PodPhase::Writing => ConditionValue::no(
            Reason::Backfilling,
            "the indexer works through entries that are sealed and not published; search lacks them until then; it catches \
             up by itself",
        ),
        PodPhase::Standby => standby(inputs, seen, process),
        PodPhase::Restoring => restoring(process),
        PodPhase::Probing => {
            ConditionValue::no(Reason::Probing, "the indexer is probing the object stores; it starts after that")
        }
        _ => starting(),
    }
}

/// Whether an indexer that had caught up is only a little behind.
fn keeps_up(inputs: &ConditionInputs<'_>, process: &PodReport) -> bool {
    let before = inputs.before(ConditionType::Indexing);
    let caught_up = before.is_some_and(|before| {
        before.status == ConditionStatus::True.as_str() && before.reason == Reason::CaughtUp.as_str()
    });
    caught_up && process.lag_seconds <= MAX_LAG_SECS
}

/// A standby alone does not index; whether a silent writer does is not known.
fn standby(inputs: &ConditionInputs<'_>, seen: &ObservedPod, process: &PodReport) -> ConditionValue {
    if let Some(silent) = inputs.not_answering(WalComponent::Indexer) {
        return silent;
    }
    // Where one holds the index, it was promoted by another way than a task.
    match (&process.writer, inputs.restored, process.restored_to) {
        (None, Some(restored), _) => return awaiting_promotion(restored),
        // The index was begun so, or restored by hand.
        (None, None, Some(to)) => return promotion_due(&format!(" to {to}")),
        _ => {}
    }
    let writer = process.writer.as_deref().unwrap_or("unknown");
    ConditionValue::no(
        Reason::Standby,
        format!(
            "pod \"{}\" waits as a standby: the writer \"{writer}\" has not released the index; it takes over when that one \
             has been silent for 60 s",
            seen.pod.name
        ),
    )
}

/// An index that holds nothing is begun with what is recorded.
fn restoring(process: &PodReport) -> ConditionValue {
    let progress = process.restore.filter(|progress| progress.total > 0);
    let progress = progress.map_or_else(String::new, |RestoreProgress { copied, total }| {
        format!(": {copied} of {total} operations so far")
    });
    ConditionValue::no(
        Reason::Restoring,
        format!(
            "the index holds nothing and is begun with what is recorded of the log{progress}; search lacks it until then; indexing follows by \
             itself"
        ),
    )
}

fn awaiting_promotion(restored: &RestoreStatus) -> ConditionValue {
    let to = restored.cursor.as_ref().map(|cursor| format!(" to {}", cursor.0)).unwrap_or_default();
    let generation = restored.generation.as_ref().map(|name| format!(" (generation \"{name}\")")).unwrap_or_default();
    promotion_due(&format!("{to}{generation}"))
}

fn promotion_due(to: &str) -> ConditionValue {
    ConditionValue::no(
        Reason::AwaitingPromotion,
        format!(
            "the index was restored{to}; search answers from it, and nothing newer is indexed; run \"kubectl tidemark promote\" to \
             go on with the log, or restore to another time"
        ),
    )
}

fn without_answer(inputs: &ConditionInputs<'_>) -> ConditionValue {
    if let Some(before) =
        inputs.has_unpolled(WalComponent::Indexer).then(|| inputs.before(ConditionType::Indexing)).flatten()
    {
        return ConditionValue::repeated(before);
    }
    let silent = inputs.not_answering(WalComponent::Indexer);
    let failure = inputs.pod_failure(WalComponent::Indexer).or(silent);
    failure.or_else(|| inputs.no_replicas(WalComponent::Indexer)).unwrap_or_else(starting)
}

fn starting() -> ConditionValue {
    ConditionValue::no(Reason::Starting, "the indexer starts")
}

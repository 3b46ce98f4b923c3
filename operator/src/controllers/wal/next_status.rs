//! The status of a WAL, and which part of it moves while the WAL does its work.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use tidemark_crds::{
    ConditionStatus, ConditionType, CursorStatus, IndexerRole, IndexerStatus, PodPhase, PodReport, SearchStatus,
    WalStatus, condition,
    names::{self, WalComponent},
    remove_condition, set_condition,
};

use super::{
    evaluate::{ConditionInputs, WalConditions},
    observe::ObservedWal,
};
use crate::{
    condition_value::ConditionValue, event_publisher::shortened, observed_pod::ObservedPod,
    status_writer::ReportedStatus,
};

/// The longest message of a condition that the API server takes. A pod may report a longer one.
const MAX_MESSAGE_BYTES: usize = 32768;

/// The status that follows from what was observed, and from `maintained`: the one before, with what tasks found.
pub(crate) fn next(
    observed: &ObservedWal,
    maintained: WalStatus,
    inputs: &ConditionInputs<'_>,
    conditions: &WalConditions,
    upgrade: &ConditionValue,
    now: Timestamp,
) -> WalStatus {
    let mut status = maintained;
    let generation = observed.generation;
    status.observed_generation = generation;
    let WalConditions { ready, applied, storage, indexing, search, snapshot_current, verified, progress } = conditions;
    let set = |conditions: &mut Vec<Condition>, kind, value: &ConditionValue, generation| {
        let ConditionValue { status: holds, reason, message } = value;
        set_condition(conditions, kind, *holds, *reason, shortened(message, MAX_MESSAGE_BYTES), generation, now);
    };
    if applied.status == ConditionStatus::True {
        status.applied_generation = generation;
    }
    let before =
        condition(&observed.status.conditions, ConditionType::Ready).and_then(|ready| ready.observed_generation);
    // The promise is of the spec that the pods are made of; a refusal is of the present one.
    let promised = status.applied_generation.or(before).or(generation);
    let of_ready = if inputs.refusals().is_some() { generation } else { promised };
    set(&mut status.conditions, ConditionType::Ready, ready, of_ready);
    for kind in [ConditionType::Reconciling, ConditionType::Stalled] {
        match progress.as_ref().filter(|(present, _)| *present == kind) {
            Some((_, value)) => set(&mut status.conditions, kind, value, generation),
            None => remove_condition(&mut status.conditions, kind),
        }
    }
    let values = [
        (ConditionType::Applied, applied),
        (ConditionType::StorageReady, storage),
        (ConditionType::Indexing, indexing),
        (ConditionType::SearchAvailable, search),
        (ConditionType::SnapshotCurrent, snapshot_current),
        (ConditionType::Verified, verified),
        (ConditionType::UpgradePending, upgrade),
    ];
    for (kind, value) in values {
        set(&mut status.conditions, kind, value, generation);
    }
    status.search = Some(SearchStatus {
        replicas: inputs.search.map_or(0, |rollout| rollout.replicas),
        selector: WalComponent::Search.selector_text(&observed.key.name),
        url: inputs.search_wanted.then(|| names::search_url(&observed.key.namespace, &observed.key.name)),
    });
    if let Some((seen, process)) = inputs.active_indexer() {
        set_counters(&mut status, seen, process);
        status.observed_time = Some(Time(now));
    } else if !inputs.has_unpolled(WalComponent::Indexer) {
        status.indexer = None;
        clear_progress(&mut status);
    }
    status
}

/// Forgets how far the writer is: that is not known any more.
fn clear_progress(status: &mut WalStatus) {
    (status.lag_seconds, status.pending_entries) = (None, None);
}

/// Takes the counters of the indexer's pod. Only a writer's are the index's.
fn set_counters(status: &mut WalStatus, seen: &ObservedPod, process: &PodReport) {
    let role = match process.phase {
        PodPhase::Writing | PodPhase::Purging | PodPhase::Purged => IndexerRole::Writer,
        PodPhase::Standby => IndexerRole::Standby,
        PodPhase::Starting | PodPhase::Probing | PodPhase::Restoring | PodPhase::Serving | PodPhase::Ended => {
            IndexerRole::Starting
        }
    };
    status.indexer = Some(IndexerStatus { pod: seen.pod.name.to_string(), role });
    if role != IndexerRole::Writer {
        clear_progress(status);
        return;
    }
    // Nobody writes before the promotion.
    status.restored = None;
    if let Some(time) = process.cursor {
        status.cursor = Some(CursorStatus { time: Time(time) });
    }
    status.horizon = process.horizon.map(Time).or(status.horizon.take());
    status.lag_seconds = counter(process.lag_seconds);
    status.pending_entries = counter(process.pending_entries);
    status.entries = counter(process.entries);
    // 0 is no epoch: the writer has not acquired the lease yet.
    status.epoch = counter(process.epoch).filter(|epoch| *epoch > 0);
    if process.manifest > 0 {
        status.generation.clone_from(&process.generation);
    }
    status.version = Some(process.version.clone());
}

/// A counter as the API knows numbers.
fn counter(value: u64) -> Option<i64> {
    i64::try_from(value).ok()
}

impl ReportedStatus for WalStatus {
    /// A pod may word the same problem differently each time: new words alone can wait, but for those on an upgrade, which are
    /// the operator's own.
    fn without_counters(&self) -> Self {
        let mut conditions = self.conditions.clone();
        let upgrade = ConditionType::UpgradePending.as_str();
        for condition in conditions.iter_mut().filter(|condition| condition.type_ != upgrade) {
            condition.message.clear();
        }
        Self {
            observed_generation: self.observed_generation,
            applied_generation: self.applied_generation,
            conditions,
            search: self.search.clone(),
            indexer: self.indexer.clone(),
            epoch: self.epoch,
            generation: self.generation.clone(),
            recovery_window: self.recovery_window.clone(),
            last_snapshot: self.last_snapshot.clone(),
            log_size: self.log_size.clone(),
            last_cleanup: self.last_cleanup.clone(),
            restored: self.restored.clone(),
            last_verification: self.last_verification.clone(),
            schedules: self.schedules.clone(),
            ..Self::default()
        }
    }

    fn with_clock_of(&self, before: &Self) -> Self {
        Self {
            // That of an idle log.
            cursor: before.cursor.clone(),
            horizon: before.horizon.clone(),
            observed_time: before.observed_time.clone(),
            ..self.clone()
        }
    }

    fn observed_time(&self) -> Option<Timestamp> {
        self.observed_time.as_ref().map(|time| time.0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidemark_crds::Reason;

    use super::*;
    use crate::status_writer::{WriteTiming, due};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn status(message: &str, entries: i64) -> WalStatus {
        let mut status =
            WalStatus { entries: Some(entries), observed_time: Some(Time(at(10))), ..WalStatus::default() };
        let (kind, no, reason) = (ConditionType::Ready, ConditionStatus::False, Reason::Unreachable);
        set_condition(&mut status.conditions, kind, no, reason, message, Some(1), at(1));
        status
    }

    #[test]
    fn conditions_are_written_at_once_and_figures_and_words_once_a_minute() {
        let (before, soon, late) = (status("a", 1), Duration::from_secs(20), Duration::from_mins(1));
        let mut ready = before.clone();
        set_condition(
            &mut ready.conditions,
            ConditionType::Ready,
            ConditionStatus::True,
            Reason::Ready,
            "",
            Some(1),
            at(2),
        );
        let mut clock = before.clone();
        (clock.horizon, clock.observed_time) = (Some(Time(at(99))), Some(Time(at(99))));
        clock.cursor = Some(CursorStatus { time: Time(at(99)) });
        let mut seen = before.clone();
        seen.observed_generation = Some(2);
        let left = WriteTiming::After(Duration::from_secs(40));
        for (name, after, due_soon, due_late) in [
            ("nothing", before.clone(), WriteTiming::Never, WriteTiming::Never),
            ("the clock alone", clock, WriteTiming::Never, WriteTiming::Never),
            ("a condition", ready, WriteTiming::Now, WriteTiming::Now),
            ("the generation", seen, WriteTiming::Now, WriteTiming::Now),
            ("counters", status("a", 2), left, WriteTiming::Now),
            ("other words for the same problem", status("b", 1), left, WriteTiming::Now),
        ] {
            assert_eq!((due(&before, &after, soon), due(&before, &after, late)), (due_soon, due_late), "{name}");
        }
    }
}

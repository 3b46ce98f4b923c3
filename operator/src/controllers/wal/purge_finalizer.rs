//! The finalizer of a WAL whose index is removed with it, and when it goes.
//!
//! It is there only with `deletionPolicy: Purge`. It goes when the indexer has removed the index, when the namespace is
//! being deleted, and after ten minutes in any case: a WAL that cannot be deleted would be worse than an index that stays.
//! A WAL that never had an indexer and cannot get one has no index, and goes at once.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Resource as _, core::Status};
use tidemark_crds::{
    ConditionType, DeletionPolicy, PodPhase, Reason, Wal, WalStatus, is_true,
    names::{self, WalComponent},
};

use super::observe::{ObservedWal, WalIntent};
use crate::{
    cache::RolloutStatus, clock::now, condition_value::ConditionValue, context::ReconcileContext,
    event_publisher::EventRecord, finalizer::ManagedFinalizer, namespace, observed_pod::ObservedPod,
};

const PURGE_FINALIZER: ManagedFinalizer =
    ManagedFinalizer { name: names::FINALIZER_PURGE, field_manager: names::MANAGER_CHILDREN };

/// What the deletion of a WAL asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeletionStep {
    /// It is not being deleted.
    None,
    /// It is, and nothing is left to do.
    Done,
    /// Its index is being removed.
    Purging {
        /// When to reconcile it again at the latest.
        again: Duration,
    },
}

/// How often a WAL is reconciled while its index is being removed.
const PURGE_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Adds or removes the finalizer as the WAL's policy and its deletion ask. `refused`: the spec is not valid, so no indexer is
/// made from it.
pub(crate) async fn finalize(
    wal: &Wal,
    observed: &ObservedWal,
    refused: bool,
    context: &ReconcileContext,
) -> Result<DeletionStep, kube::Error> {
    let client = &context.shared.client;
    let wanted = observed.intent.deletion_policy == DeletionPolicy::Purge;
    let present = PURGE_FINALIZER.is_on(&wal.metadata);
    let Some(deleted) = observed.intent.deleted else {
        if wanted != present {
            PURGE_FINALIZER.set::<Wal>(client, &wal.metadata, wanted).await?;
        }
        return Ok(DeletionStep::None);
    };
    if !present {
        return Ok(DeletionStep::Done);
    }
    let terminating = wanted && namespace::is_terminating(client, &observed.key.namespace).await;
    let never = refused && never_indexed(observed.rollout(WalComponent::Indexer), &observed.pods, &observed.status);
    let timeout = context.shared.settings.purge_timeout;
    let WalIntent { index_url, log_url, .. } = &observed.intent;
    let record = match outcome(&observed.pods, never, terminating, deleted, now(), timeout) {
        _ if !wanted => None,
        PurgeOutcome::Wait(left) => return Ok(DeletionStep::Purging { again: left.min(PURGE_POLL_INTERVAL) }),
        PurgeOutcome::Purged => Some(purged(index_url, log_url)),
        PurgeOutcome::Nothing => Some(EventRecord::normal(
            "NothingToPurge",
            "the spec was refused and no indexer of this WAL ever ran, so it has no index to remove",
        )),
        PurgeOutcome::Abandoned(why) => Some(abandoned(why, index_url, log_url)),
    };
    remove_finalizer(&wal.metadata, &wal.object_ref(&()), record, context).await?;
    Ok(DeletionStep::Done)
}

/// Removes the finalizer of a WAL that is being deleted and whose spec cannot be read. What to remove is not known, and another
/// release may be about to take over, so the WAL is held for as long as a purge may take.
pub(crate) async fn finalize_unreadable(
    metadata: &ObjectMeta,
    reference: &ObjectReference,
    context: &ReconcileContext,
) -> Result<DeletionStep, kube::Error> {
    let Some(deleted) = &metadata.deletion_timestamp else { return Ok(DeletionStep::None) };
    if !PURGE_FINALIZER.is_on(metadata) {
        return Ok(DeletionStep::Done);
    }
    let name = metadata.namespace.as_deref().unwrap_or_default();
    let terminating = namespace::is_terminating(&context.shared.client, name).await;
    match outcome(&[], false, terminating, deleted.0, now(), context.shared.settings.purge_timeout) {
        PurgeOutcome::Wait(left) => Ok(DeletionStep::Purging { again: left }),
        PurgeOutcome::Abandoned(why) => {
            let message = format!(
                "{why}: this release cannot read the WAL; the WAL is deleted and its index stays; remove the index by hand, but not \"archive/\" below it: nothing else may have what was deleted from the log"
            );
            let record = Some(EventRecord::warning("PurgeAbandoned", message));
            remove_finalizer(metadata, reference, record, context).await?;
            Ok(DeletionStep::Done)
        }
        PurgeOutcome::Purged | PurgeOutcome::Nothing => Ok(DeletionStep::Done),
    }
}

/// The Event of an index that was removed.
fn purged(index_url: &str, log_url: &str) -> EventRecord {
    let stays =
        format!("the log \"{log_url}\" stays, and so does its archive below \"{index_url}/archive/\", if there is one");
    EventRecord::normal("Purged", format!("the index was removed; {stays}"))
}

/// The Event of an index that was not, or not whole.
fn abandoned(why: &str, index_url: &str, log_url: &str) -> EventRecord {
    EventRecord::warning(
        "PurgeAbandoned",
        format!(
            "{why}; the WAL is deleted and the rest of its index stays; remove what is below \"{index_url}\" by hand, but not the archive below \"{index_url}/archive/\": nothing else may have what was deleted from the log \"{log_url}\", which stays"
        ),
    )
}

/// Removes the finalizer and publishes the Event, unless the WAL is gone already: then it was published before.
async fn remove_finalizer(
    metadata: &ObjectMeta,
    reference: &ObjectReference,
    record: Option<EventRecord>,
    context: &ReconcileContext,
) -> Result<(), kube::Error> {
    let removed = PURGE_FINALIZER.set::<Wal>(&context.shared.client, metadata, false).await?;
    if let Some(record) = record.filter(|_| removed) {
        if record.warning {
            context.shared.metrics.purge_abandoned();
        }
        context.shared.events.publish(reference, &[record]).await;
    }
    Ok(())
}

/// What is said of a finalizer that the API server does not let the operator add (`wanted`) or remove. `deleted`: only the finalizer
/// keeps the WAL.
pub(crate) fn unwritten(answer: &Status, wanted: bool, deleted: bool) -> ConditionValue {
    let name = PURGE_FINALIZER.name;
    let change = if wanted { "add" } else { "remove" };
    let effect = match (wanted, deleted) {
        (true, _) => "if the WAL is deleted, its index stays, though \"spec.deletionPolicy\" is Purge",
        (false, true) => "the WAL is deleted and does not go",
        (false, false) => "the WAL does not go when it is deleted before its index is removed",
    };
    ConditionValue::no(
        Reason::FinalizerRefused,
        format!(
            "the API server does not let the operator {change} the finalizer \"{name}\": {}; {effect}; it is tried again; give the operator the \
             right to patch WALs, or remove the policy or webhook that refuses it",
            answer.message
        ),
    )
}

/// How far a purge is.
#[derive(Debug, PartialEq, Eq)]
enum PurgeOutcome {
    Purged,
    /// The WAL has no index.
    Nothing,
    Abandoned(&'static str),
    /// It may still take this long.
    Wait(Duration),
}

/// Whether this WAL never indexed anything: it has no indexer, and its status names none. The write of the status that first
/// shows an index shows the epoch of its writer, too.
fn never_indexed(indexer: Option<&RolloutStatus>, pods: &[ObservedPod], status: &WalStatus) -> bool {
    let had_indexer = status.indexer.is_some() || status.epoch.is_some() || status.generation.is_some();
    indexer.is_none() && pods.is_empty() && !had_indexer && !is_true(&status.conditions, ConditionType::StorageReady)
}

fn outcome(
    pods: &[ObservedPod],
    never: bool,
    terminating: bool,
    deleted: Timestamp,
    now: Timestamp,
    limit: Duration,
) -> PurgeOutcome {
    let indexers = pods.iter().filter(|seen| seen.pod.component == WalComponent::Indexer);
    if indexers.filter_map(ObservedPod::answer).any(|process| process.phase == PodPhase::Purged) {
        return PurgeOutcome::Purged;
    }
    if never {
        return PurgeOutcome::Nothing;
    }
    if terminating {
        return PurgeOutcome::Abandoned("the namespace is being deleted before the index was removed");
    }
    let spent = Duration::try_from(now.duration_since(deleted)).unwrap_or_default();
    match limit.checked_sub(spent).filter(|left| !left.is_zero()) {
        Some(left) => PurgeOutcome::Wait(left),
        None => PurgeOutcome::Abandoned("the index was not removed in time"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidemark_crds::{IndexerRole, IndexerStatus, PodReport};

    use super::*;
    use crate::{
        cache::{DataPod, NamespacedName},
        pod_report_poller::PodObservation,
    };

    fn pod(phase: PodPhase) -> ObservedPod {
        let pod = DataPod {
            wal: NamespacedName::new("data", "orders"),
            name: "p".into(),
            uid: "u".into(),
            wal_uid: "w".into(),
            component: WalComponent::Indexer,
            image: None,
            address: None,
            terminating: false,
            created: None,
            restarted: false,
            trouble: None,
            eviction: None,
        };
        let process = PodReport { phase, ..PodReport::default() };
        let observation = PodObservation { process: Some(Arc::new(process)), ..PodObservation::default() };
        ObservedPod { pod: Arc::new(pod), observation }
    }

    #[test]
    fn a_purge_ends_when_it_is_done_when_the_namespace_goes_and_in_time() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let limit = Duration::from_mins(10);
        let look = |phase, terminating, now| outcome(&[pod(phase)], false, terminating, at(1000), at(now), limit);
        assert_eq!(look(PodPhase::Purging, false, 1001), PurgeOutcome::Wait(Duration::from_secs(599)));
        assert_eq!(look(PodPhase::Purged, true, 9999), PurgeOutcome::Purged);
        assert!(matches!(look(PodPhase::Purging, true, 1001), PurgeOutcome::Abandoned(_)));
        assert!(matches!(look(PodPhase::Purging, false, 1600), PurgeOutcome::Abandoned(_)));
        assert_eq!(
            look(PodPhase::Writing, false, 999),
            PurgeOutcome::Wait(limit),
            "a clock behind the API server's costs nothing"
        );
    }

    #[test]
    fn what_stays_is_named_with_its_place_and_is_not_to_be_removed() {
        let (index, log) = ("s3://index/a", "s3://log/a");
        let archive = "archive below \"s3://index/a/archive/\"";
        for (record, warning, left) in [
            (purged(index, log), false, format!("the log \"s3://log/a\" stays, and so does its {archive}")),
            (abandoned("so", index, log), true, format!("by hand, but not the {archive}")),
        ] {
            assert_eq!(record.warning, warning);
            assert!(record.message.contains(&left) && record.message.contains(log), "{}", record.message);
        }
    }

    #[test]
    fn a_finalizer_that_cannot_be_written_is_reported_with_its_effect() {
        let value =
            |wanted, deleted| unwritten(&Status { message: "no".to_owned(), ..Status::default() }, wanted, deleted);
        for (wanted, deleted, effect) in [
            (
                true,
                false,
                "does not let the operator add the finalizer \"tidemark.dev/purge\": no; if the WAL is deleted, its index stays",
            ),
            (false, false, "the WAL does not go when it is deleted before its index is removed"),
            (false, true, "the WAL is deleted and does not go"),
        ] {
            let value = value(wanted, deleted);
            assert_eq!(value.reason, Reason::FinalizerRefused);
            assert!(value.message.contains(effect), "{}", value.message);
        }
    }

    #[test]
    fn a_wal_goes_at_once_only_if_no_indexer_of_it_ever_was() {
        let fresh = WalStatus::default();
        assert!(never_indexed(None, &[], &fresh));
        assert!(!never_indexed(Some(&RolloutStatus::default()), &[], &fresh), "its indexer may have begun");
        assert!(!never_indexed(None, &[pod(PodPhase::Starting)], &fresh));
        let indexer = IndexerStatus { pod: "p".to_owned(), role: IndexerRole::Starting };
        for status in [
            WalStatus { indexer: Some(indexer), ..fresh.clone() },
            WalStatus { epoch: Some(1), ..fresh.clone() },
            WalStatus { generation: Some("g1".to_owned()), ..fresh.clone() },
        ] {
            assert!(!never_indexed(None, &[], &status), "an indexer answered once");
        }
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(outcome(&[], true, false, at(0), at(1), Duration::from_mins(10)), PurgeOutcome::Nothing);
    }
}

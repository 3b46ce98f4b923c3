//! The Events between one status and the next.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tidemark_crds::{ConditionType, IndexerRole, Reason, WalStatus, condition, is_true};

use super::upgrade::is_under_way;
use crate::{event_publisher::EventRecord, problem_events::problem_events};

/// The Events of what changed between two statuses. `adopted_from` is the owner that the writer took the index over from, if it did.
pub(crate) fn events_between(before: &WalStatus, after: &WalStatus, adopted_from: Option<&str>) -> Vec<EventRecord> {
    let mut events = Vec::new();
    let became = |kind| is_true(&after.conditions, kind) && !is_true(&before.conditions, kind);
    if became(ConditionType::StorageReady) {
        events.push(EventRecord::normal("StorageProbed", "the buckets can be used, and this WAL owns the index"));
    }
    role(before, after, adopted_from, &mut events);
    if before.generation.is_none()
        && let Some(generation) = &after.generation
    {
        events.push(EventRecord::normal(
            "FirstManifest",
            format!("the first manifest of generation \"{generation}\" is published"),
        ));
    }
    if became(ConditionType::Indexing) {
        events.push(EventRecord::normal("CaughtUp", "everything that is sealed is in the index"));
    }
    if became(ConditionType::SearchAvailable) {
        let url = after.search.as_ref().and_then(|search| search.url.as_deref()).unwrap_or("its Service");
        events.push(EventRecord::normal("SearchAvailable", format!("search answers at {url}")));
    }
    if became_restoring(before, after) {
        events.push(EventRecord::normal(
            "Restoring",
            "the index holds nothing and is begun with what is recorded of the log",
        ));
    }
    suspended(before, after, &mut events);
    upgraded(before, after, &mut events);
    maintained(before, after, &mut events);
    events.extend(problem_events(reported(before), reported(after)));
    events
}

fn role(before: &WalStatus, after: &WalStatus, adopted_from: Option<&str>, events: &mut Vec<EventRecord>) {
    let Some(indexer) = after.indexer.as_ref().filter(|indexer| indexer.role == IndexerRole::Writer) else { return };
    if before.indexer.as_ref() == Some(indexer) && before.epoch == after.epoch {
        return;
    }
    let Some(epoch) = after.epoch.filter(|epoch| before.epoch != Some(*epoch)) else { return };
    events
        .push(EventRecord::normal("RoleTaken", format!("pod \"{}\" writes the index with epoch {epoch}", indexer.pod)));
    if let Some(owner) = adopted_from {
        events.push(EventRecord::normal("OwnerAdopted", format!("the index was taken over from owner \"{owner}\"")));
    }
}

fn became_restoring(before: &WalStatus, after: &WalStatus) -> bool {
    let is_restoring = |status: &WalStatus| has(status, ConditionType::Indexing, Reason::Restoring);
    is_restoring(after) && !is_restoring(before)
}

fn suspended(before: &WalStatus, after: &WalStatus, events: &mut Vec<EventRecord>) {
    let is_suspended = |status: &WalStatus| has(status, ConditionType::Indexing, Reason::Suspended);
    match (is_suspended(before), is_suspended(after)) {
        (false, true) => events.push(EventRecord::normal("Suspended", "indexing is suspended, as the spec asks")),
        (true, false) => events.push(EventRecord::normal("Resumed", "indexing has resumed")),
        _ => {}
    }
}

fn upgraded(before: &WalStatus, after: &WalStatus, events: &mut Vec<EventRecord>) {
    let was = |reason| has(before, ConditionType::UpgradePending, reason);
    let was_under_way = is_under_way(&before.conditions);
    let Some(now) = condition(&after.conditions, ConditionType::UpgradePending) else { return };
    match Reason::parse(&now.reason) {
        Some(Reason::NewRelease) if !was(Reason::NewRelease) => {
            events.push(EventRecord::normal("UpgradePending", now.message.clone()));
        }
        Some(Reason::Upgrading) if !was_under_way => {
            events.push(EventRecord::normal("UpgradeStarted", now.message.clone()));
        }
        Some(Reason::UpgradeStalled) if !was(Reason::UpgradeStalled) => {
            events.push(EventRecord::warning("UpgradeStalled", now.message.clone()));
        }
        Some(Reason::UpToDate) if was_under_way => {
            events.push(EventRecord::normal("Upgraded", now.message.clone()));
        }
        _ => {}
    }
}

/// What tasks have done.
fn maintained(before: &WalStatus, after: &WalStatus, events: &mut Vec<EventRecord>) {
    if let Some(snapshot) =
        after.last_snapshot.as_ref().filter(|snapshot| before.last_snapshot.as_ref() != Some(*snapshot))
    {
        events.push(EventRecord::normal("SnapshotTaken", format!("snapshot \"{}\" is verified", snapshot.name)));
    }
    if let Some(cleanup) = after.last_cleanup.as_ref().filter(|cleanup| before.last_cleanup.as_ref() != Some(*cleanup))
    {
        let (entries, bytes) = (cleanup.deleted_entries.unwrap_or_default(), cleanup.deleted_bytes.unwrap_or_default());
        let message = format!("{entries} entries of {bytes} bytes were deleted from the log; the archive holds them");
        events.push(EventRecord::normal("LogCleaned", message));
    }
    match (&before.restored, &after.restored) {
        (before, Some(restored)) if before.as_ref() != Some(restored) => {
            let generation = restored.generation.as_deref().unwrap_or("of unknown name");
            let message =
                format!("generation \"{generation}\" is searched; nothing newer is indexed before its promotion");
            events.push(EventRecord::normal("IndexRestored", message));
        }
        (Some(_), None) => events.push(EventRecord::normal("IndexPromoted", "the restored index is written again")),
        _ => {}
    }
    let verification = after.last_verification.as_ref();
    let is_new = before.last_verification.as_ref() != verification;
    if verification.is_some_and(|verification| is_new && verification.damaged.unwrap_or_default() == 0) {
        events.push(EventRecord::normal("IndexVerified", "index and archive were verified and are right"));
    }
}

/// The conditions whose problems get Events here. An upgrade has Events of its own.
fn reported(status: &WalStatus) -> impl Iterator<Item = &Condition> {
    let upgrade = ConditionType::UpgradePending.as_str();
    status.conditions.iter().filter(move |condition| condition.type_ != upgrade)
}

fn has(status: &WalStatus, kind: ConditionType, reason: Reason) -> bool {
    condition(&status.conditions, kind).is_some_and(|condition| condition.reason == reason.as_str())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::json;

    use super::*;

    fn events(before: &WalStatus, after: &WalStatus) -> Vec<(&'static str, String)> {
        let events = events_between(before, after, None);
        events.into_iter().map(|event| (event.reason, event.message)).collect()
    }

    #[test]
    fn what_tasks_have_done_is_an_event_once() {
        let time = "2026-11-21T03:00:00Z";
        let status = |part: serde_json::Value| serde_json::from_value::<WalStatus>(part).unwrap();
        let nothing = WalStatus::default();
        let cases = [
            (
                json!({"lastSnapshot": {"name": "s-1", "time": time, "verified": true}}),
                "SnapshotTaken",
                "snapshot \"s-1\" is verified",
            ),
            (
                json!({"lastCleanup": {"time": time, "deletedEntries": 7, "deletedBytes": 70}}),
                "LogCleaned",
                "7 entries of 70 bytes were deleted from the log; the archive holds them",
            ),
            (
                json!({"lastVerification": {"time": time, "damaged": 0}}),
                "IndexVerified",
                "index and archive were verified and are right",
            ),
            (
                json!({"restored": {"time": time, "generation": "g2"}}),
                "IndexRestored",
                "generation \"g2\" is searched; nothing newer is indexed before its promotion",
            ),
        ];
        for (part, reason, message) in cases {
            let after = status(part);
            assert_eq!(events(&nothing, &after), [(reason, message.to_owned())]);
            assert!(events(&after, &after).is_empty(), "{reason}");
        }
        let restored = status(json!({"restored": {"time": time, "generation": "g2"}}));
        assert_eq!(events(&restored, &nothing)[0].0, "IndexPromoted");
    }

    /// The condition `Verified` says what was found.
    #[test]
    fn a_verification_that_leaves_damage_unrepaired_is_not_told_as_right() {
        let mut after = serde_json::from_value::<WalStatus>(json!({
            "lastVerification": {"time": "2026-11-21T03:00:00Z", "damaged": 2},
        }))
        .unwrap();
        assert!(events(&WalStatus::default(), &after).is_empty());
        let before = after.clone();
        after.last_verification.as_mut().unwrap().time = Time(Timestamp::MAX);
        assert!(events(&before, &after).is_empty());
    }
}

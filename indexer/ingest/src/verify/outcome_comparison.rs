//! What a recorded outcome and one that is decided again from the log say of each other: pure functions.
//!
//! An outcome is decided once. What was seen then may be gone by now: a descriptor is deleted, a label moves. So a difference is damage
//! only if what was recorded as seen is still there and says something else.

use tidemark_store::StoreSecond;
use tidemark_wal::{Evidence, Observation, Outcome, ParameterSchedule};

use crate::{key_neighbors::KeyNeighbors, record::OperationRecord};

/// What a comparison comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OutcomeVerdict {
    /// The log says the same.
    Agrees,
    /// What it rested on is gone or was written again since: the record stands.
    Unprovable(&'static str),
    /// The indexer will publish a correction, or could not yet decide.
    Pending(&'static str),
    /// The log says something else.
    Differs(String),
}

/// The operations of one entry, as the index has them and as the log shows them now.
#[derive(Debug)]
pub(crate) struct EntryComparison<'a> {
    /// The records of the entry that were read, by op; perhaps not all of them.
    pub(crate) recorded: &'a [OperationRecord],
    /// What its operations are when they are decided now, by op.
    pub(crate) found: &'a [OperationRecord],
    /// Below this second every entry had its last look by the audit.
    pub(crate) audited: StoreSecond,
    /// The log's parameters.
    pub(crate) schedule: &'a ParameterSchedule,
}

impl EntryComparison<'_> {
    /// What the comparison of one of the recorded operations comes to. `neighbors` are those that the index has as committed with this one's
    /// idempotency key.
    pub(crate) fn verdict(&self, recorded: &OperationRecord, neighbors: KeyNeighbors) -> OutcomeVerdict {
        let outcome = recorded.decision.outcome;
        let Some(first) = self.found.first() else {
            return OutcomeVerdict::Differs("the entry has no operation".to_owned());
        };
        if first.decision.outcome == Outcome::Unreadable {
            return match outcome {
                Outcome::Unreadable => OutcomeVerdict::Pending("the store still refuses the entry"),
                _ => OutcomeVerdict::Unprovable("the store refuses the entry now"),
            };
        }
        if outcome == Outcome::Unreadable {
            return OutcomeVerdict::Pending("the entry can be read by now; the indexer decides it within the hour");
        }
        if let Some(difference) = changed_entry(recorded, first) {
            return OutcomeVerdict::Differs(difference);
        }
        let Some(found) = self.found.iter().find(|found| found.op == recorded.op) else {
            let (op, count) = (recorded.op, self.found.len());
            return OutcomeVerdict::Differs(format!("operation {op} is recorded, and the entry has {count}"));
        };
        let counted = neighbors.counted_for((recorded.token, recorded.op), self.schedule);
        let outcome = match (outcome, found.decision.outcome) {
            (Outcome::Duplicate, Outcome::Committed) if counted.is_some() => return OutcomeVerdict::Agrees,
            (Outcome::Duplicate, Outcome::Committed) => {
                return OutcomeVerdict::Differs(
                    "no other operation committed with its idempotency key while that counts".to_owned(),
                );
            }
            (Outcome::Committed, _) if counted.is_some() => {
                return OutcomeVerdict::Differs(
                    "another operation is recorded as committed with the same idempotency key while that counts"
                        .to_owned(),
                );
            }
            (Outcome::Committed, _) if recorded.idempotency_key.is_some() && !neighbors.is_committed => {
                return OutcomeVerdict::Differs("the index does not find it by its idempotency key".to_owned());
            }
            // Before it was a duplicate or conflicted it was committed; with what it conflicted is looked at beside this.
            (Outcome::Duplicate | Outcome::Conflicted, _) => Outcome::Committed,
            (outcome, _) => outcome,
        };
        self.compare(recorded, outcome, found)
    }

    fn compare(&self, recorded: &OperationRecord, outcome: Outcome, found: &OperationRecord) -> OutcomeVerdict {
        let now = found.decision.outcome;
        let differs =
            || OutcomeVerdict::Differs(format!("it is recorded as {}, and is {}", outcome.as_str(), now.as_str()));
        match (outcome, now) {
            (outcome, now) if outcome == now => OutcomeVerdict::Agrees,
            // An aborted one was looked for until the end of the audit window.
            (Outcome::Aborted, Outcome::Expired) => OutcomeVerdict::Agrees,
            (Outcome::Aborted, Outcome::Unknown) => {
                OutcomeVerdict::Unprovable("the label was moved since, and at its decision it was seen unmoved")
            }
            (Outcome::Unknown, _) => OutcomeVerdict::Unprovable("more is known of the label than at its decision"),
            (Outcome::Malformed, _) | (_, Outcome::Malformed) => differs(),
            _ if recorded.token.second() >= self.audited && outcome == Outcome::Aborted => {
                OutcomeVerdict::Pending("its descriptor arrived since; the audit publishes a correction")
            }
            _ if outcome != Outcome::Aborted && self.is_seen_otherwise() => {
                OutcomeVerdict::Unprovable("a descriptor of the entry is gone, or was written again since")
            }
            _ if rests_on_times(recorded)
                || rests_on_times(found) && (outcome != Outcome::Aborted || recorded.label.is_some()) =>
            {
                OutcomeVerdict::Unprovable("it rests on store times alone, and more fits them by now")
            }
            _ => differs(),
        }
    }

    /// Whether a descriptor that a record of the entry names as seen is not there any more as it was.
    fn is_seen_otherwise(&self) -> bool {
        let seen = |record: &OperationRecord| record.decision.observations.iter().map(facts_of).collect::<Vec<_>>();
        let same = |recorded: &OperationRecord| {
            let is_same = |found: &OperationRecord| {
                seen(found) == seen(recorded) && found.decision.guard == recorded.decision.guard
            };
            self.found.iter().any(|found| found.op == recorded.op && is_same(found))
        };
        !self.recorded.iter().all(same)
    }
}

/// What of an observation another look at the same object gives again.
fn facts_of(observation: &Observation) -> (String, StoreSecond, String) {
    (observation.key.clone(), observation.time, observation.digest.clone())
}

fn rests_on_times(record: &OperationRecord) -> bool {
    let weak = |evidence: Option<Evidence>| matches!(evidence, Some(Evidence::Timed | Evidence::Inferred));
    weak(record.decision.evidence) || record.decision.observations.iter().any(|observation| weak(observation.evidence))
}

/// How the entry differs from what was recorded of it, whatever its outcome.
fn changed_entry(recorded: &OperationRecord, first: &OperationRecord) -> Option<String> {
    let (was, is) = (recorded.body.digest(), first.body.digest());
    // A body that is too large was not read.
    if (was.is_some() && is.is_some() && was != is) || (was.is_none() && is.is_none() && recorded.size != first.size) {
        return Some(format!(
            "its entry has another body: {} bytes were recorded, it has {}",
            recorded.size, first.size
        ));
    }
    let (was, is) = (recorded.decision.entry_time, first.decision.entry_time);
    (was != is).then(|| format!("its entry was written again: its store time was {was} and is {is}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use tidemark_store::StoreSecond;
    use tidemark_wal::{LogParameters, Token};

    use super::*;

    const AT: u64 = 1_700_000_000;

    fn token() -> Token {
        Token::from_parts(StoreSecond::from_unix(AT), [7; 16])
    }

    /// A bundle's record: its outcome, and the store time and evidence of its descriptor.
    fn record(outcome: Outcome, seen: Option<(u64, Evidence)>) -> OperationRecord {
        let observations: Vec<_> = seen
            .iter()
            .map(|(time, evidence)| json!({"key": "bundles/r/b/bundle.yaml", "time": StoreSecond::from_unix(*time), "digest": "d", "evidence": evidence}))
            .collect();
        serde_json::from_value(json!({
            "seq": 1, "token": token(), "op": 0, "kind": "bundle", "size": 23, "body": "bundles/r/b/bundle.yaml",
            "decision": {
                "outcome": outcome, "entryTime": StoreSecond::from_unix(AT), "observations": observations,
                "evidence": seen.map(|(_, evidence)| evidence),
            },
        }))
        .unwrap()
    }

    fn verdict(recorded: &OperationRecord, found: &OperationRecord, audited: u64) -> OutcomeVerdict {
        let (recorded, found) = (std::slice::from_ref(recorded), std::slice::from_ref(found));
        let audited = StoreSecond::from_unix(audited);
        let comparison = EntryComparison { recorded, found, audited, schedule: &schedule(None) };
        comparison.verdict(&recorded[0], KeyNeighbors::default())
    }

    fn schedule(idempotency_retention: Option<Duration>) -> ParameterSchedule {
        let parameters = LogParameters::with_expiry(Duration::from_secs(1));
        ParameterSchedule::constant(LogParameters { idempotency_retention, ..parameters })
    }

    const BOUND: Option<(u64, Evidence)> = Some((AT + 5, Evidence::Bound));

    #[test]
    fn an_equal_outcome_agrees_whatever_became_of_the_descriptor() {
        for outcome in [Outcome::Committed, Outcome::Late, Outcome::Aborted, Outcome::Expired, Outcome::Malformed] {
            assert_eq!(verdict(&record(outcome, BOUND), &record(outcome, None), 0), OutcomeVerdict::Agrees);
        }
    }

    #[test]
    fn a_bundle_that_was_deleted_later_does_not_un_happen() {
        for (seen, now) in [(BOUND, None), (BOUND, Some((AT + 900, Evidence::Bound)))] {
            for outcome in
                [Outcome::Committed, Outcome::Late, Outcome::Expired, Outcome::Duplicate, Outcome::Conflicted]
            {
                let verdict = verdict(&record(outcome, seen), &record(Outcome::Aborted, now), AT + 9999);
                assert!(matches!(verdict, OutcomeVerdict::Unprovable(_)), "{outcome:?} {now:?}: {verdict:?}");
            }
        }
    }

    #[test]
    fn the_same_facts_and_another_outcome_are_damage() {
        for (was, is) in [(Outcome::Committed, Outcome::Late), (Outcome::Late, Outcome::Committed)] {
            let verdict = verdict(&record(was, BOUND), &record(is, BOUND), AT + 9999);
            assert!(matches!(&verdict, OutcomeVerdict::Differs(_)), "{verdict:?}");
        }
        // But for what the entries beside it decide.
        let timed = Some((AT + 5, Evidence::Timed));
        let verdict = verdict(&record(Outcome::Committed, timed), &record(Outcome::Aborted, timed), AT + 9999);
        assert!(matches!(verdict, OutcomeVerdict::Unprovable(_)), "{verdict:?}");
    }

    #[test]
    fn what_arrived_late_is_due_until_the_last_look() {
        let (recorded, found) = (record(Outcome::Aborted, None), record(Outcome::Late, BOUND));
        assert!(matches!(verdict(&recorded, &found, AT), OutcomeVerdict::Pending(_)));
        assert!(matches!(verdict(&recorded, &found, AT + 1), OutcomeVerdict::Differs(_)));
        assert_eq!(verdict(&recorded, &record(Outcome::Expired, BOUND), AT + 1), OutcomeVerdict::Agrees);
    }

    #[test]
    fn an_entry_that_was_written_again_or_changed_is_damage() {
        let recorded = record(Outcome::Committed, BOUND);
        let mut later = recorded.clone();
        later.decision.entry_time = StoreSecond::from_unix(AT + 1);
        let mut other = recorded.clone();
        other.body = crate::EntryBody::of("bundles/r/c/bundle.yaml".into());
        for changed in [&later, &other] {
            assert!(matches!(verdict(&recorded, changed, 0), OutcomeVerdict::Differs(_)));
        }
    }

    #[test]
    fn a_key_commits_once() {
        let keyed = |outcome| OperationRecord { idempotency_key: Some("k".to_owned()), ..record(outcome, BOUND) };
        let (committed, duplicate) = (keyed(Outcome::Committed), keyed(Outcome::Duplicate));
        let verdict = |recorded: &OperationRecord, commits: &[(Token, u32)], retention: Option<u64>| {
            let (found, schedule) = ([keyed(Outcome::Committed)], schedule(retention.map(Duration::from_secs)));
            let recorded = std::slice::from_ref(recorded);
            let (audited, schedule) = (StoreSecond::default(), &schedule);
            let comparison = EntryComparison { recorded, found: &found, audited, schedule };
            comparison.verdict(&recorded[0], KeyNeighbors::around((token(), 0), commits.iter().copied()))
        };
        let at = |second| (Token::first_of(StoreSecond::from_unix(second)), 0);
        let (this, earlier, later) = ((token(), 0), at(AT - 9), at(AT + 9));
        assert_eq!(verdict(&committed, &[this], None), OutcomeVerdict::Agrees);
        for other in [earlier, later] {
            assert_eq!(verdict(&duplicate, &[other], None), OutcomeVerdict::Agrees);
            assert_eq!(verdict(&duplicate, &[other], Some(9)), OutcomeVerdict::Agrees);
            assert_eq!(verdict(&committed, &[this, other], Some(8)), OutcomeVerdict::Agrees);
        }
        for (recorded, commits, retention) in [
            (&committed, &[this, earlier][..], None),
            (&committed, &[this, later], Some(9)),
            (&committed, &[], None),
            (&duplicate, &[this], None),
            (&duplicate, &[], None),
            (&duplicate, &[earlier, later], Some(8)),
        ] {
            let verdict = verdict(recorded, commits, retention);
            assert!(matches!(verdict, OutcomeVerdict::Differs(_)), "{commits:?} {retention:?}");
        }
    }

    #[test]
    fn a_conflicted_operation_is_committed_in_the_log() {
        let conflicted = record(Outcome::Conflicted, BOUND);
        assert_eq!(verdict(&conflicted, &record(Outcome::Committed, BOUND), 0), OutcomeVerdict::Agrees);
        let late = verdict(&conflicted, &record(Outcome::Late, BOUND), AT + 9999);
        assert!(matches!(late, OutcomeVerdict::Differs(_)), "{late:?}");
    }

    #[test]
    fn what_the_store_refuses_says_nothing() {
        let refused = record(Outcome::Unreadable, None);
        assert!(matches!(verdict(&record(Outcome::Committed, BOUND), &refused, 0), OutcomeVerdict::Unprovable(_)));
        assert!(matches!(verdict(&refused, &refused, 0), OutcomeVerdict::Pending(_)));
        assert!(matches!(verdict(&refused, &record(Outcome::Late, BOUND), 0), OutcomeVerdict::Pending(_)));
    }

    #[test]
    fn a_group_falls_with_the_descriptor_of_one_operation() {
        let second = |outcome, seen| OperationRecord { op: 1, ..record(outcome, seen) };
        let recorded = [record(Outcome::Committed, BOUND), second(Outcome::Committed, BOUND)];
        let found = [record(Outcome::Aborted, BOUND), second(Outcome::Aborted, None)];
        let (audited, schedule) = (StoreSecond::default(), &schedule(None));
        let comparison = EntryComparison { recorded: &recorded, found: &found, audited, schedule };
        let unkeyed = KeyNeighbors::default();
        assert!(matches!(comparison.verdict(&recorded[0], unkeyed), OutcomeVerdict::Unprovable(_)));
        let whole = [record(Outcome::Aborted, BOUND), second(Outcome::Aborted, BOUND)];
        let comparison = EntryComparison { found: &whole, ..comparison };
        assert!(matches!(comparison.verdict(&recorded[0], unkeyed), OutcomeVerdict::Differs(_)));
        let short = EntryComparison { found: &whole[..1], ..comparison };
        assert!(matches!(short.verdict(&recorded[1], unkeyed), OutcomeVerdict::Differs(_)));
    }
}

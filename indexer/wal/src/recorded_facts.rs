//! Deciding an entry again from what was kept of it when it was decided: a pure function, for where the log has it no more.

use tidemark_store::StoreSecond;

use crate::{
    outcome::{EntryGuard, GuardObservation, Observation, Outcome, decide_outcome},
    parameters::ParameterSchedule,
    payload::parse_payload,
    token::Token,
};

/// What was kept of an entry.
#[derive(Clone, Debug)]
pub struct RecordedFacts<'a> {
    /// Its token.
    pub token: Token,
    /// Its store time.
    pub entry_time: StoreSecond,
    /// Its body.
    pub body: &'a [u8],
    /// By operation: the descriptor that was seen for it, whether it counted or not.
    pub seen: Vec<Option<Observation>>,
    /// The guard that was seen, if its body names a lock.
    pub guard: Option<GuardObservation>,
}

/// The entry does not have as many operations as were kept of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its body announces {announced} operations, and {recorded} are recorded")]
pub struct OperationsDiffer {
    /// How many its body announces: one if it is malformed.
    pub announced: usize,
    /// How many were kept.
    pub recorded: usize,
}

impl RecordedFacts<'_> {
    /// The outcome of its operations by the outcome rule, which decides them as one. What depends on other entries is not part of it:
    /// of two with one idempotency key each is committed here.
    ///
    /// # Errors
    ///
    /// Where the facts are not those of this body.
    pub fn decide(&self, schedule: &ParameterSchedule) -> Result<Outcome, OperationsDiffer> {
        let recorded = self.seen.len();
        let intent = parse_payload(self.token, self.body);
        let announced = intent.as_ref().map_or(1, |intent| intent.ops.len());
        if announced != recorded {
            return Err(OperationsDiffer { announced, recorded });
        }
        let Ok(intent) = intent else { return Ok(Outcome::Malformed) };
        let named = intent.ops.iter().zip(&self.seen).filter(|(operation, _)| operation.descriptor.is_some());
        let seen: Vec<_> = named.map(|(_, seen)| seen.clone()).collect();
        let parameters = schedule.at(self.token.second());
        let guard = intent.lock.as_ref().map_or(EntryGuard::Unguarded, |_| EntryGuard::Guarded(self.guard.as_ref()));
        Ok(decide_outcome(parameters, self.token, self.entry_time, seen.len(), &seen, guard).outcome)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{outcome::Evidence, parameters::LogParameters};

    const AT: u64 = 1_700_000_000;

    fn decided(body: &str, entry: u64, seen: &[Option<u64>]) -> Result<Outcome, OperationsDiffer> {
        let observed = |seen: &Option<u64>| {
            seen.map(|at| Observation {
                key: "bundles/r/b/bundle.yaml".to_owned(),
                time: StoreSecond::from_unix(AT + at),
                digest: String::new(),
                evidence: Some(Evidence::Bound),
            })
        };
        let facts = RecordedFacts {
            token: Token::from_parts(StoreSecond::from_unix(AT), [7; 16]),
            entry_time: StoreSecond::from_unix(AT + entry),
            body: body.as_bytes(),
            seen: seen.iter().map(observed).collect(),
            guard: None,
        };
        let parameters = LogParameters {
            audit_window: Duration::from_hours(1),
            ..LogParameters::with_expiry(Duration::from_secs(40))
        };
        facts.decide(&ParameterSchedule::constant(parameters))
    }

    #[test]
    fn the_rule_decides_from_body_and_recorded_times() {
        let bundle = "bundles/r/b/bundle.yaml";
        for (body, entry, seen, outcome) in [
            ("hello", 0, None, Outcome::Committed),
            ("hello", 200, None, Outcome::Late),
            ("hello", 4000, None, Outcome::Expired),
            (bundle, 0, None, Outcome::Aborted),
            (bundle, 0, Some(3), Outcome::Committed),
            (bundle, 0, Some(200), Outcome::Late),
            ("", 0, None, Outcome::Malformed),
        ] {
            assert_eq!(decided(body, entry, &[seen]), Ok(outcome), "{body:?} at {entry}, {seen:?}");
        }
    }

    #[test]
    fn another_number_of_operations_is_an_error() {
        for body in ["", "hello"] {
            assert_eq!(decided(body, 0, &[None, None]), Err(OperationsDiffer { announced: 1, recorded: 2 }));
            assert_eq!(decided(body, 0, &[]), Err(OperationsDiffer { announced: 1, recorded: 0 }));
        }
    }
}

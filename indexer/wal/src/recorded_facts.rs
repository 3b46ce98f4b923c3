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
    /// Whether the body was read as no payload.
    pub was_malformed: bool,
    /// The operations that were read in it.
    pub operations: Vec<RecordedOperation>,
    /// The guard that was seen, if its body names a lock.
    pub guard: Option<GuardObservation>,
}

/// What was kept of an operation of an entry.
#[derive(Clone, Debug)]
pub struct RecordedOperation {
    /// The descriptor that the body was read to name.
    pub descriptor: Option<String>,
    /// The descriptor that was seen for it, whether it counted or not.
    pub seen: Option<Observation>,
}

/// The body says something else to this release than to the one that decided its operations.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParsedOtherwise {
    /// It is a payload by now, or none any more.
    #[error("its body was read as {was}, and is {now}", was = payload_word(*.was_malformed), now = payload_word(!.was_malformed))]
    Payload {
        /// Whether it was none.
        was_malformed: bool,
    },
    /// It has another number of operations.
    #[error("its body announces {announced} operations, and {recorded} are recorded")]
    OperationCount {
        /// How many its body announces.
        announced: usize,
        /// How many were kept.
        recorded: usize,
    },
    /// One of its operations names another descriptor.
    #[error("its body names another descriptor for operation {op} than is recorded")]
    Descriptor {
        /// The first such operation.
        op: usize,
    },
}

fn payload_word(is_malformed: bool) -> &'static str {
    if is_malformed { "malformed" } else { "a payload" }
}

impl RecordedFacts<'_> {
    /// The outcome of its operations by the outcome rule, which decides them as one. What depends on other entries is not part of it:
    /// of two with one idempotency key each is committed here.
    ///
    /// # Errors
    ///
    /// Where the body says something else than was read in it: then the facts do not decide it.
    pub fn decide(&self, schedule: &ParameterSchedule) -> Result<Outcome, ParsedOtherwise> {
        let (was_malformed, recorded) = (self.was_malformed, self.operations.len());
        let Ok(intent) = parse_payload(self.token, self.body) else {
            return if was_malformed {
                Ok(Outcome::Malformed)
            } else {
                Err(ParsedOtherwise::Payload { was_malformed })
            };
        };
        if was_malformed {
            return Err(ParsedOtherwise::Payload { was_malformed });
        }
        let announced = intent.ops.len();
        if announced != recorded {
            return Err(ParsedOtherwise::OperationCount { announced, recorded });
        }
        let mut both = intent.ops.iter().zip(&self.operations);
        if let Some(op) = both.position(|(announced, recorded)| announced.descriptor != recorded.descriptor) {
            return Err(ParsedOtherwise::Descriptor { op });
        }
        let named = self.operations.iter().filter(|operation| operation.descriptor.is_some());
        let seen: Vec<_> = named.map(|operation| operation.seen.clone()).collect();
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
    const BUNDLE: &str = "bundles/r/b/bundle.yaml";

    fn decided(
        body: &str,
        entry: u64,
        (was_malformed, descriptor): (bool, Option<&str>),
        seen: &[Option<u64>],
    ) -> Result<Outcome, ParsedOtherwise> {
        let observed = |seen: &Option<u64>| RecordedOperation {
            descriptor: descriptor.map(str::to_owned),
            seen: seen.map(|at| Observation {
                key: BUNDLE.to_owned(),
                time: StoreSecond::from_unix(AT + at),
                digest: String::new(),
                evidence: Some(Evidence::Bound),
            }),
        };
        let facts = RecordedFacts {
            token: Token::from_parts(StoreSecond::from_unix(AT), [7; 16]),
            entry_time: StoreSecond::from_unix(AT + entry),
            body: body.as_bytes(),
            was_malformed,
            operations: seen.iter().map(observed).collect(),
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
        for (body, entry, seen, outcome) in [
            ("hello", 0, None, Outcome::Committed),
            ("hello", 200, None, Outcome::Late),
            ("hello", 4000, None, Outcome::Expired),
            (BUNDLE, 0, None, Outcome::Aborted),
            (BUNDLE, 0, Some(3), Outcome::Committed),
            (BUNDLE, 0, Some(200), Outcome::Late),
            ("", 0, None, Outcome::Malformed),
        ] {
            let parsed = (body.is_empty(), Some(BUNDLE).filter(|bundle| *bundle == body));
            assert_eq!(decided(body, entry, parsed, &[seen]), Ok(outcome), "{body:?} at {entry}, {seen:?}");
        }
    }

    #[test]
    fn what_another_parser_has_read_is_not_decided() {
        for recorded in [0, 2] {
            let differs = ParsedOtherwise::OperationCount { announced: 1, recorded };
            assert_eq!(decided("hello", 0, (false, None), &vec![None; recorded]), Err(differs));
        }
        for (body, was_malformed, said) in [
            ("", false, "its body was read as a payload, and is malformed"),
            ("hello", true, "its body was read as malformed, and is a payload"),
        ] {
            let differs = decided(body, 0, (was_malformed, None), &[None]).unwrap_err();
            assert_eq!((&differs, &*differs.to_string()), (&ParsedOtherwise::Payload { was_malformed }, said));
        }
        for descriptor in [None, Some("bundles/r/c/bundle.yaml")] {
            let differs = decided(BUNDLE, 0, (false, descriptor), &[Some(3)]);
            assert_eq!(differs, Err(ParsedOtherwise::Descriptor { op: 0 }), "{descriptor:?}");
        }
    }
}

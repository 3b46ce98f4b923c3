//! What an answer says of an operation's idempotency key: until when it counts, and which other operation committed with it.

use tidemark_ingest::{OperationRecord, engine::EngineError};
use tidemark_wal::{Outcome, ParameterSchedule};

use super::api::{KeyAnswer, SameKeyOperation, instant};
use crate::segment::{KeyCommitCache, ManifestView};

/// Of so many operations of one answer other operations with their keys are looked for.
const MAX_LOOKUPS: usize = 100;

/// Answers about the keys of one view's operations.
pub(crate) struct KeyHistory<'a> {
    index: &'a ManifestView,
    /// The log's parameters, where they are known.
    schedule: Option<&'a ParameterSchedule>,
    lookups: usize,
    /// What was read for them.
    known: KeyCommitCache,
}

impl<'a> KeyHistory<'a> {
    /// The keys of the operations that `index` has, which count as `schedule` says.
    pub(crate) fn new(index: &'a ManifestView, schedule: Option<&'a ParameterSchedule>) -> Self {
        Self { index, schedule, lookups: 0, known: KeyCommitCache::default() }
    }

    /// What there is to say of the key of a sealed record.
    pub(crate) fn answer(&mut self, record: &OperationRecord) -> Result<KeyAnswer, EngineError> {
        let (outcome, committed) = (record.decision.outcome, record.token.second());
        let Some(keyed) = record.keyed().filter(|_| matches!(outcome, Outcome::Committed | Outcome::Duplicate)) else {
            return Ok(KeyAnswer::default());
        };
        let is_committed = outcome == Outcome::Committed;
        let expires = self.schedule.filter(|_| is_committed).and_then(|schedule| schedule.key_expires(committed));
        let is_unique = is_committed && self.schedule.is_some_and(counts_forever);
        let same_key = if is_unique || self.lookups >= MAX_LOOKUPS {
            None
        } else {
            self.lookups += 1;
            let neighbors = self.known.neighbors(&keyed, |key| self.index.key_commits(key))?;
            let counted = self.schedule.and_then(|schedule| neighbors.counted_for(keyed.place, schedule));
            let nearest = neighbors.before.or(neighbors.after);
            if is_committed { neighbors.before } else { counted.or(nearest) }
        };
        Ok(KeyAnswer {
            idempotency_key_expires: expires.map(instant),
            same_key: same_key.map(|(token, op)| SameKeyOperation { token, op }),
        })
    }
}

/// Whether no key ever expired.
fn counts_forever(schedule: &ParameterSchedule) -> bool {
    schedule.sets().iter().all(|set| set.parameters.idempotency_retention.is_none())
}

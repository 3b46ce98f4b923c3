//! What a command has read of the commits of a log, by which it tells duplicates and conflicts as an index does.

use std::collections::BTreeMap;

use tidemark_ingest::{
    ExpectationVerdict, LatestCommit, RecordedExpectation, WriterKey, judge_expectation, operation_entity,
};
use tidemark_store::StoreSecond;
use tidemark_wal::{EntryIntent, Outcome, ParameterSchedule, ResolvedEntry, Token};

/// The commits among the entries that were read, which come in the order of their tokens.
#[derive(Debug)]
pub(super) struct ReadCommits {
    /// Where reading began: what is older is not known, and taken for what an intent says of it.
    from: StoreSecond,
    /// The last committed operation of each writer and idempotency key.
    keys: BTreeMap<WriterKey, (Token, usize)>,
    /// The newest committed operation of each entity.
    entities: BTreeMap<String, LatestCommit>,
}

impl ReadCommits {
    /// Nothing was read yet; everything from `from` on will be.
    pub(super) fn since(from: StoreSecond) -> Self {
        Self { from, keys: BTreeMap::new(), entities: BTreeMap::new() }
    }

    /// The outcomes of the operations of the next entry, by the index's rule: a committed one is a duplicate while the key
    /// counts of one that bore it before, and where the intent's expectation does not hold the others are conflicted.
    pub(super) fn decide(&mut self, entry: &ResolvedEntry, schedule: &ParameterSchedule) -> Vec<Outcome> {
        let conflicts = self.conflicts(entry);
        let mut decided = Vec::with_capacity(entry.ops.len());
        for (number, op) in entry.ops.iter().enumerate() {
            let outcome = match op.decision.outcome {
                Outcome::Committed if self.is_duplicate(entry, number, schedule) => Outcome::Duplicate,
                Outcome::Committed if conflicts => Outcome::Conflicted,
                outcome => outcome,
            };
            if outcome == Outcome::Committed {
                self.add(entry, number);
            }
            decided.push(outcome);
        }
        decided
    }

    /// Adds a committed operation.
    fn add(&mut self, entry: &ResolvedEntry, number: usize) {
        let Ok(intent) = &entry.intent else { return };
        if let Some(key) = key_of(intent, number) {
            self.keys.insert(key, (entry.token, number));
        }
        if let Some((entity, claim)) = commit_of(entry, intent, number) {
            let newest = self.entities.entry(entity).or_insert(claim);
            *newest = claim.max(*newest);
        }
    }

    fn is_duplicate(&self, entry: &ResolvedEntry, number: usize, schedule: &ParameterSchedule) -> bool {
        let key = entry.intent.as_ref().ok().and_then(|intent| key_of(intent, number));
        let last = key.and_then(|key| self.keys.get(&key)).filter(|last| **last != (entry.token, number));
        last.is_some_and(|(last, _)| schedule.retains_key(last.second(), entry.token.second()))
    }

    /// Whether what the entry expects does not hold.
    fn conflicts(&self, entry: &ResolvedEntry) -> bool {
        let Ok(intent) = &entry.intent else { return false };
        let Some(expect) = &intent.expect else { return false };
        let newest = self.entities.get(&expect.entity).copied();
        if newest.is_none() && expect.token.is_some_and(|token| token.second() < self.from) {
            return false;
        }
        let own = (0..entry.ops.len()).filter_map(|number| commit_of(entry, intent, number));
        let own = own.filter(|(entity, _)| *entity == expect.entity).map(|(_, claim)| claim).max();
        judge_expectation(&RecordedExpectation::of(expect), newest, own) != ExpectationVerdict::Holds
    }
}

/// The writer and the idempotency key of an operation.
fn key_of(intent: &EntryIntent, number: usize) -> Option<WriterKey> {
    Some(WriterKey { writer: intent.writer.clone().unwrap_or_default(), key: intent.key_of(number)? })
}

/// The entity of an operation with its claim to be the newest commit of it.
fn commit_of(entry: &ResolvedEntry, intent: &EntryIntent, number: usize) -> Option<(String, LatestCommit)> {
    let op = entry.ops.get(number)?;
    let claim = LatestCommit {
        completed: op.decision.completed.unwrap_or(entry.entry_time),
        token: entry.token,
        op: u32::try_from(number).ok()?,
        seq: 0,
    };
    Some((operation_entity(&op.path, intent, number)?, claim))
}

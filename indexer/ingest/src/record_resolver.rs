//! Duplicates, the latest commit of each entity, and whether it is the one that an intent expects: all depend on what came before, so they
//! are resolved in token order against the index and the batch so far.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use tidemark_wal::{Outcome, Token};

use crate::{
    conflict_rule::{ExpectationVerdict, judge_expectation},
    engine::{EngineError, IndexLookup, RecordMarks},
    expectation::ConflictingCommit,
    mutants,
    record::{LatestCommit, OperationRecord, WriterKey},
};

/// The first 16 bytes of a SHA-256: what is remembered of a key, whatever its length.
type KeyDigest = [u8; 16];

/// Remembers what batches have added and the published index does not contain yet.
#[derive(Debug, Default)]
pub(crate) struct RecordResolver {
    latest: BTreeMap<KeyDigest, LatestCommit>,
    first_commits: BTreeMap<KeyDigest, (Token, u32)>,
    /// Records since it was cleared.
    records: u64,
    /// What the index did not answer last.
    unanswered: Option<IndexQuestion>,
}

/// What the index is asked about some records.
#[derive(Debug)]
pub(crate) enum IndexQuestion {
    /// Which operations committed with these keys.
    FirstCommits(Vec<WriterKey>),
    /// The latest commits of these entities.
    LatestCommits(Vec<String>),
}

impl IndexQuestion {
    /// Whether the index answers it; the answer is dropped.
    pub(crate) async fn ask(&self, index: &dyn IndexLookup) -> Result<(), EngineError> {
        match self {
            Self::FirstCommits(keys) => index.first_commits(keys).await.map(drop),
            Self::LatestCommits(entities) => index.latest_commits(entities).await.map(drop),
        }
    }
}

impl RecordResolver {
    /// Decides which of `records` are duplicates and which conflicted, and gives the marks that the committed ones cause. The records have
    /// seqs and come in the order of the log, all that are to be decided of an entry together.
    pub(crate) async fn resolve(
        &mut self,
        records: &mut [OperationRecord],
        index: &dyn IndexLookup,
    ) -> Result<RecordMarks, EngineError> {
        let keys: Vec<_> = records.iter().map(digest_of_key).collect();
        self.load_keys(records, &keys, index).await?;
        // Before it is known which are duplicates: an expectation is judged by what precedes its entry, one entry after the other.
        let entities: Vec<_> = records.iter().map(digest_of_entity).collect();
        self.load_entities(records, &entities, |record| record.entity.clone(), index).await?;
        let expected: Vec<_> = records.iter().map(digest_of_expected).collect();
        self.load_entities(records, &expected, expected_entity, index).await?;
        self.records += records.len() as u64;
        let mut marks = RecordMarks::default();
        let mut begin = 0;
        for entry in records.chunk_by_mut(|one, next| one.token == next.token) {
            let keys = &keys[begin..begin + entry.len()];
            match self.judge_entry(entry) {
                ExpectationVerdict::Holds => {
                    entry.iter_mut().zip(keys).for_each(|(record, key)| self.mark_duplicate(record, *key));
                }
                ExpectationVerdict::Conflicts(found) => {
                    entry.iter_mut().zip(keys).for_each(|(record, key)| self.mark_conflicted(record, *key, found));
                }
            }
            for (record, entity) in entry.iter().zip(&entities[begin..]) {
                self.mark_outdated(record, *entity, &mut marks);
            }
            begin += entry.len();
        }
        Ok(marks)
    }

    /// Gives the marks that the committed ones of `records` cause, whose outcomes were recorded before: none is decided again.
    pub(crate) async fn resolve_entities(
        &mut self,
        records: &[OperationRecord],
        index: &dyn IndexLookup,
    ) -> Result<RecordMarks, EngineError> {
        let entities: Vec<_> = records.iter().map(digest_of_entity).collect();
        self.load_entities(records, &entities, |record| record.entity.clone(), index).await?;
        self.records += records.len() as u64;
        let mut marks = RecordMarks::default();
        for (record, entity) in records.iter().zip(entities) {
            self.mark_outdated(record, entity, &mut marks);
        }
        Ok(marks)
    }

    /// How many records it remembers: of each at most an entity and a key, 150 bytes or so.
    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    /// Forgets all: the index contains it by now, or it was never published.
    pub(crate) fn clear(&mut self) {
        (self.records, self.unanswered) = (0, None);
        self.latest.clear();
        if mutants::forgets_claims() {
            self.first_commits.clear();
        }
    }

    /// What the index did not answer since it was cleared, if anything.
    pub(crate) fn take_unanswered(&mut self) -> Option<IndexQuestion> {
        self.unanswered.take()
    }

    /// Learns from the index which operations committed with the `keys` of `records`.
    async fn load_keys(
        &mut self,
        records: &[OperationRecord],
        keys: &[Option<KeyDigest>],
        index: &dyn IndexLookup,
    ) -> Result<(), EngineError> {
        let committed = records.iter().zip(keys).filter(|(record, _)| record.is_committed());
        let (digests, keys) = unknown(committed, &self.first_commits, OperationRecord::writer_key);
        if keys.is_empty() {
            return Ok(());
        }
        let answers = index.first_commits(&keys).await;
        let answers = answers.inspect_err(|_| self.unanswered = Some(IndexQuestion::FirstCommits(keys)))?;
        let found = digests.into_iter().zip(answers).filter_map(|(digest, place)| Some((digest, place?)));
        self.first_commits.extend(found);
        Ok(())
    }

    /// An operation whose key committed with another operation is a duplicate.
    ///
    /// In the tail the other one's (token, op) is always smaller. A correction whose key a later token has committed is the
    /// duplicate nevertheless: the later one was decided, and perhaps acknowledged, before the correction was seen.
    fn mark_duplicate(&mut self, record: &mut OperationRecord, key: Option<KeyDigest>) {
        let outcome = record.decision.outcome;
        let counts = mutants::claims_key(outcome == Outcome::Committed, outcome);
        let Some(key) = key.filter(|_| counts) else { return };
        let this = (record.token, record.op);
        let first = *self.first_commits.entry(key).or_insert(this);
        if first != this && outcome == Outcome::Committed {
            record.decision.outcome = Outcome::Duplicate;
        }
    }

    /// Whether what the records of an entry expect holds, as far as they would be committed.
    fn judge_entry(&self, entry: &[OperationRecord]) -> ExpectationVerdict {
        let committed = || entry.iter().filter(|record| record.is_committed());
        let Some(expectation) = committed().find_map(|record| record.expectation.as_ref()) else {
            return ExpectationVerdict::Holds;
        };
        let newest = self.latest.get(&digest_of(&[&expectation.entity])).copied();
        let own = committed().filter_map(OperationRecord::entity_commit);
        let own = own.filter(|(entity, _)| *entity == expectation.entity).map(|(_, claim)| claim).max();
        judge_expectation(expectation, newest, own)
    }

    /// An operation whose expectation does not hold is conflicted, unless it is a duplicate, and claims no key.
    fn mark_conflicted(
        &mut self,
        record: &mut OperationRecord,
        key: Option<KeyDigest>,
        found: Option<ConflictingCommit>,
    ) {
        let claim = key.and_then(|key| self.first_commits.get(&key).copied());
        self.mark_duplicate(record, key);
        if !record.is_committed() {
            return;
        }
        record.decision.outcome = Outcome::Conflicted;
        if let Some(expectation) = &mut record.expectation {
            expectation.conflict = found;
            record.reason = Some(expectation.conflict_reason());
        }
        // As it was: the key is not this operation's.
        let Some(key) = key else { return };
        match claim {
            Some(claim) => self.first_commits.insert(key, claim),
            None => self.first_commits.remove(&key),
        };
    }

    /// Learns from the index the latest commits of these `entities` of `records`, each of which `asked` names.
    async fn load_entities(
        &mut self,
        records: &[OperationRecord],
        entities: &[Option<KeyDigest>],
        asked: fn(&OperationRecord) -> Option<String>,
        index: &dyn IndexLookup,
    ) -> Result<(), EngineError> {
        let (digests, entities) = unknown(records.iter().zip(entities), &self.latest, asked);
        if entities.is_empty() {
            return Ok(());
        }
        let answers = index.latest_commits(&entities).await;
        let answers = answers.inspect_err(|_| self.unanswered = Some(IndexQuestion::LatestCommits(entities)))?;
        let found = digests.into_iter().zip(answers).filter_map(|(digest, newest)| Some((digest, newest?)));
        self.latest.extend(found);
        Ok(())
    }

    /// Of two committed operations of one entity, marks the older one.
    fn mark_outdated(&mut self, record: &OperationRecord, entity: Option<KeyDigest>, marks: &mut RecordMarks) {
        let Some(((_, claim), entity)) = record.entity_commit().zip(entity) else { return };
        let newest = self.latest.entry(entity).or_insert(claim);
        if *newest == claim {
            return;
        }
        marks.outdated.insert(claim.min(*newest).seq);
        *newest = claim.max(*newest);
    }
}

/// What the index is asked about `records`, which come with their digests: the digests that are not `known`, each once, with what
/// `asked` makes of a record.
fn unknown<'a, K, A>(
    records: impl Iterator<Item = (&'a OperationRecord, &'a Option<KeyDigest>)>,
    known: &BTreeMap<KeyDigest, K>,
    asked: impl Fn(&OperationRecord) -> Option<A>,
) -> (Vec<KeyDigest>, Vec<A>) {
    let unknown: BTreeMap<KeyDigest, A> = records
        .filter_map(|(record, digest)| Some((record, (*digest)?)))
        .filter(|(_, digest)| !known.contains_key(digest))
        .filter_map(|(record, digest)| Some((digest, asked(record)?)))
        .collect();
    unknown.into_iter().unzip()
}

/// The digest of the record's idempotency key and writer, if it has a key.
fn digest_of_key(record: &OperationRecord) -> Option<KeyDigest> {
    let key = record.idempotency_key.as_deref()?;
    Some(digest_of(&[record.writer.as_deref().unwrap_or_default(), key]))
}

/// The digest of the entity of a committed record.
fn digest_of_entity(record: &OperationRecord) -> Option<KeyDigest> {
    record.entity_commit().map(|(entity, _)| digest_of(&[entity]))
}

/// The digest of the entity that a committed record expects something of.
fn digest_of_expected(record: &OperationRecord) -> Option<KeyDigest> {
    let expectation = record.expectation.as_ref().filter(|_| record.is_committed())?;
    Some(digest_of(&[&expectation.entity]))
}

fn expected_entity(record: &OperationRecord) -> Option<String> {
    record.expectation.as_ref().map(|expectation| expectation.entity.clone())
}

fn digest_of(parts: &[&str]) -> KeyDigest {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let mut digest = KeyDigest::default();
    digest.copy_from_slice(&hasher.finalize()[..16]);
    digest
}

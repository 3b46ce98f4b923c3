//! Duplicates, and the latest commit of each entity: both depend on what came before, so they are resolved in token order
//! against the index and the batch so far.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use tidemark_wal::{Outcome, Token};

use crate::{
    engine::{EngineError, IndexLookup, RecordMarks},
    mutants,
    record::OperationRecord,
    record::{LatestCommit, WriterKey},
};

/// The first 16 bytes of a SHA-256: what a batch remembers of a key, so that a second with millions of entries fits in
/// memory whatever the length of its keys.
type KeyDigest = [u8; 16];

/// Remembers what batches have added and the published index does not contain yet.
#[derive(Debug, Default)]
pub(crate) struct RecordResolver {
    latest: BTreeMap<KeyDigest, LatestCommit>,
    first_commits: BTreeMap<KeyDigest, (Token, u32)>,
}

impl RecordResolver {
    /// Decides which of `records` are duplicates, and gives the marks that the committed ones cause. The records have seqs
    /// and come in the order of the log.
    pub(crate) async fn resolve(
        &mut self,
        records: &mut [OperationRecord],
        index: &dyn IndexLookup,
    ) -> Result<RecordMarks, EngineError> {
        self.load_keys(records, index).await?;
        for record in &mut *records {
            self.mark_duplicate(record);
        }
        self.load_entities(records, index).await?;
        let mut marks = RecordMarks::default();
        for record in &*records {
            self.mark_outdated(record, &mut marks);
        }
        Ok(marks)
    }

    /// Forgets all: the index contains it by now, or it was never published.
    pub(crate) fn clear(&mut self) {
        self.latest.clear();
        if mutants::forgets_claims() {
            self.first_commits.clear();
        }
    }

    /// Learns from the index which operations committed with the keys of `records`.
    async fn load_keys(&mut self, records: &[OperationRecord], index: &dyn IndexLookup) -> Result<(), EngineError> {
        let keys = records.iter().filter(|record| record.is_committed()).filter_map(OperationRecord::writer_key);
        let unknown: BTreeMap<KeyDigest, WriterKey> = keys
            .map(|key| (digest_of_key(&key), key))
            .filter(|(digest, _)| !self.first_commits.contains_key(digest))
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let (digests, keys): (Vec<_>, Vec<_>) = unknown.into_iter().unzip();
        let answers = index.first_commits(&keys).await?;
        let found = digests.into_iter().zip(answers).filter_map(|(digest, place)| Some((digest, place?)));
        self.first_commits.extend(found);
        Ok(())
    }

    /// An operation whose key committed with another operation is a duplicate.
    ///
    /// In the tail the other one's (token, op) is always smaller. A correction whose key a later token has committed is the
    /// duplicate nevertheless: the later one was decided, and perhaps acknowledged, before the correction was seen.
    fn mark_duplicate(&mut self, record: &mut OperationRecord) {
        let outcome = record.decision.outcome;
        let counts = mutants::claims_key(outcome == Outcome::Committed, outcome);
        let Some(key) = record.writer_key().filter(|_| counts) else { return };
        let this = (record.token, record.op);
        let first = *self.first_commits.entry(digest_of_key(&key)).or_insert(this);
        if first != this && outcome == Outcome::Committed {
            record.decision.outcome = Outcome::Duplicate;
        }
    }

    /// Learns from the index the latest commits of the entities of `records`.
    async fn load_entities(&mut self, records: &[OperationRecord], index: &dyn IndexLookup) -> Result<(), EngineError> {
        let entities = records.iter().filter_map(|record| Some(record.entity_commit()?.0));
        let unknown: BTreeMap<KeyDigest, String> = entities
            .map(|entity| (digest_of(&[entity]), entity))
            .filter(|(digest, _)| !self.latest.contains_key(digest))
            .map(|(digest, entity)| (digest, entity.to_owned()))
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let (digests, entities): (Vec<_>, Vec<_>) = unknown.into_iter().unzip();
        let answers = index.latest_commits(&entities).await?;
        let found = digests.into_iter().zip(answers).filter_map(|(digest, newest)| Some((digest, newest?)));
        self.latest.extend(found);
        Ok(())
    }

    /// Of two committed operations of one entity, marks the older one.
    fn mark_outdated(&mut self, record: &OperationRecord, marks: &mut RecordMarks) {
        let Some((entity, claim)) = record.entity_commit() else { return };
        let newest = self.latest.entry(digest_of(&[entity])).or_insert(claim);
        if *newest == claim {
            return;
        }
        marks.outdated.insert(claim.min(*newest).seq);
        *newest = claim.max(*newest);
    }
}

fn digest_of_key(key: &WriterKey) -> KeyDigest {
    digest_of(&[&key.writer, &key.key])
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

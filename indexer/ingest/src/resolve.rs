//! Duplicates and the newest operation of an entity: what is decided in token order, with the index at hand.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use tidemark_store::planted;
use tidemark_wal::{Outcome, Token};

use crate::{
    OperationRecord,
    engine::{EngineError, LatestCommit, Lookup, RecordMarks, WriterKey},
};

/// The first 16 bytes of a SHA-256: what a batch remembers of a key, so that a second with millions of entries fits in
/// memory whatever the length of its keys.
type Print = [u8; 16];

/// What one batch has added so far and the index does not show yet.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    newest: BTreeMap<Print, LatestCommit>,
    first: BTreeMap<Print, (Token, u32)>,
}

impl Resolver {
    /// Decides which of `records`, whose seqs are set and which come in the order of the log, are duplicates, and gives
    /// the marks that follow from the committed ones.
    pub(crate) async fn resolve(
        &mut self,
        records: &mut [OperationRecord],
        index: &dyn Lookup,
    ) -> Result<RecordMarks, EngineError> {
        self.ask_keys(records, index).await?;
        for record in &mut *records {
            self.settle_duplicate(record);
        }
        self.ask_entities(records, index).await?;
        let mut marks = RecordMarks::default();
        for record in &*records {
            self.mark_outdated(record, &mut marks);
        }
        Ok(marks)
    }

    /// Forgets what the index shows by now, or what was never published.
    pub(crate) fn forget(&mut self) {
        self.newest.clear();
        if !planted::planted(planted::Fault::LateMakesDuplicate) {
            self.first.clear();
        }
    }

    /// Learns from the index which operations committed with the keys of `records`.
    async fn ask_keys(&mut self, records: &[OperationRecord], index: &dyn Lookup) -> Result<(), EngineError> {
        let keys = records.iter().filter(|record| record.is_committed()).filter_map(OperationRecord::writer_key);
        let unknown: BTreeMap<Print, WriterKey> =
            keys.map(|key| (print_of_key(&key), key)).filter(|(print, _)| !self.first.contains_key(print)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let (prints, keys): (Vec<_>, Vec<_>) = unknown.into_iter().unzip();
        let answers = index.first_commits(&keys).await?;
        let found = prints.into_iter().zip(answers).filter_map(|(print, place)| Some((print, place?)));
        self.first.extend(found);
        Ok(())
    }

    /// An operation whose key committed with another operation is a duplicate.
    ///
    /// In the tail the other one's (token, op) is always smaller. A correction that finds its key committed by a later token
    /// is the duplicate all the same: that one was decided, and perhaps acknowledged, before this one was seen.
    fn settle_duplicate(&mut self, record: &mut OperationRecord) {
        let outcome = record.decision.outcome;
        let counts = outcome == Outcome::Committed
            || outcome == Outcome::Late && planted::planted(planted::Fault::LateMakesDuplicate);
        let Some(key) = record.writer_key().filter(|_| counts) else { return };
        let this = (record.token, record.op);
        let first = *self.first.entry(print_of_key(&key)).or_insert(this);
        if first != this && outcome == Outcome::Committed {
            record.decision.outcome = Outcome::Duplicate;
        }
    }

    /// Learns from the index the newest operations of the entities of `records`.
    async fn ask_entities(&mut self, records: &[OperationRecord], index: &dyn Lookup) -> Result<(), EngineError> {
        let entities = records.iter().filter_map(|record| Some(record.entity_commit()?.0));
        let unknown: BTreeMap<Print, String> = entities
            .map(|entity| (print_of(&[entity]), entity))
            .filter(|(print, _)| !self.newest.contains_key(print))
            .map(|(print, entity)| (print, entity.to_owned()))
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let (prints, entities): (Vec<_>, Vec<_>) = unknown.into_iter().unzip();
        let answers = index.latest_commits(&entities).await?;
        let found = prints.into_iter().zip(answers).filter_map(|(print, newest)| Some((print, newest?)));
        self.newest.extend(found);
        Ok(())
    }

    /// Of two committed operations of one entity, marks the older one.
    fn mark_outdated(&mut self, record: &OperationRecord, marks: &mut RecordMarks) {
        let Some((entity, claim)) = record.entity_commit() else { return };
        let newest = self.newest.entry(print_of(&[entity])).or_insert(claim);
        if *newest == claim {
            return;
        }
        marks.outdated.insert(claim.min(*newest).seq);
        *newest = claim.max(*newest);
    }
}

fn print_of_key(key: &WriterKey) -> Print {
    print_of(&[&key.writer, &key.key])
}

fn print_of(parts: &[&str]) -> Print {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let mut print = Print::default();
    print.copy_from_slice(&hasher.finalize()[..16]);
    print
}

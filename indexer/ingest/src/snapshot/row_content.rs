//! What a row of an archive says of an operation, compared with the index's record of it.

use sha2::{Digest as _, Sha256};
use tidemark_catalog::{BodyDigest, Generation};

use super::log_archive::SettledRecord;
use crate::record::OperationRecord;

/// SHA-256 of all that rows say, in their order. What is parsed from the bytes that they hold is left out: it follows from those.
#[derive(Clone, Default)]
pub(super) struct ContentDigest {
    hasher: Sha256,
    /// The row that is written just now.
    buffer: Vec<u8>,
}

impl ContentDigest {
    /// Adds the row after the last one.
    pub(super) fn insert(&mut self, row: &SettledRecord) -> serde_json::Result<()> {
        self.buffer.clear();
        write_content(&mut self.buffer, &row.generation, &row.record)?;
        self.hasher.update((self.buffer.len() as u64).to_be_bytes());
        self.hasher.update(&self.buffer);
        self.hasher.update(row.large_descriptor.as_deref().map(Sha256::digest).unwrap_or_default());
        Ok(())
    }

    /// 64 hexadecimal digits.
    pub(super) fn finish(self) -> String {
        hex::encode(self.hasher.finalize())
    }
}

/// Writes all that a record says whose seq is one of `generation`.
fn write_content(buffer: &mut Vec<u8>, generation: &Generation, record: &OperationRecord) -> serde_json::Result<()> {
    // By name, so that no field is forgotten.
    let OperationRecord { seq, token, op, kind, decision, entity, repo, bundle, label, context, .. } = record;
    let OperationRecord { diamond, split, path, message, contributors, client_time, size, body, .. } = record;
    let OperationRecord { descriptor_body, leaf_size, count, writer, idempotency_key, reason, files, .. } = record;
    // What follows from the bytes, and what an archive does not keep.
    let OperationRecord { payload: _, descriptor: _, text: _, was_unreadable: _, .. } = record;
    let descriptor = descriptor_body.as_ref().map(|body| BodyDigest::of(&body.0));
    let judged = (generation, seq, token, op, kind, decision, size, body.bytes().is_some(), body.digest(), descriptor);
    let named = (entity, repo, bundle, label, context, diamond, split, path);
    let said = (message, contributors, client_time, files, leaf_size, count, writer, idempotency_key, reason);
    serde_json::to_writer(buffer, &(judged, named, said))
}

/// In what a row differs from the record that `generation` has of its operation; `None`: they say the same.
///
/// A row of another generation has a seq of that one. Its names were parsed by then, perhaps by an earlier release.
pub(super) fn difference(
    row: &SettledRecord,
    record: &OperationRecord,
    generation: &Generation,
) -> Option<&'static str> {
    let (archived, is_own) = (&row.record, row.generation == *generation);
    [
        ("outcome", archived.decision.outcome == record.decision.outcome),
        ("body", archived.body == record.body && archived.size == record.size),
        ("evidence or store times", archived.decision == record.decision),
        ("descriptor", archived.descriptor_body == record.descriptor_body && has_seen_descriptor(row, record)),
        ("seq", !is_own || archived.seq == record.seq),
        ("names", !is_own || has_content_of(row, record)),
    ]
    .into_iter()
    .find_map(|(what, is_same)| (!is_same).then_some(what))
}

/// Whether the bytes of a descriptor that is too large for a record are those that were seen, where the row has them.
fn has_seen_descriptor(row: &SettledRecord, record: &OperationRecord) -> bool {
    let Some(large) = &row.large_descriptor else { return true };
    let digest = BodyDigest::of(large).to_string();
    record.decision.observations.iter().any(|seen| seen.digest == digest)
}

fn has_content_of(row: &SettledRecord, record: &OperationRecord) -> bool {
    let content = |record| {
        let mut content = Vec::new();
        write_content(&mut content, &row.generation, record).is_ok().then_some(content)
    };
    content(&row.record).is_some_and(|archived| content(record) == Some(archived))
}

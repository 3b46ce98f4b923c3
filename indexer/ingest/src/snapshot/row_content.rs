//! What a row of an archive says of an operation, compared with the index's record of it.

use serde::{Serialize, Serializer};
use serde_json::Value;
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
    // The last of which an archive does not keep.
    let OperationRecord { payload, descriptor, text, expectation, was_unreadable: _, .. } = record;
    let seen = descriptor_body.as_ref().map(|body| BodyDigest::of(&body.0));
    let judged = (generation, seq, token, op, kind, decision, size, body.bytes().is_some(), body.digest(), seen);
    // What follows from bytes that stand here is left out; the records of an entry's further operations have the digest alone.
    let body_stands = body.bytes().is_some();
    let payload = (!body_stands).then_some(ExactValue(payload));
    let text = text.as_ref().filter(|_| !body_stands);
    let descriptor = descriptor_body.is_none().then_some(ExactValue(descriptor));
    let named = (entity, repo, bundle, label, context, diamond, split, path);
    let said =
        (message, contributors, client_time, files, leaf_size, count, writer, idempotency_key, reason, expectation);
    serde_json::to_writer(buffer, &(judged, named, said, (payload, descriptor, text)))
}

/// A value without its fractions: each time that one is parsed its last digit may change.
struct ExactValue<'a>(&'a Value);

impl Serialize for ExactValue<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Number(number) if number.is_f64() => serializer.serialize_unit(),
            Value::Array(values) => serializer.collect_seq(values.iter().map(ExactValue)),
            Value::Object(members) => {
                serializer.collect_map(members.iter().map(|(name, value)| (name, ExactValue(value))))
            }
            value => value.serialize(serializer),
        }
    }
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

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidemark_store::StoreSecond;
    use tidemark_wal::Token;

    use super::*;

    fn content(record: &Value) -> Vec<u8> {
        let mut content = Vec::new();
        let record: OperationRecord = serde_json::from_value(record.clone()).unwrap();
        write_content(&mut content, &Generation::first(), &record).unwrap();
        content
    }

    #[test]
    fn what_no_bytes_of_a_snapshot_row_say_is_part_of_its_content() {
        let second = StoreSecond::from_unix(1_800_000_000);
        let plain = json!({
            "seq": 7, "token": Token::first_of(second), "op": 1, "kind": "entry", "size": 9,
            "decision": {"outcome": "committed", "entryTime": second},
            "body": {"sha256": "0".repeat(64)}, "payload": {"a": 1, "b": [0.1]}, "descriptor": {"id": "x"}, "text": "t",
        });
        for (place, other) in
            [("/payload/a", json!(2)), ("/payload/b", json!([])), ("/descriptor/id", json!("y")), ("/text", json!("u"))]
        {
            let mut edited = plain.clone();
            *edited.pointer_mut(place).unwrap() = other;
            assert_ne!(content(&edited), content(&plain), "{place}");
        }
        let mut parsed_again = plain.clone();
        parsed_again["payload"]["b"][0] = json!(0.1_f64.next_up());
        assert_eq!(content(&parsed_again), content(&plain));
    }
}

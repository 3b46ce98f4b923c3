//! Records as Tantivy documents.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tantivy::{
    DateTime, TantivyDocument,
    schema::{Field, Value as _},
};
use tidemark_store::StoreSecond;
use tidemark_wal::Token;

use super::schema::SchemaFields;
use tidemark_ingest::{OperationRecord, WriterKey};

/// Longest text that is indexed as one exact term. Longer ones are indexed by a digest, see [`term_text`].
const MAX_TERM_BYTES: usize = 1024;
/// How deep payloads are indexed; what lies deeper is stored, but not searchable.
const MAX_INDEXED_DEPTH: usize = 32;
/// Longest name of a payload's attribute that is indexed.
const MAX_NAME_BYTES: usize = 256;

/// Why a stored document cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("a stored record cannot be read: {0}")]
pub(crate) struct RecordDecodeError(String);

/// The document of a record, whose JSON is `stored`.
pub(crate) fn to_document(fields: &SchemaFields, record: &OperationRecord, stored: &[u8]) -> TantivyDocument {
    let mut doc = to_unstored(fields, record);
    doc.add_bytes(fields.record, stored);
    doc
}

/// The document of a record that is kept elsewhere: searchable, but not stored.
pub(crate) fn to_unstored(fields: &SchemaFields, record: &OperationRecord) -> TantivyDocument {
    let mut doc = TantivyDocument::default();
    add_position(&mut doc, fields, record);
    add_names(&mut doc, fields, record);
    add_descriptor(&mut doc, fields, record);
    add_json(&mut doc, fields.payload, &record.payload);
    add_json(&mut doc, fields.descriptor, &record.descriptor);
    doc
}

/// The record that a stored document holds, or a part of it.
pub(crate) fn from_document<T: DeserializeOwned>(
    fields: &SchemaFields,
    doc: &TantivyDocument,
) -> Result<T, RecordDecodeError> {
    let bytes = doc
        .get_first(fields.record)
        .and_then(|value| value.as_bytes())
        .ok_or_else(|| RecordDecodeError("the document has none".to_owned()))?;
    serde_json::from_slice(bytes).map_err(|e| RecordDecodeError(e.to_string()))
}

/// The first eight bytes of a token as a number: tokens and these numbers sort alike.
pub(crate) fn token_sort_key(token: &Token) -> u64 {
    token.as_bytes()[..8].iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

/// The second of a token with that sort key.
pub(crate) fn second_of_sort_key(sort_key: u64) -> StoreSecond {
    StoreSecond::from_unix(StoreSecond::KSUID_EPOCH.unix() + (sort_key >> 32))
}

/// The term that stands for `text` in an exact field: `text` itself, or its start with a digest when it is long.
pub(crate) fn term_text(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_TERM_BYTES {
        return Cow::Borrowed(text);
    }
    let start: String = text.chars().take(64).collect();
    Cow::Owned(format!("{start}...{}", hex::encode(Sha256::digest(text))))
}

/// Writer and idempotency key as one term. The length keeps (`ab`, `c`) and (`a`, `bc`) apart.
pub(crate) fn writer_key(WriterKey { writer, key }: &WriterKey) -> String {
    term_text(&format!("{}:{writer}{key}", writer.len())).into_owned()
}

fn date(second: StoreSecond) -> DateTime {
    DateTime::from_timestamp_secs(i64::try_from(second.unix()).unwrap_or(i64::MAX / 1_000_000_000))
}

fn add_position(doc: &mut TantivyDocument, fields: &SchemaFields, record: &OperationRecord) {
    doc.add_text(fields.token, record.token.to_string());
    doc.add_u64(fields.order, token_sort_key(&record.token));
    doc.add_u64(fields.op, u64::from(record.op));
    doc.add_u64(fields.seq, record.seq);
    doc.add_date(fields.time, date(record.token.second()));
    doc.add_date(fields.entry_time, date(record.decision.entry_time));
    doc.add_text(fields.kind, record.kind.as_str());
    doc.add_text(fields.outcome, record.decision.outcome.as_str());
    if let Some(evidence) = record.decision.evidence {
        doc.add_text(fields.evidence, evidence.as_str());
    }
    if let Some(completed) = record.decision.completed {
        doc.add_date(fields.completed, date(completed));
    }
    doc.add_u64(fields.size, record.size);
}

fn add_names(doc: &mut TantivyDocument, fields: &SchemaFields, record: &OperationRecord) {
    let exact = [
        (fields.repo, &record.repo),
        (fields.bundle, &record.bundle),
        (fields.label, &record.label),
        (fields.context, &record.context),
        (fields.diamond, &record.diamond),
        (fields.split, &record.split),
        (fields.entity, &record.entity),
        (fields.writer, &record.writer),
        (fields.idempotency_key, &record.idempotency_key),
    ];
    for (field, value) in exact {
        if let Some(value) = value {
            doc.add_text(field, term_text(value));
        }
    }
    for value in [&record.repo, &record.label, &record.context].into_iter().flatten() {
        doc.add_text(fields.names, value);
    }
    if let Some(path) = &record.path {
        doc.add_text(fields.path, path);
    }
    if let Some(key) = record.writer_key() {
        doc.add_text(fields.writer_key, writer_key(&key));
    }
}

fn add_descriptor(doc: &mut TantivyDocument, fields: &SchemaFields, record: &OperationRecord) {
    for contributor in &record.contributors {
        let (name, email) = (contributor.name.as_str(), contributor.email.as_str());
        doc.add_text(fields.contributor, term_text(if name.is_empty() { email } else { name }));
        doc.add_text(fields.email, term_text(email));
        doc.add_text(fields.contributors, format!("{name} {email}"));
    }
    let texts = [(fields.message, &record.message), (fields.text, &record.text), (fields.reason, &record.reason)];
    for (field, text) in texts {
        if let Some(text) = text {
            doc.add_text(field, text);
        }
    }
    if let Some(time) = record.client_time {
        doc.add_date(fields.client_time, date(StoreSecond::floor(time)));
    }
    for (field, number) in [(fields.leaf_size, record.leaf_size), (fields.count, record.count)] {
        if let Some(number) = number {
            doc.add_u64(field, number);
        }
    }
}

/// Adds what can be indexed of `value`; a value that is not an object becomes the attribute `value` of one.
fn add_json(doc: &mut TantivyDocument, field: Field, value: &Value) {
    match indexable(value, MAX_INDEXED_DEPTH) {
        None => {}
        Some(object) if object.is_object() => doc.add_field_value(field, object.as_ref()),
        Some(other) => {
            let object = Value::Object(Map::from_iter([("value".to_owned(), other.into_owned())]));
            doc.add_field_value(field, &object);
        }
    }
}

/// `value` without what is too deep or too long to be indexed; nothing is copied when all of it can be.
fn indexable(value: &Value, depth: usize) -> Option<Cow<'_, Value>> {
    match value {
        Value::Null => None,
        _ if fits(value, depth) => Some(Cow::Borrowed(value)),
        Value::Array(items) if depth > 0 => {
            let kept = items.iter().filter_map(|item| indexable(item, depth - 1));
            Some(Cow::Owned(kept.map(Cow::into_owned).collect()))
        }
        Value::Object(attributes) if depth > 0 => {
            let named = attributes.iter().filter(|(name, _)| name.len() <= MAX_NAME_BYTES);
            let kept = named.filter_map(|(name, item)| Some((name.clone(), indexable(item, depth - 1)?.into_owned())));
            Some(Cow::Owned(Value::Object(kept.collect())))
        }
        _ => None,
    }
}

fn fits(value: &Value, depth: usize) -> bool {
    match value {
        Value::Array(items) => depth > 0 && items.iter().all(|item| fits(item, depth - 1)),
        Value::Object(attributes) => {
            depth > 0 && attributes.iter().all(|(name, item)| name.len() <= MAX_NAME_BYTES && fits(item, depth - 1))
        }
        _ => true,
    }
}

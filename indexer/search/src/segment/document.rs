//! Records as Tantivy documents.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tantivy::{DateTime, TantivyDocument, schema::Value as _};
use tidemark_store::StoreSecond;

use super::{
    attributes::{add_attributes, entry_text},
    schema::SchemaFields,
    token_columns::{token_rest, token_sort_key},
};
use tidemark_ingest::{OperationRecord, WriterKey};
use tidemark_wal::OperationKind;

/// Longest text that is indexed as one exact term. Longer ones are indexed by a digest, see [`term_text`].
const MAX_TERM_BYTES: usize = 1024;
/// The last second of Tantivy's dates, in the year 2262; the first one is its negative.
pub(crate) const LAST_DATE_SECOND: i64 = i64::MAX / 1_000_000_000;

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
    add_field_names(&mut doc, fields);
    add_attributes(&mut doc, fields.payload, fields.payload_columns, &record.payload);
    add_attributes(&mut doc, fields.descriptor, fields.descriptor_columns, &record.descriptor);
    #[cfg(test)]
    if let (Some(field), Some(path)) = (fields.path_length, &record.path) {
        doc.add_u64(field, path.len() as u64);
    }
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

/// The bundles that a bundle names as its parents.
pub(crate) fn parents_of(record: &OperationRecord) -> impl Iterator<Item = &str> {
    let parents = record.descriptor.get("parents").and_then(serde_json::Value::as_array).into_iter().flatten();
    parents.filter_map(serde_json::Value::as_str)
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
    let second = i64::try_from(second.unix()).unwrap_or(i64::MAX);
    DateTime::from_timestamp_secs(second.min(LAST_DATE_SECOND))
}

fn add_position(doc: &mut TantivyDocument, fields: &SchemaFields, record: &OperationRecord) {
    doc.add_text(fields.token, record.token.to_string());
    let (middle, end) = token_rest(&record.token);
    doc.add_u64(fields.order, token_sort_key(&record.token));
    doc.add_u64(fields.order_middle, middle);
    doc.add_u64(fields.order_end, end);
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

/// What a query reads that asks whether a field is there, in the place of all its terms.
fn add_field_names(doc: &mut TantivyDocument, fields: &SchemaFields) {
    for field in fields.named() {
        if doc.get_first(field).is_some() {
            doc.add_text(fields.field_names, fields.schema.get_field_name(field));
        }
    }
}

fn add_descriptor(doc: &mut TantivyDocument, fields: &SchemaFields, record: &OperationRecord) {
    for contributor in &record.contributors {
        let (name, email) = (contributor.name.as_str(), contributor.email.as_str());
        doc.add_text(fields.contributor, term_text(if name.is_empty() { email } else { name }));
        doc.add_text(fields.email, term_text(email));
        doc.add_text(fields.contributors, format!("{name} {email}"));
    }
    let said = Some(&record.payload)
        .filter(|_| record.kind == OperationKind::Entry)
        .map(|payload| entry_text(payload, usize::MAX));
    if let Some(said) = said.filter(|said| !said.is_empty()) {
        doc.add_text(fields.text, said);
    }
    for name in record.files.iter().flat_map(|files| &files.names) {
        doc.add_text(fields.file, term_text(name));
        doc.add_text(fields.files, name);
    }
    for parent in parents_of(record) {
        doc.add_text(fields.parents, term_text(parent));
    }
    if let Some(message) = &record.message {
        doc.add_text(fields.message_words, message);
    }
    let texts = [(fields.message, &record.message), (fields.text, &record.text), (fields.reason, &record.reason)];
    for (field, text) in texts {
        if let Some(text) = text {
            doc.add_text(field, text);
        }
    }
    if let Some(time) = record.client_time {
        doc.add_i64(fields.client_time, time.as_second());
    }
    for (field, number) in [(fields.leaf_size, record.leaf_size), (fields.count, record.count)] {
        if let Some(number) = number {
            doc.add_u64(field, number);
        }
    }
}

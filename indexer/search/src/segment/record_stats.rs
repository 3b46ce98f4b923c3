//! What the records in a segment object are, from the records themselves: nothing is taken over from what it was made of.

use std::sync::Arc;

use roaring::RoaringTreemap;
use serde::Deserialize;
use tantivy::{SegmentReader, TantivyDocument, directory::FileSlice, store::StoreReader};
use tidemark_catalog::SetElement;
use tidemark_ingest::{EntryBody, engine::RecordStats};
use tidemark_store::StoreSecond;
use tidemark_wal::{Evidence, Outcome, Token};

use super::{bundle::SegmentBundle, directory::open_index, document::from_document, schema::SchemaFields};

/// Blocks of stored records that are kept decompressed: they are read once, in order.
const CACHED_STORE_BLOCKS: usize = 1;

/// What a set digest and the counts are made of: a part of a stored record. Nothing of the body is parsed for it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StoredOutcome {
    pub(crate) token: Token,
    pub(crate) op: u32,
    pub(crate) decision: StoredDecision,
    #[serde(default)]
    pub(crate) body: EntryBody,
}

/// What was decided, without what it rests on.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StoredDecision {
    pub(crate) outcome: Outcome,
    pub(crate) evidence: Option<Evidence>,
    pub(crate) entry_time: StoreSecond,
}

/// The stats of each of `parts` of the segment in `object`, which are counts of records that follow one another. Blocks.
pub(crate) fn record_stats(
    object: FileSlice,
    fields: &SchemaFields,
    parts: &[u64],
) -> Result<Vec<RecordStats>, Box<dyn std::error::Error + Send + Sync>> {
    let store = stored_records(object, fields)?;
    let mut documents = store.iter::<TantivyDocument>(None);
    let mut found = Vec::with_capacity(parts.len());
    for part in parts {
        let mut stats = RecordStats::default();
        for document in documents.by_ref().take(usize::try_from(*part)?) {
            let (element, entry_time) = element_of(fields, &document?)?;
            stats.insert(&element, entry_time);
        }
        found.push(stats);
    }
    Ok(found)
}

/// The stats of all records of the segment in `object`, whose first seq is `first_seq`, and of those in each of `groups`. Blocks.
pub(crate) fn grouped_record_stats(
    object: FileSlice,
    fields: &SchemaFields,
    first_seq: u64,
    groups: &[RoaringTreemap],
) -> Result<Vec<RecordStats>, Box<dyn std::error::Error + Send + Sync>> {
    let store = stored_records(object, fields)?;
    let records = (first_seq..).zip(store.iter::<TantivyDocument>(None)).map(|(seq, document)| {
        let (element, entry_time) = element_of(fields, &document?)?;
        Ok((seq, element, entry_time))
    });
    RecordStats::by_group(records, groups)
}

/// The stored records of the segment in `object`, in order.
fn stored_records(
    object: FileSlice,
    fields: &SchemaFields,
) -> Result<StoreReader, Box<dyn std::error::Error + Send + Sync>> {
    let bundle = SegmentBundle::open(object, fields)?;
    let index = open_index(&Arc::new(bundle), fields)?;
    let segment = index.searchable_segments()?.into_iter().next().ok_or("it holds no segment")?;
    Ok(SegmentReader::open(&segment)?.get_store_reader(CACHED_STORE_BLOCKS)?)
}

/// What a set digest says of a stored record, and the store time of its entry.
fn element_of(
    fields: &SchemaFields,
    document: &TantivyDocument,
) -> Result<(SetElement, StoreSecond), Box<dyn std::error::Error + Send + Sync>> {
    let StoredOutcome { token, op, decision, body } = from_document(fields, document)?;
    let StoredDecision { outcome, evidence, entry_time } = decision;
    Ok((SetElement { token, op, outcome, evidence, body: body.digest() }, entry_time))
}

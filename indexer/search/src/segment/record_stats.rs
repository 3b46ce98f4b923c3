//! What the records in a segment object are, from the records themselves: nothing is taken over from what it was made of.

use std::sync::Arc;

use serde::Deserialize;
use tantivy::{Index, SegmentReader, TantivyDocument, directory::FileSlice};
use tidemark_ingest::engine::RecordStats;
use tidemark_wal::{Evidence, Outcome, Token};

use super::{bundle::SegmentBundle, directory::BundleDirectory, document::from_document, schema::SchemaFields};

/// Blocks of stored records that are kept decompressed: they are read once, in order.
const CACHED_STORE_BLOCKS: usize = 1;

/// What a set digest and the counts are made of: a part of a stored record.
#[derive(Deserialize)]
struct StoredOutcome {
    token: Token,
    op: u32,
    decision: StoredDecision,
}

#[derive(Deserialize)]
struct StoredDecision {
    outcome: Outcome,
    evidence: Option<Evidence>,
}

/// The stats of each of `parts` of the segment in `object`, which are counts of records that follow one another. Blocks.
pub(crate) fn record_stats(
    object: FileSlice,
    fields: &SchemaFields,
    parts: &[u64],
) -> Result<Vec<RecordStats>, Box<dyn std::error::Error + Send + Sync>> {
    let bundle = SegmentBundle::open(object)?;
    let index = Index::open(BundleDirectory::new(Arc::new(bundle)))?;
    let segment = index.searchable_segments()?.into_iter().next().ok_or("it holds no segment")?;
    let store = SegmentReader::open(&segment)?.get_store_reader(CACHED_STORE_BLOCKS)?;
    let mut documents = store.iter::<TantivyDocument>(None);
    let mut found = Vec::with_capacity(parts.len());
    for part in parts {
        let mut stats = RecordStats::default();
        for document in documents.by_ref().take(usize::try_from(*part)?) {
            let StoredOutcome { token, op, decision } = from_document(fields, &document?)?;
            stats.insert(token, op, decision.outcome, decision.evidence);
        }
        found.push(stats);
    }
    Ok(found)
}

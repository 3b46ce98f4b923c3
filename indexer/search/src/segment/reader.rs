//! One open segment.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use tantivy::{
    BitSet, DateTime, DocId, DocSet, SegmentReader, TERMINATED, TantivyDocument, Term,
    columnar::Column,
    directory::OwnedBytes,
    fastfield::{AliveBitSet, write_alive_bitset},
    schema::{Field, IndexRecordOption},
    store::StoreReader,
};
use tidemark_catalog::SegmentMeta;
use tidemark_store::StoreSecond;
use tidemark_wal::Outcome;

use super::{
    bundle::SegmentBundle,
    cached_segment::CachedSegment,
    directory::open_index,
    document::from_document,
    footer::BundleError,
    record_stats::StoredOutcome,
    schema::SchemaFields,
    term_filter::{self, FilterKind},
    token_columns::{TokenColumns, second_of_sort_key},
};
use tidemark_ingest::{
    LatestCommit, OperationRecord,
    engine::{EngineError, RecordPlace},
};

/// Blocks of stored records that a segment on the disk keeps decompressed: 16 KiB each, more where a record is larger.
const CACHED_STORE_BLOCKS: usize = 8;
/// The same of a segment that is read by ranges. There are ever more of those as an index grows.
const CACHED_REMOTE_BLOCKS: usize = 1;

/// An open segment. Its documents are its records by seq: document 0 has the segment's first seq, and none is left out.
pub(crate) struct OpenSegment {
    /// What the manifest says of it.
    pub(crate) of: SegmentMeta,
    /// Its format, which may be older than that of the fields.
    pub(crate) format: u32,
    pub(crate) fields: Arc<SchemaFields>,
    tantivy: tantivy::Segment,
    /// All documents, corrected ones included.
    pub(crate) reader: SegmentReader,
    store: StoreReader,
    pub(crate) op: Column<u64>,
    pub(crate) tokens: TokenColumns,
    entry_time: Column<DateTime>,
    completed: Column<DateTime>,
    outcome: Column<u64>,
    outcomes: Vec<Option<Outcome>>,
    filter: OwnedBytes,
    /// Keeps the file in the disk cache: a file that is in use is not evicted.
    cached: CachedSegment,
}

impl OpenSegment {
    /// Opens the segment in `cached`. Blocks.
    pub(crate) fn open(
        of: &SegmentMeta,
        fields: &Arc<SchemaFields>,
        cached: CachedSegment,
    ) -> Result<Self, EngineError> {
        let damaged = |why: String| EngineError::Damaged { key: of.key.clone(), why };
        let bundle = SegmentBundle::open(cached.file().clone(), fields).map_err(|e| match e {
            BundleError::OtherFormat { found } => {
                EngineError::OtherFormat { key: of.key.clone(), found, known: fields.format }
            }
            other => damaged(other.to_string()),
        })?;
        if bundle.format() != of.format {
            let (found, named) = (bundle.format(), of.format);
            return Err(damaged(format!("it has format {found}, the manifest says {named}")));
        }
        if bundle.documents() != of.documents || of.documents != of.seq.end.saturating_sub(of.seq.start) {
            return Err(damaged(format!(
                "it holds {} records, the manifest says {} with seqs {:?}",
                bundle.documents(),
                of.documents,
                of.seq
            )));
        }
        let open = Self::from_bundle(of, fields, &Arc::new(bundle), cached).map_err(|e| damaged(e.to_string()))?;
        open.cached.end_opening();
        Ok(open)
    }

    fn from_bundle(
        of: &SegmentMeta,
        fields: &Arc<SchemaFields>,
        bundle: &Arc<SegmentBundle>,
        cached: CachedSegment,
    ) -> tantivy::Result<Self> {
        let index = open_index(bundle, fields)?;
        let one = index.searchable_segments()?.into_iter().next();
        let tantivy = one.ok_or_else(|| tantivy::TantivyError::InvalidArgument("it holds no segment".to_owned()))?;
        let reader = SegmentReader::open(&tantivy)?;
        let (outcomes, outcome) = outcomes(&reader)?;
        let cached_blocks = if cached.is_local() { CACHED_STORE_BLOCKS } else { CACHED_REMOTE_BLOCKS };
        Ok(Self {
            of: of.clone(),
            format: bundle.format(),
            fields: fields.clone(),
            store: reader.get_store_reader(cached_blocks)?,
            op: reader.fast_fields().u64("op")?,
            tokens: TokenColumns::open(&reader)?,
            entry_time: reader.fast_fields().date("entryTime")?,
            completed: reader.fast_fields().date("completed")?,
            outcome,
            outcomes,
            filter: bundle.filter().read_bytes()?,
            reader,
            tantivy,
            cached,
        })
    }

    /// Whether the whole object is on the local disk.
    pub(crate) fn is_local(&self) -> bool {
        self.cached.is_local()
    }

    /// Whether the disk had no room for what is held of a segment that is read by ranges.
    #[cfg(test)]
    pub(crate) fn lacked_room(&self) -> bool {
        self.cached.lacked_room()
    }

    /// Tantivy's segment, for merging.
    pub(crate) fn tantivy(&self) -> &tantivy::Segment {
        &self.tantivy
    }

    /// The seq of a document.
    pub(crate) fn seq(&self, doc: DocId) -> u64 {
        self.of.seq.start + u64::from(doc)
    }

    /// The document with that seq, `None` if it lies in another segment.
    pub(crate) fn doc(&self, seq: u64) -> Option<DocId> {
        let within = seq.checked_sub(self.of.seq.start)?;
        (seq < self.of.seq.end).then(|| DocId::try_from(within).ok()).flatten()
    }

    pub(crate) fn outcome(&self, doc: DocId) -> Option<Outcome> {
        let code = self.outcome.first(doc)?;
        *self.outcomes.get(usize::try_from(code).ok()?)?
    }

    pub(crate) fn op(&self, doc: DocId) -> u32 {
        self.op.first(doc).and_then(|op| u32::try_from(op).ok()).unwrap_or(0)
    }

    /// The later of the token's second and the entry's store time.
    pub(crate) fn announced(&self, doc: DocId) -> StoreSecond {
        second_of_sort_key(self.tokens.sort_key(doc)).max(self.entry_time(doc))
    }

    /// The entry's store time.
    pub(crate) fn entry_time(&self, doc: DocId) -> StoreSecond {
        self.entry_time.first(doc).map_or(StoreSecond::default(), second_of)
    }

    /// What the operation has to be the newest committed one of its entity.
    pub(crate) fn commit(&self, doc: DocId) -> LatestCommit {
        let completed = self.completed.first(doc).map_or_else(|| self.entry_time(doc), second_of);
        LatestCommit { completed, token: self.tokens.token(doc), op: self.op(doc), seq: self.seq(doc) }
    }

    /// The stored record. Its seq is that of the document: a builder may have stored an earlier number.
    pub(crate) fn record(&self, doc: DocId) -> Result<OperationRecord, EngineError> {
        let mut record: OperationRecord = self.stored(doc)?;
        record.seq = self.seq(doc);
        Ok(record)
    }

    /// Which operation the document is of, from the columns alone.
    pub(crate) fn place(&self, doc: DocId) -> Result<RecordPlace, EngineError> {
        let outcome = self.outcome(doc).ok_or_else(|| self.damaged(&"a record has no outcome"))?;
        Ok(RecordPlace { token: self.tokens.token(doc), op: self.op(doc), seq: self.seq(doc), outcome })
    }

    /// What was decided, as the stored record says.
    pub(crate) fn stored_outcome(&self, doc: DocId) -> Result<StoredOutcome, EngineError> {
        self.stored(doc)
    }

    fn stored<T: DeserializeOwned>(&self, doc: DocId) -> Result<T, EngineError> {
        let stored: TantivyDocument = self.store.get(doc).map_err(|e| self.damaged(&e))?;
        from_document(&self.fields, &stored).map_err(|e| self.damaged(&e))
    }

    /// Whether the segment may hold the term.
    pub(crate) fn might_contain(&self, asked: FilterKind, term: &str) -> bool {
        term_filter::might_contain(&self.filter, asked, term)
    }

    /// Whether the segment may hold the term of a query.
    pub(crate) fn might_contain_term(&self, term: &Term) -> bool {
        let kind = FilterKind::of(term.field(), &self.fields);
        let value = term.value();
        kind.zip(value.as_str()).is_none_or(|(kind, text)| self.might_contain(kind, text))
    }

    /// The documents with a term, ascending, corrected ones included.
    pub(crate) fn docs_with(&self, field: Field, term: &str) -> Result<Vec<DocId>, EngineError> {
        docs_with(&self.reader, field, term).map_err(|e| self.damaged(&e))
    }

    /// A reader that leaves out the documents with these seqs. Shares everything with this segment.
    pub(crate) fn reader_without(&self, hidden: impl Iterator<Item = u64>) -> Result<SegmentReader, EngineError> {
        let mut alive = BitSet::with_max_value_and_full(self.reader.max_doc());
        for doc in hidden.filter_map(|seq| self.doc(seq)) {
            alive.remove(doc);
        }
        let mut bytes = Vec::new();
        write_alive_bitset(&alive, &mut bytes).map_err(|e| self.damaged(&e))?;
        let alive = AliveBitSet::open(OwnedBytes::new(bytes));
        SegmentReader::open_with_custom_alive_set(&self.tantivy, Some(alive)).map_err(|e| self.damaged(&e))
    }

    pub(crate) fn damaged(&self, why: &impl ToString) -> EngineError {
        EngineError::Damaged { key: self.of.key.clone(), why: why.to_string() }
    }
}

fn second_of(date: DateTime) -> StoreSecond {
    StoreSecond::from_unix(u64::try_from(date.into_timestamp_secs()).unwrap_or(0))
}

/// The outcomes by their ordinal in this segment, and the column of ordinals.
fn outcomes(reader: &SegmentReader) -> tantivy::Result<(Vec<Option<Outcome>>, Column<u64>)> {
    let Some(column) = reader.fast_fields().str("outcome")? else {
        return Ok((Vec::new(), Column::build_empty_column(reader.max_doc())));
    };
    let mut outcomes = Vec::new();
    for ord in 0..column.num_terms() as u64 {
        let mut name = String::new();
        column.ord_to_str(ord, &mut name)?;
        outcomes.push(Outcome::ALL.into_iter().find(|outcome| outcome.as_str() == name));
    }
    Ok((outcomes, column.ords().clone()))
}

/// The documents with a term, ascending, whether they are shown or not.
pub(crate) fn docs_with(reader: &SegmentReader, field: Field, term: &str) -> tantivy::Result<Vec<DocId>> {
    let index = reader.inverted_index(field)?;
    let postings = index.read_postings(&Term::from_field_text(field, term), IndexRecordOption::Basic)?;
    let mut docs = Vec::new();
    if let Some(mut postings) = postings {
        while postings.doc() != TERMINATED {
            docs.push(postings.doc());
            postings.advance();
        }
    }
    Ok(docs)
}

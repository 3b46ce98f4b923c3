//! The unsealed tail of the log in memory: what is not below the served manifest's cursor.
//!
//! Entries lie in small Tantivy segments in memory, a new one for each batch. An entry that is read again, because
//! its descriptors were not complete, moves to a newer segment. A segment shows only the documents that are still its own, so
//! that nothing is seen twice; segments are compacted by building them again when they become many.
//!
//! What does not fit is left out, the oldest first: it will be sealed soonest. An entry that a request asked for by its token
//! stays, whatever its age.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use tantivy::{
    BitSet, DocId, Index, SegmentReader, TantivyDocument,
    directory::{OwnedBytes, RamDirectory},
    fastfield::{AliveBitSet, write_alive_bitset},
};
use tidemark_catalog::LogCursor;
use tidemark_ingest::{OperationRecord, engine::EngineError};
use tidemark_store::StoreSecond;
use tidemark_wal::{MemoryShare, Outcome, Token};

use crate::segment::{SchemaFields, TokenColumns, docs_with, refused, to_unstored, tokenizers};

/// Memory that the builder of a segment starts with.
const WRITER_MEMORY_BYTES: usize = 1 << 20;
/// How many entries that requests asked for stay whatever their age.
const MAX_REQUESTED: usize = 64;
/// The first number of documents of the overlay: above every seq.
const FIRST_NUMBER: u64 = 1 << 62;

/// Bounds on what the overlay holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TailIndexLimits {
    pub(crate) documents: u64,
    pub(crate) bytes: u64,
}

/// Operations that are searched together.
pub(crate) struct OverlaySegment {
    pub(crate) reader: SegmentReader,
    pub(crate) tokens: TokenColumns,
    pub(crate) first: Token,
    pub(crate) last: Token,
    /// The number of its first document; no other document of the view has it.
    pub(crate) number: u64,
    tantivy: tantivy::Segment,
    records: Arc<Vec<Arc<OperationRecord>>>,
}

impl OverlaySegment {
    pub(crate) fn record(&self, doc: DocId) -> Result<OperationRecord, EngineError> {
        let record = usize::try_from(doc).ok().and_then(|at| self.records.get(at));
        let why = || failed(&format!("document {doc} has no record"));
        record.map(|record| OperationRecord::clone(record)).ok_or_else(why)
    }

    /// The documents of an entity by its term, those too that moved to a newer segment.
    pub(crate) fn docs_of_entity(&self, term: &str) -> Result<Vec<DocId>, EngineError> {
        let entity = self.reader.schema().get_field("entity").map_err(|e| failed(&e))?;
        docs_with(&self.reader, entity, term).map_err(|e| failed(&e))
    }

    /// The documents of an entry that are still shown.
    pub(crate) fn docs_of(&self, fields: &SchemaFields, token: &Token) -> Result<Vec<DocId>, EngineError> {
        if *token < self.first || *token > self.last {
            return Ok(Vec::new());
        }
        let docs = docs_with(&self.reader, fields.token, &token.to_string()).map_err(|e| failed(&e))?;
        let shown = |doc: &DocId| self.reader.alive_bitset().is_none_or(|alive| alive.is_alive(*doc));
        Ok(docs.into_iter().filter(shown).collect())
    }
}

/// The tail of the log as segments in memory. One task changes it; views share its segments.
pub(crate) struct TailIndex {
    fields: Arc<SchemaFields>,
    limits: TailIndexLimits,
    entries: BTreeMap<Token, OverlayEntry>,
    segments: Vec<Arc<OverlaySegment>>,
    next_number: u64,
    /// Entries below are in a manifest.
    cursor: LogCursor,
    documents: u64,
    bytes: u64,
    /// How many entries the log has beyond the cursor, by their second.
    listed: BTreeMap<StoreSecond, u64>,
    /// The newest entry that was left out for lack of room. Nothing older is taken.
    left_out: Option<Token>,
    /// What requests asked for by token, the last ones.
    requested: VecDeque<Token>,
}

struct OverlayEntry {
    records: Vec<Arc<OperationRecord>>,
    bytes: u64,
    /// The number of its first document in the segment that shows it.
    number: u64,
    complete: bool,
}

/// An entry as it was read.
pub(crate) struct TailEntry {
    pub(crate) token: Token,
    pub(crate) records: Vec<OperationRecord>,
    /// Whether its descriptors were all there, so that it need not be read again.
    pub(crate) complete: bool,
    /// What the records are charged to until the overlay counts them.
    pub(crate) memory: MemoryShare,
}

impl TailIndex {
    pub(crate) fn new(fields: &Arc<SchemaFields>, limits: TailIndexLimits) -> Self {
        Self {
            fields: fields.clone(),
            limits,
            entries: BTreeMap::new(),
            segments: Vec::new(),
            next_number: FIRST_NUMBER,
            cursor: LogCursor::default(),
            documents: 0,
            bytes: 0,
            listed: BTreeMap::new(),
            left_out: None,
            requested: VecDeque::new(),
        }
    }

    /// Forgets everything: another generation is served, whose cursor may lie further back.
    pub(crate) fn reset(&mut self) {
        *self = Self { next_number: self.next_number, ..Self::new(&self.fields, self.limits) };
    }

    /// The segments that queries run over.
    pub(crate) fn segments(&self) -> &[Arc<OverlaySegment>] {
        &self.segments
    }

    pub(crate) fn documents(&self) -> u64 {
        self.documents
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Entries that the log has beyond the cursor and that are not here, for lack of room or because they are not read yet.
    pub(crate) fn left_out(&self) -> u64 {
        self.listed.values().sum::<u64>().saturating_sub(self.entries.len() as u64)
    }

    /// Whether to read an entry that the log has.
    pub(crate) fn wants(&self, token: &Token) -> bool {
        !self.is_left_out(token) && !self.entries.contains_key(token)
    }

    /// Whether there is no room for an entry, because there was none for a newer one.
    pub(crate) fn is_left_out(&self, token: &Token) -> bool {
        self.left_out.is_some_and(|left_out| *token <= left_out)
    }

    /// Most entries that may be here, as far as that is known before they are read.
    pub(crate) fn max_entries(&self) -> usize {
        usize::try_from(self.limits.documents).unwrap_or(usize::MAX)
    }

    /// Learns how many entries each second from `from` on has.
    pub(crate) fn set_listed(&mut self, from: StoreSecond, listed: BTreeMap<StoreSecond, u64>) {
        self.listed.split_off(&from);
        self.listed.extend(listed);
        self.listed = self.listed.split_off(&self.cursor.second());
    }

    /// The oldest entry that waits to be sealed.
    pub(crate) fn oldest(&self) -> Option<Token> {
        self.entries.keys().next().copied()
    }

    /// Entries whose descriptors were not all there.
    pub(crate) fn incomplete(&self) -> impl Iterator<Item = Token> {
        self.entries.iter().filter(|(_, entry)| !entry.complete).map(|(token, _)| *token)
    }

    /// Removes what a manifest covers. Blocks for a moment.
    pub(crate) fn seal(&mut self, cursor: LogCursor) -> Result<(), EngineError> {
        self.cursor = self.cursor.max(cursor);
        let first = Token::first_of(cursor.second());
        let open = self.entries.split_off(&first);
        let sealed = std::mem::replace(&mut self.entries, open);
        self.listed = self.listed.split_off(&cursor.second());
        if sealed.is_empty() {
            return Ok(());
        }
        for entry in sealed.values() {
            self.subtract(entry.records.len(), entry.bytes);
        }
        self.refresh_segments()
    }

    /// As [`TailIndex::add`], for an entry that a request asked for by its token.
    pub(crate) fn add_requested(&mut self, entry: TailEntry) -> Result<(), EngineError> {
        self.requested.push_back(entry.token);
        if self.requested.len() > MAX_REQUESTED {
            self.requested.pop_front();
        }
        self.add(vec![entry])
    }

    /// Adds entries, or replaces what was known of them, and leaves out the oldest ones that do not fit. Skips entries that
    /// are sealed by now. Blocks for a moment.
    pub(crate) fn add(&mut self, mut entries: Vec<TailEntry>) -> Result<(), EngineError> {
        entries.retain(|entry| !self.cursor.covers(entry.token));
        let (mut added, mut moved, mut charged) = (BTreeSet::new(), false, Vec::new());
        for TailEntry { token, records, complete, memory } in entries {
            let records: Vec<_> = records.into_iter().map(|record| Arc::new(pending(record))).collect();
            let bytes = records.iter().map(|record| memory_bytes(record)).sum();
            if let Some(before) = self.entries.remove(&token) {
                self.subtract(before.records.len(), before.bytes);
                moved |= !added.contains(&token);
            }
            self.documents += records.len() as u64;
            self.bytes += bytes;
            self.entries.insert(token, OverlayEntry { records, bytes, number: 0, complete });
            added.insert(token);
            charged.push(memory);
        }
        moved |= self.make_room(&mut added);
        let mut documents = Vec::new();
        for token in &added {
            if let Some(entry) = self.entries.get_mut(token) {
                entry.number = self.next_number + documents.len() as u64;
                documents.extend(entry.records.iter().cloned());
            }
        }
        if !documents.is_empty() {
            self.append(documents)?;
        }
        if moved {
            self.refresh_segments()?;
        }
        self.compact_small()
    }

    /// Leaves entries out until the others fit; one alone stays whatever its size. Gives whether one of them is in a segment,
    /// which those that are just being `added` are not.
    fn make_room(&mut self, added: &mut BTreeSet<Token>) -> bool {
        let mut moved = false;
        while self.entries.len() > 1 && (self.documents > self.limits.documents || self.bytes > self.limits.bytes) {
            let oldest = self.entries.keys().find(|token| !self.requested.contains(token)).copied();
            if let Some(oldest) = oldest {
                self.left_out = self.left_out.max(Some(oldest));
            }
            let Some(token) = oldest.or_else(|| self.requested.pop_front()) else { break };
            if let Some(entry) = self.entries.remove(&token) {
                self.subtract(entry.records.len(), entry.bytes);
                moved |= !added.remove(&token);
            }
        }
        moved
    }

    fn subtract(&mut self, documents: usize, bytes: u64) {
        self.documents -= documents as u64;
        self.bytes -= bytes;
    }

    fn append(&mut self, records: Vec<Arc<OperationRecord>>) -> Result<(), EngineError> {
        let count = records.len() as u64;
        let segment = build(&self.fields, records, self.next_number).map_err(|e| failed(&e))?;
        self.next_number += count;
        self.segments.push(Arc::new(segment));
        Ok(())
    }

    /// Makes every segment show only the documents that it still owns.
    fn refresh_segments(&mut self) -> Result<(), EngineError> {
        let mut segments = Vec::new();
        for segment in std::mem::take(&mut self.segments) {
            segments.extend(self.shown(segment).map_err(|e| failed(&e))?);
        }
        self.segments = segments;
        Ok(())
    }

    /// Compacts the two newest segments while the older one is at most twice as large, so that there are few.
    fn compact_small(&mut self) -> Result<(), EngineError> {
        let size = |segment: &OverlaySegment| u64::from(segment.reader.num_docs());
        while let [.., older, newer] = &self.segments[..]
            && size(older) <= 2 * size(newer)
        {
            let numbered = self.owned(older).into_iter().chain(self.owned(newer)).collect::<Vec<_>>();
            self.segments.truncate(self.segments.len() - 2);
            let mut records = Vec::with_capacity(numbered.len());
            for (number, record) in numbered {
                if let Some(entry) = self.entries.get_mut(&record.token).filter(|entry| entry.number == number) {
                    entry.number = self.next_number + records.len() as u64;
                }
                records.push(record);
            }
            self.append(records)?;
        }
        Ok(())
    }

    /// The records that a segment shows, with their numbers.
    fn owned(&self, segment: &OverlaySegment) -> Vec<(u64, Arc<OperationRecord>)> {
        let numbered = (segment.number..).zip(segment.records.iter());
        let owned = numbered.filter(|(number, record)| self.owns(record, *number));
        owned.map(|(number, record)| (number, record.clone())).collect()
    }

    /// The segment without the documents that moved to a newer one; `None` if none is left.
    fn shown(&self, segment: Arc<OverlaySegment>) -> tantivy::Result<Option<Arc<OverlaySegment>>> {
        let mut alive = BitSet::with_max_value_and_full(segment.reader.max_doc());
        let mut left = 0;
        for (record, doc) in segment.records.iter().zip(0..) {
            if self.owns(record, segment.number + u64::from(doc)) {
                left += 1;
            } else {
                alive.remove(doc);
            }
        }
        if left == 0 {
            return Ok(None);
        }
        if left == segment.reader.num_docs() {
            return Ok(Some(segment));
        }
        let mut bytes = Vec::new();
        write_alive_bitset(&alive, &mut bytes)?;
        let alive = AliveBitSet::open(OwnedBytes::new(bytes));
        Ok(Some(Arc::new(OverlaySegment {
            reader: SegmentReader::open_with_custom_alive_set(&segment.tantivy, Some(alive))?,
            tokens: segment.tokens.clone(),
            first: segment.first,
            last: segment.last,
            number: segment.number,
            tantivy: segment.tantivy.clone(),
            records: segment.records.clone(),
        })))
    }

    fn owns(&self, record: &OperationRecord, number: u64) -> bool {
        let entry = self.entries.get(&record.token);
        entry.is_some_and(|entry| number >= entry.number && number < entry.number + entry.records.len() as u64)
    }
}

fn build(fields: &SchemaFields, records: Vec<Arc<OperationRecord>>, number: u64) -> tantivy::Result<OverlaySegment> {
    let builder = Index::builder().schema(fields.schema.clone()).tokenizers(tokenizers());
    let mut writer =
        builder.single_segment_index_writer::<TantivyDocument>(RamDirectory::create(), WRITER_MEMORY_BYTES)?;
    for record in &records {
        writer.add_document(to_unstored(fields, record))?;
    }
    let index = writer.finalize()?;
    let segment = index.searchable_segments()?.into_iter().next();
    let segment = segment.ok_or_else(|| tantivy::TantivyError::InternalError("no segment was built".to_owned()))?;
    let reader = SegmentReader::open(&segment)?;
    let tokens = || records.iter().map(|record| record.token);
    Ok(OverlaySegment {
        tokens: TokenColumns::open(&reader)?,
        first: tokens().min().unwrap_or_else(|| Token::from_bytes([0; 20])),
        last: tokens().max().unwrap_or_else(|| Token::from_bytes([0; 20])),
        number,
        reader,
        tantivy: segment,
        records: Arc::new(records),
    })
}

/// Everything in the overlay is pending, whatever the outcome rule says at this moment: only a manifest decides.
fn pending(mut record: OperationRecord) -> OperationRecord {
    record.decision.outcome = Outcome::Pending;
    record.decision.evidence = None;
    record
}

/// Approximate bytes of memory that a record takes with its index: twice its texts, and its columns.
fn memory_bytes(record: &OperationRecord) -> u64 {
    let texts = [&record.message, &record.text, &record.path, &record.entity, &record.reason];
    let texts: usize = texts.into_iter().flatten().map(String::len).sum();
    1024 + record.memory_bytes() + 2 * texts as u64
}

fn failed(why: &impl ToString) -> EngineError {
    refused("keep the unsealed tail", why)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use tidemark_wal::MemoryBudget;

    use super::*;
    use crate::segment::testing::{BEGIN, plain, token};

    #[derive(Clone, Debug)]
    enum OverlayStep {
        Add(Vec<(u64, u32, u32)>),
        Seal(u64),
        Reset,
    }

    fn step() -> impl Strategy<Value = OverlayStep> {
        let entries = vec((0u64..20, 0u32..3, 1u32..4), 1..8);
        prop_oneof![
            8 => entries.prop_map(OverlayStep::Add),
            2 => (0u64..20).prop_map(OverlayStep::Seal),
            1 => Just(OverlayStep::Reset),
        ]
    }

    fn shown(overlay: &TailIndex) -> Vec<(Token, u32)> {
        let mut shown = Vec::new();
        for segment in overlay.segments() {
            let alive = |doc: &u32| segment.reader.alive_bitset().is_none_or(|alive| alive.is_alive(*doc));
            for doc in (0..segment.reader.max_doc()).filter(alive) {
                let record = segment.record(doc).unwrap();
                assert!(segment.docs_of(&overlay.fields, &record.token).unwrap().contains(&doc));
                shown.push((record.token, record.op));
            }
        }
        shown.sort_unstable();
        shown
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn every_open_operation_is_shown_once(steps in vec(step(), 1..20)) {
            let fields = Arc::new(SchemaFields::current());
            let mut overlay = TailIndex::new(&fields, TailIndexLimits { documents: 1000, bytes: 1 << 30 });
            let mut naive: BTreeMap<Token, u32> = BTreeMap::new();
            let mut cursor = LogCursor::default();
            for step in steps {
                match step {
                    OverlayStep::Add(entries) => {
                        let entries: BTreeMap<Token, u32> =
                            entries.into_iter().map(|(second, n, ops)| (token(second, n), ops)).collect();
                        let read = entries.iter().map(|(token, ops)| {
                            let records = (0..*ops).map(|op| OperationRecord { op, ..plain(*token) }).collect();
                            TailEntry { token: *token, records, complete: false, memory: MemoryBudget::new(0).open() }
                        });
                        overlay.add(read.collect()).unwrap();
                        naive.extend(entries.into_iter().filter(|(token, _)| !cursor.covers(*token)));
                    }
                    OverlayStep::Reset => {
                        cursor = LogCursor::default();
                        overlay.reset();
                        naive.clear();
                    }
                    OverlayStep::Seal(second) => {
                        cursor = cursor.max(LogCursor(StoreSecond::from_unix(BEGIN + second)));
                        overlay.seal(cursor).unwrap();
                        naive.retain(|token, _| !cursor.covers(*token));
                    }
                }
                let wanted: Vec<_> = naive.iter().flat_map(|(token, ops)| (0..*ops).map(|op| (*token, op))).collect();
                prop_assert_eq!(shown(&overlay), wanted.clone());
                prop_assert_eq!(overlay.documents(), wanted.len() as u64);
                prop_assert_eq!(overlay.oldest(), naive.keys().next().copied());
                prop_assert!(overlay.segments().len() <= 8);
            }
        }
    }
}

//! The unsealed tail of the log in memory: what is not below the served manifest's cursor.
//!
//! Entries lie in small Tantivy segments in memory, a new one for each round of news. An entry that is read again, because
//! its descriptors were not complete, moves to a newer part. A part shows only the documents that are still its own, so
//! that nothing is seen twice; parts are merged by building them again when they become many.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tantivy::{
    BitSet, DocId, Index, SegmentReader, TantivyDocument,
    columnar::Column,
    directory::{OwnedBytes, RamDirectory},
    fastfield::{AliveBitSet, write_alive_bitset},
};
use tidemark_catalog::Cursor;
use tidemark_wal::{Outcome, Token};

use crate::index::{Fields, docs_with, to_unstored, tokenizers};
use tidemark_ingest::{OperationRecord, engine::EngineError};

/// Memory that the builder of a part starts with.
const BUDGET: usize = 1 << 20;
/// How many entries that were not taken are counted one by one.
const MOST_DROPPED: usize = 1_000_000;
/// The first number of documents of the overlay: above every seq.
const FIRST_NUMBER: u64 = 1 << 62;

/// How much the overlay may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) documents: u64,
    pub(crate) bytes: u64,
}

/// Operations that are searched together.
pub(crate) struct OverlayPart {
    pub(crate) reader: SegmentReader,
    pub(crate) order: Column<u64>,
    pub(crate) first: Token,
    pub(crate) last: Token,
    /// The number of its first document; no other document of the view has it.
    pub(crate) number: u64,
    segment: tantivy::Segment,
    records: Arc<Vec<Arc<OperationRecord>>>,
}

impl OverlayPart {
    pub(crate) fn record(&self, doc: DocId) -> Result<OperationRecord, EngineError> {
        let record = usize::try_from(doc).ok().and_then(|at| self.records.get(at));
        let why = || refused(&format!("document {doc} has no record"));
        record.map(|record| OperationRecord::clone(record)).ok_or_else(why)
    }

    /// The documents of an entry that are still shown.
    pub(crate) fn docs_of(&self, fields: &Fields, token: &Token) -> Result<Vec<DocId>, EngineError> {
        if *token < self.first || *token > self.last {
            return Ok(Vec::new());
        }
        let docs = docs_with(&self.reader, fields.token, &token.to_string()).map_err(|e| refused(&e))?;
        let shown = |doc: &DocId| self.reader.alive_bitset().is_none_or(|alive| alive.is_alive(*doc));
        Ok(docs.into_iter().filter(shown).collect())
    }
}

/// Everything that is known of the tail. One task changes it; views share its parts.
pub(crate) struct Overlay {
    fields: Arc<Fields>,
    bounds: Bounds,
    entries: BTreeMap<Token, Entry>,
    parts: Vec<Arc<OverlayPart>>,
    next_number: u64,
    /// What lies below is a manifest's.
    cursor: Cursor,
    documents: u64,
    bytes: u64,
    /// Entries that were not taken for want of room and that no manifest covers yet.
    dropped: BTreeSet<Token>,
}

struct Entry {
    records: Vec<Arc<OperationRecord>>,
    bytes: u64,
    /// The number of its first document in the part that shows it.
    number: u64,
    complete: bool,
}

/// An entry as it was read.
pub(crate) struct News {
    pub(crate) token: Token,
    pub(crate) records: Vec<OperationRecord>,
    /// Whether reading it again could not tell more.
    pub(crate) complete: bool,
}

impl Overlay {
    pub(crate) fn new(fields: &Arc<Fields>, bounds: Bounds) -> Self {
        Self {
            fields: fields.clone(),
            bounds,
            entries: BTreeMap::new(),
            parts: Vec::new(),
            next_number: FIRST_NUMBER,
            cursor: Cursor::default(),
            documents: 0,
            bytes: 0,
            dropped: BTreeSet::new(),
        }
    }

    /// The parts as they are to be searched.
    pub(crate) fn parts(&self) -> &[Arc<OverlayPart>] {
        &self.parts
    }

    pub(crate) fn documents(&self) -> u64 {
        self.documents
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.len() as u64
    }

    pub(crate) fn contains(&self, token: &Token) -> bool {
        self.entries.contains_key(token)
    }

    /// The oldest entry that waits to be sealed.
    pub(crate) fn oldest(&self) -> Option<Token> {
        self.entries.keys().next().copied()
    }

    /// Entries whose descriptors were not all there.
    pub(crate) fn incomplete(&self) -> impl Iterator<Item = Token> {
        self.entries.iter().filter(|(_, entry)| !entry.complete).map(|(token, _)| *token)
    }

    /// For how many more entries there is room, as far as that can be told before they are read.
    pub(crate) fn room(&self) -> usize {
        let full = self.bytes >= self.bounds.bytes;
        let left = if full { 0 } else { self.bounds.documents.saturating_sub(self.documents) };
        usize::try_from(left).unwrap_or(usize::MAX)
    }

    /// Counts an entry that there was no room for.
    pub(crate) fn drop_entry(&mut self, token: Token) {
        if self.dropped.len() < MOST_DROPPED {
            self.dropped.insert(token);
        }
    }

    /// Leaves out what a manifest covers. Blocks for a moment.
    pub(crate) fn seal(&mut self, cursor: Cursor) -> Result<(), EngineError> {
        self.cursor = self.cursor.max(cursor);
        let first = Token::first_of(cursor.second());
        let open = self.entries.split_off(&first);
        let sealed = std::mem::replace(&mut self.entries, open);
        self.dropped = self.dropped.split_off(&first);
        if sealed.is_empty() {
            return Ok(());
        }
        for entry in sealed.values() {
            self.forget(entry.records.len(), entry.bytes);
        }
        self.settle()
    }

    /// Takes in entries, in place of what was known of them; leaves out what is sealed by now, and what there is no room
    /// for. Blocks for a moment.
    pub(crate) fn add(&mut self, mut news: Vec<News>) -> Result<(), EngineError> {
        news.retain(|news| !self.cursor.covers(news.token));
        let mut added = Vec::new();
        let mut moved = false;
        for News { token, records, complete } in news {
            let records: Vec<_> = records.into_iter().map(|record| Arc::new(pending(record))).collect();
            let bytes = records.iter().map(|record| weight(record)).sum();
            if !self.entries.contains_key(&token) && !self.fits(records.len(), bytes) {
                self.drop_entry(token);
                continue;
            }
            self.dropped.remove(&token);
            if let Some(before) = self.entries.remove(&token) {
                self.forget(before.records.len(), before.bytes);
                moved = true;
            }
            self.documents += records.len() as u64;
            self.bytes += bytes;
            let number = self.next_number + added.len() as u64;
            added.extend(records.iter().cloned());
            self.entries.insert(token, Entry { records, bytes, number, complete });
        }
        if added.is_empty() {
            return Ok(());
        }
        self.append(added)?;
        if moved {
            self.settle()?;
        }
        self.compact()
    }

    fn fits(&self, documents: usize, bytes: u64) -> bool {
        self.documents + documents as u64 <= self.bounds.documents && self.bytes + bytes <= self.bounds.bytes
    }

    fn forget(&mut self, documents: usize, bytes: u64) {
        self.documents -= documents as u64;
        self.bytes -= bytes;
    }

    fn append(&mut self, records: Vec<Arc<OperationRecord>>) -> Result<(), EngineError> {
        let count = records.len() as u64;
        let part = build(&self.fields, records, self.next_number).map_err(|e| refused(&e))?;
        self.next_number += count;
        self.parts.push(Arc::new(part));
        Ok(())
    }

    /// Makes every part show what is still its own.
    fn settle(&mut self) -> Result<(), EngineError> {
        let mut parts = Vec::new();
        for part in std::mem::take(&mut self.parts) {
            parts.extend(self.shown(part).map_err(|e| refused(&e))?);
        }
        self.parts = parts;
        Ok(())
    }

    /// Builds the newest parts into one as long as the older of two is not more than twice as large.
    fn compact(&mut self) -> Result<(), EngineError> {
        let size = |part: &OverlayPart| u64::from(part.reader.num_docs());
        while let [.., older, newer] = &self.parts[..]
            && size(older) <= 2 * size(newer)
        {
            let numbered = self.owned(older).into_iter().chain(self.owned(newer)).collect::<Vec<_>>();
            self.parts.truncate(self.parts.len() - 2);
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

    /// The records that a part shows, with their numbers.
    fn owned(&self, part: &OverlayPart) -> Vec<(u64, Arc<OperationRecord>)> {
        let numbered = (part.number..).zip(part.records.iter());
        let owned = numbered.filter(|(number, record)| self.owns(record, *number));
        owned.map(|(number, record)| (number, record.clone())).collect()
    }

    /// The part without what moved on; `None` if nothing is left of it.
    fn shown(&self, part: Arc<OverlayPart>) -> tantivy::Result<Option<Arc<OverlayPart>>> {
        let mut alive = BitSet::with_max_value_and_full(part.reader.max_doc());
        let mut left = 0;
        for (record, doc) in part.records.iter().zip(0..) {
            if self.owns(record, part.number + u64::from(doc)) {
                left += 1;
            } else {
                alive.remove(doc);
            }
        }
        if left == 0 {
            return Ok(None);
        }
        if left == part.reader.num_docs() {
            return Ok(Some(part));
        }
        let mut bytes = Vec::new();
        write_alive_bitset(&alive, &mut bytes)?;
        let alive = AliveBitSet::open(OwnedBytes::new(bytes));
        Ok(Some(Arc::new(OverlayPart {
            reader: SegmentReader::open_with_custom_alive_set(&part.segment, Some(alive))?,
            order: part.order.clone(),
            first: part.first,
            last: part.last,
            number: part.number,
            segment: part.segment.clone(),
            records: part.records.clone(),
        })))
    }

    fn owns(&self, record: &OperationRecord, number: u64) -> bool {
        let entry = self.entries.get(&record.token);
        entry.is_some_and(|entry| number >= entry.number && number < entry.number + entry.records.len() as u64)
    }
}

fn build(fields: &Fields, records: Vec<Arc<OperationRecord>>, number: u64) -> tantivy::Result<OverlayPart> {
    let builder = Index::builder().schema(Fields::schema().0).tokenizers(tokenizers());
    let mut writer = builder.single_segment_index_writer::<TantivyDocument>(RamDirectory::create(), BUDGET)?;
    for record in &records {
        writer.add_document(to_unstored(fields, record))?;
    }
    let index = writer.finalize()?;
    let segment = index.searchable_segments()?.into_iter().next();
    let segment = segment.ok_or_else(|| tantivy::TantivyError::InternalError("no segment was built".to_owned()))?;
    let reader = SegmentReader::open(&segment)?;
    let tokens = || records.iter().map(|record| record.token);
    Ok(OverlayPart {
        order: reader.fast_fields().u64("order")?,
        first: tokens().min().unwrap_or_else(|| Token::from_bytes([0; 20])),
        last: tokens().max().unwrap_or_else(|| Token::from_bytes([0; 20])),
        number,
        reader,
        segment,
        records: Arc::new(records),
    })
}

/// Nothing in the overlay is decided, whatever the rule would say at this moment.
fn pending(mut record: OperationRecord) -> OperationRecord {
    record.decision.outcome = Outcome::Pending;
    record.decision.evidence = None;
    record
}

/// About how many bytes of memory a record takes with its index.
fn weight(record: &OperationRecord) -> u64 {
    let text = [&record.message, &record.text, &record.path, &record.entity, &record.reason];
    let text: usize = text.into_iter().flatten().map(String::len).sum();
    1024 + 3 * (text as u64 + record.size + record.descriptor.to_string().len() as u64)
}

fn refused(why: &impl ToString) -> EngineError {
    EngineError::Refused { what: "keep the unsealed tail".to_owned(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use tidemark_store::StoreSecond;

    use super::*;
    use crate::index::testing::{BEGIN, plain, token};

    #[derive(Clone, Debug)]
    enum Step {
        Add(Vec<(u64, u32, u32)>),
        Seal(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let entries = vec((0u64..20, 0u32..3, 1u32..4), 1..8);
        prop_oneof![4 => entries.prop_map(Step::Add), 1 => (0u64..20).prop_map(Step::Seal)]
    }

    fn shown(overlay: &Overlay) -> Vec<(Token, u32)> {
        let mut shown = Vec::new();
        for part in overlay.parts() {
            let alive = |doc: &u32| part.reader.alive_bitset().is_none_or(|alive| alive.is_alive(*doc));
            for doc in (0..part.reader.max_doc()).filter(alive) {
                let record = part.record(doc).unwrap();
                assert!(part.docs_of(&overlay.fields, &record.token).unwrap().contains(&doc));
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
            let fields = Arc::new(Fields::schema().1);
            let mut overlay = Overlay::new(&fields, Bounds { documents: 1000, bytes: 1 << 30 });
            let mut naive: BTreeMap<Token, u32> = BTreeMap::new();
            let mut cursor = Cursor::default();
            for step in steps {
                match step {
                    Step::Add(entries) => {
                        let entries: BTreeMap<Token, u32> =
                            entries.into_iter().map(|(second, n, ops)| (token(second, n), ops)).collect();
                        let news = entries.iter().map(|(token, ops)| {
                            let records = (0..*ops).map(|op| OperationRecord { op, ..plain(*token) }).collect();
                            News { token: *token, records, complete: false }
                        });
                        overlay.add(news.collect()).unwrap();
                        naive.extend(entries.into_iter().filter(|(token, _)| !cursor.covers(*token)));
                    }
                    Step::Seal(second) => {
                        cursor = cursor.max(Cursor(StoreSecond::from_unix(BEGIN + second)));
                        overlay.seal(cursor).unwrap();
                        naive.retain(|token, _| !cursor.covers(*token));
                    }
                }
                let wanted: Vec<_> = naive.iter().flat_map(|(token, ops)| (0..*ops).map(|op| (*token, op))).collect();
                prop_assert_eq!(shown(&overlay), wanted.clone());
                prop_assert_eq!(overlay.documents(), wanted.len() as u64);
                prop_assert_eq!(overlay.oldest(), naive.keys().next().copied());
                prop_assert!(overlay.parts().len() <= 8);
            }
        }
    }
}

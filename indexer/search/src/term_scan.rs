//! Reads what lies between two keys of a segment's dictionary, [`CHUNK_TERMS`] at a time, so that a segment in the store takes
//! little memory, and the documents of what was read. The deadline is checked between chunks and between terms.

use std::{io, ops::Bound};

use tantivy::{
    DocId, index::InvertedIndexReader, postings::TermInfo, schema::IndexRecordOption, termdict::TermStreamer,
};

use super::scan_budget::{DOCS_PER_DEADLINE_CHECK, ScanBudget};

/// Terms of a dictionary that are read at once, about 20 KiB.
const CHUNK_TERMS: u64 = 1024;

/// A part of a dictionary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyRange {
    pub(crate) lower: Bound<Vec<u8>>,
    pub(crate) upper: Bound<Vec<u8>>,
}

impl KeyRange {
    /// The keys that begin with `start`.
    pub(crate) fn beginning_with(start: Vec<u8>) -> Self {
        Self {
            upper: key_after(start.clone()).map_or(Bound::Unbounded, Bound::Excluded),
            lower: Bound::Included(start),
        }
    }
}

/// The first key after all that begin with `start`; `None` if all others do.
fn key_after(mut start: Vec<u8>) -> Option<Vec<u8>> {
    while let Some(last) = start.pop() {
        if last < u8::MAX {
            start.push(last + 1);
            return Some(start);
        }
    }
    None
}

/// The first `limit` terms between two keys, or a few more.
pub(crate) fn terms_in<'a>(
    index: &'a InvertedIndexReader,
    keys: &KeyRange,
    limit: u64,
) -> io::Result<TermStreamer<'a>> {
    let mut range = index.terms().range().limit(limit);
    range = match &keys.lower {
        Bound::Included(key) => range.ge(key),
        Bound::Excluded(key) => range.gt(key),
        Bound::Unbounded => range,
    };
    range = match &keys.upper {
        Bound::Included(key) => range.le(key),
        Bound::Excluded(key) => range.lt(key),
        Bound::Unbounded => range,
    };
    range.into_stream()
}

/// Calls `each` with every term between two keys, and `charge` with how many they are, a chunk at a time.
pub(crate) fn for_each_term(
    index: &InvertedIndexReader,
    mut keys: KeyRange,
    budget: &ScanBudget,
    mut each: impl FnMut(&[u8], &TermInfo) -> tantivy::Result<()>,
    mut charge: impl FnMut(u64) -> tantivy::Result<()>,
) -> tantivy::Result<()> {
    loop {
        budget.check()?;
        let mut stream = terms_in(index, &keys, CHUNK_TERMS)?;
        let (mut read, mut docs, mut last) = (0, 0, Vec::new());
        while stream.advance() {
            read += 1;
            // The next chunk follows the last key of a full one.
            if read >= CHUNK_TERMS {
                last.clear();
                last.extend_from_slice(stream.key());
            }
            each(stream.key(), stream.value())?;
            docs += stream.value().doc_freq;
            if docs >= DOCS_PER_DEADLINE_CHECK {
                budget.check()?;
                docs = 0;
            }
        }
        #[cfg(test)]
        TERMS_READ.set(TERMS_READ.get() + read);
        charge(read)?;
        if read < CHUNK_TERMS {
            return Ok(());
        }
        keys.lower = Bound::Excluded(last);
    }
}

/// Calls `each` with the documents of a term, some at a time, in their order.
pub(crate) fn for_each_doc(
    index: &InvertedIndexReader,
    found: &TermInfo,
    budget: &ScanBudget,
    mut each: impl FnMut(DocId),
) -> tantivy::Result<()> {
    if found.doc_freq >= DOCS_PER_DEADLINE_CHECK {
        budget.check()?;
    }
    let mut blocks = index.read_block_postings_from_terminfo(found, IndexRecordOption::Basic)?;
    while !blocks.docs().is_empty() {
        blocks.docs().iter().for_each(|doc| each(*doc));
        blocks.advance();
    }
    Ok(())
}

#[cfg(test)]
thread_local! {
    static TERMS_READ: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// How many terms this thread has read so far.
#[cfg(test)]
pub(crate) fn terms_read() -> u64 {
    TERMS_READ.get()
}

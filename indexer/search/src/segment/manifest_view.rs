//! The segments and marks of one manifest, open.

use std::sync::Arc;

use tantivy::SegmentReader;
use tidemark_catalog::Manifest;

use super::reader::OpenSegment;
use tidemark_ingest::engine::{EngineError, RecordMarks};

/// One manifest, open for search and look-ups. Immutable; shares open segments with its neighbours.
pub(crate) struct ManifestView {
    pub(crate) manifest: Manifest,
    /// In seq order.
    pub(crate) segments: Vec<Arc<SegmentReaderView>>,
    pub(crate) marks: Arc<RecordMarks>,
}

impl ManifestView {
    /// Whether nothing of it is read from the store any more.
    pub(crate) fn is_local(&self) -> bool {
        self.segments.iter().all(|shown| shown.segment.is_local())
    }

    /// Whether another opening of the same manifest has the same segments in the same places.
    pub(crate) fn is_open_as(&self, other: &Self) -> bool {
        let mut pairs = self.segments.iter().zip(&other.segments);
        pairs.all(|(one, other)| Arc::ptr_eq(&one.segment, &other.segment))
    }
}

/// A segment as one manifest shows it.
pub(crate) struct SegmentReaderView {
    pub(crate) segment: Arc<OpenSegment>,
    /// The documents that no correction replaced.
    pub(crate) reader: SegmentReader,
    /// How many documents are left out.
    pub(crate) hidden: u64,
}

impl SegmentReaderView {
    /// The segment without the documents that `marks` call corrected. `before`: how an earlier manifest shows it.
    pub(crate) fn new(
        segment: Arc<OpenSegment>,
        marks: &RecordMarks,
        before: Option<Arc<Self>>,
    ) -> Result<Arc<Self>, EngineError> {
        let seqs = segment.of.seq.clone();
        let hidden = marks.corrected.range_cardinality(seqs.clone());
        // Marks only grow, so that the same number means the same documents.
        if let Some(before) = before.filter(|before| before.hidden == hidden && Arc::ptr_eq(&before.segment, &segment))
        {
            return Ok(before);
        }
        let reader = match hidden {
            0 => segment.reader.clone(),
            _ => segment.reader_without(within(&marks.corrected, &seqs))?,
        };
        Ok(Arc::new(Self { segment, reader, hidden }))
    }
}

fn within<'a>(seqs: &'a roaring::RoaringTreemap, range: &std::ops::Range<u64>) -> impl Iterator<Item = u64> + 'a {
    let mut all = seqs.iter();
    all.advance_to(range.start);
    let end = range.end;
    all.take_while(move |seq| *seq < end)
}

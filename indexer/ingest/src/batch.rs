//! A batch: sealed entries from the cursor on, on their way to one publication.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use tidemark_catalog::{RecordCounts, SetDigest};
use tidemark_store::StoreSecond;
use tidemark_wal::{Evidence, Outcome, Token};
use tokio::time::Instant;

use super::{
    IngestOptions,
    error::IngestError,
    index::{Segments, Shelf},
    resolve::Resolver,
};
use crate::{
    OperationRecord,
    engine::{Lookup, RecordMarks},
};

/// Records on their way to one publication, with the marks that they cause.
pub(crate) struct Batch {
    segments: Segments,
    seqs: Range<u64>,
    marks: RecordMarks,
    corrected: CorrectionTotals,
    oldest: Option<StoreSecond>,
    newest: Option<StoreSecond>,
    begun: Instant,
    limits: Limits,
}

/// When a batch closes, at the next boundary between two seconds.
#[derive(Clone, Copy, Debug)]
struct Limits {
    records: u64,
    age: Duration,
}

/// What a sidecar says of the records that it marks as corrected.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CorrectionTotals {
    pub(crate) counts: RecordCounts,
    pub(crate) digest: SetDigest,
}

/// A record that a correction replaces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Predecessor {
    pub(crate) seq: u64,
    pub(crate) outcome: Outcome,
    pub(crate) evidence: Option<Evidence>,
}

/// Predecessors by token and op.
pub(crate) type Predecessors = BTreeMap<(Token, u32), Predecessor>;

/// A batch that is uploaded as far as its segments go.
pub(crate) struct Closed {
    pub(crate) segments: Vec<tidemark_catalog::SegmentMeta>,
    pub(crate) seqs: Range<u64>,
    pub(crate) marks: RecordMarks,
    pub(crate) corrected: CorrectionTotals,
}

impl Batch {
    /// An empty batch whose first record gets `first_seq`.
    pub(crate) fn new(shelf: &Shelf, first_seq: u64, options: &IngestOptions) -> Self {
        Self {
            segments: Segments::new(shelf, options.segment_memory),
            seqs: first_seq..first_seq,
            marks: RecordMarks::default(),
            corrected: CorrectionTotals::default(),
            oldest: None,
            newest: None,
            begun: Instant::now(),
            limits: Limits { records: options.batch_records, age: options.batch_age },
        }
    }

    /// The second of the oldest entry in it.
    pub(crate) fn oldest(&self) -> Option<StoreSecond> {
        self.oldest
    }

    /// The second of the newest entry in it.
    pub(crate) fn newest(&self) -> Option<StoreSecond> {
        self.newest
    }

    /// Whether to publish it before an entry of a later second comes in.
    pub(crate) fn full(&self) -> bool {
        self.len() >= self.limits.records || (self.len() > 0 && self.begun.elapsed() >= self.limits.age)
    }

    /// How many records it has.
    pub(crate) fn len(&self) -> u64 {
        self.seqs.end - self.seqs.start
    }

    /// Numbers `records`, decides what the index has a say in, and takes them in.
    pub(crate) async fn take(
        &mut self,
        mut records: Vec<OperationRecord>,
        resolver: &mut Resolver,
        index: &dyn Lookup,
    ) -> Result<(), IngestError> {
        for record in &mut records {
            record.seq = self.seqs.end;
            self.seqs.end += 1;
            let second = record.token.second();
            self.oldest = Some(self.oldest.map_or(second, |oldest| oldest.min(second)));
            self.newest = self.newest.max(Some(second));
        }
        let marks = resolver.resolve(&mut records, index).await?;
        self.marks.merge(&marks);
        self.segments.add(records).await
    }

    /// Marks the record that one of this batch corrects.
    pub(crate) fn mark_corrected(&mut self, place: (Token, u32), predecessor: &Predecessor) {
        let Predecessor { seq, outcome, evidence } = *predecessor;
        if self.marks.corrected.insert(seq) {
            self.corrected.counts.add(outcome);
            self.corrected.digest.insert(place.0, place.1, outcome, evidence);
        }
    }

    /// Finishes the segments.
    pub(crate) async fn close(self) -> Result<Closed, IngestError> {
        Ok(Closed {
            segments: self.segments.finish().await?,
            seqs: self.seqs,
            marks: self.marks,
            corrected: self.corrected,
        })
    }
}

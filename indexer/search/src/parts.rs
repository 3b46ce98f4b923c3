//! What a search runs over: the segments of a manifest and the parts of the overlay, behind one face.

use std::sync::Arc;

use tantivy::{DocId, SegmentReader, Term, columnar::Column, query::Bm25StatisticsProvider, schema::Field};
use tidemark_wal::Token;

use super::{SearchError, api::SearchRequest, overlay::OverlayPart};
use crate::index::{Served, Snapshot, order_of};
use tidemark_ingest::{OperationRecord, engine::EngineError};

/// One segment of what is searched.
#[derive(Clone, Copy)]
pub(crate) enum Part<'a> {
    /// Decided records.
    Sealed(&'a Snapshot, &'a Arc<Served>),
    /// Pending operations.
    Pending(&'a Arc<OverlayPart>),
}

impl<'a> Part<'a> {
    /// The parts that a request looks at, those with the newest tokens last.
    pub(crate) fn all(snapshot: &'a Snapshot, overlay: &'a [Arc<OverlayPart>], request: &SearchRequest) -> Vec<Self> {
        let sealed = snapshot.segments.iter().map(|served| Part::Sealed(snapshot, served));
        let sealed = sealed.filter(|_| request.sealed != Some(false));
        let pending = overlay.iter().map(Part::Pending);
        let pending = pending.filter(|_| request.sealed != Some(true) && request.current != Some(true));
        let mut parts: Vec<Self> = sealed.chain(pending).filter(|part| part.overlaps(request)).collect();
        parts.sort_by_key(Part::last);
        parts
    }

    pub(crate) fn reader(&self) -> &'a SegmentReader {
        match self {
            Part::Sealed(_, served) => &served.reader,
            Part::Pending(part) => &part.reader,
        }
    }

    pub(crate) fn order(&self) -> &'a Column<u64> {
        match self {
            Part::Sealed(_, served) => &served.segment.order,
            Part::Pending(part) => &part.order,
        }
    }

    /// The smallest token.
    pub(crate) fn first(&self) -> Token {
        match self {
            Part::Sealed(_, served) => served.segment.of.first,
            Part::Pending(part) => part.first,
        }
    }

    /// The largest token.
    pub(crate) fn last(&self) -> Token {
        match self {
            Part::Sealed(_, served) => served.segment.of.last,
            Part::Pending(part) => part.last,
        }
    }

    /// A number that no other document of the view has: the seq, or one above all seqs.
    pub(crate) fn number(&self, doc: DocId) -> u64 {
        match self {
            Part::Sealed(_, served) => served.segment.seq(doc),
            Part::Pending(part) => part.number + u64::from(doc),
        }
    }

    pub(crate) fn is_sealed(&self) -> bool {
        matches!(self, Part::Sealed(..))
    }

    pub(crate) fn is_current(&self, doc: DocId) -> bool {
        match self {
            Part::Sealed(snapshot, served) => snapshot.is_current(&served.segment, doc),
            Part::Pending(_) => false,
        }
    }

    pub(crate) fn record(&self, doc: DocId) -> Result<OperationRecord, EngineError> {
        match self {
            Part::Sealed(_, served) => served.segment.record(doc),
            Part::Pending(part) => part.record(doc),
        }
    }

    /// Whether some token of the part may lie in the range that is asked for.
    fn overlaps(&self, request: &SearchRequest) -> bool {
        request.from.is_none_or(|from| from <= self.last()) && request.to.is_none_or(|to| self.first() < to)
    }
}

/// The conditions of a request that are not part of its query, for one part.
pub(crate) struct Conditions<'a> {
    part: Part<'a>,
    from: Option<Token>,
    to: Option<Token>,
    current: Option<bool>,
}

impl<'a> Conditions<'a> {
    /// `None` if every document of the part fulfils them.
    pub(crate) fn new(part: Part<'a>, request: &SearchRequest) -> Option<Self> {
        let conditions = Self {
            part,
            from: request.from.filter(|from| *from > part.first()),
            to: request.to.filter(|to| *to <= part.last()),
            // Nothing that is pending is current, so that only sealed records need a look.
            current: request.current.filter(|_| part.is_sealed()),
        };
        let any = conditions.from.is_some() || conditions.to.is_some() || conditions.current.is_some();
        any.then_some(conditions)
    }

    pub(crate) fn hold(&self, doc: DocId) -> bool {
        self.in_range(doc) && self.current.is_none_or(|current| self.part.is_current(doc) == current)
    }

    fn in_range(&self, doc: DocId) -> bool {
        let order = self.part.order().first(doc).unwrap_or_default();
        let (from, to) = (self.from.as_ref().map(order_of), self.to.as_ref().map(order_of));
        if from == Some(order) || to == Some(order) {
            // The first eight bytes of the token do not tell: the rest of it is in the record.
            let token = self.part.record(doc).map(|record| record.token);
            return token
                .is_ok_and(|token| self.from.is_none_or(|from| from <= token) && self.to.is_none_or(|to| token < to));
        }
        from.is_none_or(|from| from < order) && to.is_none_or(|to| order < to)
    }
}

/// Frequencies over all sealed segments, so that a score does not depend on how records lie in segments, nor change from
/// page to page with the overlay.
pub(crate) struct Statistics<'a> {
    readers: Vec<&'a SegmentReader>,
}

impl<'a> Statistics<'a> {
    pub(crate) fn new(snapshot: &'a Snapshot, overlay: &'a [Arc<OverlayPart>]) -> Self {
        let mut readers: Vec<_> = snapshot.segments.iter().map(|served| &served.segment.reader).collect();
        if readers.is_empty() {
            readers = overlay.iter().map(|part| &part.reader).collect();
        }
        Self { readers }
    }
}

impl Bm25StatisticsProvider for Statistics<'_> {
    fn total_num_tokens(&self, field: Field) -> tantivy::Result<u64> {
        let counts = self.readers.iter().map(|reader| Ok(reader.inverted_index(field)?.total_num_tokens()));
        counts.sum()
    }

    fn total_num_docs(&self) -> tantivy::Result<u64> {
        Ok(self.readers.iter().map(|reader| u64::from(reader.max_doc())).sum())
    }

    fn doc_freq(&self, term: &Term) -> tantivy::Result<u64> {
        let counts = self.readers.iter().map(|reader| {
            let count = reader.inverted_index(term.field())?.doc_freq(term)?;
            Ok(u64::from(count))
        });
        // A term that only the overlay has counts as rare, not as impossible.
        counts.sum::<tantivy::Result<u64>>()
    }
}

/// An object that is missing is the store's fault: the question is a good one and may be asked again.
#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` is given")]
pub(crate) fn engine_error(error: EngineError) -> SearchError {
    match error {
        EngineError::Gone { .. } | EngineError::Store(_) => SearchError::stored(&error),
        _ => SearchError::Internal { detail: error.to_string() },
    }
}

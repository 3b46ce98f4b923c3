//! What a query runs over: the segments of a manifest and those of the overlay, behind one interface.

use std::sync::Arc;

use tantivy::{DocId, SegmentReader};
use tidemark_wal::Token;

use super::{
    api::SearchRequest, error::SearchError, overlay::tail_index::OverlaySegment, search_view::SearchView,
    sort_key::SortKey,
};
use crate::segment::{FilterKind, ManifestView, SegmentReaderView, TokenColumns, token_sort_key};
use tidemark_ingest::{OperationRecord, engine::EngineError};

/// One segment that a query runs over.
#[derive(Clone, Copy)]
pub(crate) enum SearchableSegment<'a> {
    /// Decided records.
    Sealed(&'a ManifestView, &'a Arc<SegmentReaderView>),
    /// Pending operations.
    Pending(&'a Arc<OverlaySegment>),
}

impl<'a> SearchableSegment<'a> {
    /// The segments that a request looks at, those with the newest tokens last.
    pub(crate) fn all(view: &'a SearchView, request: &SearchRequest) -> Vec<Self> {
        let SearchView { index, pending, .. } = view;
        let sealed = index.segments.iter().map(|view| SearchableSegment::Sealed(index, view));
        let sealed = sealed.filter(|_| request.sealed != Some(false));
        let pending = pending.iter().map(SearchableSegment::Pending);
        let pending = pending.filter(|_| request.sealed != Some(true) && request.current != Some(true));
        let mut segments: Vec<Self> = sealed.chain(pending).filter(|segment| segment.overlaps(request)).collect();
        segments.sort_by_key(SearchableSegment::last);
        segments
    }

    pub(crate) fn reader(&self) -> &'a SegmentReader {
        match self {
            SearchableSegment::Sealed(_, view) => &view.reader,
            SearchableSegment::Pending(segment) => &segment.reader,
        }
    }

    pub(crate) fn tokens(&self) -> &'a TokenColumns {
        match self {
            SearchableSegment::Sealed(_, view) => &view.segment.tokens,
            SearchableSegment::Pending(segment) => &segment.tokens,
        }
    }

    /// The smallest token.
    pub(crate) fn first(&self) -> Token {
        match self {
            SearchableSegment::Sealed(_, view) => view.segment.of.first,
            SearchableSegment::Pending(segment) => segment.first,
        }
    }

    /// The largest token.
    pub(crate) fn last(&self) -> Token {
        match self {
            SearchableSegment::Sealed(_, view) => view.segment.of.last,
            SearchableSegment::Pending(segment) => segment.last,
        }
    }

    /// A number that no other document of the view has: the seq, or one above all seqs.
    pub(crate) fn number(&self, doc: DocId) -> u64 {
        match self {
            SearchableSegment::Sealed(_, view) => view.segment.seq(doc),
            SearchableSegment::Pending(segment) => segment.number + u64::from(doc),
        }
    }

    /// Where a document stands in the order of tokens. `first` is the sort key of its token.
    pub(crate) fn token_key(&self, doc: DocId, first: u64) -> SortKey {
        SortKey(first, 0, self.tokens().rest(doc), self.number(doc))
    }

    pub(crate) fn is_sealed(&self) -> bool {
        matches!(self, SearchableSegment::Sealed(..))
    }

    pub(crate) fn is_current(&self, doc: DocId) -> bool {
        match self {
            SearchableSegment::Sealed(index, view) => index.is_current(&view.segment, doc),
            SearchableSegment::Pending(_) => false,
        }
    }

    pub(crate) fn record(&self, doc: DocId) -> Result<OperationRecord, EngineError> {
        match self {
            SearchableSegment::Sealed(_, view) => view.segment.record(doc),
            SearchableSegment::Pending(segment) => segment.record(doc),
        }
    }

    /// The documents of an entity that are shown, by its term.
    pub(crate) fn docs_of_entity(&self, term: &str) -> Result<Vec<DocId>, EngineError> {
        let mut docs = match self {
            SearchableSegment::Sealed(_, view) if !view.segment.might_contain(FilterKind::Entity, term) => Vec::new(),
            SearchableSegment::Sealed(_, view) => view.segment.docs_with(view.segment.fields.entity, term)?,
            SearchableSegment::Pending(segment) => segment.docs_of_entity(term)?,
        };
        let alive = self.reader().alive_bitset();
        docs.retain(|doc| alive.is_none_or(|alive| alive.is_alive(*doc)));
        Ok(docs)
    }

    /// Whether a token of the segment can lie in the range of the request.
    fn overlaps(&self, request: &SearchRequest) -> bool {
        request.from.is_none_or(|from| from <= self.last()) && request.to.is_none_or(|to| self.first() < to)
    }
}

/// The conditions of a request that are not part of its query, for one segment.
pub(crate) struct RangeFilter<'a> {
    segment: SearchableSegment<'a>,
    from: Option<Token>,
    to: Option<Token>,
    current: Option<bool>,
}

impl<'a> RangeFilter<'a> {
    /// `None` if every document of the segment meets them.
    pub(crate) fn new(segment: SearchableSegment<'a>, request: &SearchRequest) -> Option<Self> {
        let filter = Self {
            segment,
            from: request.from.filter(|from| *from > segment.first()),
            to: request.to.filter(|to| *to <= segment.last()),
            // Nothing pending is current, so only sealed records are checked.
            current: request.current.filter(|_| segment.is_sealed()),
        };
        let any = filter.from.is_some() || filter.to.is_some() || filter.current.is_some();
        any.then_some(filter)
    }

    pub(crate) fn contains(&self, doc: DocId) -> bool {
        self.in_range(doc) && self.current.is_none_or(|current| self.segment.is_current(doc) == current)
    }

    fn in_range(&self, doc: DocId) -> bool {
        let sort_key = self.segment.tokens().sort_key(doc);
        let (from, to) = (self.from.as_ref().map(token_sort_key), self.to.as_ref().map(token_sort_key));
        if from == Some(sort_key) || to == Some(sort_key) {
            let token = self.segment.tokens().token(doc);
            return self.from.is_none_or(|from| from <= token) && self.to.is_none_or(|to| token < to);
        }
        from.is_none_or(|from| from < sort_key) && to.is_none_or(|to| sort_key < to)
    }
}

/// A missing object is a fault of the store: the request is valid and can be retried.
#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` is given")]
pub(crate) fn engine_error(error: EngineError) -> SearchError {
    match error {
        EngineError::Gone { .. } | EngineError::Store(_) => SearchError::stored(&error),
        _ => SearchError::Internal { detail: error.to_string() },
    }
}

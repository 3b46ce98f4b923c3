//! The best hits of a query: a heap of one page, which knows early what cannot get into it.

use std::{cmp::Reverse, collections::BinaryHeap};

use tantivy::{DocId, Score};

use super::{
    api::{SearchRequest, SortOrder},
    searchable_segment::SearchableSegment,
    sort_key::SortKey,
};
use crate::segment::token_sort_key;

/// A hit before its record is read.
#[derive(Clone, Copy)]
pub(crate) struct HitCandidate<'a> {
    pub(crate) key: SortKey,
    pub(crate) segment: SearchableSegment<'a>,
    pub(crate) doc: DocId,
    pub(crate) score: Option<Score>,
}

/// The best hits of a query so far.
pub(crate) struct TopK<'a> {
    size: usize,
    ascending: bool,
    by_token: bool,
    after: Option<SortKey>,
    /// The worst of them on top.
    heap: BinaryHeap<Reverse<RankedHit<'a>>>,
    /// The first number of the worst rank once the page is full: hits below it are passed over at once.
    floor: u64,
    /// Whether a sealed hit comes after the best.
    passed_over: bool,
}

/// A candidate with a rank that is greater the better it is.
struct RankedHit<'a>(SortKey, HitCandidate<'a>);

impl PartialEq for RankedHit<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for RankedHit<'_> {}

impl PartialOrd for RankedHit<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RankedHit<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

impl<'a> TopK<'a> {
    pub(crate) fn new(request: &SearchRequest, after: Option<SortKey>) -> Self {
        Self {
            size: request.size.get(),
            ascending: request.sort == SortOrder::Oldest,
            by_token: request.sort != SortOrder::Relevance,
            after,
            heap: BinaryHeap::with_capacity(request.size.get() + 1),
            floor: 0,
            passed_over: false,
        }
    }

    /// Whether some hit of the segment could be among the best.
    pub(crate) fn can_compete(&self, segment: SearchableSegment<'_>) -> bool {
        if self.size == 0 {
            return false;
        }
        if self.after.is_some_and(|after| self.all_before(segment, after)) {
            return false;
        }
        let Some(Reverse(worst)) = self.heap.peek().filter(|_| self.by_token && self.heap.len() >= self.size) else {
            return true;
        };
        let nearest = token_sort_key(&if self.ascending { segment.first() } else { segment.last() });
        // A full page with sealed hits beyond it: that there are some must still be noticed.
        let noticed = self.passed_over || !segment.is_sealed();
        let beyond = if self.ascending { nearest > worst.1.key.0 } else { nearest < worst.1.key.0 };
        !(noticed && beyond)
    }

    /// Whether the segment lies wholly on earlier pages.
    fn all_before(&self, segment: SearchableSegment<'_>, after: SortKey) -> bool {
        let farthest = token_sort_key(&if self.ascending { segment.last() } else { segment.first() });
        self.by_token && if self.ascending { farthest < after.0 } else { farthest > after.0 }
    }

    fn rank(&self, key: SortKey) -> SortKey {
        if self.ascending { key.reversed() } else { key }
    }

    pub(crate) fn push(&mut self, segment: SearchableSegment<'a>, doc: DocId, first: u64, score: Option<Score>) {
        if self.size == 0 {
            return;
        }
        if (if self.ascending { !first } else { first }) < self.floor {
            self.passed_over |= segment.is_sealed();
            return;
        }
        let key = SortKey(first, segment.number(doc));
        let rank = self.rank(key);
        if self.after.is_some_and(|after| rank >= self.rank(after)) {
            return;
        }
        if self.heap.len() >= self.size && self.heap.peek().is_some_and(|Reverse(worst)| rank < worst.0) {
            self.passed_over |= segment.is_sealed();
            return;
        }
        let candidate = HitCandidate { key, segment, doc, score };
        self.heap.push(Reverse(RankedHit(rank, candidate)));
        if self.heap.len() > self.size
            && let Some(Reverse(worst)) = self.heap.pop()
        {
            self.passed_over |= worst.1.segment.is_sealed();
        }
        if self.heap.len() == self.size {
            self.floor = self.heap.peek().map_or(0, |Reverse(worst)| worst.0.0);
        }
    }

    pub(crate) fn finish(self) -> (Vec<HitCandidate<'a>>, bool) {
        let mut ranked: Vec<_> = self.heap.into_iter().map(|Reverse(ranked)| ranked).collect();
        ranked.sort_by(|a, b| b.cmp(a));
        (ranked.into_iter().map(|RankedHit(_, candidate)| candidate).collect(), self.passed_over)
    }
}

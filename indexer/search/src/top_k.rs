//! The best hits of a query: one page, which knows early what cannot get into it.

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

/// The values with the greatest ranks of all that are pushed: `size` at most. No two have one rank.
pub(crate) struct BestRanked<T> {
    size: usize,
    /// The worst of them on top.
    heap: BinaryHeap<Reverse<RankedValue<T>>>,
}

impl<T> BestRanked<T> {
    pub(crate) fn new(size: usize) -> Self {
        Self { size, heap: BinaryHeap::new() }
    }

    /// The least rank among them, once there are `size`: what is below has no place.
    pub(crate) fn worst(&self) -> Option<SortKey> {
        self.heap.peek().filter(|_| self.heap.len() >= self.size).map(|Reverse(worst)| worst.0)
    }

    /// Returns the value that has no place, if there is one.
    pub(crate) fn push(&mut self, rank: SortKey, value: T) -> Option<T> {
        if self.worst().is_some_and(|worst| rank < worst) {
            return Some(value);
        }
        self.heap.push(Reverse(RankedValue(rank, value)));
        if self.heap.len() > self.size { self.heap.pop().map(|Reverse(worst)| worst.1) } else { None }
    }

    /// The best first.
    pub(crate) fn into_values(self) -> impl Iterator<Item = T> {
        self.heap.into_sorted_vec().into_iter().map(|Reverse(ranked)| ranked.1)
    }
}

/// A value with a rank that is greater the better it is.
struct RankedValue<T>(SortKey, T);

impl<T> PartialEq for RankedValue<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<T> Eq for RankedValue<T> {}

impl<T> PartialOrd for RankedValue<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for RankedValue<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

/// The best hits of a query so far.
pub(crate) struct TopK<'a> {
    size: usize,
    ascending: bool,
    sort: SortOrder,
    after: Option<SortKey>,
    best: BestRanked<HitCandidate<'a>>,
    /// The first number of the worst rank once the page is full: hits below it are passed over at once.
    floor: u64,
    /// Whether a sealed hit comes after the best.
    passed_over: bool,
}

impl<'a> TopK<'a> {
    pub(crate) fn new(request: &SearchRequest, after: Option<SortKey>) -> Self {
        Self {
            size: request.size.get(),
            ascending: request.sort.is_ascending(),
            sort: request.sort,
            after,
            best: BestRanked::new(request.size.get()),
            floor: 0,
            passed_over: false,
        }
    }

    fn is_by_token(&self) -> bool {
        matches!(self.sort, SortOrder::Newest | SortOrder::Oldest)
    }

    /// Whether some hit of the segment could be among the best.
    pub(crate) fn can_compete(&self, segment: SearchableSegment<'_>) -> bool {
        if self.size == 0 {
            return false;
        }
        if self.after.is_some_and(|after| self.all_before(segment, after)) {
            return false;
        }
        let Some(worst) = self.best.worst().filter(|_| self.is_by_token()) else { return true };
        let nearest = token_sort_key(&if self.ascending { segment.first() } else { segment.last() });
        // A full page with sealed hits beyond it: that there are some must still be noticed.
        let noticed = self.passed_over || !segment.is_sealed();
        let worst = self.rank(worst).0;
        let beyond = if self.ascending { nearest > worst } else { nearest < worst };
        !(noticed && beyond)
    }

    /// Whether the segment lies wholly on earlier pages.
    fn all_before(&self, segment: SearchableSegment<'_>, after: SortKey) -> bool {
        let farthest = token_sort_key(&if self.ascending { segment.last() } else { segment.first() });
        self.is_by_token() && if self.ascending { farthest < after.0 } else { farthest > after.0 }
    }

    /// The rank of a key, which is greater the better it is; and the key of a rank.
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
        let key = match self.sort {
            SortOrder::Newest | SortOrder::Oldest => segment.token_key(doc, first),
            SortOrder::ClientTime | SortOrder::ClientTimeOldest => {
                let tokens = segment.tokens();
                SortKey(first, tokens.sort_key(doc), tokens.rest(doc), segment.number(doc))
            }
            SortOrder::Relevance => SortKey(first, 0, 0, segment.number(doc)),
        };
        let rank = self.rank(key);
        if self.after.is_some_and(|after| rank >= self.rank(after)) {
            return;
        }
        if let Some(worst) = self.best.push(rank, HitCandidate { key, segment, doc, score }) {
            self.passed_over |= worst.segment.is_sealed();
        }
        self.floor = self.best.worst().map_or(0, |worst| worst.0);
    }

    /// What can get among the best from a segment whose hits are ordered by score. Segments with larger numbers come before it,
    /// so that their documents need not be replaced by those of this one that have the same score.
    pub(crate) fn best_of(&self, segment: SearchableSegment<'_>) -> SegmentBest {
        let first = segment.number(0);
        SegmentBest {
            size: self.size,
            floor: self.best.worst().map_or(0, |worst| document_rank(worst, first)),
            limit: self.after.map_or(u64::MAX, |after| document_rank(after, first)),
            kept: Vec::with_capacity(2 * self.size),
            collected: 0,
            earlier: 0,
        }
    }

    /// Adds what was the best of a segment.
    pub(crate) fn add(&mut self, segment: SearchableSegment<'a>, mut best: SegmentBest) {
        best.drop_worst();
        self.passed_over |= segment.is_sealed() && best.collected > best.earlier + best.kept.len() as u64;
        for rank in best.kept {
            let (score, doc) = (rank >> 32, rank & DOC_MASK);
            // It was made from 32 bits.
            let doc = DocId::try_from(doc).unwrap_or(DocId::MAX);
            self.push(segment, doc, score, Some(SortKey::score_of(score)));
        }
    }

    pub(crate) fn finish(self) -> (Vec<HitCandidate<'a>>, bool) {
        (self.best.into_values().collect(), self.passed_over)
    }
}

/// The best documents of one segment by score; of documents with one score the later ones are better, since they are newer.
///
/// Twice a page of ranks is kept, and the worse half is dropped when they are full: a document that comes after many others of
/// the same score, and is better than each of them, costs no more than one that is not.
pub(crate) struct SegmentBest {
    size: usize,
    /// A rank below is not on the page.
    floor: u64,
    /// This rank, and what is above it, was on an earlier page.
    limit: u64,
    /// The bits of the score, then the document.
    kept: Vec<u64>,
    collected: u64,
    earlier: u64,
}

/// The part of a document's rank that is its number.
const DOC_MASK: u64 = u32::MAX as u64;

/// The rank of a key among the documents of a segment whose first one has the number `first`. The key may be of another
/// segment.
fn document_rank(key: SortKey, first: u64) -> u64 {
    key.0.min(DOC_MASK) << 32 | key.3.saturating_sub(first).min(DOC_MASK)
}

impl SegmentBest {
    /// Documents of the segment, each at most once.
    pub(crate) fn collect(&mut self, docs: &[DocId], scores: &[Score]) {
        self.collected += docs.len() as u64;
        for (doc, score) in docs.iter().zip(scores) {
            let rank = SortKey::of_score(*score) << 32 | u64::from(*doc);
            if rank < self.floor {
                continue;
            }
            if rank >= self.limit {
                self.earlier += 1;
                continue;
            }
            self.kept.push(rank);
            if self.kept.len() >= 2 * self.size {
                self.drop_worst();
            }
        }
    }

    fn drop_worst(&mut self) {
        if self.kept.len() > self.size {
            let (_, worst, _) = self.kept.select_nth_unstable_by_key(self.size - 1, |rank| Reverse(*rank));
            self.floor = *worst;
            self.kept.truncate(self.size);
        }
    }
}

//! Runs a query over all parts: counts, facets and the best hits in one pass, within a deadline.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use tantivy::{
    COLLECT_BLOCK_BUFFER_LEN, DocId, DocSet, Score, Searcher as Schema, TERMINATED,
    aggregation::AggregationSegmentCollector,
    collector::SegmentCollector,
    query::{EnableScoring, Query, Scorer, Weight},
};
use tokio::time::Instant;

use super::{
    SearchError,
    api::{SearchRequest, SortOrder},
    facets::{FacetCounter, Histogram},
    page::Place,
    parts::{Conditions, Part, Statistics},
    query::unusable,
};
use crate::index::order_of;

/// How many matches are scored between two looks at the deadline.
const LOOKED_AT: u64 = 4096;

/// How long a search may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    ends: Instant,
    allowed: Duration,
}

impl Deadline {
    pub(crate) fn after(allowed: Duration) -> Self {
        Self { ends: Instant::now() + allowed, allowed }
    }

    pub(crate) fn check(&self) -> Result<(), SearchError> {
        if self.passed() {
            return Err(self.error());
        }
        Ok(())
    }

    pub(crate) fn error(&self) -> SearchError {
        SearchError::Overloaded {
            detail: format!(
                "the search took longer than {} ms; narrow it, or leave out facets and histogram",
                self.allowed.as_millis()
            ),
        }
    }

    fn passed(&self) -> bool {
        Instant::now() >= self.ends
    }
}

/// What a search found.
pub(crate) struct Found<'a> {
    pub(crate) total: u64,
    /// The page, in order.
    pub(crate) best: Vec<Candidate<'a>>,
    /// Whether there are sealed hits after the page.
    pub(crate) more: bool,
    pub(crate) facets: Option<FacetCounter>,
    pub(crate) histogram: Option<Histogram>,
}

/// A hit before its record is read.
#[derive(Clone, Copy)]
pub(crate) struct Candidate<'a> {
    pub(crate) place: Place,
    pub(crate) part: Part<'a>,
    pub(crate) doc: DocId,
    pub(crate) score: Option<Score>,
}

/// Runs `query` over `parts`. Hits at or before `after` are counted, but not answered. Blocks.
pub(crate) fn run<'a>(
    query: &dyn Query,
    parts: &[Part<'a>],
    statistics: &Statistics<'a>,
    schema: &Schema,
    request: &SearchRequest,
    after: Option<Place>,
    deadline: Deadline,
) -> Result<Found<'a>, SearchError> {
    let scored = request.sort == SortOrder::Relevance && request.size > 0;
    let scoring = if scored {
        EnableScoring::enabled_from_statistics_provider(statistics, schema)
    } else {
        EnableScoring::disabled_from_searcher(schema)
    };
    let weight = query.weight(scoring).map_err(|e| unusable(&e))?;
    let mut pass = Pass {
        request,
        best: Best::new(request, after),
        total: 0,
        facets: FacetCounter::new(&request.facets)?,
        histogram: request.histogram.then(|| histogram(parts, request)),
        deadline,
    };
    // Newest first, so that older segments need not be looked into once the page is full; or the other way round.
    let mut ordered = parts.to_vec();
    if request.sort == SortOrder::Newest {
        ordered.reverse();
    }
    for part in ordered {
        deadline.check()?;
        if scored {
            pass.scored(weight.as_ref(), part)?;
        } else {
            pass.unscored(weight.as_ref(), part)?;
        }
    }
    Ok(pass.finish())
}

fn histogram(parts: &[Part<'_>], request: &SearchRequest) -> Histogram {
    let first = parts.iter().map(|part| part.first().second()).min().unwrap_or_default();
    let last = parts.iter().map(|part| part.last().second()).max().unwrap_or_default();
    let from = request.from.map_or(first, |from| first.max(from.second()));
    let to = request.to.map_or(last, |to| last.min(to.second()));
    Histogram::new(from, to)
}

/// One pass over all parts.
struct Pass<'a, 'r> {
    request: &'r SearchRequest,
    best: Best<'a>,
    total: u64,
    facets: Option<FacetCounter>,
    histogram: Option<Histogram>,
    deadline: Deadline,
}

impl<'a> Pass<'a, '_> {
    fn finish(self) -> Found<'a> {
        let (best, more) = self.best.finish();
        Found { total: self.total, best, more, facets: self.facets, histogram: self.histogram }
    }

    /// A part whose hits are ordered by token.
    fn unscored(&mut self, weight: &dyn Weight, part: Part<'a>) -> Result<(), SearchError> {
        let conditions = Conditions::new(part, self.request);
        let counted_only = self.facets.is_none() && self.histogram.is_none() && !self.best.may_take(part);
        if counted_only && conditions.is_none() {
            self.total += u64::from(weight.count(part.reader()).map_err(|e| unusable(&e))?);
            return Ok(());
        }
        let mut facets = self.facets_of(part)?;
        let mut scorer = weight.scorer(part.reader(), 1.0).map_err(|e| unusable(&e))?;
        let mut buffer = [0; COLLECT_BLOCK_BUFFER_LEN];
        let mut orders = [None; COLLECT_BLOCK_BUFFER_LEN];
        loop {
            let filled = scorer.fill_buffer(&mut buffer);
            let kept = keep(&mut buffer[..filled], part, conditions.as_ref());
            part.order().first_vals(&buffer[..kept], &mut orders[..kept]);
            self.block(part, &buffer[..kept], &orders[..kept], facets.as_mut());
            if filled < buffer.len() {
                break;
            }
            self.deadline.check()?;
        }
        self.add_facets(facets)
    }

    fn block(
        &mut self,
        part: Part<'a>,
        docs: &[DocId],
        orders: &[Option<u64>],
        facets: Option<&mut AggregationSegmentCollector>,
    ) {
        self.total += docs.len() as u64;
        if let Some(facets) = facets {
            facets.collect_block(docs);
        }
        for (doc, order) in docs.iter().zip(orders) {
            let order = order.unwrap_or_default();
            if let Some(histogram) = &mut self.histogram {
                histogram.add(order);
            }
            self.best.offer(part, *doc, order, None);
        }
    }

    /// A part whose hits are ordered by score.
    ///
    /// Every match is scored, in one and the same way on every page: pruning sums scores in an order that depends on the
    /// page, and the last bit of a score decides what the next page starts with.
    fn scored(&mut self, weight: &dyn Weight, part: Part<'a>) -> Result<(), SearchError> {
        let conditions = Conditions::new(part, self.request);
        let alive = part.reader().alive_bitset();
        let mut facets = self.facets_of(part)?;
        let mut scorer = weight.scorer(part.reader(), 1.0).map_err(|e| unusable(&e))?;
        let mut seen = 0u64;
        while scorer.doc() != TERMINATED {
            let doc = scorer.doc();
            seen += 1;
            if seen.is_multiple_of(LOOKED_AT) {
                self.deadline.check()?;
            }
            let shown = alive.is_none_or(|alive| alive.is_alive(doc));
            if shown && conditions.as_ref().is_none_or(|conditions| conditions.hold(doc)) {
                self.hit(part, doc, scorer.score(), facets.as_mut());
            }
            scorer.advance();
        }
        self.add_facets(facets)
    }

    fn hit(&mut self, part: Part<'a>, doc: DocId, score: Score, facets: Option<&mut AggregationSegmentCollector>) {
        self.total += 1;
        if let Some(facets) = facets {
            facets.collect(doc, score);
        }
        if let Some(histogram) = &mut self.histogram {
            histogram.add(part.order().first(doc).unwrap_or_default());
        }
        self.best.offer(part, doc, by_score(score), Some(score));
    }

    fn facets_of(&self, part: Part<'a>) -> Result<Option<AggregationSegmentCollector>, SearchError> {
        self.facets.as_ref().map(|facets| facets.segment(part.reader())).transpose()
    }

    fn add_facets(&mut self, counted: Option<AggregationSegmentCollector>) -> Result<(), SearchError> {
        match (&mut self.facets, counted) {
            (Some(facets), Some(counted)) => facets.add(counted),
            _ => Ok(()),
        }
    }
}

/// Moves the documents that are shown to the front and tells how many they are.
fn keep(docs: &mut [DocId], part: Part<'_>, conditions: Option<&Conditions<'_>>) -> usize {
    let alive = part.reader().alive_bitset();
    if alive.is_none() && conditions.is_none() {
        return docs.len();
    }
    let mut kept = 0;
    for at in 0..docs.len() {
        let doc = docs[at];
        let shown = alive.is_none_or(|alive| alive.is_alive(doc));
        if shown && conditions.is_none_or(|conditions| conditions.hold(doc)) {
            docs[kept] = doc;
            kept += 1;
        }
    }
    kept
}

/// A score as a number that sorts like it. Scores are not negative.
fn by_score(score: Score) -> u64 {
    u64::from(score.max(0.0).to_bits())
}

/// The best hits so far.
struct Best<'a> {
    size: usize,
    ascending: bool,
    by_token: bool,
    after: Option<Place>,
    /// The worst of the best on top.
    heap: BinaryHeap<Reverse<Ranked<'a>>>,
    /// The first part of the worst one's rank once there are enough: whatever ranks lower needs no further look.
    floor: u64,
    /// Whether a sealed hit comes after the best.
    passed_over: bool,
}

/// A candidate with a place that is greater the better it is.
struct Ranked<'a>(Place, Candidate<'a>);

impl PartialEq for Ranked<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Ranked<'_> {}

impl PartialOrd for Ranked<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

impl<'a> Best<'a> {
    fn new(request: &SearchRequest, after: Option<Place>) -> Self {
        Self {
            size: request.size,
            ascending: request.sort == SortOrder::Oldest,
            by_token: request.sort != SortOrder::Relevance,
            after,
            heap: BinaryHeap::with_capacity(request.size + 1),
            floor: 0,
            passed_over: false,
        }
    }

    /// Whether some hit of the part could be among the best.
    fn may_take(&self, part: Part<'_>) -> bool {
        if self.size == 0 {
            return false;
        }
        if self.after.is_some_and(|after| self.all_before(part, after)) {
            return false;
        }
        let Some(Reverse(worst)) = self.heap.peek().filter(|_| self.by_token && self.heap.len() >= self.size) else {
            return true;
        };
        let nearest = order_of(&if self.ascending { part.first() } else { part.last() });
        // A full page with sealed hits beyond it: that there are some must still be noticed.
        let noticed = self.passed_over || !part.is_sealed();
        let beyond = if self.ascending { nearest > worst.1.place.0 } else { nearest < worst.1.place.0 };
        !(noticed && beyond)
    }

    /// Whether the part lies wholly on earlier pages.
    fn all_before(&self, part: Part<'_>, after: Place) -> bool {
        let farthest = order_of(&if self.ascending { part.last() } else { part.first() });
        self.by_token && if self.ascending { farthest < after.0 } else { farthest > after.0 }
    }

    fn rank(&self, place: Place) -> Place {
        if self.ascending { Place(!place.0, !place.1) } else { place }
    }

    fn offer(&mut self, part: Part<'a>, doc: DocId, key: u64, score: Option<Score>) {
        if self.size == 0 {
            return;
        }
        if (if self.ascending { !key } else { key }) < self.floor {
            self.passed_over |= part.is_sealed();
            return;
        }
        let place = Place(key, part.number(doc));
        let rank = self.rank(place);
        if self.after.is_some_and(|after| rank >= self.rank(after)) {
            return;
        }
        if self.heap.len() >= self.size && self.heap.peek().is_some_and(|Reverse(worst)| rank < worst.0) {
            self.passed_over |= part.is_sealed();
            return;
        }
        let candidate = Candidate { place, part, doc, score };
        self.heap.push(Reverse(Ranked(rank, candidate)));
        if self.heap.len() > self.size
            && let Some(Reverse(worst)) = self.heap.pop()
        {
            self.passed_over |= worst.1.part.is_sealed();
        }
        if self.heap.len() == self.size {
            self.floor = self.heap.peek().map_or(0, |Reverse(worst)| worst.0.0);
        }
    }

    fn finish(self) -> (Vec<Candidate<'a>>, bool) {
        let mut ranked: Vec<_> = self.heap.into_iter().map(|Reverse(ranked)| ranked).collect();
        ranked.sort_by(|a, b| b.cmp(a));
        (ranked.into_iter().map(|Ranked(_, candidate)| candidate).collect(), self.passed_over)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use tantivy::{SegmentReader, query::Explanation};

    use super::*;
    use crate::index::testing::{World, plain, token};

    /// Matches one document a million times, and counts.
    struct Endless(Arc<AtomicU64>);

    impl Weight for Endless {
        fn scorer(&self, _: &SegmentReader, _: Score) -> tantivy::Result<Box<dyn Scorer>> {
            Ok(Box::new(Self(self.0.clone())))
        }

        fn explain(&self, _: &SegmentReader, _: DocId) -> tantivy::Result<Explanation> {
            unreachable!("nobody asks for an explanation")
        }
    }

    impl DocSet for Endless {
        fn advance(&mut self) -> DocId {
            self.0.fetch_add(1, Ordering::Relaxed);
            self.doc()
        }

        fn doc(&self) -> DocId {
            if self.0.load(Ordering::Relaxed) < 1_000_000 { 0 } else { TERMINATED }
        }

        fn size_hint(&self) -> u32 {
            1
        }
    }

    impl Scorer for Endless {
        fn score(&mut self) -> Score {
            1.0
        }
    }

    #[tokio::test]
    async fn scoring_ends_soon_after_the_deadline() {
        let mut world = World::new().await;
        world.publish(vec![plain(token(1, 1))]).await;
        let snapshot = world.engine.snapshot(world.manifest()).await.unwrap();
        let request = SearchRequest {
            sort: SortOrder::Relevance,
            facets: Vec::new(),
            histogram: false,
            ..SearchRequest::default()
        };
        let mut pass = Pass {
            request: &request,
            best: Best::new(&request, None),
            total: 0,
            facets: FacetCounter::new(&request.facets).unwrap(),
            histogram: None,
            deadline: Deadline::after(Duration::ZERO),
        };
        let walked = Arc::new(AtomicU64::new(0));
        let part = Part::Sealed(&snapshot, &snapshot.segments[0]);
        let error = pass.scored(&Endless(walked.clone()), part).unwrap_err();
        assert!(matches!(error, SearchError::Overloaded { .. }), "{error}");
        assert!(walked.load(Ordering::Relaxed) < LOOKED_AT);
    }
}

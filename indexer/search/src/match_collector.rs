//! Collects the matches of a query over all segments: counts, facets and the best hits in one pass, within a deadline.

use tantivy::{
    COLLECT_BLOCK_BUFFER_LEN, DocId, DocSet, Score, TERMINATED,
    aggregation::AggregationSegmentCollector,
    collector::SegmentCollector,
    query::{Scorer, Weight},
};

use super::{
    api::{SearchRequest, SortOrder},
    error::SearchError,
    facets::{FacetCounter, TimeHistogram},
    limits::QueryDeadline,
    query_compiler::unusable,
    searchable_segment::{RangeFilter, SearchableSegment},
    sort_key::SortKey,
    top_k::{HitCandidate, TopK},
};

/// How many matches are scored between two checks of the deadline.
const DOCS_PER_DEADLINE_CHECK: u64 = 4096;

/// All matches of a query, counted, and the page of the best.
pub(crate) struct QueryMatches<'a> {
    pub(crate) total: u64,
    /// The page, in order.
    pub(crate) best: Vec<HitCandidate<'a>>,
    /// Whether there are sealed hits after the page.
    pub(crate) more: bool,
    pub(crate) facets: Option<FacetCounter>,
    pub(crate) histogram: Option<TimeHistogram>,
}

/// Whether the hits of a request are ordered by their score, so that scores are needed at all.
pub(crate) fn is_scored(request: &SearchRequest) -> bool {
    request.sort == SortOrder::Relevance && request.size.get() > 0
}

/// Collects what `weight` matches in `segments`, those with the newest tokens last. Hits at or before `after` are counted,
/// but not answered. Blocks.
pub(crate) fn collect<'a>(
    weight: &dyn Weight,
    mut segments: Vec<SearchableSegment<'a>>,
    request: &SearchRequest,
    after: Option<SortKey>,
    deadline: QueryDeadline,
) -> Result<QueryMatches<'a>, SearchError> {
    let mut collector = MatchCollector {
        request,
        top_k: TopK::new(request, after),
        total: 0,
        facets: FacetCounter::new(&request.facets)?,
        histogram: request.histogram.then(|| histogram(&segments, request)),
        deadline,
    };
    // In the order of the hits: once the page is full, the segments behind it are only counted.
    if request.sort == SortOrder::Newest {
        segments.reverse();
    }
    for segment in segments {
        deadline.check()?;
        if is_scored(request) {
            collector.collect_scored(weight, segment)?;
        } else {
            collector.collect_unscored(weight, segment)?;
        }
    }
    Ok(collector.finish())
}

fn histogram(segments: &[SearchableSegment<'_>], request: &SearchRequest) -> TimeHistogram {
    let first = segments.iter().map(|segment| segment.first().second()).min().unwrap_or_default();
    let last = segments.iter().map(|segment| segment.last().second()).max().unwrap_or_default();
    let from = request.from.map_or(first, |from| first.max(from.second()));
    let to = request.to.map_or(last, |to| last.min(to.second()));
    TimeHistogram::new(from, to)
}

/// One pass over all segments of a query.
struct MatchCollector<'a, 'r> {
    request: &'r SearchRequest,
    top_k: TopK<'a>,
    total: u64,
    facets: Option<FacetCounter>,
    histogram: Option<TimeHistogram>,
    deadline: QueryDeadline,
}

impl<'a> MatchCollector<'a, '_> {
    fn finish(self) -> QueryMatches<'a> {
        let (best, more) = self.top_k.finish();
        QueryMatches { total: self.total, best, more, facets: self.facets, histogram: self.histogram }
    }

    /// A segment whose hits are ordered by token.
    fn collect_unscored(&mut self, weight: &dyn Weight, segment: SearchableSegment<'a>) -> Result<(), SearchError> {
        let filter = RangeFilter::new(segment, self.request);
        let counted_only = self.facets.is_none() && self.histogram.is_none() && !self.top_k.can_compete(segment);
        if counted_only && filter.is_none() {
            self.total += u64::from(weight.count(segment.reader()).map_err(|e| unusable(&e))?);
            return Ok(());
        }
        let mut facets = self.facets_of(segment)?;
        let mut scorer = weight.scorer(segment.reader(), 1.0).map_err(|e| unusable(&e))?;
        let mut buffer = [0; COLLECT_BLOCK_BUFFER_LEN];
        let mut sort_keys = [None; COLLECT_BLOCK_BUFFER_LEN];
        loop {
            let filled = scorer.fill_buffer(&mut buffer);
            let kept = retain_shown(&mut buffer[..filled], segment, filter.as_ref());
            segment.sort_keys().first_vals(&buffer[..kept], &mut sort_keys[..kept]);
            self.collect_block(segment, &buffer[..kept], &sort_keys[..kept], facets.as_mut());
            if filled < buffer.len() {
                break;
            }
            self.deadline.check()?;
        }
        self.add_facets(facets)
    }

    fn collect_block(
        &mut self,
        segment: SearchableSegment<'a>,
        docs: &[DocId],
        sort_keys: &[Option<u64>],
        facets: Option<&mut AggregationSegmentCollector>,
    ) {
        self.total += docs.len() as u64;
        if let Some(facets) = facets {
            facets.collect_block(docs);
        }
        for (doc, sort_key) in docs.iter().zip(sort_keys) {
            let sort_key = sort_key.unwrap_or_default();
            if let Some(histogram) = &mut self.histogram {
                histogram.add(sort_key);
            }
            self.top_k.push(segment, *doc, sort_key, None);
        }
    }

    /// A segment whose hits are ordered by score.
    ///
    /// Every match is scored, and in the same way on every page. Pruning would sum scores in an order that depends on the
    /// page, and the last bit of a score decides where the next page starts.
    fn collect_scored(&mut self, weight: &dyn Weight, segment: SearchableSegment<'a>) -> Result<(), SearchError> {
        let filter = RangeFilter::new(segment, self.request);
        let alive = segment.reader().alive_bitset();
        let mut facets = self.facets_of(segment)?;
        let mut scorer = weight.scorer(segment.reader(), 1.0).map_err(|e| unusable(&e))?;
        let mut seen = 0u64;
        while scorer.doc() != TERMINATED {
            let doc = scorer.doc();
            seen += 1;
            if seen.is_multiple_of(DOCS_PER_DEADLINE_CHECK) {
                self.deadline.check()?;
            }
            let shown = alive.is_none_or(|alive| alive.is_alive(doc));
            if shown && filter.as_ref().is_none_or(|filter| filter.contains(doc)) {
                self.collect_hit(segment, doc, scorer.score(), facets.as_mut());
            }
            scorer.advance();
        }
        self.add_facets(facets)
    }

    fn collect_hit(
        &mut self,
        segment: SearchableSegment<'a>,
        doc: DocId,
        score: Score,
        facets: Option<&mut AggregationSegmentCollector>,
    ) {
        self.total += 1;
        if let Some(facets) = facets {
            facets.collect(doc, score);
        }
        if let Some(histogram) = &mut self.histogram {
            histogram.add(segment.sort_keys().first(doc).unwrap_or_default());
        }
        self.top_k.push(segment, doc, SortKey::of_score(score), Some(score));
    }

    fn facets_of(&self, segment: SearchableSegment<'a>) -> Result<Option<AggregationSegmentCollector>, SearchError> {
        self.facets.as_ref().map(|facets| facets.segment(segment.reader())).transpose()
    }

    fn add_facets(&mut self, counted: Option<AggregationSegmentCollector>) -> Result<(), SearchError> {
        match (&mut self.facets, counted) {
            (Some(facets), Some(counted)) => facets.add(counted),
            _ => Ok(()),
        }
    }
}

/// Moves the documents that are shown to the front and returns how many they are.
fn retain_shown(docs: &mut [DocId], segment: SearchableSegment<'_>, filter: Option<&RangeFilter<'_>>) -> usize {
    let alive = segment.reader().alive_bitset();
    if alive.is_none() && filter.is_none() {
        return docs.len();
    }
    let mut kept = 0;
    for at in 0..docs.len() {
        let doc = docs[at];
        let shown = alive.is_none_or(|alive| alive.is_alive(doc));
        if shown && filter.is_none_or(|filter| filter.contains(doc)) {
            docs[kept] = doc;
            kept += 1;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering},
        },
        time::Duration,
    };

    use tantivy::{SegmentReader, query::Explanation};

    use super::*;
    use crate::segment::testing::{TestIndex, plain, token};

    /// Matches one document a million times, and counts.
    struct EndlessScorer(Arc<AtomicU64>);

    impl Weight for EndlessScorer {
        fn scorer(&self, _: &SegmentReader, _: Score) -> tantivy::Result<Box<dyn Scorer>> {
            Ok(Box::new(Self(self.0.clone())))
        }

        fn explain(&self, _: &SegmentReader, _: DocId) -> tantivy::Result<Explanation> {
            unreachable!("no explanation is requested")
        }
    }

    impl DocSet for EndlessScorer {
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

    impl Scorer for EndlessScorer {
        fn score(&mut self) -> Score {
            1.0
        }
    }

    #[tokio::test]
    async fn scoring_ends_soon_after_the_deadline() {
        let mut world = TestIndex::new().await;
        world.publish(vec![plain(token(1, 1))]).await;
        let index = world.engine.open_manifest(world.manifest()).await.unwrap();
        let request = SearchRequest {
            sort: SortOrder::Relevance,
            facets: Vec::new(),
            histogram: false,
            ..SearchRequest::default()
        };
        let mut collector = MatchCollector {
            request: &request,
            top_k: TopK::new(&request, None),
            total: 0,
            facets: FacetCounter::new(&request.facets).unwrap(),
            histogram: None,
            deadline: QueryDeadline::after(Duration::ZERO),
        };
        let walked = Arc::new(AtomicU64::new(0));
        let segment = SearchableSegment::Sealed(&index, &index.segments[0]);
        let error = collector.collect_scored(&EndlessScorer(walked.clone()), segment).unwrap_err();
        assert!(matches!(error, SearchError::Overloaded { .. }), "{error}");
        assert!(walked.load(Ordering::Relaxed) < DOCS_PER_DEADLINE_CHECK);
    }
}

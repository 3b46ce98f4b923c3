//! Collects the matches of a query over all segments: counts, facets and the best hits in one pass, within a deadline.

use std::cmp::Reverse;

use roaring::RoaringBitmap;
use tantivy::{
    COLLECT_BLOCK_BUFFER_LEN, DocId, DocSet, Score, TERMINATED, aggregation::AggregationSegmentCollector,
    collector::SegmentCollector, columnar::Column, fastfield::AliveBitSet, query::Weight,
};

use super::{
    api::{HistogramTime, SearchRequest, SortOrder},
    error::SearchError,
    facets::FacetCounter,
    histogram::{ClientTimeHistogram, MatchHistogram, TimeHistogram},
    limits::QueryDeadline,
    query_compiler::unusable,
    searchable_segment::{RangeFilter, SearchableSegment},
    sort_key::SortKey,
    top_k::{HitCandidate, SegmentBest, TopK},
    word_query::{ScoredDocs, WeightedWords},
};

/// How many documents are looked at between two checks of the deadline, at least.
const DOCS_PER_DEADLINE_CHECK: usize = 2048;

/// All matches of a query, counted, and the page of the best.
pub(crate) struct QueryMatches<'a> {
    pub(crate) total: u64,
    /// The page, in order.
    pub(crate) best: Vec<HitCandidate<'a>>,
    /// Whether there are sealed hits after the page.
    pub(crate) more: bool,
    pub(crate) facets: Option<FacetCounter>,
    pub(crate) histogram: Option<MatchHistogram>,
}

/// Whether the hits of a request are ordered by their score, so that scores are needed at all.
pub(crate) fn is_scored(request: &SearchRequest) -> bool {
    request.sort == SortOrder::Relevance && request.size.get() > 0
}

/// How the matches of a query are found.
pub(crate) enum MatchSource {
    /// Each match in turn: with its score where the request needs it.
    Each(Box<dyn Weight>),
    /// By the words of a query of nothing else, each match with its score.
    Words(WeightedWords),
}

/// Collects what `source` matches in `segments`, those with the newest tokens last. Hits at or before `after` are counted,
/// but not answered. Blocks.
pub(crate) fn collect<'a>(
    source: &MatchSource,
    mut segments: Vec<SearchableSegment<'a>>,
    request: &SearchRequest,
    after: Option<SortKey>,
    deadline: QueryDeadline,
) -> Result<QueryMatches<'a>, SearchError> {
    let mut collector = MatchCollector {
        request,
        top_k: TopK::new(request, after),
        total: 0,
        facets: FacetCounter::new(&request.facets, &request.attribute_facets)?,
        histogram: request.histogram.then(|| histogram(&segments, request)),
        deadline,
    };
    // In the order of the hits, or near to it: once the page is full, the segments behind it are only counted. Of hits with one
    // score those with the largest numbers come first.
    match request.sort {
        SortOrder::Newest | SortOrder::ClientTime => segments.reverse(),
        SortOrder::Oldest | SortOrder::ClientTimeOldest => {}
        SortOrder::Relevance => segments.sort_by_key(|segment| Reverse(segment.number(0))),
    }
    for segment in segments {
        deadline.check()?;
        collector.collect_segment(source, segment)?;
    }
    Ok(collector.finish())
}

fn histogram(segments: &[SearchableSegment<'_>], request: &SearchRequest) -> MatchHistogram {
    if request.histogram_by == HistogramTime::ClientTime {
        return MatchHistogram::Client(ClientTimeHistogram::default());
    }
    let first = segments.iter().map(|segment| segment.first().second()).min().unwrap_or_default();
    let last = segments.iter().map(|segment| segment.last().second()).max().unwrap_or_default();
    let from = request.from.map_or(first, |from| first.max(from.second()));
    let to = request.to.map_or(last, |to| last.min(to.second()));
    MatchHistogram::Token(TimeHistogram::new(from, to))
}

/// One pass over all segments of a query.
struct MatchCollector<'a, 'r> {
    request: &'r SearchRequest,
    top_k: TopK<'a>,
    total: u64,
    facets: Option<FacetCounter>,
    histogram: Option<MatchHistogram>,
    deadline: QueryDeadline,
}

impl<'a, 'r> MatchCollector<'a, 'r> {
    fn finish(self) -> QueryMatches<'a> {
        let (best, more) = self.top_k.finish();
        QueryMatches { total: self.total, best, more, facets: self.facets, histogram: self.histogram }
    }

    fn collect_segment(&mut self, source: &MatchSource, segment: SearchableSegment<'a>) -> Result<(), SearchError> {
        match source {
            MatchSource::Words(words) => self.collect_words(words, segment)?,
            MatchSource::Each(weight) if is_scored(self.request) => self.collect_scored(weight.as_ref(), segment)?,
            MatchSource::Each(weight) => self.collect_unscored(weight.as_ref(), segment)?,
        }
        // A phrase that met the deadline has ended early.
        self.deadline.check()
    }

    /// A segment whose hits are ordered by token. They are collected if they compete for the page.
    fn collect_unscored(&mut self, weight: &dyn Weight, segment: SearchableSegment<'a>) -> Result<(), SearchError> {
        let competes = self.top_k.can_compete(segment);
        let filter = RangeFilter::new(segment, self.request);
        if self.facets.is_none() && self.histogram.is_none() && !competes && filter.is_none() {
            self.total += u64::from(weight.count(segment.reader()).map_err(|e| unusable(&e))?);
            return Ok(());
        }
        let mut facets = self.facets_of(segment)?;
        let client_times = self.client_times_of(segment)?;
        for_each_shown(weight, segment, filter.as_ref(), self.deadline, |docs| {
            self.count_block(segment, docs, facets.as_mut(), client_times.as_ref(), competes);
        })?;
        self.add_facets(facets)
    }

    fn count_block(
        &mut self,
        segment: SearchableSegment<'a>,
        docs: &[DocId],
        facets: Option<&mut AggregationSegmentCollector>,
        client_times: Option<&Column<i64>>,
        competes: bool,
    ) {
        self.total += docs.len() as u64;
        if let Some(facets) = facets {
            facets.collect_block(docs);
        }
        if let Some(client_times) = client_times {
            self.count_client_times(segment, docs, client_times, competes);
        }
        let competes = competes && !self.request.sort.is_by_client_time();
        if !matches!(self.histogram, Some(MatchHistogram::Token(_))) && !competes {
            return;
        }
        let mut sort_keys = [None; COLLECT_BLOCK_BUFFER_LEN];
        let sort_keys = &mut sort_keys[..docs.len()];
        segment.tokens().sort_keys().first_vals(docs, sort_keys);
        for (doc, sort_key) in docs.iter().zip(sort_keys) {
            let sort_key = sort_key.unwrap_or_default();
            if let Some(MatchHistogram::Token(histogram)) = &mut self.histogram {
                histogram.add(sort_key);
            }
            if competes {
                self.top_k.push(segment, *doc, sort_key, None);
            }
        }
    }

    /// The part of [`count_block`](Self::count_block) that the clients' times are read for.
    fn count_client_times(
        &mut self,
        segment: SearchableSegment<'a>,
        docs: &[DocId],
        client_times: &Column<i64>,
        competes: bool,
    ) {
        let sort = self.request.sort;
        let mut seconds = [None; COLLECT_BLOCK_BUFFER_LEN];
        let seconds = &mut seconds[..docs.len()];
        client_times.first_vals(docs, seconds);
        for (doc, second) in docs.iter().zip(seconds) {
            if let (Some(MatchHistogram::Client(histogram)), Some(second)) = (&mut self.histogram, &second) {
                histogram.add(*second);
            }
            if competes && sort.is_by_client_time() {
                self.top_k.push(segment, *doc, SortKey::of_client_time(*second, sort), None);
            }
        }
    }

    /// The clients' times of a segment, if the request needs them.
    fn client_times_of(&self, segment: SearchableSegment<'a>) -> Result<Option<Column<i64>>, SearchError> {
        let is_counted = matches!(self.histogram, Some(MatchHistogram::Client(_)));
        if !is_counted && !self.request.sort.is_by_client_time() {
            return Ok(None);
        }
        segment.reader().fast_fields().i64("clientTime").map(Some).map_err(|e| unusable(&e))
    }

    /// A segment whose hits are ordered by score, of a query of words.
    fn collect_words(&mut self, words: &WeightedWords, segment: SearchableSegment<'a>) -> Result<(), SearchError> {
        let mut ranking = self.ranking(segment)?;
        words.score(segment.reader(), &mut ranking)?;
        ranking.finish()
    }

    /// A segment whose hits are ordered by score.
    ///
    /// Every match is scored, and in the same way on every page: the last bit of a score decides where the next page starts.
    fn collect_scored(&mut self, weight: &dyn Weight, segment: SearchableSegment<'a>) -> Result<(), SearchError> {
        let mut ranking = self.ranking(segment)?;
        let mut scorer = weight.scorer(segment.reader(), 1.0).map_err(|e| unusable(&e))?;
        let mut docs = [0; COLLECT_BLOCK_BUFFER_LEN];
        let mut scores = [0.0; COLLECT_BLOCK_BUFFER_LEN];
        let mut doc = scorer.doc();
        while doc != TERMINATED {
            let mut filled = 0;
            while doc != TERMINATED && filled < docs.len() {
                (docs[filled], scores[filled]) = (doc, scorer.score());
                filled += 1;
                doc = scorer.advance();
            }
            ranking.check(filled)?;
            ranking.take(&docs[..filled], &scores[..filled]);
        }
        ranking.finish()
    }

    fn ranking<'c>(&'c mut self, segment: SearchableSegment<'a>) -> Result<SegmentRanking<'a, 'c, 'r>, SearchError> {
        Ok(SegmentRanking {
            segment,
            filter: RangeFilter::new(segment, self.request),
            facets: self.facets_of(segment)?,
            client_times: self.client_times_of(segment)?,
            best: self.top_k.best_of(segment),
            shown: (Vec::new(), Vec::new()),
            unchecked: 0,
            collector: self,
        })
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

/// The matches of one segment whose hits are ordered by score.
struct SegmentRanking<'a, 'c, 'r> {
    segment: SearchableSegment<'a>,
    filter: Option<RangeFilter<'a>>,
    facets: Option<AggregationSegmentCollector>,
    client_times: Option<Column<i64>>,
    best: SegmentBest,
    /// Those of a block that are shown, and their scores.
    shown: (Vec<DocId>, Vec<Score>),
    /// Documents since the deadline was checked.
    unchecked: usize,
    collector: &'c mut MatchCollector<'a, 'r>,
}

impl ScoredDocs for SegmentRanking<'_, '_, '_> {
    fn check(&mut self, docs: usize) -> Result<(), SearchError> {
        self.unchecked += docs;
        if self.unchecked < DOCS_PER_DEADLINE_CHECK {
            return Ok(());
        }
        self.unchecked = 0;
        self.collector.deadline.check()
    }

    fn take(&mut self, docs: &[DocId], scores: &[Score]) {
        let alive = self.segment.reader().alive_bitset();
        if alive.is_none() && self.filter.is_none() {
            self.count(docs);
            self.best.collect(docs, scores);
            return;
        }
        let (mut shown, mut shown_scores) = std::mem::take(&mut self.shown);
        shown.clear();
        shown_scores.clear();
        for (doc, score) in docs.iter().zip(scores) {
            if is_shown(*doc, alive, self.filter.as_ref()) {
                shown.push(*doc);
                shown_scores.push(*score);
            }
        }
        self.count(&shown);
        self.best.collect(&shown, &shown_scores);
        self.shown = (shown, shown_scores);
    }
}

impl SegmentRanking<'_, '_, '_> {
    fn count(&mut self, docs: &[DocId]) {
        if self.facets.is_none() && self.collector.histogram.is_none() {
            self.collector.total += docs.len() as u64;
            return;
        }
        for block in docs.chunks(COLLECT_BLOCK_BUFFER_LEN) {
            self.collector.count_block(self.segment, block, self.facets.as_mut(), self.client_times.as_ref(), false);
        }
    }

    fn finish(self) -> Result<(), SearchError> {
        self.collector.top_k.add(self.segment, self.best);
        self.collector.add_facets(self.facets)
    }
}

fn is_shown(doc: DocId, alive: Option<&AliveBitSet>, filter: Option<&RangeFilter<'_>>) -> bool {
    alive.is_none_or(|alive| alive.is_alive(doc)) && filter.is_none_or(|filter| filter.contains(doc))
}

/// Calls `each` with the documents of a segment that `weight` matches and that are shown, in their order.
fn for_each_shown(
    weight: &dyn Weight,
    segment: SearchableSegment<'_>,
    filter: Option<&RangeFilter<'_>>,
    deadline: QueryDeadline,
    mut each: impl FnMut(&[DocId]),
) -> Result<(), SearchError> {
    let mut scorer = weight.scorer(segment.reader(), 1.0).map_err(|e| unusable(&e))?;
    let mut buffer = [0; COLLECT_BLOCK_BUFFER_LEN];
    loop {
        let filled = scorer.fill_buffer(&mut buffer);
        let kept = retain_shown(&mut buffer[..filled], segment, filter);
        each(&buffer[..kept]);
        // Also after the last ones: a phrase that met the deadline has ended early.
        deadline.check()?;
        if filled < buffer.len() {
            return Ok(());
        }
    }
}

/// The documents of a segment that `weight` matches and that `request` shows. Blocks.
pub(crate) fn shown_matches(
    weight: &dyn Weight,
    segment: SearchableSegment<'_>,
    request: &SearchRequest,
    deadline: QueryDeadline,
) -> Result<RoaringBitmap, SearchError> {
    let mut found = RoaringBitmap::new();
    let filter = RangeFilter::new(segment, request);
    for_each_shown(weight, segment, filter.as_ref(), deadline, |docs| found.extend(docs.iter().copied()))?;
    Ok(found)
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
        if is_shown(doc, alive, filter) {
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

    use tantivy::{
        SegmentReader, Term,
        query::{BooleanQuery, EnableScoring, Explanation, Occur, Query, Scorer, TermQuery},
        schema::IndexRecordOption,
    };
    use tidemark_ingest::OperationRecord;

    use super::*;
    use crate::{
        excludable_phrase::ExcludablePhraseQuery,
        search_context::schema_searcher,
        segment::{
            SchemaFields,
            testing::{TestIndex, plain, token},
        },
        term_lookup::{TermLookup, TermStatistics},
        word_query::WordQuery,
    };

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

    fn request() -> SearchRequest {
        SearchRequest { sort: SortOrder::Relevance, facets: Vec::new(), histogram: false, ..SearchRequest::default() }
    }

    fn late(request: &SearchRequest) -> MatchCollector<'_, '_> {
        MatchCollector {
            request,
            top_k: TopK::new(request, None),
            total: 0,
            facets: None,
            histogram: None,
            deadline: QueryDeadline::after(Duration::ZERO),
        }
    }

    #[tokio::test]
    async fn scoring_ends_soon_after_the_deadline() {
        let mut world = TestIndex::new().await;
        world.publish(vec![plain(token(1, 1))]).await;
        let index = world.engine.open_manifest(world.manifest()).await.unwrap();
        let request = request();
        let walked = Arc::new(AtomicU64::new(0));
        let segment = SearchableSegment::Sealed(&index, &index.segments[0]);
        let error = late(&request).collect_scored(&EndlessScorer(walked.clone()), segment).unwrap_err();
        assert!(matches!(error, SearchError::Overloaded { .. }), "{error}");
        assert!(walked.load(Ordering::Relaxed) < 4096);
    }

    #[tokio::test]
    async fn a_query_of_words_ends_soon_after_the_deadline_in_the_middle_of_a_segment() {
        let mut world = TestIndex::new().await;
        let records = (0..9000).map(|n| OperationRecord { message: Some("tide".to_owned()), ..plain(token(1, n)) });
        world.publish(records.collect()).await;
        let index = world.engine.open_manifest(world.manifest()).await.unwrap();
        let segment = SearchableSegment::Sealed(&index, &index.segments[0]);
        let lookup = TermLookup::new(&index, &Arc::default(), QueryDeadline::after(Duration::ZERO));
        let statistics = TermStatistics::new(&index, &[], &lookup);
        let fields = SchemaFields::current();
        let term =
            || Box::new(TermQuery::new(Term::from_field_text(fields.message, "tide"), IndexRecordOption::WithFreqs));
        let both = |occur| -> Box<dyn Query> { Box::new(BooleanQuery::new(vec![(occur, term()), (occur, term())])) };
        for query in [term(), both(Occur::Should), both(Occur::Must)] {
            let words = WordQuery::of(query.as_ref(), &fields.schema).unwrap();
            let words = WeightedWords::new(words, &lookup, &statistics).unwrap();
            let request = request();
            let mut collector = late(&request);
            let error = collector.collect_words(&words, segment).unwrap_err();
            assert!(matches!(error, SearchError::Overloaded { .. }), "{error}");
            assert!(collector.total < 9000, "{}", collector.total);
        }
    }

    #[tokio::test]
    async fn a_query_that_ends_after_the_deadline_is_not_answered_whatever_it_found() {
        let mut world = TestIndex::new().await;
        let record = OperationRecord { message: Some("tide x gauge".to_owned()), ..plain(token(1, 1)) };
        world.publish(vec![record]).await;
        let index = world.engine.open_manifest(world.manifest()).await.unwrap();
        let segment = SearchableSegment::Sealed(&index, &index.segments[0]);
        let lookup = TermLookup::new(&index, &Arc::default(), QueryDeadline::after(Duration::from_hours(1)));
        let statistics = TermStatistics::new(&index, &[], &lookup);
        let fields = SchemaFields::current();
        let term = |text: &str| Term::from_field_text(fields.message, text);
        // Nothing is found, so that no document is an occasion to check the deadline.
        let query = ExcludablePhraseQuery::new(vec![(0, term("tide")), (1, term("gauge"))], 0);
        let schema = schema_searcher().unwrap();
        let words = WordQuery::of(&query, &fields.schema).unwrap();
        let words = MatchSource::Words(WeightedWords::new(words, &lookup, &statistics).unwrap());
        let weight = lookup.wrap(&query).weight(EnableScoring::disabled_from_searcher(&schema)).unwrap();
        let each = MatchSource::Each(weight);
        let newest = SearchRequest { sort: SortOrder::Newest, ..request() };
        let filtered = SearchRequest { from: Some(token(1, 0)), ..newest.clone() };
        for (source, request) in [(&words, &request()), (&each, &request()), (&each, &newest), (&each, &filtered)] {
            let error = late(request).collect_segment(source, segment).unwrap_err();
            assert!(matches!(error, SearchError::Overloaded { .. }), "{error}");
        }
        let MatchSource::Each(weight) = &each else { unreachable!() };
        let late = QueryDeadline::after(Duration::ZERO);
        assert!(shown_matches(weight.as_ref(), segment, &newest, late).is_err());
    }
}

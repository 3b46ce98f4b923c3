//! The matches of a query in the order of tokens, some at a time. Each segment is searched once.
//!
//! A segment is searched when the order reaches its first token. Its matches stay in a set, a bit for each of its documents at most,
//! until they are taken. Most documents of a segment lie in the order of tokens, but corrections do not; so blocks of documents are
//! read in the order of the first token that is left in each, and the others are not.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use roaring::RoaringBitmap;
use tantivy::{DocId, query::Weight};

use super::{
    api::SearchRequest, error::SearchError, limits::QueryDeadline, match_collector::shown_matches,
    searchable_segment::SearchableSegment, top_k::BestRanked,
};
use crate::segment::token_sort_key;

/// Documents of a block, by their numbers.
const BLOCK_DOCS: u32 = 1024;

/// The matches of a query that were not taken yet. Segments are named by their places in the slice that every call is given.
pub(crate) struct OldestMatches {
    /// What is left, the oldest on top.
    queue: BinaryHeap<Reverse<QueuedMatches>>,
    /// The matches that are left of each segment that was searched.
    left: HashMap<usize, RoaringBitmap>,
    #[cfg(test)]
    blocks_read: u64,
}

/// Matches that come no earlier than a token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct QueuedMatches {
    /// The sort key of the token.
    first: u64,
    segment: usize,
    /// The block that holds them; `None` for a segment that was not searched yet.
    block: Option<u32>,
}

impl OldestMatches {
    /// All matches in `segments`.
    pub(crate) fn new(segments: &[SearchableSegment<'_>]) -> Self {
        let unsearched = |(place, segment): (usize, &SearchableSegment<'_>)| {
            Reverse(QueuedMatches { first: token_sort_key(&segment.first()), segment: place, block: None })
        };
        Self {
            queue: segments.iter().enumerate().map(unsearched).collect(),
            left: HashMap::new(),
            #[cfg(test)]
            blocks_read: 0,
        }
    }

    /// Whether all were taken. A segment that was not searched yet may still turn out to have none.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The next matches of `weight` that `request` shows: `count` of them, or all that are left. Blocks.
    pub(crate) fn take(
        &mut self,
        count: usize,
        segments: &[SearchableSegment<'_>],
        weight: &dyn Weight,
        request: &SearchRequest,
        deadline: QueryDeadline,
    ) -> Result<Vec<(usize, DocId)>, SearchError> {
        let mut oldest = BestRanked::new(count);
        let mut read = Vec::new();
        while let Some(Reverse(next)) = self.queue.peek().copied() {
            if oldest.worst().is_some_and(|newest| next.first > newest.reversed().0) {
                break;
            }
            deadline.check()?;
            self.queue.pop();
            let segment = segments[next.segment];
            let Some(block) = next.block else {
                self.left.insert(next.segment, shown_matches(weight, segment, request, deadline)?);
                self.queue_blocks(next.segment, segment);
                continue;
            };
            for doc in self.left_in(next.segment, block) {
                let key = segment.token_key(doc, segment.tokens().sort_key(doc));
                oldest.push(key.reversed(), (next.segment, doc));
            }
            read.push((next.segment, block));
        }
        let taken: Vec<_> = oldest.into_values().collect();
        for (place, doc) in &taken {
            if let Some(left) = self.left.get_mut(place) {
                left.remove(*doc);
            }
        }
        #[cfg(test)]
        {
            self.blocks_read += read.len() as u64;
        }
        for (place, block) in read {
            self.queue_block(place, segments[place], block);
        }
        Ok(taken)
    }

    /// The documents of a block that are left.
    fn left_in(&self, place: usize, block: u32) -> impl Iterator<Item = DocId> {
        let docs = block * BLOCK_DOCS..=block * BLOCK_DOCS + (BLOCK_DOCS - 1);
        self.left.get(&place).into_iter().flat_map(move |left| left.range(docs.clone()))
    }

    /// Queues a block again, unless it is empty.
    fn queue_block(&mut self, place: usize, segment: SearchableSegment<'_>, block: u32) {
        let first = self.left_in(place, block).map(|doc| segment.tokens().sort_key(doc)).min();
        self.queue.extend(first.map(|first| Reverse(QueuedMatches { first, segment: place, block: Some(block) })));
    }

    fn queue_blocks(&mut self, place: usize, segment: SearchableSegment<'_>) {
        for block in 0..segment.reader().max_doc().div_ceil(BLOCK_DOCS) {
            self.queue_block(place, segment, block);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        time::Duration,
    };

    use proptest::{collection::vec, prelude::*};
    use tantivy::{
        Score, SegmentReader,
        query::{AllQuery, EnableScoring, Explanation, Query, Scorer},
    };
    use tidemark_ingest::OperationRecord;
    use tidemark_wal::Token;

    use super::*;
    use crate::segment::{
        SchemaFields,
        testing::{TestIndex, plain, token},
    };

    /// Matches all documents, and counts the segments that it searches.
    struct CountingWeight(Box<dyn Weight>, AtomicU32);

    impl CountingWeight {
        fn new() -> Self {
            let schema = SchemaFields::current().schema;
            Self(AllQuery.weight(EnableScoring::disabled_from_schema(&schema)).unwrap(), AtomicU32::new(0))
        }
    }

    impl Weight for CountingWeight {
        fn scorer(&self, reader: &SegmentReader, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.scorer(reader, boost)
        }

        fn explain(&self, _: &SegmentReader, _: DocId) -> tantivy::Result<Explanation> {
            unreachable!("no explanation is requested")
        }
    }

    fn later() -> QueryDeadline {
        QueryDeadline::after(Duration::from_hours(1))
    }

    #[tokio::test]
    async fn a_large_segment_is_searched_once_and_each_take_reads_few_of_its_blocks() {
        let mut world = TestIndex::new().await;
        let mut records: Vec<OperationRecord> = (0..8192).map(|n| plain(token(2, n))).collect();
        // As a correction has it: an old token in the midst of newer ones.
        records[5000] = plain(token(1, 0));
        world.publish(records).await;
        let index = world.engine.open_manifest(world.manifest()).await.unwrap();
        let segments = [SearchableSegment::Sealed(&index, &index.segments[0])];
        let (request, weight) = (SearchRequest::default(), CountingWeight::new());
        let mut matches = OldestMatches::new(&segments);
        let mut docs = Vec::new();
        loop {
            let taken = matches.take(64, &segments, &weight, &request, later()).unwrap();
            docs.extend(taken.iter().map(|(_, doc)| *doc));
            if taken.len() < 64 {
                break;
            }
        }
        assert_eq!(docs[..3], [5000, 0, 1]);
        assert_eq!(docs.len(), 8192);
        assert_eq!(weight.1.load(Ordering::Relaxed), 1);
        // 129 takes of a block or two, of 8.
        assert!(matches.blocks_read < 150, "{}", matches.blocks_read);
    }

    #[tokio::test]
    async fn a_take_ends_at_the_deadline_and_later_segments_are_not_searched() {
        let mut world = TestIndex::new().await;
        for second in 0..3 {
            world.publish((0..10).map(|n| plain(token(second, n))).collect()).await;
        }
        let index = world.engine.open_manifest(world.manifest()).await.unwrap();
        let segments: Vec<_> = index.segments.iter().map(|view| SearchableSegment::Sealed(&index, view)).collect();
        let (request, weight) = (SearchRequest::default(), CountingWeight::new());
        let mut matches = OldestMatches::new(&segments);
        assert_eq!(matches.take(5, &segments, &weight, &request, later()).unwrap().len(), 5);
        assert_eq!(weight.1.load(Ordering::Relaxed), 1);
        let late = matches.take(5, &segments, &weight, &request, QueryDeadline::after(Duration::ZERO));
        assert!(matches!(late, Err(SearchError::Overloaded { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn matches_are_taken_in_the_order_of_tokens_however_they_lie(
            segments in vec(vec((0u64..50, 0u32..5), 1..40), 1..4), count in 1usize..30,
        ) {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let mut world = TestIndex::new().await;
                let mut all: Vec<Token> = Vec::new();
                for (batch, number) in segments.into_iter().zip(0..) {
                    // Each token once: there is no correction among them.
                    let mut tokens: Vec<Token> = batch.into_iter().map(|(second, n)| token(second, 10 * n + number)).collect();
                    tokens.retain(|token| !all.contains(token) && { all.push(*token); true });
                    if !tokens.is_empty() {
                        world.publish(tokens.into_iter().map(plain).collect()).await;
                    }
                }
                let index = world.engine.open_manifest(world.manifest()).await.unwrap();
                let segments: Vec<_> = index.segments.iter().map(|view| SearchableSegment::Sealed(&index, view)).collect();
                let (request, weight) = (SearchRequest::default(), CountingWeight::new());
                let mut matches = OldestMatches::new(&segments);
                let mut found = Vec::new();
                loop {
                    let taken = matches.take(count, &segments, &weight, &request, later()).unwrap();
                    found.extend(taken.iter().map(|(place, doc)| segments[*place].tokens().token(*doc)));
                    if taken.len() < count {
                        break;
                    }
                }
                all.sort();
                prop_assert_eq!(found, all);
                prop_assert_eq!(weight.1.load(Ordering::Relaxed) as usize, segments.len());
                Ok(())
            })?;
        }
    }
}

//! Counts over all matches: values of facets, and the histogram over time.

use std::collections::BTreeMap;

use serde_json::json;
use tantivy::{
    SegmentReader, TantivyError,
    aggregation::{
        AggContextParams, AggregationLimitsGuard, AggregationSegmentCollector,
        agg_req::Aggregations,
        agg_result::{AggregationResult, BucketResult},
        intermediate_agg_result::IntermediateAggregationResults,
    },
    collector::SegmentCollector,
};
use tidemark_store::StoreSecond;

use super::{
    api::{FacetCount, FacetField, HistogramBucket, MAX_FACET_VALUES, MAX_HISTOGRAM_BUCKETS, instant},
    error::SearchError,
};
use crate::segment::{second_of_sort_key, tokenizers};

/// Memory that the facets of one search may take.
const MAX_FACET_MEMORY_BYTES: u64 = 64 << 20;
/// Values of one facet that are counted per segment; beyond that the rarest are left out.
const MAX_VALUES_PER_SEGMENT: u32 = 10_000;
/// Buckets of a histogram while it is counted.
const MAX_COUNTED_BUCKETS: u64 = 4096;
/// Widths of buckets in seconds: 1 s to 7 days by familiar steps, then by multiples of weeks. Each divides the next.
const WIDTHS_SECS: [u64; 14] =
    [1, 5, 30, 60, 300, 1800, 3600, 10_800, 43_200, 86_400, 604_800, 2_419_200, 29_030_400, 290_304_000];

/// Counts the values of facets.
pub(crate) struct FacetCounter {
    request: Aggregations,
    context: AggContextParams,
    sum: Option<IntermediateAggregationResults>,
}

impl FacetCounter {
    /// `None` if nothing is to be counted.
    pub(crate) fn new(facets: &[FacetField]) -> Result<Option<Self>, SearchError> {
        if facets.is_empty() {
            return Ok(None);
        }
        let named = facets.iter().map(|facet| {
            let terms = json!({"terms": {
                "field": facet.name(), "size": 1000, "segment_size": MAX_VALUES_PER_SEGMENT
            }});
            (facet.name().to_owned(), terms)
        });
        let request = serde_json::Value::Object(named.collect());
        let request = serde_json::from_value(request).map_err(|e| internal(&e))?;
        let limits = AggregationLimitsGuard::new(Some(MAX_FACET_MEMORY_BYTES), None);
        Ok(Some(Self { request, context: AggContextParams::new(limits, tokenizers()), sum: None }))
    }

    /// A counter for one segment.
    pub(crate) fn segment(&self, reader: &SegmentReader) -> Result<AggregationSegmentCollector, SearchError> {
        AggregationSegmentCollector::from_agg_req_and_reader(&self.request, reader, 0, &self.context)
            .map_err(|e| over_limit(&e))
    }

    /// Adds what was counted in one segment.
    pub(crate) fn add(&mut self, segment: AggregationSegmentCollector) -> Result<(), SearchError> {
        let counted = segment.harvest().map_err(|e| over_limit(&e))?;
        if let Some(sum) = &mut self.sum {
            return sum.merge_fruits(counted).map_err(|e| over_limit(&e));
        }
        self.sum = Some(counted);
        Ok(())
    }

    /// The values by facet, the most frequent first.
    pub(crate) fn finish(self) -> Result<BTreeMap<String, Vec<FacetCount>>, SearchError> {
        let Some(sum) = self.sum else {
            return Ok(BTreeMap::new());
        };
        let results = sum.into_final_result(self.request, self.context.limits).map_err(|e| over_limit(&e))?;
        Ok(results.0.into_iter().map(|(name, result)| (name, values(result))).collect())
    }
}

fn values(result: AggregationResult) -> Vec<FacetCount> {
    let AggregationResult::BucketResult(BucketResult::Terms { buckets, .. }) = result else {
        return Vec::new();
    };
    let counts =
        buckets.into_iter().map(|bucket| FacetCount { value: bucket.key.to_string(), count: bucket.doc_count });
    let mut counts: Vec<_> = counts.filter(|count| count.count > 0).collect();
    counts.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.value.cmp(&b.value)));
    counts.truncate(MAX_FACET_VALUES);
    counts
}

/// Counts matches over time.
pub(crate) struct TimeHistogram {
    width: usize,
    first: u64,
    counts: Vec<u64>,
}

impl TimeHistogram {
    /// A histogram for matches from second `from` to second `to`, both included.
    pub(crate) fn new(from: StoreSecond, to: StoreSecond) -> Self {
        let span = |width: u64| to.unix() / width - (from.unix() / width).min(to.unix() / width) + 1;
        let fits = WIDTHS_SECS.iter().position(|width| span(*width) <= MAX_COUNTED_BUCKETS);
        let width = fits.unwrap_or(WIDTHS_SECS.len() - 1);
        Self {
            width,
            first: from.unix() / WIDTHS_SECS[width],
            counts: vec![0; usize::try_from(span(WIDTHS_SECS[width])).unwrap_or(1)],
        }
    }

    /// Counts a match with this token sort key.
    pub(crate) fn add(&mut self, sort_key: u64) {
        let bucket = (second_of_sort_key(sort_key).unix() / WIDTHS_SECS[self.width]).saturating_sub(self.first);
        if let Some(count) = usize::try_from(bucket).ok().and_then(|at| self.counts.get_mut(at)) {
            *count += 1;
        }
    }

    /// The buckets from the first match to the last, of the smallest width that keeps them few enough.
    pub(crate) fn finish(self) -> Vec<HistogramBucket> {
        let found = self.counts.iter().zip(self.first..).filter(|(count, _)| **count > 0);
        let found: Vec<(u64, u64)> = found.map(|(count, bucket)| (bucket * WIDTHS_SECS[self.width], *count)).collect();
        let (Some((from, _)), Some((to, _))) = (found.first(), found.last()) else {
            return Vec::new();
        };
        let few = |width: &&u64| to / **width - from / **width < MAX_HISTOGRAM_BUCKETS as u64;
        let width = *WIDTHS_SECS[self.width..].iter().find(few).unwrap_or(&WIDTHS_SECS[WIDTHS_SECS.len() - 1]);
        let mut buckets: Vec<HistogramBucket> = (from / width..=to / width).map(|at| bucket(at, width)).collect();
        for (second, count) in &found {
            let at = usize::try_from(second / width - from / width).unwrap_or(usize::MAX);
            if let Some(bucket) = buckets.get_mut(at) {
                bucket.count += count;
            }
        }
        buckets
    }
}

fn bucket(at: u64, width: u64) -> HistogramBucket {
    HistogramBucket {
        from: instant(StoreSecond::from_unix(at * width)),
        to: instant(StoreSecond::from_unix((at + 1) * width)),
        count: 0,
    }
}

fn over_limit(error: &TantivyError) -> SearchError {
    match error {
        TantivyError::AggregationError(_) => SearchError::Overloaded {
            detail: format!("the facets of this search are too large ({error}); narrow it, or ask for fewer facets"),
        },
        other => internal(other),
    }
}

fn internal(error: &impl ToString) -> SearchError {
    SearchError::Internal { detail: error.to_string() }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use tidemark_wal::Token;

    use super::*;
    use crate::segment::token_sort_key;

    proptest! {
        #[test]
        fn a_histogram_counts_every_match_once_in_few_equal_buckets(seconds in vec(0u64..2_000_000_000, 1..60), spread in 1u64..1_000_000_000) {
            let seconds: Vec<StoreSecond> = seconds.iter().map(|s| StoreSecond::from_unix(1_400_000_000 + s % spread)).collect();
            let (from, to) = (*seconds.iter().min().unwrap(), *seconds.iter().max().unwrap());
            let mut histogram = TimeHistogram::new(from, to);
            for second in &seconds {
                histogram.add(token_sort_key(&Token::first_of(*second)));
            }
            let buckets = histogram.finish();
            prop_assert!(buckets.len() <= MAX_HISTOGRAM_BUCKETS);
            for bucket in &buckets {
                let inside = seconds.iter().filter(|s| bucket.from <= instant(**s) && instant(**s) < bucket.to).count();
                prop_assert_eq!(bucket.count, inside as u64);
            }
            prop_assert!(buckets.windows(2).all(|pair| pair[0].to == pair[1].from));
            prop_assert_eq!(buckets.iter().map(|b| b.count).sum::<u64>(), seconds.len() as u64);
            prop_assert!(buckets[0].count > 0 && buckets[buckets.len() - 1].count > 0);
        }
    }

    #[test]
    fn nothing_gives_no_bucket() {
        assert!(TimeHistogram::new(StoreSecond::from_unix(5), StoreSecond::from_unix(1)).finish().is_empty());
    }
}

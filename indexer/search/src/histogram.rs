//! Matches counted over time, by the second of their tokens or by the time that clients gave.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tidemark_store::StoreSecond;

use super::api::{HistogramBucket, MAX_HISTOGRAM_BUCKETS};
use crate::segment::second_of_sort_key;

/// Buckets of a histogram while it is counted.
/// More than an answer has: the span of the matches is known only at the end, when buckets are merged.
const MAX_COUNTED_BUCKETS: u64 = 4096;
/// Widths of buckets in seconds: 1 s to 7 days by familiar steps, then by multiples of weeks. Each divides the next. The last
/// ones are for clients' times, from the year 1 to 9999.
const WIDTHS_SECS: [u64; 16] = [
    1,
    5,
    30,
    60,
    300,
    1800,
    3600,
    10_800,
    43_200,
    86_400,
    604_800,
    2_419_200,
    29_030_400,
    290_304_000,
    2_903_040_000,
    29_030_400_000,
];

/// The first second of the year 1.
const FIRST_CLIENT_SECOND: i64 = -62_135_596_800;

/// Counts matches over time.
pub(crate) enum MatchHistogram {
    Token(TimeHistogram),
    Client(ClientTimeHistogram),
}

impl MatchHistogram {
    /// The buckets from the first match to the last.
    pub(crate) fn finish(self) -> Vec<HistogramBucket> {
        match self {
            Self::Token(histogram) => histogram.finish(),
            Self::Client(histogram) => histogram.finish(),
        }
    }
}

/// Counts matches by the second of their tokens.
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
        let found = found.map(|(count, bucket)| (bucket.cast_signed(), *count));
        few_buckets(&found.collect::<Vec<_>>(), self.width)
    }
}

/// Counts matches by the time that clients gave, which may lie anywhere: where one is absurd, the others keep narrow buckets as
/// long as they are few.
#[derive(Default)]
pub(crate) struct ClientTimeHistogram {
    width: usize,
    /// At most [`MAX_COUNTED_BUCKETS`].
    counts: BTreeMap<i64, u64>,
}

impl ClientTimeHistogram {
    /// Counts a match with this second of Unix time.
    pub(crate) fn add(&mut self, second: i64) {
        *self.counts.entry(second.div_euclid(width_secs(self.width))).or_default() += 1;
        while self.counts.len() as u64 > MAX_COUNTED_BUCKETS && self.width + 1 < WIDTHS_SECS.len() {
            let ratio = width_secs(self.width + 1) / width_secs(self.width);
            self.width += 1;
            for (bucket, count) in std::mem::take(&mut self.counts) {
                *self.counts.entry(bucket.div_euclid(ratio)).or_default() += count;
            }
        }
    }

    fn finish(self) -> Vec<HistogramBucket> {
        few_buckets(&self.counts.into_iter().collect::<Vec<_>>(), self.width)
    }
}

fn width_secs(width: usize) -> i64 {
    WIDTHS_SECS[width].cast_signed()
}

/// The buckets from the first of `found` to the last, of the smallest width that keeps them few enough. `found` has numbers of
/// buckets of the width `counted`, ascending, with their counts.
fn few_buckets(found: &[(i64, u64)], counted: usize) -> Vec<HistogramBucket> {
    let (Some((first, _)), Some((last, _))) = (found.first(), found.last()) else {
        return Vec::new();
    };
    let ratio = |width: &usize| width_secs(*width) / width_secs(counted);
    let count = |width: &usize| last.div_euclid(ratio(width)) - first.div_euclid(ratio(width)) + 1;
    let fits = (counted..WIDTHS_SECS.len()).find(|width| count(width) <= MAX_HISTOGRAM_BUCKETS.cast_signed() as i64);
    let width = fits.unwrap_or(WIDTHS_SECS.len() - 1);
    let (ratio, first) = (ratio(&width), first.div_euclid(ratio(&width)));
    let mut buckets: Vec<HistogramBucket> = (first..first + count(&width)).map(|at| bucket(at, width)).collect();
    for (bucket, count) in found {
        let at = usize::try_from(bucket.div_euclid(ratio) - first).unwrap_or(usize::MAX);
        if let Some(bucket) = buckets.get_mut(at) {
            bucket.count += count;
        }
    }
    buckets
}

fn bucket(at: i64, width: usize) -> HistogramBucket {
    HistogramBucket { from: bucket_bound(at, width), to: bucket_bound(at + 1, width), count: 0 }
}

/// Where a bucket begins. What lies before the year 1 or after 9999 is cut off, since a time in RFC 3339 cannot say it.
fn bucket_bound(at: i64, width: usize) -> Timestamp {
    Timestamp::from_second((at * width_secs(width)).max(FIRST_CLIENT_SECOND)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use tidemark_wal::Token;

    use super::*;
    use crate::{api::instant, segment::token_sort_key};

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

    proptest! {
        #[test]
        fn a_histogram_of_clients_times_counts_every_match_once(
            near in vec(0i64..40_000_000, 1..60),
            far in vec(FIRST_CLIENT_SECOND..253_402_300_800, 0..3),
            begin in FIRST_CLIENT_SECOND..253_000_000_000,
        ) {
            let seconds: Vec<i64> = near.iter().map(|second| begin + second).chain(far).collect();
            let mut histogram = ClientTimeHistogram::default();
            for second in &seconds {
                histogram.add(*second);
            }
            let buckets = histogram.finish();
            prop_assert!(buckets.len() <= MAX_HISTOGRAM_BUCKETS);
            for bucket in &buckets {
                let (from, to) = (bucket.from.as_second(), bucket.to.as_second());
                let inside = seconds.iter().filter(|second| from <= **second && (**second < to || bucket.to == Timestamp::MAX));
                prop_assert_eq!(bucket.count, inside.count() as u64);
            }
            prop_assert!(buckets.windows(2).all(|pair| pair[0].to == pair[1].from));
            prop_assert_eq!(buckets.iter().map(|bucket| bucket.count).sum::<u64>(), seconds.len() as u64);
        }
    }

    #[test]
    fn a_histogram_of_clients_times_takes_bounded_memory_and_keeps_every_count() {
        let mut histogram = ClientTimeHistogram::default();
        let times = (0..20_000).map(|n| FIRST_CLIENT_SECOND + n * 15_000_000);
        for second in times {
            histogram.add(second);
            assert!(histogram.counts.len() as u64 <= MAX_COUNTED_BUCKETS);
        }
        let buckets = histogram.finish();
        assert!(buckets.len() <= MAX_HISTOGRAM_BUCKETS);
        assert_eq!(buckets.iter().map(|bucket| bucket.count).sum::<u64>(), 20_000);
        assert_eq!(
            (buckets[0].from.to_string(), buckets[buckets.len() - 1].to),
            ("0001-01-01T00:00:00Z".to_owned(), Timestamp::MAX)
        );
    }

    #[test]
    fn nothing_gives_no_bucket() {
        assert!(ClientTimeHistogram::default().finish().is_empty());
        assert!(TimeHistogram::new(StoreSecond::from_unix(5), StoreSecond::from_unix(1)).finish().is_empty());
    }
}

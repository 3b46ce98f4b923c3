//! What a sample looks at, chosen by a seed: the same seed chooses the same of the same index.

use std::{collections::BTreeMap, ops::Range};

use tidemark_catalog::{LogCursor, Manifest, SegmentMeta};
use tidemark_store::Entropy;

/// The seqs of segments, each once, in an order that the seed chooses: so many of them from the start are a sample in which each is as
/// likely as any other. Takes memory for those that were drawn.
pub(super) struct ShuffledSeqs<'a> {
    entropy: &'a Entropy,
    ranges: Vec<Range<u64>>,
    /// How many were drawn, and how many there are.
    drawn: u64,
    total: u64,
    /// The steps of a shuffle, of an array whose other places hold their own numbers.
    moved: BTreeMap<u64, u64>,
}

impl<'a> ShuffledSeqs<'a> {
    pub(super) fn of<'s>(segments: impl IntoIterator<Item = &'s SegmentMeta>, entropy: &'a Entropy) -> Self {
        Self::of_ranges(segments.into_iter().map(|segment| segment.seq.clone()).collect(), entropy)
    }

    fn of_ranges(ranges: Vec<Range<u64>>, entropy: &'a Entropy) -> Self {
        let total = ranges.iter().map(length).sum();
        Self { entropy, ranges, drawn: 0, total, moved: BTreeMap::new() }
    }

    /// The seq with this number among all of them.
    fn seq(&self, mut number: u64) -> Option<u64> {
        for range in &self.ranges {
            if number < length(range) {
                return Some(range.start + number);
            }
            number -= length(range);
        }
        None
    }
}

impl Iterator for ShuffledSeqs<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        if self.drawn >= self.total {
            return None;
        }
        let (first, at) = (self.drawn, self.drawn + below(self.entropy, self.total - self.drawn));
        self.drawn += 1;
        let held = self.moved.remove(&first).unwrap_or(first);
        let number = if at == first { held } else { self.moved.insert(at, held).unwrap_or(at) };
        self.seq(number)
    }
}

fn length(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

/// The segments with entries at or above the floor, and perhaps some below.
pub(super) fn segments_above(manifest: &Manifest, floor: LogCursor) -> Vec<&SegmentMeta> {
    manifest.segments.iter().filter(|segment| !floor.covers(segment.last)).collect()
}

/// A number below `end`, which is above 0: each as likely as any other, but for less than one part in a billion.
pub(super) fn below(entropy: &Entropy, end: u64) -> u64 {
    let wide = u128::from(u64::from_be_bytes(entropy.bytes())) * u128::from(end);
    u64::try_from(wide >> 64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_seq_is_drawn_once_and_the_seed_decides_when(lengths in prop::collection::vec(0_u64..9, 0..8), seed: u64) {
            let ends = lengths.iter().scan(1, |at, length| { *at += length; Some(*at) });
            let ranges: Vec<_> = ends.zip(&lengths).map(|(end, length)| end - length..end).collect();
            let draw = |seed| ShuffledSeqs::of_ranges(ranges.clone(), &Entropy::seeded(seed)).collect::<Vec<_>>();
            let drawn = draw(seed);
            prop_assert_eq!(&draw(seed), &drawn);
            let mut sorted = drawn.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, ranges.iter().cloned().flatten().collect::<Vec<_>>());
        }
    }

    #[test]
    fn seeds_draw_differently_and_each_seq_as_often() {
        let mut counts = [0_u32; 40];
        for seed in 0..2000 {
            let entropy = Entropy::seeded(seed);
            for seq in ShuffledSeqs::of_ranges(vec![0..10, 10..11, 11..40], &entropy).take(10) {
                counts[usize::try_from(seq).unwrap()] += 1;
            }
        }
        // 500 times each, give or take five times the deviation of 19.
        assert!(counts.iter().all(|count| (400..600).contains(count)), "{counts:?}");
    }
}

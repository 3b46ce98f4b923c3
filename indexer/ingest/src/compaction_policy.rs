//! What to compact: size tiers, as pure functions.
//!
//! A segment of `w` documents is in tier `floor(log8(w))`. Whenever a run of neighbours, none above tier `t`, holds
//! eight of tier `t`, the run becomes one segment of at least the next tier. Each rewrite lifts a document by a
//! tier, so that a document is rewritten a logarithmic number of times. Neighbours only, because then the seq ranges of
//! segments always ascend without overlap.

use std::ops::Range;

/// How many objects of a tier make one of the next.
const FAN_IN: usize = 8;

/// Decides what to merge among objects of one kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CompactionPolicy {
    /// A merge never makes a heavier object.
    pub(crate) max_weight: u64,
    /// With more objects than this, the cheapest neighbours are merged although they are of different tiers.
    pub(crate) max_objects: usize,
}

impl CompactionPolicy {
    /// The policy of segments, which weigh their documents.
    pub(crate) const SEGMENTS: Self = Self { max_weight: 8 * 1024 * 1024, max_objects: 96 };
    /// The policy of sidecars, which weigh their marks.
    pub(crate) const SIDECARS: Self = Self { max_weight: u64::MAX, max_objects: 32 };

    /// Which neighbours among objects of these weights to merge now.
    pub(crate) fn plan(&self, weights: &[u64]) -> Option<Range<usize>> {
        let highest = weights.iter().map(|&weight| tier_of(weight)).max()?;
        (0..=highest).find_map(|tier| self.full_run(weights, tier)).or_else(|| self.cheapest_run(weights))
    }

    /// The first run of neighbours up to `tier` that holds enough of exactly that tier.
    fn full_run(&self, weights: &[u64], tier: u32) -> Option<Range<usize>> {
        let (mut start, mut members, mut total) = (0, 0, 0u64);
        for (at, &weight) in weights.iter().enumerate() {
            let of = tier_of(weight);
            if of > tier || total.saturating_add(weight) > self.max_weight {
                (start, members, total) = (at + 1, 0, 0);
                if of > tier || weight > self.max_weight {
                    continue;
                }
                start = at;
            }
            total = total.saturating_add(weight);
            members += usize::from(of == tier);
            if members == FAN_IN {
                return Some(start..at + 1);
            }
        }
        None
    }

    /// The lightest [`FAN_IN`] neighbours, when there are too many objects.
    fn cheapest_run(&self, weights: &[u64]) -> Option<Range<usize>> {
        if weights.len() <= self.max_objects {
            return None;
        }
        let sum = |at: usize| weights[at..at + FAN_IN].iter().fold(0u64, |sum, &weight| sum.saturating_add(weight));
        (0..=weights.len().checked_sub(FAN_IN)?)
            .map(|at| (sum(at), at))
            .filter(|&(total, _)| total <= self.max_weight)
            .min()
            .map(|(_, at)| at..at + FAN_IN)
    }
}

fn tier_of(weight: u64) -> u32 {
    weight.checked_ilog(FAN_IN as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: CompactionPolicy = CompactionPolicy { max_weight: u64::MAX, max_objects: usize::MAX };

    /// Appends the batches one by one, compacting to rest after each; gives the weights at the end and how often the
    /// most rewritten document was rewritten.
    fn grow(policy: CompactionPolicy, batches: &[u64]) -> (Vec<u64>, u32, usize) {
        let (mut objects, mut longest) = (Vec::<(u64, u32)>::new(), 0);
        for &batch in batches {
            objects.push((batch, 0));
            while let Some(run) = policy.plan(&objects.iter().map(|object| object.0).collect::<Vec<_>>()) {
                assert!(run.len() > 1, "a merge of one object makes no progress");
                let merged =
                    objects[run.clone()].iter().fold((0, 0), |sum, object| (sum.0 + object.0, object.1.max(sum.1)));
                objects.splice(run, [(merged.0, merged.1 + 1)]);
            }
            longest = longest.max(objects.len());
        }
        let rewrites = objects.iter().map(|object| object.1).max().unwrap_or(0);
        (objects.into_iter().map(|object| object.0).collect(), rewrites, longest)
    }

    proptest! {
        #[test]
        fn a_document_is_rewritten_a_logarithmic_number_of_times(
            batches in prop::collection::vec(prop_oneof![4 => 1u64..16, 2 => 16u64..256, 1 => 256u64..5000], 0..600)
        ) {
            let total: u64 = batches.iter().sum();
            let (objects, rewrites, _) = grow(POLICY, &batches);
            prop_assert_eq!(objects.iter().sum::<u64>(), total);
            let tiers = tier_of(total);
            prop_assert!(rewrites <= tiers, "{} rewrites, {} tiers", rewrites, tiers);
        }

        #[test]
        fn like_batches_leave_a_logarithmic_number_of_objects(size in 1u64..1000, count in 1usize..2000) {
            let (_, _, longest) = grow(POLICY, &vec![size; count]);
            let tiers = tier_of(size * count as u64) as usize + 1;
            prop_assert!(longest <= tiers * FAN_IN, "{} objects, {} tiers", longest, tiers);
        }

        #[test]
        fn the_number_of_objects_is_bounded_whatever_their_sizes(
            batches in prop::collection::vec(1u64..100_000, 0..300)
        ) {
            let (_, _, longest) = grow(CompactionPolicy { max_objects: 20, ..POLICY }, &batches);
            prop_assert!(longest <= 20);
        }

        #[test]
        fn nothing_heavier_than_the_largest_is_made(weights in prop::collection::vec(1u64..3000, 0..60)) {
            let policy = CompactionPolicy { max_weight: 2000, max_objects: 10 };
            if let Some(run) = policy.plan(&weights) {
                prop_assert!(weights[run].iter().sum::<u64>() <= 2000);
            }
        }
    }
}

//! What to compact: size tiers, as pure functions.
//!
//! A segment of `w` documents is in tier `floor(log8(w))`. Whenever a run of neighbours, none above tier `t`, holds
//! eight of tier `t`, the run becomes one segment of at least the next tier. Each rewrite lifts a document by a
//! tier, so that a document is rewritten a logarithmic number of times. Neighbours only, because then the seq ranges of
//! segments always ascend without overlap.
//!
//! No output is larger than a bound on documents and on bytes. A run that would grow over the bound is compacted as it is, and is
//! then more than half as large as the bound: it is full, and is not rewritten again.

use std::ops::Range;

/// How many objects of a tier make one of the next.
const FAN_IN: usize = 8;

/// One object, as the policy sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ObjectWeight {
    /// What its tier is made of: documents or marks.
    pub(crate) items: u64,
    /// Its size.
    pub(crate) bytes: u64,
    /// Whether it may be an input. One that may not separates its neighbours.
    pub(crate) available: bool,
}

impl ObjectWeight {
    fn plus(self, other: &Self) -> Self {
        Self {
            items: self.items.saturating_add(other.items),
            bytes: self.bytes.saturating_add(other.bytes),
            available: self.available,
        }
    }

    /// What all of `objects` weigh together.
    pub(crate) fn sum(objects: &[Self]) -> Self {
        objects.iter().fold(Self { items: 0, bytes: 0, available: true }, Self::plus)
    }
}

/// Decides what to compact among objects of one kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CompactionPolicy {
    /// A compaction never makes an object of more documents or marks.
    pub(crate) max_items: u64,
    /// A compaction never makes an object of more bytes, as far as its inputs tell.
    pub(crate) max_bytes: u64,
    /// With more objects than this that are not full, the cheapest neighbours are compacted although they are of different tiers.
    pub(crate) object_limit: usize,
}

impl CompactionPolicy {
    /// The policy of segments up to `max_bytes`.
    pub(crate) fn segments(max_bytes: u64) -> Self {
        Self { max_items: 8 << 20, max_bytes, object_limit: 96 }
    }

    /// The policy of sidecars, which weigh their marks.
    pub(crate) const SIDECARS: Self = Self { max_items: u64::MAX, max_bytes: u64::MAX, object_limit: 32 };

    /// Which neighbours to compact now, the most useful run first. Runs may overlap.
    pub(crate) fn runs(&self, objects: &[ObjectWeight]) -> Vec<Range<usize>> {
        let highest = objects.iter().map(tier_of).max().unwrap_or(0);
        let mut runs: Vec<_> = (0..=highest).flat_map(|tier| self.tier_runs(objects, tier)).collect();
        runs.extend(self.cheapest_run(objects));
        runs
    }

    /// A part of `run` with fewer neighbours, the cheapest one: half as many each time `shrink` grows. `None` when fewer than
    /// two would be left.
    pub(crate) fn shrunk(objects: &[ObjectWeight], run: Range<usize>, shrink: u32) -> Option<Range<usize>> {
        let len = run.len().checked_shr(shrink).filter(|len| *len > 1)?;
        cheapest(objects, run, len, |_| true)
    }

    /// The runs of neighbours up to `tier` that hold enough of exactly that tier, or so many that no more fit.
    fn tier_runs(&self, objects: &[ObjectWeight], tier: u32) -> Vec<Range<usize>> {
        let mut runs = Vec::new();
        let (mut start, mut members) = (0, 0);
        for (at, object) in objects.iter().enumerate() {
            let of = tier_of(object);
            if !object.available || of > tier || self.is_full(object) {
                (start, members) = (at + 1, 0);
                continue;
            }
            if !self.fits(&ObjectWeight::sum(&objects[start..=at])) {
                // Neither is full, so these are at least two.
                runs.push(start..at);
                (start, members) = (at, 0);
            }
            members += usize::from(of == tier);
            if members == FAN_IN {
                runs.push(start..at + 1);
                (start, members) = (at + 1, 0);
            }
        }
        runs
    }

    /// The lightest neighbours, when there are too many objects: [`FAN_IN`] of them, or fewer if so many do not fit.
    fn cheapest_run(&self, objects: &[ObjectWeight]) -> Option<Range<usize>> {
        if self.growing(objects) <= self.object_limit {
            return None;
        }
        // A full one would be rewritten for each small one beside it.
        let may_compact = |object: &ObjectWeight| object.available && !self.is_full(object);
        let possible = |run: &[ObjectWeight]| run.iter().all(may_compact) && self.fits(&ObjectWeight::sum(run));
        [FAN_IN, FAN_IN / 2, 2].into_iter().find_map(|len| cheapest(objects, 0..objects.len(), len, possible))
    }

    /// How many of `objects` are not full.
    pub(crate) fn growing(&self, objects: &[ObjectWeight]) -> usize {
        objects.iter().filter(|object| !self.is_full(object)).count()
    }

    fn fits(&self, weight: &ObjectWeight) -> bool {
        weight.items <= self.max_items && weight.bytes <= self.max_bytes
    }

    fn is_full(&self, weight: &ObjectWeight) -> bool {
        weight.items > self.max_items / 2 || weight.bytes > self.max_bytes / 2
    }
}

/// The `len` neighbours within `run` with the fewest bytes, then items, of those that are `possible`.
fn cheapest(
    objects: &[ObjectWeight],
    run: Range<usize>,
    len: usize,
    possible: impl Fn(&[ObjectWeight]) -> bool,
) -> Option<Range<usize>> {
    let starts = run.start..(run.end + 1).checked_sub(len)?;
    let candidates = starts.map(|at| at..at + len).filter(|candidate| possible(&objects[candidate.clone()]));
    candidates.min_by_key(|candidate| {
        let sum = ObjectWeight::sum(&objects[candidate.clone()]);
        (sum.bytes, sum.items)
    })
}

fn tier_of(object: &ObjectWeight) -> u32 {
    object.items.checked_ilog(FAN_IN as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: CompactionPolicy =
        CompactionPolicy { max_items: u64::MAX, max_bytes: u64::MAX, object_limit: usize::MAX };
    const ITEM_BYTES: u64 = 10;

    fn object(items: u64) -> ObjectWeight {
        ObjectWeight { items, bytes: items * ITEM_BYTES, available: true }
    }

    /// What became of batches that were appended one by one, compacted to rest after each.
    struct GrowthResult {
        objects: Vec<ObjectWeight>,
        /// How often the most rewritten document was rewritten.
        rewrites: u32,
        /// The most objects that were left after the compactions of a batch.
        longest: usize,
        /// Bytes that compactions wrote.
        written: u64,
    }

    fn grow(policy: CompactionPolicy, batches: &[u64]) -> GrowthResult {
        let (mut objects, mut longest, mut written) = (Vec::<(ObjectWeight, u32)>::new(), 0, 0);
        let weights = |objects: &[(ObjectWeight, u32)]| objects.iter().map(|object| object.0).collect::<Vec<_>>();
        for &batch in batches {
            objects.push((object(batch), 0));
            while let Some(run) = policy.runs(&weights(&objects)).into_iter().next() {
                assert!(run.len() > 1, "a compaction of one object makes no progress");
                let rewrites = objects[run.clone()].iter().map(|object| object.1).max().unwrap_or(0);
                let compacted = ObjectWeight::sum(&weights(&objects[run.clone()]));
                assert!(policy.fits(&compacted), "{compacted:?}");
                written += compacted.bytes;
                objects.splice(run, [(compacted, rewrites + 1)]);
            }
            longest = longest.max(objects.len());
        }
        let rewrites = objects.iter().map(|object| object.1).max().unwrap_or(0);
        GrowthResult { objects: weights(&objects), rewrites, longest, written }
    }

    fn batches() -> impl Strategy<Value = Vec<u64>> {
        prop::collection::vec(prop_oneof![4 => 1u64..16, 2 => 16u64..256, 1 => 256u64..5000], 0..600)
    }

    proptest! {
        #[test]
        fn a_document_is_rewritten_a_logarithmic_number_of_times(batches in batches()) {
            let total: u64 = batches.iter().sum();
            let grown = grow(POLICY, &batches);
            prop_assert_eq!(ObjectWeight::sum(&grown.objects), object(total));
            let tiers = tier_of(&object(total));
            prop_assert!(grown.rewrites <= tiers, "{} rewrites, {} tiers", grown.rewrites, tiers);
            prop_assert!(grown.written <= u64::from(tiers) * total * ITEM_BYTES);
        }

        #[test]
        fn a_bound_on_bytes_costs_one_more_rewrite_at_most(batches in batches(), max_items in 5000u64..50_000) {
            let policy = CompactionPolicy { max_bytes: max_items * ITEM_BYTES, ..POLICY };
            let (total, grown) = (batches.iter().sum::<u64>(), grow(policy, &batches));
            let tiers = tier_of(&object(max_items)) + 1;
            prop_assert!(grown.rewrites <= tiers + 1, "{} rewrites, {} tiers", grown.rewrites, tiers);
            prop_assert!(grown.written <= u64::from(tiers + 1) * total * ITEM_BYTES);
        }

        #[test]
        fn like_batches_leave_a_logarithmic_number_of_objects(size in 1u64..1000, count in 1usize..2000) {
            let longest = grow(POLICY, &vec![size; count]).longest;
            let tiers = tier_of(&object(size * count as u64)) as usize + 1;
            prop_assert!(longest <= tiers * FAN_IN, "{} objects, {} tiers", longest, tiers);
        }

        #[test]
        fn like_batches_fill_objects_up_to_the_bound(size in 1u64..1000, count in 1usize..2000, max in 1000u64..20_000) {
            let policy = CompactionPolicy { max_bytes: max * ITEM_BYTES, ..POLICY };
            let longest = grow(policy, &vec![size; count]).longest;
            let (tiers, total) = (tier_of(&object(max)) as usize + 1, size * count as u64);
            let full = usize::try_from(2 * total / max).unwrap() + 1;
            prop_assert!(longest <= tiers * FAN_IN + full, "{} objects, {} full ones, {} tiers", longest, full, tiers);
        }

        #[test]
        fn the_number_of_objects_is_bounded_whatever_their_sizes(batches in prop::collection::vec(1u64..100_000, 0..300)) {
            let longest = grow(CompactionPolicy { object_limit: 20, ..POLICY }, &batches).longest;
            prop_assert!(longest <= 20);
        }

        #[test]
        fn with_a_bound_on_bytes_too_many_objects_means_that_no_two_fit(batches in prop::collection::vec(1u64..100_000, 0..300)) {
            let policy = CompactionPolicy { object_limit: 20, max_bytes: 150_000 * ITEM_BYTES, ..POLICY };
            let grown = grow(policy, &batches);
            // No two others are neighbours: they would fit.
            let full = usize::try_from(2 * batches.iter().sum::<u64>() / 150_000).unwrap();
            let most = full + (full + 1).max(20);
            prop_assert!(grown.longest <= most, "{} objects, at most {full} of them full", grown.longest);
        }

        /// A log that has grown for years: there are more full objects than the limit allows of others.
        #[test]
        fn full_objects_are_not_written_again_for_small_ones_beside_them(full in 0usize..60, small in prop::collection::vec(1u64..1000, 100..400)) {
            let policy = CompactionPolicy { object_limit: 20, max_bytes: 150_000 * ITEM_BYTES, ..POLICY };
            let before = vec![90_000; full];
            let (with, without) = (grow(policy, &[&before[..], &small[..]].concat()), grow(policy, &small));
            prop_assert_eq!(with.written, without.written);
            prop_assert_eq!(&with.objects[..full], &vec![object(90_000); full][..]);
        }

        #[test]
        fn every_run_is_within_the_bounds_and_of_objects_that_are_available(
            objects in prop::collection::vec((1u64..3000, 1u64..3000, prop::bool::weighted(0.9)), 0..60),
            shrink in 0u32..4,
        ) {
            let policy = CompactionPolicy { max_items: 2000, max_bytes: 3000, object_limit: 10 };
            let object = |(items, bytes, available)| ObjectWeight { items, bytes, available };
            let objects: Vec<_> = objects.into_iter().map(object).collect();
            for run in policy.runs(&objects) {
                prop_assert!(run.len() > 1 && policy.fits(&ObjectWeight::sum(&objects[run.clone()])));
                prop_assert!(objects[run.clone()].iter().all(|object| object.available));
                let (len, shrunk) = (run.len() >> shrink, CompactionPolicy::shrunk(&objects, run.clone(), shrink));
                prop_assert_eq!(shrunk.as_ref().map(Range::len), (len > 1).then_some(len));
                prop_assert!(shrunk.is_none_or(|part| run.start <= part.start && part.end <= run.end));
            }
        }
    }
}

//! Which committed operations with one idempotency key decide whether another one is a duplicate.
//!
//! Of two committed operations with one key, the later one lies beyond the retention of the earlier one, as the parameters of the later one's
//! second say. So of those before an operation only the last one can make it a duplicate, and of those after it only the first one: any other
//! is further away from it than that is from the one between them.

use std::{collections::BTreeSet, ops::Bound};

use tidemark_wal::ParameterSchedule;

use crate::record::OperationPlace;

/// The committed operations next to one operation in the order of the log, of those with its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyNeighbors {
    /// The last one before it.
    pub before: Option<OperationPlace>,
    /// Whether it is committed itself.
    pub is_committed: bool,
    /// The first one after it.
    pub after: Option<OperationPlace>,
}

impl KeyNeighbors {
    /// The neighbours of the operation at `place` among `committed`.
    pub fn around(place: OperationPlace, committed: impl IntoIterator<Item = OperationPlace>) -> Self {
        let mut neighbors = Self::default();
        committed.into_iter().for_each(|other| neighbors.insert(place, other));
        neighbors
    }

    /// The same of operations in order, of which it looks at no more than three.
    pub fn among(place: OperationPlace, committed: &BTreeSet<OperationPlace>) -> Self {
        let before = committed.range(..place).next_back();
        let after = committed.range((Bound::Excluded(place), Bound::Unbounded)).next();
        Self { before: before.copied(), is_committed: committed.contains(&place), after: after.copied() }
    }

    /// Adds a committed operation with the key of the one at `place`.
    pub fn insert(&mut self, place: OperationPlace, committed: OperationPlace) {
        match committed.cmp(&place) {
            std::cmp::Ordering::Less => self.before = self.before.max(Some(committed)),
            std::cmp::Ordering::Equal => self.is_committed = true,
            std::cmp::Ordering::Greater => {
                self.after = Some(self.after.map_or(committed, |after| after.min(committed)));
            }
        }
    }

    /// The operation whose key still counts for the one at `place`, so that of both only one is committed. In the tail it is always an
    /// earlier one. A later one makes a duplicate of a correction: it was decided, and perhaps acknowledged, before the correction was seen.
    pub fn counted_for(&self, place: OperationPlace, schedule: &ParameterSchedule) -> Option<OperationPlace> {
        let second = place.0.second();
        let before = self.before.filter(|(before, _)| schedule.retains_key(before.second(), second));
        before.or_else(|| self.after.filter(|(after, _)| schedule.retains_key(second, after.second())))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidemark_store::StoreSecond;
    use tidemark_wal::{LogParameters, Token};

    use super::*;

    fn place(second: u64) -> OperationPlace {
        (Token::from_parts(StoreSecond::from_unix(1_700_000_000 + second), [7; 16]), 0)
    }

    fn schedule(retention: u64) -> ParameterSchedule {
        let idempotency_retention = Some(Duration::from_secs(retention));
        ParameterSchedule::constant(LogParameters {
            idempotency_retention,
            ..LogParameters::with_expiry(Duration::from_secs(1))
        })
    }

    #[test]
    fn the_nearest_ones_on_both_sides_count() {
        let neighbors = KeyNeighbors::around(place(500), [100, 400, 600, 900, 500].map(place));
        assert_eq!((neighbors.before, neighbors.after), (Some(place(400)), Some(place(600))));
        assert!(neighbors.is_committed);
        assert_eq!(neighbors.counted_for(place(500), &schedule(100)), Some(place(400)));
        assert_eq!(neighbors.counted_for(place(500), &schedule(99)), None);
        let ordered = BTreeSet::from([100, 400, 500, 600, 900].map(place));
        assert_eq!(KeyNeighbors::among(place(500), &ordered), neighbors);
        for second in [50, 100, 450, 900, 950] {
            let around = KeyNeighbors::around(place(second), ordered.iter().copied());
            assert_eq!(KeyNeighbors::among(place(second), &ordered), around, "{second}");
        }
        let later = KeyNeighbors::around(place(500), [place(600)]);
        assert_eq!(later.counted_for(place(500), &schedule(100)), Some(place(600)));
        assert_eq!(later.counted_for(place(500), &schedule(99)), None);
    }

    #[test]
    fn the_later_ones_parameters_decide() {
        // In force from 310 on.
        let changed = schedule(1000).changed(schedule(10).newest().parameters, StoreSecond::from_unix(1_700_000_000));
        let counted = |this: u64, other: u64| {
            KeyNeighbors::around(place(this), [place(other)]).counted_for(place(this), &changed).is_some()
        };
        assert_eq!((counted(309, 0), counted(310, 0)), (true, false));
        assert_eq!((counted(0, 309), counted(0, 310)), (true, false));
    }
}

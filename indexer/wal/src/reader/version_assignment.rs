//! Which version of a label is an entry's, where no marker says so: a pure function of store times.
//!
//! The versions in time order, those of one second the newest first, each go to the latest token not after them that has none yet.
//! Only tokens after an entry's own compete with it, since an earlier one gets a version only where it has one already; and only
//! versions within its bound count. So everything that decides is visible once the entry's second is frozen, and nothing that
//! happens to the label later changes it.
//!
//! Later entries that are missing give an entry versions that are not its own, and never take one from it. So an entry that is decided
//! after a clean-up has come past it (it could not be read before) gets none: whose the version is, is unknown.

use super::label_index::LabelEntry;
use crate::{outcome::last_in_time, parameters::LogParameters, token::Token};
use tidemark_store::StoreSecond;

/// The entries of one label that have no version yet, from one entry on, while versions are assigned in time order.
#[derive(Debug)]
pub(super) struct VersionAssignment<'a> {
    own: Token,
    parameters: &'a LogParameters,
    /// The last second of the first entry's bound. What is visible when that is sealed are the entries up to it.
    last: StoreSecond,
    /// In token order.
    without: Vec<LabelEntry>,
}

impl<'a> VersionAssignment<'a> {
    pub(super) fn new(own: LabelEntry, parameters: &'a LogParameters) -> Self {
        Self { own: own.token, parameters, last: last_in_time(parameters, own.token), without: vec![own] }
    }

    /// More entries of the label, with later tokens than those before them.
    pub(super) fn add(&mut self, later: impl IntoIterator<Item = LabelEntry>) {
        let last = self.last;
        self.without.extend(later.into_iter().filter(|entry| !entry.has_marker && entry.time <= last));
    }

    /// Assigns the next version to the latest entry before it; gives whether that is the first one's own. All entries of the
    /// label up to its second are known.
    pub(super) fn assign(&mut self, version: StoreSecond) -> bool {
        let latest = self.without.iter().rposition(|entry| entry.precedes(version, self.parameters));
        latest.is_some_and(|latest| self.without.remove(latest).token == self.own)
    }
}

/// Whether a later entry may have written the one version that is known.
pub(super) fn is_overtaken(later: &[LabelEntry], version: StoreSecond, parameters: &LogParameters) -> bool {
    later.iter().any(|entry| entry.precedes(version, parameters))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn entry(second: u64, random: u8) -> LabelEntry {
        let time = StoreSecond::from_unix(1_700_000_000 + second);
        LabelEntry { token: Token::from_parts(time, [random; 16]), time, has_marker: false }
    }

    fn parameters(clock_tolerance: Duration) -> LogParameters {
        LogParameters { clock_tolerance, ..LogParameters::with_expiry(Duration::from_mins(1)) }
    }

    /// The versions that go to each of `entries`, which are in token order, at `times`.
    fn assigned(entries: &[LabelEntry], times: &[u64]) -> Vec<Option<usize>> {
        assigned_by(&parameters(Duration::ZERO), entries, times)
    }

    fn assigned_by(parameters: &LogParameters, entries: &[LabelEntry], times: &[u64]) -> Vec<Option<usize>> {
        let versions: Vec<_> = times.iter().map(|second| entry(*second, 0).time).collect();
        let one = |own: usize| {
            let (mut known, mut assignment) = (own + 1, VersionAssignment::new(entries[own], parameters));
            (0..versions.len()).filter(|number| versions[*number] >= entries[own].token.second()).find(|number| {
                // Later entries become known with the versions.
                let seen = entries.partition_point(|entry| entry.token.second() <= versions[*number]);
                assignment.add(entries[known..seen.max(known)].iter().copied());
                known = seen.max(known);
                assignment.assign(versions[*number])
            })
        };
        (0..entries.len()).map(one).collect()
    }

    #[test]
    fn each_version_goes_to_the_latest_token_without_one() {
        let entries = [entry(0, 1), entry(2, 1), entry(9, 1)];
        assert_eq!(assigned(&entries, &[1, 3, 9]), [Some(0), Some(1), Some(2)]);
        // The second one crashed.
        assert_eq!(assigned(&entries, &[1, 9]), [Some(0), None, Some(1)]);
        // The first one did.
        assert_eq!(assigned(&entries, &[3, 10]), [None, Some(0), Some(1)]);
        // Two that overlap.
        assert_eq!(assigned(&entries[..2], &[3, 4]), [Some(1), Some(0)]);
        assert_eq!(assigned(&[entry(0, 1), entry(0, 2)], &[0, 0]), [Some(1), Some(0)]);
    }

    #[test]
    fn an_entry_that_a_marker_completes_takes_no_version() {
        let ours = LabelEntry { has_marker: true, ..entry(2, 1) };
        let parameters = parameters(Duration::ZERO);
        let mut assignment = VersionAssignment::new(entry(0, 1), &parameters);
        assignment.add([ours]);
        assert!(assignment.assign(entry(3, 0).time));
        assert!(is_overtaken(&[ours], entry(3, 0).time, &parameters));
    }

    proptest! {
        /// What one entry sees of those after it is what a fold over all of them gives.
        #[test]
        fn each_entry_alone_decides_as_all_together(
            seconds in proptest::collection::btree_set((0u64..30, 0u8..4), 1..8),
            times in proptest::collection::vec(0u64..40, 0..8),
        ) {
            let entries: Vec<LabelEntry> = seconds.into_iter().map(|(second, random)| entry(second, random)).collect();
            let mut times = times;
            times.sort_unstable();
            let mut expected = vec![None; entries.len()];
            for (number, time) in times.iter().enumerate() {
                let time = StoreSecond::from_unix(1_700_000_000 + time);
                let free = (0..entries.len()).rev().find(|at| expected[*at].is_none() && entries[*at].token.second() <= time);
                if let Some(at) = free {
                    expected[at] = Some(number);
                }
            }
            prop_assert_eq!(assigned(&entries, &times), expected);
        }

        /// Entries whose store time is later than their token's, by a clock that leads or a slow writer, in a bound of 16 s with a
        /// tolerance that counts as 2 s.
        #[test]
        fn no_version_has_two_owners_and_none_changes_when_later_entries_become_visible(
            seconds in proptest::collection::btree_map((0u64..30, 0u8..4), 0u64..20, 1..8),
            times in proptest::collection::vec(0u64..50, 0..10),
        ) {
            let expiry = Duration::from_secs(10);
            let request_timeout = Duration::from_secs(5);
            let parameters = LogParameters { expiry, request_timeout, ..parameters(Duration::from_millis(2900)) };
            let delayed = |((second, random), delay): ((u64, u8), u64)| {
                let entry = entry(second, random);
                LabelEntry { time: entry.time.after(Duration::from_secs(delay)), ..entry }
            };
            let entries: Vec<LabelEntry> = seconds.into_iter().map(delayed).collect();
            let mut times = times;
            times.sort_unstable();
            let at = |number: usize| entry(times[number], 0).time;
            let all = assigned_by(&parameters, &entries, &times);
            let mut owned = std::collections::BTreeSet::new();
            for (own, version) in all.iter().enumerate() {
                let last = last_in_time(&parameters, entries[own].token);
                let within = version.filter(|version| at(*version) <= last);
                if let Some(version) = within.filter(|version| at(*version).after(Duration::from_secs(2)) <= last) {
                    prop_assert!(owned.insert(version), "version {version} has two owners");
                }
                // What is visible when the entry is sealed.
                let visible: Vec<LabelEntry> = entries.iter().enumerate()
                    .filter(|(number, entry)| *number == own || entry.time <= last).map(|(_, entry)| *entry).collect();
                let position = visible.iter().position(|entry| entry.token == entries[own].token).unwrap();
                let sealed = assigned_by(&parameters, &visible, &times)[position];
                prop_assert_eq!(sealed.filter(|version| at(*version) <= last), within);
            }
        }
    }
}

//! Which pins of snapshots have served their time: a pure function.

use std::{collections::BTreeSet, num::NonZeroUsize};

use tidemark_store::StoreSecond;

use crate::{
    garbage_grace::GARBAGE_GRACE,
    log_cursor::LogCursor,
    pin_register::{IndexPin, PinRegister, SNAPSHOT_OWNER},
    snapshot_name::successor_of_closing,
};

/// The rules by which snapshots are dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRetention {
    /// How many verified snapshots stay, the latest ones. `None`: all of them.
    pub keep_last: Option<NonZeroUsize>,
    /// The log's floor: what lies below may be gone from the log, so the latest snapshot whose archive reaches it stays.
    pub floor: LogCursor,
    /// Store time in the index's store.
    pub now: StoreSecond,
    /// The lists of pins of closing manifests that the open generation has caught up with.
    pub replaced: BTreeSet<String>,
}

impl SnapshotRetention {
    /// The names of the pins that are dropped.
    ///
    /// - A snapshot that is not verified goes once its maker has not renewed it for the grace: that one has ended. Another process
    ///   that wants its name goes on with it before that.
    /// - Of the verified ones the `keep_last` latest stay, and the latest one whose archive reaches the floor. So one always stays.
    /// - The pin of a closing manifest goes if the open generation has caught up with it, and `keep_last` verified snapshots are of
    ///   later generations.
    pub fn expired(&self, register: &PinRegister) -> BTreeSet<String> {
        let verified = register.snapshots();
        let half_made = register.pins.iter().filter(|(_, pin)| pin.owner == SNAPSHOT_OWNER && pin.verified.is_none());
        let is_over = |pin: &IndexPin| pin.renewed.is_some_and(|renewed| renewed.after(GARBAGE_GRACE) <= self.now);
        let mut expired: BTreeSet<_> =
            half_made.filter(|(_, pin)| is_over(pin)).map(|(name, _)| name.clone()).collect();
        let Some(keep_last) = self.keep_last else { return expired };
        let of_floor = verified.iter().position(|(_, _, proof)| proof.archive_end() >= self.floor);
        let past = verified.iter().enumerate().skip(keep_last.get()).filter(|(at, _)| Some(*at) != of_floor);
        expired.extend(past.map(|(_, (name, ..))| (*name).to_owned()));
        for (name, pin) in &register.pins {
            let Some(successor) = successor_of_closing(name) else { continue };
            let later = verified.iter().filter(|(_, pin, _)| pin.generation >= successor).count();
            if self.replaced.contains(&pin.list) && later >= keep_last.get() {
                expired.insert(name.clone());
            }
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        digest::SetDigest,
        identity::LogId,
        manifest::RecordCounts,
        names::Generation,
        snapshot_proof::{ArchiveExtent, SnapshotProof},
    };

    fn second(second: u64) -> StoreSecond {
        StoreSecond::from_unix(1_800_000_000 + second)
    }

    fn pin(generation: u64, made: u64, archived: Option<u64>) -> IndexPin {
        let extent = |end| ArchiveExtent { version: end, hash: String::new(), end: LogCursor(second(end)) };
        let proof = |end| SnapshotProof {
            time: Some(second(made + 1)),
            horizon: second(made),
            cursor: LogCursor(second(made)),
            audited: second(end),
            first: None,
            counts: RecordCounts::default(),
            digest: SetDigest::default(),
            bytes: 0,
            archive: Some(extent(end)),
        };
        IndexPin {
            owner: SNAPSHOT_OWNER.to_owned(),
            made: Some(second(made)),
            renewed: Some(second(made)),
            confirmed: true,
            generation: Generation::numbered(generation),
            manifest: made,
            hash: String::new(),
            list: format!("list-{generation}-{made}"),
            checksum: String::new(),
            verified: archived.map(proof),
        }
    }

    fn register(pins: &[(&str, IndexPin)]) -> PinRegister {
        let pins = pins.iter().map(|(name, pin)| ((*name).to_owned(), pin.clone())).collect();
        PinRegister { pins, ..PinRegister::new(LogId("a".repeat(32))) }
    }

    fn retention(keep_last: usize) -> SnapshotRetention {
        let (keep_last, floor) = (NonZeroUsize::new(keep_last), LogCursor::default());
        SnapshotRetention { keep_last, floor, now: second(200_000), replaced: BTreeSet::new() }
    }

    fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
        names.map(str::to_owned).into()
    }

    #[test]
    fn the_latest_stay_and_half_made_ones_go_when_their_maker_has_ended() {
        let own = |pin: IndexPin, owner: &str| IndexPin { owner: owner.to_owned(), ..pin };
        let grace = GARBAGE_GRACE.as_secs();
        let register = register(&[
            ("a", pin(1, 10, Some(1))),
            ("b", pin(1, 20, Some(2))),
            ("c", pin(1, 30, Some(3))),
            ("half", pin(1, 200_000 - grace, None)),
            ("under-way", pin(1, 200_001 - grace, None)),
            ("unconfirmed", IndexPin { confirmed: false, ..pin(1, 5, None) }),
            ("theirs", own(pin(1, 5, None), "somebody")),
        ]);
        assert_eq!(retention(2).expired(&register), names(["a", "half", "unconfirmed"]));
        assert_eq!(retention(1).expired(&register), names(["a", "b", "half", "unconfirmed"]));
        // Without a number all that is verified stays.
        assert_eq!(retention(0).expired(&register), names(["half", "unconfirmed"]));
    }

    #[test]
    fn the_pin_of_a_closing_manifest_goes_once_it_is_replaced_and_others_are_newer() {
        let closing = IndexPin { owner: "reindex".to_owned(), ..pin(1, 25, None) };
        let pins = [("a", pin(1, 10, Some(1))), ("before-g2", closing.clone()), ("c", pin(2, 30, Some(3)))];
        let register = register(&pins);
        let caught_up = |keep| SnapshotRetention { replaced: [closing.list.clone()].into(), ..retention(keep) };
        assert_eq!(retention(1).expired(&register), names(["a"]));
        assert_eq!(caught_up(1).expired(&register), names(["a", "before-g2"]));
        assert_eq!(caught_up(2).expired(&register), names([]), "one of its generation may still be wanted");
    }

    proptest! {
        #[test]
        fn whatever_is_dropped_one_snapshot_stays_that_reaches_as_far_as_any(
            made in prop::collection::btree_map(0..1000_u64, prop::option::of(0..1000_u64), 1..12),
            keep in 1..5_usize,
            floor in 0..1000_u64,
        ) {
            let mut end = 0;
            // An archive never shrinks.
            let pins: Vec<_> = made.iter().map(|(at, grown)| {
                end += grown.unwrap_or_default();
                (format!("s{at}"), pin(1, *at, grown.map(|_| end)))
            }).collect();
            let register = register(&pins.iter().map(|(name, pin)| (name.as_str(), pin.clone())).collect::<Vec<_>>());
            let retention = SnapshotRetention { floor: LogCursor(second(floor)), ..retention(keep) };
            let expired = retention.expired(&register);
            let ends = |all: bool| pins.iter()
                .filter(|(name, _)| all || !expired.contains(name))
                .filter_map(|(_, pin)| Some(pin.verified.as_ref()?.archive_end())).max();
            prop_assert_eq!(ends(true), ends(false));
            let left = pins.iter().filter(|(name, pin)| pin.verified.is_some() && !expired.contains(name)).count();
            let verified = pins.iter().filter(|(_, pin)| pin.verified.is_some()).count();
            prop_assert!(left >= keep.min(verified));
        }
    }
}

//! Which pins of snapshots have served their time: a pure function.

use std::{collections::BTreeSet, num::NonZeroUsize};

use tidemark_store::StoreSecond;

use crate::{
    log_cursor::LogCursor,
    pin_register::{PinRegister, SNAPSHOT_OWNER},
    snapshot_name::successor_of_closing,
    snapshot_proof::SnapshotProof,
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
    /// The URL of the index of whose snapshots the pins are copies; `None`: they are the index's own. Where another one copies there by now,
    /// nothing is dropped.
    pub copy_of: Option<String>,
}

impl SnapshotRetention {
    /// The names of the pins that are dropped.
    ///
    /// - A snapshot that is not verified goes once its maker has not renewed it for the grace: that one has ended. Another process
    ///   that wants its name goes on with it before that.
    /// - Of the verified ones the `keep_last` latest stay, and the latest one whose archive reaches the floor. So one always stays.
    /// - The pin of a closing manifest goes if the open generation has caught up with it, and `keep_last` verified snapshots are of
    ///   later generations.
    /// - Of copies these are those of `copy_of`. One of another index, which copied there before, goes once `keep_last` of these hold as much.
    pub fn expired(&self, register: &PinRegister) -> BTreeSet<String> {
        if self.copy_of.is_some() && self.copy_of != register.copy_of {
            return BTreeSet::new();
        }
        // An index may have begun where copies of another one are.
        let (verified, of_others): (Vec<_>, Vec<_>) =
            register.snapshots().into_iter().partition(|(_, pin, _)| pin.copy_of == self.copy_of);
        let left = register.pins.iter().filter(|(_, pin)| pin.owner == SNAPSHOT_OWNER && pin.is_left(self.now));
        let mut expired: BTreeSet<_> = left.map(|(name, _)| name.clone()).collect();
        let Some(keep_last) = self.keep_last else { return expired };
        let of_floor = verified.iter().position(|(_, _, proof)| proof.archive_end() >= self.floor);
        let past = verified.iter().enumerate().skip(keep_last.get()).filter(|(at, _)| Some(*at) != of_floor);
        expired.extend(past.map(|(_, (name, ..))| (*name).to_owned()));
        let stay: Vec<_> = verified.iter().filter(|(name, ..)| !expired.contains(*name)).collect();
        let covering = |other: &SnapshotProof| stay.iter().filter(|(_, _, proof)| proof.covers(other)).count();
        let covered = of_others.iter().filter(|(_, _, other)| covering(other) >= keep_last.get());
        expired.extend(covered.map(|(name, ..)| (*name).to_owned()));
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
    use tidemark_store::ChainState as _;

    use super::*;
    use crate::{
        digest::SetDigest, garbage_grace::GARBAGE_GRACE, identity::LogId, manifest::RecordCounts, names::Generation,
        pin_register::IndexPin, snapshot_proof::ArchiveExtent,
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
            copy_of: None,
            verified: archived.map(proof),
        }
    }

    fn register(pins: &[(&str, IndexPin)]) -> PinRegister {
        let pins = pins.iter().map(|(name, pin)| ((*name).to_owned(), pin.clone())).collect();
        PinRegister { pins, ..PinRegister::new(LogId("a".repeat(32))) }
    }

    fn retention(keep_last: usize) -> SnapshotRetention {
        let (keep_last, floor) = (NonZeroUsize::new(keep_last), LogCursor::default());
        SnapshotRetention { keep_last, floor, now: second(200_000), replaced: BTreeSet::new(), copy_of: None }
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

    /// A copy of a snapshot of the index `of`.
    fn copy(of: &str, pin: IndexPin) -> IndexPin {
        IndexPin { copy_of: Some(of.to_owned()), ..pin }
    }

    fn copies(of: &str, pins: &[(&str, IndexPin)]) -> PinRegister {
        PinRegister { copy_of: Some(of.to_owned()), ..register(pins) }
    }

    fn retention_of(index: &str, keep_last: usize) -> SnapshotRetention {
        SnapshotRetention { copy_of: Some(index.to_owned()), ..retention(keep_last) }
    }

    #[test]
    fn a_copy_of_another_index_goes_once_enough_that_stay_hold_as_much() {
        let lost = copy("lost", pin(1, 30, Some(20)));
        let with = |change: &dyn Fn(&mut SnapshotProof)| {
            let mut new = copy("new", pin(1, 40, Some(35)));
            let proof = new.verified.as_mut().unwrap();
            (proof.first, proof.counts.committed) = (Some(second(5)), 7);
            change(proof);
            let mut lost = lost.clone();
            let proof = lost.verified.as_mut().unwrap();
            (proof.first, proof.counts.committed) = (Some(second(5)), 7);
            let left = copy("lost", pin(1, 10, None));
            copies("new", &[("lost", lost), ("left", left), ("new", new)])
        };
        let expired = |rule: &SnapshotRetention, register: &PinRegister| {
            let expired = rule.expired(register);
            if let Some(after) = register.without_all(&expired) {
                after.check_transition(register).unwrap();
            }
            expired
        };
        let rule = retention_of("new", 1);
        assert_eq!(expired(&rule, &with(&|_| ())), names(["left", "lost"]));
        // What holds less in any way drops none of them, however few are to stay.
        let lesser: [&dyn Fn(&mut SnapshotProof); 6] = [
            &|proof| proof.audited = second(29),
            &|proof| proof.archive = None,
            &|proof| proof.first = Some(second(6)),
            &|proof| proof.first = None,
            &|proof| proof.counts.committed = 6,
            &|proof| (proof.counts.committed, proof.counts.unreadable) = (6, 1),
        ];
        for (number, change) in lesser.into_iter().enumerate() {
            let register = with(change);
            assert_eq!(expired(&rule, &register), names(["left"]), "{number}");
            let dropped = register.without_all(&names(["lost"])).unwrap();
            assert!(dropped.check_transition(&register).is_err(), "{number}");
        }
        // One that held as much and goes itself counts for nothing, and neither does the retention of another index.
        let mut register = with(&|_| ());
        register.pins.insert("newer".to_owned(), copy("new", pin(1, 50, Some(25))));
        assert_eq!(expired(&rule, &register), names(["left", "new"]));
        assert_eq!(expired(&retention_of("new", 2), &register), names(["left"]), "one of two");
        assert_eq!(expired(&retention_of("lost", 1), &register), names([]));
        // An index that has begun where the copies are.
        for (audited, gone) in [(35, names(["left", "lost", "old"])), (29, names(["left", "old"]))] {
            let mut register = with(&|proof| proof.audited = second(audited));
            register.copy_of = Some("lost".to_owned());
            register.pins.get_mut("new").unwrap().copy_of = None;
            register.pins.insert("old".to_owned(), pin(1, 5, Some(3)));
            assert_eq!(expired(&retention(1), &register), gone);
        }
    }

    proptest! {
        #[test]
        fn a_copy_of_another_index_is_dropped_only_by_one_that_was_audited_as_far(
            made in prop::collection::btree_map(0..1000_u64, (prop::option::of(0..1000_u64), any::<bool>()), 1..12),
            keep in 1..5_usize,
        ) {
            let pins: Vec<_> = made.iter().map(|(at, (audited, is_own))| {
                (format!("s{at}"), copy(if *is_own { "new" } else { "lost" }, pin(1, *at, *audited)))
            }).collect();
            let register = copies("new", &pins.iter().map(|(name, pin)| (name.as_str(), pin.clone())).collect::<Vec<_>>());
            let expired = retention_of("new", keep).expired(&register);
            if let Some(after) = register.without_all(&expired) {
                after.check_transition(&register).unwrap();
            }
            let proofs = |of: &str, dropped: bool| -> Vec<SnapshotProof> {
                let of = pins.iter().filter(|(name, pin)| pin.copy_of.as_deref() == Some(of) && expired.contains(name) == dropped);
                of.filter_map(|(_, pin)| pin.verified.clone()).collect()
            };
            for lost in proofs("lost", true) {
                let own = proofs("new", false).into_iter();
                let further = own.filter(|new| LogCursor(new.audited) >= lost.cursor && new.archive_end() >= lost.archive_end());
                prop_assert!(further.count() >= keep, "{lost:?}");
            }
            let own = pins.iter().filter(|(_, pin)| pin.copy_of.as_deref() == Some("new") && pin.verified.is_some()).count();
            prop_assert!(proofs("new", false).len() >= keep.min(own));
        }

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

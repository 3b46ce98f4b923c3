//! What users and indexes want to keep of the log, and how far each rule lets entries go: a pure function.

use std::{num::NonZeroUsize, time::Duration};

use tidemark_catalog::{ArchiveExtent, LogCursor, PinRegister, RootState};
use tidemark_store::StoreSecond;

/// What users want to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CleanupRules {
    /// Entries that are younger than this stay, by the store's clock.
    pub min_age: Duration,
    /// How many entries may stay: of those that may go, only as many go, oldest first, as are too many. `None`: all go.
    pub max_entries: Option<u64>,
    /// The same of their bytes.
    pub max_bytes: Option<u64>,
    /// Entries stay that so many of the newest verified snapshots do not have in the archive.
    pub keep_snapshots: NonZeroUsize,
}

/// How far a rule lets entries go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleVerdict {
    /// The rule, as the flag or the index that asks for it.
    pub rule: String,
    /// Entries of the seconds below it may go.
    pub to: LogCursor,
    /// How many entries of the log it keeps.
    pub held_back: u64,
    /// Why.
    pub why: String,
}

/// The verified snapshot that vouches for what the archive holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VouchingSnapshot {
    pub(super) name: String,
    /// The archive as it was read for it.
    pub(super) extent: ArchiveExtent,
}

impl CleanupRules {
    /// The rules that do not depend on what the log has, at store time `now`. What they keep is not counted yet.
    pub(super) fn verdicts(&self, now: StoreSecond, register: &PinRegister, root: &RootState) -> Vec<RuleVerdict> {
        let mut verdicts = vec![self.of_age(now), self.of_snapshots(register)];
        let floor = root.floor.as_ref().map(|floor| floor.second).unwrap_or_default();
        for (index, known) in root.holding() {
            let why = if known.keeps == LogCursor::default() {
                format!(
                    "it is not known what index \"{index}\" needs; its indexer says so once it has audited the log, and hourly; start it, or, if \
                     nobody writes that index any more, take it off with `tidemark log unregister`"
                )
            } else {
                format!("index \"{index}\" may need the log from {} on", known.keeps)
            };
            // What lies below the floor no registered index needs: it was there before, or registered with a cursor above it.
            let to = known.keeps.max(floor);
            verdicts.push(RuleVerdict { rule: format!("index {index}"), to, held_back: 0, why });
        }
        verdicts
    }

    fn of_age(&self, now: StoreSecond) -> RuleVerdict {
        let to = LogCursor(now.before(self.min_age));
        let why = format!("younger than {} s at {now} by the store's clock", self.min_age.as_secs());
        RuleVerdict { rule: "--min-age".to_owned(), to, held_back: 0, why }
    }

    fn of_snapshots(&self, register: &PinRegister) -> RuleVerdict {
        let (snapshots, wanted) = (register.snapshots(), self.keep_snapshots.get());
        let newest = || snapshots.iter().take(wanted);
        let (to, why) = match newest().map(|(name, _, proof)| (proof.archive_end(), *name)).min() {
            Some((to, name)) if snapshots.len() >= wanted => {
                (to, format!("of the {wanted} newest verified snapshots, \"{name}\" has the archive up to {to} only"))
            }
            _ => {
                let found = snapshots.len();
                let why = format!(
                    "{found} of {wanted} verified snapshots exist; nothing goes before; make others with `tidemark snapshot`"
                );
                (LogCursor::default(), why)
            }
        };
        RuleVerdict { rule: "--keep-snapshots".to_owned(), to, held_back: 0, why }
    }
}

/// The newest verified snapshot whose archive reaches `to`.
pub(super) fn vouching_snapshot(register: &PinRegister, to: LogCursor) -> Option<VouchingSnapshot> {
    let snapshots = register.snapshots();
    let (name, _, proof) = snapshots.into_iter().find(|(_, _, proof)| proof.archive_end() >= to)?;
    Some(VouchingSnapshot { name: name.to_owned(), extent: proof.archive.clone()? })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tidemark_catalog::{
        Generation, IndexOwner, IndexPin, IndexRegistration, LogFloor, LogId, RecordCounts, SNAPSHOT_OWNER, SetDigest,
        SnapshotProof,
    };

    use super::*;

    fn second(second: u64) -> StoreSecond {
        StoreSecond::from_unix(1_800_000_000 + second)
    }

    fn at(at: u64) -> LogCursor {
        LogCursor(second(at))
    }

    fn rules(keep: usize) -> CleanupRules {
        let keep_snapshots = NonZeroUsize::new(keep).unwrap();
        CleanupRules { min_age: Duration::from_secs(100), max_entries: None, max_bytes: None, keep_snapshots }
    }

    /// A snapshot that was verified at `time`, and up to which second it has the archive, whose version is that second too; or one that
    /// is not verified.
    fn pin(time: u64, archived: Option<u64>) -> IndexPin {
        let proof = |end| SnapshotProof {
            time: Some(second(time)),
            horizon: second(time),
            cursor: at(time),
            audited: second(end),
            first: None,
            counts: RecordCounts::default(),
            digest: SetDigest::default(),
            bytes: 0,
            // The table may reach further than it was compared.
            archive: Some(ArchiveExtent { version: end, hash: String::new(), end: at(end + 50) }),
        };
        IndexPin {
            owner: SNAPSHOT_OWNER.to_owned(),
            made: Some(second(time)),
            renewed: Some(second(time)),
            confirmed: true,
            generation: Generation::first(),
            manifest: time,
            hash: String::new(),
            list: format!("list-{time}"),
            checksum: String::new(),
            copy_of: None,
            verified: archived.map(proof),
        }
    }

    fn register(pins: &[(&str, IndexPin)]) -> PinRegister {
        let pins: BTreeMap<_, _> = pins.iter().map(|(name, pin)| ((*name).to_owned(), pin.clone())).collect();
        PinRegister { pins, ..PinRegister::new(LogId("log".to_owned())) }
    }

    fn root(keeps: &[(&str, u64)], floor: u64) -> RootState {
        let registration = |keeps: u64| {
            let owner = IndexOwner::Named { name: "test".to_owned() };
            let keeps = if keeps == 0 { LogCursor::default() } else { at(keeps) };
            IndexRegistration { keeps, ..IndexRegistration::new("s3://idx", owner, Generation::first()) }
        };
        let extent = ArchiveExtent { version: 1, hash: String::new(), end: at(floor) };
        let floor = LogFloor { second: at(floor), archive: String::new(), extent, log: LogId("log".to_owned()) };
        let indexes = keeps.iter().map(|(name, keeps)| ((*name).to_owned(), registration(*keeps))).collect();
        RootState { indexes, floor: Some(floor), ..RootState::default() }
    }

    fn bounds(rules: &CleanupRules, register: &PinRegister, root: &RootState) -> Vec<(String, LogCursor)> {
        let verdicts = rules.verdicts(second(1000), register, root);
        verdicts.into_iter().map(|verdict| (verdict.rule, verdict.to)).collect()
    }

    #[test]
    fn each_rule_lets_entries_go_up_to_a_second() {
        let register = register(&[("a", pin(400, Some(300))), ("b", pin(500, Some(420))), ("c", pin(600, None))]);
        let root = root(&[("s3://one", 700), ("s3://two", 0), ("s3://three", 20)], 50);
        let found = bounds(&rules(2), &register, &root);
        let expected = [
            ("--min-age", at(900)),
            ("--keep-snapshots", at(300)),
            ("index s3://one", at(700)),
            ("index s3://three", at(50)),
            ("index s3://two", at(50)),
        ];
        assert_eq!(found, expected.map(|(rule, to)| (rule.to_owned(), to)));
        assert_eq!(bounds(&rules(1), &register, &root)[1].1, at(420));
        // The third one is not verified.
        assert_eq!(bounds(&rules(3), &register, &root)[1].1, LogCursor::default());
    }

    #[test]
    fn the_newest_snapshot_that_reaches_so_far_vouches() {
        let register = register(&[("a", pin(400, Some(300))), ("b", pin(500, Some(420))), ("c", pin(600, None))]);
        let version = |to| vouching_snapshot(&register, at(to)).map(|found| (found.name, found.extent.version));
        assert_eq!(version(300), Some(("b".to_owned(), 420)));
        assert_eq!(version(420), Some(("b".to_owned(), 420)));
        assert_eq!(version(421), None, "the table reaches further than anybody has compared it");
    }

    #[test]
    fn every_verdict_says_why() {
        let verdicts = rules(1).verdicts(second(1000), &register(&[]), &root(&[("s3://one", 0), ("s3://two", 5)], 1));
        let why: Vec<_> = verdicts.iter().map(|verdict| verdict.why.as_str()).collect();
        assert!(why[0].contains("younger than 100 s") && why[1].contains("0 of 1 verified"), "{why:?}");
        assert!(why[2].contains("tidemark log unregister") && why[3].contains("may need the log from"), "{why:?}");
    }
}

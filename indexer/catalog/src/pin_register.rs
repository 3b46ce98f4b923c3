//! The pins of a log: the state of their chain, and its transactions as pure functions.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tidemark_store::{ChainState, InvariantViolation, StateExtensions, StoreSecond};

use crate::{
    error::TransactionRejected,
    garbage_grace::GARBAGE_GRACE,
    identity::LogId,
    names::Generation,
    snapshot_name::{SnapshotName, successor_of_closing},
    snapshot_proof::SnapshotProof,
};

/// The owner of the pins that are snapshots, or are to become one.
pub const SNAPSHOT_OWNER: &str = "snapshot";

/// The state of a chain of pins: `<index>/snapshots/<log id>/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PinRegister {
    /// The log whose pins these are: a folder that was copied is refused.
    pub log: LogId,
    /// The last generation that was purged: it and earlier ones take no pin any more. Absent before the first purge.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub purged: Option<Generation>,
    /// The URL of the index that copies its snapshots here. Absent where the pins are an index's own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub copy_of: Option<String>,
    /// Pins by name.
    pub pins: BTreeMap<String, IndexPin>,
    /// What later versions have added.
    #[serde(skip_serializing_if = "StateExtensions::is_empty", default)]
    pub ext: StateExtensions,
}

/// What holds the objects of one manifest back from deletion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IndexPin {
    /// Who may drop it.
    pub owner: String,
    /// Store time of the record that made it; absent in that record itself, whose own store time it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub made: Option<StoreSecond>,
    /// Store time of the record in which its maker last said that it works on it; absent in that record itself. It stays as it is once
    /// the pin is verified.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub renewed: Option<StoreSecond>,
    /// Whether the pin counts: the index still named every object after the pin was visible. Before that it holds objects back, too,
    /// but some of them may be gone already.
    pub confirmed: bool,
    /// The generation of the manifest.
    pub generation: Generation,
    /// The number of the manifest.
    pub manifest: u64,
    /// SHA-256 of the manifest's record.
    pub hash: String,
    /// The object with the manifest, below the index's URL. It is this pin's and its copies' alone.
    pub list: String,
    /// SHA-256 of that object, 64 hexadecimal digits. A list that differs is damaged.
    pub checksum: String,
    /// The URL of the index of whose snapshot this is a copy. Absent where the pin is an index's own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub copy_of: Option<String>,
    /// What was proven of it. A pin that has this is a snapshot.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub verified: Option<SnapshotProof>,
}

/// On whose behalf a snapshot is copied to a second store.
pub(crate) struct CopyClaim<'a> {
    /// The URL of the second store.
    pub(crate) copies: &'a str,
    /// The URL of the index.
    pub(crate) index: &'a str,
    /// The URLs of the indexes on the log's register.
    pub(crate) registered: &'a BTreeSet<String>,
    /// Store time in the second store.
    pub(crate) now: StoreSecond,
}

impl IndexPin {
    /// What it holds, apart from what may be said of it later.
    fn held(&self) -> Self {
        Self { confirmed: true, renewed: None, verified: None, ..self.clone() }
    }

    /// Whether it is half made, and its maker has not renewed it for the grace: that one has ended.
    pub(crate) fn is_left(&self, now: StoreSecond) -> bool {
        self.verified.is_none() && self.renewed.is_some_and(|renewed| renewed.after(GARBAGE_GRACE) <= now)
    }

    /// Whether `after` says nothing less of what this holds.
    fn stays_in(&self, after: &Self) -> bool {
        let renewed = after.renewed.is_none() || self.renewed <= after.renewed;
        let proven = self.verified.is_none() || (self.verified == after.verified && self.renewed == after.renewed);
        self.held() == after.held() && self.confirmed <= after.confirmed && renewed && proven
    }
}

impl ChainState for PinRegister {
    type Rejection = TransactionRejected;

    const FORMAT: u32 = 1;

    fn extensions(&self) -> &StateExtensions {
        &self.ext
    }

    fn apply_store_time(&mut self, recorded: StoreSecond) {
        for pin in self.pins.values_mut() {
            pin.made.get_or_insert(recorded);
            pin.renewed.get_or_insert(recorded);
            if let Some(proof) = &mut pin.verified {
                proof.time.get_or_insert(recorded);
            }
        }
    }

    fn check_state(&self) -> Result<(), InvariantViolation> {
        let lost = self.pins.iter().find(|(_, pin)| self.is_purged(&pin.generation));
        InvariantViolation::unless(lost.is_none(), "no pin is of a purged generation", || format!("{lost:?}"))?;
        let verified = self.pins.iter().filter_map(|(name, pin)| Some((name, pin, pin.verified.as_ref()?)));
        for (name, pin, proof) in verified {
            InvariantViolation::unless(pin.confirmed, "what is verified counts", || format!("{name}: {pin:?}"))?;
            proof.check()?;
        }
        Ok(())
    }

    /// A pin that stays is the same, except that it may be confirmed, renewed and then verified. One that was not confirmed may make
    /// place for another of its owner. A copy of another index's snapshot goes when this one's copies hold as much.
    fn check_transition(&self, before: &Self) -> Result<(), InvariantViolation> {
        InvariantViolation::unless(before.log == self.log, "the log never changes", || {
            format!("{} after {}", self.log, before.log)
        })?;
        InvariantViolation::unless(before.purged <= self.purged, "what was purged is not forgotten", || {
            format!("{:?} after {:?}", self.purged, before.purged)
        })?;
        let is_lost = |(name, pin): &(&String, &IndexPin)| {
            let may_go = pin.copy_of.is_none() || pin.copy_of == self.copy_of || self.is_purged(&pin.generation);
            !may_go && !self.pins.contains_key(*name) && !self.is_covered(pin)
        };
        let lost = before.pins.iter().find(is_lost);
        InvariantViolation::unless(lost.is_none(), "another index's copy stays until others hold as much", || {
            format!("{lost:?}")
        })?;
        for (name, pin) in &before.pins {
            let Some(after) = self.pins.get(name) else { continue };
            let stays = pin.stays_in(after);
            let made_again = !pin.confirmed && !after.confirmed && pin.owner == after.owner && pin.list != after.list;
            InvariantViolation::unless(stays || made_again, "a pin never changes", || {
                format!("{after:?} after {pin:?}")
            })?;
        }
        Ok(())
    }
}

impl PinRegister {
    /// The first state, without pins, of the pins of `log`.
    pub fn new(log: LogId) -> Self {
        Self { log, purged: None, copy_of: None, pins: BTreeMap::new(), ext: StateExtensions::NONE }
    }

    fn is_purged(&self, generation: &Generation) -> bool {
        self.purged.as_ref().is_some_and(|purged| generation <= purged)
    }

    /// Whether the pin is of no snapshot, or one of another index holds whatever that does.
    fn is_covered(&self, pin: &IndexPin) -> bool {
        let others = || self.pins.values().filter(|other| other.copy_of != pin.copy_of);
        let mut proofs = others().filter_map(|other| other.verified.as_ref());
        pin.verified.as_ref().is_none_or(|held| proofs.any(|proof| proof.covers(held)))
    }

    /// Whether the index has a copy here, or one under way.
    fn has_copies_of(&self, index: &str, now: StoreSecond) -> bool {
        self.pins.values().any(|pin| pin.copy_of.as_deref() == Some(index) && !pin.is_left(now))
    }

    /// The list of the pin whose place a new one of `owner` takes: the same owner's, of a process that ended before the pin
    /// counted. `None` if the name is free. Refused if it is taken, or if the generation was purged.
    pub(crate) fn replaced_list(
        &self,
        name: &str,
        owner: &str,
        generation: &Generation,
    ) -> Result<Option<&str>, TransactionRejected> {
        if self.is_purged(generation) {
            return Err(TransactionRejected::Purged { generation: generation.clone() });
        }
        match self.pins.get(name) {
            Some(pin) if pin.confirmed || pin.owner != owner => {
                Err(pin_refused(name, "exists already", "choose another name"))
            }
            pin => Ok(pin.map(|pin| pin.list.as_str())),
        }
    }

    /// With the pin `name`, in the place of one that has the list `replaced`.
    pub(crate) fn with(&self, name: &str, pin: IndexPin, replaced: Option<&str>) -> Result<Self, TransactionRejected> {
        if self.replaced_list(name, &pin.owner, &pin.generation)? != replaced {
            return Err(pin_changed(
                name,
                "was made or dropped by another process meanwhile",
                "look at it, and try again",
            ));
        }
        let mut next = self.clone();
        next.pins.insert(name.to_owned(), pin);
        Ok(next)
    }

    /// The pin `name` counts from now on, provided that it is still the one with this `list`.
    pub(crate) fn with_confirmed(&self, name: &str, list: &str) -> Result<Self, TransactionRejected> {
        let mut next = self.clone();
        next.own_pin(name, list)?.confirmed = true;
        Ok(next)
    }

    /// The maker of the pin `name` still works on it, provided that it is still the one with this `list`. `None` if it is verified.
    pub(crate) fn with_renewed(&self, name: &str, list: &str) -> Result<Option<Self>, TransactionRejected> {
        let mut next = self.clone();
        let pin = next.own_pin(name, list)?;
        if pin.verified.is_some() {
            return Ok(None);
        }
        pin.renewed = None;
        Ok(Some(next))
    }

    /// The pin `name` is a snapshot from now on, provided that it counts and is still the one with this `list`. `None` if it is one
    /// already: another process of its maker was faster.
    pub(crate) fn with_proof(
        &self,
        name: &str,
        list: &str,
        proof: &SnapshotProof,
    ) -> Result<Option<Self>, TransactionRejected> {
        let mut next = self.clone();
        let pin = next.own_pin(name, list)?;
        if !pin.confirmed {
            return Err(pin_changed(name, "does not count: the index may have dropped what it holds", "make it again"));
        }
        if pin.verified.is_some() {
            return Ok(None);
        }
        pin.verified = Some(SnapshotProof { time: None, ..proof.clone() });
        Ok(Some(next))
    }

    /// With the snapshot `name`, which is copied from another index. `None` if it is here already, whole or in part.
    ///
    /// One index copies to one store at a time. Refused while another index that has copies here, or one under way, is on the log's register.
    /// One that has none may have begun by mistake.
    pub(crate) fn with_import(
        &self,
        name: &str,
        pin: &IndexPin,
        claim: &CopyClaim<'_>,
    ) -> Result<Option<Self>, TransactionRejected> {
        let CopyClaim { copies, index, registered, now } = *claim;
        let is_in_use = |known: &String| registered.contains(known) && self.has_copies_of(known, now);
        let other = self.copy_of.as_ref().filter(|known| *known != index && is_in_use(known));
        if let Some(other) = other {
            let (url, index, other) = (copies.to_owned(), index.to_owned(), other.clone());
            return Err(TransactionRejected::CopiesOfAnother { url, index, other });
        }
        let claimed = Self { copy_of: Some(index.to_owned()), ..self.clone() };
        match self.pins.get(name) {
            Some(known) if known.confirmed && (known.manifest, &known.hash) == (pin.manifest, &pin.hash) => {
                Ok(Some(claimed).filter(|claimed| claimed != self))
            }
            // Its copier ends, or it is taken for left after a day.
            Some(known) if known.confirmed && known.verified.is_none() => Err(pin_changed(
                name,
                "is that of another snapshot of this name, which is being copied",
                "try again when that copy has ended, or choose another name",
            )),
            _ => claimed.with(name, pin.clone(), None).map(Some),
        }
    }

    /// Without the pins of these names, all of which are here; `None` if there are none.
    pub(crate) fn without_all(&self, names: &BTreeSet<String>) -> Option<Self> {
        let mut next = self.clone();
        next.pins.retain(|name, _| !names.contains(name));
        (!names.is_empty()).then_some(next)
    }

    /// The pin `name`, if it is still the one with this `list`.
    fn own_pin(&mut self, name: &str, list: &str) -> Result<&mut IndexPin, TransactionRejected> {
        let pin = self.pins.get_mut(name).filter(|pin| pin.list == list);
        pin.ok_or_else(|| pin_changed(name, "was dropped meanwhile", "make it again"))
    }

    /// A name for a snapshot that is made in the second `now`.
    pub(crate) fn free_name(&self, now: StoreSecond) -> SnapshotName {
        let mut names = (1..=u32::MAX).map(|nth| SnapshotName::dated(now, nth));
        let free = names.find(|name| !self.pins.contains_key(name.as_str()));
        free.unwrap_or_else(|| SnapshotName::dated(now, u32::MAX))
    }

    /// The verified snapshots with their proofs, the latest first.
    pub fn snapshots(&self) -> Vec<(&str, &IndexPin, &SnapshotProof)> {
        let verified = self.pins.iter().filter(|(_, pin)| pin.owner == SNAPSHOT_OWNER);
        let mut verified: Vec<_> =
            verified.filter_map(|(name, pin)| Some((name.as_str(), pin, pin.verified.as_ref()?))).collect();
        verified.sort_by_key(|(name, _, proof)| Reverse((proof.time, *name)));
        verified
    }

    /// The pins that an index can be restored from, by name: verified snapshots, and those of manifests that closed a generation.
    pub fn restorable(&self) -> Vec<(&str, &IndexPin)> {
        let is_restorable = |name: &str, pin: &IndexPin| match &pin.verified {
            Some(_) => pin.owner == SNAPSHOT_OWNER,
            None => pin.confirmed && successor_of_closing(name).is_some(),
        };
        let pins = self.pins.iter().map(|(name, pin)| (name.as_str(), pin));
        pins.filter(|(name, pin)| is_restorable(name, pin)).collect()
    }

    /// The seconds to which the log can be restored from its snapshots and its archive alone, the last one included. `None` if no
    /// snapshot is verified or none has a record.
    pub fn recovery_window(&self) -> Option<RangeInclusive<StoreSecond>> {
        let proofs = || self.pins.values().filter_map(|pin| pin.verified.as_ref());
        let first = proofs().filter_map(|proof| proof.first).min()?;
        let last = proofs().map(|proof| proof.cursor.second().before(Duration::from_secs(1))).max()?;
        Some(first..=last)
    }

    pub(crate) fn with_copy(&self, source: &str, name: &str, owner: &str) -> Result<Self, TransactionRejected> {
        match self.pins.get(source) {
            Some(pin) if pin.confirmed => {
                let copy =
                    IndexPin { owner: owner.to_owned(), made: None, renewed: None, verified: None, ..pin.clone() };
                self.with(name, copy, None)
            }
            _ => Err(pin_changed(source, "does not exist, or does not count yet", "name a living one")),
        }
    }

    /// Without the pin `name`, provided that it is still the one with this `list`, and is no verified snapshot: those are dropped by the
    /// retention alone. Another process may have verified what the one that drops it could not read.
    pub(crate) fn without(&self, name: &str, owner: &str, list: &str) -> Result<Self, TransactionRejected> {
        let mut next = self.clone();
        match next.pins.remove(name) {
            None => Err(pin_changed(name, "does not exist, or was dropped before", "name a living one")),
            Some(pin) if pin.owner != owner => {
                Err(pin_refused(name, &format!("is \"{}\"'s to drop", pin.owner), "let its owner drop it"))
            }
            Some(pin) if pin.list != list => {
                Err(pin_changed(name, "was made again meanwhile", "look at it, and drop it again"))
            }
            Some(pin) if pin.verified.is_some() => Err(pin_refused(
                name,
                "is a verified snapshot",
                "let the retention of snapshots drop it (`--keep-last`)",
            )),
            Some(_) => Ok(next),
        }
    }

    /// Without the pins of the generations up to `last`, which take none any more; `None` if that is so already.
    pub(crate) fn with_purged(&self, last: &Generation) -> Option<Self> {
        if self.is_purged(last) {
            return None;
        }
        let mut next = Self { purged: Some(last.clone()), ..self.clone() };
        next.pins.retain(|_, pin| pin.generation > *last);
        Some(next)
    }
}

/// Refuses what another attempt may do.
pub(crate) fn pin_changed(name: &str, why: &str, remedy: &'static str) -> TransactionRejected {
    TransactionRejected::PinChanged { name: name.to_owned(), why: why.to_owned(), remedy }
}

/// Refuses what another attempt may not do either.
fn pin_refused(name: &str, why: &str, remedy: &'static str) -> TransactionRejected {
    TransactionRejected::Pin { name: name.to_owned(), why: why.to_owned(), remedy }
}

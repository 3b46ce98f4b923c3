//! What must hold of the copies of snapshots in a second store, checked against every event without the code under test.

use std::collections::{BTreeMap, BTreeSet};

use tidemark_catalog::{IndexPin, Manifest, PinRegister};

use super::archive_ledger::ArchiveLedger;
use crate::{
    chain_record::record_state,
    simulated_store::{StoreChange, StoreEvent},
};

/// The second store: what is in it, and what its pins say.
#[derive(Debug, Default)]
pub(super) struct CopyModel {
    /// The number of the latest record of its pins, and the verified copies.
    verified: (u64, BTreeMap<String, IndexPin>),
    /// What each list holds, by key.
    lists: BTreeMap<String, BTreeSet<String>>,
    objects: BTreeSet<String>,
    /// The archive there.
    ledger: ArchiveLedger,
    pub(super) marks: BTreeSet<&'static str>,
}

impl CopyModel {
    pub(super) fn observe(&mut self, event: &StoreEvent) -> Result<(), String> {
        self.ledger.observe(event)?;
        if event.key.starts_with("archive/") {
            return Ok(());
        }
        if event.change == StoreChange::Deleted {
            return self.deleted(event);
        }
        match event.key.strip_prefix("snapshots/").and_then(|rest| rest.split_once('/')) {
            Some((_, name)) if name.starts_with("list/") => {
                let manifest: Manifest = record_state(&event.object.body).map_err(|error| error.to_string())?;
                self.lists.insert(event.key.clone(), manifest.objects().map(str::to_owned).collect());
                Ok(())
            }
            Some((_, name)) => match name.parse() {
                Ok(number) => self.pinned(number, event),
                Err(_) => Ok(()),
            },
            None => {
                self.objects.insert(event.key.clone());
                Ok(())
            }
        }
    }

    /// Everything that a verified copy names is there.
    fn pinned(&mut self, number: u64, event: &StoreEvent) -> Result<(), String> {
        if number <= self.verified.0 {
            return Ok(());
        }
        let register: PinRegister =
            record_state(&event.object.body).map_err(|_| "a register of copies is unreadable")?;
        let verified: BTreeMap<_, _> = register.pins.into_iter().filter(|(_, pin)| pin.verified.is_some()).collect();
        for (name, pin) in &verified {
            let list = self.lists.get(&pin.list);
            let list =
                list.ok_or_else(|| format!("the copy \"{name}\" is verified and its list \"{}\" is gone", pin.list))?;
            if let Some(gone) = list.iter().find(|key| !self.objects.contains(*key)) {
                return Err(format!("the copy \"{name}\" is verified and \"{gone}\", which it names, is not there"));
            }
            let archive = pin.verified.as_ref().and_then(|proof| proof.archive.as_ref());
            if let Some(extent) = archive.filter(|extent| self.ledger.table_end(extent.version) != Some(extent.end)) {
                return Err(format!(
                    "the copy \"{name}\" is verified with {extent:?}, which the archive there has not"
                ));
            }
            self.marks.insert("a snapshot was copied");
        }
        if self.verified.1.keys().any(|name| !verified.contains_key(name)) {
            self.marks.insert("a copy was dropped");
        }
        self.verified = (number, verified);
        Ok(())
    }

    /// Nothing goes that a verified copy needs. Of the archive nothing goes at all.
    fn deleted(&mut self, event: &StoreEvent) -> Result<(), String> {
        let (key, by) = (event.key.as_str(), &event.by);
        for (name, pin) in &self.verified.1 {
            if pin.list == key || self.lists.get(&pin.list).is_some_and(|list| list.contains(key)) {
                return Err(format!("{by} deleted \"{key}\", which the copy \"{name}\" needs"));
            }
        }
        if self.objects.remove(key) {
            self.marks.insert("garbage of copies was deleted");
        }
        Ok(())
    }
}

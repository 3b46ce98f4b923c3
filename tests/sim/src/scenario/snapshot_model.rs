//! What must hold of snapshots and of the archive, checked against every event without the code under test.

use std::collections::{BTreeMap, BTreeSet};

use tidemark_catalog::{LogCursor, Manifest, PinRegister, SNAPSHOT_OWNER, SnapshotProof};
use tidemark_ingest::OperationRecord;
use tidemark_wal::{Outcome, Token};

use super::{
    archive_ledger::{ArchiveGrowth, ArchiveLedger},
    garbage::GarbageModel,
    long_run::INDEX,
};
use crate::{
    chain_record::record_state,
    simulated_store::{StoreChange, StoreEvent, StoredObject},
};

#[derive(Debug, Default)]
pub(super) struct SnapshotModel {
    /// Manifests, pins and garbage.
    pub(super) garbage: GarbageModel,
    /// Every record that was ever uploaded in a segment, by key of the segment.
    segments: BTreeMap<String, Vec<OperationRecord>>,
    /// The marks of each sidecar.
    corrected: BTreeMap<String, BTreeSet<u64>>,
    /// The manifest of each list.
    lists: BTreeMap<String, Manifest>,
    /// The archive.
    pub(super) ledger: ArchiveLedger,
    /// Entries that could not be read when the archive passed over them.
    passed_over: BTreeSet<Token>,
    /// The snapshots that were verified, with the true time (milliseconds) at which each pin was made.
    verified: BTreeSet<String>,
    made: BTreeMap<String, u64>,
    /// Objects that are lost for a while, and since when in true time (milliseconds).
    pub(super) lost: BTreeMap<String, u64>,
}

impl SnapshotModel {
    pub(super) fn observe(&mut self, event: &StoreEvent) -> Result<(), String> {
        if event.bucket != INDEX {
            return Ok(());
        }
        if let Some(growth) = self.ledger.observe(event)? {
            self.archived(growth)?;
        }
        if event.key.starts_with("archive/") {
            return Ok(());
        }
        if event.change != StoreChange::Deleted {
            self.remember(event)?;
        }
        self.garbage.observe(event)?;
        match event.key.strip_prefix("snapshots/") {
            Some(name) if event.change != StoreChange::Deleted && !name.contains("/list/") => self.check_pins(event),
            _ => Ok(()),
        }
    }

    /// What objects hold, for later.
    fn remember(&mut self, event: &StoreEvent) -> Result<(), String> {
        let (key, body) = (event.key.clone(), &event.object.body);
        if key.contains("/segment/") && key.starts_with("g1/") && !self.segments.contains_key(&key) {
            let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            // Objects of others are no records.
            if let Ok(records) = lines.map(serde_json::from_slice).collect::<Result<Vec<OperationRecord>, _>>() {
                self.segments.insert(key, records);
            }
        } else if key.contains("/sidecar/") {
            let marks: serde_json::Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
            let seqs = marks["corrected"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_u64);
            self.corrected.insert(key, seqs.collect());
        } else if key.contains("/list/") && key.starts_with("snapshots/") {
            self.lists.insert(key, record_state(body).map_err(|error| error.to_string())?);
        }
        Ok(())
    }

    /// The operations of `manifest` as they stand.
    fn standing(&self, manifest: &Manifest) -> Result<BTreeMap<(Token, u32), &OperationRecord>, String> {
        let marks = manifest.sidecars.iter().filter_map(|sidecar| self.corrected.get(&sidecar.key));
        let corrected: BTreeSet<u64> = marks.flatten().copied().collect();
        let mut standing = BTreeMap::new();
        for segment in &manifest.segments {
            let records =
                self.segments.get(&segment.key).ok_or_else(|| format!("\"{}\" was never written", segment.key))?;
            for record in records.iter().filter(|record| !corrected.contains(&record.seq)) {
                standing.insert((record.token, record.op), record);
            }
        }
        Ok(standing)
    }

    /// A version of the archive: each settled operation once, as the index has it.
    fn archived(&mut self, growth: ArchiveGrowth) -> Result<(), String> {
        let ArchiveGrowth { from, to, mut records } = growth;
        let Some((_, manifest)) = &self.garbage.latest else {
            return Err("archived before it was published".to_owned());
        };
        let standing = self.standing(manifest)?;
        let mut passed_over = BTreeSet::new();
        let seconds = from.second()..to.second();
        let unreadable = |token: &Token| {
            standing
                .range((*token, 0)..=(*token, u32::MAX))
                .any(|(_, record)| record.decision.outcome == Outcome::Unreadable)
        };
        for (place, record) in standing.iter().filter(|((token, _), _)| seconds.contains(&token.second())) {
            match records.remove(place) {
                Some(row) if row == **record => {}
                Some(row) => {
                    return Err(format!("{} op {} is archived as {row:?}, the index has {record:?}", place.0, place.1));
                }
                None if unreadable(&place.0) => {
                    passed_over.insert(place.0);
                }
                // Read since the snapshot's manifest was pinned.
                None if self.was_unreadable(place.0) => {
                    passed_over.insert(place.0);
                }
                None => {
                    return Err(format!("{} op {} is not in the archive, which reaches {to}", place.0, place.1));
                }
            }
        }
        if let Some((place, _)) = records.first_key_value() {
            return Err(format!("{} op {} is in the archive and not in these seconds of the index", place.0, place.1));
        }
        if to.second() > manifest.audited {
            return Err(format!("the archive reaches {to}, the audit {} only", manifest.audited));
        }
        if !passed_over.is_empty() {
            self.garbage.marks.insert("an unreadable entry was passed over");
        }
        self.garbage.marks.insert("the archive was extended");
        self.passed_over.extend(passed_over);
        Ok(())
    }

    fn was_unreadable(&self, token: Token) -> bool {
        let mut records = self.segments.values().flatten();
        records.any(|record| record.token == token && record.decision.outcome == Outcome::Unreadable)
    }

    fn check_pins(&mut self, event: &StoreEvent) -> Result<(), String> {
        let Ok(register) = record_state::<PinRegister>(&event.object.body) else { return Ok(()) };
        for (name, pin) in register.pins.iter().filter(|(_, pin)| pin.owner == SNAPSHOT_OWNER) {
            if pin.confirmed {
                self.made.entry(pin.list.clone()).or_insert(event.at);
            }
            let Some(proof) = &pin.verified else { continue };
            if self.verified.insert(pin.list.clone()) {
                let by = &event.by;
                self.check_snapshot(&pin.list, proof).map_err(|why| format!("{by} verified \"{name}\": {why}"))?;
                self.ledger.vouch(proof);
                self.garbage.marks.insert("a snapshot was verified");
            }
        }
        Ok(())
    }

    /// Everything that a verified snapshot names exists, and snapshot and archive are what the index decided.
    fn check_snapshot(&self, list: &str, proof: &SnapshotProof) -> Result<(), String> {
        let manifest = self.lists.get(list).ok_or_else(|| format!("its list \"{list}\" was never written"))?;
        if let Some(gone) = manifest.objects().find(|key| !self.garbage.objects.contains(*key)) {
            return Err(format!("\"{gone}\", which it names, does not exist"));
        }
        if proof.cursor.second() > proof.horizon || (proof.cursor, proof.horizon) != (manifest.cursor, manifest.horizon)
        {
            return Err(format!("its cursor {} and horizon {} are not the manifest's", proof.cursor, proof.horizon));
        }
        let standing = self.standing(manifest)?;
        if proof.counts.total() != standing.len() as u64 {
            return Err(format!("it says {} operations, there are {}", proof.counts.total(), standing.len()));
        }
        let Some(archive) = &proof.archive else {
            return if manifest.audited == LogCursor::default().second() {
                Ok(())
            } else {
                Err("it has no archive".to_owned())
            };
        };
        let end = self.ledger.table_end(archive.version);
        let end = end.ok_or_else(|| format!("version {} does not count", archive.version))?;
        if end != archive.end || archive.end.second() < manifest.audited {
            return Err(format!("the archive reaches {end}, the audit {}", manifest.audited));
        }
        Ok(())
    }

    /// The object of the list, that of a verified snapshot, that was lost before it was pinned and is not among the objects of the `store`:
    /// it cannot have been read.
    pub(super) fn unread_object(&self, list: &str, store: &BTreeMap<String, StoredObject>) -> Option<String> {
        let made = self.made.get(list).copied().unwrap_or_default();
        let was_lost = |key: &&str| self.lost.get(*key).is_some_and(|since| *since < made);
        let mut objects = self.lists.get(list).into_iter().flat_map(Manifest::objects);
        objects.find(|key| was_lost(key) && !store.contains_key(*key)).map(str::to_owned)
    }

    /// At the end: snapshots were made, and none that was left half made stays.
    pub(super) fn check_final_state(&self, left_before: u64) -> Result<(), String> {
        if self.verified.is_empty() {
            return Err("no snapshot was verified".to_owned());
        }
        let is_left = |pin: &tidemark_catalog::IndexPin| {
            let renewed = pin.renewed.or(pin.made).map_or(u64::MAX, |second| second.unix() * 1000);
            pin.owner == SNAPSHOT_OWNER && pin.verified.is_none() && renewed < left_before
        };
        match self.garbage.pins.1.iter().find(|(_, pin)| is_left(pin)) {
            Some((name, pin)) => Err(format!("the half-made snapshot \"{name}\" stays: {pin:?}")),
            None => Ok(()),
        }
    }
}

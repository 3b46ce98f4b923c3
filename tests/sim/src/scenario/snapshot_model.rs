//! What must hold of snapshots and of the archive, checked against every event without the code under test.

use std::collections::{BTreeMap, BTreeSet};

use tidemark_catalog::{LogCursor, Manifest, PinRegister, SNAPSHOT_OWNER, SnapshotProof};
use tidemark_ingest::{
    OperationRecord,
    snapshot::model_archive::{ModelRow, ModelTable, parse_rows},
};
use tidemark_wal::{Outcome, Token};

use super::{garbage::GarbageModel, long_run::INDEX};
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
    /// The rows of each data file of the archive, by key.
    files: BTreeMap<String, Vec<ModelRow>>,
    /// The archive's versions that count, by number.
    tables: BTreeMap<u64, ModelTable>,
    /// The bytes of each entry that the archive has, and the version from which on it has them.
    pub(super) bodies: BTreeMap<Token, (u64, Vec<u8>)>,
    /// Up to where a verified snapshot has compared the archive.
    pub(super) proven: LogCursor,
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
        if event.key.starts_with("archive/") {
            return self.observe_archive(event);
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

    fn observe_archive(&mut self, event: &StoreEvent) -> Result<(), String> {
        let key = event.key.as_str();
        let is_data = key.contains("/data/");
        match event.change {
            StoreChange::Deleted if is_data => Err(format!("{} deleted \"{key}\" of the archive", event.by)),
            StoreChange::Replaced if is_data => Err(format!("{} overwrote \"{key}\" of the archive", event.by)),
            StoreChange::Deleted | StoreChange::Replaced => Ok(()),
            StoreChange::Created if is_data => {
                let rows = parse_rows(&event.object.body).map_err(|error| error.to_string())?;
                self.files.insert(key.to_owned(), rows);
                Ok(())
            }
            StoreChange::Created => match key.rsplit_once('/').and_then(|(_, number)| number.parse().ok()) {
                Some(number) if !key.contains("/boundary/") => self.extended(number, event),
                _ => Ok(()),
            },
        }
    }

    /// A version of the archive: each settled operation once, as the index has it.
    fn extended(&mut self, number: u64, event: &StoreEvent) -> Result<(), String> {
        if self.tables.last_key_value().is_some_and(|(latest, _)| number <= *latest) {
            return Ok(());
        }
        let table: ModelTable = record_state(&event.object.body).map_err(|error| error.to_string())?;
        let before = self.tables.last_key_value().map(|(_, table)| table.clone());
        let start = before.as_ref().map(|before| before.end).unwrap_or_default();
        let known = before.map(|before| before.files).unwrap_or_default();
        let Some((_, manifest)) = &self.garbage.latest else {
            return Err("archived before it was published".to_owned());
        };
        let standing = self.standing(manifest)?;
        let folder = event.key.rsplit_once('/').map(|(folder, _)| folder).unwrap_or_default();
        let mut rows: BTreeMap<(Token, u32), &OperationRecord> = BTreeMap::new();
        let mut bodies = Vec::new();
        for file in table.files.iter().filter(|file| !known.contains(file)) {
            let key = format!("{folder}/{file}");
            for row in self.files.get(&key).ok_or_else(|| format!("the archive names \"{key}\", which is gone"))? {
                let place = (row.record.token, row.record.op);
                if let Some(body) = row.record.body.bytes() {
                    bodies.push((place.0, (number, body.to_vec())));
                }
                if rows.insert(place, &row.record).is_some() {
                    return Err(format!("{} op {} is in the archive twice", place.0, place.1));
                }
            }
        }
        let mut passed_over = BTreeSet::new();
        let seconds = start.second()..table.end.second();
        let unreadable = |token: &Token| {
            standing
                .range((*token, 0)..=(*token, u32::MAX))
                .any(|(_, record)| record.decision.outcome == Outcome::Unreadable)
        };
        for (place, record) in standing.iter().filter(|((token, _), _)| seconds.contains(&token.second())) {
            match rows.remove(place) {
                Some(row) if row == *record => {}
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
                    return Err(format!(
                        "{} op {} is not in the archive, which reaches {}",
                        place.0, place.1, table.end
                    ));
                }
            }
        }
        if let Some((place, _)) = rows.first_key_value() {
            return Err(format!("{} op {} is in the archive and not in these seconds of the index", place.0, place.1));
        }
        if table.end.second() > manifest.audited {
            return Err(format!("the archive reaches {}, the audit {} only", table.end, manifest.audited));
        }
        if !passed_over.is_empty() {
            self.garbage.marks.insert("an unreadable entry was passed over");
        }
        self.garbage.marks.insert("the archive was extended");
        self.passed_over.extend(passed_over);
        self.bodies.extend(bodies);
        self.tables.insert(number, table);
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
                self.proven = self.proven.max(proof.archive_end());
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
        let table =
            self.tables.get(&archive.version).ok_or_else(|| format!("version {} does not count", archive.version))?;
        if table.end != archive.end || archive.end.second() < manifest.audited {
            return Err(format!("the archive reaches {}, the audit {}", table.end, manifest.audited));
        }
        Ok(())
    }

    /// Up to where version `number` of the archive, which counts, has every settled operation.
    pub(super) fn table_end(&self, number: u64) -> Option<LogCursor> {
        self.tables.get(&number).map(|table| table.end)
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

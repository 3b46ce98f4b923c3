//! What the archive has, from every event: its versions that count, the bytes of its entries, and up to where verified snapshots vouch for it.

use std::collections::BTreeMap;

use tidemark_catalog::{LogCursor, SnapshotProof};
use tidemark_ingest::{
    OperationRecord,
    snapshot::model_archive::{ModelTable, parse_rows},
};
use tidemark_wal::Token;

use crate::{
    chain_record::record_state,
    simulated_store::{StoreChange, StoreEvent},
};

#[derive(Debug, Default)]
pub(super) struct ArchiveLedger {
    /// The records of each data file, by key.
    files: BTreeMap<String, Vec<OperationRecord>>,
    /// The versions that count, by number.
    tables: BTreeMap<u64, ModelTable>,
    /// The bytes of each entry that the archive has, and the version from which on it has them.
    bodies: BTreeMap<Token, (u64, Vec<u8>)>,
    /// Up to where a verified snapshot has compared the archive.
    proven: LogCursor,
}

/// A version of the archive that counts from now on.
#[derive(Debug)]
pub(super) struct ArchiveGrowth {
    /// Where the version before it ended.
    pub(super) from: LogCursor,
    /// Where it ends.
    pub(super) to: LogCursor,
    /// What it has that the version before it had not, by operation.
    pub(super) records: BTreeMap<(Token, u32), OperationRecord>,
}

impl ArchiveLedger {
    /// Follows an event of the index's bucket. Nothing of an archive is deleted or overwritten, and no operation is in it twice.
    pub(super) fn observe(&mut self, event: &StoreEvent) -> Result<Option<ArchiveGrowth>, String> {
        let key = event.key.as_str();
        if !key.starts_with("archive/") {
            return Ok(None);
        }
        let is_data = key.contains("/data/");
        match event.change {
            StoreChange::Deleted if is_data => Err(format!("{} deleted \"{key}\" of the archive", event.by)),
            StoreChange::Replaced if is_data => Err(format!("{} overwrote \"{key}\" of the archive", event.by)),
            StoreChange::Deleted | StoreChange::Replaced => Ok(None),
            StoreChange::Created if is_data => {
                let rows = parse_rows(&event.object.body).map_err(|error| error.to_string())?;
                self.files.insert(key.to_owned(), rows.into_iter().map(|row| row.record).collect());
                Ok(None)
            }
            StoreChange::Created => match key.rsplit_once('/').and_then(|(_, number)| number.parse().ok()) {
                Some(number) if !key.contains("/boundary/") => self.extend(number, event),
                _ => Ok(None),
            },
        }
    }

    fn extend(&mut self, number: u64, event: &StoreEvent) -> Result<Option<ArchiveGrowth>, String> {
        if self.tables.last_key_value().is_some_and(|(latest, _)| number <= *latest) {
            return Ok(None);
        }
        let table: ModelTable = record_state(&event.object.body).map_err(|error| error.to_string())?;
        let before = self.tables.last_key_value().map(|(_, table)| table);
        let from = before.map(|before| before.end).unwrap_or_default();
        let known = before.map_or(&[][..], |before| &before.files);
        let folder = event.key.rsplit_once('/').map(|(folder, _)| folder).unwrap_or_default();
        let mut records = BTreeMap::new();
        for file in table.files.iter().filter(|file| !known.contains(file)) {
            let key = format!("{folder}/{file}");
            let added = self.files.get(&key).ok_or_else(|| format!("the archive names \"{key}\", which is gone"))?;
            for record in added {
                let place = (record.token, record.op);
                if let Some(body) = record.body.bytes() {
                    self.bodies.insert(place.0, (number, body.to_vec()));
                }
                if records.insert(place, record.clone()).is_some() {
                    return Err(format!("{} op {} is in the archive twice", place.0, place.1));
                }
            }
        }
        let to = table.end;
        self.tables.insert(number, table);
        Ok(Some(ArchiveGrowth { from, to, records }))
    }

    /// A snapshot with this proof is verified.
    pub(super) fn vouch(&mut self, proof: &SnapshotProof) {
        self.proven = self.proven.max(proof.archive_end());
    }

    /// Up to where verified snapshots vouch for the archive.
    pub(super) fn proven(&self) -> LogCursor {
        self.proven
    }

    /// The bytes that the archive has of an entry, and the version from which on it has them.
    pub(super) fn body(&self, token: Token) -> Option<&(u64, Vec<u8>)> {
        self.bodies.get(&token)
    }

    /// Up to where version `number`, which counts, has every settled operation.
    pub(super) fn table_end(&self, number: u64) -> Option<LogCursor> {
        self.tables.get(&number).map(|table| table.end)
    }
}

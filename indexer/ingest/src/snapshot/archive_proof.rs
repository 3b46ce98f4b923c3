//! Reads a part of the archive again, and compares it with the index.

use std::pin::pin;

use futures::TryStreamExt as _;
use tidemark_catalog::{LogCursor, SetDigest};

use super::{
    error::SnapshotError,
    log_archive::{ArchiveVersion, LogArchive, SettledRecord},
    paired_streams::paired,
    settled_records::{SettledPlace, SettledRecords},
};
use crate::record::OperationRecord;

/// How many operations there are, and which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RowSums {
    pub(super) operations: u64,
    pub(super) digest: SetDigest,
}

impl RowSums {
    pub(super) fn insert(&mut self, record: &OperationRecord) {
        self.operations += 1;
        self.digest.insert(&record.set_element());
    }
}

/// Which part of an archive is compared with the index.
pub(super) struct ArchivePart<'a> {
    /// The version.
    pub(super) version: &'a ArchiveVersion,
    /// From where on it is read. What lies before was read for an earlier snapshot.
    pub(super) from: LogCursor,
    /// Up to where the index is settled.
    pub(super) to: LogCursor,
    /// From where on this run has written it.
    pub(super) written_from: LogCursor,
    /// What it has written.
    pub(super) written: RowSums,
}

/// Reads the part of the archive from the store, and compares each operation with the index. `on_row` is called for each.
///
/// An operation that is missing is damage, unless its entry could not be read before: then it was passed over, and is in the log.
pub(super) async fn prove_archive(
    archive: &dyn LogArchive,
    part: &ArchivePart<'_>,
    settled: &SettledRecords,
    on_row: impl Fn(),
) -> Result<(), SnapshotError> {
    let ArchivePart { version, from, to, written_from, written } = *part;
    let damaged =
        |why: String| SnapshotError::ArchiveDamaged { key: format!("version {} of the archive", version.number), why };
    let missing = |SettledPlace { place, was_unreadable }: &SettledPlace| {
        if *was_unreadable {
            return Ok(());
        }
        Err(damaged(format!("operation {} of {} is not in it", place.op, place.token)))
    };
    let to = to.min(version.end);
    if to <= from {
        return Ok(());
    }
    let rows = archive.rows(version, from..to);
    let places = settled.places(from.second()..to.second()).map_err(SnapshotError::from);
    let key_of_row = |row: &SettledRecord| (row.record.token, row.record.op);
    let key_of_place = |settled: &SettledPlace| (settled.place.token, settled.place.op);
    let mut pairs = pin!(paired(rows, places, key_of_row, key_of_place));
    let mut found = RowSums::default();
    while let Some((row, indexed)) = pairs.try_next().await? {
        let Some(SettledRecord { record, .. }) = row else {
            indexed.as_ref().map_or(Ok(()), missing)?;
            continue;
        };
        on_row();
        if written_from <= LogCursor(record.token.second()) {
            found.insert(&record);
        }
        let outcome = indexed.map(|indexed| indexed.place.outcome);
        if outcome != Some(record.decision.outcome) {
            return Err(damaged(format!(
                "it has operation {} of {} as {:?} where the index has {outcome:?}",
                record.op, record.token, record.decision.outcome
            )));
        }
    }
    if found != written {
        return Err(damaged(format!(
            "{} operations with digest {} were written, and {} with digest {} are read",
            written.operations, written.digest, found.operations, found.digest
        )));
    }
    Ok(())
}

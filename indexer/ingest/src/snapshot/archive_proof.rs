//! Reads a part of the archive again, and compares it with the index.

use std::pin::pin;

use futures::{StreamExt as _, TryStreamExt as _};
use tidemark_catalog::{Generation, LogCursor, SetDigest};
use tidemark_wal::{Outcome, Token};

use super::{
    error::SnapshotError,
    log_archive::{ArchiveVersion, LogArchive, SettledRecord},
    settled_records::{SettledPlace, SettledRecords},
};
use crate::{engine::RecordPlace, record::OperationRecord};

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
/// An operation that is missing is damage, unless its entry could not be read at first: then it was passed over, and is in the log. One
/// that only the archive has is damage, unless its entry cannot be read so far: the archive was extended from a later manifest then.
///
/// # Errors
///
/// [`SnapshotError::OutcomesDiffer`] where the two differ in what another generation has archived.
pub(super) async fn prove_archive(
    archive: &dyn LogArchive,
    part: &ArchivePart<'_>,
    settled: &SettledRecords,
    on_row: impl Fn(),
) -> Result<(), SnapshotError> {
    let ArchivePart { version, from, to, written_from, written } = *part;
    let to = to.min(version.end);
    if to <= from {
        return Ok(());
    }
    let mut places = pin!(settled.places(from.second()..to.second()).peekable());
    let mut rows = archive.rows(version, from..to);
    let mut comparison = RowComparison { version, settled, unread: None, archived_by: None };
    let mut found = RowSums::default();
    while let Some(row) = rows.try_next().await? {
        let SettledRecord { generation, record, .. } = row;
        on_row();
        if written_from <= LogCursor(record.token.second()) {
            found.insert(&record);
        }
        comparison.archived_by = Some(generation);
        let key = (record.token, record.op);
        let key_of = |next: &SettledPlace| (next.place.token, next.place.op);
        while let Some(earlier) =
            places.as_mut().next_if(|next| !next.as_ref().is_ok_and(|next| key <= key_of(next))).await
        {
            comparison.require_archived(&earlier?, None)?;
        }
        let indexed = places.as_mut().next_if(|next| next.as_ref().is_ok_and(|next| key == key_of(next))).await;
        match indexed.transpose()? {
            Some(indexed) => comparison.require_archived(&indexed, Some(record.decision.outcome))?,
            None => comparison.require_unread(&record)?,
        }
    }
    while let Some(left) = places.try_next().await? {
        comparison.require_archived(&left, None)?;
    }
    if found != written {
        return Err(comparison.damaged(format!(
            "{} operations with digest {} were written, and {} with digest {} are read",
            written.operations, written.digest, found.operations, found.digest
        )));
    }
    Ok(())
}

/// The archive and an index side by side, in token order.
struct RowComparison<'a> {
    version: &'a ArchiveVersion,
    settled: &'a SettledRecords,
    /// The last entry that the index could not read so far.
    unread: Option<Token>,
    /// The generation of the last row: what precedes it in token order was archived by that one or an earlier one.
    archived_by: Option<Generation>,
}

impl RowComparison<'_> {
    /// Refused unless the operation at `standing` is in the archive with this outcome, or need not be in it.
    fn require_archived(&mut self, standing: &SettledPlace, archived: Option<Outcome>) -> Result<(), SnapshotError> {
        let SettledPlace { place: RecordPlace { token, op, outcome, .. }, was_unreadable, is_unread } = *standing;
        if is_unread {
            self.unread = Some(token);
        }
        if is_unread || archived == Some(outcome) || (was_unreadable && archived.is_none()) {
            return Ok(());
        }
        Err(self.differs(token, op, archived, Some(outcome)))
    }

    /// Refused unless the entry of `record`, which only the archive has, cannot be read so far.
    fn require_unread(&self, record: &OperationRecord) -> Result<(), SnapshotError> {
        if self.unread == Some(record.token) {
            return Ok(());
        }
        Err(self.differs(record.token, record.op, Some(record.decision.outcome), None))
    }

    fn differs(&self, token: Token, op: u32, archived: Option<Outcome>, indexed: Option<Outcome>) -> SnapshotError {
        let shown = |outcome: Option<Outcome>| outcome.map_or("missing", Outcome::as_str);
        let what =
            format!("operation {op} of {token} is {} there and {} in the index", shown(archived), shown(indexed));
        match &self.archived_by {
            Some(by) if by != self.settled.generation() => SnapshotError::OutcomesDiffer {
                archived_by: by.clone(),
                generation: self.settled.generation().clone(),
                what,
            },
            _ => self.damaged(what),
        }
    }

    fn damaged(&self, why: String) -> SnapshotError {
        SnapshotError::ArchiveDamaged { key: format!("version {} of the archive", self.version.number), why }
    }
}

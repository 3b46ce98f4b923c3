//! Reads a part of the archive again, and compares it with the index.

use std::pin::pin;

use futures::TryStreamExt as _;
use tidemark_catalog::{Generation, LogCursor, SetDigest};
use tidemark_wal::{Outcome, Token};

use super::{
    error::SnapshotError,
    log_archive::{ArchiveVersion, LogArchive, SettledRecord},
    paired_streams::paired,
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
/// An operation that is missing is damage, unless its entry could not be read at first, or came after the audit: then it was passed over, and
/// is in the log. One that only the archive has is damage, unless its entry cannot be read so far: the archive was extended from a later manifest then.
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
    let rows = archive.rows(version, from..to);
    let places = settled.places(from.second()..to.second()).map_err(SnapshotError::from);
    let mut pairs = pin!(paired(rows, places, SettledRecord::key, SettledPlace::key));
    let mut comparison = RowComparison { version, settled, unread: None, archived_by: None, missing: None };
    let mut found = RowSums::default();
    while let Some((row, place)) = pairs.try_next().await? {
        if let Some(SettledRecord { record, .. }) = &row {
            on_row();
            if written_from <= LogCursor(record.token.second()) {
                found.insert(record);
            }
        }
        if let (None, Some(place)) = (&row, &place)
            && comparison.misses(place)
            && settled.may_be_passed_over(place).await?
        {
            continue;
        }
        comparison.compare(row.as_ref(), place.as_ref())?;
    }
    comparison.require_all()?;
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
    /// The first operation that the archive lacks. Which generation has archived its second, the next row says.
    missing: Option<SettledPlace>,
}

impl RowComparison<'_> {
    /// Compares what the archive and the index have of the next operation. An error may come with the row behind it.
    fn compare(&mut self, row: Option<&SettledRecord>, place: Option<&SettledPlace>) -> Result<(), SnapshotError> {
        if let Some(row) = row {
            self.archived_by = Some(row.generation.clone());
            self.require_all()?;
        }
        match (row, place) {
            (row, Some(place)) => self.require_archived(place, row.map(|row| row.record.decision.outcome)),
            (Some(row), None) => self.require_unread(&row.record),
            (None, None) => Ok(()),
        }
    }

    /// Refused if an operation was missing.
    fn require_all(&self) -> Result<(), SnapshotError> {
        let Some(SettledPlace { place, .. }) = &self.missing else { return Ok(()) };
        Err(self.differs(place.token, place.op, None, Some(place.outcome)))
    }

    /// Whether an operation that the archive does not have is the first one that is missing.
    fn misses(&self, standing: &SettledPlace) -> bool {
        self.missing.is_none() && !standing.is_unread
    }

    /// Refused unless the operation at `standing` is in the archive with this outcome, or need not be in it.
    fn require_archived(&mut self, standing: &SettledPlace, archived: Option<Outcome>) -> Result<(), SnapshotError> {
        let SettledPlace { place: RecordPlace { token, op, outcome, .. }, is_unread, .. } = *standing;
        if is_unread {
            self.unread = Some(token);
        }
        if is_unread || archived == Some(outcome) {
            return Ok(());
        }
        if archived.is_none() {
            self.missing.get_or_insert(*standing);
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

//! Reads a part of the archive again, and compares it with the index.

use std::pin::pin;

use futures::{StreamExt as _, TryStreamExt as _};
use tidemark_catalog::{Generation, LogCursor, SetDigest};
use tidemark_wal::{Outcome, Token};

use super::{
    error::SnapshotError,
    log_archive::{ArchiveVersion, LogArchive, SettledRecord},
    paired_streams::paired,
    row_content::{ContentDigest, difference},
    settled_records::{SettledPlace, SettledRecords},
};
use crate::{engine::RecordPlace, record::OperationRecord};

/// How many rows there are, which, and all that they say.
#[derive(Clone, Default)]
pub(super) struct RowSums {
    pub(super) operations: u64,
    pub(super) digest: SetDigest,
    content: ContentDigest,
}

impl RowSums {
    /// Adds the row after the last one.
    pub(super) fn insert(&mut self, row: &SettledRecord) -> Result<(), SnapshotError> {
        self.operations += 1;
        self.digest.insert(&row.record.set_element());
        self.content.insert(row).map_err(|error| SnapshotError::ArchiveDamaged {
            key: format!("the row of operation {} of {}", row.record.op, row.record.token),
            why: format!("it cannot be compared: {error}"),
        })
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
    /// What it has written: the index's records.
    pub(super) written: RowSums,
}

/// Reads the part of the archive from the store, and compares each row with the index: what this run has written by a digest of all that its
/// rows say, and what other runs have written row by row. `on_row` is called for each.
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
    let ArchivePart { version, from, to, written_from, ref written } = *part;
    let to = to.min(version.end);
    if to <= from {
        return Ok(());
    }
    let rows = archive.rows(version, from..to);
    let written_from = written_from.clamp(from, to);
    let of_others = settled.placed_records(from.second()..written_from.second());
    let of_others = of_others.map_ok(|(place, record)| StandingOperation { place, record: Some(record) });
    let own = settled.places(written_from.second()..to.second());
    let own = own.map_ok(|place| StandingOperation { place, record: None });
    let standing = of_others.chain(own).map_err(SnapshotError::from);
    let mut pairs = pin!(paired(rows, standing, SettledRecord::key, |standing| standing.place.key()));
    let mut comparison = RowComparison { version, settled, unread: None, archived_by: None, missing: None };
    let mut found = RowSums::default();
    while let Some((row, standing)) = pairs.try_next().await? {
        if let Some(row) = &row {
            on_row();
            if written_from <= LogCursor(row.record.token.second()) {
                found.insert(row)?;
            }
        }
        if let (None, Some(standing)) = (&row, &standing)
            && comparison.misses(&standing.place)
            && standing.may_be_passed_over(settled).await?
        {
            continue;
        }
        comparison.compare(row.as_ref(), standing.as_ref())?;
    }
    comparison.require_all()?;
    let (found_content, written_content) = (found.content.finish(), written.content.clone().finish());
    if (found.operations, &found_content) != (written.operations, &written_content) {
        return Err(comparison.damaged(format!(
            "{} operations with digest {written_content} were written, and {} with digest {found_content} are read",
            written.operations, found.operations
        )));
    }
    Ok(())
}

/// An operation of the index that stands, with its record where the row of it is compared as a whole.
struct StandingOperation {
    place: SettledPlace,
    record: Option<OperationRecord>,
}

impl StandingOperation {
    /// Whether an archive that is past its second may lack it.
    async fn may_be_passed_over(&self, settled: &SettledRecords) -> Result<bool, SnapshotError> {
        match &self.record {
            Some(record) => Ok(settled.may_lack(&self.place, record)),
            None => Ok(settled.may_be_passed_over(&self.place).await?),
        }
    }
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
    fn compare(
        &mut self,
        row: Option<&SettledRecord>,
        standing: Option<&StandingOperation>,
    ) -> Result<(), SnapshotError> {
        if let Some(row) = row {
            self.archived_by = Some(row.generation.clone());
            self.require_all()?;
        }
        match (row, standing) {
            (row, Some(standing)) => self.require_archived(standing, row),
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

    /// Refused unless `row` is that of the operation, or the operation need not be in the archive.
    fn require_archived(
        &mut self,
        standing: &StandingOperation,
        row: Option<&SettledRecord>,
    ) -> Result<(), SnapshotError> {
        let SettledPlace { place: RecordPlace { token, op, outcome, .. }, is_unread, .. } = standing.place;
        if is_unread {
            self.unread = Some(token);
            return Ok(());
        }
        let Some(row) = row else {
            self.missing.get_or_insert(standing.place);
            return Ok(());
        };
        let archived = row.record.decision.outcome;
        if archived != outcome {
            return Err(self.differs(token, op, Some(archived), Some(outcome)));
        }
        let record = standing.record.as_ref();
        match record.and_then(|record| difference(row, record, self.settled.generation())) {
            Some(what) => {
                Err(self.refused(format!("operation {op} of {token} has another {what} there than in the index")))
            }
            None => Ok(()),
        }
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
        self.refused(format!(
            "operation {op} of {token} is {} there and {} in the index",
            shown(archived),
            shown(indexed)
        ))
    }

    /// What is wrong with a row; of one of another generation it is no damage.
    fn refused(&self, what: String) -> SnapshotError {
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

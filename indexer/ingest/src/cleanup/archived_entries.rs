//! The archive's rows of one entry after the other, in token order.

use std::time::Duration;

use futures::TryStreamExt as _;
use tidemark_catalog::LogCursor;
use tidemark_store::StoreSecond;
use tidemark_wal::Token;

use crate::{
    record::OperationRecord,
    snapshot::{ArchiveVersion, LogArchive, SettledStream, SnapshotError},
};

/// Where the next entry that is asked for lies so far behind the last row, the rows between are skipped instead of read.
const MIN_SKIPPED_SPAN: Duration = Duration::from_hours(6);

/// The rows of one version of the archive, below a second.
pub(super) struct ArchivedEntries<'a> {
    archive: &'a dyn LogArchive,
    version: &'a ArchiveVersion,
    end: LogCursor,
    rows: Option<SettledStream>,
    /// The row that was read and is of a later entry.
    next: Option<OperationRecord>,
    /// The second that the rows have come to.
    reached: StoreSecond,
}

impl<'a> ArchivedEntries<'a> {
    pub(super) fn new(archive: &'a dyn LogArchive, version: &'a ArchiveVersion, end: LogCursor) -> Self {
        Self { archive, version, end, rows: None, next: None, reached: StoreSecond::default() }
    }

    /// All rows of the entry `token`, by op. Entries are asked for in ascending order.
    pub(super) async fn rows_of(&mut self, token: Token) -> Result<Vec<OperationRecord>, SnapshotError> {
        if self.rows.is_none() || token.second().since(self.reached) >= MIN_SKIPPED_SPAN {
            (self.next, self.reached) = (None, token.second());
            self.rows = Some(self.archive.rows(self.version, LogCursor(token.second())..self.end));
        }
        let mut found = Vec::new();
        while let Some(row) = self.next_row().await? {
            if row.token > token {
                self.next = Some(row);
                break;
            }
            if row.token == token {
                found.push(row);
            }
        }
        Ok(found)
    }

    async fn next_row(&mut self) -> Result<Option<OperationRecord>, SnapshotError> {
        if let Some(row) = self.next.take() {
            return Ok(Some(row));
        }
        let Some(rows) = &mut self.rows else { return Ok(None) };
        let row = rows.try_next().await?.map(|settled| settled.record);
        if let Some(row) = &row {
            self.reached = row.token.second();
        }
        Ok(row)
    }
}

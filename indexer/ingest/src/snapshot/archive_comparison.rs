//! Compares an archive with an index, operation by operation, whole or in windows of it.

use std::{ops::Range, pin::pin};

use futures::TryStreamExt as _;
use tidemark_catalog::LogCursor;
use tidemark_wal::Token;

use super::{
    error::SnapshotError,
    log_archive::{ArchiveVersion, LogArchive, SettledRecord},
    paired_streams::paired,
    row_content::difference,
    settled_records::{PlacedRecord, SettledRecords},
};
use crate::{engine::EngineError, record::OperationRecord};

/// How an archive and an index differ in an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ArchiveDifference {
    /// The index has it, the archive does not.
    NotArchived,
    /// The archive has it, the index does not.
    NotIndexed,
    /// Both have it, and not with the same of this.
    Differs(&'static str),
}

/// A part of an archive: whole seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ArchiveWindow {
    /// Where it lies.
    pub(crate) seconds: Range<LogCursor>,
    /// How many settled operations the index has there.
    pub(crate) operations: u64,
}

/// Compares one version of an archive with one manifest. Both are read as streams.
pub(crate) struct ArchiveComparison<'a> {
    /// The archive.
    pub(crate) archive: &'a dyn LogArchive,
    /// Its version.
    pub(crate) version: &'a ArchiveVersion,
    /// What is settled in the index.
    pub(crate) settled: SettledRecords,
}

impl ArchiveComparison<'_> {
    /// Compares these seconds. `on_pair` is called for each operation that either side has, in their order: with its row, if the archive has
    /// it, and what is different.
    ///
    /// An entry that the manifest could not read is left out: a later manifest may have it, and the archive was extended from that.
    pub(crate) async fn compare(
        &self,
        seconds: Range<LogCursor>,
        mut on_pair: impl FnMut((Token, u32), Option<&OperationRecord>, Option<ArchiveDifference>),
    ) -> Result<(), SnapshotError> {
        let rows = self.archive.rows(self.version, seconds.clone());
        let records = self.settled.placed_records(seconds.start.second()..seconds.end.second());
        let key_of_record = |(place, _): &PlacedRecord| place.key();
        let mut pairs = pin!(paired(rows, records.map_err(SnapshotError::from), SettledRecord::key, key_of_record));
        let mut unread = None;
        while let Some((row, placed)) = pairs.try_next().await? {
            let Some(key) = row.as_ref().map(SettledRecord::key).or(placed.as_ref().map(key_of_record)) else {
                continue;
            };
            if placed.as_ref().is_some_and(|(place, _)| place.is_unread) {
                unread = Some(key.0);
            }
            // Its first operation is unread, and the archive may have more of them.
            if unread == Some(key.0) {
                continue;
            }
            let difference = match (&row, &placed) {
                (Some(row), Some((_, record))) => {
                    difference(row, record, self.settled.generation()).map(ArchiveDifference::Differs)
                }
                (Some(_), None) => Some(ArchiveDifference::NotIndexed),
                (None, Some((place, record))) if self.settled.may_lack(place, record) => None,
                (None, _) => Some(ArchiveDifference::NotArchived),
            };
            on_pair(key, row.as_ref().map(|row| &row.record), difference);
        }
        Ok(())
    }

    /// The first of `seconds`, to the end of the one in which the index has `wanted` settled operations by then. Nothing of the
    /// archive is read for it, and no record is decoded.
    pub(crate) async fn window(&self, seconds: Range<LogCursor>, wanted: u64) -> Result<ArchiveWindow, EngineError> {
        let mut places = pin!(self.settled.places(seconds.start.second()..seconds.end.second()));
        let (mut operations, mut end) = (0, seconds.end);
        while let Some(standing) = places.try_next().await? {
            let second = LogCursor(standing.place.token.second());
            if end <= second {
                break;
            }
            operations += u64::from(!standing.is_unread);
            if operations >= wanted {
                end = end.min(LogCursor(second.second().next()));
            }
        }
        Ok(ArchiveWindow { seconds: seconds.start..end, operations })
    }
}

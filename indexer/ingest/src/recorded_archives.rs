//! The archives that recorded outcomes are taken from, read as one.
//!
//! What the index's own archive has is final for that index, and its snapshots compare the two. Where the index is restored from another
//! place, the archive there may end before the own one, or have what another index of the log decided. So the own one comes first, by
//! operation. What only one of them has, since the other one ends before or could not read the entry, comes from that one.

use std::ops::Range;

use futures::{StreamExt as _, TryStreamExt as _, future, stream};
use tidemark_catalog::LogCursor;
use tidemark_wal::Token;

use crate::{
    error::IngestError,
    snapshot::{ArchiveVersion, LogArchive, SettledRecord, SettledStream, SnapshotError, paired},
};

/// The archive of an index, and that of the place that it is restored from.
#[derive(Clone, Copy)]
pub(crate) struct RecordedArchives<'a> {
    /// That of the index.
    pub(crate) own: &'a dyn LogArchive,
    /// That of the other place; `None` if the index is restored from what is below it.
    pub(crate) other: Option<&'a dyn LogArchive>,
}

/// The versions of them that are read; `None` where there is none, or it is damaged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ArchivedVersions {
    /// That of the index.
    pub(crate) own: Option<ArchiveVersion>,
    /// That of the other place.
    pub(crate) other: Option<ArchiveVersion>,
}

impl ArchivedVersions {
    /// Every settled operation of the seconds below it is in one of them.
    pub(crate) fn end(&self) -> LogCursor {
        self.own.iter().chain(&self.other).map(|version| version.end).max().unwrap_or_default()
    }
}

impl RecordedArchives<'_> {
    /// The operations of `seconds` in `versions`, by (token, op). Ends at the first error.
    pub(crate) fn rows(&self, versions: &ArchivedVersions, seconds: &Range<LogCursor>) -> SettledStream {
        let own = versions.own.as_ref().map(|version| self.own.rows(version, seconds.clone()));
        let other = self.other.zip(versions.other.as_ref());
        let other = other.map(|(archive, version)| archive.rows(version, seconds.clone()));
        match (own, other) {
            (Some(own), Some(other)) => {
                paired(own, other, key_of, key_of).try_filter_map(|(own, other)| future::ok(own.or(other))).boxed()
            }
            (one, None) | (None, one) => one.unwrap_or_else(|| stream::empty().boxed()),
        }
    }

    /// Whether `failure` says that the index's own archive is damaged.
    pub(crate) fn is_of_own(&self, failure: &IngestError) -> bool {
        let IngestError::Archive(SnapshotError::ArchiveDamaged { key, .. }) = failure else { return false };
        self.other.is_none() || key.starts_with(&self.own.url())
    }
}

fn key_of(row: &SettledRecord) -> (Token, u32) {
    (row.record.token, row.record.op)
}

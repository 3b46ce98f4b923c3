//! What was proven of a pinned manifest: the mark that makes a snapshot of a pin.

use serde::{Deserialize, Serialize};
use tidemark_store::{InvariantViolation, StoreSecond};

use crate::{
    digest::SetDigest,
    log_cursor::LogCursor,
    manifest::{Manifest, RecordCounts},
};

/// What was read again of a pinned manifest and of the archive before the pin became a snapshot. It never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SnapshotProof {
    /// Store time of the record that has it; absent in that record itself, whose own store time it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub time: Option<StoreSecond>,
    /// `H` of the manifest.
    pub horizon: StoreSecond,
    /// The manifest's cursor: every token whose second lies below it is in the snapshot.
    pub cursor: LogCursor,
    /// How far the audit had come: what lies below it and is settled is in the archive.
    pub audited: StoreSecond,
    /// The second of the earliest token; absent if there is no record.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first: Option<StoreSecond>,
    /// Operations by outcome as they stand.
    pub counts: RecordCounts,
    /// The set digest of the operations as they stand.
    pub digest: SetDigest,
    /// Bytes of the segments and sidecars, all of which were read.
    pub bytes: u64,
    /// The archive as it was read; absent as long as nothing is old enough to be archived.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub archive: Option<ArchiveExtent>,
}

/// A version of the archive, and how far it reaches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ArchiveExtent {
    /// The number of the version.
    pub version: u64,
    /// SHA-256 of the version's record, 64 hexadecimal digits.
    pub hash: String,
    /// Every settled operation of the seconds below it is in that version.
    pub end: LogCursor,
}

impl SnapshotProof {
    /// Of `manifest`, whose objects were read, with the `archive` as it was read.
    pub fn of(manifest: &Manifest, archive: Option<ArchiveExtent>) -> Self {
        Self {
            time: None,
            horizon: manifest.horizon,
            cursor: manifest.cursor,
            audited: manifest.audited,
            first: manifest.segments.iter().map(|segment| segment.first.second()).min(),
            counts: manifest.totals.standing(),
            digest: manifest.totals.standing_digest(),
            bytes: manifest.totals.bytes,
            archive,
        }
    }

    /// How far the archive was compared with this snapshot. The table may reach further: another run may have extended it meanwhile, and
    /// was not compared with this manifest.
    pub fn archive_end(&self) -> LogCursor {
        let end = self.archive.as_ref().map(|archive| archive.end).unwrap_or_default();
        end.min(LogCursor(self.audited))
    }

    /// Whether this holds whatever `other` does, the proof of another index of the same log. The audit has had its last look here at
    /// everything that `other` holds: what the two still decide differently is not.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let read = |counts: &RecordCounts| counts.total().saturating_sub(counts.unreadable);
        other.first.is_none_or(|first| self.first.is_some_and(|own| own <= first))
            && other.cursor <= LogCursor(self.audited)
            && other.archive_end() <= self.archive_end()
            && read(&other.counts) <= read(&self.counts)
    }

    pub(crate) fn check(&self) -> Result<(), InvariantViolation> {
        let ordered = self.audited <= self.cursor.second() && self.cursor.second() <= self.horizon;
        InvariantViolation::unless(ordered, "a snapshot holds no more than what is frozen", || format!("{self:?}"))
    }
}

//! What a manifest says: the objects of the index, its writer, and how far it has come.

use std::{collections::BTreeSet, ops::Range};

use serde::{Deserialize, Serialize};
use tidemark_store::{StateExtensions, StoreSecond};
use tidemark_wal::Token;

use super::record_counts::RecordCounts;
use crate::{
    digest::SetDigest,
    identity::{IndexId, LogClaim, LogId, WriterIdentity},
    log_cursor::LogCursor,
    names::Generation,
};

/// The seq of a generation's first record. 0 stands for "before every record".
pub const FIRST_SEQ: u64 = 1;

/// An immutable object that holds records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SegmentMeta {
    /// The object below the index's URL; see [`crate::ObjectName`].
    pub key: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the object, 64 hexadecimal digits.
    pub checksum: String,
    /// The version of the segment format that the object is written in: what its documents look like. From 1 on; the catalog
    /// knows no more of it.
    pub format: u32,
    /// The set digest of its records.
    pub digest: SetDigest,
    /// The smallest token.
    pub first: Token,
    /// The largest token.
    pub last: Token,
    /// From the earliest store time of its records' entries up to, not including, the second after the latest.
    pub entry_times: Range<StoreSecond>,
    /// Its records' seqs: it holds every seq of the range once, and no other.
    pub seq: Range<u64>,
    /// Its records by outcome, as they were when they were published.
    pub counts: RecordCounts,
    /// How many of its records are aborted or unreadable and replaced by no correction: those that the audit may still look at.
    /// Each publication that corrects one lowers it, so that it says what is so now.
    pub unsettled: u64,
    /// How many records it holds.
    pub documents: u64,
}

/// An immutable object that holds marks on records, keyed by seq: which were replaced by a correction, and which were
/// outdated by a newer committed operation of their entity. Marks are only ever added; all sidecars of a manifest
/// together hold all of them. Seqs outlive compaction, so a compaction never re-maps a mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SidecarMeta {
    /// The object below the index's URL; see [`crate::ObjectName`].
    pub key: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the object, 64 hexadecimal digits.
    pub checksum: String,
    /// The seqs of the records that caused its marks, all of one publication or, after a compaction, of neighbouring ones. The
    /// causes of a manifest's sidecars ascend without overlap, so that at most one has causes both below and from any seq on.
    pub causes: Range<u64>,
    /// How many records it marks as corrected. A record is corrected once.
    pub corrected: u64,
    /// How many records it marks as outdated.
    pub outdated: u64,
    /// The corrected records by outcome.
    pub counts: RecordCounts,
    /// The set digest of the corrected records.
    pub digest: SetDigest,
}

/// Sums over all segments and sidecars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IndexTotals {
    /// Bytes of segments and sidecars.
    pub bytes: u64,
    /// Records, corrected ones included.
    pub records: u64,
    /// Records by outcome, corrected ones included.
    pub counts: RecordCounts,
    /// The set digest of all records.
    pub digest: SetDigest,
    /// Corrected records by outcome.
    pub corrected_counts: RecordCounts,
    /// The set digest of the corrected records.
    pub corrected_digest: SetDigest,
}

impl IndexTotals {
    /// The sums over these objects.
    pub fn of(segments: &[SegmentMeta], sidecars: &[SidecarMeta]) -> Self {
        let sizes = segments.iter().map(|s| s.size).chain(sidecars.iter().map(|s| s.size));
        Self {
            bytes: sizes.fold(0, u64::saturating_add),
            records: segments.iter().map(|s| s.documents).fold(0, u64::saturating_add),
            counts: segments.iter().map(|s| s.counts).sum(),
            digest: segments.iter().map(|s| s.digest).sum(),
            corrected_counts: sidecars.iter().map(|s| s.counts).sum(),
            corrected_digest: sidecars.iter().map(|s| s.digest).sum(),
        }
    }

    /// Operations by outcome as they stand now: every record that no correction replaced.
    pub fn standing(&self) -> RecordCounts {
        self.counts.without(&self.corrected_counts)
    }

    /// The set digest of the operations as they stand now: what a recount of the bucket gives.
    pub fn standing_digest(&self) -> SetDigest {
        self.digest.without(&self.corrected_digest)
    }
}

/// The writer that holds an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LeaseHolder {
    /// Who it is: a pod's UID, the owner of a folder's lock.
    pub identity: WriterIdentity,
    /// The object in the log's store whose store time moves while the holder lives.
    pub heartbeat: String,
    /// Store time of the record that made it the holder; absent in that record itself, whose own store time it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub since: Option<StoreSecond>,
}

/// The end of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GenerationEnd {
    /// The generation that takes its place; none after a purge, and of one that was given up.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub generation: Option<Generation>,
    /// Why it ended.
    pub by: EndReason,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum EndReason {
    /// Another generation has the same records.
    Reindex,
    /// Another generation has the records up to a second.
    Restore {
        /// The second.
        to: StoreSecond,
    },
    /// The index was purged: nothing is left of the generation.
    Purge,
    /// The task that built it stopped before it was opened.
    Abandoned,
}

/// Everything that one generation of an index consists of. The state of its chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// The generation.
    pub generation: Generation,
    /// The index that it is a generation of. It never changes; absent before the first record.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub id: Option<IndexId>,
    /// Which log's records it holds; absent where a writer knew no log.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub claim: Option<LogClaim>,
    /// The number of the writer; a higher one fences every lower one. 0 before the first writer.
    pub epoch: u64,
    /// The writer; absent when it released the index.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub holder: Option<LeaseHolder>,
    /// Take-overs in a row, each shortly after the one before and without a publication between them.
    pub hasty_takeovers: u32,
    /// `H` when the last publication was made: every second below it is frozen.
    pub horizon: StoreSecond,
    /// Every token whose second lies below it is decided and recorded.
    pub cursor: LogCursor,
    /// Every entry whose token's second lies below it had its last look by the audit: only unreadable ones may still be decided.
    pub audited: StoreSecond,
    /// The seq of the next record.
    pub next_seq: u64,
    /// The segments in the order of their seqs: together they hold every seq once.
    pub segments: Vec<SegmentMeta>,
    /// The sidecars, oldest first.
    pub sidecars: Vec<SidecarMeta>,
    /// Sums over segments and sidecars.
    pub totals: IndexTotals,
    /// The task that makes the generation, from record 1 until it is finished. It is not opened as the index unless a closing record
    /// of another generation names it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub building: Option<String>,
    /// The generation that was open when the task began: the one that this one is to replace. It goes with `building`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub replaces: Option<Generation>,
    /// In a restored generation: the time that it was restored to. Nothing is published until it is promoted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub until: Option<StoreSecond>,
    /// The name of the task that promoted the generation, if it has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub promoted_by: Option<String>,
    /// The end of the generation; only in a chain's last record.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub closed: Option<GenerationEnd>,
    /// What later versions have added.
    #[serde(skip_serializing_if = "StateExtensions::is_empty", default)]
    pub ext: StateExtensions,
}

impl Manifest {
    /// The state of a generation before its first record.
    pub fn new(generation: Generation) -> Self {
        Self {
            generation,
            id: None,
            claim: None,
            epoch: 0,
            holder: None,
            hasty_takeovers: 0,
            horizon: StoreSecond::default(),
            cursor: LogCursor::default(),
            audited: StoreSecond::default(),
            next_seq: FIRST_SEQ,
            segments: Vec::new(),
            sidecars: Vec::new(),
            totals: IndexTotals::default(),
            building: None,
            replaces: None,
            until: None,
            promoted_by: None,
            closed: None,
            ext: StateExtensions::NONE,
        }
    }

    /// The state of a generation that `task` makes, before its first record.
    pub fn building(generation: Generation, task: &str) -> Self {
        Self { building: Some(task.to_owned()), ..Self::new(generation) }
    }

    /// The same, which is to replace the generation `open`.
    #[must_use]
    pub fn replacing(self, open: &Generation) -> Self {
        Self { replaces: Some(open.clone()), ..self }
    }

    /// The same, a generation of the index `id`.
    #[must_use]
    pub fn of_index(self, id: IndexId) -> Self {
        Self { id: Some(id), ..self }
    }

    /// The same, which no task builds any more: it is the index.
    #[must_use]
    pub(crate) fn built(self) -> Self {
        Self { building: None, replaces: None, ..self }
    }

    /// Whether the index was purged with this generation.
    pub fn is_purged(&self) -> bool {
        self.closed.as_ref().is_some_and(|closed| closed.by == EndReason::Purge)
    }

    /// Whether this holds, or held, the records of the log `id`.
    pub(crate) fn belongs_to_log(&self, id: Option<&LogId>) -> bool {
        self.claim.as_ref().is_some_and(|claim| Some(&claim.log) == id)
    }

    /// Whether this names every object that `other` names.
    pub(crate) fn names_all_of(&self, other: &Self) -> bool {
        let named: BTreeSet<_> = self.objects().collect();
        other.objects().all(|key| named.contains(key))
    }

    /// Keys of the objects that make up the index.
    pub fn objects(&self) -> impl Iterator<Item = &str> {
        keys(&self.segments, &self.sidecars)
    }
}

pub(super) fn keys<'a>(segments: &'a [SegmentMeta], sidecars: &'a [SidecarMeta]) -> impl Iterator<Item = &'a str> {
    let segments = segments.iter().map(|segment| segment.key.as_str());
    segments.chain(sidecars.iter().map(|sidecar| sidecar.key.as_str()))
}

/// What a writer adds to the index: the records of the seconds from `from` up to, not including, `to`.
///
/// A correction leaves the cursor where it is: `from` == `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishRequest {
    /// The current cursor.
    pub from: LogCursor,
    /// The cursor afterwards; at or below `horizon`.
    pub to: LogCursor,
    /// `H`. One below the recorded horizon leaves that in place.
    pub horizon: StoreSecond,
    /// How far the audit has come; at or below `to`. A second below the recorded one leaves that in place.
    pub audited: StoreSecond,
    /// The seq of the first new record: the manifest's next seq.
    pub first_seq: u64,
    /// How many records `segments` hold.
    pub records: u64,
    /// New segments, in seq order.
    pub segments: Vec<SegmentMeta>,
    /// New sidecars.
    pub sidecars: Vec<SidecarMeta>,
    /// The seqs of the aborted and unreadable records that `sidecars` mark as corrected.
    pub settled: Vec<u64>,
}

impl PublishRequest {
    /// The publication that follows `manifest` and adds nothing to it.
    pub fn after(manifest: &Manifest) -> Self {
        Self {
            from: manifest.cursor,
            to: manifest.cursor,
            horizon: manifest.horizon,
            audited: manifest.audited,
            first_seq: manifest.next_seq,
            records: 0,
            segments: Vec::new(),
            sidecars: Vec::new(),
            settled: Vec::new(),
        }
    }
}

/// What is added to a generation from what another one has recorded: nothing in it was decided again.
///
/// The causes of its marks are any records of the generation, after those of the marks that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyRequest {
    /// The seq of the first new record: the manifest's next seq.
    pub first_seq: u64,
    /// How many records `segments` hold.
    pub records: u64,
    /// New segments, in seq order.
    pub segments: Vec<SegmentMeta>,
    /// New sidecars, by their causes.
    pub sidecars: Vec<SidecarMeta>,
    /// The seqs of the aborted and unreadable records that `sidecars` mark as corrected.
    pub settled: Vec<u64>,
    /// The cursor afterwards. It moves with the last copy: records come by seq, not in the order of the log.
    pub cursor: LogCursor,
    /// The horizon afterwards.
    pub horizon: StoreSecond,
    /// How far the audit has come, afterwards.
    pub audited: StoreSecond,
    /// The time that the generation is restored to; none if it takes publications.
    pub until: Option<StoreSecond>,
}

impl CopyRequest {
    /// The copy that follows `manifest` and adds nothing to it.
    pub fn after(manifest: &Manifest) -> Self {
        Self {
            first_seq: manifest.next_seq,
            records: 0,
            segments: Vec::new(),
            sidecars: Vec::new(),
            settled: Vec::new(),
            cursor: manifest.cursor,
            horizon: manifest.horizon,
            audited: manifest.audited,
            until: manifest.until,
        }
    }
}

/// A replacement of objects by others with the same records, seqs and marks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompactionResult {
    /// Keys of segments to drop: neighbours in seq order.
    pub removes: Vec<String>,
    /// Segments that hold the same records.
    pub adds: Vec<SegmentMeta>,
    /// Keys of sidecars to drop.
    pub removes_sidecars: Vec<String>,
    /// Sidecars that hold the same marks.
    pub adds_sidecars: Vec<SidecarMeta>,
}

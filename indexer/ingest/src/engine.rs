//! What the ingest needs from an index engine. The product runs on Tantivy (crate `tidemark-search`), tests and the
//! simulation on [`ModelEngine`](crate::model_engine::ModelEngine).

use std::{any::Any, fmt, iter::Sum, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use roaring::RoaringTreemap;
use tempfile::TempPath;
use tidemark_catalog::{BodyDigest, Manifest, RecordCounts, SegmentMeta, SetDigest, SetElement, SidecarMeta};
use tidemark_crds::Reason;
use tidemark_store::{Store, StoreError, StoreSecond};
use tidemark_wal::{Evidence, Outcome, Token};

use crate::{
    cause::{FailureCause, ToCause},
    key_neighbors::KeyNeighbors,
    record::{KeyedOperation, LatestCommit, OperationRecord},
};

/// Builds, opens and compacts segments. An engine moves work that keeps a core busy off the async threads by itself.
#[async_trait]
pub trait IndexEngine: Send + Sync + 'static {
    /// An empty segment.
    fn builder(&self) -> Result<Box<dyn SegmentBuilder>, EngineError>;

    /// Opens the segments and marks of `manifest` for look-ups. What is open already stays open.
    async fn open(&self, manifest: &Manifest) -> Result<Arc<dyn IndexLookup>, EngineError>;

    /// The version of the segment format that it writes. It reads that one and the one before.
    fn format(&self) -> u32;

    /// One segment with the same records and the same seqs as `inputs`, whose seq ranges ascend without overlap, in the format
    /// that the engine writes: inputs of an older one are rebuilt from their records. Only inputs whose bytes were checked
    /// against the manifest are compacted. Without room for it nothing is done:
    /// [`EngineError::NoRoom`].
    async fn compact(&self, inputs: &[SegmentMeta]) -> Result<PackedSegment, EngineError>;

    /// The largest output in bytes for which [`Self::compact`] may find room.
    fn max_compaction_bytes(&self) -> u64;

    /// What the records in `packed` are, read from it again: the stats of each of `parts`, which are counts of records that
    /// follow one another from the first on.
    async fn stats(&self, packed: &PackedSegment, parts: &[u64]) -> Result<Vec<RecordStats>, EngineError>;

    /// What the records in the object of `segment` are, read from the store once in this engine's life, whatever was kept of it before:
    /// the stats of all records, then those of the records in each of `groups`, which are sets of seqs. Its bytes are compared with the
    /// manifest's checksum first.
    async fn verified_stats(
        &self,
        segment: &SegmentMeta,
        groups: Arc<[RoaringTreemap]>,
    ) -> Result<Vec<RecordStats>, EngineError>;

    /// The records of `segment` whose seqs lie in `seqs`, by seq.
    async fn records(&self, segment: &SegmentMeta, seqs: Range<u64>) -> Result<Vec<OperationRecord>, EngineError>;

    /// What is known of the records of `segment` without their content, for those whose seqs lie in `seqs`, by seq.
    async fn places(&self, segment: &SegmentMeta, seqs: Range<u64>) -> Result<Vec<RecordPlace>, EngineError>;

    /// The stored form of `marks`.
    fn pack_marks(&self, marks: &RecordMarks) -> Result<Bytes, EngineError>;

    /// The marks that `sidecar` stores.
    async fn read_marks(&self, sidecar: &SidecarMeta) -> Result<RecordMarks, EngineError>;

    /// Called after `segment` was uploaded from `file`: an engine with a local cache keeps it and saves the download.
    async fn segment_uploaded(&self, segment: &SegmentMeta, file: SegmentFile) {
        // An engine without a cache needs neither.
        let _ = (segment, file);
    }
}

/// Opens an engine on a store.
pub type EngineOpener = Box<dyn Fn(Store) -> Result<Arc<dyn IndexEngine>, EngineError> + Send + Sync>;

/// A segment that is being filled.
#[async_trait]
pub trait SegmentBuilder: Send {
    /// Adds records, which come by ascending seq. May return before they are indexed.
    async fn add(&mut self, records: Vec<OperationRecord>) -> Result<(), EngineError>;

    /// About how many bytes of memory the segment takes by now.
    fn size(&self) -> usize;

    /// Waits until what was added is indexed. Gives back the last entries of it if there is no room for them: a next segment takes
    /// them.
    async fn flush(&mut self) -> Result<Option<UnfitRecords>, EngineError>;

    /// Packs the segment into one file. Fails if a flush would give records back.
    async fn finish(self: Box<Self>) -> Result<PackedSegment, EngineError>;
}

/// Records that a segment has no room for: whole entries, the last ones that were added to it.
#[derive(Debug)]
pub struct UnfitRecords {
    /// The records, by seq.
    pub records: Vec<OperationRecord>,
    /// What was lacking: [`EngineError::NoRoom`].
    pub why: EngineError,
}

/// Look-ups in the records below a manifest's cursor. Records that a later one corrects are left out, except by
/// [`IndexLookup::recorded_outcomes`].
#[async_trait]
pub trait IndexLookup: Send + Sync {
    /// What was decided of each of `tokens`, in their order: one item a record, by (op, seq); none for an unknown token.
    async fn recorded_outcomes(&self, tokens: &[Token]) -> Result<Vec<Vec<RecordedOutcome>>, EngineError>;

    /// The latest commit, by (completed, token, op), of each of `entities`, in their order.
    async fn latest_commits(&self, entities: &[String]) -> Result<Vec<Option<LatestCommit>>, EngineError>;

    /// The committed operations with the key of each of `operations` that are next to it, in their order.
    async fn key_neighbors(&self, operations: &[KeyedOperation]) -> Result<Vec<KeyNeighbors>, EngineError>;

    /// The operations that `query` describes and whose outcome may still change, by (token, op): aborted ones and unreadable
    /// ones.
    async fn unsettled_operations(&self, query: &UnsettledQuery) -> Result<Vec<UnsettledOperation>, EngineError>;
}

/// The outcome of one record of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordedOutcome {
    /// The operation.
    pub op: u32,
    /// The record's seq.
    pub seq: u64,
    /// What was decided.
    pub outcome: Outcome,
    /// Whether a later record corrects this one.
    pub corrected: bool,
}

/// Which operation a record is of, and what was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordPlace {
    /// Its entry.
    pub token: Token,
    /// Its place within the entry.
    pub op: u32,
    /// The record's seq.
    pub seq: u64,
    /// What was decided.
    pub outcome: Outcome,
}

/// Selects operations that are not settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsettledQuery {
    /// Those whose time, the later of the token's second and the entry's store time, lies in it.
    pub seconds: Range<StoreSecond>,
    /// Those whose token lies in a second before it.
    pub before: StoreSecond,
    /// Those of later entries than this one, which is the last one of the previous answer.
    pub after: Option<Token>,
    /// Those of these outcomes.
    pub outcomes: &'static [Outcome],
    /// About how many, the first ones: no entry is cut.
    pub limit: usize,
}

impl UnsettledQuery {
    /// The first unreadable operations of entries before `before`, about `limit` of them.
    pub fn unreadable(before: StoreSecond, limit: usize) -> Self {
        let seconds = StoreSecond::default()..StoreSecond::KSUID_END.next();
        Self { seconds, before, after: None, outcomes: &[Outcome::Unreadable], limit }
    }

    /// Whether the segment may hold operations that it selects, as far as the manifest says.
    pub fn may_match(&self, segment: &SegmentMeta) -> bool {
        let Range { start, end } = &segment.entry_times;
        let earliest = segment.first.second().max(*start);
        let latest = segment.last.second().next().max(*end);
        segment.unsettled > 0
            && self.outcomes.iter().any(|outcome| segment.counts.of(*outcome) > 0)
            && segment.first.second() < self.before
            && self.after.is_none_or(|after| after < segment.last)
            && earliest < self.seconds.end
            && self.seconds.start < latest
    }
}

/// An operation whose outcome may still change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsettledOperation {
    /// Its entry.
    pub token: Token,
    /// Its place within the entry.
    pub op: u32,
    /// The record's seq.
    pub seq: u64,
    /// The entry's store time.
    pub entry_time: StoreSecond,
    /// Aborted or unreadable.
    pub outcome: Outcome,
    /// The evidence that was recorded.
    pub evidence: Option<Evidence>,
    /// The digest of the entry's body that was recorded.
    pub body: Option<BodyDigest>,
}

/// What later records say about earlier ones, by seq. Seqs survive compaction, so marks only ever grow.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecordMarks {
    /// Records that a later record of the same operation corrects.
    pub corrected: RoaringTreemap,
    /// Committed records of entities that have a newer committed operation.
    pub outdated: RoaringTreemap,
}

impl RecordMarks {
    /// Whether nothing is marked.
    pub fn is_empty(&self) -> bool {
        self.corrected.is_empty() && self.outdated.is_empty()
    }

    /// Adds all marks of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.corrected |= &other.corrected;
        self.outdated |= &other.outdated;
    }

    /// How many marks there are.
    pub fn len(&self) -> u64 {
        self.corrected.len() + self.outdated.len()
    }
}

/// What a manifest says of some records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordStats {
    /// How many there are.
    pub records: u64,
    /// By outcome.
    pub counts: RecordCounts,
    /// The set digest.
    pub digest: SetDigest,
    /// The smallest and the largest token; `None` of no records.
    pub tokens: Option<(Token, Token)>,
    /// The earliest and the latest store time of their entries; `None` of no records.
    pub entry_times: Option<(StoreSecond, StoreSecond)>,
}

impl RecordStats {
    /// The stats of all of these records, and of those in each of `groups`, by their seqs. Each comes with its seq and the store time of
    /// its entry.
    pub fn by_group<E>(
        records: impl Iterator<Item = Result<(u64, SetElement, StoreSecond), E>>,
        groups: &[RoaringTreemap],
    ) -> Result<Vec<Self>, E> {
        let mut stats = vec![Self::default(); groups.len() + 1];
        for record in records {
            let (seq, element, entry_time) = record?;
            let inside = groups.iter().map(|group| group.contains(seq));
            for (stats, _) in stats.iter_mut().zip(std::iter::once(true).chain(inside)).filter(|(_, inside)| *inside) {
                stats.insert(&element, entry_time);
            }
        }
        Ok(stats)
    }

    /// Adds a record.
    pub fn insert(&mut self, element: &SetElement, entry_time: StoreSecond) {
        self.records += 1;
        self.counts.add(element.outcome);
        self.digest.insert(element);
        self.tokens = extremes(self.tokens, Some((element.token, element.token)));
        self.entry_times = extremes(self.entry_times, Some((entry_time, entry_time)));
    }

    /// What the manifest says of the records of `segment`.
    pub fn of(segment: &SegmentMeta) -> Self {
        Self {
            records: segment.documents,
            counts: segment.counts,
            digest: segment.digest,
            tokens: (segment.documents > 0).then_some((segment.first, segment.last)),
            entry_times: (segment.documents > 0).then(|| {
                let Range { start, end } = segment.entry_times;
                (start, end.before(Duration::from_secs(1)))
            }),
        }
    }
}

/// The smallest and the largest of both.
fn extremes<T: Ord>(one: Option<(T, T)>, other: Option<(T, T)>) -> Option<(T, T)> {
    match (one, other) {
        (Some((first, last)), Some((lower, higher))) => Some((first.min(lower), last.max(higher))),
        (one, other) => one.or(other),
    }
}

impl Sum for RecordStats {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), |sum, part| Self {
            records: sum.records + part.records,
            counts: [sum.counts, part.counts].into_iter().sum(),
            digest: [sum.digest, part.digest].into_iter().sum(),
            tokens: extremes(sum.tokens, part.tokens),
            entry_times: extremes(sum.entry_times, part.entry_times),
        })
    }
}

/// A finished segment, not uploaded yet.
#[derive(Debug)]
pub struct PackedSegment {
    /// Its bytes.
    pub file: SegmentFile,
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 of the file, 64 hexadecimal digits.
    pub checksum: String,
    /// The version of the segment format that it is written in.
    pub format: u32,
    /// How many records it holds.
    pub documents: u64,
}

/// Where a finished segment's bytes are.
#[derive(Debug)]
pub enum SegmentFile {
    /// In memory.
    Memory(Bytes),
    /// In a file.
    File(LocalFile),
}

/// A file on the local disk that goes away with this value.
pub struct LocalFile {
    /// The file.
    pub path: TempPath,
    /// What keeps room for it on the disk, as the engine knows it. After the file, so that it is given back after it.
    pub room: Box<dyn Any + Send + Sync>,
}

impl fmt::Debug for LocalFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalFile({})", self.path.display())
    }
}

/// Why an index engine fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object of the index is not what the manifest says. Every message names the object.
    #[error(
        "\"{key}\" is damaged: {why}; its entries can be neither indexed nor searched; restore the object, which is read again \
         within an hour, or rebuild the index"
    )]
    Damaged {
        /// The object.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// An object that the manifest names does not exist.
    #[error(
        "\"{key}\" is gone although the index names it; its entries can be neither indexed nor searched; restore the object or rebuild \
         the index"
    )]
    Gone {
        /// The object.
        key: String,
    },
    /// An object of the index is of a format that this version does not read.
    #[error(
        "\"{key}\" has format {found}; this version writes format {known} and reads that and the one before; its entries can be \
         neither indexed nor searched; run the version of tidemark that wrote it, or a later one"
    )]
    OtherFormat {
        /// The object.
        key: String,
        /// Its format.
        found: u32,
        /// The format that this version writes.
        known: u32,
    },
    /// The local disk fails.
    #[error(
        "\"{path}\" failed: {source}; nothing can be indexed or opened; check that the disk has space for the whole cache and may be written"
    )]
    Disk {
        /// The file.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The cache has no room, whatever is evicted from it. Nothing was written.
    #[error(
        "the cache in \"{folder}\" has no room for {needed} more bytes of its {bound}, beside the segments in use; larger \
         segments are neither made nor compacted; raise the size of the cache"
    )]
    NoRoom {
        /// The folder of the cache.
        folder: String,
        /// How many bytes were needed.
        needed: u64,
        /// How many the folder may take in all.
        bound: u64,
    },
    /// The index library failed.
    #[error("the index cannot {what}: {why}; nothing was changed; this is a bug, please report it")]
    Refused {
        /// What was tried.
        what: String,
        /// The library's message.
        why: String,
    },
}

impl ToCause for EngineError {
    fn to_cause(&self) -> FailureCause {
        match self {
            Self::Store(error) => error.to_cause(),
            Self::Damaged { key, .. } | Self::Gone { key } => FailureCause::at(Reason::IndexDamaged, key),
            Self::OtherFormat { key, .. } => FailureCause::at(Reason::FormatTooNew, key),
            Self::Disk { source, .. } => FailureCause::of_disk(source),
            Self::NoRoom { .. } => FailureCause::of(Reason::DiskFull),
            Self::Refused { .. } => FailureCause::of(Reason::Internal),
        }
    }
}

#[cfg(test)]
mod tests {
    use tidemark_catalog::RecordCounts;

    use super::*;

    const ABORTED: &[Outcome] = &[Outcome::Aborted];

    fn token(second: u64) -> Token {
        Token::from_parts(StoreSecond::from_unix(1_700_000_000 + second), [7; 16])
    }

    fn seconds(start: u64, end: u64) -> Range<StoreSecond> {
        token(start).second()..token(end).second()
    }

    /// The audit asks no segment that has nothing for it, so that its cost does not grow with history.
    #[test]
    fn a_query_for_unsettled_operations_leaves_out_segments_by_the_manifest() {
        let segment = SegmentMeta {
            key: String::new(),
            size: 0,
            checksum: String::new(),
            format: 1,
            digest: SetDigest::default(),
            first: token(100),
            last: token(200),
            entry_times: seconds(100, 301),
            seq: 1..11,
            counts: RecordCounts { committed: 8, aborted: 2, ..RecordCounts::default() },
            unsettled: 1,
            documents: 10,
        };
        let of = |range, before, after: Option<u64>, outcomes| UnsettledQuery {
            seconds: range,
            before: token(before).second(),
            after: after.map(token),
            outcomes,
            limit: 10,
        };
        for (range, before, after) in [((0, 101), 900, None), ((300, 900), 101, None), ((150, 160), 160, Some(150))] {
            assert!(of(seconds(range.0, range.1), before, after, ABORTED).may_match(&segment), "{range:?}");
        }
        for (range, before, after) in
            [((0, 100), 900, None), ((301, 900), 900, None), ((0, 900), 100, None), ((0, 900), 900, Some(200))]
        {
            assert!(!of(seconds(range.0, range.1), before, after, ABORTED).may_match(&segment), "{range:?}");
        }
        let all = of(seconds(0, 900), 900, None, ABORTED);
        assert!(!all.may_match(&SegmentMeta { unsettled: 0, ..segment.clone() }), "corrections replaced them");
        assert!(!of(seconds(0, 900), 900, None, &[Outcome::Unreadable]).may_match(&segment));
    }
}

//! What the ingest needs from an index engine. The product runs on Tantivy (crate `tidemark-search`), tests and the
//! simulation on [`ModelEngine`](crate::model_engine::ModelEngine).

use std::{any::Any, fmt, iter::Sum, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use roaring::RoaringTreemap;
use tempfile::TempPath;
use tidemark_catalog::{Manifest, RecordCounts, SegmentMeta, SetDigest, SidecarMeta};
use tidemark_crds::Reason;
use tidemark_store::{StoreError, StoreSecond};
use tidemark_wal::{Evidence, Outcome, Token};

use crate::{
    cause::{FailureCause, ToCause},
    record::{LatestCommit, OperationRecord, WriterKey},
};

/// Builds, opens and merges segments. An engine moves work that keeps a core busy off the async threads by itself.
#[async_trait]
pub trait IndexEngine: Send + Sync + 'static {
    /// An empty segment.
    fn builder(&self) -> Result<Box<dyn SegmentBuilder>, EngineError>;

    /// Opens the segments and marks of `manifest` for look-ups. What is open already stays open.
    async fn open(&self, manifest: &Manifest) -> Result<Arc<dyn IndexLookup>, EngineError>;

    /// One segment with the same records and the same seqs as `inputs`, whose seq ranges ascend without overlap. Only inputs
    /// whose bytes were checked against the manifest are merged. Without room for it nothing is done:
    /// [`EngineError::NoRoom`].
    async fn merge(&self, inputs: &[SegmentMeta]) -> Result<PackedSegment, EngineError>;

    /// The largest output in bytes for which [`Self::merge`] may find room.
    fn max_merge_bytes(&self) -> u64;

    /// What the records in `packed` are, read from it again: the stats of each of `parts`, which are counts of records that
    /// follow one another from the first on.
    async fn stats(&self, packed: &PackedSegment, parts: &[u64]) -> Result<Vec<RecordStats>, EngineError>;

    /// The records of `segment` whose seqs lie in `seqs`, by seq.
    async fn records(&self, segment: &SegmentMeta, seqs: Range<u64>) -> Result<Vec<OperationRecord>, EngineError>;

    /// The stored form of `marks`.
    fn pack_marks(&self, marks: &RecordMarks) -> Result<Bytes, EngineError>;

    /// The marks that `sidecar` stores.
    async fn read_marks(&self, sidecar: &SidecarMeta) -> Result<RecordMarks, EngineError>;

    /// Called after `segment` was uploaded from `file`: an engine with a local cache keeps it and saves the download.
    async fn segment_uploaded(&self, segment: &SegmentMeta, file: SegmentFile) {
        let _ = (segment, file);
    }
}

/// A segment that is being filled.
#[async_trait]
pub trait SegmentBuilder: Send {
    /// Adds records, which come by ascending seq. May return before they are indexed.
    async fn add(&mut self, records: Vec<OperationRecord>) -> Result<(), EngineError>;

    /// About how many bytes of memory the segment takes by now.
    fn size(&self) -> usize;

    /// Packs the segment into one file.
    async fn finish(self: Box<Self>) -> Result<PackedSegment, EngineError>;
}

/// Look-ups in the records below a manifest's cursor. Records that a later one corrects are left out, except by
/// [`IndexLookup::recorded_outcomes`].
#[async_trait]
pub trait IndexLookup: Send + Sync {
    /// What was decided of each of `tokens`, in their order: one item a record, by (op, seq); none for an unknown token.
    async fn recorded_outcomes(&self, tokens: &[Token]) -> Result<Vec<Vec<RecordedOutcome>>, EngineError>;

    /// The latest commit, by (completed, token, op), of each of `entities`, in their order.
    async fn latest_commits(&self, entities: &[String]) -> Result<Vec<Option<LatestCommit>>, EngineError>;

    /// The first committed operation, by (token, op), of each of `keys`, in their order.
    async fn first_commits(&self, keys: &[WriterKey]) -> Result<Vec<Option<(Token, u32)>>, EngineError>;

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
}

impl RecordStats {
    /// Adds a record.
    pub fn insert(&mut self, token: Token, op: u32, outcome: Outcome, evidence: Option<Evidence>) {
        self.records += 1;
        self.counts.add(outcome);
        self.digest.insert(token, op, outcome, evidence);
        let (first, last) = self.tokens.unwrap_or((token, token));
        self.tokens = Some((first.min(token), last.max(token)));
    }

    /// What the manifest says of the records of `segment`.
    pub fn of(segment: &SegmentMeta) -> Self {
        Self {
            records: segment.documents,
            counts: segment.counts,
            digest: segment.digest,
            tokens: (segment.documents > 0).then_some((segment.first, segment.last)),
        }
    }
}

impl Sum for RecordStats {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), |sum, part| Self {
            records: sum.records + part.records,
            counts: [sum.counts, part.counts].into_iter().sum(),
            digest: [sum.digest, part.digest].into_iter().sum(),
            tokens: match (sum.tokens, part.tokens) {
                (Some((first, last)), Some((lower, higher))) => Some((first.min(lower), last.max(higher))),
                (one, other) => one.or(other),
            },
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
        "\"{key}\" is damaged: {why}; its entries can be neither indexed nor searched; restore the object or rebuild the index"
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
    /// The local disk fails.
    #[error(
        "\"{path}\" failed: {source}; nothing can be indexed or opened; check that the disk has space and may be written"
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
         segments are neither made nor merged; raise the size of the cache"
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
            Self::Disk { .. } | Self::NoRoom { .. } | Self::Refused { .. } => FailureCause::of(Reason::Internal),
        }
    }
}

//! What a snapshot needs of an archive. The product's is an Iceberg table (crate `tidemark-archive`), the simulation's a model.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use tidemark_catalog::{ArchiveExtent, Generation, LogCursor, SetDigest};
use tidemark_store::ObjectInfo;
use tidemark_wal::Token;

use super::error::SnapshotError;
use crate::record::OperationRecord;

/// An operation whose outcome is final, with all bytes that there are of it.
#[derive(Clone, Debug, PartialEq)]
pub struct SettledRecord {
    /// The generation whose seq the record has.
    pub generation: Generation,
    /// The index's record of it.
    pub record: OperationRecord,
    /// The descriptor's bytes where the record has only their digest; `None` also where they cannot be had any more.
    pub large_descriptor: Option<Bytes>,
}

impl SettledRecord {
    /// By what the records of an archive are sorted.
    pub(super) fn key(&self) -> (Token, u32) {
        (self.record.token, self.record.op)
    }
}

/// A committed version of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveVersion {
    /// Its number, from 1.
    pub number: u64,
    /// SHA-256 of its record, 64 hexadecimal digits.
    pub hash: String,
    /// The generation that extended it last.
    pub generation: Generation,
    /// Every settled operation of the seconds below it is in.
    pub end: LogCursor,
    /// How many operations it holds.
    pub operations: u64,
    /// Their set digest.
    pub digest: SetDigest,
}

impl ArchiveVersion {
    /// What a snapshot remembers of it.
    pub(crate) fn extent(&self) -> ArchiveExtent {
        ArchiveExtent { version: self.number, hash: self.hash.clone(), end: self.end }
    }
}

/// What was found of an archive that was read whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArchiveReport {
    /// Versions that were read.
    pub versions: u64,
    /// Data files that are there and whole.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that are missing, damaged or not the archive's: the first ones.
    pub damaged: Vec<ArchiveFault>,
    /// How many there are.
    pub damaged_count: u64,
}

/// An object of an archive that is not what the archive says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveFault {
    /// The object's URL.
    pub location: String,
    /// What is wrong with it.
    pub why: String,
}

/// Objects of an archive, as a listing gives them.
pub type ArchiveObjects = BoxStream<'static, Result<ObjectInfo, SnapshotError>>;

/// Operations in token order, each once. Most readers end at the first error.
pub type SettledStream = BoxStream<'static, Result<SettledRecord, SnapshotError>>;

/// The archive of one log: it takes each settled operation once, and never gives one up.
#[async_trait]
pub trait LogArchive: Send + Sync {
    /// Its URL: what a log's floor names.
    fn url(&self) -> String;

    /// The version that a snapshot or a floor remembers; `None` if it is gone, or is another one.
    async fn remembered_version(&self, extent: &ArchiveExtent) -> Result<Option<ArchiveVersion>, SnapshotError>;

    /// The latest version; `None` before the first one.
    async fn latest(&self) -> Result<Option<ArchiveVersion>, SnapshotError>;

    /// Version `number`; `None` if it is not committed, or so old that its record is gone and a later one has its rows.
    async fn version(&self, number: u64) -> Result<Option<ArchiveVersion>, SnapshotError>;

    /// Adds operations of the seconds from the latest version's end up to, not including, `up_to`, by ascending (token, op), from
    /// `generation`. Reads back what it wrote before it commits. May commit parts of them, at whole seconds: a run that ends early
    /// is continued with the operations from the latest version's end on.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Overtaken`] if another process committed first; [`SnapshotError::Unknown`] if the outcome of a commit is
    /// unknown.
    async fn extend(
        &self,
        rows: SettledStream,
        up_to: LogCursor,
        generation: &Generation,
    ) -> Result<ArchiveVersion, SnapshotError>;

    /// The operations of `seconds` in `version`, read from the store, by (token, op). In the place of what is damaged stands an error, and
    /// what can be read behind it follows.
    fn rows(&self, version: &ArchiveVersion, seconds: Range<LogCursor>) -> SettledStream;

    /// Reads all of `version` from the store and compares it with what it says. Damage is reported, and the rest is read on.
    ///
    /// # Errors
    ///
    /// Where the store fails.
    async fn verify(&self, version: &ArchiveVersion) -> Result<ArchiveReport, SnapshotError>;

    /// Objects that no version names and none ever will, given the latest one.
    fn leaks(&self, version: &ArchiveVersion) -> ArchiveObjects;
}

//! A model of an archive: tests and the simulation use it in place of an Iceberg table.
//!
//! A version is a record of a chain, a data file is one JSON object a line. All of an extension is held in memory, and written as one
//! file.

use std::{cell::RefCell, collections::BTreeMap, ops::Range};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tidemark_catalog::{ArchiveExtent, CatalogError, Generation, LogCursor, LogId, SetDigest, TransactionRejected};
use tidemark_store::{
    AppendOnlyChain, ChainError, ChainRecord, ChainState, Create, Entropy, InvariantViolation, StateExtensions, Store,
    StoreSecond, UserMetadata,
};

use super::{
    error::SnapshotError,
    log_archive::{
        ArchiveFault, ArchiveObjects, ArchiveReport, ArchiveVersion, LogArchive, SettledRecord, SettledStream,
    },
};
use crate::{
    cause::FailureCause,
    cause::ToCause,
    model_engine::{ParsedLines, parse_lines},
    record::OperationRecord,
};

/// No file of a model is larger.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// What the record of a version holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelTable {
    /// The log.
    pub log: LogId,
    /// The generation that extended it last.
    pub generation: Generation,
    /// The second up to which operations are in.
    pub end: LogCursor,
    /// The data files, in the order of their rows.
    pub files: Vec<String>,
    /// How many operations they have.
    pub operations: u64,
    /// Their set digest.
    pub digest: SetDigest,
    ext: StateExtensions,
}

/// A line of a data file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelRow {
    /// Whose seq the record has.
    pub generation: Generation,
    /// The record.
    pub record: OperationRecord,
    /// A descriptor that is too large for the record, in hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub large_descriptor: Option<String>,
}

/// Another process committed the version first.
#[derive(Debug, thiserror::Error)]
#[error("the table ends at {0}")]
pub struct TableOvertaken(LogCursor);

/// A model of a log's archive, below `archive/<log id>/` of an index.
#[derive(Clone)]
pub struct ModelArchive {
    store: Store,
    log: LogId,
    chain: AppendOnlyChain<ModelTable>,
    entropy: Entropy,
}

impl ChainState for ModelTable {
    type Rejection = TableOvertaken;

    const FORMAT: u32 = 1;

    fn extensions(&self) -> &StateExtensions {
        &self.ext
    }

    fn apply_store_time(&mut self, _: StoreSecond) {}

    fn check_state(&self) -> Result<(), InvariantViolation> {
        Ok(())
    }

    fn check_transition(&self, before: &Self) -> Result<(), InvariantViolation> {
        let grows = before.end < self.end && self.files.starts_with(&before.files);
        InvariantViolation::unless(grows, "an archive gives nothing up", || format!("{self:?} after {before:?}"))
    }
}

impl ToCause for ChainError<TableOvertaken> {
    fn to_cause(&self) -> FailureCause {
        FailureCause::of(tidemark_crds::Reason::Internal)
    }
}

impl From<ChainError<TableOvertaken>> for SnapshotError {
    fn from(error: ChainError<TableOvertaken>) -> Self {
        match error {
            ChainError::Rejected(overtaken) => Self::Overtaken { what: overtaken.to_string() },
            ChainError::Unknown { key, why } => Self::Unknown { key, why },
            ChainError::Store(error) => Self::Store(error),
            other => Self::Other(Box::new(other)),
        }
    }
}

impl ModelArchive {
    /// The archive of the log `log` in the store of an index. Touches nothing.
    pub fn open(index: &Store, log: &LogId, entropy: Entropy) -> Self {
        let store = index.below(&format!("archive/{log}"));
        Self { chain: AppendOnlyChain::new(store.clone(), entropy.clone()), store, log: log.clone(), entropy }
    }

    async fn write(&self, rows: &[ModelRow]) -> Result<String, SnapshotError> {
        let key = format!("data/{}", self.entropy.nonce());
        let mut body = Vec::new();
        for row in rows {
            serde_json::to_writer(&mut body, row).map_err(|error| self.damaged(&key, &error))?;
            body.push(b'\n');
        }
        match self.store.create_resolved(&key, body.into(), &UserMetadata::new()).await {
            Create::Committed => {}
            Create::Lost => return Err(self.damaged(&key, &"another object has its name")),
            Create::Unknown(error) => return Err(error.into()),
        }
        if self.read(&key).await? == rows { Ok(key) } else { Err(self.damaged(&key, &"it is not what was written")) }
    }

    async fn read(&self, key: &str) -> Result<Vec<ModelRow>, SnapshotError> {
        let object = self.store.get(key, MAX_FILE_BYTES).await?;
        let body: Bytes = object.and_then(|object| object.body).ok_or_else(|| self.damaged(key, &"it is gone"))?;
        parse_rows(&body).map_err(|error| self.damaged(key, &error))
    }

    fn damaged(&self, key: &str, why: &dyn ToString) -> SnapshotError {
        SnapshotError::ArchiveDamaged { key: self.store.url_of(key), why: why.to_string() }
    }
}

thread_local! {
    /// As of the segments of [`ModelEngine`](crate::model_engine::ModelEngine).
    static PARSED: ParsedLines<ModelRow> = const { RefCell::new(BTreeMap::new()) };
}

/// The rows of a data file.
pub fn parse_rows(body: &[u8]) -> serde_json::Result<Vec<ModelRow>> {
    Ok(parse_lines(&PARSED, body)?.to_vec())
}

/// The version of a record. Refused if it is another log's: the folder was copied or renamed.
fn version_of(log: &LogId, record: &ChainRecord<ModelTable>) -> Result<ArchiveVersion, SnapshotError> {
    if record.state.log != *log {
        let (log, found) = (log.clone(), record.state.log.clone());
        let rejected = TransactionRejected::FolderOfAnotherLog { folder: "archive", log, found };
        return Err(CatalogError::from(rejected).into());
    }
    let ModelTable { ref generation, end, operations, digest, .. } = record.state;
    let (number, hash, generation) = (record.number, record.hash.clone(), generation.clone());
    Ok(ArchiveVersion { number, hash, generation, end, operations, digest })
}

#[async_trait]
impl LogArchive for ModelArchive {
    fn url(&self) -> String {
        self.store.url().to_string()
    }

    async fn remembered_version(&self, extent: &ArchiveExtent) -> Result<Option<ArchiveVersion>, SnapshotError> {
        if let Some(record) = self.chain.read(extent.version).await? {
            let is_same = record.hash == extent.hash;
            return is_same.then(|| version_of(&self.log, &record)).transpose();
        }
        // A later one has the same rows, where this one was trimmed.
        let latest = self.chain.latest().await?.filter(|latest| latest.number > extent.version);
        latest.map(|latest| version_of(&self.log, &latest)).transpose()
    }

    async fn latest(&self) -> Result<Option<ArchiveVersion>, SnapshotError> {
        self.chain.latest().await?.map(|latest| version_of(&self.log, &latest)).transpose()
    }

    async fn version(&self, number: u64) -> Result<Option<ArchiveVersion>, SnapshotError> {
        self.chain.read(number).await?.map(|record| version_of(&self.log, &record)).transpose()
    }

    async fn extend(
        &self,
        rows: SettledStream,
        up_to: LogCursor,
        generation: &Generation,
    ) -> Result<ArchiveVersion, SnapshotError> {
        let base = self.chain.latest().await?;
        let first = ModelTable {
            log: self.log.clone(),
            generation: generation.clone(),
            end: LogCursor::default(),
            files: Vec::new(),
            operations: 0,
            digest: SetDigest::default(),
            ext: StateExtensions::NONE,
        };
        let before = base.as_ref().map_or(&first, |base| &base.state).clone();
        let mut next = ModelTable { generation: generation.clone(), end: up_to, ..before.clone() };
        let to_row = |SettledRecord { generation, record, large_descriptor }| ModelRow {
            generation,
            record,
            large_descriptor: large_descriptor.map(hex::encode),
        };
        let rows: Vec<_> = rows.map_ok(to_row).try_collect().await?;
        if rows.iter().any(|row| LogCursor(row.record.token.second()) < before.end) {
            return Err(SnapshotError::Overtaken { what: TableOvertaken(before.end).to_string() });
        }
        for row in &rows {
            next.operations += 1;
            next.digest.insert(&row.record.set_element());
        }
        next.files.push(self.write(&rows).await?);
        let end = before.end;
        let step = |table: Option<&ModelTable>| match table {
            Some(table) if table.end != end => Err(TableOvertaken(table.end)),
            _ => Ok(Some(next.clone())),
        };
        version_of(&self.log, &self.chain.append(base, step).await?)
    }

    fn rows(&self, version: &ArchiveVersion, seconds: Range<LogCursor>) -> SettledStream {
        let (this, number) = (self.clone(), version.number);
        let files = async move {
            // A later one has the same rows, where this one was trimmed.
            let record = if let Some(record) = this.chain.read(number).await? {
                record
            } else {
                let latest = this.chain.latest().await?;
                latest.ok_or_else(|| this.damaged(&number.to_string(), &"the version is gone"))?
            };
            let files = stream::iter(record.state.files.into_iter().map(Ok));
            Ok::<_, SnapshotError>(files.and_then(move |key| {
                let this = this.clone();
                async move { this.read(&key).await }
            }))
        };
        let rows =
            stream::once(files).try_flatten().map_ok(|rows| stream::iter(rows.into_iter().map(Ok::<_, SnapshotError>)));
        let within = move |row: &ModelRow| std::future::ready(seconds.contains(&LogCursor(row.record.token.second())));
        let settled = |row: ModelRow| {
            let large_descriptor = row.large_descriptor.and_then(|digits| hex::decode(digits).ok()).map(Bytes::from);
            SettledRecord { generation: row.generation, record: row.record, large_descriptor }
        };
        rows.try_flatten().try_filter(within).map_ok(settled).boxed()
    }

    async fn verify(&self, version: &ArchiveVersion) -> Result<ArchiveReport, SnapshotError> {
        let mut report = ArchiveReport { versions: 1, ..ArchiveReport::default() };
        let record = self.chain.latest().await?.filter(|record| record.number == version.number);
        let (mut operations, mut digest) = (0, SetDigest::default());
        for key in record.iter().flat_map(|record| &record.state.files) {
            match self.read(key).await {
                Ok(rows) => {
                    report.files += 1;
                    operations += rows.len() as u64;
                    for row in &rows {
                        digest.insert(&row.record.set_element());
                    }
                }
                Err(SnapshotError::ArchiveDamaged { key, why }) => {
                    report.damaged.push(ArchiveFault { location: key, why });
                }
                Err(error) => return Err(error),
            }
        }
        if record.is_some() && report.damaged.is_empty() && (operations, digest) != (version.operations, version.digest)
        {
            let why = "its files do not hold what it says".to_owned();
            report.damaged.push(ArchiveFault { location: self.store.url_of(&version.number.to_string()), why });
        }
        report.damaged_count = report.damaged.len() as u64;
        Ok(report)
    }

    /// A model tells no attempt from another.
    fn leaks(&self, _: &ArchiveVersion) -> ArchiveObjects {
        stream::empty().boxed()
    }
}

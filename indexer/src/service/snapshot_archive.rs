//! The archive table as a snapshot needs it.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use parking_lot::Mutex;
use tidemark_archive::{ArchiveDamage, ArchiveError, ArchiveRow, ArchiveTable, RowRejected, TableReport, TableVersion};
use tidemark_catalog::{ArchiveExtent, Generation, LogCursor};
use tidemark_ingest::{
    FailureCause, ToCause,
    snapshot::{
        ArchiveFault, ArchiveObjects, ArchiveReport, ArchiveVersion, LogArchive, SettledRecord, SettledStream,
        SnapshotError,
    },
};
use tidemark_wal::Token;

/// The Iceberg table of a log.
#[derive(Clone)]
pub(crate) struct TableArchive(pub(crate) ArchiveTable);

impl TableArchive {
    /// The version as the table has it.
    async fn table_version(&self, version: &ArchiveVersion) -> Result<TableVersion, SnapshotError> {
        let gone = || SnapshotError::ArchiveDamaged {
            key: format!("{}, version {}", self.url(), version.number),
            why: "it is gone, or is another one".to_owned(),
        };
        let found = self.0.version(version.number).await.map_err(to_error)?;
        found.filter(|found| found.hash == version.hash).ok_or_else(gone)
    }
}

#[async_trait]
impl LogArchive for TableArchive {
    fn url(&self) -> String {
        self.0.store().url().to_string()
    }

    async fn remembered_version(&self, extent: &ArchiveExtent) -> Result<Option<ArchiveVersion>, SnapshotError> {
        let version = self.0.version(extent.version).await.map_err(to_error)?;
        Ok(version.filter(|version| version.hash == extent.hash).as_ref().map(version_of))
    }

    async fn latest(&self) -> Result<Option<ArchiveVersion>, SnapshotError> {
        Ok(self.0.latest().await.map_err(to_error)?.as_ref().map(version_of))
    }

    async fn version(&self, number: u64) -> Result<Option<ArchiveVersion>, SnapshotError> {
        Ok(self.0.version(number).await.map_err(to_error)?.as_ref().map(version_of))
    }

    async fn extend(
        &self,
        rows: SettledStream,
        up_to: LogCursor,
        generation: &Generation,
    ) -> Result<ArchiveVersion, SnapshotError> {
        let row = |settled: SettledRecord| ArchiveRow {
            generation: settled.generation,
            record: settled.record,
            large_descriptor: settled.large_descriptor,
        };
        // The table keeps of it only what it means.
        let failure: Arc<Mutex<Option<SnapshotError>>> = Arc::default();
        let remember = |error: SnapshotError| {
            let source = ArchiveError::source(SourceFailure(error.to_string(), error.to_cause()));
            failure.lock().get_or_insert(error);
            source
        };
        let extended = self.0.extend(rows.map_ok(row).map_err(remember), up_to, generation).await;
        extended
            .map(|version| version_of(&version))
            .map_err(|error| failure.lock().take().unwrap_or_else(|| to_error(error)))
    }

    fn rows(&self, version: &ArchiveVersion, seconds: Range<LogCursor>) -> SettledStream {
        let (archive, version) = (self.clone(), version.clone());
        let rows = async move {
            let version = archive.table_version(&version).await?;
            let tokens = Token::first_of(seconds.start.second())..Token::first_of(seconds.end.second());
            Ok::<_, SnapshotError>(archive.0.rows(&version, tokens).map_err(to_error))
        };
        let settled = |row: ArchiveRow| SettledRecord {
            generation: row.generation,
            record: row.record,
            large_descriptor: row.large_descriptor,
        };
        stream::once(rows).try_flatten().map_ok(settled).boxed()
    }

    async fn verify(&self, version: &ArchiveVersion) -> Result<ArchiveReport, SnapshotError> {
        let version = self.table_version(version).await?;
        let TableReport { versions, totals, damaged, damaged_count } =
            self.0.verify(&version).await.map_err(to_error)?;
        let fault = |ArchiveDamage { key, why }| ArchiveFault { location: key, why };
        let damaged = damaged.into_iter().map(fault).collect();
        Ok(ArchiveReport { versions, files: totals.files, bytes: totals.bytes, damaged, damaged_count })
    }

    fn leaks(&self, version: &ArchiveVersion) -> ArchiveObjects {
        let (archive, version) = (self.clone(), version.clone());
        let leaks = async move {
            let version = archive.table_version(&version).await?;
            Ok::<_, SnapshotError>(archive.0.leaks(&version).map_err(to_error))
        };
        stream::once(leaks).try_flatten().boxed()
    }
}

fn version_of(version: &TableVersion) -> ArchiveVersion {
    ArchiveVersion {
        number: version.number,
        hash: version.hash.clone(),
        generation: version.generation.clone(),
        end: version.end,
        operations: version.totals.operations,
        digest: version.totals.digest,
    }
}

/// Why the index cannot be read, as the table is told.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct SourceFailure(String, FailureCause);

impl ToCause for SourceFailure {
    fn to_cause(&self) -> FailureCause {
        self.1.clone()
    }
}

fn to_error(error: ArchiveError) -> SnapshotError {
    match error {
        ArchiveError::Store(error) => SnapshotError::Store(error),
        ArchiveError::Damaged { key, why } => SnapshotError::ArchiveDamaged { key, why },
        ArchiveError::Gone { key } => SnapshotError::ArchiveDamaged { key, why: "it is gone".to_owned() },
        // Another process has archived these rows since the end was read.
        error @ (ArchiveError::Overtaken { .. }
        | ArchiveError::Rejected(RowRejected::BelowEnd { .. } | RowRejected::EndBack { .. })) => {
            SnapshotError::Overtaken { what: error.to_string() }
        }
        ArchiveError::Unknown { key, why } => SnapshotError::Unknown { key, why },
        error => SnapshotError::Other(Box::new(error)),
    }
}

//! The mutants whose body is in an archive.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tidemark_catalog::{ArchiveExtent, Generation, LogCursor, LogId};
use tidemark_ingest::snapshot::{
    ArchiveObjects, ArchiveReport, ArchiveVersion, LogArchive, SettledRecord, SettledStream, SnapshotError,
    model_archive::ModelArchive,
};
use tidemark_store::{Entropy, Store};

use super::Mutant;

/// The mutants whose body is in this file.
pub const ARCHIVE_MUTANTS: [Mutant; 1] = [Mutant::HintTakenForTable];

/// The object that names the current version.
const HINT_KEY: &str = "version-hint.text";
/// No number has more bytes.
const MAX_HINT_BYTES: u64 = 20;

/// The archive of the log `log` in the store `index`, with the active mutant, if its body is in this file.
pub(crate) fn mutated_archive(index: &Store, log: &LogId, entropy: &Entropy) -> Arc<dyn LogArchive> {
    if Mutant::HintTakenForTable.is_on() {
        return Arc::new(HintedArchive { index: index.clone(), log: log.clone(), entropy: entropy.clone() });
    }
    Arc::new(ModelArchive::open(index, log, entropy.clone()))
}

/// `HintTakenForTable`: an archive whose current version is the one that its hint names.
struct HintedArchive {
    index: Store,
    log: LogId,
    entropy: Entropy,
}

impl HintedArchive {
    /// One that remembers nothing: records of the chain are deleted here.
    fn table(&self) -> ModelArchive {
        ModelArchive::open(&self.index, &self.log, self.entropy.clone())
    }

    fn folder(&self) -> Store {
        self.index.below(&format!("archive/{}", self.log))
    }

    /// The number that the hint has; 0 where there is none.
    async fn hint(&self) -> Result<u64, SnapshotError> {
        let hint = self.folder().get(HINT_KEY, MAX_HINT_BYTES).await?.and_then(|object| object.body);
        Ok(hint.and_then(|body| std::str::from_utf8(&body).ok()?.parse().ok()).unwrap_or_default())
    }

    /// Deletes the records that the hint does not name.
    async fn remove_beyond_hint(&self) -> Result<(), SnapshotError> {
        let latest = self.table().latest().await?.map_or(0, |latest| latest.number);
        let beyond: Vec<_> = (self.hint().await? + 1..=latest).map(|number| format!("{number:020}")).collect();
        Ok(self.folder().delete(&beyond).await?)
    }
}

#[async_trait]
impl LogArchive for HintedArchive {
    fn url(&self) -> String {
        self.table().url()
    }

    async fn remembered_version(&self, extent: &ArchiveExtent) -> Result<Option<ArchiveVersion>, SnapshotError> {
        self.table().remembered_version(extent).await
    }

    async fn latest(&self) -> Result<Option<ArchiveVersion>, SnapshotError> {
        let hint = self.hint().await?;
        if hint == 0 {
            return Ok(None);
        }
        match self.table().version(hint).await? {
            // It was trimmed.
            None => self.table().latest().await,
            named => Ok(named),
        }
    }

    async fn version(&self, number: u64) -> Result<Option<ArchiveVersion>, SnapshotError> {
        self.table().version(number).await
    }

    async fn extend(
        &self,
        rows: SettledStream,
        up_to: LogCursor,
        generation: &Generation,
    ) -> Result<ArchiveVersion, SnapshotError> {
        let rows: Vec<SettledRecord> = rows.try_collect().await?;
        let rows = || stream::iter(rows.clone().into_iter().map(Ok)).boxed();
        let version = match self.table().extend(rows(), up_to, generation).await {
            Err(SnapshotError::Overtaken { .. }) => {
                self.remove_beyond_hint().await?;
                self.table().extend(rows(), up_to, generation).await?
            }
            extended => extended?,
        };
        // A later extension writes it again.
        let _ = self.folder().put(HINT_KEY, version.number.to_string().into()).await;
        Ok(version)
    }

    fn rows(&self, version: &ArchiveVersion, seconds: Range<LogCursor>) -> SettledStream {
        self.table().rows(version, seconds)
    }

    async fn verify(&self, version: &ArchiveVersion) -> Result<ArchiveReport, SnapshotError> {
        self.table().verify(version).await
    }

    fn leaks(&self, version: &ArchiveVersion) -> ArchiveObjects {
        self.table().leaks(version)
    }
}

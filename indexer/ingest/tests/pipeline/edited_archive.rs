//! An archive that a test spoils: its rows are others than it says.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use futures::{StreamExt as _, future};
use tidemark_catalog::{ArchiveExtent, Generation, LogCursor, LogFloor, RootChain, RootState};
use tidemark_ingest::snapshot::{
    ArchiveObjects, ArchiveReport, ArchiveVersion, LogArchive, SettledRecord, SettledStream, SnapshotError,
};

/// What becomes of a row.
pub(crate) type RowEdit = Arc<dyn Fn(SettledRecord) -> Option<Result<SettledRecord, SnapshotError>> + Send + Sync>;

/// An archive whose rows are others than it says.
pub(crate) struct EditedArchive {
    pub(crate) archive: Arc<dyn LogArchive>,
    pub(crate) edit: RowEdit,
    /// While it is verified the floor rises here.
    pub(crate) raises: Option<RootChain>,
}

/// `archive`, each of whose rows `edit` changes, leaves out or spoils.
pub(crate) fn edited(
    archive: &Arc<dyn LogArchive>,
    edit: impl Fn(SettledRecord) -> Option<Result<SettledRecord, SnapshotError>> + Send + Sync + 'static,
) -> Arc<dyn LogArchive> {
    Arc::new(EditedArchive { archive: Arc::clone(archive), edit: Arc::new(edit), raises: None })
}

/// As a clean-up of the first index would raise it.
async fn raise(root: &RootChain) {
    let raise = |root: Option<&RootState>| {
        let root = root.cloned().unwrap_or_default();
        let LogFloor { second, archive, extent, .. } = root.floor.clone().unwrap();
        let second = LogCursor(second.second().next());
        let extent = ArchiveExtent { version: extent.version + 1, end: extent.end.max(second), ..extent };
        root.raise_floor(second, &archive, &extent)
    };
    root.chain().append(None, raise).await.unwrap();
}

#[async_trait]
impl LogArchive for EditedArchive {
    fn url(&self) -> String {
        self.archive.url()
    }

    async fn remembered_version(&self, extent: &ArchiveExtent) -> Result<Option<ArchiveVersion>, SnapshotError> {
        self.archive.remembered_version(extent).await
    }

    async fn latest(&self) -> Result<Option<ArchiveVersion>, SnapshotError> {
        self.archive.latest().await
    }

    async fn version(&self, number: u64) -> Result<Option<ArchiveVersion>, SnapshotError> {
        self.archive.version(number).await
    }

    async fn extend(
        &self,
        rows: SettledStream,
        up_to: LogCursor,
        generation: &Generation,
    ) -> Result<ArchiveVersion, SnapshotError> {
        self.archive.extend(rows, up_to, generation).await
    }

    fn rows(&self, version: &ArchiveVersion, seconds: Range<LogCursor>) -> SettledStream {
        let edit = Arc::clone(&self.edit);
        let edited = move |row: Result<SettledRecord, SnapshotError>| {
            future::ready(match row {
                Ok(row) => edit(row),
                Err(error) => Some(Err(error)),
            })
        };
        self.archive.rows(version, seconds).filter_map(edited).boxed()
    }

    async fn verify(&self, version: &ArchiveVersion) -> Result<ArchiveReport, SnapshotError> {
        if let Some(root) = &self.raises {
            raise(root).await;
        }
        self.archive.verify(version).await
    }

    fn leaks(&self, version: &ArchiveVersion) -> ArchiveObjects {
        self.archive.leaks(version)
    }
}

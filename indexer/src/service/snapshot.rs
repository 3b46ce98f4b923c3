//! What the commands about snapshots share: the log's pins in its index, and the maker of snapshots on the product's own engine and
//! archive.

use std::{num::NonZeroUsize, sync::Arc};

use tidemark_archive::ArchiveTable;
use tidemark_catalog::{CopyCollector, LogId, PinChain, PinRegister};
use tidemark_crds::RecoveryWindow;
use tidemark_ingest::snapshot::{
    LogArchive, SnapshotCopier, SnapshotError, SnapshotMaker, SnapshotPlace, SnapshotProgress, SnapshotReport,
    SnapshotRequest,
};
use tidemark_search::{EngineOptions, TantivyEngine};
use tidemark_store::{Entropy, Store};
use tokio::sync::watch;

use super::{
    index_of_log::{IndexLookupError, IndexOfLog},
    snapshot_archive::TableArchive,
};

/// The log's pins and its archive in the store of an index, or of copies.
pub(super) fn place(IndexOfLog { id, entropy, .. }: &IndexOfLog, index: &Store) -> SnapshotPlace {
    let (pins, archive) = (PinChain::open(index, id, entropy.clone()), log_archive(index, id, entropy));
    SnapshotPlace { index: index.clone(), pins, archive }
}

impl From<IndexLookupError> for SnapshotError {
    fn from(error: IndexLookupError) -> Self {
        match error {
            IndexLookupError::NeverIndexed { url } => Self::NeverIndexed { url },
            IndexLookupError::NoIndex { url } => Self::NoIndex { url },
            IndexLookupError::Chain(error) => Self::Chain(error),
        }
    }
}

/// The archive of the log `id` in the store of an index, or of copies.
pub(crate) fn log_archive(index: &Store, id: &LogId, entropy: &Entropy) -> Arc<dyn LogArchive> {
    Arc::new(TableArchive(ArchiveTable::open(index, id, entropy.clone())))
}

/// The times that a log can be restored to by these snapshots.
pub(crate) fn recovery_window(register: &PinRegister) -> Option<RecoveryWindow> {
    let window = register.recovery_window()?;
    Some(RecoveryWindow { first: window.start().timestamp(), last: window.end().timestamp() })
}

/// Makes snapshots.
pub(crate) struct SnapshotService(SnapshotMaker);

impl SnapshotService {
    /// Of the index `found`, whose segments are kept as `options` say while they are read.
    pub(crate) fn new(
        found: &IndexOfLog,
        options: &EngineOptions,
        progress: watch::Sender<SnapshotProgress>,
    ) -> Result<Self, SnapshotError> {
        let IndexOfLog { log, root, chain, .. } = found;
        let SnapshotPlace { index, pins, archive } = place(found, chain.index());
        Ok(Self(SnapshotMaker {
            log: log.clone(),
            root: root.clone(),
            chain: chain.clone(),
            pins,
            engine: Arc::new(TantivyEngine::open(index, options)?),
            archive,
            progress,
        }))
    }

    /// Makes one.
    pub(crate) async fn make(&self, request: &SnapshotRequest) -> Result<SnapshotReport, SnapshotError> {
        self.0.make(request).await
    }

    /// Copies the snapshot that was made to the store `to`.
    pub(crate) async fn copy(
        &self,
        found: &IndexOfLog,
        to: &Store,
        report: &SnapshotReport,
        keep_last: Option<NonZeroUsize>,
    ) -> Result<(), SnapshotError> {
        let copier = SnapshotCopier {
            root: found.root.clone(),
            from: place(found, found.chain.index()),
            to: place(found, to),
            collector: CopyCollector::new(found.chain.index(), to, &found.id, found.entropy.clone()),
            progress: self.0.progress.clone(),
        };
        copier.copy(&report.name, &report.pin, keep_last).await.map(drop)
    }
}

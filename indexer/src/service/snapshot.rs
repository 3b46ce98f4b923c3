//! What the commands about snapshots share: the index of a log with its pins, and the maker of snapshots on the product's own engine
//! and archive.

use std::{num::NonZeroUsize, sync::Arc};

use tidemark_archive::ArchiveTable;
use tidemark_catalog::{Generation, IndexChain, LogId, PinChain, PinRegister, RootChain};
use tidemark_crds::RecoveryWindow;
use tidemark_ingest::snapshot::{
    LogArchive, SnapshotCopier, SnapshotError, SnapshotMaker, SnapshotPlace, SnapshotProgress, SnapshotReport,
    SnapshotRequest,
};
use tidemark_search::{EngineOptions, TantivyEngine};
use tidemark_store::{Entropy, Store};
use tidemark_wal::Log;
use tokio::sync::watch;

use super::snapshot_archive::TableArchive;

/// The open generation of the index that a log has in a store, with the log's pins there.
pub(crate) struct IndexOfLog {
    log: Log,
    id: LogId,
    root: RootChain,
    chain: IndexChain,
    /// The log's pins.
    pub(crate) pins: PinChain,
    entropy: Entropy,
}

impl IndexOfLog {
    /// Finds it. Refused if the log was never indexed, or the store holds the index of another log or none. Writes nothing.
    pub(crate) async fn find(
        log: &Log,
        index: &Store,
        moved_from: Option<&str>,
        entropy: Entropy,
    ) -> Result<Self, SnapshotError> {
        let root = RootChain::open(log, entropy.clone()).moved_from(moved_from);
        let no_index = || SnapshotError::NoIndex { url: index.url().to_string() };
        let id = root.id().await?.ok_or_else(no_index)?;
        // From the first one on: the root's word for the present one is a hint, which may be behind.
        let chain = IndexChain::open(index, Generation::first(), entropy.clone()).for_log(&root).follow().await?;
        if chain.latest().await?.is_none() {
            return Err(no_index());
        }
        let pins = PinChain::open(index, &id, entropy.clone());
        Ok(Self { log: log.clone(), id, root, chain, pins, entropy })
    }

    /// The log's pins and its archive in the store of an index, or of copies.
    fn place(&self, index: &Store) -> SnapshotPlace {
        let archive = log_archive(index, &self.id, &self.entropy);
        let pins = PinChain::open(index, &self.id, self.entropy.clone());
        SnapshotPlace { index: index.clone(), pins, archive }
    }

    /// What the log can be restored to.
    pub(crate) async fn recovery_window(&self) -> Result<Option<RecoveryWindow>, SnapshotError> {
        Ok(recovery_window(&self.pins.register().await?))
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
        let SnapshotPlace { index, pins, archive } = found.place(chain.index());
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
            from: found.place(found.chain.index()),
            to: found.place(to),
            progress: self.0.progress.clone(),
        };
        copier.copy(&report.name, &report.pin, keep_last).await.map(drop)
    }
}

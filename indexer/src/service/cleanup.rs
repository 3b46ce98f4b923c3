//! Clean-ups of a log, for one of its indexes.

use std::sync::Arc;

use tidemark_catalog::{CleanupChain, LogFloor, LogId};
use tidemark_ingest::{
    cleanup::{CleanupExecutor, DeletionReport, FloorMoveError, FloorMover},
    snapshot::{LogArchive, SnapshotError},
};
use tidemark_store::{Entropy, StoreClock, StoreError};
use tokio::sync::watch;
use url::Url;

use super::{
    index_of_log::{IndexLookupError, IndexOfLog},
    snapshot::{log_archive, place},
    stores::StoresSettings,
};

/// What cleans the log up on behalf of this index, as `cleaner`, and reads the clock through the objects of that `clock`.
pub(crate) fn cleanup_executor(
    found: &IndexOfLog,
    cleaner: String,
    clock: &str,
    progress: watch::Sender<DeletionReport>,
) -> CleanupExecutor {
    let index = found.chain.index();
    let place = place(found, index);
    CleanupExecutor {
        log: found.log.clone(),
        root: found.root.clone(),
        index: index.url().to_string(),
        pins: place.pins,
        cleanups: CleanupChain::open(index, &found.id, found.entropy.clone()),
        archive: place.archive,
        clock: StoreClock::new(found.log.stores(), clock),
        cleaner,
        progress,
    }
}

/// What moves the log's floor, which was `seen` in its root, to the archive of this index. The archive that it rests on is opened as a place
/// is that an index is restored from.
pub(crate) fn floor_mover(
    found: &IndexOfLog,
    settings: &StoresSettings,
    seen: &LogFloor,
    progress: watch::Sender<u64>,
) -> FloorMover {
    let index = found.chain.index();
    FloorMover {
        root: found.root.clone(),
        index: index.url().to_string(),
        archive: log_archive(index, &found.id, &found.entropy),
        known: open_archive(settings, &seen.archive, &found.id, &found.entropy),
        progress,
    }
}

/// The archive of the log `id` at this URL.
fn open_archive(
    settings: &StoresSettings,
    archive: &str,
    id: &LogId,
    entropy: &Entropy,
) -> Result<Arc<dyn LogArchive>, SnapshotError> {
    let unusable = || StoreError::Unusable {
        url: archive.to_owned(),
        why: "it does not name the archive of this log below the URL of an index".to_owned(),
        remedy: "look at what is there".to_owned(),
    };
    let index = archive.trim_end_matches('/').strip_suffix(&format!("/archive/{id}")).ok_or_else(unusable)?;
    let index: Url = index.parse().map_err(|_| unusable())?;
    Ok(log_archive(&settings.restore_origin(&index)?, id, entropy))
}

impl From<IndexLookupError> for FloorMoveError {
    fn from(error: IndexLookupError) -> Self {
        match error {
            IndexLookupError::NeverIndexed { url } | IndexLookupError::NoIndex { url } => Self::NoIndex { url },
            IndexLookupError::Chain(error) => Self::Chain(error),
        }
    }
}

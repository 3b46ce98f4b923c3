//! Clean-ups of a log, for one of its indexes.

use tidemark_catalog::CleanupChain;
use tidemark_ingest::cleanup::{CleanupExecutor, DeletionReport};
use tidemark_store::StoreClock;
use tokio::sync::watch;

use super::{index_of_log::IndexOfLog, snapshot::place};

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

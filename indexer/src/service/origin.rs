//! Another place with snapshots and an archive of a log, as a restore reads it.

use std::sync::Arc;

use tidemark_catalog::{LogId, PinChain};
use tidemark_ingest::{RestoreOrigin, engine::IndexEngine, snapshot::SnapshotPlace};
use tidemark_search::{EngineOptions, TantivyEngine};
use tidemark_store::{Entropy, Store};
use url::Url;

use super::{error::ServiceError, snapshot::log_archive, stores::StoresSettings};

/// The place at `url` with what there is of the log `id`. Its segments are kept as `options` say while they are read. Nothing is asked of
/// it yet, and what reads segments there is opened with the first one.
pub(crate) fn open_origin(
    settings: &StoresSettings,
    url: &Url,
    id: &LogId,
    options: &EngineOptions,
    entropy: &Entropy,
) -> Result<RestoreOrigin, ServiceError> {
    let index = settings.restore_origin(url)?;
    let (pins, archive) = (PinChain::open(&index, id, entropy.clone()), log_archive(&index, id, entropy));
    // Beside the cache of the index, on the same disk: what does not fit is read by ranges.
    let options = EngineOptions { cache_bytes: options.cache_bytes / 16, ..options.clone() };
    let open = move |index: Store| Ok(Arc::new(TantivyEngine::open(index, &options)?) as Arc<dyn IndexEngine>);
    Ok(RestoreOrigin::new(SnapshotPlace { index, pins, archive }, Box::new(open)))
}

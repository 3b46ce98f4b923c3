//! What an index is begun with that holds nothing.

use tidemark_catalog::{IndexOwner, LogId};
use tidemark_ingest::{ColdStart, GenerationTask};
use tidemark_search::EngineOptions;
use tidemark_store::StoreSecond;
use url::Url;

use super::{error::ServiceError, stores::StoresSettings};
#[cfg(feature = "archive")]
use super::{origin::open_origin, snapshot::log_archive};

/// Another place that an index is begun from if neither archive nor snapshots are below it.
#[derive(Clone, Debug)]
pub struct ColdStartOptions {
    /// Its URL.
    pub from: Url,
    /// The time at which the index stays until it is promoted.
    pub time: Option<StoreSecond>,
    /// How the place is reached.
    pub stores: StoresSettings,
}

/// The cold start of the index of `task`, whose log is `id`.
#[cfg(feature = "archive")]
pub(super) fn cold_start(
    task: GenerationTask,
    id: &LogId,
    owner: &IndexOwner,
    options: Option<&ColdStartOptions>,
    cache: &EngineOptions,
) -> Result<Option<ColdStart>, ServiceError> {
    let open = |options: &ColdStartOptions| open_origin(&options.stores, &options.from, id, cache, &task.entropy);
    let origin = options.map(open).transpose()?;
    let archive = log_archive(&task.index, id, &task.entropy);
    let time = options.and_then(|options| options.time);
    Ok(Some(ColdStart { task, archive, origin, time, owner: owner.clone() }))
}

/// Without the archive there is none.
#[cfg(not(feature = "archive"))]
#[expect(clippy::unnecessary_wraps, reason = "as with the archive")]
pub(super) fn cold_start(
    _: GenerationTask,
    _: &LogId,
    _: &IndexOwner,
    _: Option<&ColdStartOptions>,
    _: &EngineOptions,
) -> Result<Option<ColdStart>, ServiceError> {
    Ok(None)
}

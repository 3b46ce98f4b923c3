//! Opening what a service stands on: stores that were proven fit, the root chain, the index's open generation.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
};

use tidemark_catalog::{ChainError, Identity, IndexChain, Owner, Registered, Registration, RootChain};
use tidemark_wal::{Entropy, Log, Parameters, Schedule, Store, StoreError, probe};

use super::ServiceError;
use crate::EngineOptions;

/// Gives the parameters that a command asks for, from those that are recorded; `None` when it cannot.
pub type Asked = Box<dyn Fn(Option<Parameters>) -> Option<Parameters> + Send + Sync>;

/// Name of the file in a local index folder that its writer keeps locked.
const WRITER_LOCK: &str = ".tidemark-writer";

/// Proves once a prefix that the store holds what the protocol needs, and records it in the root chain.
pub(super) async fn fit(
    root: &RootChain,
    store: &Store,
    entropy: &Entropy,
    probing: impl FnOnce(),
) -> Result<(), ServiceError> {
    let url = store.url().as_str();
    if root.head().await?.is_some_and(|slot| slot.state.probes.contains_key(url)) {
        return Ok(());
    }
    probing();
    tracing::info!(store = url, "probing the store, once");
    let report = probe(store, entropy).await;
    // A store that did not answer has broken no promise.
    if let Some(failure) = report.failure.clone().filter(|failure| !matches!(failure, StoreError::Refused { .. })) {
        return Err(failure.into());
    }
    if let Some(line) = report.failed_line() {
        let (line, detail) = (line.name.clone(), line.detail.clone());
        return Err(ServiceError::Unfit { store: url.to_owned(), line, detail });
    }
    Ok(root.record_probe(url, &report).await?)
}

/// Proves once that the stores of a log are fit: before anything is written there that relies on it.
pub(crate) async fn fit_log(root: &RootChain, log: &Log, entropy: &Entropy) -> Result<(), ServiceError> {
    for store in log.stores() {
        fit(root, store, entropy, || {}).await?;
    }
    Ok(())
}

/// The parameters in force, after the first indexer has set them and a later one has proven to ask for the same.
pub(super) async fn agree(root: &RootChain, log: &Log, asked: &Asked) -> Result<Schedule, ServiceError> {
    let recorded = root.parameters().await?.map(|schedule| schedule.newest().parameters);
    let wanted = asked(recorded).ok_or_else(|| ServiceError::NoExpiry { log: log.entries.url().to_string() })?;
    Ok(root.ensure(&wanted).await?)
}

/// The open generation of the index. Refused, before anything is written, if it holds the records of another log.
pub(super) async fn look(root: &RootChain, index: &Store, entropy: &Entropy) -> Result<IndexChain, ChainError> {
    let start = root.state().await?.generation_of(index.url().as_str());
    IndexChain::open(index, start, entropy.clone()).of_log(root).follow().await
}

/// Registers the index of `chain` with its owner.
pub(super) async fn register(
    root: &RootChain,
    chain: &IndexChain,
    owner: &Owner,
    adopt: Option<&str>,
) -> Result<Registration, ServiceError> {
    let url = chain.index().url().to_string();
    let registered = Registered { url: url.clone(), owner: owner.clone(), generation: chain.generation().clone() };
    let how = root.register_index(&url, &registered, adopt).await?;
    tracing::debug!(?how, index = url, "the index is registered");
    Ok(how)
}

/// Who writes a local index, while the folder's writer lock is held: always the same, so that a process that was killed
/// is succeeded at once.
pub(super) struct FolderWriter {
    pub(super) identity: Identity,
    _lock: File,
}

impl FolderWriter {
    /// Takes the writer lock of a local index; `None` if the index is not local or another process holds the lock.
    pub(super) fn of(index: &Store) -> Result<Option<Self>, ServiceError> {
        let Ok(folder) = index.url().to_file_path() else { return Ok(None) };
        let identity = Identity(format!("the holder of {}", folder.join(WRITER_LOCK).display()));
        Ok(lock(&folder, WRITER_LOCK)?.map(|lock| Self { identity, _lock: lock }))
    }
}

/// Locks a file in `folder`, made if need be; `None` if another process holds it.
pub(super) fn lock(folder: &Path, name: &str) -> Result<Option<File>, ServiceError> {
    let path = folder.join(name);
    let failed = |source| ServiceError::Disk { path: path.clone(), source };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let file = File::options().create(true).append(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// A segment cache in `folder`, or in a temporary folder that lives as long as the answer's second part.
pub fn cache_options(
    folder: Option<PathBuf>,
    bytes: u64,
) -> Result<(EngineOptions, Option<tempfile::TempDir>), ServiceError> {
    let temporary = match &folder {
        Some(_) => None,
        None => Some(tempfile::tempdir().map_err(|source| ServiceError::Disk { path: std::env::temp_dir(), source })?),
    };
    let chosen = folder.or_else(|| temporary.as_ref().map(|folder| folder.path().to_owned())).unwrap_or_default();
    Ok((EngineOptions { cache_folder: chosen, cache_bytes: bytes }, temporary))
}

//! Opens what a service needs: stores that hold the contract, the root chain, the index's open generation.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
};

use futures::future::join_all;
use tidemark_catalog::{
    CatalogError, Generation, IndexChain, IndexOwner, IndexRegistration, LogCursor, RegistrationOutcome, RootChain,
    RootState, WriterIdentity,
};
use tidemark_store::{ChainRecord, Entropy, ProbeReport, Store, StoreError, probe_store};
use tidemark_wal::{Log, LogParameters};

use super::{error::ServiceError, startup_retry::StartupMode};
use tidemark_search::EngineOptions;

/// Chooses the parameters of the log from those that are recorded; `None` when none are recorded or given.
pub type ParameterChoice = Box<dyn Fn(Option<LogParameters>) -> Option<LogParameters> + Send + Sync>;

/// Name of the file in a local index folder that its writer keeps locked.
const WRITER_LOCK: &str = ".tidemark-writer";

/// Verifies once a prefix that the stores hold the contract, all at the same time, and records it in the root chain.
///
/// `head` is the root chain's head as it was just read; so is the answer. Stores that pass are
/// recorded whatever becomes of the others. Of several failures the one of the first store is returned, whichever came first.
pub(super) async fn verify_contract(
    root: &RootChain,
    head: Option<ChainRecord<RootState>>,
    stores: &[&Store],
    entropy: &Entropy,
    probing: impl FnOnce(),
) -> Result<Option<ChainRecord<RootState>>, ServiceError> {
    let proven = |url: &str| head.as_ref().is_some_and(|slot| slot.state.probes.contains_key(url));
    let mut unproven: Vec<&Store> = Vec::new();
    for store in stores {
        if !proven(store.url().as_str()) && unproven.iter().all(|other| other.url() != store.url()) {
            unproven.push(store);
        }
    }
    if unproven.is_empty() {
        return Ok(head);
    }
    probing();
    let urls: Vec<_> = unproven.iter().map(|store| store.url().as_str()).collect();
    tracing::info!(stores = ?urls, "probing object stores");
    let reports = join_all(unproven.iter().map(|store| probe_store(store, entropy))).await;
    let passed = reports.iter().filter(|report| report.failure.is_none() && report.passed());
    let passed = passed.map(|report| (report.url.clone(), report)).collect();
    let head = root.record_probes(head, &passed).await?;
    reports.iter().try_for_each(check_report)?;
    Ok(head)
}

/// An error unless a log may live in the store of the report.
fn check_report(report: &ProbeReport) -> Result<(), ServiceError> {
    // A store that did not answer has not broken the contract.
    if let Some(failure) = report.failure.clone().filter(|failure| !matches!(failure, StoreError::Refused { .. })) {
        return Err(failure.into());
    }
    match report.failed_check() {
        None => Ok(()),
        Some(line) => {
            let (store, line, detail) = (report.url.clone(), line.name.clone(), line.detail.clone());
            Err(ServiceError::StoreUnsupported { store, line, detail })
        }
    }
}

/// Verifies once that the stores of a log hold the contract, before anything is written that relies on it.
pub(crate) async fn verify_log_contract(root: &RootChain, log: &Log, entropy: &Entropy) -> Result<(), ServiceError> {
    let stores: Vec<_> = log.stores().collect();
    verify_contract(root, root.head().await?, &stores, entropy, || {}).await.map(drop)
}

/// The open generation of the index, as the root `known` names it. Refused, before anything is written, if it holds the
/// records of another log.
pub(super) async fn open_generation(
    root: &RootChain,
    known: Option<&ChainRecord<RootState>>,
    index: &Store,
    entropy: &Entropy,
) -> Result<IndexChain, CatalogError> {
    let start = known.map_or_else(Generation::first, |slot| slot.state.generation_of(index.url().as_str()));
    IndexChain::open(index, start, entropy.clone()).for_log(root).follow().await
}

/// The parameters to use, given those that are recorded: in a pod these, whatever its spec says by now, since it is the log's
/// writers that go by them.
pub(super) fn choose_parameters(
    known: Option<&ChainRecord<RootState>>,
    log: &Log,
    choose: &ParameterChoice,
    startup: StartupMode,
) -> Result<LogParameters, ServiceError> {
    let recorded = known.and_then(|slot| slot.state.schedule()).map(|schedule| schedule.newest().parameters);
    if let (StartupMode::WaitForDependencies, Some(recorded)) = (startup, recorded) {
        return Ok(recorded);
    }
    choose(recorded).ok_or_else(|| ServiceError::NoExpiry { log: log.entries.url().to_string() })
}

/// Registers the index of `chain` with its owner. The first indexer sets the parameters of the log; a later one must
/// give the same. An index that cannot go on since the log was cleaned up is refused in the same record: the floor waits for every
/// index that is registered. One that holds nothing goes on from `reach`: up to there it is restored.
pub(super) async fn register(
    root: &RootChain,
    head: Option<ChainRecord<RootState>>,
    parameters: &LogParameters,
    (chain, reach): (&IndexChain, LogCursor),
    (owner, adopt): (&IndexOwner, Option<&str>),
) -> Result<RegistrationOutcome, ServiceError> {
    let url = chain.index().url().to_string();
    let registered = IndexRegistration::new(url.clone(), owner.clone(), chain.generation().clone());
    let found = head.as_ref().map(|head| head.state.register_index(&url, &registered, LogCursor::default(), adopt));
    let cursor = match found {
        // Nothing is to be recorded: the floor waits for it.
        Some(Ok((RegistrationOutcome::Known, _))) => LogCursor::default(),
        // Read even where `head` has no floor: one may be set before the record lands.
        _ => chain.latest().await?.map(|latest| latest.state.cursor).unwrap_or_default().max(reach),
    };
    let how = root.register(head, parameters, &url, &registered, cursor, adopt).await?;
    tracing::debug!(?how, index = url, "registered the index");
    Ok(how)
}

/// The identity of the writer of a local index, while it holds the folder's writer lock: always the same, so that the next
/// process takes over at once from one that was killed.
pub(super) struct FolderWriter {
    pub(super) identity: WriterIdentity,
    _lock: File,
}

impl FolderWriter {
    /// Takes the writer lock of a local index; `None` if the index is not local or another process holds the lock.
    pub(super) fn of(index: &Store) -> Result<Option<Self>, ServiceError> {
        let Ok(folder) = index.url().to_file_path() else { return Ok(None) };
        let identity = WriterIdentity(format!("the holder of {}", folder.join(WRITER_LOCK).display()));
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidemark_catalog::ArchiveExtent;
    use tidemark_store::StoreSecond;

    use super::*;

    #[tokio::test]
    async fn an_index_below_the_floor_does_not_come_on_the_register() {
        for raised_meanwhile in [false, true] {
            below_the_floor(raised_meanwhile).await;
        }
    }

    /// The floor is raised before the indexer reads the root, or between that and the registration.
    async fn below_the_floor(raised_meanwhile: bool) {
        let (entropy, index) = (Entropy::seeded(1), Store::memory());
        let root = RootChain::open(&Log::over(Store::memory(), vec![Store::memory()]), entropy.clone());
        let parameters = LogParameters::with_expiry(Duration::from_mins(10));
        root.ensure(&parameters).await.unwrap();
        let floor = LogCursor(StoreSecond::from_unix(1_800_000_000));
        let extent = ArchiveExtent { version: 1, hash: String::new(), end: floor };
        let raise = |root: Option<&RootState>| {
            root.cloned().unwrap_or_default().raise_floor(floor, "memory:///archive", &extent)
        };
        let before = root.head().await.unwrap();
        root.chain().append(None, raise).await.unwrap();
        let chain = IndexChain::open(&index, Generation::first(), entropy);
        let owner = IndexOwner::Named { name: "tidemark".to_owned() };
        let head = if raised_meanwhile { before } else { root.head().await.unwrap() };
        let refused =
            register(&root, head, &parameters, (&chain, LogCursor::default()), (&owner, None)).await.unwrap_err();
        assert!(refused.to_string().contains("memory:///archive"), "{refused}");
        assert!(root.state().await.unwrap().indexes.is_empty());
    }
}

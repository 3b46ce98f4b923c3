//! The indexers, which compete for the writer lease.

use std::sync::Arc;

use tidemark_catalog::{
    ArchiveExtent, CatalogError, Generation, IndexChain, IndexOwner, IndexRegistration, LogCursor, RootChain,
    WriterIdentity,
};
use tidemark_ingest::engine::{EngineError, IndexEngine};
use tidemark_ingest::model_engine::ModelEngine;
use tidemark_ingest::{IngestOptions, IngestStatus, LogIngester};
use tidemark_store::StoreClock;
use tidemark_wal::{LogParameters, LogReader};
use tokio::{sync::watch, time::Duration};
use tokio_util::sync::CancellationToken;

use crate::{
    checker::INDEX,
    limited_disk_engine::LimitedDiskEngine,
    model::LOG,
    mutants::{Mutant, RedecidingEngine, TruncatingEngine, UnverifyingEngine},
    process::SimProcess,
    simulated_store::SimulatedStore,
    supervise::ProcessEnd,
    world::{COPY, SimWorld},
};

/// An indexer, until it ends or crashes. The first one sets the log's parameters.
pub async fn index(world: SimWorld, process: SimProcess, name: String) -> ProcessEnd {
    let log = world.log(&process);
    let root = RootChain::open(&log, world.entropy());
    if let Err(error) = first_parameters(&world, &root).await {
        return ProcessEnd::GaveUp(error);
    }
    let mut chain = IndexChain::open(&world.index(&process), Generation::first(), world.entropy());
    // An indexer ends whose index is off the register. Below a floor it is refused there already, except where the refusal of
    // its publications is looked at.
    if world.config.copied_log || !world.config.cleaned_log {
        if let Err(error) = register(&root, &chain, world.config.parameters).await {
            return ProcessEnd::GaveUp(error.to_string());
        }
        chain = chain.for_log(&root);
    }
    let engine = match engine(&world, &process) {
        Ok(engine) => engine,
        Err(error) => return ProcessEnd::GaveUp(error.to_string()),
    };
    let engine: Arc<dyn IndexEngine> = if Mutant::OutcomeDecidedAgain.is_on() {
        let reader = LogReader::new(&log);
        Arc::new(RedecidingEngine::new(engine, reader, root.clone()))
    } else if Mutant::UnverifiedCompactionInput.is_on() {
        Arc::new(UnverifyingEngine::new(engine, world.index(&process)))
    } else {
        engine
    };
    let limited = Arc::new(LimitedDiskEngine::new(engine.clone(), &world));
    let engine: Arc<dyn IndexEngine> =
        if Mutant::FullDiskCutsSegment.is_on() { Arc::new(TruncatingEngine::new(limited, engine)) } else { limited };
    // A restarted pod has a new UID; the owner of a folder keeps its identity.
    let identity = if world.config.stable_identity { name } else { process.name().to_owned() };
    let ingest = LogIngester {
        clock: StoreClock::new(log.stores(), &identity),
        engine,
        log,
        root,
        chain,
        identity: WriterIdentity(identity),
        options: options(&world),
        entropy: world.entropy(),
        status: watch::Sender::new(IngestStatus::default()),
    };
    tokio::spawn(watch_for_bugs(world.simulated_store.clone(), ingest.status.subscribe()));
    let stop = CancellationToken::new();
    if world.config.fault_schedule.refuses() && !world.is_fault_burst_over() {
        // Whoever gives the objects back rolls the indexers, which then try each unreadable entry again.
        let (world, stop) = (world.clone(), stop.clone());
        tokio::spawn(async move {
            world.fault_burst_over().await;
            stop.cancel();
        });
    }
    if world.config.record_loss.is_some() {
        let (killed_with, killed) = (world.clone(), process.clone());
        tokio::spawn(async move {
            killed_with.records_lost().await;
            killed_with.simulated_store.note(&format!("{} is killed", killed.name()));
            killed_with.simulated_store.count_crash();
            killed.kill();
        });
        tokio::spawn(watch_for_damage(world.clone(), ingest.status.subscribe()));
    }
    if world.chance(300) {
        // Some indexers are shut down in order.
        let (stop, delay) = (stop.clone(), world.in_range(20_000..=200_000));
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            stop.cancel();
        });
    }
    let ended = Box::pin(ingest.run(stop)).await;
    let why = ended.map_or_else(|error| error.to_string(), |()| "stopped".to_owned());
    // Without faults an indexer ends only when it is shut down, or when it was fenced before.
    if why.contains("which has the same id") {
        world.simulated_store.mark("a copy of the log was refused");
    }
    world.simulated_store.note(&format!("{} ends: {why}", process.name()));
    ProcessEnd::GaveUp(why)
}

/// An indexer of a copy of the log, which is made some time after the log's own indexer has claimed the index.
pub async fn index_copy(world: SimWorld, process: SimProcess, name: String) -> ProcessEnd {
    while world.simulated_store.objects(INDEX).is_empty() {
        world.sleep_for(1_000..=20_000).await;
    }
    if world.simulated_store.objects(COPY).is_empty() {
        world.simulated_store.copy_bucket(LOG, COPY);
    }
    index(world, process, name).await
}

/// Registers the index with its one owner, whichever bucket the log is in.
async fn register(root: &RootChain, chain: &IndexChain, parameters: LogParameters) -> Result<(), CatalogError> {
    let url = chain.index().url().to_string();
    let owner = IndexOwner::Named { name: "sim".to_owned() };
    let registration = IndexRegistration::new(url.clone(), owner, chain.generation().clone());
    let cursor = chain.latest().await?.map(|latest| latest.state.cursor).unwrap_or_default();
    let head = root.head().await?;
    let recorded = head.as_ref().and_then(|head| head.state.schedule()).map(|known| known.newest().parameters);
    root.register(head, &recorded.unwrap_or(parameters), &url, &registration, cursor, None).await.map(drop)
}

/// Whatever the weather, no indexer says that it has a bug.
pub(super) async fn watch_for_bugs(simulated_store: SimulatedStore, mut status: watch::Receiver<IngestStatus>) {
    let says_so = |status: &IngestStatus| {
        status.problem.as_ref().is_some_and(|problem| problem.message.contains("this is a bug"))
    };
    let said = status.wait_for(says_so).await.ok().and_then(|status| status.problem.clone());
    if let Some(problem) = said {
        simulated_store.fail(problem.message);
    }
}

/// Notes that the indexer refused a damaged chain.
async fn watch_for_damage(world: SimWorld, mut status: watch::Receiver<IngestStatus>) {
    let says_so =
        |status: &IngestStatus| status.problem.as_ref().is_some_and(|problem| problem.message.contains("is damaged"));
    if status.wait_for(says_so).await.is_ok() {
        world.simulated_store.mark("an indexer refused a damaged chain");
    }
}

/// The engine of the config. Every restart begins with an empty disk.
pub(crate) fn engine(world: &SimWorld, process: &SimProcess) -> Result<Arc<dyn IndexEngine>, EngineError> {
    let store = world.index(process);
    #[cfg(feature = "tantivy")]
    if let Some(folder) = &world.config.tantivy {
        let options =
            tidemark_search::EngineOptions { cache_folder: folder.join(process.name()), cache_bytes: 64 << 20 };
        return Ok(Arc::new(tidemark_search::TantivyEngine::open(store, &options)?));
    }
    Ok(Arc::new(ModelEngine::new(store)))
}

fn options(world: &SimWorld) -> IngestOptions {
    // An entry is judged unreadable only while later ones are read beside it.
    let fetches = if world.config.fault_schedule.refuses() { 8..=64 } else { 1..=8 };
    let defaults = IngestOptions::default();
    IngestOptions {
        fetches: usize::try_from(world.in_range(fetches)).unwrap_or(1),
        chunk: usize::try_from(world.in_range(1..=8)).unwrap_or(1),
        batch_records: world.in_range(1..=12),
        batch_age: Duration::from_secs(world.in_range(1..=10)),
        segment_memory: usize::try_from(world.in_range(500..=8_000)).unwrap_or(500),
        entry_memory: world.config.entry_sizes.map_or(defaults.entry_memory, |sizes| sizes.entry_memory),
        ..defaults
    }
}

/// Sets the log's parameters if it has none: those that the operator changed since must stay.
async fn first_parameters(world: &SimWorld, root: &RootChain) -> Result<(), String> {
    match root.parameters().await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => {
            let set = root.ensure(&world.config.parameters).await;
            set.map_err(|error| error.to_string())?;
            if world.config.cleaned_log { raise_floor(world, root).await } else { Ok(()) }
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Raises the log's floor above the cursor of every index, as a cleanup of everything written so far does.
async fn raise_floor(world: &SimWorld, root: &RootChain) -> Result<(), String> {
    let floor = LogCursor(world.true_second());
    let extent = ArchiveExtent { version: 1, hash: String::new(), end: floor };
    let raised = root
        .chain()
        .append(None, |state| state.cloned().unwrap_or_default().raise_floor(floor, "sim://archive", &extent))
        .await;
    raised.map(drop).map_err(|error| error.to_string())
}

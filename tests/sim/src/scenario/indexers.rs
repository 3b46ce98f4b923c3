//! Candidates for the indexer.

use std::sync::Arc;

use tidemark_catalog::{Generation, IndexChain, RootChain, WriterIdentity};
use tidemark_ingest::engine::{EngineError, IndexEngine};
use tidemark_ingest::model_engine::ModelEngine;
use tidemark_ingest::{IngestOptions, IngestStatus, LogIngester};
use tidemark_store::Clock;
use tidemark_wal::{LogReader, ReaderLimits};
use tokio::{sync::watch, time::Duration};
use tokio_util::sync::CancellationToken;

use crate::{
    mutants::{Mutant, RedecidingEngine},
    process::Process,
    supervise::End,
    world::World,
};

/// One life of a candidate: sets the log's parameters if it is the first, then indexes.
pub async fn index(world: World, process: Process, name: String) -> End {
    let log = world.log(&process);
    let root = RootChain::open(&log, world.entropy());
    if let Err(error) = first_parameters(&world, &root).await {
        return End::GaveUp(error);
    }
    let chain = IndexChain::open(&world.index(&process), Generation::first(), world.entropy());
    let engine = match engine(&world, &process) {
        Ok(engine) => engine,
        Err(error) => return End::GaveUp(error.to_string()),
    };
    let engine: Arc<dyn IndexEngine> = if Mutant::OutcomeDecidedAgain.is_on() {
        let reader = LogReader::new(&log, ReaderLimits::default());
        Arc::new(RedecidingEngine::new(engine, reader, root.clone()))
    } else {
        engine
    };
    // A pod that starts again has a UID of its own; a folder's owner does not.
    let identity = if world.knobs.steady_identity { name } else { process.name().to_owned() };
    let ingest = LogIngester {
        clock: Clock::new(log.stores(), &identity),
        engine,
        log,
        root,
        chain,
        identity: WriterIdentity(identity),
        options: options(&world),
        entropy: world.entropy(),
        status: watch::Sender::new(IngestStatus::default()),
    };
    let stop = CancellationToken::new();
    if world.chance(300) {
        // Some lives end in order.
        let (stop, rest) = (stop.clone(), world.among(20_000..=200_000));
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(rest)).await;
            stop.cancel();
        });
    }
    let ended = Box::pin(ingest.run(stop)).await;
    let why = ended.map_or_else(|error| error.to_string(), |()| "stopped".to_owned());
    // In calm weather nobody has a reason to end, except one who was told to or was fenced before.
    world.cloud.note(&format!("{} ends: {why}", process.name()));
    End::GaveUp(why)
}

/// The engine of the set-up. Every life has a disk of its own.
pub(crate) fn engine(world: &World, process: &Process) -> Result<Arc<dyn IndexEngine>, EngineError> {
    let store = world.index(process);
    #[cfg(feature = "tantivy")]
    if let Some(folder) = &world.knobs.tantivy {
        let options =
            tidemark_search::EngineOptions { cache_folder: folder.join(process.name()), cache_bytes: 64 << 20 };
        return Ok(Arc::new(tidemark_search::TantivyEngine::open(store, &options)?));
    }
    Ok(Arc::new(ModelEngine::new(store)))
}

fn options(world: &World) -> IngestOptions {
    IngestOptions {
        fetches: usize::try_from(world.among(1..=8)).unwrap_or(1),
        chunk: usize::try_from(world.among(1..=8)).unwrap_or(1),
        batch_records: world.among(1..=12),
        batch_age: Duration::from_secs(world.among(1..=10)),
        segment_memory: usize::try_from(world.among(500..=8_000)).unwrap_or(500),
        ..IngestOptions::default()
    }
}

/// The first indexer sets the parameters. Whoever comes after a change finds others, and leaves them.
async fn first_parameters(world: &World, root: &RootChain) -> Result<(), String> {
    match root.parameters().await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => root.ensure(&world.knobs.parameters).await.map(drop).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

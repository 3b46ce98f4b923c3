//! Writers, tasks that rebuild, restore and promote the index, snapshots, their copies in a second store, clean-ups of the log, readers and
//! collectors: over days of store time, with pauses longer than the grace, and objects of the index that are lost for a while.

use std::{collections::BTreeMap, num::NonZeroUsize, sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use tidemark_catalog::{
    AcquireError, CatalogError, IndexChain, IndexOwner, IndexRegistration, LogCursor, PinChain, PublishError,
    RootChain, TransactionRejected, WriterIdentity,
};
use tidemark_ingest::{
    GenerationTask, IngestError, IngestOptions, IngestStatus, LogIngester, LostOutcomePolicy, RestoreRequest,
    RestoreTarget,
    engine::IndexEngine,
    model_engine::ModelEngine,
    promote, reindex, restore,
    snapshot::{LogArchive, SnapshotError, SnapshotMaker, SnapshotRequest},
};
use tidemark_store::{StoreClock, StoreSecond};
use tokio::{sync::watch, task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    cleaning::{CleanupEnd, check_left, clean_up_once},
    cleanup_model::{CleanupModel, left_below},
    copy_model::CopyModel,
    entry_clients::append,
    generation_model::GenerationModel,
    indexers::watch_for_bugs,
    long_run::{COPIES, FAULT_BURST_DURATION, INDEX, INDEX_URL, LOG, LongRun, collect, fault_schedule},
    record_writer::RecordWriter,
    snapshot_copies::copy_now_and_then,
    snapshot_trials::SnapshotTrials,
    verification::{verify_now_and_then, verify_stored},
};
use crate::{
    fault_schedule::FaultSchedule,
    process::SimProcess,
    simulated_store::SimulatedStore,
    supervise::{ProcessEnd, supervise},
};

/// At most: long enough that a process that is paused at the beginning goes on, and that the writers of a quiet index write.
const RECOVERY_DURATION: Duration = Duration::from_hours(5 * 24);

/// From this seed on the product's own ingest writes the index, on a log that two clients write.
pub const INGESTED_SEEDS: u64 = 1_000_000;

#[derive(Clone)]
struct GenerationWorld {
    run: LongRun,
    model: Arc<Mutex<GenerationModel>>,
    cleanups: Arc<Mutex<CleanupModel>>,
    copies: Arc<Mutex<CopyModel>>,
    /// The task of each process. A process that is started again goes on with the one it had.
    tasks: Arc<Mutex<BTreeMap<String, SimTask>>>,
    /// Whether the writers of this index come once in two days only.
    is_quiet: bool,
}

/// A task that makes a generation.
#[derive(Clone, Debug)]
struct SimTask {
    name: String,
    /// What is restored; nothing, if the index is rebuilt.
    restore: Option<RestoreTarget>,
}

/// Runs the scenario to its end.
pub async fn run(seed: u64, echo: bool) -> SimulatedStore {
    let schedule = FaultSchedule {
        refused_entries: 20,
        undeletable_entries: 20,
        refusal_delay: 0..=100_000_000,
        ..fault_schedule(seed)
    };
    let simulated_store = SimulatedStore::new(seed, schedule, echo);
    let is_ingested = seed >= INGESTED_SEEDS;
    let world = GenerationWorld {
        run: LongRun { simulated_store: simulated_store.clone(), is_ingested },
        model: Arc::default(),
        cleanups: Arc::default(),
        copies: Arc::default(),
        tasks: Arc::default(),
        is_quiet: seed.is_multiple_of(3),
    };
    world.model().audit_window = Some(world.run.parameters().audit_window);
    let (model, cleanups, copies) = (world.model.clone(), world.cleanups.clone(), world.copies.clone());
    world.run.set_observer(move |event| {
        if event.bucket == COPIES {
            return copies.lock().observe(event);
        }
        let mut model = model.lock();
        if event.bucket == INDEX {
            model.observe(event)?;
        }
        cleanups.lock().observe(event, &model.ledger)
    });
    let mut tasks = Vec::new();
    for n in 0..2 {
        let (writing, making) = (world.clone(), world.clone());
        let (reading, collecting, cleaning) = (world.clone(), world.clone(), world.clone());
        let (promoting, keeping, snapshotting) = (world.clone(), world.clone(), world.clone());
        if is_ingested {
            let appending = world.run.clone();
            supervise(&simulated_store, &format!("client{n}"), true, move |process| append(appending.clone(), process));
            supervise(&simulated_store, &format!("indexer{n}"), true, move |process| ingest(writing.clone(), process));
        } else {
            supervise(&simulated_store, &format!("writer{n}"), true, move |process| write(writing.clone(), process));
        }
        let made = supervise(&simulated_store, &format!("maker{n}"), true, move |process| {
            make(making.clone(), process, format!("maker{n}"))
        });
        tasks.push(made);
        supervise(&simulated_store, &format!("reader{n}"), true, move |process| read(reading.clone(), process));
        supervise(&simulated_store, &format!("collector{n}"), true, move |process| {
            collect(collecting.run.clone(), process)
        });
        supervise(&simulated_store, &format!("cleaner{n}"), true, move |process| clean_up(cleaning.clone(), process));
        supervise(&simulated_store, &format!("keeper{n}"), true, move |process| report_keeps(keeping.clone(), process));
        supervise(&simulated_store, &format!("promoter{n}"), true, move |process| {
            promote_now_and_then(promoting.clone(), process)
        });
        supervise(&simulated_store, &format!("snapshot{n}"), true, move |process| {
            make_snapshots(snapshotting.clone(), process)
        });
        let copying = world.run.clone();
        supervise(&simulated_store, &format!("copier{n}"), true, move |process| {
            copy_now_and_then(copying.clone(), process)
        });
        let verifying = world.clone();
        supervise(&simulated_store, &format!("verifier{n}"), true, move |process| {
            let model = verifying.model.clone();
            verify_now_and_then(verifying.run.clone(), process, move |since| model.lock().was_damaged_since(since))
        });
    }
    let losing = tokio::spawn(lose_objects(world.clone()));
    simulated_store.run_for(FAULT_BURST_DURATION).await;
    simulated_store.change_fault_schedule(|fault_schedule| *fault_schedule = FaultSchedule::fault_free());
    simulated_store.note("the fault burst ends");
    let before = world.model().decided();
    let has_recovered = || {
        let is_whole = losing.is_finished() && !simulated_store.has_lost_objects();
        is_whole && tasks.iter().all(JoinHandle::is_finished) && world.model().decided() > before
    };
    simulated_store.recover(RECOVERY_DURATION, has_recovered).await;
    if let Some(going_on) = tasks.iter().position(|task| !task.is_finished()) {
        simulated_store.fail(format!("no end: a task of maker{going_on} goes on days after the faults have ended"));
    }
    let after = world.model().decided();
    if after <= before {
        simulated_store.fail(format!("no progress: {before} operations when the faults ended, {after} now"));
    }
    if simulated_store.failure().is_none() {
        verify_stored(&world.run).await;
        SnapshotTrials::new(&world.run, &world.model).await.run().await;
    }
    let marks = world.model().marks.clone();
    let marks = marks.into_iter().chain(world.cleanups.lock().marks.clone());
    for mark in marks.chain(world.copies.lock().marks.clone()) {
        simulated_store.mark(mark);
    }
    simulated_store
}

impl GenerationWorld {
    fn model(&self) -> MutexGuard<'_, GenerationModel> {
        self.model.lock()
    }

    fn root(&self, process: &SimProcess) -> RootChain {
        RootChain::open(&self.run.log(process), self.run.entropy())
    }

    fn engine(&self, process: &SimProcess) -> Arc<dyn IndexEngine> {
        Arc::new(ModelEngine::new(self.run.store(INDEX, process)))
    }

    /// The open generation, as a process of the product finds it.
    async fn open(&self, process: &SimProcess, root: &RootChain) -> Result<IndexChain, CatalogError> {
        let start = root.state().await?.generation_of(INDEX_URL);
        IndexChain::open(&self.run.store(INDEX, process), start, self.run.entropy()).for_log(root).follow().await
    }

    /// The same, registered in the log's root.
    async fn open_registered(&self, process: &SimProcess, root: &RootChain) -> Result<IndexChain, CatalogError> {
        let (chain, parameters) = (self.open(process, root).await?, self.run.parameters());
        let owner = IndexOwner::Named { name: "sim".to_owned() };
        let registration = IndexRegistration::new(INDEX_URL, owner, chain.generation().clone());
        root.register(root.head().await?, &parameters, INDEX_URL, &registration, LogCursor::default(), None).await?;
        Ok(chain)
    }

    /// The archive of the log, once a writer has made the root.
    async fn archive(&self, process: &SimProcess) -> Arc<dyn LogArchive> {
        let log = self.run.log_id(process).await;
        self.run.archive(process, &log)
    }

    /// A task that nobody has begun.
    fn next_task(&self, process: &str) -> SimTask {
        let model = self.model();
        let reach = model.open().map(|open| open.cursor.second().unix());
        let token = model.token(self.run.number(0..=1_000));
        drop(model);
        let restore = match self.run.number(0..=9) {
            0 => token.map(RestoreTarget::Token),
            1 => Some(RestoreTarget::Latest),
            2 | 3 => reach.map(|reach| RestoreTarget::Time(self.second_before(reach))),
            _ => None,
        };
        SimTask { name: format!("{process} {}", self.run.entropy().nonce()), restore }
    }

    fn second_before(&self, reach: u64) -> StoreSecond {
        // What is made up is of a second a publication.
        let seconds = if self.run.is_ingested { 1..=150_000 } else { 1..=30 };
        StoreSecond::from_unix(reach.saturating_sub(self.run.number(seconds)))
    }

    fn generation_task(&self, process: &SimProcess, name: String) -> GenerationTask {
        let log = self.run.log(process);
        GenerationTask {
            clock: StoreClock::new(log.stores(), process.name()),
            root: self.root(process),
            index: self.run.store(INDEX, process),
            engine: self.engine(process),
            log,
            name: Some(name),
            options: IngestOptions {
                batch_records: self.run.number(2..=12),
                segment_memory: 2_000,
                ..IngestOptions::default()
            },
            entropy: self.run.entropy(),
            progress: watch::Sender::default(),
        }
    }
}

/// A writer: publishes, corrects, merges, loses uploads and raises its epoch, in the generation that is open.
async fn write(world: GenerationWorld, process: SimProcess) -> ProcessEnd {
    let first_rest = if world.is_quiet { 0..=3_000 } else { 0..=200 };
    world.run.sleep_minutes(first_rest).await;
    match write_for_a_while(&world, &process).await {
        Ok(()) => ProcessEnd::GaveUp("another one goes on".to_owned()),
        Err(error) => ProcessEnd::GaveUp(error.to_string()),
    }
}

async fn write_for_a_while(world: &GenerationWorld, process: &SimProcess) -> anyhow::Result<()> {
    let (log, root) = (world.run.log(process), world.root(process));
    let chain = world.open_registered(process, &root).await?;
    let clock = StoreClock::new(log.stores(), process.name());
    // One identity: each takes over from the other at once, so that they need no heartbeats for days.
    let lease = chain.acquire(WriterIdentity("writer".to_owned()), &clock, &log.entries, |_| ()).await?;
    let (engine, store) = (world.engine(process), world.run.store(INDEX, process));
    let mut writer = RecordWriter { run: world.run.clone(), lease, engine, store, entropy: world.run.entropy() };
    for _ in 0..world.run.number(3..=12) {
        match world.run.number(0..=7) {
            0 => writer.lease.raise_epoch().await.map(drop)?,
            1 => writer.lose_upload().await?,
            2 => writer.correct().await?,
            3 => writer.compact(world.run.number(0..=100)).await?,
            _ => writer.publish(world.run.number(0..=100)).await?,
        }
        let rest = if world.is_quiet { 0..=2 } else { 5..=200 };
        world.run.sleep_minutes(rest).await;
    }
    Ok(())
}

/// The product's ingest: some minutes at a time, in the generation that is open.
async fn ingest(world: GenerationWorld, process: SimProcess) -> ProcessEnd {
    world.run.sleep_minutes(if world.is_quiet { 0..=1_500 } else { 20..=500 }).await;
    match Box::pin(ingest_for_a_while(&world, &process)).await {
        Ok(()) => ProcessEnd::GaveUp("another one goes on".to_owned()),
        Err(error) => ProcessEnd::GaveUp(error.to_string()),
    }
}

async fn ingest_for_a_while(world: &GenerationWorld, process: &SimProcess) -> anyhow::Result<()> {
    let (log, root) = (world.run.log(process), world.root(process));
    let chain = world.open_registered(process, &root).await?;
    let ingester = LogIngester {
        clock: StoreClock::new(log.stores(), process.name()),
        engine: world.engine(process),
        log,
        root,
        chain,
        // As of the made-up writers: each takes over from the other at once.
        identity: WriterIdentity("writer".to_owned()),
        options: IngestOptions {
            fetches: 16,
            batch_records: world.run.number(1..=12),
            segment_memory: 2_000,
            ..IngestOptions::default()
        },
        entropy: world.run.entropy(),
        status: watch::Sender::new(IngestStatus::default()),
    };
    tokio::spawn(watch_for_bugs(world.run.simulated_store.clone(), ingester.status.subscribe()));
    let stop = CancellationToken::new();
    let (stopping, span) = (stop.clone(), Duration::from_secs(world.run.number(60..=400)));
    tokio::spawn(async move {
        sleep(span).await;
        stopping.cancel();
    });
    Ok(Box::pin(ingester.run(stop)).await?)
}

/// Rebuilds or restores the index now and then. A task that ended early is started again under its name, until it is done or refused.
async fn make(world: GenerationWorld, process: SimProcess, name: String) -> ProcessEnd {
    let archive = world.archive(&process).await;
    loop {
        let known = world.tasks.lock().get(&name).cloned();
        if known.is_none() && world.run.is_fault_burst_over() {
            return ProcessEnd::Done;
        }
        world.run.sleep_minutes(if known.is_some() { 1..=60 } else { 100..=900 }).await;
        let task = known.unwrap_or_else(|| world.next_task(&name));
        world.tasks.lock().insert(name.clone(), task.clone());
        if !world.run.is_fault_burst_over() && world.run.number(0..=3) == 0 {
            world.run.suspend_soon(&process);
        }
        world.model().begin_task(&task.name, world.run.simulated_store.now());
        let parts = world.generation_task(&process, task.name);
        let ended = match task.restore {
            Some(target) => restore(&parts, &*archive, &restore_request(target)).await,
            None => reindex(&parts).await,
        };
        let is_refused = matches!(
            &ended,
            Err(IngestError::Root(CatalogError::Rejected(_))
                | IngestError::Acquire(AcquireError::Chain(CatalogError::Rejected(_)))
                | IngestError::Publish(PublishError::Rejected(_))
                | IngestError::OutsideRecoveryWindow { .. })
        );
        if is_refused {
            world.model().marks.insert("a task was overtaken or refused");
        }
        if ended.is_ok() || is_refused {
            world.tasks.lock().remove(&name);
        }
        if let Err(error) = ended {
            return ProcessEnd::GaveUp(error.to_string());
        }
    }
}

/// Promotes the index whenever it finds a restored one. What is refused since it was not audited up to the log's floor is restored again, as a
/// person does whom the message tells so.
async fn promote_now_and_then(world: GenerationWorld, process: SimProcess) -> ProcessEnd {
    let archive = world.archive(&process).await;
    loop {
        world.run.sleep_minutes(60..=600).await;
        if !world.run.is_fault_burst_over() && world.run.number(0..=3) == 0 {
            world.run.suspend_soon(&process);
        }
        let name = world.run.entropy().nonce();
        world.model().begin_task(&name, world.run.simulated_store.now());
        match promote(&world.generation_task(&process, name), &*archive, LostOutcomePolicy::Refuse).await {
            Ok(_) => {
                world.model().marks.insert("the index was promoted");
            }
            Err(IngestError::Root(CatalogError::Rejected(TransactionRejected::NotRestored { .. }))) => {}
            Err(IngestError::PromotionBelowFloor { .. }) => {
                world.model().marks.insert("a promotion below the log's floor was refused");
                let task = world.generation_task(&process, world.run.entropy().nonce());
                world.model().begin_task(task.name.as_deref().unwrap_or_default(), world.run.simulated_store.now());
                let latest = RestoreTarget::Latest;
                if let Err(error) = restore(&task, &*archive, &restore_request(latest)).await {
                    return ProcessEnd::GaveUp(error.to_string());
                }
            }
            Err(error) => return ProcessEnd::GaveUp(error.to_string()),
        }
    }
}

fn restore_request(target: RestoreTarget) -> RestoreRequest {
    RestoreRequest { target, owner: IndexOwner::Named { name: "sim".to_owned() }, reaches_floor: false }
}

/// Makes a snapshot now and then, and so extends the archive.
async fn make_snapshots(world: GenerationWorld, process: SimProcess) -> ProcessEnd {
    let archive = world.archive(&process).await;
    let log_id = world.run.log_id(&process).await;
    loop {
        world.run.sleep_minutes(100..=900).await;
        if !world.run.is_fault_burst_over() && world.run.number(0..=3) == 0 {
            world.run.suspend_soon(&process);
        }
        let (log, root) = (world.run.log(&process), world.root(&process));
        let chain = match world.open(&process, &root).await {
            Ok(chain) => chain,
            Err(error) => return ProcessEnd::GaveUp(error.to_string()),
        };
        let maker = SnapshotMaker {
            log,
            root,
            chain,
            pins: PinChain::open(&world.run.store(INDEX, &process), &log_id, world.run.entropy()),
            engine: world.engine(&process),
            archive: archive.clone(),
            progress: watch::Sender::default(),
        };
        let keep_last = NonZeroUsize::new(usize::try_from(world.run.number(0..=2)).unwrap_or_default());
        match maker.make(&SnapshotRequest { name: None, keep_last, without_archive: false }).await {
            Ok(_) => {}
            Err(error) if error.is_unknown() => return ProcessEnd::GaveUp(error.to_string()),
            Err(error @ SnapshotError::ArchiveDamaged { .. }) => world.run.simulated_store.fail(error.to_string()),
            Err(error) => world.run.simulated_store.note(&format!("no snapshot: {error}")),
        }
    }
}

/// Says in the root up to where the open generation is audited. A restored one is not audited before it is promoted.
async fn report_keeps(world: GenerationWorld, process: SimProcess) -> ProcessEnd {
    world.run.log_id(&process).await;
    let root = world.root(&process);
    loop {
        world.run.sleep_minutes(30..=200).await;
        let kept = async {
            let chain = world.open(&process, &root).await?;
            match chain.latest().await?.map(|latest| latest.state) {
                Some(open) if open.until.is_none() => {
                    root.keep(INDEX_URL, chain.generation(), LogCursor(open.audited)).await
                }
                _ => Ok(()),
            }
        };
        if let Err(error @ CatalogError::Unknown { .. }) = kept.await {
            return ProcessEnd::GaveUp(error.to_string());
        }
    }
}

/// Cleans the log up now and then, whatever becomes of the index meanwhile.
async fn clean_up(world: GenerationWorld, process: SimProcess) -> ProcessEnd {
    let log_id = world.run.log_id(&process).await;
    loop {
        world.run.sleep_minutes(100..=900).await;
        if !world.run.is_fault_burst_over() && world.run.number(0..=3) == 0 {
            world.run.suspend_soon(&process);
        }
        match clean_up_once(&world.run, &process, &log_id).await {
            CleanupEnd::Through { report, dry_run } => {
                let objects = world.run.simulated_store.objects(LOG);
                let left = left_below(report.to, &objects, &world.model().ledger);
                check_left(&world.run, &report, dry_run, &left);
            }
            CleanupEnd::Refused => {}
            CleanupEnd::Unknown(why) => return ProcessEnd::GaveUp(why),
        }
    }
}

/// Objects of the open generation are lost, and come back hours later.
async fn lose_objects(world: GenerationWorld) {
    while !world.run.is_fault_burst_over() {
        world.run.sleep_minutes(300..=1_500).await;
        let named: Vec<String> = match world.model().open() {
            Some(open) => open.objects().map(str::to_owned).collect(),
            None => continue,
        };
        if named.is_empty() {
            continue;
        }
        let lost = named[world.run.simulated_store.state().rng.index(named.len())].clone();
        world.model().lose(lost.clone());
        world.run.simulated_store.lose(INDEX, &[lost]);
        world.run.sleep_minutes(60..=900).await;
        world.run.simulated_store.put_back();
        world.model().put_back(world.run.simulated_store.now());
    }
}

/// Follows the index from generation to generation, and never goes back.
async fn read(world: GenerationWorld, process: SimProcess) -> ProcessEnd {
    world.run.log_id(&process).await;
    let root = world.root(&process);
    let mut seen = 0;
    loop {
        world.run.sleep_minutes(1..=60).await;
        let read = async {
            let chain = world.open(&process, &root).await?;
            Ok::<_, CatalogError>(chain.latest().await?.map(|_| chain.generation().number()))
        };
        match read.await {
            Ok(Some(generation)) if generation < seen => {
                world.run.simulated_store.fail(format!("{} went back from g{seen} to g{generation}", process.name()));
            }
            Ok(Some(generation)) => seen = generation,
            Ok(None) | Err(CatalogError::Store(_) | CatalogError::Conflicts { .. }) => {}
            Err(error) => {
                world.run.simulated_store.fail(format!("{} cannot open the index: {error}", process.name()));
                return ProcessEnd::Done;
            }
        }
    }
}

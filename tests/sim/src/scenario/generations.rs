//! Writers, tasks that rebuild, restore and promote the index, readers and collectors: over days of store time, with pauses longer than
//! the grace.

use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use tidemark_catalog::{
    AcquireError, CatalogError, GarbageCollector, IndexChain, IndexOwner, IndexRegistration, LogCursor, LogId,
    PublishError, RootChain, TransactionRejected, WriterIdentity,
};
use tidemark_ingest::{
    GenerationTask, IngestError, IngestOptions, RestoreTarget, engine::IndexEngine, model_engine::ModelEngine, promote,
    reindex, restore,
};
use tidemark_store::{Entropy, Store, StoreClock, StoreSecond};
use tidemark_wal::{Log, LogParameters};
use tokio::{sync::watch, time::sleep};
use url::Url;

use super::{generation_model::GenerationModel, record_writer::RecordWriter};
use crate::{
    fault_injecting_store::FaultInjectingStore,
    fault_schedule::FaultSchedule,
    mutants::mutated,
    process::SimProcess,
    simulated_store::SimulatedStore,
    supervise::{ProcessEnd, supervise},
};

const LOG: &str = "log";
const INDEX: &str = "index";
const URL: &str = "sim://index/";
const FAULT_BURST_DURATION: Duration = Duration::from_hours(4 * 24);
/// Long enough that a process that is paused at the beginning goes on, and that the writers of a quiet index write.
const RECOVERY_DURATION: Duration = Duration::from_hours(5 * 24);

#[derive(Clone)]
struct GenerationWorld {
    simulated_store: SimulatedStore,
    model: Arc<Mutex<GenerationModel>>,
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
    let simulated_store = SimulatedStore::new(seed, fault_schedule(seed), echo);
    let world = GenerationWorld {
        simulated_store: simulated_store.clone(),
        model: Arc::default(),
        tasks: Arc::default(),
        is_quiet: seed.is_multiple_of(3),
    };
    let model = world.model.clone();
    simulated_store.set_observer(Box::new(
        move |event| {
            if event.bucket == INDEX { model.lock().observe(event) } else { Ok(()) }
        },
    ));
    let mut tasks = Vec::new();
    for n in 0..2 {
        let (writing, making) = (world.clone(), world.clone());
        let (reading, collecting) = (world.clone(), world.clone());
        supervise(&simulated_store, &format!("writer{n}"), true, move |process| write(writing.clone(), process));
        let made = supervise(&simulated_store, &format!("maker{n}"), true, move |process| {
            make(making.clone(), process, format!("maker{n}"))
        });
        tasks.push(made);
        supervise(&simulated_store, &format!("reader{n}"), true, move |process| read(reading.clone(), process));
        supervise(&simulated_store, &format!("collector{n}"), true, move |process| {
            collect(collecting.clone(), process)
        });
    }
    let promoting = world.clone();
    supervise(&simulated_store, "promoter", true, move |process| promote_now_and_then(promoting.clone(), process));
    sleep(FAULT_BURST_DURATION).await;
    simulated_store.change_fault_schedule(|fault_schedule| *fault_schedule = FaultSchedule::fault_free());
    simulated_store.note("the fault burst ends");
    let before = world.model().decided();
    sleep(RECOVERY_DURATION).await;
    if let Some(going_on) = tasks.iter().position(|task| !task.is_finished()) {
        simulated_store.fail(format!("no end: a task of maker{going_on} goes on days after the faults have ended"));
    }
    let after = world.model().decided();
    if after <= before {
        simulated_store.fail(format!("no progress: {before} operations when the faults ended, {after} now"));
    }
    for mark in world.model().marks.clone() {
        simulated_store.mark(mark);
    }
    simulated_store
}

fn fault_schedule(seed: u64) -> FaultSchedule {
    FaultSchedule {
        network_delay: 1..=200,
        write_delay: 0..=1_500,
        lost_writes: 15,
        lost_answers: 20,
        late_writes: 15,
        late_write_delay: 0..=100_000_000,
        duplicated_writes: 20,
        false_conflicts: 10,
        failed_reads: 15,
        process_pauses: if seed.is_multiple_of(2) { 8 } else { 3 },
        pause_duration: if seed.is_multiple_of(3) { 1_000..=120_000 } else { 1_000..=150_000_000 },
        process_crashes: 6,
        page_size: 5..=40,
        call_timeout: 5_000,
        ..FaultSchedule::fault_free()
    }
}

impl GenerationWorld {
    fn model(&self) -> MutexGuard<'_, GenerationModel> {
        self.model.lock()
    }

    fn store(&self, bucket: &str, process: &SimProcess) -> Store {
        let url = Url::parse(&format!("sim://{bucket}/")).unwrap_or_else(|error| unreachable!("{error}"));
        Store::over(mutated(FaultInjectingStore::new(&self.simulated_store, bucket, process)), url)
    }

    fn entropy(&self) -> Entropy {
        Entropy::seeded(self.simulated_store.state().rng.fork())
    }

    fn log(&self, process: &SimProcess) -> Log {
        Log::over(self.store(LOG, process), Vec::new())
    }

    fn root(&self, process: &SimProcess) -> RootChain {
        RootChain::open(&self.log(process), self.entropy())
    }

    fn engine(&self, process: &SimProcess) -> Arc<dyn IndexEngine> {
        Arc::new(ModelEngine::new(self.store(INDEX, process)))
    }

    /// The open generation, as a process of the product finds it.
    async fn open(&self, process: &SimProcess, root: &RootChain) -> Result<IndexChain, CatalogError> {
        let start = root.state().await?.generation_of(URL);
        IndexChain::open(&self.store(INDEX, process), start, self.entropy()).for_log(root).follow().await
    }

    /// The log's id, once a writer has made the root.
    async fn log_id(&self, process: &SimProcess) -> LogId {
        loop {
            match self.root(process).id().await {
                Ok(Some(id)) => return id,
                Ok(None) | Err(_) => self.sleep_minutes(1..=20).await,
            }
        }
    }

    fn is_fault_burst_over(&self) -> bool {
        Duration::from_millis(self.simulated_store.elapsed()) + Duration::from_hours(12) > FAULT_BURST_DURATION
    }

    fn number(&self, range: RangeInclusive<u64>) -> u64 {
        self.simulated_store.state().rng.in_range(&range)
    }

    async fn sleep_minutes(&self, range: RangeInclusive<u64>) {
        let minutes = self.number(range);
        sleep(Duration::from_mins(minutes)).await;
    }

    /// A task that nobody has begun.
    fn next_task(&self, process: &str) -> SimTask {
        let model = self.model();
        let reach = model.open().map(|open| open.cursor.second().unix());
        let token = model.token(self.number(0..=1_000));
        drop(model);
        let restore = match self.number(0..=9) {
            0 => token.map(RestoreTarget::Token),
            1 => Some(RestoreTarget::Latest),
            2 | 3 => reach.map(|reach| RestoreTarget::Time(self.second_before(reach))),
            _ => None,
        };
        SimTask { name: format!("{process} {}", self.entropy().nonce()), restore }
    }

    fn second_before(&self, reach: u64) -> StoreSecond {
        StoreSecond::from_unix(reach.saturating_sub(self.number(1..=30)))
    }

    fn generation_task(&self, process: &SimProcess, name: String) -> GenerationTask {
        let log = self.log(process);
        GenerationTask {
            clock: StoreClock::new(log.stores(), process.name()),
            root: self.root(process),
            index: self.store(INDEX, process),
            engine: self.engine(process),
            log,
            name: Some(name),
            options: IngestOptions {
                batch_records: self.number(2..=12),
                segment_memory: 2_000,
                ..IngestOptions::default()
            },
            entropy: self.entropy(),
            progress: watch::Sender::default(),
        }
    }

    /// Suspends the process for longer than the grace, somewhere within the next minutes.
    fn suspend_soon(&self, process: &SimProcess) {
        let (world, process) = (self.clone(), process.clone());
        tokio::spawn(async move {
            sleep(Duration::from_millis(world.number(0..=20_000))).await;
            process.pause(Duration::from_hours(world.number(20..=60)));
        });
    }
}

/// A writer: publishes, corrects, merges, loses uploads and raises its epoch, in the generation that is open.
async fn write(world: GenerationWorld, process: SimProcess) -> ProcessEnd {
    let first_rest = if world.is_quiet { 0..=3_000 } else { 0..=200 };
    world.sleep_minutes(first_rest).await;
    match write_for_a_while(&world, &process).await {
        Ok(()) => ProcessEnd::GaveUp("another one goes on".to_owned()),
        Err(error) => ProcessEnd::GaveUp(error.to_string()),
    }
}

async fn write_for_a_while(world: &GenerationWorld, process: &SimProcess) -> anyhow::Result<()> {
    let (log, root) = (world.log(process), world.root(process));
    let chain = world.open(process, &root).await?;
    let owner = IndexOwner::Named { name: "sim".to_owned() };
    let registration = IndexRegistration::new(URL, owner, chain.generation().clone());
    let parameters = LogParameters::with_expiry(Duration::from_mins(10));
    root.register(root.head().await?, &parameters, URL, &registration, LogCursor::default(), None).await?;
    let clock = StoreClock::new(log.stores(), process.name());
    // One identity: each takes over from the other at once, so that they need no heartbeats for days.
    let lease = chain.acquire(WriterIdentity("writer".to_owned()), &clock, &log.entries, |_| ()).await?;
    let (engine, store) = (world.engine(process), world.store(INDEX, process));
    let mut writer = RecordWriter { lease, engine, store, entropy: world.entropy() };
    for _ in 0..world.number(3..=12) {
        match world.number(0..=7) {
            0 => writer.lease.raise_epoch().await.map(drop)?,
            1 => writer.lose_upload().await?,
            2 => writer.correct().await?,
            3 => writer.compact(world.number(0..=100)).await?,
            _ => writer.publish(world.number(0..=100)).await?,
        }
        let rest = if world.is_quiet { 0..=2 } else { 5..=200 };
        world.sleep_minutes(rest).await;
    }
    Ok(())
}

/// Rebuilds or restores the index now and then. A task that ended early is started again under its name, until it is done or refused.
async fn make(world: GenerationWorld, process: SimProcess, name: String) -> ProcessEnd {
    world.log_id(&process).await;
    loop {
        let known = world.tasks.lock().get(&name).cloned();
        if known.is_none() && world.is_fault_burst_over() {
            return ProcessEnd::Done;
        }
        world.sleep_minutes(if known.is_some() { 1..=60 } else { 100..=900 }).await;
        let task = known.unwrap_or_else(|| world.next_task(&name));
        world.tasks.lock().insert(name.clone(), task.clone());
        if !world.is_fault_burst_over() && world.number(0..=3) == 0 {
            world.suspend_soon(&process);
        }
        let parts = world.generation_task(&process, task.name);
        let ended = match &task.restore {
            Some(target) => restore(&parts, target).await,
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

/// Promotes the index whenever it finds a restored one.
async fn promote_now_and_then(world: GenerationWorld, process: SimProcess) -> ProcessEnd {
    world.log_id(&process).await;
    loop {
        world.sleep_minutes(60..=600).await;
        let name = world.entropy().nonce();
        match promote(&world.generation_task(&process, name)).await {
            Ok(_) => {
                world.model().marks.insert("the index was promoted");
            }
            Err(IngestError::Root(CatalogError::Rejected(TransactionRejected::NotRestored { .. }))) => {}
            Err(error) => return ProcessEnd::GaveUp(error.to_string()),
        }
    }
}

/// Follows the index from generation to generation, and never goes back.
async fn read(world: GenerationWorld, process: SimProcess) -> ProcessEnd {
    world.log_id(&process).await;
    let root = world.root(&process);
    let mut seen = 0;
    loop {
        world.sleep_minutes(1..=60).await;
        let read = async {
            let chain = world.open(&process, &root).await?;
            Ok::<_, CatalogError>(chain.latest().await?.map(|_| chain.generation().number()))
        };
        match read.await {
            Ok(Some(generation)) if generation < seen => {
                world.simulated_store.fail(format!("{} went back from g{seen} to g{generation}", process.name()));
            }
            Ok(Some(generation)) => seen = generation,
            Ok(None) | Err(CatalogError::Store(_) | CatalogError::Conflicts { .. }) => {}
            Err(error) => {
                world.simulated_store.fail(format!("{} cannot open the index: {error}", process.name()));
                return ProcessEnd::Done;
            }
        }
    }
}

async fn collect(world: GenerationWorld, process: SimProcess) -> ProcessEnd {
    let log = world.log_id(&process).await;
    loop {
        world.sleep_minutes(60..=240).await;
        let collector = GarbageCollector::new(&world.store(INDEX, &process), &log, world.entropy());
        match collector.collect(process.name()).await {
            Err(CatalogError::Invariant(broken)) => world.simulated_store.fail(broken.to_string()),
            Err(CatalogError::Corrupt { key, why }) => {
                world.simulated_store.fail(format!("a collector cannot read \"{key}\": {why}"));
            }
            Err(CatalogError::Unknown { key, .. }) => return ProcessEnd::GaveUp(key),
            _ => {}
        }
    }
}

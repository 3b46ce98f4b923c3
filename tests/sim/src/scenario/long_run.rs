//! What the scenarios share that run for days of store time, with pauses longer than the grace of garbage.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use tidemark_catalog::{
    CatalogError, GarbageCollector, Generation, IndexChain, IndexOwner, IndexRegistration, LogCursor, LogId, RootChain,
    TransactionRejected,
};
use tidemark_ingest::snapshot::LogArchive;
use tidemark_store::{Entropy, Store, StoreSecond};
use tidemark_wal::{Log, LogParameters, Token, guard_key};
use tokio::time::sleep;
use url::Url;

use super::trim_model::TrimModel;
use crate::{
    fault_injecting_store::FaultInjectingStore,
    fault_schedule::FaultSchedule,
    model::META,
    mutants::{mutated, mutated_archive},
    process::SimProcess,
    simulated_store::{ObjectMetadata, STRANGER, SimulatedStore, StoreEvent, StoreWrite},
    supervise::ProcessEnd,
};

pub(super) const LOG: &str = "log";
pub(super) const INDEX: &str = "index";
/// Where snapshots are copied to.
pub(super) const COPIES: &str = "copies";
/// By which the index is registered.
pub(super) const INDEX_URL: &str = "sim://index/";
pub(super) const FAULT_BURST_DURATION: Duration = Duration::from_hours(4 * 24);
/// A larger entry is not read by the product's ingest.
const MAX_ENTRY_SIZE: u64 = 2_000;
/// Long enough that a process that is paused at the beginning goes on, and what is garbage then goes.
pub(super) const RECOVERY_DURATION: Duration = Duration::from_hours(3 * 24);

/// An index and its log, and the handles that processes have on them.
#[derive(Clone)]
pub(super) struct LongRun {
    pub(super) simulated_store: SimulatedStore,
    /// Whether the product's ingest writes the index, and not a writer that makes its records up.
    pub(super) is_ingested: bool,
}

impl LongRun {
    pub(super) fn store(&self, bucket: &str, process: &SimProcess) -> Store {
        let url = Url::parse(&format!("sim://{bucket}/")).unwrap_or_else(|error| unreachable!("{error}"));
        Store::over(mutated(FaultInjectingStore::new(&self.simulated_store, bucket, process)), url)
    }

    pub(super) fn entropy(&self) -> Entropy {
        Entropy::seeded(self.simulated_store.state().rng.fork())
    }

    /// The log. Only the product's ingest looks at descriptors.
    pub(super) fn log(&self, process: &SimProcess) -> Log {
        let metadata = if self.is_ingested { vec![self.store(META, process)] } else { Vec::new() };
        Log::over(self.store(LOG, process), metadata)
    }

    /// The parameters of the log.
    pub(super) fn parameters(&self) -> LogParameters {
        let parameters = parameters();
        if !self.is_ingested {
            return parameters;
        }
        LogParameters { audit_window: Duration::from_hours(3), max_entry_size: MAX_ENTRY_SIZE, ..parameters }
    }

    /// The archive of the log `log`, as `process` sees it.
    pub(super) fn archive(&self, process: &SimProcess, log: &LogId) -> Arc<dyn LogArchive> {
        mutated_archive(&self.store(INDEX, process), log, &self.entropy())
    }

    /// Checks every event: by what holds of the trims of all chains, then by `observe`.
    pub(super) fn set_observer(&self, mut observe: impl FnMut(&StoreEvent) -> Result<(), String> + Send + 'static) {
        let mut trims = TrimModel::default();
        self.simulated_store.set_observer(Box::new(move |event| {
            trims.observe(event)?;
            observe(event)
        }));
    }

    pub(super) fn chain(&self, process: &SimProcess) -> IndexChain {
        IndexChain::open(&self.store(INDEX, process), Generation::first(), self.entropy())
    }

    /// The log's id, once a writer has made the root.
    pub(super) async fn log_id(&self, process: &SimProcess) -> LogId {
        loop {
            match RootChain::open(&self.log(process), self.entropy()).id().await {
                Ok(Some(id)) => return id,
                Ok(None) | Err(_) => self.sleep_minutes(1..=20).await,
            }
        }
    }

    pub(super) fn is_fault_burst_over(&self) -> bool {
        Duration::from_millis(self.simulated_store.elapsed()) + Duration::from_hours(24) > FAULT_BURST_DURATION
    }

    pub(super) fn number(&self, range: RangeInclusive<u64>) -> u64 {
        self.simulated_store.state().rng.in_range(&range)
    }

    pub(super) async fn sleep_minutes(&self, range: RangeInclusive<u64>) {
        let minutes = self.number(range);
        sleep(Duration::from_mins(minutes)).await;
    }

    /// Suspends the process for so many hours.
    pub(super) fn suspend(&self, process: &SimProcess, hours: RangeInclusive<u64>) {
        self.simulated_store.count_faults(1);
        process.pause(Duration::from_hours(self.number(hours)));
    }

    /// Suspends the process for longer than the grace, somewhere within the next minutes.
    pub(super) fn suspend_soon(&self, process: &SimProcess) {
        let (run, process) = (self.clone(), process.clone());
        tokio::spawn(async move {
            sleep(Duration::from_millis(run.number(0..=20_000))).await;
            run.suspend(&process, 20..=60);
        });
    }

    /// An entry of the log, as a writer has put it at this store time.
    pub(super) fn plant_entry(&self, token: Token, time: StoreSecond, body: String) {
        self.plant(&token.to_string(), time, body);
    }

    /// The guard of an entry. What it says nobody reads here: the outcome is recorded.
    pub(super) fn plant_guard(&self, token: Token, time: StoreSecond) {
        self.plant(&guard_key(token), time, "{}".to_owned());
    }

    fn plant(&self, key: &str, time: StoreSecond, body: String) {
        let put = StoreWrite::Put { body: body.into(), metadata: ObjectMetadata::new(), create: true };
        self.simulated_store.apply_write(STRANGER, LOG, key, &put, Some(time.unix() * 1000));
    }

    /// The index's chain, registered in the log's root.
    pub(super) async fn registered(&self, process: &SimProcess, log: &Log) -> Result<IndexChain, CatalogError> {
        let root = RootChain::open(log, self.entropy());
        let chain = self.chain(process).for_log(&root);
        let owner = IndexOwner::Named { name: "sim".to_owned() };
        let registration = IndexRegistration::new(INDEX_URL, owner, Generation::first());
        root.register(root.head().await?, &self.parameters(), INDEX_URL, &registration, LogCursor::default(), None)
            .await?;
        Ok(chain)
    }
}

/// The parameters of the log.
pub(super) fn parameters() -> LogParameters {
    LogParameters::with_expiry(Duration::from_mins(10))
}

pub(super) fn fault_schedule(seed: u64) -> FaultSchedule {
    FaultSchedule {
        network_delay: 1..=200,
        write_delay: 0..=1_500,
        lost_writes: 20,
        lost_answers: 25,
        late_writes: 20,
        late_write_delay: 0..=100_000_000,
        duplicated_writes: 20,
        false_conflicts: 10,
        failed_reads: 15,
        process_pauses: if seed.is_multiple_of(2) { 8 } else { 3 },
        pause_duration: if seed.is_multiple_of(3) { 1_000..=120_000 } else { 1_000..=150_000_000 },
        process_crashes: 4,
        page_size: 5..=40,
        call_timeout: 5_000,
        ..FaultSchedule::fault_free()
    }
}

/// A collector, until it ends or crashes.
pub(super) async fn collect(world: LongRun, process: SimProcess) -> ProcessEnd {
    let log = world.log_id(&process).await;
    loop {
        world.sleep_minutes(60..=240).await;
        let collector = GarbageCollector::new(&world.store(INDEX, &process), &log, world.entropy());
        match collector.collect(process.name()).await {
            Err(CatalogError::Rejected(TransactionRejected::Fenced { .. })) => {
                world.simulated_store.mark("a collector was fenced");
            }
            Err(CatalogError::Invariant(broken)) => world.simulated_store.fail(broken.to_string()),
            Err(CatalogError::Corrupt { key, why }) => {
                world.simulated_store.fail(format!("a collector cannot read \"{key}\": {why}"));
            }
            Err(CatalogError::Unknown { key, .. }) => return ProcessEnd::GaveUp(key),
            _ => {}
        }
    }
}

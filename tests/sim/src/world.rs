//! One simulated log: its store, its config and its checker, with the handles that its processes use.

use std::{
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use tidemark_store::{Entropy, Store, StoreSecond};
use tidemark_wal::Log;
use tokio::sync::Notify;
use url::Url;

use crate::{
    checker::{INDEX, InvariantChecker},
    config::SimConfig,
    fault_injecting_store::FaultInjectingStore,
    model::{LOG, META, VMETA},
    mutants::mutated,
    process::SimProcess,
    simulated_store::{START, SimulatedStore},
};

/// Bucket of the log's copy, and the prefix of the names of the processes that take it for the log.
pub(crate) const COPY: &str = "copy";

/// One simulated log. Cheap to clone.
#[derive(Clone)]
pub struct SimWorld {
    /// The object store.
    pub simulated_store: SimulatedStore,
    /// The config.
    pub config: Arc<SimConfig>,
    checker: Arc<Mutex<InvariantChecker>>,
    fault_burst_over: Arc<AtomicBool>,
    // Those that wait are woken in the order in which they came; a watch channel wakes them in any order.
    burst_end: Arc<Notify>,
    /// Losses of records at which the indexers are killed.
    losses: Arc<Notify>,
    /// The room in bytes that a segment has in an indexer's cache folder.
    room: Arc<AtomicU64>,
}

impl SimWorld {
    /// An empty world whose checker observes every event.
    pub fn new(seed: u64, config: SimConfig, echo: bool) -> Self {
        let simulated_store = SimulatedStore::new(seed, config.fault_schedule.clone(), echo);
        let mut checker = InvariantChecker::new(simulated_store.refusals().clone());
        checker.real_engine = config.tantivy.is_some();
        checker.visibility_bounded = config.fault_schedule.slow_visibility == 0;
        let checker = Arc::new(Mutex::new(checker));
        let watching = Arc::clone(&checker);
        simulated_store.set_observer(Box::new(move |event| watching.lock().observe(event)));
        let guarding = Arc::clone(&checker);
        simulated_store.set_write_admission(Box::new(move |_, _, metadata, clock| {
            let token =
                metadata.get("tidemarktoken").and_then(|named| named.get(..27)).and_then(|token| token.parse().ok());
            token.is_none_or(|token: tidemark_wal::Token| {
                let checker = guarding.lock();
                let expiry = checker.model.parameters(token.second()).map_or(Duration::ZERO, |set| set.expiry);
                u128::from(clock) <= u128::from(token.second().unix()) * 1000 + expiry.as_millis()
            })
        }));
        Self {
            simulated_store,
            config: Arc::new(config),
            checker,
            fault_burst_over: Arc::default(),
            burst_end: Arc::default(),
            losses: Arc::default(),
            room: Arc::new(AtomicU64::new(u64::MAX)),
        }
    }

    /// The checker. The store locks it at each event, so do not call the store while holding this guard.
    pub fn checker(&self) -> MutexGuard<'_, InvariantChecker> {
        self.checker.lock()
    }

    /// Runs a check, and records the violation that it finds.
    pub fn check(&self, check: impl FnOnce(&mut InvariantChecker) -> Result<(), String>) {
        let found = check(&mut self.checker());
        if let Err(violation) = found {
            self.simulated_store.fail(violation);
        }
    }

    /// `process`'s handle on a bucket.
    pub fn store(&self, bucket: &str, process: &SimProcess) -> Store {
        let url = Url::parse(&format!("sim://{bucket}/")).unwrap_or_else(|error| unreachable!("{error}"));
        Store::over(mutated(FaultInjectingStore::new(&self.simulated_store, bucket, process)), url)
    }

    /// `process`'s handle on the log, or on its copy.
    pub fn log(&self, process: &SimProcess) -> Log {
        let log = if process.name().starts_with(COPY) { COPY } else { LOG };
        Log::over(self.store(log, process), vec![self.store(META, process), self.store(VMETA, process)])
    }

    /// `process`'s handle on the index's bucket.
    pub fn index(&self, process: &SimProcess) -> Store {
        self.store(INDEX, process)
    }

    /// Random numbers of a process.
    pub fn entropy(&self) -> Entropy {
        Entropy::seeded(self.simulated_store.state().rng.fork())
    }

    /// `true` with a probability of `per_mille` in a thousand.
    pub fn chance(&self, per_mille: u32) -> bool {
        self.simulated_store.state().rng.chance(per_mille)
    }

    /// A random number of the range.
    pub fn in_range(&self, range: RangeInclusive<u64>) -> u64 {
        self.simulated_store.state().rng.in_range(&range)
    }

    /// Sleeps for a random time of the range, milliseconds.
    pub async fn sleep_for(&self, range: RangeInclusive<u64>) {
        let span = self.in_range(range);
        tokio::time::sleep(Duration::from_millis(span)).await;
    }

    /// Ends the fault burst.
    pub fn end_fault_burst(&self) {
        self.fault_burst_over.store(true, Ordering::Relaxed);
        self.burst_end.notify_waiters();
    }

    /// Resolves when the fault burst is over.
    pub async fn fault_burst_over(&self) {
        let ended = self.burst_end.notified();
        if !self.is_fault_burst_over() {
            ended.await;
        }
    }

    /// Kills the indexers that run now.
    pub fn kill_indexers(&self) {
        self.losses.notify_waiters();
    }

    /// Resolves when the indexers are killed.
    pub async fn records_lost(&self) {
        self.losses.notified().await;
    }

    /// Changes the room in bytes that a segment has in an indexer's cache folder.
    pub fn set_room(&self, bytes: u64) {
        self.room.store(bytes, Ordering::Relaxed);
    }

    /// The room in bytes that a segment has in an indexer's cache folder.
    pub fn room(&self) -> u64 {
        self.room.load(Ordering::Relaxed)
    }

    /// Whether the fault burst is over.
    pub fn is_fault_burst_over(&self) -> bool {
        self.fault_burst_over.load(Ordering::Relaxed)
    }

    /// True time as a second. The clocks of stores are ahead of it by at most the clock spread.
    pub fn true_second(&self) -> StoreSecond {
        StoreSecond::from_unix((START + self.simulated_store.elapsed()) / 1000)
    }
}

//! The simulated log with everybody who works on it.

use std::{
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tidemark_store::{Entropy, Store, StoreSecond};
use tidemark_wal::Log;
use tokio::sync::watch;
use url::Url;

use crate::{
    cloud::{Cloud, START},
    knobs::Knobs,
    mutants::mutated,
    oracle::{INDEX, Oracle},
    process::Process,
    store::SimStore,
    truth::{LOG, META, VMETA},
};

/// One simulated log. Cheap to clone.
#[derive(Clone)]
pub struct World {
    /// The buckets.
    pub cloud: Cloud,
    /// The set-up.
    pub knobs: Arc<Knobs>,
    oracle: Arc<Mutex<Oracle>>,
    calm: watch::Sender<bool>,
}

impl World {
    /// An empty world whose oracle sees everything.
    pub fn new(seed: u64, knobs: Knobs, echo: bool) -> Self {
        let cloud = Cloud::new(seed, knobs.weather.clone(), echo);
        let mut oracle = Oracle::new();
        oracle.real = knobs.tantivy.is_some();
        oracle.trusting = knobs.weather.straggle == 0;
        let oracle = Arc::new(Mutex::new(oracle));
        let watching = Arc::clone(&oracle);
        cloud.watch(Box::new(move |event| lock(&watching).see(event)));
        let guarding = Arc::clone(&oracle);
        cloud.guard(Box::new(move |_, _, metadata, clock| {
            let token =
                metadata.get("tidemarktoken").and_then(|named| named.get(..27)).and_then(|token| token.parse().ok());
            token.is_none_or(|token: tidemark_wal::Token| {
                let oracle = lock(&guarding);
                let expiry = oracle.truth.parameters(token.second()).map_or(Duration::ZERO, |set| set.expiry);
                u128::from(clock) <= u128::from(token.second().unix()) * 1000 + expiry.as_millis()
            })
        }));
        Self { cloud, knobs: Arc::new(knobs), oracle, calm: watch::Sender::new(false) }
    }

    /// The oracle. Never to be held while the cloud is asked something.
    pub fn oracle(&self) -> MutexGuard<'_, Oracle> {
        lock(&self.oracle)
    }

    /// Asks the oracle, and records what it finds wrong.
    pub fn judge(&self, ask: impl FnOnce(&mut Oracle) -> Result<(), String>) {
        let found = ask(&mut self.oracle());
        if let Err(violation) = found {
            self.cloud.fail(violation);
        }
    }

    /// `process`'s handle on a bucket.
    pub fn store(&self, bucket: &str, process: &Process) -> Store {
        let url = Url::parse(&format!("sim://{bucket}/")).unwrap_or_else(|error| unreachable!("{error}"));
        Store::over(mutated(SimStore::new(&self.cloud, bucket, process)), url)
    }

    /// `process`'s handle on the log.
    pub fn log(&self, process: &Process) -> Log {
        Log::over(self.store(LOG, process), vec![self.store(META, process), self.store(VMETA, process)])
    }

    /// `process`'s handle on the index's bucket.
    pub fn index(&self, process: &Process) -> Store {
        self.store(INDEX, process)
    }

    /// Randomness for a process.
    pub fn entropy(&self) -> Entropy {
        Entropy::seeded(self.cloud.state().dice.fork())
    }

    /// Whether a thing happens that happens `per_mille` times in a thousand.
    pub fn chance(&self, per_mille: u32) -> bool {
        self.cloud.state().dice.chance(per_mille)
    }

    /// A number of the range.
    pub fn among(&self, range: RangeInclusive<u64>) -> u64 {
        self.cloud.state().dice.among(&range)
    }

    /// Sleeps for a time of the range, milliseconds.
    pub async fn rest(&self, range: RangeInclusive<u64>) {
        let span = self.among(range);
        tokio::time::sleep(Duration::from_millis(span)).await;
    }

    /// Ends the storm.
    pub fn calm_down(&self) {
        self.calm.send_replace(true);
    }

    /// Whether the storm is over.
    pub fn is_calm(&self) -> bool {
        *self.calm.borrow()
    }

    /// True time as a second; the clocks of stores are ahead of it by at most the spread.
    pub fn true_second(&self) -> StoreSecond {
        StoreSecond::from_unix((START + self.cloud.elapsed()) / 1000)
    }
}

fn lock(oracle: &Mutex<Oracle>) -> MutexGuard<'_, Oracle> {
    oracle.lock().unwrap_or_else(PoisonError::into_inner)
}

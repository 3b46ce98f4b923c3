//! Appenders that share one chain, readers that follow it, and a trimmer that deletes old records.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use tidemark_store::{
    AppendOnlyChain, ChainError, ChainRecord, ChainState, Entropy, InvariantViolation, StateExtensions, Store,
    StoreSecond,
};
use tokio::time::{Duration, sleep};
use url::Url;

use crate::{
    chain_record::record_state,
    fault_injecting_store::FaultInjectingStore,
    fault_schedule::FaultSchedule,
    mutants::mutated,
    process::SimProcess,
    simulated_store::{SimulatedStore, StoreChange, StoreEvent},
    supervise::{ProcessEnd, supervise},
};

const BUCKET: &str = "chain";
const APPENDERS: u64 = 3;
const READERS: u64 = 2;
/// How long faults occur, and how long the processes then have to recover without faults.
const FAULT_BURST_DURATION: Duration = Duration::from_mins(4);
const RECOVERY_DURATION: Duration = Duration::from_mins(1);

/// The state of the chain. It counts every append, so that a lost or duplicated one shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct AppendLedger {
    /// The number of the last append of each process, and the number of all appends.
    last: BTreeMap<String, u64>,
    total: u64,
    #[serde(skip_serializing_if = "StateExtensions::is_empty", default)]
    ext: StateExtensions,
}

/// The last append of the process in the ledger is not the last one that it made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LedgerMismatch;

impl std::fmt::Display for LedgerMismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the ledger has another last append of this process")
    }
}

impl std::error::Error for LedgerMismatch {}

impl ChainState for AppendLedger {
    type Rejection = LedgerMismatch;

    const FORMAT: u32 = 1;

    fn extensions(&self) -> &StateExtensions {
        &self.ext
    }

    fn apply_store_time(&mut self, _: StoreSecond) {}

    fn check_state(&self) -> Result<(), InvariantViolation> {
        Ok(())
    }

    fn check_transition(&self, _: &Self) -> Result<(), InvariantViolation> {
        Ok(())
    }
}

/// The model of the chain: the first record that was written in each slot.
#[derive(Debug, Default)]
struct ChainModel {
    slots: BTreeMap<u64, Vec<u8>>,
    /// The highest boundary.
    boundary: u64,
    latest: u64,
}

#[derive(Clone)]
struct ChainWorld {
    simulated_store: SimulatedStore,
    model: Arc<Mutex<ChainModel>>,
}

/// Runs the scenario to its end.
pub async fn run(seed: u64, echo: bool) -> SimulatedStore {
    let simulated_store = SimulatedStore::new(seed, fault_schedule(seed), echo);
    let world = ChainWorld { simulated_store: simulated_store.clone(), model: Arc::default() };
    let model = world.model.clone();
    simulated_store.set_observer(Box::new(move |event| model.lock().observe(event)));
    for n in 0..APPENDERS {
        let world = world.clone();
        supervise(&simulated_store, &format!("appender{n}"), true, move |process| append(world.clone(), process));
    }
    for n in 0..READERS {
        let world = world.clone();
        supervise(&simulated_store, &format!("reader{n}"), true, move |process| follow(world.clone(), process));
    }
    let trimmer = world.clone();
    supervise(&simulated_store, "trimmer", false, move |process| trim(trimmer.clone(), process));
    simulated_store.run_for(FAULT_BURST_DURATION).await;
    let before = world.model().latest;
    simulated_store.change_fault_schedule(|fault_schedule| *fault_schedule = FaultSchedule::fault_free());
    simulated_store.note("the fault burst ends");
    simulated_store.run_for(RECOVERY_DURATION).await;
    if simulated_store.failure().is_none() && world.model().latest <= before {
        simulated_store.fail(format!("no progress: the chain stands at {before} without faults"));
    }
    simulated_store
}

fn fault_schedule(seed: u64) -> FaultSchedule {
    FaultSchedule {
        network_delay: 1..=200,
        write_delay: 0..=1_500,
        lost_writes: 30,
        lost_answers: 40,
        late_writes: 30,
        late_write_delay: 0..=40_000,
        duplicated_writes: 40,
        false_conflicts: 20,
        failed_reads: 30,
        process_pauses: if seed.is_multiple_of(2) { 12 } else { 4 },
        pause_duration: 1_000..=60_000,
        process_crashes: 6,
        page_size: 2..=7,
        call_timeout: 5_000,
        ..FaultSchedule::fault_free()
    }
}

impl ChainWorld {
    fn model(&self) -> MutexGuard<'_, ChainModel> {
        self.model.lock()
    }

    fn chain(&self, process: &SimProcess) -> AppendOnlyChain<AppendLedger> {
        let store = FaultInjectingStore::new(&self.simulated_store, BUCKET, process);
        let url = Url::parse("memory:///").unwrap_or_else(|error| unreachable!("{error}"));
        AppendOnlyChain::new(Store::over(mutated(store), url), self.entropy())
    }

    fn entropy(&self) -> Entropy {
        Entropy::seeded(self.simulated_store.state().rng.fork())
    }

    fn pause(&self, range: std::ops::RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.simulated_store.state().rng.in_range(&range))
    }

    /// A record that a process accepted must be the first that was written in its slot.
    fn accepted(&self, who: &str, slot: &ChainRecord<AppendLedger>) {
        let model = self.model();
        let first = model.slots.get(&slot.number).and_then(|body| record_state(body).ok());
        drop(model);
        if first.as_ref() != Some(&slot.state) {
            self.simulated_store.fail(format!(
                "{who} accepted a record of slot {} that is not the one that was committed there: {:?} instead of {first:?}",
                slot.number, slot.state
            ));
        }
    }
}

impl ChainModel {
    fn observe(&mut self, event: &StoreEvent) -> Result<(), String> {
        if event.change == StoreChange::Replaced {
            return Err(format!("\"{}\" of a chain was overwritten", event.key));
        }
        if let Some(number) = event.key.strip_prefix("boundary/").and_then(|name| name.parse().ok()) {
            self.boundary = self.boundary.max(number);
            if number >= self.latest {
                return Err(format!("boundary {number} reaches the latest record {}", self.latest));
            }
        } else if let Ok(number) = event.key.parse::<u64>()
            && event.change == StoreChange::Created
        {
            self.created(number, event)?;
        }
        Ok(())
    }

    fn created(&mut self, number: u64, event: &StoreEvent) -> Result<(), String> {
        if self.slots.contains_key(&number) {
            // A slow appender wrote a slot again that was trimmed. The first record counts.
            return Ok(());
        }
        if number > self.latest + 1 && self.latest > 0 {
            return Err(format!("slot {number} was written after slot {}", self.latest));
        }
        self.latest = self.latest.max(number);
        self.slots.insert(number, event.object.body.to_vec());
        Ok(())
    }
}

async fn append(world: ChainWorld, process: SimProcess) -> ProcessEnd {
    let chain = world.chain(&process);
    let who = process.name().to_owned();
    let mut base = None;
    for mine in 1.. {
        let before = mine - 1;
        let name = who.clone();
        let appended = chain
            .append(base.clone(), move |ledger: Option<&AppendLedger>| {
                let mut ledger = ledger.cloned().unwrap_or_default();
                let last = ledger.last.get(&name).copied().unwrap_or(0);
                if last != before {
                    return Err(LedgerMismatch);
                }
                ledger.last.insert(name.clone(), mine);
                ledger.total += 1;
                Ok(Some(ledger))
            })
            .await;
        match appended {
            Ok(slot) => {
                world.accepted(&who, &slot);
                base = Some(slot);
            }
            Err(ChainError::Unknown { .. }) => return ProcessEnd::GaveUp("unknown".to_owned()),
            Err(ChainError::Rejected(_)) => {
                world.simulated_store.fail(format!("{who}: append {mine} was made twice, or an earlier one was lost"));
                return ProcessEnd::Done;
            }
            Err(ChainError::Conflicts { .. } | ChainError::Store(_)) => {
                return ProcessEnd::GaveUp("conflicts".to_owned());
            }
            Err(error) => {
                world.simulated_store.fail(format!("{who} cannot append: {error}"));
                return ProcessEnd::Done;
            }
        }
        let delay = world.pause(50..=4_000);
        sleep(delay).await;
    }
    ProcessEnd::Done
}

async fn follow(world: ChainWorld, process: SimProcess) -> ProcessEnd {
    let chain = world.chain(&process);
    let who = process.name().to_owned();
    let mut at: Option<ChainRecord<AppendLedger>> = None;
    loop {
        let next = match &at {
            None => chain.latest().await,
            Some(slot) => chain.next_after(slot).await,
        };
        match next {
            Ok(Some(slot)) => {
                world.accepted(&who, &slot);
                if at.as_ref().is_some_and(|at| slot.number <= at.number || slot.state.total < at.state.total) {
                    world.simulated_store.fail(format!("{who} went back to slot {}", slot.number));
                }
                at = Some(slot);
            }
            Ok(None) | Err(ChainError::Store(_)) => {}
            Err(error) => {
                world.simulated_store.fail(format!("{who} cannot read the chain: {error}"));
                return ProcessEnd::Done;
            }
        }
        let delay = world.pause(20..=3_000);
        sleep(delay).await;
    }
}

async fn trim(world: ChainWorld, process: SimProcess) -> ProcessEnd {
    let chain = world.chain(&process);
    let store = FaultInjectingStore::new(&world.simulated_store, BUCKET, &process);
    loop {
        let delay = world.pause(1_000..=10_000);
        sleep(delay).await;
        let Ok(Some(latest)) = chain.latest().await else { continue };
        let keep = world.pause(1..=4).as_millis();
        let Some(to) = latest.number.checked_sub(u64::try_from(keep).unwrap_or(1)) else { continue };
        if to == 0 || to <= world.model().boundary {
            continue;
        }
        if chain.set_boundary(to).await.is_ok() {
            let delay = world.pause(0..=2_000);
            sleep(delay).await;
            delete_below(&world, &store, to).await;
        }
    }
}

/// Deletes the records at or below the boundary, in no order.
async fn delete_below(world: &ChainWorld, store: &FaultInjectingStore, boundary: u64) {
    use object_store::ObjectStoreExt as _;
    for key in world.simulated_store.objects(BUCKET).into_keys() {
        let number = key.rsplit('/').next().and_then(|name| name.parse::<u64>().ok());
        if !key.starts_with("boundary/") && number.is_some_and(|number| number <= boundary) {
            let _ = store.delete(&object_store::path::Path::from(key)).await;
        }
    }
}

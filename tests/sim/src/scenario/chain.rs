//! Appenders that share one chain, readers that follow it, and a trimmer that deletes behind them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use tidemark_store::{Chain, ChainError, ChainRecord, ChainState, Entropy, InvariantViolation, Store, StoreSecond};
use tokio::time::{Duration, sleep};
use url::Url;

use crate::{
    cloud::{Cloud, Event, What},
    mutants::mutated,
    process::Process,
    store::SimStore,
    supervise::{End, supervise},
    weather::Weather,
};

const BUCKET: &str = "chain";
const APPENDERS: u64 = 3;
const READERS: u64 = 2;
/// How long the storm lasts, and then the calm in which everything must come to rest.
const STORM: Duration = Duration::from_mins(4);
const CALM: Duration = Duration::from_mins(1);

/// What the chain holds: every append ever made, so that a lost or doubled one shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Ledger {
    /// The last append of each appender's life, and how many there were in all.
    last: BTreeMap<String, u64>,
    total: u64,
}

/// The appender's last record is not the one that it remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LedgerRejected;

impl std::fmt::Display for LedgerRejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the ledger has another last record of this appender")
    }
}

impl std::error::Error for LedgerRejected {}

impl ChainState for Ledger {
    type Rejection = LedgerRejected;

    const FORMAT: u32 = 1;

    fn apply_store_time(&mut self, _: StoreSecond) {}

    fn check_state(&self) -> Result<(), InvariantViolation> {
        Ok(())
    }

    fn check_transition(&self, _: &Self) -> Result<(), InvariantViolation> {
        Ok(())
    }
}

/// What the oracle knows: the first record that landed in each slot.
#[derive(Debug, Default)]
struct Truth {
    slots: BTreeMap<u64, Vec<u8>>,
    /// The highest boundary that landed.
    boundary: u64,
    /// Slots below the boundary that were created again by somebody who overslept.
    ghosts: u64,
    latest: u64,
}

#[derive(Clone)]
struct World {
    cloud: Cloud,
    truth: Arc<Mutex<Truth>>,
}

/// Runs the scenario to its end.
pub async fn run(seed: u64, echo: bool) -> Cloud {
    let cloud = Cloud::new(seed, weather(seed), echo);
    let world = World { cloud: cloud.clone(), truth: Arc::default() };
    let truth = world.truth.clone();
    cloud.watch(Box::new(move |event| truth.lock().unwrap_or_else(PoisonError::into_inner).see(event)));
    for n in 0..APPENDERS {
        let world = world.clone();
        supervise(&cloud, &format!("appender{n}"), true, move |process| append(world.clone(), process));
    }
    for n in 0..READERS {
        let world = world.clone();
        supervise(&cloud, &format!("reader{n}"), true, move |process| follow(world.clone(), process));
    }
    let trimmer = world.clone();
    supervise(&cloud, "trimmer", false, move |process| trim(trimmer.clone(), process));
    sleep(STORM).await;
    let before = world.truth().latest;
    cloud.weather(|weather| *weather = Weather::calm());
    cloud.note("calm");
    sleep(CALM).await;
    if cloud.failure().is_none() && world.truth().latest <= before {
        cloud.fail(format!("no progress: the chain stands at {before} in calm weather"));
    }
    cloud
}

fn weather(seed: u64) -> Weather {
    Weather {
        network: 1..=200,
        landing: 0..=1_500,
        lost: 30,
        unheard: 40,
        late: 30,
        lateness: 0..=40_000,
        doubled: 40,
        conflict: 20,
        unread: 30,
        pause: if seed.is_multiple_of(2) { 12 } else { 4 },
        pauses: 1_000..=60_000,
        crash: 6,
        page: 2..=7,
        patience: 5_000,
        ..Weather::calm()
    }
}

impl World {
    fn truth(&self) -> std::sync::MutexGuard<'_, Truth> {
        self.truth.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chain(&self, process: &Process) -> Chain<Ledger> {
        let store = SimStore::new(&self.cloud, BUCKET, process);
        let url = Url::parse("memory:///").unwrap_or_else(|error| unreachable!("{error}"));
        Chain::new(Store::over(mutated(store), url), self.entropy())
    }

    fn entropy(&self) -> Entropy {
        Entropy::seeded(self.cloud.state().dice.fork())
    }

    fn pause(&self, range: std::ops::RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.cloud.state().dice.among(&range))
    }

    /// A record that somebody took for a part of the chain must be the first that landed in its slot.
    fn accepted(&self, who: &str, slot: &ChainRecord<Ledger>) {
        let truth = self.truth();
        let landed = truth.slots.get(&slot.number).and_then(|body| state_of(body));
        drop(truth);
        if landed.as_ref() != Some(&slot.state) {
            self.cloud.fail(format!(
                "{who} took a record for slot {} that is not the one that was committed there: {:?} instead of {landed:?}",
                slot.number, slot.state
            ));
        }
    }
}

impl Truth {
    fn see(&mut self, event: &Event) -> Result<(), String> {
        if event.what == What::Replaced {
            return Err(format!("\"{}\" of a chain was overwritten", event.key));
        }
        if let Some(number) = event.key.strip_prefix("boundary/").and_then(|name| name.parse().ok()) {
            self.boundary = self.boundary.max(number);
            if number >= self.latest {
                return Err(format!("boundary {number} reaches the latest record {}", self.latest));
            }
        } else if let Ok(number) = event.key.parse::<u64>()
            && event.what == What::Created
        {
            self.created(number, event)?;
        }
        Ok(())
    }

    fn created(&mut self, number: u64, event: &Event) -> Result<(), String> {
        if self.slots.contains_key(&number) {
            self.ghosts += 1;
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

/// The state in a record's body, read without the code under test.
fn state_of(body: &[u8]) -> Option<Ledger> {
    serde_json::from_slice(body.split(|&byte| byte == b'\n').nth(1)?).ok()
}

async fn append(world: World, process: Process) -> End {
    let chain = world.chain(&process);
    let who = process.name().to_owned();
    let mut base = None;
    for mine in 1.. {
        let before = mine - 1;
        let name = who.clone();
        let appended = chain
            .append(base.clone(), move |ledger: Option<&Ledger>| {
                let mut ledger = ledger.cloned().unwrap_or_default();
                let last = ledger.last.get(&name).copied().unwrap_or(0);
                if last != before {
                    return Err(LedgerRejected);
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
            Err(ChainError::Unknown { .. }) => return End::GaveUp("unknown".to_owned()),
            Err(ChainError::Rejected(_)) => {
                world.cloud.fail(format!("{who}: append {mine} was made twice, or an earlier one was lost"));
                return End::Done;
            }
            Err(ChainError::Conflicts { .. } | ChainError::Store(_)) => return End::GaveUp("conflicts".to_owned()),
            Err(error) => {
                world.cloud.fail(format!("{who} cannot append: {error}"));
                return End::Done;
            }
        }
        let rest = world.pause(50..=4_000);
        sleep(rest).await;
    }
    End::Done
}

async fn follow(world: World, process: Process) -> End {
    let chain = world.chain(&process);
    let who = process.name().to_owned();
    let mut at: Option<ChainRecord<Ledger>> = None;
    loop {
        let next = match &at {
            None => chain.latest().await,
            Some(slot) => chain.next_after(slot).await,
        };
        match next {
            Ok(Some(slot)) => {
                world.accepted(&who, &slot);
                if at.as_ref().is_some_and(|at| slot.number <= at.number || slot.state.total < at.state.total) {
                    world.cloud.fail(format!("{who} went back to slot {}", slot.number));
                }
                at = Some(slot);
            }
            Ok(None) | Err(ChainError::Store(_)) => {}
            Err(error) => {
                world.cloud.fail(format!("{who} cannot read the chain: {error}"));
                return End::Done;
            }
        }
        let rest = world.pause(20..=3_000);
        sleep(rest).await;
    }
}

async fn trim(world: World, process: Process) -> End {
    let chain = world.chain(&process);
    let store = SimStore::new(&world.cloud, BUCKET, &process);
    loop {
        let rest = world.pause(1_000..=10_000);
        sleep(rest).await;
        let Ok(Some(latest)) = chain.latest().await else { continue };
        let keep = world.pause(1..=4).as_millis();
        let Some(to) = latest.number.checked_sub(u64::try_from(keep).unwrap_or(1)) else { continue };
        if to == 0 || to <= world.truth().boundary {
            continue;
        }
        if chain.set_boundary(to).await.is_ok() {
            let rest = world.pause(0..=2_000);
            sleep(rest).await;
            delete_below(&world, &store, to).await;
        }
    }
}

/// Deletes the records at or below the boundary, in no order.
async fn delete_below(world: &World, store: &SimStore, boundary: u64) {
    use object_store::ObjectStoreExt as _;
    for key in world.cloud.objects(BUCKET).into_keys() {
        let number = key.rsplit('/').next().and_then(|name| name.parse::<u64>().ok());
        if !key.starts_with("boundary/") && number.is_some_and(|number| number <= boundary) {
            let _ = store.delete(&object_store::path::Path::from(key)).await;
        }
    }
}

//! Writers that publish, compact and lose uploads, processes that pin, and collectors: over days of store time, with pauses
//! longer than the grace.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use tidemark_catalog::{
    CatalogError, CollectorState, CompactionResult, GARBAGE_GRACE, IndexPin, Manifest, ObjectName, PinChain,
    PinRegister, PublishError, SegmentMeta, WriterIdentity, WriterLease,
};
use tidemark_store::StoreClock;
use tokio::time::sleep;

use super::{
    long_run::{FAULT_BURST_DURATION, INDEX, LongRun, RECOVERY_DURATION, collect, fault_schedule},
    publication::{next_second, upload_segment},
};
use crate::{
    chain_record::record_state,
    fault_schedule::FaultSchedule,
    process::SimProcess,
    simulated_store::{SimulatedStore, StoreChange, StoreEvent},
    supervise::{ProcessEnd, supervise},
};

/// Objects that do not belong to the catalog.
const FOREIGN_KEYS: [&str; 3] =
    ["README.txt", "g1/plan/1", "g7/segment/00000000000000000001-0123456789abcdef0123456789abcdef"];

/// The model of manifests and pins, from every event.
#[derive(Debug, Default)]
pub(super) struct GarbageModel {
    /// The latest manifest and its number: the first record that was written in each slot counts.
    pub(super) latest: Option<(u64, Manifest)>,
    /// The latest pins and the number of their record.
    pub(super) pins: (u64, BTreeMap<String, IndexPin>),
    /// What each list holds, by key.
    lists: BTreeMap<String, BTreeSet<String>>,
    /// Since when nothing names an object, in true time (milliseconds).
    unnamed_since: BTreeMap<String, u64>,
    /// The same, but a pin that does not count yet names its objects, too: its process may have crashed.
    free_since: BTreeMap<String, u64>,
    pub(super) objects: BTreeSet<String>,
    /// The collectors' lists, by name, and the true time (milliseconds) at which each was written.
    garbage_lists: BTreeMap<String, u64>,
    /// The number of the collectors' latest record, and the lists that it names.
    collected: (u64, BTreeSet<String>),
    /// The epochs in force, and since when, in true time (milliseconds).
    epochs: Vec<(u64, u64)>,
    pub(super) marks: BTreeSet<&'static str>,
}

#[derive(Clone)]
struct GarbageWorld {
    run: LongRun,
    model: Arc<Mutex<GarbageModel>>,
}

/// Runs the scenario to its end.
pub async fn run(seed: u64, echo: bool) -> SimulatedStore {
    let simulated_store = SimulatedStore::new(seed, fault_schedule(seed), echo);
    let world = GarbageWorld {
        run: LongRun { simulated_store: simulated_store.clone(), is_ingested: false },
        model: Arc::default(),
    };
    let model = world.model.clone();
    world.run.set_observer(move |event| model.lock().observe(event));
    simulated_store.plant_foreign(INDEX, &FOREIGN_KEYS);
    for n in 0..2 {
        let (writing, pinning, collecting) = (world.clone(), world.clone(), world.clone());
        supervise(&simulated_store, &format!("writer{n}"), true, move |process| write(writing.clone(), process));
        supervise(&simulated_store, &format!("pinner{n}"), true, move |process| pin(pinning.clone(), process));
        supervise(&simulated_store, &format!("collector{n}"), true, move |process| {
            collect(collecting.run.clone(), process)
        });
    }
    simulated_store.run_for(FAULT_BURST_DURATION).await;
    simulated_store.change_fault_schedule(|fault_schedule| *fault_schedule = FaultSchedule::fault_free());
    simulated_store.note("the fault burst ends");
    let before = world.model().latest.as_ref().map(|(number, _)| *number);
    simulated_store.run_for(RECOVERY_DURATION).await;
    let after = world.model().check_final_state(before, simulated_store.now());
    if let Err(violation) = after {
        simulated_store.fail(violation);
    }
    for mark in world.model().marks.clone() {
        simulated_store.mark(mark);
    }
    simulated_store
}

impl GarbageWorld {
    fn model(&self) -> MutexGuard<'_, GarbageModel> {
        self.model.lock()
    }
}

impl GarbageModel {
    pub(super) fn observe(&mut self, event: &StoreEvent) -> Result<(), String> {
        if event.bucket != INDEX {
            return Ok(());
        }
        let key = event.key.as_str();
        if event.change == StoreChange::Deleted {
            return self.deleted(event);
        }
        if let Some(number) = number_below(key, "g1/manifest/") {
            return self.published(number, event);
        }
        if let Some(rest) = key.strip_prefix("snapshots/") {
            return match rest.split_once('/') {
                Some((_, name)) if name.starts_with("list/") => self.listed(event),
                Some((_, name)) => match name.parse() {
                    Ok(number) => self.pinned(number, event),
                    Err(_) => Ok(()),
                },
                None => Ok(()),
            };
        }
        if let Some(list) = garbage_list_name(key) {
            self.garbage_lists.entry(list.to_owned()).or_insert(event.at);
            return Ok(());
        }
        if let Some(number) = key.strip_prefix("gc/").and_then(|rest| rest.split_once('/')?.1.parse().ok()) {
            return self.collected(number, event);
        }
        if key.parse::<ObjectName>().is_ok() {
            self.objects.insert(key.to_owned());
            self.unnamed_since.entry(key.to_owned()).or_insert(event.at);
            self.free_since.entry(key.to_owned()).or_insert(event.at);
        }
        Ok(())
    }

    fn published(&mut self, number: u64, event: &StoreEvent) -> Result<(), String> {
        if self.latest.as_ref().is_some_and(|(latest, _)| number <= *latest) {
            return Ok(());
        }
        let manifest: Manifest = record_state(&event.object.body).map_err(|_| "a manifest is unreadable")?;
        if let Some(gone) = manifest.objects().find(|key| !self.objects.contains(*key)) {
            return Err(format!("{} published \"{gone}\", which does not exist", event.by));
        }
        self.epochs.push((event.at, manifest.epoch));
        self.latest = Some((number, manifest));
        self.date_unnamed(event.at);
        Ok(())
    }

    fn listed(&mut self, event: &StoreEvent) -> Result<(), String> {
        let manifest: Manifest = record_state(&event.object.body).map_err(|error| error.to_string())?;
        self.lists.insert(event.key.clone(), manifest.objects().map(str::to_owned).collect());
        Ok(())
    }

    fn pinned(&mut self, number: u64, event: &StoreEvent) -> Result<(), String> {
        if number <= self.pins.0 {
            return Ok(());
        }
        let register: PinRegister = record_state(&event.object.body).map_err(|_| "a register of pins is unreadable")?;
        for (name, pin) in register.pins.iter().filter(|(_, pin)| pin.confirmed) {
            let list = self.lists.get(&pin.list);
            let Some(list) = list else {
                return Err(format!("pin \"{name}\" counts and its list \"{}\" is gone", pin.list));
            };
            if let Some(gone) = list.iter().find(|key| !self.objects.contains(*key)) {
                return Err(format!("pin \"{name}\" counts and \"{gone}\", which it holds, is gone"));
            }
            self.marks.insert("a pin counts");
            if self.latest.as_ref().is_some_and(|(_, manifest)| !list.iter().all(|key| names(manifest, key))) {
                self.marks.insert("a pin holds what the index has dropped");
            }
        }
        self.pins = (number, register.pins);
        self.date_unnamed(event.at);
        Ok(())
    }

    fn collected(&mut self, number: u64, event: &StoreEvent) -> Result<(), String> {
        if number <= self.collected.0 {
            return Ok(());
        }
        let state: CollectorState =
            record_state(&event.object.body).map_err(|_| "a record of collectors is unreadable")?;
        if let Some(gone) = state.lists.keys().find(|list| !self.garbage_lists.contains_key(*list)) {
            return Err(format!("{} names the list \"{gone}\" of garbage, which is gone", event.by));
        }
        self.collected = (number, state.lists.into_keys().collect());
        Ok(())
    }

    /// Pins that count.
    fn living_pins(&self) -> impl Iterator<Item = &IndexPin> {
        self.pins.1.values().filter(|pin| pin.confirmed)
    }

    /// What must not be deleted.
    fn named(&self) -> BTreeSet<&str> {
        self.named_beside(self.living_pins())
    }

    fn named_beside<'a>(&'a self, pins: impl Iterator<Item = &'a IndexPin>) -> BTreeSet<&'a str> {
        let pinned = pins.filter_map(|pin| self.lists.get(&pin.list)).flatten().map(String::as_str);
        self.latest.iter().flat_map(|(_, manifest)| manifest.objects()).chain(pinned).collect()
    }

    /// Begins to count for what is named no more, and ends it for what is named.
    fn date_unnamed(&mut self, at: u64) {
        let dated = |named: &BTreeSet<&str>, before: &BTreeMap<String, u64>| -> BTreeMap<String, u64> {
            let unnamed = self.objects.iter().filter(|key| !named.contains(key.as_str()));
            unnamed.map(|key| (key.clone(), before.get(key).copied().unwrap_or(at))).collect()
        };
        let unnamed_since = dated(&self.named(), &self.unnamed_since);
        let free_since = dated(&self.named_beside(self.pins.1.values()), &self.free_since);
        (self.unnamed_since, self.free_since) = (unnamed_since, free_since);
    }

    fn deleted(&mut self, event: &StoreEvent) -> Result<(), String> {
        let (key, by) = (event.key.as_str(), &event.by);
        if key.starts_with("snapshots/") && key.contains("/list/") {
            if self.living_pins().any(|pin| pin.list == key) {
                return Err(format!("{by} deleted the list \"{key}\" of a pin that counts"));
            }
            self.lists.remove(key);
            return Ok(());
        }
        if let Some(list) = garbage_list_name(key) {
            if self.collected.1.contains(list) {
                return Err(format!("{by} deleted the list \"{list}\" of garbage, which is named"));
            }
            self.garbage_lists.remove(list);
            self.marks.insert("a list of garbage was deleted");
            return Ok(());
        }
        if !self.objects.contains(key) {
            let chains = ["cleanup/", "gc/", "snapshots/", "g1/manifest/"];
            let trimmed = chains.iter().any(|chain| key.starts_with(chain));
            return if trimmed { Ok(()) } else { Err(format!("{by} deleted \"{key}\", which is not the catalog's")) };
        }
        if self.named().contains(key) {
            return Err(format!("{by} deleted \"{key}\", which is named"));
        }
        let since = self.unnamed_since.get(key).copied().unwrap_or(event.at);
        let grace = u64::try_from(GARBAGE_GRACE.as_millis()).unwrap_or(u64::MAX);
        // Store times are whole seconds.
        if event.at + 2_000 < since.saturating_add(grace) {
            return Err(format!("{by} deleted \"{key}\" {} ms after it was named", event.at - since));
        }
        self.objects.remove(key);
        self.marks.insert("garbage was deleted");
        Ok(())
    }

    pub(super) fn check_final_state(&self, before: Option<u64>, now: u64) -> Result<(), String> {
        let Some((number, manifest)) = &self.latest else { return Err("nothing was published".to_owned()) };
        if Some(*number) <= before {
            return Err(format!("no progress: manifest {number}"));
        }
        // Collectors come at least every four hours.
        let due = now - u64::try_from(GARBAGE_GRACE.as_millis()).unwrap_or_default() - 9 * 3_600_000;
        let epoch = self.epochs.iter().rev().find(|(at, _)| *at <= due).map_or(0, |(_, epoch)| *epoch);
        let is_due = |key: &str| self.free_since.get(key).is_some_and(|since| *since <= due);
        let of_past_epoch = |key: &str| {
            let name = key.parse::<ObjectName>();
            name.is_ok_and(|name| name.epoch < epoch && name.generation == manifest.generation)
        };
        let left: Vec<_> = self.objects.iter().filter(|key| is_due(key) && of_past_epoch(key)).collect();
        if !left.is_empty() {
            return Err(format!("garbage stays: {left:?} below epoch {epoch}"));
        }
        let orphans = self.garbage_lists.iter().filter(|(list, at)| **at <= due && !self.collected.1.contains(*list));
        let orphans: Vec<_> = orphans.collect();
        if orphans.is_empty() { Ok(()) } else { Err(format!("lists of garbage stay: {orphans:?}")) }
    }
}

fn names(manifest: &Manifest, key: &str) -> bool {
    manifest.objects().any(|named| named == key)
}

/// The name of a collectors' list, from its key.
fn garbage_list_name(key: &str) -> Option<&str> {
    key.strip_prefix("gc/")?.split_once('/')?.1.strip_prefix("list/")
}

fn number_below(key: &str, prefix: &str) -> Option<u64> {
    key.strip_prefix(prefix)?.parse().ok()
}

/// A writer: publishes, compacts, uploads what it never publishes, raises its epoch.
async fn write(world: GarbageWorld, process: SimProcess) -> ProcessEnd {
    world.run.sleep_minutes(0..=300).await;
    let log = world.run.log(&process);
    let chain = match world.run.registered(&process, &log).await {
        Ok(chain) => chain,
        Err(error) => return ProcessEnd::GaveUp(error.to_string()),
    };
    let clock = StoreClock::new(log.stores(), process.name());
    // One identity: each takes over from the other at once, so that they need no heartbeats for days.
    let identity = WriterIdentity("writer".to_owned());
    let mut lease = match chain.acquire(identity, &clock, &log.entries, |_| ()).await {
        Ok(lease) => lease,
        Err(error) => return ProcessEnd::GaveUp(error.to_string()),
    };
    for _ in 0..world.run.number(3..=12) {
        world.run.sleep_minutes(10..=400).await;
        let step = match world.run.number(0..=5) {
            0 => lease.raise_epoch().await.map(drop),
            1 => upload(&world, &process, &lease).await.map(drop),
            2 | 3 => compact(&world, &process, &mut lease).await,
            _ => publish(&world, &process, &mut lease).await,
        };
        if let Err(error) = step {
            return ProcessEnd::GaveUp(error.to_string());
        }
    }
    ProcessEnd::GaveUp("another one goes on".to_owned())
}

async fn upload(world: &GarbageWorld, process: &SimProcess, lease: &WriterLease) -> Result<SegmentMeta, PublishError> {
    upload_segment(&world.run.store(INDEX, process), lease, || world.run.entropy()).await
}

async fn publish(world: &GarbageWorld, process: &SimProcess, lease: &mut WriterLease) -> Result<(), PublishError> {
    let segment = upload(world, process, lease).await?;
    // A publication may come long after its upload.
    if world.run.number(0..=3) == 0 {
        world.run.sleep_minutes(0..=3_000).await;
    }
    let publication = next_second(&lease.manifest().state, Some(segment));
    lease.publish(publication).await.map(drop)
}

/// Replaces a segment by another with the same records.
async fn compact(world: &GarbageWorld, process: &SimProcess, lease: &mut WriterLease) -> Result<(), PublishError> {
    let segments = &lease.manifest().state.segments;
    let Some(last) = segments.len().checked_sub(1) else { return Ok(()) };
    let of = usize::try_from(world.run.number(0..=last as u64)).unwrap_or_default();
    let old = segments[of].clone();
    let key = upload(world, process, lease).await?.key;
    let (removes, adds) = (vec![old.key.clone()], vec![SegmentMeta { key, ..old }]);
    lease.adopt(CompactionResult { removes, adds, ..CompactionResult::default() }).await.map(drop)
}

/// Pins, copies pins and drops them.
async fn pin(world: GarbageWorld, process: SimProcess) -> ProcessEnd {
    let owner = process.name().split('.').next().unwrap_or_default().to_owned();
    let log = world.run.log_id(&process).await;
    loop {
        world.run.sleep_minutes(20..=600).await;
        let pins = PinChain::open(&world.run.store(INDEX, &process), &log, world.run.entropy());
        let chain = world.run.chain(&process);
        let name = format!("{owner}-{}", world.run.number(0..=2));
        if !world.run.is_fault_burst_over() && world.run.number(0..=3) == 0 {
            // Longer than the grace, somewhere within the pin.
            let (world, process) = (world.clone(), process.clone());
            tokio::spawn(async move {
                sleep(Duration::from_millis(world.run.number(0..=3_000))).await;
                world.run.suspend(&process, 20..=60);
            });
        }
        let done = match world.run.number(0..=3) {
            0 => pins
                .pin_again(&format!("pinner{}-{}", world.run.number(0..=1), world.run.number(0..=2)), &name, &owner)
                .await
                .map(drop),
            1 => pins.unpin(&name, &owner).await,
            _ => pins.pin(&chain, &name, &owner).await.map(drop),
        };
        match done {
            Err(CatalogError::Invariant(broken)) => world.run.simulated_store.fail(broken.to_string()),
            Err(CatalogError::Unknown { key, .. }) => return ProcessEnd::GaveUp(key),
            _ => {}
        }
    }
}

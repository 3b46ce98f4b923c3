//! An index that is purged while its writers run, pause and crash; another owner that takes its prefix; and another log that
//! competes for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use futures::TryStreamExt as _;
use parking_lot::{Mutex, MutexGuard};
use sha2::{Digest as _, Sha256};
use tidemark_catalog::{
    AcquireError, CatalogError, Generation, IndexChain, IndexOwner, IndexPurge, IndexRegistration, LogCursor, Manifest,
    PublishError, PurgeError, RootChain, RootState, TransactionRejected, WriterIdentity, WriterLease, heartbeat,
};
use tidemark_store::{ChainRecord, Entropy, ObjectInfo, Store, StoreClock};
use tidemark_wal::{Log, LogParameters};
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use super::publication::{next_second, upload_segment};
use crate::{
    chain_record::record_state,
    fault_injecting_store::FaultInjectingStore,
    fault_schedule::FaultSchedule,
    mutants::{Mutant, mutated},
    process::SimProcess,
    simulated_store::{STRANGER, SimulatedStore, StoreChange, StoreEvent},
    supervise::{ProcessEnd, supervise},
};

const LOG: &str = "log";
/// Bucket of the other log that competes for the prefix, and the prefix of its processes' names.
const OTHER_LOG: &str = "log2";
const RIVAL: &str = "rival";
const INDEX: &str = "index";
/// The index's prefix in its bucket, and its name in the root chain.
const PREFIX: &str = "wal/";
const URL: &str = "sim://index/wal";
/// Objects beside and below the index that do not belong to it.
const FOREIGN_KEYS: [&str; 6] = [
    "README.txt",
    "wal/README.txt",
    "wal/g1/plan/1",
    "wal/g1/manifest/notes",
    "wal/nested/g1/manifest/00000000000000000001",
    "wal2/g1/manifest/00000000000000000001",
];
/// The expiry of both logs.
const EXPIRY: Duration = Duration::from_mins(10);
const FAULT_BURST_DURATION: Duration = Duration::from_mins(8);
const RECOVERY_DURATION: Duration = Duration::from_mins(4);

/// The model of the chains and of the register, from every event.
#[derive(Debug, Default)]
struct PurgeModel {
    /// Hash of the first record in each slot, by generation and number.
    slots: BTreeMap<(String, u64), String>,
    boundaries: BTreeMap<String, u64>,
    /// The number of the closing record of each closed generation.
    closed: BTreeMap<String, u64>,
    /// Numbers of the root records, and the last generation that one of them records as purged.
    root_slots: BTreeSet<u64>,
    last_purged: u64,
    /// Whether the index was ever registered.
    registered: bool,
    latest: BTreeMap<String, Manifest>,
    /// Whether each generation belongs to the rival: it does if a rival wrote its first record.
    rivals: BTreeMap<String, bool>,
    marks: BTreeSet<&'static str>,
}

#[derive(Clone)]
struct PurgeWorld {
    simulated_store: SimulatedStore,
    model: Arc<Mutex<PurgeModel>>,
    /// When the purge is requested.
    purge_requested: Duration,
}

/// Runs the scenario to its end.
pub async fn run(seed: u64, echo: bool) -> SimulatedStore {
    let simulated_store = SimulatedStore::new(seed, fault_schedule(seed), echo);
    let purge_requested = Duration::from_secs(simulated_store.state().rng.in_range(&(5..=200)));
    let world = PurgeWorld { simulated_store: simulated_store.clone(), model: Arc::default(), purge_requested };
    let model = world.model.clone();
    simulated_store.set_observer(Box::new(move |event| model.lock().observe(event)));
    simulated_store.plant_foreign(INDEX, &FOREIGN_KEYS);
    for n in 0..2 {
        let world = world.clone();
        supervise(&simulated_store, &format!("old{n}"), true, move |process| {
            pod(world.clone(), process, owner("old"), PodArrival::LearnsOfPurge)
        });
    }
    let next = world.clone();
    supervise(&simulated_store, "new0", true, move |process| {
        pod(next.clone(), process, owner("new"), PodArrival::AfterTheFirst)
    });
    let rival = world.clone();
    supervise(&simulated_store, &format!("{RIVAL}0"), true, move |process| {
        pod(rival.clone(), process, owner(RIVAL), PodArrival::WithTheFirst)
    });
    simulated_store.run_for(FAULT_BURST_DURATION).await;
    simulated_store.change_fault_schedule(|fault_schedule| *fault_schedule = FaultSchedule::fault_free());
    simulated_store.note("the fault burst ends");
    let before = world.model().standing().cloned();
    simulated_store.run_for(RECOVERY_DURATION).await;
    if simulated_store.failure().is_none() {
        check_after_purge(&world, before).await;
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
        lost_writes: 25,
        lost_answers: 30,
        late_writes: 30,
        late_write_delay: 0..=60_000,
        duplicated_writes: 30,
        false_conflicts: 10,
        failed_reads: 20,
        process_pauses: if seed.is_multiple_of(2) { 10 } else { 3 },
        pause_duration: 1_000..=120_000,
        process_crashes: if seed.is_multiple_of(3) { 2 } else { 8 },
        page_size: 2..=7,
        call_timeout: 5_000,
        ..FaultSchedule::fault_free()
    }
}

/// Purges once more, and checks which objects remain.
async fn check_after_purge(world: &PurgeWorld, before: Option<Manifest>) {
    let auditor = SimProcess::new("auditor", false);
    let purge = world.purge(&auditor, &owner("old"));
    let (clock, log) = (world.clock(&auditor), world.log(&auditor));
    if let Err(error) = purge.run(&WriterIdentity("auditor".to_owned()), &clock, &log.entries, |_| ()).await {
        world.simulated_store.fail(format!("the index cannot be purged without faults: {error}"));
        return;
    }
    let objects = world.simulated_store.objects(INDEX);
    let model = world.model();
    let found = model.check_final_state(&objects.keys().map(String::as_str).collect(), before);
    drop(model);
    if let Err(violation) = found {
        world.simulated_store.fail(violation);
    }
}

impl PurgeWorld {
    fn model(&self) -> MutexGuard<'_, PurgeModel> {
        self.model.lock()
    }

    fn store(&self, url: &str, bucket: &str, process: &SimProcess) -> Store {
        let url = Url::parse(url).unwrap_or_else(|error| unreachable!("{error}"));
        Store::over(mutated(FaultInjectingStore::new(&self.simulated_store, bucket, process)), url)
    }

    fn log(&self, process: &SimProcess) -> Log {
        let bucket = if process.name().starts_with(RIVAL) { OTHER_LOG } else { LOG };
        Log::over(self.store(&format!("sim://{bucket}/"), bucket, process), Vec::new())
    }

    fn index(&self, process: &SimProcess) -> Store {
        self.store(URL, INDEX, process)
    }

    fn clock(&self, process: &SimProcess) -> StoreClock {
        StoreClock::new(self.log(process).stores(), process.name())
    }

    fn entropy(&self) -> Entropy {
        Entropy::seeded(self.simulated_store.state().rng.fork())
    }

    fn purge(&self, process: &SimProcess, owner: &IndexOwner) -> IndexPurge {
        let root = RootChain::open(&self.log(process), self.entropy());
        IndexPurge::new(root, self.index(process), URL, owner.clone(), self.entropy())
    }

    async fn sleep_for(&self, range: RangeInclusive<u64>) {
        let span = self.simulated_store.state().rng.in_range(&range);
        sleep(Duration::from_millis(span)).await;
    }

    /// A record that its writer takes for committed must be the first that was written in its slot.
    fn committed(&self, who: &str, slot: &ChainRecord<Manifest>) {
        let place = (slot.state.generation.to_string(), slot.number);
        let first = self.model().slots.get(&place).cloned();
        if first.as_ref() != Some(&slot.hash) {
            self.simulated_store
                .fail(format!("{who} takes its record for committed in {place:?}, which has another one"));
        }
    }

    fn mark(&self, what: &'static str) {
        self.model().marks.insert(what);
    }
}

impl PurgeModel {
    fn observe(&mut self, event: &StoreEvent) -> Result<(), String> {
        match event.bucket.as_str() {
            LOG => return self.observe_root(event),
            OTHER_LOG => return Ok(()),
            _ => {}
        }
        if event.change == StoreChange::Deleted {
            return self.deleted(event);
        }
        let Some((generation, name)) = event.key.strip_prefix(PREFIX).and_then(|key| key.split_once("/manifest/"))
        else {
            return Ok(());
        };
        if let Some(number) = name.strip_prefix("boundary/").and_then(|digits| digits.parse::<u64>().ok()) {
            let most = self.boundaries.entry(generation.to_owned()).or_default();
            *most = number.max(*most);
        } else if let Ok(number) = name.parse::<u64>()
            && !generation.contains('/')
        {
            return self.recorded(generation, number, event);
        }
        Ok(())
    }

    fn recorded(&mut self, generation: &str, number: u64, event: &StoreEvent) -> Result<(), String> {
        if event.by == STRANGER {
            return Ok(());
        }
        if let Some(closing) = self.closed.get(generation).filter(|closing| number > **closing) {
            return Err(format!("{} wrote record {number} of {generation}, which record {closing} closed", event.by));
        }
        let place = (generation.to_owned(), number);
        if self.slots.contains_key(&place) {
            self.marks.insert("a fenced writer wrote in a slot that was deleted");
            let trimmed = self.boundaries.get(generation).is_some_and(|boundary| number <= *boundary);
            return if trimmed { Ok(()) } else { Err(format!("slot {place:?} was free again above the boundary")) };
        }
        let rivals = event.by.starts_with(RIVAL);
        if *self.rivals.entry(generation.to_owned()).or_insert(rivals) != rivals {
            return Err(format!("{} wrote record {number} of {generation}, which holds another log's", event.by));
        }
        if rivals {
            self.marks.insert("another log has the prefix");
        }
        let manifest: Manifest = record_state(&event.object.body).map_err(|_| format!("{place:?} is unreadable"))?;
        if manifest.is_purged() {
            self.closed.insert(generation.to_owned(), number);
        }
        self.slots.insert(place, hex::encode(Sha256::digest(&event.object.body)));
        self.latest.insert(generation.to_owned(), manifest);
        Ok(())
    }

    fn observe_root(&mut self, event: &StoreEvent) -> Result<(), String> {
        let Some(number) = event.key.strip_prefix(".tidemark/root/").and_then(|name| name.parse().ok()) else {
            return Ok(());
        };
        if event.change == StoreChange::Deleted {
            return Err(format!("{} deleted record {number} of the root chain", event.by));
        }
        if self.root_slots.insert(number) {
            let root: RootState = record_state(&event.object.body).map_err(|_| "the root is unreadable")?;
            let purged = root.purged.get(URL).map(|gone| gone.generation.number());
            self.last_purged = self.last_purged.max(purged.unwrap_or_default());
            self.registered |= root.indexes.contains_key(URL);
            if let Some(registered) = root.indexes.get(URL).filter(|known| Some(known.generation.number()) <= purged) {
                return Err(format!("{} registered {} again, which was purged", event.by, registered.generation));
            }
        }
        Ok(())
    }

    /// An object may be deleted only if it belongs to a generation that is closed and recorded as purged.
    fn deleted(&self, event: &StoreEvent) -> Result<(), String> {
        let key = &event.key;
        let refused = |why: &str| Err(format!("{} deleted \"{key}\", {why}", event.by));
        let Some((generation, rest)) = key.strip_prefix(PREFIX).and_then(|key| key.split_once('/')) else {
            return refused("which is not below the index");
        };
        if self.rivals.get(generation) == Some(&true) {
            return refused("which holds the records of another log");
        }
        let Some(closing) = self.closed.get(generation) else { return refused("although the index is not closed") };
        let number = generation.strip_prefix('g').and_then(|number| number.parse().ok()).unwrap_or(u64::MAX);
        if number > self.last_purged {
            return refused("although the index is registered");
        }
        let boundary = self.boundaries.get(generation).copied().unwrap_or_default();
        let digits = |text: &str| (text.len() == 20).then(|| text.parse::<u64>().ok()).flatten();
        let parts: Vec<&str> = rest.split('/').collect();
        match parts[..] {
            ["segment" | "sidecar", name] if name.len() == 53 => Ok(()),
            ["manifest", name] if digits(name).is_some_and(|n| n < *closing && n <= boundary) => Ok(()),
            ["manifest", "boundary", name] if digits(name).is_some_and(|n| n < boundary) => Ok(()),
            _ => refused("which is a fence or no object of the catalog"),
        }
    }

    /// The newest manifest of the generation that is not closed.
    fn standing(&self) -> Option<&Manifest> {
        self.latest.values().find(|manifest| manifest.closed.is_none())
    }

    fn check_final_state(&self, keys: &BTreeSet<&str>, before: Option<Manifest>) -> Result<(), String> {
        if let Some(gone) = FOREIGN_KEYS.iter().find(|key| !keys.contains(*key)) {
            return Err(format!("\"{gone}\" is gone"));
        }
        // If the other log was faster, there is nothing to purge.
        if self.closed.is_empty() && self.rivals.get("g1") == Some(&false) {
            return Err("nothing was purged".to_owned());
        }
        for (generation, closing) in &self.closed {
            let chain = format!("{PREFIX}{generation}/manifest");
            let fence = [format!("{chain}/{closing:020}"), format!("{chain}/boundary/{:020}", closing - 1)];
            let below = format!("{PREFIX}{generation}/");
            let left = keys.iter().filter(|key| key.starts_with(&below) && !FOREIGN_KEYS.contains(key));
            let left: BTreeSet<String> = left.map(|key| (*key).to_owned()).collect();
            if left != BTreeSet::from(fence) {
                return Err(format!("objects of {generation} remain: {left:?}"));
            }
        }
        let Some(standing) = self.standing() else { return Err("no index has the prefix".to_owned()) };
        // A generation that was begun since has come as far as it has by itself.
        let before = before.filter(|before| before.generation == standing.generation).map(|before| before.cursor);
        if standing.cursor <= before.unwrap_or_default() {
            return Err(format!("no progress of the next owner: cursor {}", standing.cursor));
        }
        let missing = standing.objects().find(|key| !keys.contains(format!("{PREFIX}{key}").as_str()));
        missing.map_or(Ok(()), |key| Err(format!("\"{key}\" of the next owner is gone")))
    }
}

fn owner(name: &str) -> IndexOwner {
    let text = |text: &str| text.to_owned();
    IndexOwner::Resource { cluster: text("c"), namespace: text("n"), name: text(name), uid: text(name) }
}

/// When a pod starts, and whether it purges the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PodArrival {
    /// It starts at once, and learns of the purge some time after the request.
    LearnsOfPurge,
    /// It starts when the prefix is registered.
    AfterTheFirst,
    /// It starts at about the time of the first ones.
    WithTheFirst,
}

/// An indexer's pod, until it ends or crashes.
async fn pod(world: PurgeWorld, process: SimProcess, owner: IndexOwner, when: PodArrival) -> ProcessEnd {
    let learns = when == PodArrival::LearnsOfPurge;
    let late = world.simulated_store.state().rng.in_range(&(0..=90_000));
    let learns_at = world.purge_requested + Duration::from_millis(late);
    let knows_of_purge = || learns && Duration::from_millis(world.simulated_store.elapsed()) >= learns_at;
    if knows_of_purge() {
        return remove(&world, &process, &owner).await;
    }
    while when == PodArrival::AfterTheFirst && !world.model().registered {
        sleep(Duration::from_secs(1)).await;
    }
    if when == PodArrival::WithTheFirst {
        world.sleep_for(0..=20_000).await;
    }
    let chain = match open(&world, &process, &owner).await {
        Ok(chain) => chain,
        // Another process of the same owner purged it.
        Err(CatalogError::Rejected(TransactionRejected::PurgedForOwner { .. })) => {
            world.mark("a purged owner was refused");
            return remove(&world, &process, &owner).await;
        }
        Err(error) => {
            if matches!(error, CatalogError::Rejected(TransactionRejected::OfAnotherLog { .. })) {
                world.mark("another log was refused");
            }
            return ProcessEnd::GaveUp(error.to_string());
        }
    };
    let (clock, log) = (world.clock(&process), world.log(&process));
    let identity = WriterIdentity(process.name().to_owned());
    let taking = chain.acquire(identity, &clock, &log.entries, |_| ());
    let waiting = async {
        while !knows_of_purge() {
            sleep(Duration::from_secs(1)).await;
        }
    };
    let mut writer_lease = tokio::select! {
        biased;
        () = waiting => return remove(&world, &process, &owner).await,
        taken = taking => match taken {
            Ok(writer_lease) => writer_lease,
            Err(error) => {
                if matches!(error, AcquireError::Chain(CatalogError::Rejected(TransactionRejected::OfAnotherLog { .. }))) {
                    world.mark("another log lost the race");
                }
                return ProcessEnd::GaveUp(error.to_string());
            }
        },
    };
    let beating = clock.clone();
    let moving = AbortOnDropHandle::new(tokio::spawn(async move { heartbeat(&beating).await }));
    while !knows_of_purge() {
        match publish(&world, &process, &mut writer_lease).await {
            Ok(slot) => world.committed(process.name(), &slot),
            Err(error) => {
                if world.model().closed.contains_key(&chain.generation().to_string()) {
                    world.mark("a writer met the purge");
                }
                return ProcessEnd::GaveUp(error.to_string());
            }
        }
        world.sleep_for(1_000..=8_000).await;
    }
    drop(moving);
    let _ = writer_lease.release().await;
    remove(&world, &process, &owner).await
}

/// `PurgeBeforeClosing`: a process that deletes the index's objects first.
async fn delete_before_closing(world: &PurgeWorld, process: &SimProcess) {
    let index = world.index(process);
    let listed: Vec<_> = index.list("g1/segment", None).try_collect().await.unwrap_or_default();
    let keys: Vec<String> = listed.into_iter().map(|object: ObjectInfo| object.key).collect();
    let _ = index.delete(&keys).await;
}

async fn remove(world: &PurgeWorld, process: &SimProcess, owner: &IndexOwner) -> ProcessEnd {
    if Mutant::PurgeBeforeClosing.is_on() {
        delete_before_closing(world, process).await;
    }
    let purge = world.purge(process, owner);
    let (clock, log) = (world.clock(process), world.log(process));
    match purge.run(&WriterIdentity(process.name().to_owned()), &clock, &log.entries, |_| ()).await {
        Ok(swept) => {
            world.mark("purged");
            if swept.deleted == 0 {
                world.mark("purged by another process before");
            }
            ProcessEnd::Done
        }
        Err(PurgeError::Chain(CatalogError::Unknown { .. }) | PurgeError::Publish(PublishError::Unknown { .. })) => {
            world.mark("a purge with an unknown outcome");
            ProcessEnd::GaveUp("unknown".to_owned())
        }
        Err(error) => ProcessEnd::GaveUp(error.to_string()),
    }
}

async fn open(world: &PurgeWorld, process: &SimProcess, owner: &IndexOwner) -> Result<IndexChain, CatalogError> {
    let root = RootChain::open(&world.log(process), world.entropy());
    let start: Generation = root.state().await?.generation_of(URL);
    let chain = IndexChain::open(&world.index(process), start, world.entropy()).for_log(&root).follow().await?;
    let registered = IndexRegistration::new(URL, owner.clone(), chain.generation().clone());
    root.register(
        root.head().await?,
        &LogParameters::with_expiry(EXPIRY),
        URL,
        &registered,
        LogCursor::default(),
        None,
    )
    .await?;
    Ok(chain)
}

/// Publishes the next second, now and then with a segment of one record.
async fn publish(
    world: &PurgeWorld,
    process: &SimProcess,
    writer_lease: &mut WriterLease,
) -> Result<ChainRecord<Manifest>, PublishError> {
    // Nothing compacts them here: a manifest that names hundreds makes the run slow and shows no more.
    let segment = if world.simulated_store.state().rng.chance(150) {
        Some(upload_segment(&world.index(process), writer_lease, || world.entropy()).await?)
    } else {
        None
    };
    let publication = next_second(&writer_lease.manifest().state, segment);
    writer_lease.publish(publication).await.cloned()
}

//! An index that is removed while its writers live, sleep and die; another owner who takes its prefix; and another log that
//! wants it, too.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::TryStreamExt as _;
use sha2::{Digest as _, Sha256};
use tidemark_catalog::{
    AcquireError, CatalogError, Cursor, Generation, IndexChain, IndexOwner, IndexPurge, IndexRegistration, Manifest,
    ObjectKind, ObjectName, PublishError, PublishRequest, PurgeError, RecordCounts, RootChain, RootState, SegmentMeta,
    SetDigest, TransactionRejected, WriterIdentity, WriterLease, heartbeat,
};
use tidemark_store::{ChainRecord, Clock, Create, Entropy, ObjectInfo, Store, UserMetadata};
use tidemark_wal::{Log, LogParameters, Outcome, Token};
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use crate::{
    cloud::{Cloud, Event, What},
    mutants::{Mutant, mutated},
    process::Process,
    store::SimStore,
    supervise::{End, supervise},
    weather::Weather,
};

const LOG: &str = "log";
/// Bucket of the log that the prefix is not meant for, and how its processes are named.
const OTHER_LOG: &str = "log2";
const RIVAL: &str = "rival";
const INDEX: &str = "index";
/// The index's prefix in its bucket, and its name in the root chain.
const PREFIX: &str = "wal/";
const URL: &str = "sim://index/wal";
/// What lies beside and below the index and is not its own.
const STRANGERS: [&str; 6] = [
    "README.txt",
    "wal/README.txt",
    "wal/g1/plan/1",
    "wal/g1/manifest/notes",
    "wal/nested/g1/manifest/00000000000000000001",
    "wal2/g1/manifest/00000000000000000001",
];
/// The expiry of both logs.
const EXPIRY: Duration = Duration::from_mins(10);
const STORM: Duration = Duration::from_mins(8);
const CALM: Duration = Duration::from_mins(4);

/// What the oracle knows, from what landed.
#[derive(Debug, Default)]
struct Truth {
    /// Hash of the first record in each slot, and the generation's name.
    slots: BTreeMap<(String, u64), String>,
    boundaries: BTreeMap<String, u64>,
    /// The closing record of each generation that was closed for good.
    closed: BTreeMap<String, u64>,
    /// Root records seen, and the last generation that one of them takes off the register.
    root_slots: BTreeSet<u64>,
    off_register: u64,
    /// Whether the index was ever registered.
    registered: bool,
    latest: BTreeMap<String, Manifest>,
    /// Whether each generation holds the rival's records: who wrote the first record says it.
    rivals: BTreeMap<String, bool>,
    marks: BTreeSet<&'static str>,
}

#[derive(Clone)]
struct World {
    cloud: Cloud,
    truth: Arc<Mutex<Truth>>,
    /// When the purge is asked for.
    asked: Duration,
}

/// Runs the scenario to its end.
pub async fn run(seed: u64, echo: bool) -> Cloud {
    let cloud = Cloud::new(seed, weather(seed), echo);
    let asked = Duration::from_secs(cloud.state().dice.among(&(5..=200)));
    let world = World { cloud: cloud.clone(), truth: Arc::default(), asked };
    let truth = world.truth.clone();
    cloud.watch(Box::new(move |event| lock(&truth).see(event)));
    for key in STRANGERS {
        let put =
            crate::cloud::Write::Put { body: Bytes::from_static(b"x"), metadata: UserMetadata::new(), create: true };
        cloud.land("stranger", INDEX, key, &put, None);
    }
    for n in 0..2 {
        let world = world.clone();
        supervise(&cloud, &format!("old{n}"), true, move |process| {
            pod(world.clone(), process, owner("old"), When::Hears)
        });
    }
    let next = world.clone();
    supervise(&cloud, "new0", true, move |process| pod(next.clone(), process, owner("new"), When::AfterTheFirst));
    let rival = world.clone();
    supervise(&cloud, &format!("{RIVAL}0"), true, move |process| {
        pod(rival.clone(), process, owner(RIVAL), When::WithTheFirst)
    });
    sleep(STORM).await;
    cloud.weather(|weather| *weather = Weather::calm());
    cloud.note("calm");
    let before = world.truth().standing().map(|manifest| manifest.next_seq);
    sleep(CALM).await;
    last_look(&world, before).await;
    for mark in world.truth().marks.clone() {
        cloud.mark(mark);
    }
    cloud
}

fn weather(seed: u64) -> Weather {
    Weather {
        network: 1..=200,
        landing: 0..=1_500,
        lost: 25,
        unheard: 30,
        late: 30,
        lateness: 0..=60_000,
        doubled: 30,
        conflict: 10,
        unread: 20,
        pause: if seed.is_multiple_of(2) { 10 } else { 3 },
        pauses: 1_000..=120_000,
        crash: if seed.is_multiple_of(3) { 2 } else { 8 },
        page: 2..=7,
        patience: 5_000,
        ..Weather::calm()
    }
}

/// Sweeps once more, and looks what is left.
async fn last_look(world: &World, before: Option<u64>) {
    let auditor = Process::new("auditor", false);
    let purge = world.purge(&auditor, &owner("old"));
    let (clock, log) = (world.clock(&auditor), world.log(&auditor));
    if let Err(error) = purge.run(&WriterIdentity("auditor".to_owned()), &clock, &log.entries, |_| ()).await {
        world.cloud.fail(format!("the index cannot be purged in calm weather: {error}"));
        return;
    }
    let objects = world.cloud.objects(INDEX);
    let truth = world.truth();
    let found = truth.at_rest(&objects.keys().map(String::as_str).collect(), before);
    drop(truth);
    if let Err(violation) = found {
        world.cloud.fail(violation);
    }
}

impl World {
    fn truth(&self) -> MutexGuard<'_, Truth> {
        lock(&self.truth)
    }

    fn store(&self, url: &str, bucket: &str, process: &Process) -> Store {
        let url = Url::parse(url).unwrap_or_else(|error| unreachable!("{error}"));
        Store::over(mutated(SimStore::new(&self.cloud, bucket, process)), url)
    }

    fn log(&self, process: &Process) -> Log {
        let bucket = if process.name().starts_with(RIVAL) { OTHER_LOG } else { LOG };
        Log::over(self.store(&format!("sim://{bucket}/"), bucket, process), Vec::new())
    }

    fn index(&self, process: &Process) -> Store {
        self.store(URL, INDEX, process)
    }

    fn clock(&self, process: &Process) -> Clock {
        Clock::new(self.log(process).stores(), process.name())
    }

    fn entropy(&self) -> Entropy {
        Entropy::seeded(self.cloud.state().dice.fork())
    }

    fn purge(&self, process: &Process, owner: &IndexOwner) -> IndexPurge {
        let root = RootChain::open(&self.log(process), self.entropy());
        IndexPurge::new(root, self.index(process), URL, owner.clone(), self.entropy())
    }

    async fn rest(&self, range: RangeInclusive<u64>) {
        let span = self.cloud.state().dice.among(&range);
        sleep(Duration::from_millis(span)).await;
    }

    /// A record that its writer was told is committed is the first that landed in its slot.
    fn committed(&self, who: &str, slot: &ChainRecord<Manifest>) {
        let place = (slot.state.generation.to_string(), slot.number);
        let landed = self.truth().slots.get(&place).cloned();
        if landed.as_ref() != Some(&slot.hash) {
            self.cloud.fail(format!("{who} was told that it committed record {place:?}, which is another one"));
        }
    }

    fn mark(&self, what: &'static str) {
        self.truth().marks.insert(what);
    }
}

impl Truth {
    fn see(&mut self, event: &Event) -> Result<(), String> {
        match event.bucket.as_str() {
            LOG => return self.see_root(event),
            OTHER_LOG => return Ok(()),
            _ => {}
        }
        if event.what == What::Deleted {
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

    fn recorded(&mut self, generation: &str, number: u64, event: &Event) -> Result<(), String> {
        if event.by == "stranger" {
            return Ok(());
        }
        if let Some(closing) = self.closed.get(generation).filter(|closing| number > **closing) {
            return Err(format!("{} wrote record {number} of {generation}, which record {closing} closed", event.by));
        }
        let place = (generation.to_owned(), number);
        if self.slots.contains_key(&place) {
            self.marks.insert("a zombie wrote in a slot that was deleted");
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
        let manifest: Manifest = state_of(&event.object.body).ok_or_else(|| format!("{place:?} is unreadable"))?;
        if manifest.is_purged() {
            self.closed.insert(generation.to_owned(), number);
        }
        self.slots.insert(place, hex::encode(Sha256::digest(&event.object.body)));
        self.latest.insert(generation.to_owned(), manifest);
        Ok(())
    }

    fn see_root(&mut self, event: &Event) -> Result<(), String> {
        let Some(number) = event.key.strip_prefix(".tidemark/root/").and_then(|name| name.parse().ok()) else {
            return Ok(());
        };
        if event.what == What::Deleted {
            return Err(format!("{} deleted record {number} of the root chain", event.by));
        }
        if self.root_slots.insert(number) {
            let root: RootState = state_of(&event.object.body).ok_or("the root is unreadable")?;
            let purged = root.purged.get(URL).and_then(|gone| gone.generation.number());
            self.off_register = self.off_register.max(purged.unwrap_or_default());
            self.registered |= root.indexes.contains_key(URL);
            if let Some(registered) = root.indexes.get(URL).filter(|known| known.generation.number() <= purged) {
                return Err(format!("{} registered {} again, which was purged", event.by, registered.generation));
            }
        }
        Ok(())
    }

    /// Nothing goes before its generation is closed and off the register, and nothing that is not exactly its own.
    fn deleted(&self, event: &Event) -> Result<(), String> {
        let key = &event.key;
        let refused = |why: &str| Err(format!("{} deleted \"{key}\", {why}", event.by));
        let Some((generation, rest)) = key.strip_prefix(PREFIX).and_then(|key| key.split_once('/')) else {
            return refused("which is not below the index");
        };
        if self.rivals.get(generation) == Some(&true) {
            return refused("which holds the records of another log");
        }
        let Some(closing) = self.closed.get(generation) else { return refused("although nothing closed the index") };
        let number = generation.strip_prefix('g').and_then(|number| number.parse().ok()).unwrap_or(u64::MAX);
        if number > self.off_register {
            return refused("although the index is on the register");
        }
        let boundary = self.boundaries.get(generation).copied().unwrap_or_default();
        let digits = |text: &str| (text.len() == 20).then(|| text.parse::<u64>().ok()).flatten();
        let parts: Vec<&str> = rest.split('/').collect();
        match parts[..] {
            ["segment" | "sidecar", name] if name.len() == 53 => Ok(()),
            ["manifest", name] if digits(name).is_some_and(|n| n < *closing && n <= boundary) => Ok(()),
            ["manifest", "boundary", name] if digits(name).is_some_and(|n| n < boundary) => Ok(()),
            _ => refused("which is a fence or means nothing to the catalog"),
        }
    }

    /// The newest manifest of the generation that is not closed.
    fn standing(&self) -> Option<&Manifest> {
        self.latest.values().find(|manifest| manifest.closed.is_none())
    }

    fn at_rest(&self, keys: &BTreeSet<&str>, before: Option<u64>) -> Result<(), String> {
        if let Some(gone) = STRANGERS.iter().find(|key| !keys.contains(*key)) {
            return Err(format!("\"{gone}\" is gone"));
        }
        // Where the other log was faster there is nothing to purge.
        if self.closed.is_empty() && self.rivals.get("g1") == Some(&false) {
            return Err("nothing was purged".to_owned());
        }
        for (generation, closing) in &self.closed {
            let chain = format!("{PREFIX}{generation}/manifest");
            let fence = [format!("{chain}/{closing:020}"), format!("{chain}/boundary/{:020}", closing - 1)];
            let below = format!("{PREFIX}{generation}/");
            let left = keys.iter().filter(|key| key.starts_with(&below) && !STRANGERS.contains(key));
            let left: BTreeSet<String> = left.map(|key| (*key).to_owned()).collect();
            if left != BTreeSet::from(fence) {
                return Err(format!("of {generation} is left: {left:?}"));
            }
        }
        let Some(standing) = self.standing() else { return Err("nobody has the prefix".to_owned()) };
        if Some(standing.next_seq) <= before {
            return Err(format!("no progress of the next owner: seq {}", standing.next_seq));
        }
        let missing = standing.objects().find(|key| !keys.contains(format!("{PREFIX}{key}").as_str()));
        missing.map_or(Ok(()), |key| Err(format!("\"{key}\" of the next owner is gone")))
    }
}

/// The state in a record's body, read without the code under test.
fn state_of<S: serde::de::DeserializeOwned>(body: &[u8]) -> Option<S> {
    serde_json::from_slice(body.split(|&byte| byte == b'\n').nth(1)?).ok()
}

fn lock(truth: &Mutex<Truth>) -> MutexGuard<'_, Truth> {
    truth.lock().unwrap_or_else(PoisonError::into_inner)
}

fn owner(name: &str) -> IndexOwner {
    let text = |text: &str| text.to_owned();
    IndexOwner::Resource { cluster: text("c"), namespace: text("n"), name: text(name), uid: text(name) }
}

/// When a pod comes, and whether it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// It comes at once, and hears of the purge some time after it was asked for.
    Hears,
    /// It comes when somebody has the prefix.
    AfterTheFirst,
    /// It comes about when the first do.
    WithTheFirst,
}

/// One life of an indexer's pod.
async fn pod(world: World, process: Process, owner: IndexOwner, when: When) -> End {
    let hears = when == When::Hears;
    let late = world.cloud.state().dice.among(&(0..=90_000));
    let heard = world.asked + Duration::from_millis(late);
    let heard = || hears && Duration::from_millis(world.cloud.elapsed()) >= heard;
    if heard() {
        return remove(&world, &process, &owner).await;
    }
    while when == When::AfterTheFirst && !world.truth().registered {
        sleep(Duration::from_secs(1)).await;
    }
    if when == When::WithTheFirst {
        world.rest(0..=20_000).await;
    }
    let chain = match open(&world, &process, &owner).await {
        Ok(chain) => chain,
        // It was purged by another process of the same owner.
        Err(CatalogError::Rejected(TransactionRejected::PurgedForOwner { .. })) => {
            world.mark("a purged owner was refused");
            return remove(&world, &process, &owner).await;
        }
        Err(error) => {
            if matches!(error, CatalogError::Rejected(TransactionRejected::OfAnotherLog { .. })) {
                world.mark("another log was refused");
            }
            return End::GaveUp(error.to_string());
        }
    };
    let (clock, log) = (world.clock(&process), world.log(&process));
    let identity = WriterIdentity(process.name().to_owned());
    let taking = chain.acquire(identity, &clock, &log.entries, |_| ());
    let waiting = async {
        while !heard() {
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
                return End::GaveUp(error.to_string());
            }
        },
    };
    let beating = clock.clone();
    let beat = AbortOnDropHandle::new(tokio::spawn(async move { heartbeat(&beating).await }));
    while !heard() {
        match publish(&world, &process, &mut writer_lease).await {
            Ok(slot) => world.committed(process.name(), &slot),
            Err(error) => {
                if world.truth().closed.contains_key(chain.generation().as_str()) {
                    world.mark("a writer met the purge");
                }
                return End::GaveUp(error.to_string());
            }
        }
        world.rest(1_000..=8_000).await;
    }
    drop(beat);
    let _ = writer_lease.release().await;
    remove(&world, &process, &owner).await
}

/// `PurgeBeforeClosing`: a process that deletes the index's objects first.
async fn delete_before_closing(world: &World, process: &Process) {
    let index = world.index(process);
    let listed: Vec<_> = index.list("g1/segment", None).try_collect().await.unwrap_or_default();
    let keys: Vec<String> = listed.into_iter().map(|object: ObjectInfo| object.key).collect();
    let _ = index.delete(&keys).await;
}

async fn remove(world: &World, process: &Process, owner: &IndexOwner) -> End {
    if Mutant::PurgeBeforeClosing.is_on() {
        delete_before_closing(world, process).await;
    }
    let purge = world.purge(process, owner);
    let (clock, log) = (world.clock(process), world.log(process));
    match purge.run(&WriterIdentity(process.name().to_owned()), &clock, &log.entries, |_| ()).await {
        Ok(swept) => {
            world.mark("purged");
            if swept.deleted == 0 {
                world.mark("purged by somebody else before");
            }
            End::Done
        }
        Err(PurgeError::Chain(CatalogError::Unknown { .. }) | PurgeError::Publish(PublishError::Unknown { .. })) => {
            world.mark("a purge with an unknown outcome");
            End::GaveUp("unknown".to_owned())
        }
        Err(error) => End::GaveUp(error.to_string()),
    }
}

async fn open(world: &World, process: &Process, owner: &IndexOwner) -> Result<IndexChain, CatalogError> {
    let root = RootChain::open(&world.log(process), world.entropy());
    let start: Generation = root.state().await?.generation_of(URL);
    let chain = IndexChain::open(&world.index(process), start, world.entropy()).for_log(&root).follow().await?;
    let registered =
        IndexRegistration { url: URL.to_owned(), owner: owner.clone(), generation: chain.generation().clone() };
    root.register(root.head().await?, &LogParameters::with_expiry(EXPIRY), URL, &registered, None).await?;
    Ok(chain)
}

/// Uploads a segment of one record and publishes it.
async fn publish(
    world: &World,
    process: &Process,
    writer_lease: &mut WriterLease,
) -> Result<ChainRecord<Manifest>, PublishError> {
    let state = writer_lease.manifest().state.clone();
    let name =
        ObjectName::new(&state.generation, ObjectKind::Segment, writer_lease.epoch(), &world.entropy()).to_string();
    let body = Bytes::from(name.clone());
    let put = world.index(process).create_resolved(&name, body, &UserMetadata::new()).await;
    if !matches!(put, Create::Committed) {
        return Err(PublishError::Unknown { key: name, why: "it was not uploaded".to_owned() });
    }
    let to = Cursor(state.cursor.second().next());
    let token = Token::new(state.cursor.second(), &world.entropy());
    let segment = SegmentMeta {
        size: name.len() as u64,
        key: name,
        checksum: String::new(),
        digest: SetDigest::of(token, 0, Outcome::Aborted, None),
        first: token,
        last: token,
        seq: state.next_seq..state.next_seq + 1,
        counts: RecordCounts { aborted: 1, ..RecordCounts::default() },
        documents: 1,
    };
    let publication = PublishRequest {
        from: state.cursor,
        to,
        horizon: to.second(),
        first_seq: state.next_seq,
        records: 1,
        segments: vec![segment],
        sidecars: Vec::new(),
    };
    writer_lease.publish(publication).await.cloned()
}

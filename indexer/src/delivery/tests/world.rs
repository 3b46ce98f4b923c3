//! A consumer's world: an index that holds numbered records, a destination with moods, a store with weather, and what has arrived.

mod destination;
mod store;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use futures::TryStreamExt as _;
use parking_lot::Mutex;
use tidemark_catalog::{ConsumerChain, ConsumerName, ConsumerPosition, Generation, IndexId, LogId, WriterIdentity};
use tidemark_crds::SinkReport;
use tidemark_store::{Entropy, Store, StoreClock};
use tidemark_wal::Token;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::delivery::{
    ack_window::WindowLimits,
    batch::BatchLimits,
    circuit_breaker::BreakerOptions,
    consumer_run::{ConsumerError, ConsumerRun},
    destination::{BatchAnswer, DeliveryTarget, RecordVerdict},
    pump::{DeliveryEnd, DeliveryOptions, RejectedPolicy},
    record::DeliveryRecord,
    source::{ChangePage, ChangeSource, SourceError},
};

pub(super) use destination::{DestinationMood, MOODS};
use store::WorldStore;
pub(super) use store::{StoreFault, StoreWeather, WEATHERS};

/// How many records the index holds at first.
pub(super) const OPERATIONS: u64 = 240;
/// The bounds on what is unacknowledged.
const WINDOW: WindowLimits = WindowLimits { operations: 40, bytes: 2000 };
const BATCH: BatchLimits = BatchLimits { operations: 12, bytes: 700, delay: Duration::from_millis(200) };
/// Bounds that hold all records at once.
const WIDE_WINDOW: WindowLimits = WindowLimits { operations: OPERATIONS, bytes: 1 << 20 };
const WIDE_BATCH: BatchLimits = BatchLimits { operations: 240, bytes: 1 << 20, delay: Duration::from_secs(5) };
/// One record in so many is poison.
const POISON: u64 = 29;

/// What a world is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct WorldOptions {
    /// Whether the destination answers for each item.
    pub(super) per_item: bool,
    /// Whether some records are never taken.
    pub(super) poison: bool,
    pub(super) rejected: RejectedPolicy,
    /// Whether window and batch hold all records at once.
    pub(super) is_wide: bool,
}

impl WorldOptions {
    fn window(self) -> WindowLimits {
        if self.is_wide { WIDE_WINDOW } else { WINDOW }
    }
}

/// What has arrived, and what is wrong with it.
#[derive(Debug, Default)]
struct Arrivals {
    /// How often each record has arrived.
    records: BTreeMap<u64, u64>,
    /// Records of which a later one had arrived before their first time.
    overtaken: Vec<u64>,
    /// What the present process has sent and has no verdict of, with its bytes.
    unanswered: BTreeMap<u64, u64>,
    /// Whether that was ever above the bounds.
    is_above_bounds: bool,
}

pub(super) struct DeliveryWorld {
    options: WorldOptions,
    objects: WorldStore,
    /// The same objects in fair weather: the view of the tests.
    store: Store,
    entropy: Entropy,
    published: AtomicU64,
    mood: Mutex<DestinationMood>,
    is_healed: Mutex<bool>,
    /// Whether the end of what is published cannot be read.
    is_end_hidden: AtomicBool,
    arrivals: Mutex<Arrivals>,
    reads: AtomicU64,
    tries: AtomicU64,
    last_acknowledged: AtomicU64,
    report: watch::Sender<SinkReport>,
}

impl DeliveryWorld {
    pub(super) fn new(seed: u64, options: WorldOptions) -> Self {
        let objects = WorldStore::new(seed);
        Self {
            options,
            store: objects.calm(),
            objects,
            entropy: Entropy::seeded(seed),
            published: AtomicU64::new(OPERATIONS),
            mood: Mutex::new(DestinationMood::Well),
            is_healed: Mutex::new(false),
            is_end_hidden: AtomicBool::new(false),
            arrivals: Mutex::default(),
            reads: AtomicU64::new(0),
            tries: AtomicU64::new(0),
            last_acknowledged: AtomicU64::new(0),
            report: watch::Sender::default(),
        }
    }

    /// A destination of its own beside the same index and consumer.
    pub(super) fn beside(&self) -> Self {
        let (objects, store) = (self.objects.clone(), self.store.clone());
        Self { objects, store, ..Self::new(self.number(u64::MAX), self.options) }
    }

    pub(super) fn chain(&self) -> ConsumerChain {
        self.chain_in(&self.store)
    }

    fn chain_in(&self, store: &Store) -> ConsumerChain {
        let name: ConsumerName = "orders".parse().unwrap();
        let (log, index) = (LogId("log".to_owned()), IndexId("index".to_owned()));
        ConsumerChain::open(store, &log, &index, &name, self.entropy.clone())
    }

    /// A process that delivers for the consumer.
    pub(super) fn process(&self, identity: &str) -> WorldProcess<'_> {
        let chain = self.chain_in(&self.objects.rough());
        let clock = chain.clock(&format!("{identity}-{}", self.entropy.nonce()));
        WorldProcess { world: self, chain, clock, identity: WriterIdentity(identity.to_owned()) }
    }

    fn number(&self, below: u64) -> u64 {
        u64::from_le_bytes(self.entropy.bytes()) % below
    }

    /// For how long a process lives.
    pub(super) fn random_span(&self) -> Duration {
        let most = [50, 2_000, 20_000, 120_000][usize::try_from(self.number(4)).unwrap()];
        Duration::from_millis(1 + self.number(most))
    }

    pub(super) fn set_mood(&self, mood: DestinationMood) {
        *self.mood.lock() = mood;
    }

    /// How the destination and the store are.
    pub(super) fn conditions(&self) -> (DestinationMood, StoreWeather) {
        (*self.mood.lock(), self.objects.weather())
    }

    /// What has befallen calls of the store, and how often.
    pub(super) fn store_faults(&self) -> BTreeMap<StoreFault, u64> {
        self.objects.faults()
    }

    pub(super) fn change_weather(&self) {
        // It is fair every second time.
        let weather = WEATHERS.get(usize::try_from(self.number(2 * WEATHERS.len() as u64)).unwrap());
        self.objects.set_weather(weather.copied().unwrap_or(StoreWeather::Fair));
    }

    pub(super) fn change_mood(&self) {
        let mood = MOODS[usize::try_from(self.number(MOODS.len() as u64)).unwrap()];
        self.set_mood(mood);
    }

    /// What was poison is none any more.
    pub(super) fn heal(&self) {
        *self.is_healed.lock() = true;
    }

    /// From now on the end of what is published cannot be read, or can be again.
    pub(super) fn hide_end(&self, is_hidden: bool) {
        self.is_end_hidden.store(is_hidden, Ordering::Relaxed);
    }

    pub(super) fn publish(&self, more: u64) {
        self.published.fetch_add(more, Ordering::Relaxed);
    }

    fn is_poison(&self, seq: u64) -> bool {
        self.options.poison && !*self.is_healed.lock() && seq.is_multiple_of(POISON)
    }

    pub(super) fn first_poison() -> u64 {
        POISON
    }

    /// The most records of a batch.
    pub(super) fn batch_operations() -> u64 {
        BATCH.operations as u64
    }

    pub(super) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// What the present process reports.
    pub(super) fn report(&self) -> SinkReport {
        self.report.borrow().clone()
    }

    pub(super) fn tries(&self) -> u64 {
        self.tries.load(Ordering::Relaxed)
    }

    pub(super) fn arrived(&self) -> BTreeSet<u64> {
        self.arrivals.lock().records.keys().copied().collect()
    }

    pub(super) async fn until_arrived(&self, count: u64) {
        while (self.arrivals.lock().records.len() as u64) < count {
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub(super) async fn acknowledged(&self) -> u64 {
        self.chain().latest().await.unwrap().map_or(0, |latest| latest.state.acknowledged.seq)
    }

    pub(super) async fn epochs(&self) -> u64 {
        self.chain().latest().await.unwrap().map_or(0, |latest| latest.state.epoch)
    }

    pub(super) async fn is_released(&self) -> bool {
        self.chain().latest().await.unwrap().is_some_and(|latest| latest.state.holder.is_none())
    }

    async fn dead_letter_seqs(&self) -> BTreeSet<u64> {
        let objects: Vec<_> = self.store.list("consumers/orders/dead-letters", None).try_collect().await.unwrap();
        let seq = |key: &str| key.rsplit('/').next()?.strip_suffix(".json")?.parse().ok();
        objects.iter().filter_map(|object| seq(&object.key)).collect()
    }

    pub(super) async fn dead_letters(&self) -> usize {
        self.dead_letter_seqs().await.len()
    }

    pub(super) async fn is_done(&self) -> bool {
        self.acknowledged().await == self.published.load(Ordering::Relaxed)
    }

    pub(super) async fn describe(&self) -> String {
        format!("{} acknowledged, mood {:?}, {:?}", self.acknowledged().await, self.mood.lock(), self.arrivals.lock())
    }

    /// What must hold at any time.
    pub(super) async fn check(&self) -> Result<(), String> {
        let acknowledged = self.acknowledged().await;
        let before = self.last_acknowledged.swap(acknowledged, Ordering::Relaxed);
        if acknowledged < before {
            return Err(format!("the position went back from {before} to {acknowledged}"));
        }
        let mut done = self.dead_letter_seqs().await;
        let rejects_all = matches!(*self.mood.lock(), DestinationMood::RejectsAll | DestinationMood::RejectsMost);
        if let Some(wrong) = done.iter().find(|seq| !rejects_all && !self.is_poison(**seq)) {
            return Err(format!("record {wrong} was put aside, and is no poison"));
        }
        let arrivals = self.arrivals.lock();
        done.extend(arrivals.records.keys());
        if let Some(missing) = (1..=acknowledged).find(|seq| !done.contains(seq)) {
            return Err(format!("record {missing} is acknowledged ({acknowledged}) and has not arrived"));
        }
        if !self.options.per_item && !arrivals.overtaken.is_empty() {
            return Err(format!("records {:?} were overtaken", arrivals.overtaken));
        }
        if arrivals.is_above_bounds {
            return Err("more was unacknowledged than may be".to_owned());
        }
        Ok(())
    }

    pub(super) async fn check_all_arrived(&self) -> Result<(), String> {
        self.check().await?;
        let state = self.chain().latest().await.unwrap().unwrap().state;
        let (last, poison) = (self.published.load(Ordering::Relaxed), self.dead_letter_seqs().await.len() as u64);
        if state.acknowledged.seq != last {
            return Err(format!("{} of {last} are acknowledged", state.acknowledged.seq));
        }
        if (state.delivered, state.dead_lettered) != (last - poison, poison) {
            return Err(format!("{state:?} counts others than {last} records with {poison} dead letters"));
        }
        Ok(())
    }

    fn record(seq: u64) -> DeliveryRecord {
        let mut token = [0; 20];
        token[12..].copy_from_slice(&seq.to_be_bytes());
        DeliveryRecord {
            position: at(seq),
            token: Token::from_bytes(token),
            op: 0,
            time: jiff::Timestamp::UNIX_EPOCH,
            entity: None,
            json: format!("{{\"seq\":{seq},\"text\":\"{}\"}}", "x".repeat(usize::try_from(seq % 40).unwrap())).into(),
        }
    }

    fn arrive(&self, record: &DeliveryRecord) {
        let seq = record.seq();
        let mut arrivals = self.arrivals.lock();
        let is_late = arrivals.records.last_key_value().is_some_and(|(last, _)| *last > seq);
        if is_late && !arrivals.records.contains_key(&seq) && !self.is_poison(seq) {
            arrivals.overtaken.push(seq);
        }
        *arrivals.records.entry(seq).or_default() += 1;
        drop(arrivals);
    }

    /// The records are on their way.
    fn send(&self, batch: &[DeliveryRecord]) {
        let mut arrivals = self.arrivals.lock();
        arrivals.unanswered.extend(batch.iter().map(|record| (record.seq(), record.bytes())));
        let (operations, bytes) = (arrivals.unanswered.len() as u64, arrivals.unanswered.values().sum::<u64>());
        let window = self.options.window();
        let is_within = operations <= window.operations && (bytes <= window.bytes || operations == 1);
        arrivals.is_above_bounds |= !is_within;
    }

    /// The process hears of them what `answer` says.
    fn answer(&self, batch: &[DeliveryRecord], answer: BatchAnswer) -> BatchAnswer {
        let mut arrivals = self.arrivals.lock();
        if let ([record], BatchAnswer::Refused { .. }) = (batch, &answer) {
            // Poison: it is put aside, or it is on its way again before all others.
            arrivals.unanswered.remove(&record.seq());
        }
        if let BatchAnswer::Answered(verdicts) = &answer {
            let ended =
                batch.iter().zip(verdicts).filter(|(_, verdict)| !matches!(verdict, RecordVerdict::Retry { .. }));
            for (record, _) in ended {
                arrivals.unanswered.remove(&record.seq());
            }
        }
        answer
    }
}

fn at(seq: u64) -> ConsumerPosition {
    ConsumerPosition { generation: Generation::first(), seq }
}

#[async_trait]
impl ChangeSource for DeliveryWorld {
    /// As the feed: pages end early now and then, and the filter leaves out each seventh record.
    async fn page(&self, after: &ConsumerPosition, limit: usize, wait: Duration) -> Result<ChangePage, SourceError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(5)).await;
        if self.number(20) == 0 {
            return Err(SourceError::Transient("busy".to_owned()));
        }
        let until = Instant::now() + wait;
        while self.published.load(Ordering::Relaxed) <= after.seq && Instant::now() < until {
            sleep(Duration::from_millis(100).min(until - Instant::now())).await;
        }
        let end = self.published.load(Ordering::Relaxed);
        let limit = (limit as u64).min(1 + self.number(30));
        let last = end.min(after.seq + limit);
        let records = (after.seq + 1..=last).map(Self::record).collect();
        Ok(ChangePage { records, next: at(last.max(after.seq)), more: last < end, end: at(end) })
    }

    async fn end(&self) -> Result<ConsumerPosition, SourceError> {
        if self.is_end_hidden.load(Ordering::Relaxed) {
            return Err(SourceError::Transient("busy".to_owned()));
        }
        Ok(at(self.published.load(Ordering::Relaxed)))
    }
}

/// A process of the consumer.
pub(super) struct WorldProcess<'a> {
    world: &'a DeliveryWorld,
    chain: ConsumerChain,
    clock: StoreClock,
    identity: WriterIdentity,
}

impl WorldProcess<'_> {
    pub(super) async fn run(&self, stop: &CancellationToken) -> Result<DeliveryEnd, ConsumerError> {
        let options = DeliveryOptions {
            batch: if self.world.options.is_wide { WIDE_BATCH } else { BATCH },
            window: self.world.options.window(),
            breaker: BreakerOptions { failures: 3, open_for: Duration::from_secs(30) },
            rejected: self.world.options.rejected,
            follow: true,
        };
        let target = DeliveryTarget::Destination(Box::new(self.world));
        let run = ConsumerRun {
            chain: &self.chain,
            identity: self.identity.clone(),
            clock: &self.clock,
            source: self.world,
            target: &target,
            options,
            entropy: self.world.entropy.clone(),
            report: &self.world.report,
        };
        self.world.arrivals.lock().unanswered.clear();
        run.run(&at(0), stop).await
    }
}

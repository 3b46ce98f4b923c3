//! Days of store time: what an index keeps and asks for does not grow.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tidemark_catalog::Manifest;
use tidemark_ingest::{
    IngestOptions, LatestCommit, OperationRecord, WriterKey,
    engine::{EngineError, IndexEngine, IndexLookup, RecordedOutcome, UnsettledOperation, UnsettledQuery},
    engine_decorator::EngineDecorator,
    model_engine::ModelEngine,
};
use tidemark_store::Store;
use tidemark_wal::Token;

use super::{
    MINUTE,
    world::{EntryDraft, IngestWorld, StoreCost, small_batches},
};

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
/// Parts of a day.
const PARTS: u64 = 4;
/// Entries in a part.
const ENTRIES: u64 = 2_160;
const BUSY_PAUSE: Duration = Duration::from_secs(10);

/// The bounds are those of the table in the catalog's README, section 7.3.
#[tokio::test(start_paused = true)]
async fn an_idle_log_keeps_and_asks_for_the_same_on_every_day() {
    let world = IngestWorld::new(IngestOptions::default()).await;
    let running = world.start();
    world.pass(2 * DAY).await;
    let mut days = Vec::new();
    for _ in 0..5 {
        days.push(world.cost_of("", world.pass(DAY)).await);
    }
    println!("{days:#?}");
    // The goal for a log with one metadata store, heartbeat, horizon, trimming and collection of garbage included.
    assert!(days.iter().all(|day| day.requests <= 25 * 24 * 60), "{days:?}");
    assert!(days.iter().all(|day| day.written_bytes <= 1_600_000), "{days:?}");
    // At most 127 records of the index's chain and as many of the collectors'; some boundaries, clock objects and the root.
    assert!(days.iter().all(|day| day.kept.0 <= 280 && day.kept.1 <= 200_000), "{days:?}");
    // A year is 365 times the last of these days: no day costs more than the one before it.
    for [least, most] in [extremes(&days, |day| day.requests), extremes(&days, |day| day.written_bytes)] {
        assert!((most - least) * 100 <= most, "{least} to {most} a day: {days:?}");
    }
    world.stop(running).await;
}

fn extremes(days: &[StoreCost], figure: fn(&StoreCost) -> u64) -> [u64; 2] {
    let figures = days.iter().map(figure);
    [figures.clone().min().unwrap(), figures.max().unwrap()]
}

/// Each pod leaves a clock object in every store, and no pod comes back under the same name.
#[tokio::test(start_paused = true)]
async fn clock_objects_of_pods_that_are_gone_do_not_pile_up() {
    let world = IngestWorld::new(IngestOptions::default()).await;
    for store in ["log", "metadata"] {
        for pod in 0..50 {
            world.bucket.plant(&format!("{store}/.tidemark/clock/pod-{pod}"), "", world.ago(0));
        }
    }
    let running = world.start();
    world.pass(22 * HOUR).await;
    let clocks = || ["log", "metadata"].map(|store| world.bucket.kept(&format!("{store}/.tidemark/clock/")).0);
    assert_eq!(clocks(), [51, 51]);
    world.pass(4 * HOUR).await;
    assert_eq!(clocks(), [1, 1]);
    world.stop(running).await;
}

/// An entry, hence a publication, every ten seconds: a day with ten times as many costs ten times that.
#[tokio::test(start_paused = true)]
async fn a_busy_log_costs_the_same_for_each_publication_all_day() {
    let world =
        IngestWorld::with_engine(IngestOptions::default(), Box::new(|store| Arc::new(RecentEngine::new(store)))).await;
    let running = world.start();
    let mut parts = Vec::new();
    for part in 0..PARTS {
        let append = async {
            for number in 0..ENTRIES {
                world.append(world.ago(0), &EntryDraft::entity(part * ENTRIES + number));
                world.pass(BUSY_PAUSE).await;
            }
        };
        parts.push(world.cost_of("index/", append).await);
    }
    println!("{parts:#?}");
    // Of a publication of one entry: its entry, its segment, a tenth of some merges, the manifest, probes and audits.
    assert!(parts.iter().all(|part| part.requests <= 40 * ENTRIES), "{parts:?}");
    assert!(parts.iter().all(|part| part.written_bytes <= 15_000 * ENTRIES), "{parts:?}");
    // An hour's manifests; what merges replaced, which goes after two days; the segments.
    assert!(parts.iter().all(|part| part.kept.0 <= 12_000 && part.kept.1 <= 20_000_000), "{parts:?}");
    let [least, most] = extremes(&parts[1..], |part| part.requests);
    assert!((most - least) * 10 <= most, "{least} to {most}: {parts:?}");
    world.stop(running).await;
    let manifest = world.manifest().await;
    assert!(manifest.next_seq > PARTS * ENTRIES - 100, "{} records", manifest.next_seq);
}

/// An engine that reads each segment's records once, as long as one process publishes, and no entry is corrected, names an
/// entity twice or has a key. The model reads the whole index for each publication.
struct RecentEngine {
    model: ModelEngine,
    known: Arc<Mutex<KnownRecords>>,
}

#[derive(Default)]
struct KnownRecords {
    next_seq: u64,
    outcomes: BTreeMap<Token, Vec<RecordedOutcome>>,
}

/// What its engine has read by now.
struct RecentLookup(Arc<Mutex<KnownRecords>>);

impl RecentEngine {
    fn new(store: Store) -> Self {
        Self { model: ModelEngine::new(store), known: Arc::default() }
    }
}

#[async_trait]
impl IndexLookup for RecentLookup {
    async fn recorded_outcomes(&self, tokens: &[Token]) -> Result<Vec<Vec<RecordedOutcome>>, EngineError> {
        let known = self.0.lock();
        Ok(tokens.iter().map(|token| known.outcomes.get(token).cloned().unwrap_or_default()).collect())
    }

    async fn latest_commits(&self, entities: &[String]) -> Result<Vec<Option<LatestCommit>>, EngineError> {
        Ok(vec![None; entities.len()])
    }

    async fn first_commits(&self, keys: &[WriterKey]) -> Result<Vec<Option<(Token, u32)>>, EngineError> {
        Ok(vec![None; keys.len()])
    }

    async fn unsettled_operations(&self, _: &UnsettledQuery) -> Result<Vec<UnsettledOperation>, EngineError> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl EngineDecorator for RecentEngine {
    fn inner(&self) -> &dyn IndexEngine {
        &self.model
    }

    async fn open(&self, manifest: &Manifest) -> Result<Arc<dyn IndexLookup>, EngineError> {
        let next = self.known.lock().next_seq;
        for segment in manifest.segments.iter().filter(|segment| segment.seq.end > next) {
            let records = self.model.records(segment, next..segment.seq.end).await?;
            let mut known = self.known.lock();
            for OperationRecord { token, op, seq, decision, .. } in records {
                let recorded = RecordedOutcome { op, seq, outcome: decision.outcome, corrected: false };
                known.outcomes.entry(token).or_default().push(recorded);
            }
            known.next_seq = segment.seq.end;
        }
        Ok(Arc::new(RecentLookup(self.known.clone())))
    }
}
#[tokio::test(start_paused = true)]
async fn what_compaction_replaces_is_gone_two_days_later() {
    let world = IngestWorld::new(small_batches()).await;
    let running = world.start();
    for number in 0..5 * 48 {
        world.append(world.ago(0), &EntryDraft::entity(number));
        world.pass(30 * MINUTE).await;
    }
    let manifest = world.manifest().await;
    assert!(manifest.epoch >= 5, "the writer raises its epoch every day: {}", manifest.epoch);
    let named: BTreeSet<String> = manifest.objects().map(|key| format!("index/{key}")).collect();
    let kept = world.bucket.keys();
    assert!(named.iter().all(|key| kept.contains(key)), "the index names what is gone");
    // An epoch lasts a day, the grace another, and a pass comes within an hour.
    let old = world.ago((2 * DAY + 2 * HOUR).as_secs());
    let garbage = kept.iter().filter(|key| key.contains("/segment/") && !named.contains(*key));
    let garbage: Vec<_> = garbage.collect();
    assert!(!garbage.is_empty(), "nothing was compacted in the last day");
    // A segment is replaced some time after it was written: those of the first two days have long been.
    let leaked: Vec<_> = garbage.iter().filter(|key| world.bucket.time(key) < old.before(DAY)).collect();
    assert!(leaked.is_empty(), "{leaked:?}");
    world.stop(running).await;
    world.check().await;
}

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
    IngestOptions, KeyNeighbors, KeyedOperation, LatestCommit, OperationRecord,
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
/// Runs an idle index for `count` days, and checks that it costs the same on each of them from the second one on. The bounds are
/// those of the table in the catalog's README, section 7.3.
async fn check_idle_days(count: usize) {
    let world = IngestWorld::new(IngestOptions::default()).await;
    let running = world.start();
    world.pass(DAY).await;
    let mut days = Vec::new();
    for _ in 1..count {
        days.push(world.cost_of("", world.pass(DAY)).await);
    }
    print(&days);
    // The goal for a log with one metadata store, heartbeat, horizon, trimming and collection of garbage included.
    assert!(days.iter().all(|day| day.requests <= 25 * 24 * 60), "{days:?}");
    assert!(days.iter().all(|day| day.written_bytes <= 1_700_000), "{days:?}");
    // At most 127 records of the index's chain and as many of the collectors'; some boundaries, clock objects and the root.
    assert!(days.iter().all(|day| day.kept.0 <= 280 && day.kept.1 <= 200_000), "{days:?}");
    // A heartbeat every 15 s and a probe a minute; a probe a minute; a publication a minute, and two records of a pass an hour.
    assert!(days.iter().all(|day| is_within(day.puts, [7_000, 1_500, 1_550])), "{days:?}");
    check_same(&days, &FIGURES, 2);
    world.stop(running).await;
}

/// A figure of a cost, with its name.
type CostFigure = (&'static str, fn(&StoreCost) -> u64);

/// Those that must not grow with time.
const FIGURES: [CostFigure; 5] = [
    ("requests", |cost| cost.requests),
    ("puts in the log's store", |cost| cost.puts[0]),
    ("puts in the metadata store", |cost| cost.puts[1]),
    ("puts in the index's store", |cost| cost.puts[2]),
    ("bytes written", |cost| cost.written_bytes),
];

fn is_within(puts: [u64; 3], bounds: [u64; 3]) -> bool {
    puts.iter().zip(bounds).all(|(puts, bound)| *puts <= bound)
}

/// No part costs over `percent` less than another one.
fn check_same(parts: &[StoreCost], figures: &[CostFigure], percent: u64) {
    for (name, figure) in figures {
        let [least, most] = extremes(parts, *figure);
        assert!((most - least) * 100 <= most * percent, "{name}: {least} to {most}: {parts:?}");
    }
}

/// The figures of the README's table.
fn print(parts: &[StoreCost]) {
    let kept: [CostFigure; 2] = [("objects kept", |cost| cost.kept.0 as u64), ("bytes kept", |cost| cost.kept.1)];
    for (name, figure) in FIGURES.into_iter().chain(kept) {
        let ([least, most], sum) = (extremes(parts, figure), parts.iter().map(figure).sum::<u64>());
        println!("{name}: {least} to {most}, in all {sum}; the last {}", parts.last().map_or(0, figure));
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_index_costs_on_the_tenth_day_what_it_costs_on_the_second() {
    check_idle_days(10).await;
}

#[tokio::test(start_paused = true)]
#[ignore = "takes minutes; 'make long' runs it"]
async fn an_idle_index_costs_the_same_on_every_day_of_a_year() {
    check_idle_days(365).await;
}

fn extremes(parts: &[StoreCost], figure: fn(&StoreCost) -> u64) -> [u64; 2] {
    let figures = parts.iter().map(figure);
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

/// Runs an index to whose log an entry is appended every second, which makes a publication a second, and checks that each costs
/// the same in every part of `span` after the first one. The bounds are those of the table in the catalog's README,
/// section 7.3.
async fn check_busy_parts(parts: u64, span: Duration) {
    let world =
        IngestWorld::with_engine(IngestOptions::default(), Box::new(|store| Arc::new(RecentEngine::new(store)))).await;
    let running = world.start();
    let entries = span.as_secs();
    let mut costs = Vec::new();
    for part in 0..parts {
        let append = async {
            for number in 0..entries {
                world.append(world.ago(0), &EntryDraft::entity(part * entries + number));
                world.pass(Duration::from_secs(1)).await;
            }
        };
        costs.push(world.cost_of("index/", append).await);
    }
    print(&costs);
    // Of a publication of one entry: the entry, its segment, a share of some compactions, the manifest, probes and audits.
    assert!(costs.iter().all(|part| part.requests <= 16 * entries), "{costs:?}");
    assert!(costs.iter().all(|part| part.written_bytes <= 18_000 * entries), "{costs:?}");
    // A probe in the log's store and in that of the metadata; a segment and a manifest in the index's, and a share of some compactions.
    let bounds = [entries * 11 / 10, entries * 11 / 10, entries * 22 / 10];
    assert!(costs.iter().all(|part| is_within(part.puts, bounds)), "{costs:?}");
    // In the first part some audits are not due yet. The bytes of compactions are not the same in each.
    check_same(&costs[1..], &FIGURES[..4], 5);
    // An hour's manifests; what compactions replaced, which goes after two days; the segments.
    let (published, (objects, bytes)) = (parts * entries, world.bucket.kept("index/"));
    assert!(objects as u64 <= 4_000 + published * 11 / 10, "{objects} objects");
    assert!(bytes <= 40_000_000 + published * 2_200, "{bytes} bytes");
    world.stop(running).await;
    let manifest = world.manifest().await;
    // The last entries are not sealed yet.
    assert!(manifest.next_seq + 100 > published, "{} of {published} records", manifest.next_seq);
}

#[tokio::test(start_paused = true)]
async fn a_busy_index_costs_the_same_for_each_publication_of_two_hours() {
    check_busy_parts(4, HOUR / 2).await;
}

#[tokio::test(start_paused = true)]
#[ignore = "takes minutes; 'make long' runs it"]
async fn a_busy_index_costs_the_same_for_each_publication_of_a_day() {
    check_busy_parts(24, HOUR).await;
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

    async fn key_neighbors(&self, operations: &[KeyedOperation]) -> Result<Vec<KeyNeighbors>, EngineError> {
        Ok(vec![KeyNeighbors::default(); operations.len()])
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

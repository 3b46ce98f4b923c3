//! A drain that fails within one second: nothing of it can be published, and it is not read again and again.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use tidemark_catalog::Manifest;
use tidemark_ingest::{
    IngestOptions, KeyNeighbors, KeyedOperation, LatestCommit,
    engine::{
        EngineError, IndexEngine, IndexLookup, RecordedOutcome, SegmentBuilder, UnsettledOperation, UnsettledQuery,
    },
    engine_decorator::EngineDecorator,
    model_engine::ModelEngine,
};
use tidemark_wal::{Outcome, Token};

use super::{
    MINUTE,
    add_hook_builder::AddHookBuilder,
    fake_bucket::BadRead,
    world::{EntryDraft, IngestWorld},
};

const ENTRIES: u64 = 3_000;
/// Entries of one second that cannot be read: of the same minute, and fewer than are read at once.
const BAD_ENTRIES: u64 = 20;

/// Entries of one second; gives how their keys begin.
fn append_second(world: &IngestWorld, ago: u64) -> String {
    let second = world.ago(ago);
    for number in 0..ENTRIES {
        world.append(second, &EntryDraft::entity(number).key(&number.to_string()));
    }
    format!("log/{}", &Token::first_of(second).to_string()[..5])
}

#[tokio::test(start_paused = true)]
async fn a_descriptor_that_cannot_be_read_lets_nothing_else_of_its_second_be_read_again() {
    let world = IngestWorld::new(IngestOptions::default()).await;
    let entries = append_second(&world, 100);
    let broken = world.append(world.ago(100), &EntryDraft::bundle("broken"));
    world.describe("broken", world.ago(100));
    world.bucket.fail(Some("broken"));
    let running = world.start();
    world.pass(60 * MINUTE).await;
    let reads = world.bucket.reads(&entries);
    assert!(reads < ENTRIES + 1_000, "{reads} reads of {ENTRIES} entries within an hour");
    assert_eq!(world.manifest().await.totals.records, 0);
    assert!(world.status().problem.unwrap().message.contains("broken"));

    world.bucket.fail(None);
    world.pass(3 * MINUTE).await;
    assert_eq!(world.check().await.records.len() as u64, ENTRIES + 1);
    assert!(world.outcomes().await.contains_key(&broken));
    let reads = world.bucket.reads(&entries);
    assert!(reads < 2 * ENTRIES + 1_000, "{reads} reads of {ENTRIES} entries in all");
    world.stop(running).await;
}

/// Nothing of its folder is read, so that it is not judged.
#[tokio::test(start_paused = true)]
async fn a_descriptor_that_is_refused_lets_nothing_else_of_its_second_be_read_again() {
    let world = IngestWorld::new(IngestOptions::default()).await;
    let entries = append_second(&world, 100);
    world.append(world.ago(100), &EntryDraft::bundle("broken"));
    world.describe("broken", world.ago(100));
    world.bucket.spoil(Some(("broken", BadRead::Refused)));
    let running = world.start();
    world.pass(60 * MINUTE).await;
    let reads = world.bucket.reads(&entries);
    assert!(reads < ENTRIES + 1_000, "{reads} reads of {ENTRIES} entries within an hour");
    assert_eq!(world.manifest().await.totals.records, 0);
    world.bucket.spoil(None);
    world.pass(3 * MINUTE).await;
    assert_eq!(world.check().await.records.len() as u64, ENTRIES + 1);
    let reads = world.bucket.reads(&entries);
    assert!(reads < 2 * ENTRIES + 1_000, "{reads} reads of {ENTRIES} entries in all");
    world.stop(running).await;
}

/// Reads of the entries below `entries`, but for those of `bad`.
fn reads_of_others(world: &IngestWorld, entries: &str, bad: &[Token]) -> u64 {
    world.bucket.reads(entries) - reads_of(world, bad)
}

fn reads_of(world: &IngestWorld, tokens: &[Token]) -> u64 {
    tokens.iter().map(|token| world.bucket.reads(&format!("log/{token}"))).sum()
}

#[tokio::test(start_paused = true)]
async fn entries_of_one_second_that_fail_for_good_are_judged_together() {
    for kind in [BadRead::Fails, BadRead::Refused] {
        let world = IngestWorld::new(IngestOptions::default()).await;
        let entries = append_second(&world, 100);
        let append = |number| world.append(world.ago(100), &EntryDraft::entity(ENTRIES + number));
        let bad: Vec<Token> = (0..BAD_ENTRIES).map(append).collect();
        for token in &bad {
            world.bucket.spoil(Some((&token.to_string(), kind)));
        }
        let running = world.start();
        // Twenty attempts take one of them eight minutes or so.
        world.pass(30 * MINUTE).await;
        assert_eq!(world.check().await.records.len() as u64, ENTRIES + BAD_ENTRIES, "{kind:?}");
        let outcomes = world.outcomes().await;
        assert!(bad.iter().all(|token| outcomes[token] == [Outcome::Unreadable]), "{kind:?}");
        let reads = reads_of_others(&world, &entries, &bad);
        assert!(reads < 2 * ENTRIES + 1_000, "{kind:?}: {reads} reads of {ENTRIES} entries");
        world.stop(running).await;
    }
}

/// Some entries of a second become readable, some go on failing, one is refused, and nothing of their folder proves that it is
/// their fault.
#[tokio::test(start_paused = true)]
async fn of_the_failing_entries_of_a_second_only_those_that_still_fail_are_read_again() {
    let world = IngestWorld::new(IngestOptions::default()).await;
    let entries = append_second(&world, 100);
    let append = |bundle: String, described: u64, bad: BadRead| {
        world.describe(&bundle, world.ago(described));
        world.bucket.spoil(Some((&format!("/{bundle}/"), bad)));
        world.append(world.ago(100), &EntryDraft::bundle(&bundle))
    };
    // Older than the others, of which they prove nothing.
    let mended: Vec<Token> = (0..5).map(|n| append(format!("mended{n}"), 100, BadRead::Fails)).collect();
    let mut bad: Vec<Token> = (5..BAD_ENTRIES).map(|n| append(format!("failing{n}"), 98, BadRead::Fails)).collect();
    bad.push(append("refused".to_owned(), 98, BadRead::Refused));
    let all = [&mended[..], &bad].concat();
    let running = world.start();
    world.pass(60 * MINUTE).await;
    let reads = reads_of_others(&world, &entries, &all);
    assert!(reads < ENTRIES + 1_000, "{reads} reads of {ENTRIES} entries within an hour");

    (0..5).for_each(|n| world.bucket.mend(&format!("/mended{n}/")));
    world.pass(30 * MINUTE).await;
    let before = [reads_of(&world, &mended), reads_of(&world, &bad), reads_of_others(&world, &entries, &all)];
    world.pass(60 * MINUTE).await;
    let after = [reads_of(&world, &mended), reads_of(&world, &bad), reads_of_others(&world, &entries, &all)];
    assert_eq!([before[0], before[2]], [after[0], after[2]], "what became readable is not read again");
    assert!(after[1] >= before[1] + 10 * bad.len() as u64, "each of the others is tried: {before:?}, {after:?}");
    assert_eq!(world.manifest().await.totals.records, 0);

    // It proves that the store gives bundles.
    world.describe("proof", world.bucket.now());
    world.pass(30 * MINUTE).await;
    let contents = world.check().await;
    assert_eq!(contents.records.len() as u64, ENTRIES + all.len() as u64);
    let judged = |token: &Token| {
        let record = contents.records.values().find(|record| record.token == *token).unwrap();
        assert_eq!(record.decision.outcome, Outcome::Committed);
        record.reason.is_some()
    };
    assert!(!mended.iter().any(judged) && bad.iter().all(judged));
    let reads = reads_of_others(&world, &entries, &all);
    assert!(reads < 2 * ENTRIES + 1_000, "{reads} reads of {ENTRIES} entries in all");
    world.stop(running).await;
}

/// Also where the second of the obstacle has more entries than are held back, so that they are in one batch with those before it.
#[tokio::test(start_paused = true)]
async fn whole_seconds_before_an_obstacle_are_published_while_it_stays() {
    for count in [0, ENTRIES] {
        let world = IngestWorld::new(IngestOptions::default()).await;
        for number in 0..10 {
            world.append(world.ago(150 + number), &EntryDraft::entity(number));
        }
        let second = world.ago(100);
        for number in 0..count {
            world.append(second, &EntryDraft::entity(number));
        }
        world.append(second, &EntryDraft::bundle("broken"));
        world.describe("broken", second);
        world.bucket.fail(Some("broken"));
        let running = world.start();
        world.pass(10 * MINUTE).await;
        let manifest = world.manifest().await;
        assert_eq!((manifest.totals.records, manifest.cursor.second()), (10, second), "before {count} entries");
        assert!(world.status().problem.unwrap().message.contains("broken"));
        world.stop(running).await;
    }
}

#[tokio::test(start_paused = true)]
async fn whole_seconds_before_an_unanswered_question_are_published_while_it_stays() {
    let (world, fault) = faulty_world(EngineFault::Lookup).await;
    for number in 0..10 {
        world.append(world.ago(150 + number), &EntryDraft::entity(number));
    }
    let second = world.ago(100);
    append_second(&world, 100);
    fault.store(true, Ordering::Relaxed);
    let running = world.start();
    world.pass(10 * MINUTE).await;
    let manifest = world.manifest().await;
    assert_eq!((manifest.totals.records, manifest.cursor.second()), (10, second));
    assert!(world.status().problem.unwrap().message.contains("damaged"));
    world.stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn an_obstacle_that_stays_makes_no_later_batch_shorter() {
    let options = IngestOptions { batch_records: 1_000, compaction: false, ..IngestOptions::default() };
    let world = IngestWorld::new(options).await;
    world.append(world.ago(400), &EntryDraft::bundle("broken"));
    world.describe("broken", world.ago(400));
    for number in 0..300 {
        world.append(world.ago(399 - number), &EntryDraft::entity(number));
    }
    world.bucket.fail(Some("broken"));
    let running = world.start();
    world.pass(60 * MINUTE).await;
    assert_eq!(world.manifest().await.totals.records, 0);
    world.bucket.fail(None);
    let puts = world.bucket.puts("index");
    world.pass(3 * MINUTE).await;
    assert_eq!(world.check().await.records.len(), 301);
    let puts = world.bucket.puts("index") - puts;
    assert!(puts < 20, "{puts} objects are put for one batch");
    world.stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn a_question_that_the_index_does_not_answer_is_asked_again_alone() {
    let (world, fault) = faulty_world(EngineFault::Lookup).await;
    let entries = append_second(&world, 100);
    fault.store(true, Ordering::Relaxed);
    let running = world.start();
    world.pass(60 * MINUTE).await;
    let reads = world.bucket.reads(&entries);
    assert!(reads <= ENTRIES, "{reads} reads of {ENTRIES} entries within an hour");
    assert!(world.status().problem.unwrap().message.contains("damaged"));
    fault.store(false, Ordering::Relaxed);
    world.pass(MINUTE).await;
    assert_eq!(world.check().await.records.len() as u64, ENTRIES);
    world.stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn the_pause_grows_to_minutes_while_all_of_a_second_must_be_read_again() {
    let (world, fault) = faulty_world(EngineFault::Builder).await;
    let entries = append_second(&world, 100);
    fault.store(true, Ordering::Relaxed);
    let running = world.start();
    world.pass(60 * MINUTE).await;
    let first = world.bucket.reads(&entries);
    assert!(first <= 16 * ENTRIES, "{first} reads of {ENTRIES} entries within an hour");
    world.pass(60 * MINUTE).await;
    let second = world.bucket.reads(&entries) - first;
    assert!(second <= 6 * ENTRIES, "{second} reads of {ENTRIES} entries within the second hour");

    fault.store(false, Ordering::Relaxed);
    world.pass(11 * MINUTE).await;
    assert_eq!(world.check().await.records.len() as u64, ENTRIES);
    // It is short again after a pass that succeeded.
    append_second(&world, 20);
    fault.store(true, Ordering::Relaxed);
    world.pass(MINUTE).await;
    fault.store(false, Ordering::Relaxed);
    world.pass(2 * MINUTE).await;
    assert_eq!(world.check().await.records.len() as u64, 2 * ENTRIES);
    world.stop(running).await;
}

/// What an engine refuses while its switch is on.
#[derive(Clone, Copy)]
enum EngineFault {
    Lookup,
    /// The last records of the second.
    Builder,
}

async fn faulty_world(fault: EngineFault) -> (IngestWorld, Arc<AtomicBool>) {
    let switch = Arc::<AtomicBool>::default();
    let shared = switch.clone();
    let engine = move |store| -> Arc<dyn IndexEngine> {
        Arc::new(FaultyEngine { model: ModelEngine::new(store), fault, switch: shared.clone() })
    };
    (IngestWorld::with_engine(IngestOptions::default(), Box::new(engine)).await, switch)
}

struct FaultyEngine {
    model: ModelEngine,
    fault: EngineFault,
    switch: Arc<AtomicBool>,
}

struct FaultyLookup {
    inner: Arc<dyn IndexLookup>,
    switch: Arc<AtomicBool>,
}

#[async_trait]
impl EngineDecorator for FaultyEngine {
    fn inner(&self) -> &dyn IndexEngine {
        &self.model
    }

    fn builder(&self) -> Result<Box<dyn SegmentBuilder>, EngineError> {
        let inner = self.model.builder()?;
        if let EngineFault::Lookup = self.fault {
            return Ok(inner);
        }
        let (mut all, switch) = (0, self.switch.clone());
        let before_add = move |added| {
            all += added;
            if switch.load(Ordering::Relaxed) && all >= ENTRIES {
                let source = std::io::Error::other("a test");
                return Err(EngineError::Disk { path: "the cache".to_owned(), source });
            }
            Ok(())
        };
        Ok(Box::new(AddHookBuilder { inner, before_add }))
    }

    async fn open(&self, manifest: &Manifest) -> Result<Arc<dyn IndexLookup>, EngineError> {
        let inner = self.model.open(manifest).await?;
        Ok(match self.fault {
            EngineFault::Lookup => Arc::new(FaultyLookup { inner, switch: self.switch.clone() }),
            EngineFault::Builder => inner,
        })
    }
}

#[async_trait]
impl IndexLookup for FaultyLookup {
    async fn recorded_outcomes(&self, tokens: &[Token]) -> Result<Vec<Vec<RecordedOutcome>>, EngineError> {
        self.inner.recorded_outcomes(tokens).await
    }

    async fn latest_commits(&self, entities: &[String]) -> Result<Vec<Option<LatestCommit>>, EngineError> {
        self.inner.latest_commits(entities).await
    }

    /// One key of a thousand is in a segment that is damaged.
    async fn key_neighbors(&self, operations: &[KeyedOperation]) -> Result<Vec<KeyNeighbors>, EngineError> {
        if self.switch.load(Ordering::Relaxed) && operations.iter().any(|asked| asked.key.key.ends_with("999")) {
            return Err(EngineError::Damaged { key: "an old segment".to_owned(), why: "a test".to_owned() });
        }
        self.inner.key_neighbors(operations).await
    }

    async fn unsettled_operations(&self, query: &UnsettledQuery) -> Result<Vec<UnsettledOperation>, EngineError> {
        self.inner.unsettled_operations(query).await
    }
}

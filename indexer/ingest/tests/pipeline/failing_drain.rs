//! A drain that fails within one second: nothing of it can be published, and it is not read again and again.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use tidemark_catalog::Manifest;
use tidemark_ingest::{
    IngestOptions, LatestCommit, WriterKey,
    engine::{
        EngineError, IndexEngine, IndexLookup, RecordedOutcome, SegmentBuilder, UnsettledOperation, UnsettledQuery,
    },
    engine_decorator::EngineDecorator,
    model_engine::ModelEngine,
};
use tidemark_wal::Token;

use super::{
    MINUTE,
    add_hook_builder::AddHookBuilder,
    world::{EntryDraft, IngestWorld},
};

const ENTRIES: u64 = 3_000;

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
    async fn first_commits(&self, keys: &[WriterKey]) -> Result<Vec<Option<(Token, u32)>>, EngineError> {
        if self.switch.load(Ordering::Relaxed) && keys.iter().any(|key| key.key.ends_with("999")) {
            return Err(EngineError::Damaged { key: "an old segment".to_owned(), why: "a test".to_owned() });
        }
        self.inner.first_commits(keys).await
    }

    async fn unsettled_operations(&self, query: &UnsettledQuery) -> Result<Vec<UnsettledOperation>, EngineError> {
        self.inner.unsettled_operations(query).await
    }
}

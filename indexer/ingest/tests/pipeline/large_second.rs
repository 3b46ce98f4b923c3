//! A second with more entries than a batch should have.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tidemark_catalog::Manifest;
use tidemark_ingest::{
    IngestOptions,
    engine::{EngineError, IndexEngine, IndexLookup, SegmentBuilder},
    engine_decorator::EngineDecorator,
    model_engine::ModelEngine,
};
use tidemark_wal::Outcome;

use super::{
    MINUTE,
    add_hook_builder::AddHookBuilder,
    world::{EntryDraft, IngestWorld},
};

const BATCH_RECORDS: u64 = 1_500;
/// Ten times as many as a batch should have.
const ENTRIES: u64 = 10 * BATCH_RECORDS;
/// Different keys of these entries.
const KEYS: u64 = 5_000;

/// An engine that counts records that were added and cannot be looked up yet: what the ingest has to remember.
struct CountingEngine {
    model: ModelEngine,
    records: Arc<RecordCount>,
}

#[derive(Default)]
struct RecordCount {
    /// Since the last opening.
    unopened: AtomicU64,
    most_unopened: AtomicU64,
}

#[async_trait]
impl EngineDecorator for CountingEngine {
    fn inner(&self) -> &dyn IndexEngine {
        &self.model
    }

    fn builder(&self) -> Result<Box<dyn SegmentBuilder>, EngineError> {
        let records = self.records.clone();
        let before_add = move |added| {
            let unopened = records.unopened.fetch_add(added, Ordering::Relaxed) + added;
            records.most_unopened.fetch_max(unopened, Ordering::Relaxed);
            Ok(())
        };
        Ok(Box::new(AddHookBuilder { inner: self.model.builder()?, before_add }))
    }

    async fn open(&self, manifest: &Manifest) -> Result<Arc<dyn IndexLookup>, EngineError> {
        self.records.unopened.store(0, Ordering::Relaxed);
        self.model.open(manifest).await
    }
}

async fn counted_world() -> (IngestWorld, Arc<RecordCount>) {
    let options = IngestOptions {
        batch_records: BATCH_RECORDS,
        entry_memory: 1 << 20,
        segment_memory: 1 << 20,
        compaction: false,
        ..IngestOptions::default()
    };
    let records = Arc::<RecordCount>::default();
    let count = records.clone();
    let engine = move |store| -> Arc<dyn IndexEngine> {
        Arc::new(CountingEngine { model: ModelEngine::new(store), records: count.clone() })
    };
    (IngestWorld::with_engine(options, Box::new(engine)).await, records)
}

#[tokio::test(start_paused = true)]
async fn of_a_second_with_any_number_of_entries_only_so_many_are_remembered() {
    let (world, records) = counted_world().await;
    let second = world.ago(30_000);
    for number in 0..ENTRIES {
        world.append(second, &EntryDraft::entity(number % 1_000).key(&(number % KEYS).to_string()));
    }
    world.run_for(MINUTE).await;
    let contents = world.check().await;
    let duplicates = contents.records.values().filter(|one| one.decision.outcome == Outcome::Duplicate).count();
    assert_eq!((contents.records.len() as u64, duplicates as u64), (ENTRIES, ENTRIES - KEYS));
    let most = records.most_unopened.load(Ordering::Relaxed);
    assert!(most < 2 * BATCH_RECORDS + 1_000, "{most} records were remembered");
    let manifest = world.manifest().await;
    let largest = manifest.segments.iter().map(|segment| segment.size).max().unwrap();
    assert!(largest < 2 << 20, "a segment of {largest} bytes");
}

/// Nothing of a second is published before all of it is: after a crash within it, all of it is read once more, and no more.
#[tokio::test(start_paused = true)]
async fn after_a_crash_within_such_a_second_it_is_read_once_more_and_indexed_once() {
    let (world, _) = counted_world().await;
    let before: Vec<_> =
        (0..10).map(|number| world.append(world.ago(30_010 - number), &EntryDraft::entity(number))).collect();
    let second = world.ago(30_000);
    let tokens: Vec<_> = (0..ENTRIES).map(|number| world.append(second, &EntryDraft::entity(number % 1_000))).collect();
    let reads = || world.bucket.reads("log/") - world.bucket.reads("log/.tidemark/");
    // Two thirds of the way.
    assert!(world.run_until_request(ENTRIES * 2 / 3).await);
    let crashed = reads();
    assert!((ENTRIES / 2..ENTRIES).contains(&crashed), "{crashed} reads before the crash");
    world.run_for(5 * MINUTE).await;
    let again = reads() - crashed;
    assert!(again <= ENTRIES + before.len() as u64, "{again} reads after the crash");
    // Neither a gap nor a double.
    assert_eq!(world.check().await.records.len(), tokens.len() + before.len());
    let outcomes = world.outcomes().await;
    assert!(before.iter().chain(&tokens).all(|token| outcomes[token] == [Outcome::Committed]));
}

/// The audits of such a second take their turns with the tail within it.
#[tokio::test(start_paused = true)]
async fn the_audit_of_a_second_with_any_number_of_entries_delays_no_tail() {
    let (world, _) = counted_world().await;
    let second = world.ago(30);
    for number in 0..24_000 {
        world.append(second, &EntryDraft::entity(number % 1_000));
    }
    world.run_for(2 * MINUTE).await;
    let late = world.append(second, &EntryDraft::entity(1));
    // The pages of the second take forty seconds.
    world.bucket.slow(Duration::from_millis(1_700));
    let running = world.start();
    let mut worst = Duration::ZERO;
    for number in 0..400 {
        world.append(world.bucket.now(), &EntryDraft::entity(number));
        world.pass(Duration::from_secs(2)).await;
        let sealed = world.bucket.now().before(IngestWorld::delay());
        if number > 60 {
            worst = worst.max(sealed.since(world.status().cursor.second()));
        }
    }
    world.bucket.slow(Duration::ZERO);
    assert!(worst < MINUTE, "the tail stood still for {worst:?}");
    assert_eq!(world.outcomes().await[&late], [Outcome::Committed]);
    world.stop(running).await;
    world.check().await;
}

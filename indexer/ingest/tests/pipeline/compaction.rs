//! Compaction with an engine whose compactions fail, wait or lie.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tidemark_catalog::{Manifest, SegmentMeta};
use tidemark_ingest::{
    IngestOptions, KeyNeighbors, KeyedOperation, LatestCommit,
    engine::{
        EngineError, IndexEngine, IndexLookup, PackedSegment, RecordedOutcome, UnsettledOperation, UnsettledQuery,
    },
    engine_decorator::EngineDecorator,
    model_engine::ModelEngine,
};
use tidemark_store::Store;
use tidemark_wal::Token;
use tokio::sync::Semaphore;

use super::world::{EntryDraft, IngestWorld, small_batches};

const MINUTE: Duration = Duration::from_mins(1);

/// What compactions do, and what they were asked for.
struct CompactionScript {
    max_bytes: u64,
    /// Larger compactions have no room.
    room: AtomicU64,
    /// Compactions of at least this many bytes take a permit.
    gated_from: u64,
    gate: Semaphore,
    /// What happens to the output.
    fault: Option<CompactionFault>,
    /// Look-ups of this key fail.
    unanswered: Option<&'static str>,
    asked: Mutex<Vec<Vec<SegmentMeta>>>,
    /// The segment format of what is compacted.
    format: AtomicU32,
}

#[derive(Clone, Copy)]
enum CompactionFault {
    /// One record is missing, another one is there twice.
    LosesAndDoubles,
    /// A byte of the third input flips before the first compaction.
    DamagesAnInput,
}

impl Default for CompactionScript {
    fn default() -> Self {
        Self {
            max_bytes: u64::MAX,
            room: AtomicU64::new(u64::MAX),
            gated_from: u64::MAX,
            gate: Semaphore::new(0),
            fault: None,
            unanswered: None,
            asked: Mutex::default(),
            format: AtomicU32::new(1),
        }
    }
}

impl CompactionScript {
    fn sizes(&self) -> Vec<usize> {
        self.asked.lock().iter().map(Vec::len).collect()
    }

    async fn world(self: &Arc<Self>) -> IngestWorld {
        self.world_with(small_batches()).await
    }

    async fn world_with(self: &Arc<Self>, options: IngestOptions) -> IngestWorld {
        let script = self.clone();
        let engine = move |store: Store| {
            let (script, inner) = (script.clone(), ModelEngine::new(store.clone()));
            Arc::new(ScriptedEngine { script, store, inner }) as Arc<dyn IndexEngine>
        };
        IngestWorld::with_engine(options, Box::new(engine)).await
    }
}

struct ScriptedEngine {
    script: Arc<CompactionScript>,
    store: Store,
    inner: ModelEngine,
}

impl ScriptedEngine {
    async fn damage(&self, key: &str) {
        let mut body = self.store.get(key, 1 << 30).await.unwrap().unwrap().body.unwrap().to_vec();
        body[100] ^= 1;
        self.store.put(key, body.into()).await.unwrap();
    }

    async fn lose_and_double(&self, inputs: &[SegmentMeta]) -> Result<PackedSegment, EngineError> {
        let mut records = Vec::new();
        for segment in inputs {
            records.extend(self.inner.records(segment, segment.seq.clone()).await?);
        }
        records[3] = records[4].clone();
        let mut builder = self.inner.builder()?;
        builder.add(records).await?;
        builder.finish().await
    }
}

#[async_trait]
impl EngineDecorator for ScriptedEngine {
    fn inner(&self) -> &dyn IndexEngine {
        &self.inner
    }

    async fn open(&self, manifest: &Manifest) -> Result<Arc<dyn IndexLookup>, EngineError> {
        let lookup = self.inner.open(manifest).await?;
        Ok(match self.script.unanswered {
            Some(key) => Arc::new(ForgetfulLookup { lookup, key }),
            None => lookup,
        })
    }

    fn format(&self) -> u32 {
        self.script.format.load(Ordering::Relaxed)
    }

    async fn compact(&self, inputs: &[SegmentMeta]) -> Result<PackedSegment, EngineError> {
        let script = &self.script;
        let bytes: u64 = inputs.iter().map(|segment| segment.size).sum();
        let number = {
            let mut asked = script.asked.lock();
            asked.push(inputs.to_vec());
            asked.len()
        };
        if bytes > script.room.load(Ordering::Relaxed) {
            return Err(EngineError::NoRoom { folder: "cache".to_owned(), needed: bytes, bound: 1 });
        }
        if bytes >= script.gated_from {
            script.gate.acquire().await.unwrap().forget();
        }
        match script.fault {
            Some(CompactionFault::LosesAndDoubles) => return self.lose_and_double(inputs).await,
            Some(CompactionFault::DamagesAnInput) if number == 1 => self.damage(&inputs[2].key).await,
            _ => {}
        }
        let format = EngineDecorator::format(self);
        Ok(PackedSegment { format, ..self.inner.compact(inputs).await? })
    }

    fn max_compaction_bytes(&self) -> u64 {
        self.script.max_bytes
    }
}

/// Gives no answer about one key.
struct ForgetfulLookup {
    lookup: Arc<dyn IndexLookup>,
    key: &'static str,
}

#[async_trait]
impl IndexLookup for ForgetfulLookup {
    async fn recorded_outcomes(&self, tokens: &[Token]) -> Result<Vec<Vec<RecordedOutcome>>, EngineError> {
        self.lookup.recorded_outcomes(tokens).await
    }

    async fn latest_commits(&self, entities: &[String]) -> Result<Vec<Option<LatestCommit>>, EngineError> {
        self.lookup.latest_commits(entities).await
    }

    async fn key_neighbors(&self, operations: &[KeyedOperation]) -> Result<Vec<KeyNeighbors>, EngineError> {
        if operations.iter().any(|asked| asked.key.key == self.key) {
            let (key, why) = ("segment".to_owned(), "it is".to_owned());
            return Err(EngineError::Damaged { key, why });
        }
        self.lookup.key_neighbors(operations).await
    }

    async fn unsettled_operations(&self, query: &UnsettledQuery) -> Result<Vec<UnsettledOperation>, EngineError> {
        self.lookup.unsettled_operations(query).await
    }
}

fn append(world: &IngestWorld, numbers: Range<u64>) {
    for number in numbers {
        world.append(world.ago(100_000 - number * 10), &EntryDraft::entity(number % 30));
    }
}

fn bytes(inputs: &[SegmentMeta]) -> u64 {
    inputs.iter().map(|segment| segment.size).sum()
}

#[tokio::test(start_paused = true)]
async fn small_compactions_do_not_wait_for_a_large_one() {
    let (max_bytes, small) = (800 << 10, 100 << 10);
    let script = Arc::new(CompactionScript { max_bytes, gated_from: small, ..CompactionScript::default() });
    let world = script.world().await;
    append(&world, 0..4000);
    let running = world.start();
    world.pass(10 * MINUTE).await;
    let asked = script.asked.lock().clone();
    let first_large = asked.iter().position(|inputs| bytes(inputs) >= small).expect("a large one began");
    assert_eq!(asked.iter().filter(|inputs| bytes(inputs) >= small).count(), 1, "and has not ended");
    assert!(asked.len() > first_large + 10, "{} small ones after it", asked.len() - first_large);
    let segments = world.manifest().await.segments.len();
    assert!(segments < 100, "{segments} segments while it runs");
    script.gate.add_permits(1000);
    world.pass(10 * MINUTE).await;
    assert!(world.manifest().await.segments.len() < 40);
    assert!(script.asked.lock().iter().all(|inputs| bytes(inputs) <= max_bytes));
    world.stop(running).await;
    assert_eq!(world.check().await.records.len(), 4000);
}

#[tokio::test(start_paused = true)]
async fn an_output_that_lost_one_record_and_doubled_another_is_not_published() {
    let script =
        Arc::new(CompactionScript { fault: Some(CompactionFault::LosesAndDoubles), ..CompactionScript::default() });
    let world = script.world().await;
    append(&world, 0..100);
    world.run_for(10 * MINUTE).await;
    let (manifest, asked) = (world.manifest().await, script.asked.lock().clone());
    assert!(!asked.is_empty() && asked.iter().flatten().all(|input| manifest.segments.contains(input)));
    let stalled = world.status().compaction_stalled.expect("it is said");
    assert!(asked[0].iter().any(|input| stalled.contains(&input.key)), "{stalled}");
    assert_eq!(world.check().await.records.len(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_input_is_left_out_of_the_next_compactions() {
    let script =
        Arc::new(CompactionScript { fault: Some(CompactionFault::DamagesAnInput), ..CompactionScript::default() });
    let world = script.world().await;
    append(&world, 0..1000);
    world.run_for(10 * MINUTE).await;
    let (manifest, asked) = (world.manifest().await, script.asked.lock().clone());
    let damaged = &asked[0][2];
    assert!(asked[1..].iter().flatten().all(|input| input != damaged));
    assert!(manifest.segments.contains(damaged));
    assert!(manifest.segments.len() < 40, "{} segments", manifest.segments.len());
}

#[tokio::test(start_paused = true)]
async fn a_compaction_without_room_is_tried_smaller_and_again_after_a_while() {
    let script = Arc::new(CompactionScript { room: AtomicU64::new(0), ..CompactionScript::default() });
    let world = script.world().await;
    append(&world, 0..100);
    let running = world.start();
    world.pass(9 * MINUTE).await;
    let sizes = script.sizes();
    assert!(sizes.chunks(3).all(|round| round == [8, 4, 2]), "{sizes:?}");
    assert!((30..=3 * 18).contains(&sizes.len()), "twice a minute, since room comes back: {} compactions", sizes.len());
    let stalled = world.status().compaction_stalled.expect("it is said");
    assert!(stalled.contains("raise the size of the cache"), "{stalled}");
    script.room.store(u64::MAX, Ordering::Relaxed);
    world.pass(20 * MINUTE).await;
    assert_eq!(world.status().compaction_stalled, None);
    let segments = world.manifest().await.segments.len();
    assert!(segments < 10, "{segments} segments");
    world.stop(running).await;
    assert_eq!(world.check().await.records.len(), 100);
}

#[tokio::test(start_paused = true)]
async fn publications_slow_down_while_compactions_do_not_keep_up() {
    let script = Arc::new(CompactionScript { room: AtomicU64::new(0), ..CompactionScript::default() });
    let world = script.world().await;
    append(&world, 0..3000);
    let running = world.start();
    world.pass(10 * MINUTE).await;
    let segments = world.manifest().await.segments.len();
    assert!((193..230).contains(&segments), "{segments} segments");
    script.room.store(u64::MAX, Ordering::Relaxed);
    world.pass(60 * MINUTE).await;
    let segments = world.manifest().await.segments.len();
    assert!(segments < 40, "{segments} segments");
    world.stop(running).await;
    assert_eq!(world.check().await.records.len(), 3000);
}

/// The index cannot say whether a key was used before; what precedes the entry is published, and not read again and again.
#[tokio::test(start_paused = true)]
async fn what_precedes_a_look_up_that_fails_is_published_and_read_once() {
    let script = Arc::new(CompactionScript { unanswered: Some("k"), ..CompactionScript::default() });
    let world = script.world_with(IngestOptions { chunk: 100, ..IngestOptions::default() }).await;
    append(&world, 0..2000);
    let keyed = world.append(world.ago(79_000), &EntryDraft::entity(1).key("k"));
    let running = world.start();
    world.pass(5 * MINUTE).await;
    let records = world.manifest().await.totals.records;
    assert!((1900..=2000).contains(&records), "{records} records");
    let before = world.bucket.requests();
    world.pass(60 * MINUTE).await;
    let hour = world.bucket.requests() - before;
    assert!(hour < 30_000, "{hour} requests in an hour that reads the last entries again and again");
    world.stop(running).await;
    assert!(!world.outcomes().await.contains_key(&keyed));
}

#[tokio::test(start_paused = true)]
async fn with_room_for_little_smaller_compactions_go_on() {
    let script = Arc::new(CompactionScript { room: AtomicU64::new(10 << 10), ..CompactionScript::default() });
    let world = script.world().await;
    append(&world, 0..100);
    world.run_for(5 * MINUTE).await;
    let sizes = script.sizes();
    assert!(sizes.starts_with(&[8, 4, 4]), "{sizes:?}");
    assert_eq!(world.check().await.records.len(), 100);
}

#[tokio::test(start_paused = true)]
async fn segments_of_an_older_format_are_rebuilt_one_by_one_when_nothing_else_is_due() {
    let script = Arc::new(CompactionScript::default());
    let world = script.world().await;
    append(&world, 0..100);
    world.run_for(10 * MINUTE).await;
    let before = world.manifest().await.segments;
    assert!(before.len() > 1 && before.iter().all(|segment| segment.format == 1));
    let compactions = script.sizes().len();
    // The next version runs, without room for the largest of them at first.
    script.format.store(2, Ordering::Relaxed);
    let largest = before.iter().map(|segment| segment.size).max().unwrap();
    script.room.store(largest - 1, Ordering::Relaxed);
    let running = world.start();
    world.pass(5 * MINUTE).await;
    let stalled = world.status().compaction_stalled.expect("it is said");
    assert!(stalled.contains("format 1") && stalled.contains("raise the size of the cache"), "{stalled}");
    script.room.store(u64::MAX, Ordering::Relaxed);
    world.pass(30 * MINUTE).await;
    let after = world.manifest().await.segments;
    assert!(after.iter().all(|segment| segment.format == 2), "{after:?}");
    assert_eq!(world.status().compaction_stalled, None);
    assert!(script.sizes()[compactions..].iter().all(|inputs| *inputs == 1));
    world.stop(running).await;
    assert_eq!(world.check().await.records.len(), 100);
}

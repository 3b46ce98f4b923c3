//! Compaction with an engine whose merges fail, wait or lie.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tidemark_catalog::{Manifest, SegmentMeta, SidecarMeta};
use tidemark_ingest::{
    OperationRecord,
    engine::{EngineError, IndexEngine, IndexLookup, PackedSegment, RecordMarks, RecordStats, SegmentBuilder},
    model_engine::ModelEngine,
};
use tidemark_store::Store;
use tokio::sync::Semaphore;

use super::world::{EntryDraft, IngestWorld, small_batches};

const MINUTE: Duration = Duration::from_mins(1);

/// What merges do, and what they were asked for.
struct MergeScript {
    max_bytes: u64,
    /// Larger merges have no room.
    room: AtomicU64,
    /// Merges of at least this many bytes take a permit.
    gated_from: u64,
    gate: Semaphore,
    /// What happens to the output.
    fault: Option<MergeFault>,
    asked: Mutex<Vec<Vec<SegmentMeta>>>,
}

#[derive(Clone, Copy)]
enum MergeFault {
    /// One record is missing, another one is there twice.
    LosesAndDoubles,
    /// A byte of the third input flips before the first merge.
    DamagesAnInput,
}

impl Default for MergeScript {
    fn default() -> Self {
        Self {
            max_bytes: u64::MAX,
            room: AtomicU64::new(u64::MAX),
            gated_from: u64::MAX,
            gate: Semaphore::new(0),
            fault: None,
            asked: Mutex::default(),
        }
    }
}

impl MergeScript {
    fn sizes(&self) -> Vec<usize> {
        self.asked.lock().iter().map(Vec::len).collect()
    }

    async fn world(self: &Arc<Self>) -> IngestWorld {
        let script = self.clone();
        let engine = move |store: Store| {
            let (script, inner) = (script.clone(), ModelEngine::new(store.clone()));
            Arc::new(ScriptedEngine { script, store, inner }) as Arc<dyn IndexEngine>
        };
        IngestWorld::with_engine(small_batches(), Box::new(engine)).await
    }
}

struct ScriptedEngine {
    script: Arc<MergeScript>,
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
impl IndexEngine for ScriptedEngine {
    fn builder(&self) -> Result<Box<dyn SegmentBuilder>, EngineError> {
        self.inner.builder()
    }

    async fn open(&self, manifest: &Manifest) -> Result<Arc<dyn IndexLookup>, EngineError> {
        self.inner.open(manifest).await
    }

    async fn merge(&self, inputs: &[SegmentMeta]) -> Result<PackedSegment, EngineError> {
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
            Some(MergeFault::LosesAndDoubles) => return self.lose_and_double(inputs).await,
            Some(MergeFault::DamagesAnInput) if number == 1 => self.damage(&inputs[2].key).await,
            _ => {}
        }
        self.inner.merge(inputs).await
    }

    fn max_merge_bytes(&self) -> u64 {
        self.script.max_bytes
    }

    async fn stats(&self, packed: &PackedSegment, parts: &[u64]) -> Result<Vec<RecordStats>, EngineError> {
        self.inner.stats(packed, parts).await
    }

    async fn records(&self, segment: &SegmentMeta, seqs: Range<u64>) -> Result<Vec<OperationRecord>, EngineError> {
        self.inner.records(segment, seqs).await
    }

    fn pack_marks(&self, marks: &RecordMarks) -> Result<Bytes, EngineError> {
        self.inner.pack_marks(marks)
    }

    async fn read_marks(&self, sidecar: &SidecarMeta) -> Result<RecordMarks, EngineError> {
        self.inner.read_marks(sidecar).await
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
async fn small_merges_do_not_wait_for_a_large_one() {
    let (max_bytes, small) = (800 << 10, 100 << 10);
    let script = Arc::new(MergeScript { max_bytes, gated_from: small, ..MergeScript::default() });
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
    let script = Arc::new(MergeScript { fault: Some(MergeFault::LosesAndDoubles), ..MergeScript::default() });
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
async fn a_damaged_input_is_left_out_of_the_next_merges() {
    let script = Arc::new(MergeScript { fault: Some(MergeFault::DamagesAnInput), ..MergeScript::default() });
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
async fn a_merge_without_room_is_tried_smaller_and_not_again_and_again() {
    let script = Arc::new(MergeScript { room: AtomicU64::new(0), ..MergeScript::default() });
    let world = script.world().await;
    append(&world, 0..100);
    let running = world.start();
    world.pass(9 * MINUTE).await;
    assert_eq!(script.sizes(), [8, 4, 2]);
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
async fn with_room_for_little_smaller_merges_go_on() {
    let script = Arc::new(MergeScript { room: AtomicU64::new(10 << 10), ..MergeScript::default() });
    let world = script.world().await;
    append(&world, 0..100);
    world.run_for(5 * MINUTE).await;
    let sizes = script.sizes();
    assert!(sizes.starts_with(&[8, 4, 4]), "{sizes:?}");
    assert_eq!(world.check().await.records.len(), 100);
}

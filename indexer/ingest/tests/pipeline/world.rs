//! A log, an index and what is expected of them.

use std::{collections::BTreeMap, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::TryStreamExt as _;
use serde_json::{Value, json};
use tidemark_catalog::{
    ArchiveExtent, CatalogError, CleanupChain, CompactionResult, CopyCollector, Generation, IndexChain, IndexOwner,
    IndexRegistration, IndexTotals, LogCursor, LogId, Manifest, ObjectKind, ObjectName, PinChain, PublishRequest,
    RootChain, RootState, SegmentMeta, WriterIdentity,
};
use tidemark_store::{Entropy, Store, StoreClock, StoreSecond};
use tidemark_wal::{Log, LogParameters, Outcome, Token, guard_key};
use tokio::{sync::watch, time::sleep};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::fake_bucket::FakeBucket;
use tidemark_ingest::{
    ColdStart, GenerationTask, IndexVerifier, IngestError, IngestOptions, IngestStatus, LatestCommit, LogIngester,
    LostOutcomePolicy, OperationRecord, OutcomeSelection, RestoreDrill, RestoreOrigin, RestoreRequest, RestoreTarget,
    SwitchReport, VerifyOptions,
    cleanup::{CleanupExecutor, FloorMover},
    engine::{IndexEngine, RecordStats, SegmentFile},
    model_engine::{IndexContents, ModelEngine},
    promote, promote_from, restore, restore_from,
    snapshot::{
        LogArchive, SnapshotCopier, SnapshotMaker, SnapshotPlace, SnapshotReport, SnapshotRequest,
        model_archive::ModelArchive,
    },
};

/// The folder of the index in the bucket.
const INDEX: &str = "index";
/// The URL of another index of the log, by which it is registered.
pub(crate) const OTHER_INDEX: &str = "test://bucket/other";

/// What a test's writer appends.
#[derive(Clone)]
pub(crate) struct EntryDraft {
    pub(crate) body: Value,
}

impl EntryDraft {
    /// An operation of a free entity that its entry completes.
    pub(crate) fn entity(number: u64) -> Self {
        Self::group(&[number])
    }

    /// Several of them in one entry.
    pub(crate) fn group(entities: &[u64]) -> Self {
        let op = |number: &u64| json!({"kind": "entry", "attributes": {"entity": format!("e{number}")}});
        let ops: Vec<Value> = entities.iter().map(op).collect();
        Self { body: json!({"tidemark": 1, "writer": "w", "ops": ops}) }
    }

    /// A bundle that its descriptor completes, and an entity beside it.
    pub(crate) fn bundle_and_entity(id: &str) -> Self {
        let digest = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(descriptor(id)));
        let bundle = json!({"kind": "bundle", "descriptor": path(id), "digest": digest});
        let ops = json!([bundle, {"kind": "entry", "attributes": {"entity": id}}]);
        Self { body: json!({"tidemark": 1, "writer": "w", "ops": ops}) }
    }

    /// A bundle that its descriptor completes.
    pub(crate) fn bundle(id: &str) -> Self {
        Self { body: Value::String(path(id)) }
    }

    /// A label that Datamon's own client moves.
    pub(crate) fn label(name: &str) -> Self {
        Self { body: Value::String(format!("labels/r/{name}/label.yaml")) }
    }

    /// The same under a lock.
    pub(crate) fn guarded(mut self) -> Self {
        self.body["lock"] = json!({"name": "models", "grant": 1});
        self
    }

    pub(crate) fn key(mut self, key: &str) -> Self {
        self.body["idempotencyKey"] = key.into();
        self
    }

    /// The same, committed only after this commit of a free entity.
    pub(crate) fn expecting(mut self, entity: &str, token: Option<Token>) -> Self {
        self.body["expect"] = json!({"entity": format!("entry/{entity}"), "token": token});
        self
    }
}

fn descriptor(bundle: &str) -> String {
    format!("id: {bundle}\nmessage: a bundle\ntimestamp: 2026-01-01T00:00:00Z\n")
}

fn path(bundle: &str) -> String {
    format!("bundles/r/{bundle}/bundle.yaml")
}

/// Batches that are published almost one by one.
pub(crate) fn small_batches() -> IngestOptions {
    IngestOptions { batch_records: 6, chunk: 4, fetches: 3, ..IngestOptions::default() }
}

/// A process that runs an ingest; it ends when this is dropped.
pub(crate) struct RunningIngest {
    stop: CancellationToken,
    task: AbortOnDropHandle<Result<(), IngestError>>,
}

impl RunningIngest {
    /// Whether it ended by itself.
    pub(crate) fn is_finished(&self) -> bool {
        self.task.is_finished()
    }
}

/// What the stores are asked for during a span, and what they keep at its end.
#[derive(Debug)]
pub(crate) struct StoreCost {
    pub(crate) requests: u64,
    pub(crate) written_bytes: u64,
    pub(crate) read_bytes: u64,
    /// By store: of the log, of metadata, and of the index.
    pub(crate) puts: [u64; 3],
    /// Objects, and their bytes.
    pub(crate) kept: (usize, u64),
}

/// Makes the engine of the index that lives in a store.
pub(crate) type EngineMaker = Box<dyn Fn(Store) -> Arc<dyn IndexEngine>>;

pub(crate) struct IngestWorld {
    pub(crate) bucket: FakeBucket,
    entropy: Entropy,
    options: IngestOptions,
    status: watch::Sender<IngestStatus>,
    /// Makes the engine of an index in a store.
    engine: Rc<EngineMaker>,
    /// The folder of the index in the bucket.
    index: &'static str,
}

impl IngestWorld {
    /// A log with an expiry of 10 s and an audit window of two hours, and the model engine.
    pub(crate) async fn new(options: IngestOptions) -> Self {
        Self::with_engine(options, Box::new(|store| Arc::new(ModelEngine::new(store)))).await
    }

    /// The same with another engine.
    pub(crate) async fn with_engine(options: IngestOptions, engine: EngineMaker) -> Self {
        Self::with_parameters(options, engine, &parameters()).await
    }

    /// The same with the model engine, and with keys that count for a while only.
    pub(crate) async fn with_retention(options: IngestOptions, retention: Duration) -> Self {
        let parameters = LogParameters { idempotency_retention: Some(retention), ..parameters() };
        Self::with_parameters(options, Box::new(|store| Arc::new(ModelEngine::new(store))), &parameters).await
    }

    async fn with_parameters(options: IngestOptions, engine: EngineMaker, parameters: &LogParameters) -> Self {
        let world = Self {
            bucket: FakeBucket::at(StoreSecond::from_unix(1_800_000_000)),
            entropy: Entropy::seeded(7),
            options,
            status: watch::Sender::default(),
            engine: Rc::new(engine),
            index: INDEX,
        };
        let root = RootChain::open(&world.log(), world.entropy.clone());
        let owner = IndexOwner::Named { name: "test".to_owned() };
        let registration = IndexRegistration::new(world.url(), owner, Generation::first());
        root.register(None, parameters, &world.url(), &registration, LogCursor::default(), None).await.unwrap();
        world
    }

    /// The same log with an index in another folder of the bucket, which is on no register yet.
    pub(crate) fn with_index(&self, index: &'static str) -> Self {
        Self {
            bucket: self.bucket.clone(),
            entropy: self.entropy.clone(),
            options: self.options.clone(),
            status: watch::Sender::default(),
            engine: Rc::clone(&self.engine),
            index,
        }
    }

    /// The index's URL, by which it is registered.
    pub(crate) fn url(&self) -> String {
        self.bucket.store(self.index).url().to_string()
    }

    /// The same log and index as they are, at the time `now`: what happens in either is not seen in the other.
    pub(crate) fn copied_at(&self, now: StoreSecond) -> Self {
        Self {
            bucket: self.bucket.copied_at(now),
            entropy: self.entropy.clone(),
            options: self.options.clone(),
            status: watch::Sender::default(),
            engine: Rc::clone(&self.engine),
            index: self.index,
        }
    }

    /// Between an entry and its being sealed.
    pub(crate) fn delay() -> Duration {
        parameters().horizon_delay()
    }

    pub(crate) fn ago(&self, seconds: u64) -> StoreSecond {
        self.bucket.now().before(Duration::from_secs(seconds))
    }

    fn log(&self) -> Log {
        Log::over(self.bucket.store("log"), vec![self.bucket.store("metadata")])
    }

    fn chain(&self) -> IndexChain {
        let root = RootChain::open(&self.log(), self.entropy.clone());
        IndexChain::open(&self.bucket.store(self.index), Generation::first(), self.entropy.clone()).for_log(&root)
    }

    /// Appends an entry of second `at`, in time.
    pub(crate) fn append(&self, at: StoreSecond, draft: &EntryDraft) -> Token {
        self.append_at(at, at, draft)
    }

    /// Appends an entry of second `at` with store time `time`.
    pub(crate) fn append_at(&self, at: StoreSecond, time: StoreSecond, draft: &EntryDraft) -> Token {
        let token = Token::new(at, &self.entropy);
        let body = match &draft.body {
            Value::String(path) => path.clone(),
            intent => intent.to_string(),
        };
        self.bucket.plant(&format!("log/{token}"), body, time);
        token
    }

    /// Plants the guard of an entry, which counts.
    pub(crate) fn guard(&self, token: Token, time: StoreSecond) {
        let until = time.unix() + 5;
        let guard = json!({"token": token, "lock": "models", "grant": 1, "slot": 2, "until": until});
        self.bucket.plant(&format!("log/{}", guard_key(token)), guard.to_string(), time);
    }

    /// Completes a bundle.
    pub(crate) fn describe(&self, bundle: &str, time: StoreSecond) {
        self.bucket.plant(&format!("metadata/{}", path(bundle)), descriptor(bundle), time);
    }

    pub(crate) fn move_label(&self, name: &str, time: StoreSecond) {
        self.bucket.plant(&format!("metadata/labels/r/{name}/label.yaml"), format!("name: {name}\nid: b\n"), time);
    }

    /// Three entries that cannot be read, and objects that are no entries.
    pub(crate) fn plant_others(&self) {
        let at = self.ago(20_000);
        for body in ["", "binary \u{2}", "\u{0}\u{1}"] {
            self.bucket.plant(&format!("log/{}", Token::new(at, &self.entropy)), body, at);
        }
        self.bucket.plant("log/readme.txt", "hello", at);
        let future = Token::new(StoreSecond::from_unix(5_000_000_000), &self.entropy);
        self.bucket.plant(&format!("log/{future}"), "from the future", at);
    }

    fn engine(&self) -> Arc<dyn IndexEngine> {
        (self.engine)(self.bucket.store(self.index))
    }

    fn ingest(&self, identity: &str) -> LogIngester {
        let (log, chain) = (self.log(), self.chain());
        LogIngester {
            clock: StoreClock::new(log.stores(), identity),
            root: RootChain::open(&log, self.entropy.clone()),
            engine: self.engine(),
            log,
            chain,
            identity: WriterIdentity(identity.to_owned()),
            options: self.options.clone(),
            entropy: self.entropy.clone(),
            status: self.status.clone(),
        }
    }

    /// What verifies the index, with an engine of its own.
    pub(crate) fn verifier(&self, outcomes: OutcomeSelection) -> IndexVerifier {
        let log = self.log();
        IndexVerifier {
            root: RootChain::open(&log, self.entropy.clone()),
            index: self.bucket.store(self.index),
            engine: self.engine(),
            archive: Box::new(|index: &Store, log: &LogId| -> Arc<dyn LogArchive> {
                Arc::new(ModelArchive::open(index, log, Entropy::seeded(4)))
            }),
            entropy: Entropy::seeded(3),
            options: VerifyOptions { outcomes, fetches: 8, entry_memory: 1 << 20 },
            log,
        }
    }

    /// What makes snapshots, as a process of its own, and the archive that it fills.
    pub(crate) async fn snapshot_maker(&self) -> (SnapshotMaker, ModelArchive) {
        let (log, chain, index) = (self.log(), self.chain(), self.bucket.store(self.index));
        let root = RootChain::open(&log, self.entropy.clone());
        let id = root.id().await.unwrap().unwrap();
        let archive = ModelArchive::open(&index, &id, self.entropy.clone());
        let maker = SnapshotMaker {
            log,
            root,
            chain,
            pins: PinChain::open(&index, &id, self.entropy.clone()),
            engine: self.engine(),
            archive: Arc::new(archive.clone()),
            progress: watch::Sender::default(),
        };
        (maker, archive)
    }

    /// What cleans the log up, as a process of its own.
    pub(crate) async fn cleanup_executor(&self) -> CleanupExecutor {
        let (log, index) = (self.log(), self.bucket.store(self.index));
        let root = RootChain::open(&log, self.entropy.clone());
        let id = root.id().await.unwrap().unwrap();
        let cleaner = format!("cleaner-{}", self.entropy.nonce());
        CleanupExecutor {
            root,
            index: self.url(),
            pins: PinChain::open(&index, &id, self.entropy.clone()),
            cleanups: CleanupChain::open(&index, &id, self.entropy.clone()),
            archive: Arc::new(ModelArchive::open(&index, &id, self.entropy.clone())),
            clock: StoreClock::new(log.stores(), &cleaner),
            log,
            cleaner,
            progress: watch::Sender::default(),
        }
    }

    /// What moves the log's floor to the archive of this index, from that of the index of `known`.
    pub(crate) async fn floor_mover(&self, known: &Self) -> FloorMover {
        FloorMover {
            root: RootChain::open(&self.log(), self.entropy.clone()),
            index: self.url(),
            archive: Arc::new(self.archive().await),
            known: Ok(Arc::new(known.archive().await)),
            progress: watch::Sender::default(),
        }
    }

    /// The log's root as it is.
    pub(crate) async fn root(&self) -> RootState {
        RootChain::open(&self.log(), self.entropy.clone()).state().await.unwrap()
    }

    /// The index says in the root what it has audited, as its indexer does hourly.
    pub(crate) async fn report_keeps(&self) {
        let root = RootChain::open(&self.log(), self.entropy.clone());
        let audited = LogCursor(self.manifest().await.audited);
        let generation = self.registered_generation().await;
        root.keep(&self.url(), &generation, audited).await.unwrap();
    }

    /// Another index of the log registers, which is at `cursor`.
    pub(crate) async fn register_other(&self, cursor: LogCursor) -> Result<(), CatalogError> {
        let root = RootChain::open(&self.log(), self.entropy.clone());
        let owner = IndexOwner::Named { name: "other".to_owned() };
        let registration = IndexRegistration::new(OTHER_INDEX, owner, Generation::first());
        root.register(root.head().await?, &parameters(), OTHER_INDEX, &registration, cursor, None).await.map(drop)
    }

    /// What copies snapshots to a second store, and the archive there.
    pub(crate) async fn snapshot_copier(&self) -> (SnapshotCopier, ModelArchive) {
        let root = RootChain::open(&self.log(), self.entropy.clone());
        let id = root.id().await.unwrap().unwrap();
        let place = |index: Store| {
            let archive = ModelArchive::open(&index, &id, self.entropy.clone());
            let pins = PinChain::open(&index, &id, self.entropy.clone());
            (SnapshotPlace { index, pins, archive: Arc::new(archive.clone()) }, archive)
        };
        let ((from, _), (to, archive)) = (place(self.bucket.store(self.index)), place(self.bucket.store("copy")));
        let collector = CopyCollector::new(&from.index, &to.index, &id, self.entropy.clone());
        (SnapshotCopier { root, from, to, collector, progress: watch::Sender::default() }, archive)
    }

    pub(crate) fn start(&self) -> RunningIngest {
        self.start_as("only")
    }

    pub(crate) fn start_as(&self, identity: &str) -> RunningIngest {
        let stop = CancellationToken::new();
        let task = tokio::spawn(run_each_generation(self.ingest(identity), stop.clone()));
        RunningIngest { stop, task: AbortOnDropHandle::new(task) }
    }

    /// What makes a generation of the index, as a process of the task `name`.
    pub(crate) fn generation_task(&self, name: Option<&str>) -> GenerationTask {
        let log = self.log();
        GenerationTask {
            clock: StoreClock::new(log.stores(), &format!("task-{}", self.entropy.nonce())),
            root: RootChain::open(&log, self.entropy.clone()),
            index: self.bucket.store(self.index),
            engine: self.engine(),
            log,
            name: name.map(str::to_owned),
            options: self.options.clone(),
            entropy: self.entropy.clone(),
            progress: watch::Sender::default(),
        }
    }

    /// The archive of the log.
    pub(crate) async fn archive(&self) -> ModelArchive {
        let root = RootChain::open(&self.log(), self.entropy.clone());
        ModelArchive::open(&self.bucket.store(self.index), &root.id().await.unwrap().unwrap(), self.entropy.clone())
    }

    /// Every settled operation of the seconds below it is archived.
    pub(crate) async fn archive_end(&self) -> LogCursor {
        self.archive().await.latest().await.unwrap().unwrap().end
    }

    /// A process of the task `name` restores the index.
    pub(crate) async fn restore(
        &self,
        name: Option<&str>,
        target: &RestoreTarget,
    ) -> Result<SwitchReport, IngestError> {
        restore(&self.generation_task(name), &self.archive().await, &restore_request(target)).await
    }

    /// A process promotes the index.
    pub(crate) async fn promote(&self) -> Result<SwitchReport, IngestError> {
        self.promote_as(None).await
    }

    /// A process of the task `name` promotes the index.
    pub(crate) async fn promote_as(&self, name: Option<&str>) -> Result<SwitchReport, IngestError> {
        self.promote_by(name, LostOutcomePolicy::Refuse).await
    }

    /// A process of the task `name` promotes the index, and does so with lost outcomes.
    pub(crate) async fn promote_by(
        &self,
        name: Option<&str>,
        policy: LostOutcomePolicy,
    ) -> Result<SwitchReport, IngestError> {
        promote(&self.generation_task(name), &self.archive().await, policy).await
    }

    /// The second store, to which snapshots are copied, as a place to restore from.
    pub(crate) async fn copies(&self) -> RestoreOrigin {
        let place = self.snapshot_copier().await.0.to;
        let engine = (self.engine)(place.index.clone());
        RestoreOrigin::new(place, Box::new(move |_| Ok(engine.clone())))
    }

    /// A process of the task `name` restores the index from the copies in the second store.
    pub(crate) async fn restore_from_copies(
        &self,
        name: Option<&str>,
        target: &RestoreTarget,
    ) -> Result<SwitchReport, IngestError> {
        let (archive, copies) = (self.archive().await, self.copies().await);
        restore_from(&self.generation_task(name), &archive, &copies, &restore_request(target)).await
    }

    /// A process promotes the index, which was restored from the second store.
    pub(crate) async fn promote_from_copies(&self) -> Result<SwitchReport, IngestError> {
        let (archive, copies) = (self.archive().await, self.copies().await);
        promote_from(&self.generation_task(None), &archive, Some(&copies), LostOutcomePolicy::Refuse).await
    }

    /// The start of a process on an index that may hold nothing, with the copies in the second store or without.
    pub(crate) async fn cold_start(&self, has_copies: bool, time: Option<StoreSecond>) -> ColdStart {
        let origin = if has_copies { Some(self.copies().await) } else { None };
        let (task, archive) = (self.generation_task(Some("cold-start")), Arc::new(self.archive().await));
        ColdStart { task, archive, origin, time, owner: IndexOwner::Named { name: "test".to_owned() } }
    }

    /// A process that starts so, and then ingests.
    pub(crate) fn start_cold(&self, identity: &str, cold: ColdStart) -> RunningIngest {
        let (stop, ingest) = (CancellationToken::new(), self.ingest(identity));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            match stopped.run_until_cancelled(Box::pin(cold.run())).await {
                Some(begun) => begun?,
                None => return Ok(()),
            }
            Box::pin(run_each_generation(ingest, stopped)).await
        });
        RunningIngest { stop, task: AbortOnDropHandle::new(task) }
    }

    /// Everything of the index's bucket is lost.
    pub(crate) fn lose_bucket(&self) {
        let lost = self.bucket.keys().into_iter().filter(|key| key.starts_with(&format!("{}/", self.index)));
        lost.for_each(|key| self.bucket.forget(&key));
    }

    /// A snapshot of this name, and its copy in the second store.
    pub(crate) async fn copy_snapshot(&self, name: &str) -> SnapshotReport {
        let request = SnapshotRequest { name: Some(name.parse().unwrap()), ..SnapshotRequest::default() };
        let made = self.snapshot_maker().await.0.make(&request).await.unwrap();
        self.snapshot_copier().await.0.copy(&made.name, &made.pin, None).await.unwrap();
        made
    }

    /// The objects of the second store, with their bytes.
    pub(crate) fn copied(&self) -> BTreeMap<String, Bytes> {
        let keys = self.bucket.keys().into_iter().filter(|key| key.starts_with("copy/"));
        keys.map(|key| (key.clone(), self.bucket.body(&key))).collect()
    }

    /// A drill with the latest snapshot.
    pub(crate) async fn drill(&self) -> RestoreDrill {
        let root = RootChain::open(&self.log(), self.entropy.clone());
        let index = self.bucket.store(self.index);
        RestoreDrill {
            pins: PinChain::open(&index, &root.id().await.unwrap().unwrap(), self.entropy.clone()),
            engine: self.engine(),
            archive: Arc::new(self.archive().await),
            drill_engine: Box::new(|store| Ok(Arc::new(ModelEngine::new(store)))),
            options: self.options.clone(),
            entropy: self.entropy.clone(),
            progress: watch::Sender::default(),
            index,
        }
    }

    /// The generation that the log's root names.
    pub(crate) async fn registered_generation(&self) -> Generation {
        let root = RootChain::open(&self.log(), self.entropy.clone());
        root.state().await.unwrap().indexes[&self.url()].generation.clone()
    }

    /// The names of the pins of the index.
    pub(crate) async fn pins(&self) -> Vec<String> {
        self.pin_chain().await.register().await.unwrap().pins.into_keys().collect()
    }

    /// Drops a pin of the index, as the retention of snapshots does.
    pub(crate) async fn unpin(&self, name: &str) {
        let pins = self.pin_chain().await;
        let owner = pins.register().await.unwrap().pins[name].owner.clone();
        pins.unpin(name, &owner).await.unwrap();
    }

    async fn pin_chain(&self) -> PinChain {
        let root = RootChain::open(&self.log(), self.entropy.clone());
        PinChain::open(&self.bucket.store(self.index), &root.id().await.unwrap().unwrap(), self.entropy.clone())
    }

    /// The latest manifest of `generation`.
    pub(crate) async fn manifest_of(&self, generation: &str) -> Option<Manifest> {
        let root = RootChain::open(&self.log(), self.entropy.clone());
        let chain = IndexChain::open(&self.bucket.store(self.index), generation.parse().unwrap(), self.entropy.clone());
        chain.for_log(&root).latest().await.unwrap().map(|latest| latest.state)
    }

    pub(crate) async fn stop(&self, running: RunningIngest) {
        running.stop.cancel();
        running.task.await.unwrap().unwrap();
    }

    /// Why a process ended by itself.
    pub(crate) async fn ended(&self, running: RunningIngest) -> IngestError {
        running.task.await.unwrap().unwrap_err()
    }

    /// A process runs until it ends by itself.
    pub(crate) async fn run_to_its_end(&self) -> Result<(), IngestError> {
        self.ingest("only").run(CancellationToken::new()).await
    }

    /// What the index keeps, as the log knows it.
    pub(crate) async fn keeps(&self) -> LogCursor {
        let root = RootChain::open(&self.log(), self.entropy.clone());
        root.state().await.unwrap().indexes[&self.url()].keeps
    }

    /// How many records the log's root has had.
    pub(crate) async fn root_records(&self) -> u64 {
        let root = RootChain::open(&self.log(), self.entropy.clone());
        root.head().await.unwrap().map_or(0, |head| head.number)
    }

    /// Every second below `second` had its last look.
    pub(crate) async fn set_audited(&self, second: StoreSecond) {
        let audited = |manifest: Option<&Manifest>| Ok(manifest.map(|now| Manifest { audited: second, ..now.clone() }));
        self.chain().chain().append(None, audited).await.unwrap();
    }

    /// Adds operations to the index as if they had been published long ago, a second apart up to `end`: of 50 entities, each with a
    /// key of its own. The log has none of their entries. Gives their tokens.
    ///
    /// They are drawn for themselves: whatever the number of operations, what is drawn afterwards is the same, and so is when each pass of the
    /// ingest is made.
    pub(crate) async fn plant_history(
        &self,
        end: StoreSecond,
        count: u64,
        outcome: impl Fn(u64) -> Outcome,
    ) -> Vec<Token> {
        let (manifest, engine) = (self.manifest().await, self.engine());
        let (mut builder, mut stats) = (engine.builder().unwrap(), RecordStats::default());
        let (first_seq, mut tokens, entropy) = (manifest.next_seq, Vec::new(), Entropy::seeded(count));
        for number in 0..count {
            let second = end.before(Duration::from_secs(count - number));
            let token = Token::new(second, &entropy);
            let record = json!({
                "seq": first_seq + number, "token": token, "op": 0, "kind": "entry", "size": 14,
                "decision": {"outcome": outcome(number), "entryTime": second},
                "entity": format!("entry/e{}", number % 50), "writer": "w", "idempotencyKey": format!("k{number}"),
            });
            let record: OperationRecord = serde_json::from_value(record).unwrap();
            stats.insert(&record.set_element(), second);
            builder.add(vec![record]).await.unwrap();
            tokens.push(token);
        }
        let packed = builder.finish().await.unwrap();
        let SegmentFile::Memory(body) = packed.file else { panic!("a model packs in memory") };
        let name = ObjectName::new(&manifest.generation, ObjectKind::Segment, manifest.epoch, &self.entropy);
        self.bucket.plant(&format!("{}/{name}", self.index), body, end);
        let segment = SegmentMeta {
            key: name.to_string(),
            size: packed.size,
            checksum: packed.checksum,
            format: packed.format,
            digest: stats.digest,
            first: tokens[0],
            last: *tokens.last().unwrap(),
            entry_times: tokens[0].second()..end,
            seq: first_seq..first_seq + count,
            counts: stats.counts,
            unsettled: stats.counts.unsettled(),
            documents: count,
        };
        let history = |manifest: Option<&Manifest>| {
            let manifest = manifest.unwrap();
            let segments = vec![segment.clone()];
            let publication = PublishRequest { records: count, segments, ..PublishRequest::after(manifest) };
            manifest.publish(manifest.epoch, &publication).map(Some)
        };
        self.chain().chain().append(None, history).await.unwrap();
        tokens
    }

    /// Puts one segment in the place of those of `manifest`, which is the latest one, as a compaction does.
    pub(crate) async fn compact_all(&self, manifest: &Manifest) {
        let inputs = &manifest.segments;
        let packed = self.engine().compact(inputs).await.unwrap();
        let SegmentFile::Memory(body) = packed.file else { panic!("a model packs in memory") };
        let name = ObjectName::new(&manifest.generation, ObjectKind::Segment, manifest.epoch, &self.entropy);
        self.bucket.plant(&format!("{}/{name}", self.index), body, self.bucket.now());
        let stats: RecordStats = inputs.iter().map(RecordStats::of).sum();
        let (first, last) = stats.tokens.unwrap();
        let times = stats.entry_times.unwrap();
        let merged = SegmentMeta {
            key: name.to_string(),
            size: packed.size,
            checksum: packed.checksum,
            format: packed.format,
            digest: stats.digest,
            first,
            last,
            entry_times: times.0..times.1.next(),
            seq: inputs[0].seq.start..manifest.next_seq,
            counts: stats.counts,
            unsettled: inputs.iter().map(|segment| segment.unsettled).sum(),
            documents: stats.records,
        };
        let removes = inputs.iter().map(|segment| segment.key.clone()).collect();
        let compaction = CompactionResult { removes, adds: vec![merged], ..CompactionResult::default() };
        let adopt = |now: Option<&Manifest>| now.unwrap().adopt(manifest.epoch, &compaction).map(Some);
        self.chain().chain().append(None, adopt).await.unwrap();
    }

    /// As `tidemark log unregister` does.
    pub(crate) async fn unregister(&self) -> IndexRegistration {
        let root = RootChain::open(&self.log(), self.entropy.clone());
        let registration = root.state().await.unwrap().indexes[&self.url()].clone();
        root.unregister(&self.url(), &registration).await.unwrap();
        registration
    }

    /// All of the index is lost but the archive, and it is on no register any more. The log was cleaned up: what is archived is gone from
    /// it. Gives where the archive ends.
    pub(crate) async fn lose_index(&self) -> LogCursor {
        let (index, archive) = (format!("{}/", self.index), format!("{}/archive/", self.index));
        let keys = self.bucket.keys().into_iter();
        keys.filter(|key| key.starts_with(&index) && !key.starts_with(&archive))
            .for_each(|key| self.bucket.forget(&key));
        self.unregister().await;
        let archive = self.archive().await;
        let version = archive.latest().await.unwrap().unwrap();
        let mut rows = archive.rows(&version, LogCursor::default()..version.end);
        while let Some(row) = rows.try_next().await.unwrap() {
            self.bucket.forget(&format!("log/{}", row.record.token));
        }
        let extent = ArchiveExtent { version: version.number, hash: version.hash.clone(), end: version.end };
        let raise = |root: Option<&RootState>| {
            root.cloned().unwrap_or_default().raise_floor(version.end, "test://bucket/index/archive", &extent)
        };
        RootChain::open(&self.log(), self.entropy.clone()).chain().append(None, raise).await.unwrap();
        version.end
    }

    /// As a clean-up does before it deletes. The index comes on the log's register afterwards: it would hold the floor back.
    pub(crate) async fn raise_floor(&self, to: StoreSecond) {
        self.raise_floor_of("memory:///archive", to).await;
    }

    /// The same by the archive at this URL.
    pub(crate) async fn raise_floor_of(&self, archive: &str, to: StoreSecond) {
        let root = RootChain::open(&self.log(), self.entropy.clone());
        let registration = self.unregister().await;
        let extent = ArchiveExtent { version: 1, hash: String::new(), end: LogCursor(to) };
        let raise =
            |root: Option<&RootState>| root.cloned().unwrap_or_default().raise_floor(LogCursor(to), archive, &extent);
        root.chain().append(None, raise).await.unwrap();
        root.register(root.head().await.unwrap(), &parameters(), &self.url(), &registration, LogCursor(to), None)
            .await
            .unwrap();
    }

    /// As a clean-up by this index's archive does while the index is on the register, which keeps no less.
    pub(crate) async fn raise_floor_beside(&self, to: LogCursor) {
        let extent = ArchiveExtent { version: 1, hash: String::new(), end: to };
        let raise = |root: Option<&RootState>| {
            root.cloned().unwrap_or_default().raise_floor(to, "test://bucket/index/archive", &extent)
        };
        RootChain::open(&self.log(), self.entropy.clone()).chain().append(None, raise).await.unwrap();
    }

    /// The floor is raised by the archive that it rests on, which reaches so far by now.
    pub(crate) async fn raise_floor_over(&self, to: StoreSecond) {
        let raise = |root: Option<&RootState>| {
            let root = root.cloned().unwrap_or_default();
            let floor = root.floor.clone().unwrap();
            let extent = ArchiveExtent { version: floor.extent.version + 1, end: LogCursor(to), ..floor.extent };
            root.raise_floor(LogCursor(to), &floor.archive, &extent)
        };
        RootChain::open(&self.log(), self.entropy.clone()).chain().append(None, raise).await.unwrap();
    }

    /// The index comes on the register, and holds nothing.
    pub(crate) async fn register_index(&self) {
        let root = RootChain::open(&self.log(), self.entropy.clone());
        let owner = IndexOwner::Named { name: "test".to_owned() };
        let registration = IndexRegistration::new(self.url(), owner, Generation::first());
        let (head, all) = (root.head().await.unwrap(), LogCursor(StoreSecond::KSUID_END));
        root.register(head, &parameters(), &self.url(), &registration, all, None).await.unwrap();
    }

    pub(crate) async fn pass(&self, span: Duration) {
        sleep(span).await;
    }

    /// Counts while `during` runs. Of what is kept, what lies below `prefix`: the log's entries are not the index's.
    pub(crate) async fn cost_of(&self, prefix: &str, during: impl Future<Output = ()>) -> StoreCost {
        let counts = || (self.bucket.requests(), self.bucket.written_bytes(), self.bucket.read_bytes());
        let puts = || ["log", "metadata", "index"].map(|store| self.bucket.puts(store));
        let ((requests, written_bytes, read_bytes), before) = (counts(), puts());
        during.await;
        let (after, puts) = (counts(), puts());
        StoreCost {
            requests: after.0 - requests,
            written_bytes: after.1 - written_bytes,
            read_bytes: after.2 - read_bytes,
            puts: [0, 1, 2].map(|store| puts[store] - before[store]),
            kept: self.bucket.kept(prefix),
        }
    }

    /// A process runs, and stops in an orderly way.
    pub(crate) async fn run_for(&self, span: Duration) {
        let running = self.start();
        self.pass(span).await;
        self.stop(running).await;
    }

    /// A process runs until its request of this number, and ends there; gives whether it got that far within some minutes.
    pub(crate) async fn run_until_request(&self, request: u64) -> bool {
        let at = self.bucket.requests() + request;
        self.bucket.die_at(Some(at));
        let running = self.start();
        self.pass(Duration::from_mins(4)).await;
        drop(running);
        self.bucket.die_at(None);
        self.bucket.requests() >= at
    }

    pub(crate) fn status(&self) -> IngestStatus {
        self.status.borrow().clone()
    }

    pub(crate) async fn manifest(&self) -> Manifest {
        self.chain().follow().await.unwrap().latest().await.unwrap().unwrap().state
    }

    pub(crate) async fn contents(&self) -> IndexContents {
        self.contents_of(&self.manifest().await).await
    }

    pub(crate) async fn contents_of(&self, manifest: &Manifest) -> IndexContents {
        let engine = self.engine();
        let mut contents = IndexContents::default();
        for segment in &manifest.segments {
            let records = engine.records(segment, segment.seq.clone()).await.unwrap();
            contents.records.extend(records.into_iter().map(|record| (record.seq, record)));
        }
        for sidecar in &manifest.sidecars {
            contents.marks.merge(&engine.read_marks(sidecar).await.unwrap());
        }
        contents
    }

    /// The outcomes of every entry's operations as they stand.
    pub(crate) async fn outcomes(&self) -> BTreeMap<Token, Vec<Outcome>> {
        let contents = self.contents().await;
        let mut outcomes: BTreeMap<Token, Vec<Outcome>> = BTreeMap::new();
        for record in contents.records.values().filter(|record| !contents.marks.corrected.contains(record.seq)) {
            outcomes.entry(record.token).or_default().push(record.decision.outcome);
        }
        outcomes
    }

    /// Checks what must hold of every index, and gives what is in it.
    pub(crate) async fn check(&self) -> IndexContents {
        let (manifest, contents) = (self.manifest().await, self.contents().await);
        assert!(manifest.cursor.second() <= manifest.horizon);
        let seqs: Vec<u64> = contents.records.keys().copied().collect();
        assert_eq!(seqs, (1..manifest.next_seq).collect::<Vec<_>>(), "seqs are dense");
        assert_eq!(manifest.totals, IndexTotals::of(&manifest.segments, &manifest.sidecars));
        Self::check_each_operation_once(&contents);
        check_newest(&contents);
        contents
    }

    fn check_each_operation_once(contents: &IndexContents) {
        let mut standing = BTreeMap::new();
        for record in contents.records.values().filter(|record| !contents.marks.corrected.contains(record.seq)) {
            let double = standing.insert((record.token, record.op), record.seq);
            assert_eq!(double, None, "{} is there twice", record.token);
        }
    }
}

/// Operations as they stand, whatever their seqs.
pub(crate) fn standing(contents: &IndexContents) -> BTreeMap<(Token, u32), OperationRecord> {
    let standing = contents.records.values().filter(|record| !contents.marks.corrected.contains(record.seq));
    standing.map(|record| ((record.token, record.op), OperationRecord { seq: 0, ..record.clone() })).collect()
}

pub(crate) fn restore_request(target: &RestoreTarget) -> RestoreRequest {
    let owner = IndexOwner::Named { name: "test".to_owned() };
    RestoreRequest { target: target.clone(), owner, reaches_floor: false }
}

/// An ingest as the service runs it: it goes on in the generation that the index switches to.
async fn run_each_generation(ingest: LogIngester, stop: CancellationToken) -> Result<(), IngestError> {
    let mut chain = ingest.chain.clone();
    loop {
        match (LogIngester { chain, ..ingest.clone() }).run(stop.clone()).await {
            Err(IngestError::Switching { .. }) => chain = ingest.chain.clone().follow().await?,
            ended => return ended,
        }
    }
}

/// `outdated` is what the naive fold over all committed operations gives.
fn check_newest(contents: &IndexContents) {
    let standing = || contents.records.values().filter(|record| !contents.marks.corrected.contains(record.seq));
    let mut newest: BTreeMap<&str, LatestCommit> = BTreeMap::new();
    for (entity, current) in standing().filter_map(|record| record.entity_commit()) {
        let known = newest.entry(entity).or_insert(current);
        *known = current.max(*known);
    }
    for (entity, current) in standing().filter_map(|record| record.entity_commit()) {
        let outdated = contents.marks.outdated.contains(current.seq);
        assert_eq!(outdated, newest[entity] != current, "{entity}, seq {}", current.seq);
    }
}

fn parameters() -> LogParameters {
    LogParameters { audit_window: Duration::from_hours(2), ..LogParameters::with_expiry(Duration::from_secs(10)) }
}

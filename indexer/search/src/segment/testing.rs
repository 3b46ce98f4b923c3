//! What the tests of the engine and of search share: random histories, and an index that they are published to.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::TryStreamExt as _;
use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::json;
use sha2::{Digest, Sha256};
use tantivy::{Index, Searcher, TantivyDocument};
use tempfile::TempDir;
use tidemark_catalog::{
    CompactionResult, Generation, IndexChain, IndexOwner, IndexRegistration, LogCursor, Manifest, ObjectKind,
    ObjectName, PublishRequest, RecordCounts, RootChain, SegmentMeta, SetDigest, SidecarMeta, WriterIdentity,
    WriterLease,
};
use tidemark_store::{Entropy, Store, StoreClock, StoreSecond, UserMetadata};
use tidemark_wal::{
    ClientTime, Contributor, Evidence, Log, LogParameters, OperationKind, Outcome, OutcomeDecision, Token,
};

use super::{
    engine::{EngineOptions, TantivyEngine},
    metered_store::MeteredStore,
    ranged_file::held_bytes,
    schema::{NEXT_FORMAT, SchemaFields},
    tokenizers::tokenizers,
};
use tidemark_ingest::{
    EntryBody, GenerationTask, IngestOptions, OperationRecord,
    engine::{IndexEngine, PackedSegment, RecordMarks, SegmentFile},
};

/// The second at which test histories begin.
pub(crate) const BEGIN: u64 = 1_700_000_000;

/// Documents in one segment in memory.
pub(crate) fn searcher_of(fields: &SchemaFields, documents: impl IntoIterator<Item = TantivyDocument>) -> Searcher {
    let index = Index::builder().schema(fields.schema.clone()).tokenizers(tokenizers()).create_in_ram().unwrap();
    let mut writer = index.writer_with_num_threads::<TantivyDocument>(1, 15_000_000).unwrap();
    for document in documents {
        writer.add_document(document).unwrap();
    }
    writer.commit().unwrap();
    index.reader().unwrap().searcher()
}

/// A record to be: everything but its seq.
pub(crate) fn record() -> impl Strategy<Value = OperationRecord> {
    let place = (0u64..50, any::<[u8; 16]>(), 0u32..3);
    let names = (select(vec!["red", "green", "blue"]), select(vec!["main", "dev"]), 0..3usize);
    let outcome = select(vec![
        Outcome::Committed,
        Outcome::Committed,
        Outcome::Committed,
        Outcome::Late,
        Outcome::Aborted,
        Outcome::Malformed,
        Outcome::Unreadable,
        Outcome::Unknown,
        Outcome::Duplicate,
    ]);
    let words = vec(select(vec!["fix", "fixing", "the", "bug", "release", "tide", "7"]), 0..6);
    let people = vec(select(vec![("Ada", "ada@x.org"), ("Bob", "bob@x.org"), ("", "c@x.org")]), 0..3);
    let key = option::of((select(vec!["w", "v"]), select(vec!["k1", "k2", "k3"])));
    (place, names, outcome, words, people, key, 0u64..40).prop_map(
        |((second, random, op), (repo, label, kind), outcome, words, people, key, late)| {
            let token = Token::from_parts(StoreSecond::from_unix(BEGIN + second), random);
            let named = |(name, email): (&str, &str)| Contributor { name: name.to_owned(), email: email.to_owned() };
            OperationRecord {
                op,
                kind: [OperationKind::Bundle, OperationKind::Label, OperationKind::Malformed][kind],
                repo: (kind < 2).then(|| repo.to_owned()),
                label: (kind == 1).then(|| label.to_owned()),
                entity: (kind == 1).then(|| format!("label/{repo}/{label}")),
                message: (!words.is_empty()).then(|| words.join(" ")),
                contributors: people.into_iter().map(named).collect(),
                writer: key.map(|(writer, _)| writer.to_owned()),
                idempotency_key: key.map(|(_, key)| key.to_owned()),
                client_time: (late < 30).then(|| client_time(BEGIN + late % 7)),
                payload: json!({"build": {"number": second}, "tags": [repo]}),
                decision: decision(token, outcome, late),
                ..plain(token)
            }
        },
    )
}

fn decision(token: Token, outcome: Outcome, late: u64) -> OutcomeDecision {
    OutcomeDecision {
        outcome,
        evidence: (outcome == Outcome::Committed).then_some(Evidence::Bound),
        entry_time: token.second(),
        completed: Some(StoreSecond::from_unix(token.second().unix() + late)),
        observations: Vec::new(),
        guard: None,
    }
}

/// The time of a client at this second of Unix time.
pub(crate) fn client_time(second: u64) -> ClientTime {
    StoreSecond::from_unix(second).timestamp().to_string().parse().unwrap()
}

/// A committed operation without anything else.
pub(crate) fn plain(token: Token) -> OperationRecord {
    OperationRecord {
        seq: 0,
        token,
        op: 0,
        kind: OperationKind::Entry,
        decision: decision(token, Outcome::Committed, 0),
        entity: None,
        repo: None,
        bundle: None,
        label: None,
        context: None,
        diamond: None,
        split: None,
        path: None,
        message: None,
        contributors: Vec::new(),
        client_time: None,
        size: 10,
        body: EntryBody::Unread,
        descriptor_body: None,
        files: None,
        leaf_size: None,
        count: None,
        writer: None,
        idempotency_key: None,
        reason: None,
        payload: serde_json::Value::Null,
        descriptor: serde_json::Value::Null,
        text: None,
        was_unreadable: false,
        expectation: None,
    }
}

/// A token of second `BEGIN + second` with a random part that `n` begins.
pub(crate) fn token(second: u64, n: u32) -> Token {
    let mut random = [0; 16];
    random[..4].copy_from_slice(&n.to_be_bytes());
    Token::from_parts(StoreSecond::from_unix(BEGIN + second), random)
}

/// Operations that have little in common.
pub(crate) fn many(second: u64, count: u32) -> Vec<OperationRecord> {
    let record = |n: u32| OperationRecord {
        entity: Some(format!("entry/{second}/{n}")),
        message: Some(format!("message {n} of {second} says {}", n.wrapping_mul(2_654_435_761))),
        payload: serde_json::json!({ "build": { "number": n }, "hash": format!("{:x}", n.wrapping_mul(40_503)) }),
        ..plain(token(second, n))
    };
    (0..count).map(record).collect()
}

/// An index of three segments of 1.5 MiB and more each, in a store that holds downloads of them back, but no reads of their parts.
pub(crate) async fn cold_index() -> (MeteredStore, TestIndex) {
    let store = MeteredStore::default();
    let mut index = TestIndex::over(store.store(), 64 << 20).await;
    for second in 1..4 {
        index.publish(many(second, 12_000)).await;
    }
    let sizes: Vec<u64> = index.manifest().segments.iter().map(|segment| segment.size).collect();
    assert!(sizes.iter().all(|size| *size >= 3 << 19), "{sizes:?}");
    store.hold(|range| range.end - range.start >= 3 << 19);
    store.take_counts();
    (store, index)
}

/// The most bytes that opening the segments of a cold index in the store and reading a little of them takes: four blocks of 256 KiB
/// each, and what is held of each as long as it is open.
pub(crate) fn max_cold_bytes(index: &TestIndex) -> u64 {
    index.manifest().segments.iter().map(|segment| (1 << 20) + held_bytes(segment.size)).sum()
}

/// A history in batches: each continues the tokens of the one before, but for corrections of aborted operations.
pub(crate) fn history() -> impl Strategy<Value = Vec<Vec<OperationRecord>>> {
    let batch = (vec(record(), 1..12), vec(any::<prop::sample::Index>(), 0..3));
    vec(batch, 1..6).prop_map(|batches| {
        let mut aborted: Vec<OperationRecord> = Vec::new();
        let mut history = Vec::new();
        for ((records, corrected), number) in batches.into_iter().zip(0u64..) {
            let mut batch = placed(records, number);
            for index in corrected {
                if !aborted.is_empty() {
                    let mut record = aborted.remove(index.index(aborted.len()));
                    record.decision.outcome = Outcome::Committed;
                    batch.push(record);
                }
            }
            aborted.extend(batch.iter().filter(|record| record.decision.outcome == Outcome::Aborted).cloned());
            history.push(batch);
        }
        history
    })
}

/// The records of one batch, in token order and with each (token, op) once.
fn placed(records: Vec<OperationRecord>, number: u64) -> Vec<OperationRecord> {
    let moved = records.into_iter().map(|mut record| {
        let mut random = [0; 16];
        random.copy_from_slice(&record.token.as_bytes()[4..]);
        let second = record.token.second().unix() + 50 * number;
        record.token = Token::from_parts(StoreSecond::from_unix(second), random);
        ((record.token, record.op), record)
    });
    moved.collect::<BTreeMap<_, _>>().into_values().collect()
}

/// An index in memory with its one writer.
pub(crate) struct TestIndex {
    pub(crate) store: Store,
    pub(crate) log: Log,
    pub(crate) chain: IndexChain,
    pub(crate) engine: Arc<TantivyEngine>,
    pub(crate) records: Vec<OperationRecord>,
    pub(crate) marks: RecordMarks,
    pub(crate) writer_lease: WriterLease,
    entropy: Entropy,
    folder: TempDir,
}

impl TestIndex {
    pub(crate) async fn new() -> Self {
        Self::with_cache(1 << 30).await
    }

    pub(crate) async fn with_cache(bytes: u64) -> Self {
        Self::over(Store::memory(), bytes).await
    }

    /// An index in `store`.
    pub(crate) async fn over(store: Store, cache_bytes: u64) -> Self {
        let entropy = Entropy::seeded(1);
        let log = Log::over(Store::memory(), vec![Store::memory()]);
        let chain = IndexChain::open(&store, Generation::first(), entropy.clone());
        Self::of_chain(log, chain, entropy, cache_bytes).await
    }

    /// An index that the root of its log knows.
    pub(crate) async fn registered() -> Self {
        let (entropy, store) = (Entropy::seeded(1), Store::memory());
        let log = Log::over(Store::memory(), vec![Store::memory()]);
        let (root, url) = (RootChain::open(&log, entropy.clone()), store.url().to_string());
        let owner = IndexOwner::Named { name: "test".to_owned() };
        let index = IndexRegistration::new(&url, owner, Generation::first());
        let parameters = LogParameters::with_expiry(Duration::from_secs(1));
        root.register(None, &parameters, &url, &index, LogCursor::default(), None).await.unwrap();
        let chain = IndexChain::open(&store, Generation::first(), entropy.clone()).for_log(&root);
        Self::of_chain(log, chain, entropy, 1 << 30).await
    }

    async fn of_chain(log: Log, chain: IndexChain, entropy: Entropy, cache_bytes: u64) -> Self {
        let (store, clock) = (chain.index().clone(), StoreClock::new(log.stores(), "test"));
        let writer_lease =
            chain.acquire(WriterIdentity("test".to_owned()), &clock, &log.entries, |_| {}).await.unwrap();
        let folder = TempDir::new().unwrap();
        let engine = Arc::new(engine(&store, &folder, cache_bytes));
        let (records, marks) = (Vec::new(), RecordMarks::default());
        Self { store, log, chain, engine, records, marks, writer_lease, entropy, folder }
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.writer_lease.manifest().state
    }

    /// Another engine over the same store, with a cache of its own.
    pub(crate) fn another_engine(&self, bytes: u64) -> TantivyEngine {
        engine(&self.store, &self.folder, bytes)
    }

    /// Bytes on the disk of all engines of this index.
    pub(crate) fn cache_bytes(&self) -> u64 {
        folder_bytes(self.folder.path())
    }

    /// Publishes a batch as one segment, with the marks that it causes.
    pub(crate) async fn publish(&mut self, mut batch: Vec<OperationRecord>) {
        let first_seq = self.manifest().next_seq;
        for (record, seq) in batch.iter_mut().zip(first_seq..) {
            record.seq = seq;
        }
        let segment = self.build(&batch).await;
        let before = self.marks.corrected.clone();
        let sidecars = self.mark(&batch).await;
        let corrected = &self.marks.corrected - &before;
        let is_settled = |record: &&OperationRecord| {
            corrected.contains(record.seq) && matches!(record.decision.outcome, Outcome::Aborted | Outcome::Unreadable)
        };
        let settled = self.records.iter().chain(&batch).filter(is_settled).map(|record| record.seq).collect();
        let from = self.manifest().cursor;
        let last = batch.iter().map(|record| record.token.second().next()).max().unwrap_or_default();
        let to = LogCursor(last).max(from);
        self.records.extend(batch);
        let records = segment.documents;
        let segments = vec![segment];
        let publication = PublishRequest {
            to,
            horizon: to.second(),
            records,
            segments,
            sidecars,
            settled,
            ..PublishRequest::after(self.manifest())
        };
        self.writer_lease.publish(publication).await.unwrap();
    }

    async fn build(&self, batch: &[OperationRecord]) -> SegmentMeta {
        let mut builder = self.engine.builder().unwrap();
        for chunk in batch.chunks(3) {
            builder.add(chunk.to_vec()).await.unwrap();
        }
        let packed = builder.finish().await.unwrap();
        self.put(packed, batch).await
    }

    async fn put(&self, packed: PackedSegment, records: &[OperationRecord]) -> SegmentMeta {
        let key = self.name(ObjectKind::Segment);
        match &packed.file {
            SegmentFile::File(file) => self.store.put_file(&key, &file.path).await.unwrap(),
            SegmentFile::Memory(bytes) => self.store.put(&key, bytes.clone()).await.unwrap(),
        }
        let (counts, digest) = sums(records);
        SegmentMeta {
            key,
            size: packed.size,
            checksum: packed.checksum,
            format: packed.format,
            digest,
            first: records.iter().map(|record| record.token).min().unwrap(),
            last: records.iter().map(|record| record.token).max().unwrap(),
            entry_times: records.iter().map(|record| record.decision.entry_time).min().unwrap()
                ..records.iter().map(|record| record.decision.entry_time.next()).max().unwrap(),
            seq: records[0].seq..records[records.len() - 1].seq + 1,
            counts,
            unsettled: counts.unsettled(),
            documents: packed.documents,
        }
    }

    fn name(&self, kind: ObjectKind) -> String {
        ObjectName::new(&self.manifest().generation, kind, self.writer_lease.epoch(), &self.entropy).to_string()
    }

    async fn mark(&mut self, batch: &[OperationRecord]) -> Vec<SidecarMeta> {
        let all: Vec<OperationRecord> = self.records.iter().chain(batch).cloned().collect();
        let marks = naive_marks(&all);
        let new = RecordMarks {
            corrected: &marks.corrected - &self.marks.corrected,
            outdated: &marks.outdated - &self.marks.outdated,
        };
        self.marks = marks;
        if new.is_empty() {
            return Vec::new();
        }
        let body = self.engine.pack_marks(&new).unwrap();
        let key = self.name(ObjectKind::Sidecar);
        self.store.put(&key, body.clone()).await.unwrap();
        let corrected: Vec<OperationRecord> =
            all.into_iter().filter(|record| new.corrected.contains(record.seq)).collect();
        let (counts, digest) = sums(&corrected);
        let checksum = hex::encode(Sha256::digest(&body));
        let (size, outdated) = (body.len() as u64, new.outdated.len());
        let causes = batch[0].seq..batch[batch.len() - 1].seq + 1;
        vec![SidecarMeta { key, size, checksum, causes, corrected: new.corrected.len(), outdated, counts, digest }]
    }

    /// Compacts the segments at these places into one.
    pub(crate) async fn compact(&mut self, places: std::ops::Range<usize>) {
        let inputs = self.manifest().segments[places].to_vec();
        let packed = self.engine.compact(&inputs).await.unwrap();
        let seqs = inputs[0].seq.start..inputs[inputs.len() - 1].seq.end;
        let held: Vec<OperationRecord> =
            self.records.iter().filter(|record| seqs.contains(&record.seq)).cloned().collect();
        let adds = vec![self.put(packed, &held).await];
        let removes = inputs.into_iter().map(|segment| segment.key).collect();
        self.writer_lease.adopt(CompactionResult { removes, adds, ..CompactionResult::default() }).await.unwrap();
    }

    /// The key of the record that follows the latest manifest.
    pub(crate) async fn next_record_key(&self) -> String {
        let latest = self.writer_lease.manifest().number;
        let keys: Vec<String> = self.store.list("", None).map_ok(|object| object.key).try_collect().await.unwrap();
        let number_of = |key: &String| key.rsplit_once('/')?.1.trim_end_matches(".json").parse::<u64>().ok();
        let key = keys.into_iter().find(|key| key.contains("/manifest/") && number_of(key) == Some(latest)).unwrap();
        let width = key.rsplit_once('/').unwrap().1.len();
        format!("{}/{:0width$}", key.rsplit_once('/').unwrap().0, latest + 1)
    }

    /// Writes an entry to the log.
    pub(crate) async fn write_entry(&self, token: Token, body: &'static str) {
        let created = self.log.entries.create(&token.to_string(), body.into(), &UserMetadata::new()).await;
        assert!(matches!(created, tidemark_store::Create::Committed), "{created:?}");
    }

    /// What is shown: records that no correction replaced.
    pub(crate) fn standing(&self) -> impl Iterator<Item = &OperationRecord> {
        self.records.iter().filter(|record| !self.marks.corrected.contains(record.seq))
    }
}

fn engine(store: &Store, folder: &TempDir, cache_bytes: u64) -> TantivyEngine {
    let options = EngineOptions { cache_folder: folder.path().to_owned(), cache_bytes };
    TantivyEngine::open(store.clone(), &options).unwrap()
}

impl TestIndex {
    /// What makes a generation of it with this engine.
    pub(crate) fn generation_task(&self, engine: Arc<TantivyEngine>) -> GenerationTask {
        GenerationTask {
            log: self.log.clone(),
            clock: StoreClock::new(self.log.stores(), "task"),
            root: RootChain::open(&self.log, self.entropy.clone()),
            index: self.store.clone(),
            engine,
            name: None,
            options: IngestOptions::default(),
            entropy: self.entropy.clone(),
            progress: tokio::sync::watch::Sender::default(),
        }
    }

    /// Another engine over the same store, of the version of tidemark that writes the next segment format.
    pub(crate) fn next_version(&self) -> TantivyEngine {
        let options = EngineOptions { cache_folder: self.folder.path().to_owned(), cache_bytes: 1 << 30 };
        TantivyEngine::with_fields(self.store.clone(), &options, SchemaFields::of(NEXT_FORMAT)).unwrap()
    }
}

fn sums(records: &[OperationRecord]) -> (RecordCounts, SetDigest) {
    let (mut counts, mut digest) = (RecordCounts::default(), SetDigest::default());
    for record in records {
        counts.add(record.decision.outcome);
        digest.insert(&record.set_element());
    }
    (counts, digest)
}

/// The marks of a history, from first principles.
pub(crate) fn naive_marks(records: &[OperationRecord]) -> RecordMarks {
    let mut marks = RecordMarks::default();
    let mut latest = BTreeMap::new();
    for record in records {
        if let Some(before) = latest.insert((record.token, record.op), record.seq) {
            marks.corrected.insert(before);
        }
    }
    let mut newest: BTreeMap<&str, (tidemark_ingest::LatestCommit, u64)> = BTreeMap::new();
    for record in records.iter().filter(|record| !marks.corrected.contains(record.seq)) {
        let Some((entity, current)) = record.entity_commit() else { continue };
        match newest.get(entity) {
            Some((known, _)) if *known > current => {
                marks.outdated.insert(record.seq);
            }
            _ => {
                if let Some((_, seq)) = newest.insert(entity, (current, record.seq)) {
                    marks.outdated.insert(seq);
                }
            }
        }
    }
    marks
}

/// The bytes of all files in a folder and the folders in it.
pub(crate) fn folder_bytes(folder: &std::path::Path) -> u64 {
    // Files come and go while they are counted.
    let Ok(items) = std::fs::read_dir(folder) else { return 0 };
    items
        .flatten()
        .map(|item| match item.metadata() {
            Ok(meta) if meta.is_dir() => folder_bytes(&item.path()),
            // The blocks, not the length: files may have holes.
            Ok(meta) => std::os::unix::fs::MetadataExt::blocks(&meta) * 512,
            Err(_) => 0,
        })
        .sum()
}

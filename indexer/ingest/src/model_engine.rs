//! A model of an index engine: tests and the simulation use it in place of Tantivy.
//!
//! A segment is a file of records, one JSON object a line; a sidecar is one JSON object. Nothing runs on a thread of its
//! own, and every order is defined, so that the same calls give the same bytes.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::Range,
    sync::Arc,
    thread::LocalKey,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};
use tidemark_catalog::{Manifest, SegmentMeta, SidecarMeta};
use tidemark_store::Store;
use tidemark_wal::{Outcome, Token};

use crate::{
    engine::{
        EngineError, IndexEngine, IndexLookup, PackedSegment, RecordMarks, RecordPlace, RecordStats, RecordedOutcome,
        SegmentBuilder, SegmentFile, UnfitRecords, UnsettledOperation, UnsettledQuery,
    },
    key_neighbors::KeyNeighbors,
    record::OperationRecord,
    record::{KeyedOperation, LatestCommit, OperationPlace, WriterKey},
};

/// The version of what a model stores.
const FORMAT: u32 = 1;
/// No object of a model is larger.
const MAX_OBJECT_BYTES: u64 = 1 << 30;

/// How many objects are remembered that were parsed.
const MAX_PARSED: usize = 4_096;

/// The values in the lines of objects, by the hash of their bytes.
pub(crate) type ParsedLines<T> = RefCell<BTreeMap<[u8; 32], Arc<Vec<T>>>>;

thread_local! {
    /// What the same bytes give is the same: the processes of a simulation read the same segments again and again, each with an engine of its
    /// own, and most of their time goes by with parsing.
    static PARSED: ParsedLines<OperationRecord> = const { RefCell::new(BTreeMap::new()) };
}

/// The engine over the store that the manifests' keys are relative to.
#[derive(Debug)]
pub struct ModelEngine {
    store: Store,
    segments: Mutex<BTreeMap<String, Arc<Vec<OperationRecord>>>>,
    sidecars: Mutex<BTreeMap<String, Arc<RecordMarks>>>,
}

/// All that one manifest's index holds.
#[derive(Clone, Debug, Default)]
pub struct IndexContents {
    /// Every record, by seq.
    pub records: BTreeMap<u64, OperationRecord>,
    /// The union of the sidecars.
    pub marks: RecordMarks,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredMarks {
    corrected: Vec<u64>,
    outdated: Vec<u64>,
}

impl ModelEngine {
    /// A model over `store`.
    pub fn new(store: Store) -> Self {
        Self { store, segments: Mutex::default(), sidecars: Mutex::default() }
    }

    /// All records and marks of `manifest`.
    pub async fn contents(&self, manifest: &Manifest) -> Result<IndexContents, EngineError> {
        let segments = self.segments(manifest).await?;
        let records = segments.iter().flat_map(|records| records.iter());
        let records = records.map(|record| (record.seq, record.clone())).collect();
        Ok(IndexContents { records, marks: self.marks(manifest).await? })
    }

    /// The records of each segment of `manifest`.
    async fn segments(&self, manifest: &Manifest) -> Result<Vec<Arc<Vec<OperationRecord>>>, EngineError> {
        let mut segments = Vec::with_capacity(manifest.segments.len());
        for segment in &manifest.segments {
            segments.push(self.segment(segment).await?);
        }
        Ok(segments)
    }

    /// The union of the sidecars of `manifest`.
    async fn marks(&self, manifest: &Manifest) -> Result<RecordMarks, EngineError> {
        let mut marks = RecordMarks::default();
        for sidecar in &manifest.sidecars {
            marks.merge(&*self.sidecar(sidecar).await?);
        }
        Ok(marks)
    }

    async fn segment(&self, segment: &SegmentMeta) -> Result<Arc<Vec<OperationRecord>>, EngineError> {
        if let Some(records) = cached(&self.segments, &segment.key) {
            return Ok(records);
        }
        let body = self.read(&segment.key, &segment.checksum).await?;
        let records = parse_records(&body).map_err(|error| damaged(&segment.key, &error))?;
        self.segments.lock().insert(segment.key.clone(), records.clone());
        Ok(records)
    }

    async fn sidecar(&self, sidecar: &SidecarMeta) -> Result<Arc<RecordMarks>, EngineError> {
        if let Some(marks) = cached(&self.sidecars, &sidecar.key) {
            return Ok(marks);
        }
        let body = self.read(&sidecar.key, &sidecar.checksum).await?;
        let stored: StoredMarks = serde_json::from_slice(&body).map_err(|error| damaged(&sidecar.key, &error))?;
        let marks = RecordMarks {
            corrected: stored.corrected.into_iter().collect(),
            outdated: stored.outdated.into_iter().collect(),
        };
        let marks = Arc::new(marks);
        self.sidecars.lock().insert(sidecar.key.clone(), marks.clone());
        Ok(marks)
    }

    async fn read(&self, key: &str, checksum: &str) -> Result<Bytes, EngineError> {
        let body = self.store.get(key, MAX_OBJECT_BYTES).await?.and_then(|object| object.body);
        let body = body.ok_or_else(|| EngineError::Gone { key: key.to_owned() })?;
        if hex::encode(Sha256::digest(&body)) == checksum {
            Ok(body)
        } else {
            Err(damaged(key, &"its checksum differs from the manifest's"))
        }
    }
}

#[async_trait]
impl IndexEngine for ModelEngine {
    fn builder(&self) -> Result<Box<dyn SegmentBuilder>, EngineError> {
        Ok(Box::<ModelBuilder>::default())
    }

    async fn open(&self, manifest: &Manifest) -> Result<Arc<dyn IndexLookup>, EngineError> {
        let segments = self.segments(manifest).await?;
        let records: BTreeMap<u64, &OperationRecord> =
            segments.iter().flat_map(|records| records.iter()).map(|record| (record.seq, record)).collect();
        Ok(Arc::new(ModelLookup::new(records.into_values(), &self.marks(manifest).await?)))
    }

    fn format(&self) -> u32 {
        FORMAT
    }

    async fn compact(&self, inputs: &[SegmentMeta]) -> Result<PackedSegment, EngineError> {
        let mut compacted = ModelBuilder::default();
        for segment in inputs {
            // Read again: what is in memory was checked when it was read, and the object may have been damaged since.
            let body = self.read(&segment.key, &segment.checksum).await?;
            for record in parse_records(&body).map_err(|error| damaged(&segment.key, &error))?.iter() {
                compacted.push(record)?;
            }
        }
        Ok(compacted.pack())
    }

    fn max_compaction_bytes(&self) -> u64 {
        u64::MAX
    }

    async fn stats(&self, packed: &PackedSegment, parts: &[u64]) -> Result<Vec<RecordStats>, EngineError> {
        let SegmentFile::Memory(body) = &packed.file else { return Ok(vec![RecordStats::default(); parts.len()]) };
        let records = parse_records(body).map_err(|error| refused(&error))?;
        let mut records = records.iter();
        Ok(parts
            .iter()
            .map(|part| {
                let mut stats = RecordStats::default();
                for record in records.by_ref().take(usize::try_from(*part).unwrap_or(usize::MAX)) {
                    stats.insert(&record.set_element(), record.decision.entry_time);
                }
                stats
            })
            .collect())
    }

    async fn verified_stats(
        &self,
        segment: &SegmentMeta,
        groups: Arc<[RoaringTreemap]>,
    ) -> Result<Vec<RecordStats>, EngineError> {
        let body = self.read(&segment.key, &segment.checksum).await?;
        let records = parse_records(&body).map_err(|error| damaged(&segment.key, &error))?;
        let records = records.iter().map(|record| Ok((record.seq, record.set_element(), record.decision.entry_time)));
        RecordStats::by_group(records, &groups)
    }

    async fn records(&self, segment: &SegmentMeta, seqs: Range<u64>) -> Result<Vec<OperationRecord>, EngineError> {
        let records = self.segment(segment).await?;
        Ok(records.iter().filter(|record| seqs.contains(&record.seq)).cloned().collect())
    }

    async fn places(&self, segment: &SegmentMeta, seqs: Range<u64>) -> Result<Vec<RecordPlace>, EngineError> {
        let records = self.segment(segment).await?;
        let place = |record: &OperationRecord| {
            let OperationRecord { token, op, seq, .. } = *record;
            let outcome = record.decision.outcome;
            RecordPlace { token, op, seq, outcome }
        };
        Ok(records.iter().filter(|record| seqs.contains(&record.seq)).map(place).collect())
    }

    fn pack_marks(&self, marks: &RecordMarks) -> Result<Bytes, EngineError> {
        let stored = StoredMarks { corrected: listed(&marks.corrected), outdated: listed(&marks.outdated) };
        serde_json::to_vec(&stored).map(Bytes::from).map_err(|error| refused(&error))
    }

    async fn read_marks(&self, sidecar: &SidecarMeta) -> Result<RecordMarks, EngineError> {
        Ok(RecordMarks::clone(&*self.sidecar(sidecar).await?))
    }
}

#[derive(Debug, Default)]
struct ModelBuilder {
    lines: Vec<u8>,
    documents: u64,
}

impl ModelBuilder {
    fn push(&mut self, record: &OperationRecord) -> Result<(), EngineError> {
        serde_json::to_writer(&mut self.lines, record).map_err(|error| refused(&error))?;
        self.lines.push(b'\n');
        self.documents += 1;
        Ok(())
    }

    fn pack(self) -> PackedSegment {
        PackedSegment {
            size: self.lines.len() as u64,
            checksum: hex::encode(Sha256::digest(&self.lines)),
            format: FORMAT,
            documents: self.documents,
            file: SegmentFile::Memory(self.lines.into()),
        }
    }
}

#[async_trait]
impl SegmentBuilder for ModelBuilder {
    async fn add(&mut self, records: Vec<OperationRecord>) -> Result<(), EngineError> {
        records.iter().try_for_each(|record| self.push(record))
    }

    fn size(&self) -> usize {
        self.lines.len()
    }

    async fn flush(&mut self) -> Result<Option<UnfitRecords>, EngineError> {
        Ok(None)
    }

    async fn finish(self: Box<Self>) -> Result<PackedSegment, EngineError> {
        Ok(self.pack())
    }
}

#[derive(Debug, Default)]
struct ModelLookup {
    outcomes: BTreeMap<Token, Vec<RecordedOutcome>>,
    latest: BTreeMap<String, LatestCommit>,
    commits_by_key: BTreeMap<WriterKey, BTreeSet<OperationPlace>>,
    unsettled: Vec<UnsettledOperation>,
}

impl ModelLookup {
    fn new<'a>(records: impl Iterator<Item = &'a OperationRecord>, marks: &RecordMarks) -> Self {
        let mut lookup = Self::default();
        for record in records {
            lookup.insert(record, marks.corrected.contains(record.seq));
        }
        lookup.unsettled.sort_by_key(|one| (one.token, one.op));
        lookup
    }

    fn insert(&mut self, record: &OperationRecord, corrected: bool) {
        let OperationRecord { token, op, seq, .. } = *record;
        let outcome = record.decision.outcome;
        let decided = self.outcomes.entry(token).or_default();
        decided.push(RecordedOutcome { op, seq, outcome, corrected });
        decided.sort_by_key(|decided| (decided.op, decided.seq));
        match outcome {
            _ if corrected => {}
            Outcome::Committed => self.insert_committed(record),
            Outcome::Aborted | Outcome::Unreadable => self.unsettled.push(UnsettledOperation {
                token,
                op,
                seq,
                entry_time: record.decision.entry_time,
                outcome,
                evidence: record.decision.evidence,
                body: record.body.digest(),
            }),
            _ => {}
        }
    }

    fn insert_committed(&mut self, record: &OperationRecord) {
        if let Some((entity, current)) = record.entity_commit() {
            let newest = self.latest.entry(entity.to_owned()).or_insert(current);
            *newest = current.max(*newest);
        }
        if let Some(key) = record.writer_key() {
            self.commits_by_key.entry(key).or_default().insert((record.token, record.op));
        }
    }
}

#[async_trait]
impl IndexLookup for ModelLookup {
    async fn recorded_outcomes(&self, tokens: &[Token]) -> Result<Vec<Vec<RecordedOutcome>>, EngineError> {
        let of = |token| self.outcomes.get(token).cloned().unwrap_or_default();
        Ok(tokens.iter().map(of).collect())
    }

    async fn latest_commits(&self, entities: &[String]) -> Result<Vec<Option<LatestCommit>>, EngineError> {
        Ok(entities.iter().map(|entity| self.latest.get(entity).copied()).collect())
    }

    async fn key_neighbors(&self, operations: &[KeyedOperation]) -> Result<Vec<KeyNeighbors>, EngineError> {
        let of = |KeyedOperation { place, key }: &KeyedOperation| {
            KeyNeighbors::around(*place, self.commits_by_key.get(key).into_iter().flatten().copied())
        };
        Ok(operations.iter().map(of).collect())
    }

    async fn unsettled_operations(&self, query: &UnsettledQuery) -> Result<Vec<UnsettledOperation>, EngineError> {
        let within = |one: &&UnsettledOperation| {
            query.seconds.contains(&one.token.second().max(one.entry_time))
                && one.token.second() < query.before
                && query.outcomes.contains(&one.outcome)
                && query.after.is_none_or(|after| one.token > after)
        };
        let mut found: Vec<UnsettledOperation> = self.unsettled.iter().filter(within).copied().collect();
        if let Some(last) = found.get(query.limit.saturating_sub(1)).map(|last| last.token) {
            found.truncate(found.partition_point(|one| one.token <= last));
        }
        Ok(found)
    }
}

/// The records of a segment.
pub fn parse_records(body: &[u8]) -> serde_json::Result<Arc<Vec<OperationRecord>>> {
    parse_lines(&PARSED, body)
}

/// The JSON values of these lines, parsed once on each thread as long as `parsed` remembers them.
pub(crate) fn parse_lines<T: DeserializeOwned>(
    parsed: &'static LocalKey<ParsedLines<T>>,
    body: &[u8],
) -> serde_json::Result<Arc<Vec<T>>> {
    let hash = Sha256::digest(body).into();
    if let Some(known) = parsed.with_borrow(|parsed| parsed.get(&hash).cloned()) {
        return Ok(known);
    }
    let lines = body.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let values: Arc<Vec<T>> = Arc::new(lines.map(serde_json::from_slice).collect::<serde_json::Result<_>>()?);
    parsed.with_borrow_mut(|parsed| {
        if parsed.len() >= MAX_PARSED {
            parsed.clear();
        }
        parsed.insert(hash, values.clone());
    });
    Ok(values)
}

fn cached<T>(cache: &Mutex<BTreeMap<String, Arc<T>>>, key: &str) -> Option<Arc<T>> {
    cache.lock().get(key).cloned()
}

fn listed(seqs: &RoaringTreemap) -> Vec<u64> {
    seqs.iter().collect()
}

fn damaged(key: &str, why: &dyn fmt::Display) -> EngineError {
    EngineError::Damaged { key: key.to_owned(), why: why.to_string() }
}

fn refused(error: &serde_json::Error) -> EngineError {
    EngineError::Refused { what: "store a record".to_owned(), why: error.to_string() }
}

//! A writer whose records mean something: it publishes operations, corrects those that are not settled, and compacts.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tidemark_catalog::{
    CompactionResult, LogCursor, Manifest, ObjectKind, ObjectName, PublishError, PublishRequest, RecordCounts,
    SegmentMeta, SetDigest, SidecarMeta, WriterIdentity, WriterLease,
};
use tidemark_ingest::{
    OperationRecord,
    engine::{EngineError, IndexEngine, PackedSegment, RecordMarks, RecordStats, SegmentFile},
    model_engine::ModelEngine,
};
use tidemark_store::{Create, StoreClock, StoreSecond, UserMetadata};
use tidemark_wal::{Outcome, Token};

use super::long_run::{INDEX, LongRun};
use crate::{mutants::Mutant, process::SimProcess, simulated_store::START, supervise::ProcessEnd};

/// How many seconds of the log a publication covers at most.
const MAX_SECONDS: u64 = 600;
/// For how many seconds below the cursor the audit may still look at what is aborted.
const AUDIT_WINDOW: Duration = Duration::from_mins(25);

/// Why a step of the writer failed.
enum StepError {
    /// The writer may go on: a read fails, or an object is lost for a while.
    Read(String),
    /// It ends.
    Ended(String),
}

impl From<PublishError> for StepError {
    fn from(error: PublishError) -> Self {
        Self::Ended(error.to_string())
    }
}

impl From<EngineError> for StepError {
    fn from(error: EngineError) -> Self {
        Self::Read(error.to_string())
    }
}

/// Writes the index until it ends, is fenced or crashes.
pub(super) async fn write(world: LongRun, process: SimProcess) -> ProcessEnd {
    world.sleep_minutes(0..=300).await;
    let log = world.log(&process);
    let chain = match world.registered(&process, &log).await {
        Ok(chain) => chain,
        Err(error) => return ProcessEnd::GaveUp(error.to_string()),
    };
    let clock = StoreClock::new(log.stores(), process.name());
    // One identity: each takes over from the other at once, so that they need no heartbeats for days.
    let identity = WriterIdentity("writer".to_owned());
    let lease = match chain.acquire(identity, &clock, &log.entries, |_| ()).await {
        Ok(lease) => lease,
        Err(error) => return ProcessEnd::GaveUp(error.to_string()),
    };
    let engine = Arc::new(ModelEngine::new(world.store(INDEX, &process)));
    let mut writer = HistoryWriter { world: world.clone(), process, lease, engine, unpublished: None };
    for _ in 0..world.number(4..=16) {
        world.sleep_minutes(10..=300).await;
        let step = match world.number(0..=9) {
            0 => writer.raise_epoch().await,
            1 => writer.upload_unpublished().await,
            2 | 3 => writer.compact().await,
            4..=6 => writer.correct().await,
            _ => writer.publish().await,
        };
        match step {
            Ok(()) => {}
            Err(StepError::Read(why)) => world.simulated_store.note(&format!("a writer waits: {why}")),
            Err(StepError::Ended(why)) => return ProcessEnd::GaveUp(why),
        }
    }
    ProcessEnd::GaveUp("another one goes on".to_owned())
}

struct HistoryWriter {
    world: LongRun,
    process: SimProcess,
    lease: WriterLease,
    engine: Arc<ModelEngine>,
    /// A segment of an earlier epoch that was uploaded and not published.
    unpublished: Option<SegmentMeta>,
}

impl HistoryWriter {
    fn manifest(&self) -> Manifest {
        self.lease.manifest().state.clone()
    }

    async fn raise_epoch(&mut self) -> Result<(), StepError> {
        self.lease.raise_epoch().await?;
        if Mutant::LowerEpochAdopted.is_on()
            && let Some(left) = self.unpublished.take()
            && left.seq.start == self.manifest().next_seq
        {
            let to = LogCursor(left.last.second().next());
            return self.add(to, vec![left], Vec::new(), Vec::new()).await;
        }
        Ok(())
    }

    /// Operations of the next seconds.
    async fn publish(&mut self) -> Result<(), StepError> {
        let (to, records) = self.next_records();
        let segments = if records.is_empty() { Vec::new() } else { vec![self.upload_records(records).await?] };
        self.add(to, segments, Vec::new(), Vec::new()).await
    }

    async fn upload_unpublished(&mut self) -> Result<(), StepError> {
        let (_, records) = self.next_records();
        if !records.is_empty() {
            self.unpublished = Some(self.upload_records(records).await?);
        }
        Ok(())
    }

    /// A further record of an operation that is not settled: an aborted one turns out late, one that was unreadable is read.
    async fn correct(&mut self) -> Result<(), StepError> {
        let manifest = self.manifest();
        let contents = self.engine.contents(&manifest).await?;
        let stands = |record: &&OperationRecord| !contents.marks.corrected.contains(record.seq);
        let may_change = |record: &&OperationRecord| match record.decision.outcome {
            Outcome::Aborted => record.token.second() >= manifest.audited,
            outcome => outcome == Outcome::Unreadable,
        };
        let open: Vec<_> = contents.records.values().filter(stands).filter(may_change).collect();
        if open.is_empty() {
            return Ok(());
        }
        let chosen = open[self.world.simulated_store.state().rng.index(open.len())];
        // An entry is read as a whole.
        let old: Vec<&OperationRecord> = open.into_iter().filter(|record| record.token == chosen.token).collect();
        let (mut marks, mut records, mut settled) = (RecordMarks::default(), Vec::new(), Vec::new());
        let (mut counts, mut digest) = (RecordCounts::default(), SetDigest::default());
        for (seq, record) in (manifest.next_seq..).zip(&old) {
            let outcome = match record.decision.outcome {
                Outcome::Aborted => Outcome::Late,
                _ => Outcome::Committed,
            };
            let body = (record.op == 0).then(|| entry_body(record.token, old.len()));
            records.push(operation(seq, (record.token, record.op), record.decision.entry_time, outcome, body));
            marks.corrected.insert(record.seq);
            counts.add(record.decision.outcome);
            digest.insert(&record.set_element());
            settled.push(record.seq);
        }
        let causes = manifest.next_seq..manifest.next_seq + records.len() as u64;
        let body = self.engine.pack_marks(&marks)?;
        let sidecar = SidecarMeta {
            key: self.upload(ObjectKind::Sidecar, body.clone()).await?,
            size: body.len() as u64,
            checksum: sha256(&body),
            causes,
            corrected: marks.corrected.len(),
            outdated: 0,
            counts,
            digest,
        };
        let segment = self.upload_records(records).await?;
        self.add(manifest.cursor, vec![segment], vec![sidecar], settled).await
    }

    /// One segment in place of two neighbours.
    async fn compact(&mut self) -> Result<(), StepError> {
        let manifest = self.manifest();
        let Some(last) = manifest.segments.len().checked_sub(2) else { return Ok(()) };
        let at = usize::try_from(self.world.number(0..=last as u64)).unwrap_or_default();
        let inputs = &manifest.segments[at..at + 2];
        let packed = self.engine.compact(inputs).await?;
        let seq = inputs[0].seq.start..inputs[1].seq.end;
        let merged = self.upload_packed(packed, seq).await?;
        let removes = inputs.iter().map(|input| input.key.clone()).collect();
        let merged = SegmentMeta { unsettled: inputs.iter().map(|input| input.unsettled).sum(), ..merged };
        self.lease.adopt(CompactionResult { removes, adds: vec![merged], ..CompactionResult::default() }).await?;
        Ok(())
    }

    async fn add(
        &mut self,
        to: LogCursor,
        segments: Vec<SegmentMeta>,
        sidecars: Vec<SidecarMeta>,
        settled: Vec<u64>,
    ) -> Result<(), StepError> {
        // A publication may come long after its uploads.
        if self.world.number(0..=9) == 0 {
            self.world.sleep_minutes(0..=2_000).await;
        }
        let before = self.manifest();
        let publication = PublishRequest {
            to,
            horizon: to.second().max(before.horizon),
            audited: to.second().before(AUDIT_WINDOW),
            records: segments.iter().map(|segment| segment.documents).sum(),
            segments,
            sidecars,
            settled,
            ..PublishRequest::after(&before)
        };
        self.lease.publish(publication).await?;
        Ok(())
    }

    /// The operations of the seconds up to the answer's first part.
    fn next_records(&self) -> (LogCursor, Vec<OperationRecord>) {
        let manifest = self.manifest();
        // The log begins with the run.
        let from = manifest.cursor.second().max(StoreSecond::from_unix(START / 1000));
        let seconds = self.world.number(1..=MAX_SECONDS);
        let mut tokens: Vec<Token> = (0..self.world.number(0..=6))
            .map(|_| {
                let second = StoreSecond::from_unix(from.unix() + self.world.number(0..=seconds - 1));
                Token::new(second, &self.world.entropy())
            })
            .collect();
        tokens.sort_unstable();
        let mut records = Vec::new();
        for token in tokens {
            let (outcome, is_oversized) = match self.world.number(0..=10) {
                0 => (Outcome::Unreadable, false),
                1..=3 => (Outcome::Aborted, false),
                4 => (Outcome::Malformed, false),
                5 => (Outcome::Malformed, true),
                _ => (Outcome::Committed, false),
            };
            let entry_time = token.second().after(Duration::from_secs(self.world.number(0..=4)));
            let ops = u32::try_from(self.world.number(1..=2)).unwrap_or(1);
            let body = entry_body(token, ops as usize);
            for op in 0..ops {
                let seq = manifest.next_seq + records.len() as u64;
                let is_read = outcome != Outcome::Unreadable && !is_oversized && op == 0;
                records.push(operation(seq, (token, op), entry_time, outcome, is_read.then(|| body.clone())));
            }
            // Now and then somebody has written the entry again since it was read.
            let is_changed = self.world.number(0..=19) == 0;
            self.world.plant_entry(token, entry_time, if is_changed { format!("{body} ") } else { body });
            if is_guarded(token) {
                self.world.plant_guard(token, entry_time);
            }
        }
        (LogCursor(StoreSecond::from_unix(from.unix() + seconds)), records)
    }

    async fn upload_records(&self, records: Vec<OperationRecord>) -> Result<SegmentMeta, StepError> {
        let start = records.first().map_or(0, |record| record.seq);
        let seq = start..start + records.len() as u64;
        let mut builder = self.engine.builder()?;
        builder.add(records).await?;
        let packed = builder.finish().await?;
        self.upload_packed(packed, seq).await
    }

    async fn upload_packed(&self, packed: PackedSegment, seq: std::ops::Range<u64>) -> Result<SegmentMeta, StepError> {
        let stats: RecordStats = self.engine.stats(&packed, &[packed.documents]).await?.into_iter().sum();
        let PackedSegment { file: SegmentFile::Memory(body), size, checksum, format, documents } = packed else {
            return Err(StepError::Ended("a model packs in memory".to_owned()));
        };
        let Some(((first, last), (earliest, latest))) = stats.tokens.zip(stats.entry_times) else {
            return Err(StepError::Ended("a segment without records".to_owned()));
        };
        Ok(SegmentMeta {
            key: self.upload(ObjectKind::Segment, body).await?,
            size,
            checksum,
            format,
            digest: stats.digest,
            first,
            last,
            entry_times: earliest..latest.next(),
            seq,
            counts: stats.counts,
            unsettled: stats.counts.unsettled(),
            documents,
        })
    }

    async fn upload(&self, kind: ObjectKind, body: Bytes) -> Result<String, StepError> {
        let manifest = self.manifest();
        let entropy = self.world.entropy();
        let key = ObjectName::new(&manifest.generation, kind, self.lease.epoch(), &entropy).to_string();
        let index = self.world.store(INDEX, &self.process);
        match index.create_resolved(&key, body, &UserMetadata::new()).await {
            Create::Committed => Ok(key),
            _ => Err(StepError::Ended(format!("\"{key}\" was not uploaded"))),
        }
    }
}

/// Whether a lock guards the entry: one of three.
fn is_guarded(token: Token) -> bool {
    token.to_string().bytes().map(u64::from).sum::<u64>().is_multiple_of(3)
}

/// What an entry of so many operations announces.
fn entry_body(token: Token, ops: usize) -> String {
    let mut body = json!({"tidemark": 1, "ops": vec![json!({}); ops], "attributes": {"entry": token}});
    if is_guarded(token) {
        body["lock"] = json!({"name": "turn", "grant": 1});
    }
    body.to_string()
}

/// An operation that its entry completes.
fn operation(
    seq: u64,
    (token, op): (Token, u32),
    entry_time: StoreSecond,
    outcome: Outcome,
    body: Option<String>,
) -> OperationRecord {
    let mut record = json!({
        "seq": seq, "token": token, "op": op, "kind": "entry", "size": 14,
        "decision": {"outcome": outcome, "entryTime": entry_time},
    });
    if let Some(body) = body {
        record["body"] = body.into();
    }
    serde_json::from_value(record).unwrap_or_else(|error| unreachable!("{error}"))
}

fn sha256(body: &[u8]) -> String {
    hex::encode(Sha256::digest(body))
}

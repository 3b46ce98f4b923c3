//! A writer of an index that makes its records up: commits of a few entities, aborted operations and their corrections, and merges.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use serde_json::json;
use tidemark_catalog::{
    CompactionResult, LogCursor, Manifest, ObjectKind, ObjectName, PublishRequest, RecordCounts, SegmentMeta,
    SetDigest, SetElement, SidecarMeta, WriterLease,
};
use tidemark_ingest::{
    OperationRecord,
    engine::{IndexEngine, PackedSegment, RecordMarks, RecordStats, SegmentFile, UnsettledQuery},
};
use tidemark_store::{Create, Entropy, Store, StoreSecond, UserMetadata};
use tidemark_wal::{Outcome, Token};

use super::long_run::LongRun;

/// The second of the first record.
const FIRST_SECOND: u64 = 1_700_000_000;
/// How many entities there are.
const ENTITIES: u64 = 5;
/// How many objects are merged into one at most: manifests stay short, which every process reads.
const MERGED: usize = 12;
/// The numbers modulo eleven whose entries are too large to be read.
const OVERSIZED: u64 = 5;
/// For how many seconds below the cursor an aborted operation may still turn out to be late.
const AUDIT_WINDOW: Duration = Duration::from_secs(12);

/// Holds the lease and publishes.
pub(super) struct RecordWriter {
    /// Where the entries of the operations are.
    pub(super) run: LongRun,
    pub(super) lease: WriterLease,
    pub(super) engine: Arc<dyn IndexEngine>,
    pub(super) store: Store,
    pub(super) entropy: Entropy,
}

impl RecordWriter {
    fn manifest(&self) -> &Manifest {
        &self.lease.manifest().state
    }

    /// Publishes a record of a later second: of entity `number`, committed or aborted, or of an entry that is too large to be read.
    pub(super) async fn publish(&mut self, number: u64) -> anyhow::Result<()> {
        let second = self.manifest().cursor.second().max(StoreSecond::from_unix(FIRST_SECOND));
        let outcome = match number {
            _ if number % 11 == OVERSIZED => Outcome::Malformed,
            _ if number.is_multiple_of(3) => Outcome::Aborted,
            _ => Outcome::Committed,
        };
        let entity = format!("entry/e{}", number % ENTITIES);
        let record = self.record(Token::new(second, &self.entropy), second, outcome, &entity)?;
        let token = record.token;
        let mut marks = RecordMarks::default();
        if record.is_committed() {
            let lookup = self.engine.open(self.manifest()).await?;
            let before = lookup.latest_commits(std::slice::from_ref(&entity)).await?;
            marks.outdated.extend(before.into_iter().flatten().map(|before| before.seq));
        }
        let to = LogCursor(second.next());
        self.add(record, marks, None, to).await?;
        // Not before: of what the log has below its cursor an index of the product has a record.
        self.run.plant_entry(token, second, entry_body());
        Ok(())
    }

    /// Corrects the first operation that is not settled, if there is one.
    pub(super) async fn correct(&mut self) -> anyhow::Result<()> {
        let query = UnsettledQuery {
            seconds: self.manifest().audited..StoreSecond::KSUID_END.next(),
            before: StoreSecond::KSUID_END.next(),
            after: None,
            outcomes: &[Outcome::Aborted],
            limit: 1,
        };
        let found = self.engine.open(self.manifest()).await?.unsettled_operations(&query).await?;
        let Some(aborted) = found.first() else { return Ok(()) };
        let record = self.record(aborted.token, aborted.entry_time, Outcome::Late, "entry/late")?;
        let mut marks = RecordMarks::default();
        marks.corrected.insert(aborted.seq);
        let replaced = SetElement {
            token: aborted.token,
            op: aborted.op,
            outcome: aborted.outcome,
            evidence: aborted.evidence,
            body: aborted.body,
        };
        let cursor = self.manifest().cursor;
        self.add(record, marks, Some(replaced), cursor).await
    }

    /// Merges a few neighbouring segments, or the first sidecars.
    pub(super) async fn compact(&mut self, number: u64) -> anyhow::Result<()> {
        let manifest = self.manifest().clone();
        if number.is_multiple_of(2) && manifest.sidecars.len() > 1 {
            return self.merge_sidecars(&manifest.sidecars[..manifest.sidecars.len().min(MERGED)]).await;
        }
        let Some(pairs) = manifest.segments.len().checked_sub(1).filter(|pairs| *pairs > 0) else { return Ok(()) };
        let at = usize::try_from(number)? % pairs;
        let inputs = &manifest.segments[at..manifest.segments.len().min(at + MERGED)];
        let packed = self.engine.compact(inputs).await?;
        let merged = self.upload_segment(packed, inputs.iter().map(RecordStats::of).sum(), inputs[0].seq.start).await?;
        let removes = inputs.iter().map(|input| input.key.clone()).collect();
        let compaction = CompactionResult { removes, adds: vec![merged], ..CompactionResult::default() };
        Ok(self.lease.adopt(compaction).await.map(drop)?)
    }

    /// Uploads a segment that is never published.
    pub(super) async fn lose_upload(&self) -> anyhow::Result<()> {
        let key = self.new_key(ObjectKind::Segment);
        self.upload(&key, key.clone().into()).await
    }

    async fn merge_sidecars(&mut self, inputs: &[SidecarMeta]) -> anyhow::Result<()> {
        let mut marks = RecordMarks::default();
        for input in inputs {
            marks.merge(&self.engine.read_marks(input).await?);
        }
        let causes = inputs[0].causes.start..inputs[inputs.len() - 1].causes.end;
        let (counts, digest) =
            (inputs.iter().map(|input| input.counts).sum(), inputs.iter().map(|input| input.digest).sum());
        let merged = self.upload_sidecar(&marks, causes, counts, digest).await?;
        let compaction = CompactionResult {
            removes_sidecars: inputs.iter().map(|input| input.key.clone()).collect(),
            adds_sidecars: vec![merged],
            ..CompactionResult::default()
        };
        Ok(self.lease.adopt(compaction).await.map(drop)?)
    }

    fn record(
        &self,
        token: Token,
        time: StoreSecond,
        outcome: Outcome,
        entity: &str,
    ) -> anyhow::Result<OperationRecord> {
        let body = entry_body();
        let mut record = json!({
            "seq": self.manifest().next_seq, "token": token, "op": 0, "kind": "entry", "size": body.len(),
            "decision": {"outcome": outcome, "entryTime": time}, "entity": entity,
        });
        if outcome != Outcome::Malformed {
            record["body"] = body.into();
        }
        Ok(serde_json::from_value(record)?)
    }

    async fn add(
        &mut self,
        record: OperationRecord,
        marks: RecordMarks,
        replaced: Option<SetElement>,
        to: LogCursor,
    ) -> anyhow::Result<()> {
        let mut stats = RecordStats::default();
        stats.insert(&record.set_element(), record.decision.entry_time);
        let seq = record.seq;
        let mut builder = self.engine.builder()?;
        builder.add(vec![record]).await?;
        let segment = self.upload_segment(builder.finish().await?, stats, seq).await?;
        let mut sidecars = Vec::new();
        if !marks.is_empty() {
            let mut counts = RecordCounts::default();
            if let Some(replaced) = &replaced {
                counts.add(replaced.outcome);
            }
            let digest: SetDigest = replaced.iter().map(SetDigest::of).sum();
            sidecars.push(self.upload_sidecar(&marks, seq..seq + 1, counts, digest).await?);
        }
        let publication = PublishRequest {
            to,
            horizon: to.second(),
            audited: to.second().before(AUDIT_WINDOW),
            records: 1,
            segments: vec![segment],
            sidecars,
            settled: marks.corrected.iter().collect(),
            ..PublishRequest::after(self.manifest())
        };
        Ok(self.lease.publish(publication).await.map(drop)?)
    }

    async fn upload_segment(
        &self,
        packed: PackedSegment,
        stats: RecordStats,
        first_seq: u64,
    ) -> anyhow::Result<SegmentMeta> {
        let SegmentFile::Memory(body) = packed.file else { return Err(anyhow!("a model packs in memory")) };
        let key = self.new_key(ObjectKind::Segment);
        self.upload(&key, body).await?;
        let ((first, last), (earliest, latest)) = stats.tokens.zip(stats.entry_times).context("no records")?;
        Ok(SegmentMeta {
            key,
            size: packed.size,
            checksum: packed.checksum,
            format: packed.format,
            digest: stats.digest,
            first,
            last,
            entry_times: earliest..latest.next(),
            seq: first_seq..first_seq + packed.documents,
            counts: stats.counts,
            unsettled: stats.counts.unsettled(),
            documents: packed.documents,
        })
    }

    async fn upload_sidecar(
        &self,
        marks: &RecordMarks,
        causes: std::ops::Range<u64>,
        counts: RecordCounts,
        digest: SetDigest,
    ) -> anyhow::Result<SidecarMeta> {
        use sha2::{Digest as _, Sha256};

        let body = self.engine.pack_marks(marks)?;
        let (key, checksum) = (self.new_key(ObjectKind::Sidecar), hex::encode(Sha256::digest(&body)));
        let (size, corrected, outdated) = (body.len() as u64, marks.corrected.len(), marks.outdated.len());
        self.upload(&key, body).await?;
        Ok(SidecarMeta { key, size, checksum, causes, corrected, outdated, counts, digest })
    }

    fn new_key(&self, kind: ObjectKind) -> String {
        ObjectName::new(&self.manifest().generation, kind, self.lease.epoch(), &self.entropy).to_string()
    }

    async fn upload(&self, key: &str, body: bytes::Bytes) -> anyhow::Result<()> {
        match self.store.create_resolved(key, body, &UserMetadata::new()).await {
            Create::Committed => Ok(()),
            _ => Err(anyhow!("\"{key}\" was not uploaded")),
        }
    }
}

/// What every entry announces.
fn entry_body() -> String {
    json!({"tidemark": 1, "ops": [{"kind": "entry"}]}).to_string()
}

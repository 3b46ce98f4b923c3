//! What the real engine's look-ups read of the store after any history, of segments that are not on the disk.

use std::{ops::Range, path::Path};

use bytes::Bytes;
use serde_json::json;
use tidemark_catalog::{Generation, IndexTotals, LogCursor, Manifest, ObjectKind, ObjectName, SegmentMeta};
use tidemark_ingest::{
    KeyNeighbors, KeyedOperation, OperationRecord, WriterKey,
    engine::{IndexEngine, IndexLookup, RecordStats, SegmentFile, UnsettledQuery},
};
use tidemark_search::{EngineOptions, TantivyEngine};
use tidemark_store::{Entropy, Store, StoreSecond};
use tidemark_wal::{Outcome, Token};

use crate::fake_bucket::FakeBucket;

/// How many records the index has.
const HISTORIES: [u64; 3] = [1_000, 10_000, 100_000];
const NOW: u64 = 1_800_000_000;
/// Records of the last hour, in a segment of their own.
const RECENT: u64 = 50;

fn second(unix: u64) -> StoreSecond {
    StoreSecond::from_unix(unix)
}

fn engine(store: &Store, folder: &Path, cache_bytes: u64) -> TantivyEngine {
    TantivyEngine::open(store.clone(), &EngineOptions { cache_folder: folder.to_owned(), cache_bytes }).unwrap()
}

/// Operations, one a second up to `end`, every tenth of them aborted, of 50 entities, each with a key of its own.
fn records(entity: &str, seqs: Range<u64>, end: u64, entropy: &Entropy) -> Vec<OperationRecord> {
    let record = |seq: u64| {
        let second = second(end - (seqs.end - seq));
        let outcome = if seq.is_multiple_of(10) { Outcome::Aborted } else { Outcome::Committed };
        let record = json!({
            "seq": seq, "token": Token::new(second, entropy), "op": 0, "kind": "entry", "size": 14,
            "decision": {"outcome": outcome, "entryTime": second},
            "entity": format!("entry/{entity}{}", seq % 50), "writer": "w", "idempotencyKey": format!("k{seq}"),
        });
        serde_json::from_value(record).unwrap()
    };
    seqs.clone().map(record).collect()
}

/// A segment of `records` in `store`.
async fn segment(
    engine: &TantivyEngine,
    store: &Store,
    records: Vec<OperationRecord>,
    entropy: &Entropy,
) -> SegmentMeta {
    let (mut builder, mut stats) = (engine.builder().unwrap(), RecordStats::default());
    for record in &records {
        stats.insert(&record.set_element(), record.decision.entry_time);
    }
    let seq = records[0].seq..records[records.len() - 1].seq + 1;
    builder.add(records).await.unwrap();
    assert!(builder.flush().await.unwrap().is_none());
    let packed = builder.finish().await.unwrap();
    let body: Bytes = match packed.file {
        SegmentFile::Memory(body) => body,
        SegmentFile::File(file) => std::fs::read(&file.path).unwrap().into(),
    };
    let key = ObjectName::new(&Generation::first(), ObjectKind::Segment, 1, entropy).to_string();
    store.put(&key, body).await.unwrap();
    let ((first, last), (earliest, latest)) = (stats.tokens.unwrap(), stats.entry_times.unwrap());
    SegmentMeta {
        key,
        size: packed.size,
        checksum: packed.checksum,
        format: packed.format,
        digest: stats.digest,
        first,
        last,
        entry_times: earliest..latest.next(),
        seq,
        counts: stats.counts,
        unsettled: stats.counts.unsettled(),
        documents: stats.records,
    }
}

fn manifest(segments: &[SegmentMeta]) -> Manifest {
    Manifest {
        epoch: 1,
        horizon: second(NOW),
        cursor: LogCursor(second(NOW)),
        next_seq: segments[segments.len() - 1].seq.end,
        totals: IndexTotals::of(segments, &[]),
        segments: segments.to_vec(),
        ..Manifest::new(Generation::first())
    }
}

/// What one correction and the looks of the audit at the last hour read.
async fn looks(lookup: &dyn IndexLookup, recent: &[Token]) {
    let query = UnsettledQuery {
        seconds: second(NOW - 3600)..second(NOW),
        before: second(NOW),
        outcomes: &[Outcome::Aborted],
        after: None,
        limit: 1000,
    };
    assert_eq!(lookup.unsettled_operations(&query).await.unwrap().len() as u64, RECENT / 10);
    let recorded = lookup.recorded_outcomes(recent).await.unwrap();
    assert!(recorded.iter().all(|records| records.len() == 1));
    let latest = lookup.latest_commits(&["entry/old7".to_owned(), "entry/new".to_owned()]).await.unwrap();
    assert!(latest[0].is_some() && latest[1].is_none());
    let place = (recent[0], 0);
    let keys = ["k11", "new"].map(|key| WriterKey { writer: "w".to_owned(), key: key.to_owned() });
    let found = lookup.key_neighbors(&keys.map(|key| KeyedOperation { place, key })).await.unwrap();
    assert!(found[0].before.is_some() && found[1] == KeyNeighbors::default());
}

/// What `during` gives, the reads that it makes, and their bytes.
async fn reads_of<T>(bucket: &FakeBucket, during: impl Future<Output = T>) -> (T, (u64, u64)) {
    let (requests, bytes) = (bucket.reads(""), bucket.read_bytes());
    let given = during.await;
    (given, (bucket.reads("") - requests, bucket.read_bytes() - bytes))
}

#[tokio::test]
async fn what_corrections_and_audits_read_does_not_grow_with_history() {
    for history in HISTORIES {
        let bucket = FakeBucket::at(second(NOW));
        let store = bucket.store("index");
        let (entropy, folders) = (Entropy::seeded(1), [(); 2].map(|()| tempfile::tempdir().unwrap()));
        let builder = engine(&store, folders[0].path(), 1 << 30);
        let old = records("old", 1..history + 1, NOW - 86_400, &entropy);
        let recent = records("recent", history + 1..history + 1 + RECENT, NOW, &entropy);
        let tokens: Vec<Token> = recent.iter().map(|record| record.token).collect();
        let old = segment(&builder, &store, old, &entropy).await;
        let size = old.size;
        let recent = segment(&builder, &store, recent, &entropy).await;
        // No room for the old segment: it stays in the store.
        let reader = engine(&store, folders[1].path(), size);
        let of_old = manifest(std::slice::from_ref(&old));
        let (_, before) = reads_of(&bucket, async { reader.open(&of_old).await.unwrap() }).await;
        let both = manifest(&[old, recent]);
        let (lookup, opened) = reads_of(&bucket, async { reader.open(&both).await.unwrap() }).await;
        let ((), first) = reads_of(&bucket, looks(&*lookup, &tokens)).await;
        let ((), again) = reads_of(&bucket, looks(&*lookup, &tokens)).await;
        println!(
            "{history} records, {size} B: the history {before:?}, opening {opened:?}, looks {first:?}, the same again {again:?}"
        );
        // What a publication adds is read, and of the history at most some blocks of 256 KiB.
        assert!(opened.0 <= 4 && opened.1 < 40_000, "opening after {history}: {opened:?}");
        assert!(first.0 <= 12 && first.1 <= 12 << 18, "looks after {history}: {first:?}");
        assert_eq!(again, (0, 0), "the same looks after {history}");
    }
}

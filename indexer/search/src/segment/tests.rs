//! The engine against naive answers from the same history.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use proptest::prelude::*;
use tantivy::query::EnableScoring;
use tidemark_store::StoreSecond;
use tidemark_wal::{Outcome, Token};

use super::{
    compaction::scratch_bytes,
    disk_cache::SegmentDiskCache,
    manifest_view::ManifestView,
    reader::OpenSegment,
    testing::{BEGIN, TestIndex, cold_index, history, many, max_cold_bytes, plain, token},
};
use crate::{limits::QueryDeadline, query_compiler::QueryCompiler};
use tidemark_ingest::{
    KeyNeighbors, KeyedOperation, OperationRecord, WriterKey,
    engine::{EngineError, IndexEngine, IndexLookup, RecordStats, RecordedOutcome, UnsettledOperation, UnsettledQuery},
};

/// What a later look at the stores may change.
const UNSETTLED: [Outcome; 2] = [Outcome::Aborted, Outcome::Unreadable];

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Every question about every name of the history, and some names that it does not have.
async fn answers_are_right(index: &TestIndex, lookup: &dyn IndexLookup) -> Result<(), TestCaseError> {
    let records = &index.records;
    let corrected = |record: &OperationRecord| index.marks.corrected.contains(record.seq);
    let mut tokens: Vec<Token> = records.iter().map(|record| record.token).collect();
    tokens.extend([token(3, 9), Token::from_bytes([255; 20])]);
    for (token, found) in tokens.iter().zip(lookup.recorded_outcomes(&tokens).await.unwrap()) {
        let of = records.iter().filter(|record| record.token == *token);
        let mut wanted: Vec<RecordedOutcome> = of
            .map(|record| {
                let (outcome, corrected) = (record.decision.outcome, corrected(record));
                RecordedOutcome { op: record.op, seq: record.seq, outcome, corrected }
            })
            .collect();
        wanted.sort_by_key(|decided| (decided.op, decided.seq));
        prop_assert_eq!(found, wanted);
    }
    let (mut current, mut committed) = (BTreeMap::new(), BTreeMap::<_, Vec<_>>::new());
    let mut unsettled = Vec::new();
    for record in index.standing() {
        if let Some((entity, this)) = record.entity_commit() {
            let newest = current.entry(entity.to_owned()).or_insert(this);
            *newest = this.max(*newest);
        }
        if let Some(key) = record.writer_key().filter(|_| record.is_committed()) {
            committed.entry(key).or_default().push((record.token, record.op));
        }
        let (entry_time, evidence) = (record.decision.entry_time, record.decision.evidence);
        let outcome = record.decision.outcome;
        if UNSETTLED.contains(&outcome) && record.token.second().max(entry_time).unix() >= BEGIN + 30 {
            unsettled.push(UnsettledOperation {
                body: record.body.digest(),
                token: record.token,
                op: record.op,
                seq: record.seq,
                entry_time,
                outcome,
                evidence,
            });
        }
    }
    for repo in ["red", "green", "blue", "none"] {
        let entity = format!("label/{repo}/main");
        let found = lookup.latest_commits(std::slice::from_ref(&entity)).await.unwrap();
        prop_assert_eq!(found, vec![current.get(&entity).copied()]);
    }
    for (writer, key) in [("w", "k1"), ("w", "k2"), ("v", "k1"), ("v", "k3"), ("", "k1")] {
        let key = WriterKey { writer: writer.to_owned(), key: key.to_owned() };
        let places = committed.get(&key).cloned().unwrap_or_default();
        let early = Token::first_of(StoreSecond::from_unix(BEGIN));
        for place in
            places.iter().copied().chain([(early, 0), (early, 1), (Token::first_of(StoreSecond::KSUID_END), 0)])
        {
            let found = lookup.key_neighbors(&[KeyedOperation { place, key: key.clone() }]).await.unwrap();
            prop_assert_eq!(found, vec![KeyNeighbors::around(place, places.iter().copied())]);
        }
    }
    unsettled.sort_by_key(|unsettled| (unsettled.token, unsettled.op));
    let from = StoreSecond::from_unix(BEGIN + 30);
    let end = StoreSecond::KSUID_END;
    let outcomes = &UNSETTLED;
    let mut query = UnsettledQuery { seconds: from..end, before: end, outcomes, after: None, limit: usize::MAX };
    prop_assert_eq!(&lookup.unsettled_operations(&query).await.unwrap(), &unsettled);
    let before = StoreSecond::from_unix(BEGIN + 40);
    let early: Vec<_> = unsettled.iter().filter(|one| one.token.second() < before).copied().collect();
    let found = lookup.unsettled_operations(&UnsettledQuery { before, ..query.clone() }).await.unwrap();
    prop_assert_eq!(found, early);
    query.limit = 2;
    let mut piecewise = Vec::new();
    loop {
        let found = lookup.unsettled_operations(&query).await.unwrap();
        let Some(last) = found.last() else { break };
        query.after = Some(last.token);
        prop_assert!(found.len() <= 4, "at most three operations an entry");
        piecewise.extend(found);
    }
    prop_assert_eq!(piecewise, unsettled);
    Ok(())
}

async fn records_are_kept(index: &TestIndex, engine: &dyn IndexEngine) -> Result<(), TestCaseError> {
    let mut kept = Vec::new();
    for segment in &index.manifest().segments {
        kept.extend(engine.records(segment, segment.seq.clone()).await.unwrap());
    }
    prop_assert_eq!(&kept, &index.records);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn look_ups_and_compactions_equal_the_naive_model(history in history(), cut: prop::sample::Index) {
        block_on(async {
            let mut index = TestIndex::new().await;
            for batch in history {
                index.publish(batch).await;
                let lookup = index.engine.open(index.manifest()).await.unwrap();
                answers_are_right(&index, lookup.as_ref()).await?;
            }
            records_are_kept(&index, index.engine.as_ref()).await?;
            let count = index.manifest().segments.len();
            let cut = cut.index(count);
            for places in [0..cut, 0..count - cut.saturating_sub(1)] {
                if places.len() > 1 {
                    index.compact(places).await;
                }
            }
            records_are_kept(&index, index.engine.as_ref()).await?;
            // A process with an empty cache, which fetches the segments from the store.
            let fresh = index.another_engine(1 << 30);
            records_are_kept(&index, &fresh).await?;
            let lookup = fresh.open(index.manifest()).await.unwrap();
            answers_are_right(&index, lookup.as_ref()).await?;
            // And one without room for any segment.
            let lookup = index.another_engine(0).open(index.manifest()).await.unwrap();
            answers_are_right(&index, lookup.as_ref()).await
        })?;
    }
}

#[tokio::test]
async fn every_damaged_byte_of_a_segment_gives_an_error_that_names_it() {
    let mut index = TestIndex::new().await;
    index.publish((0..3).map(|n| plain(token(1, n))).collect()).await;
    let segment = index.manifest().segments[0].clone();
    let whole = index.store.get(&segment.key, 1 << 30).await.unwrap().unwrap().body.unwrap();
    for at in (0..whole.len()).step_by(97).chain([whole.len() - 1]) {
        let mut damaged = whole.to_vec();
        damaged[at] ^= 0x41;
        index.store.put(&segment.key, damaged.into()).await.unwrap();
        let error = index.another_engine(1 << 30).open(index.manifest()).await.err().unwrap();
        assert!(matches!(&error, EngineError::Damaged { key, .. } if *key == segment.key), "byte {at}: {error}");
    }
    index.store.put(&segment.key, whole.slice(..whole.len() / 2)).await.unwrap();
    let error = index.another_engine(1 << 30).open(index.manifest()).await.err().unwrap();
    assert!(matches!(error, EngineError::Damaged { .. }), "{error}");
    index.store.delete(std::slice::from_ref(&segment.key)).await.unwrap();
    let error = index.another_engine(1 << 30).open(index.manifest()).await.err().unwrap();
    assert!(matches!(error, EngineError::Gone { .. }), "{error}");
}

#[tokio::test]
async fn an_opened_manifest_outlives_its_objects_in_store_and_cache() {
    let mut index = TestIndex::with_cache(1 << 18).await;
    index.publish(vec![plain(token(1, 1))]).await;
    index.publish(vec![plain(token(2, 2))]).await;
    let lookup = index.engine.open(index.manifest()).await.unwrap();
    let keys: Vec<String> = index.manifest().segments.iter().map(|segment| segment.key.clone()).collect();
    index.compact(0..2).await;
    index.store.delete(&keys).await.unwrap();
    index.engine.open(index.manifest()).await.unwrap();
    let found = lookup.recorded_outcomes(&[token(1, 1), token(2, 2)]).await.unwrap();
    assert!(found.iter().all(|decided| decided.len() == 1));
}

#[tokio::test]
async fn what_is_too_deep_or_too_long_to_index_is_kept_all_the_same() {
    let mut index = TestIndex::new().await;
    let mut deep = serde_json::json!("bottom");
    for _ in 0..30 {
        deep = serde_json::json!({ "deeper": [deep] });
    }
    let long = "x".repeat(100_000);
    let record = OperationRecord {
        payload: serde_json::json!({ "deep": deep, long.clone(): long.clone(), "list": [null, [1]] }),
        descriptor: serde_json::json!(["no object"]),
        entity: Some(long.clone()),
        repo: Some(long.clone()),
        message: Some(long.clone()),
        path: Some(long.clone()),
        idempotency_key: Some(long.clone()),
        writer: Some(String::new()),
        ..plain(token(1, 1))
    };
    index.publish(vec![record]).await;
    records_are_kept(&index, index.engine.as_ref()).await.unwrap();
    let lookup = index.engine.open(index.manifest()).await.unwrap();
    assert!(lookup.latest_commits(std::slice::from_ref(&long)).await.unwrap()[0].is_some());
    let key = WriterKey { writer: String::new(), key: long };
    let asked = KeyedOperation { place: (Token::first_of(StoreSecond::KSUID_END), 0), key };
    assert!(lookup.key_neighbors(&[asked]).await.unwrap()[0].before.is_some());
}

/// An index with a segment of `count` operations for each of these seconds.
async fn filled(seconds: Range<u64>, count: u32) -> TestIndex {
    let mut index = TestIndex::with_cache(64 << 20).await;
    for second in seconds {
        index.publish(many(second, count)).await;
    }
    index
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_takes_no_more_of_the_disk_than_it_reserves() {
    let index = filled(1..5, 5000).await;
    let inputs = index.manifest().segments.clone();
    let size: u64 = inputs.iter().map(|segment| segment.size).sum();
    // The inputs are on the disk already, so that what comes on top is the compaction's own.
    let fresh = index.another_engine(64 << 20);
    fresh.open(index.manifest()).await.unwrap();
    let before = index.cache_bytes();
    let (largest, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let compaction = async {
        let packed = fresh.compact(&inputs).await.unwrap();
        done.store(true, Ordering::Relaxed);
        packed
    };
    let sample = async {
        while !done.load(Ordering::Relaxed) {
            largest.fetch_max(index.cache_bytes(), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    };
    let (packed, ()) = tokio::join!(compaction, sample);
    // Its file is still there; the samples may have stopped just before the last byte of it.
    largest.fetch_max(index.cache_bytes(), Ordering::Relaxed);
    let (own, reserved) = (largest.load(Ordering::Relaxed) - before, scratch_bytes(size));
    println!(
        "inputs {size}, output {}, the most on the disk beside the inputs {own}, reserved {reserved}",
        packed.size
    );
    assert!(own <= reserved, "{own} of {reserved} bytes");
    assert!(own >= packed.size, "the samples saw the output at least");
}

#[tokio::test]
async fn a_compaction_without_room_writes_nothing_and_says_what_it_needs() {
    let index = filled(1..4, 300).await;
    let inputs = index.manifest().segments.clone();
    let size: u64 = inputs.iter().map(|segment| segment.size).sum();
    // An eighth of it is no compaction's. Three inputs take 2.6 times their size, two of them 1.7 times.
    let small = index.another_engine((2 * size + scratch_bytes(0)) * 8 / 7);
    let before = index.cache_bytes();
    let error = small.compact(&inputs).await.unwrap_err();
    assert!(matches!(&error, EngineError::NoRoom { needed, .. } if *needed == size + scratch_bytes(size)), "{error}");
    assert_eq!(index.cache_bytes(), before);
    // A smaller one fits.
    small.compact(&inputs[..2]).await.unwrap();
}

/// What open segments held once took so much of the disk that no compaction found room, and segments became ever more. Such small
/// segments hold as much, for an index 2.5 times the disk, as real ones for one five times the disk.
#[tokio::test]
async fn the_largest_compaction_finds_room_on_a_disk_that_is_far_smaller_than_the_index() {
    // Large enough that the pieces in which columns are held do not outweigh the columns.
    let index = filled(0..40, 2500).await;
    let segments = index.manifest().segments.clone();
    let total: u64 = segments.iter().map(|segment| segment.size).sum();
    let engine = index.another_engine(total * 2 / 5);
    let _building = engine.builder().unwrap();
    let view = engine.open_manifest(index.manifest()).await.unwrap();
    assert!(view.segments[39].segment.is_local() && !view.segments[20].segment.is_local());
    let mut largest = 1;
    while segments[..=largest].iter().map(|segment| segment.size).sum::<u64>() <= engine.max_compaction_bytes() {
        largest += 1;
    }
    assert!(largest > 1);
    for place in [0, 10, 40 - largest] {
        engine.compact(&segments[place..place + largest]).await.unwrap();
    }
}

#[tokio::test]
async fn an_input_of_a_compaction_that_is_damaged_is_named() {
    let index = filled(1..4, 10).await;
    let inputs = index.manifest().segments.clone();
    let mut body = index.store.get(&inputs[1].key, 1 << 30).await.unwrap().unwrap().body.unwrap().to_vec();
    // In the store of records, which no hash of Tantivy's guards.
    body[40] ^= 1;
    index.store.put(&inputs[1].key, body.into()).await.unwrap();
    // One that reads it by ranges, which finds nothing, and compacts it.
    let remote = index.another_engine(1 << 20);
    let error = remote.compact(&inputs).await.unwrap_err();
    assert!(matches!(&error, EngineError::Damaged { key, .. } if *key == inputs[1].key), "{error}");
}

#[tokio::test]
async fn the_stats_of_a_compaction_are_those_of_its_records_part_by_part() {
    let index = filled(1..4, 7).await;
    let inputs = index.manifest().segments.clone();
    let packed = index.engine.compact(&inputs).await.unwrap();
    let wanted: Vec<_> = inputs.iter().map(RecordStats::of).collect();
    assert_eq!(index.engine.stats(&packed, &[7, 7, 7]).await.unwrap(), wanted);
    let shifted = index.engine.stats(&packed, &[6, 8, 7]).await.unwrap();
    assert!(shifted[0] != wanted[0] && shifted[1] != wanted[1] && shifted[2] == wanted[2]);
    let swapped = index.engine.compact(&[inputs[1].clone(), inputs[0].clone()]).await.unwrap();
    assert_eq!(index.engine.stats(&swapped, &[7, 7]).await.unwrap(), [wanted[1], wanted[0]]);
}

#[tokio::test]
async fn the_newest_segments_get_the_disk_and_the_others_get_it_when_room_appears() {
    let index = filled(1..6, 2000).await;
    let size = index.manifest().segments.iter().map(|segment| segment.size).max().unwrap();
    // Room for two and a half: six of eight parts are for segments that are opened.
    let engine = index.another_engine(size * 5 / 2 * 4 / 3);
    let local = |view: &ManifestView| view.segments.iter().map(|shown| shown.segment.is_local()).collect::<Vec<_>>();
    let view = engine.open_manifest(index.manifest()).await.unwrap();
    assert_eq!(local(&view), [false, false, false, true, true]);
    let found = view.segments[0].segment.record(1999).unwrap();
    assert_eq!(found.entity.as_deref(), Some("entry/1/1999"));
    drop(view);

    // The two newest are gone: their room is there as soon as nobody uses them.
    let mut fewer = index.manifest().clone();
    fewer.segments.truncate(3);
    for (manifest, wanted) in
        [(&fewer, vec![false, true, true]), (index.manifest(), vec![false, false, false, true, true])]
    {
        let wait = async {
            while local(&engine.open_manifest(manifest).await.unwrap()) != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(90), wait).await.expect("the newest come to the disk");
    }
}

#[tokio::test]
async fn what_is_held_of_segments_in_the_store_lies_on_the_disk() {
    let mut index = TestIndex::with_cache(64 << 20).await;
    // Random tokens, as real ones: their columns are long reads.
    let random = |n: u32| (u128::from(n) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes();
    for second in 0..4 {
        let records = (0..).zip(many(second, 9000));
        let records = records.map(|(n, record)| {
            let token = Token::from_parts(record.token.second(), random(n));
            OperationRecord { token, ..record }
        });
        index.publish(records.collect()).await;
    }
    let size = index.manifest().segments.iter().map(|segment| segment.size).max().unwrap();
    // The newest segment would fit, and leave no room for the columns of the others.
    let engine = index.another_engine(size * 2);
    let view = engine.open_manifest(index.manifest()).await.unwrap();
    let lacking = view.segments.iter().filter(|shown| shown.segment.lacked_room()).count();
    assert_eq!(lacking, 0, "segments hold their columns in memory");
    let found = view.segments[0].segment.record(8999).unwrap();
    assert_eq!(found.entity.as_deref(), Some("entry/0/8999"));
}

#[tokio::test]
async fn a_pattern_reads_a_segment_in_the_store_by_small_parts() {
    let mut index = TestIndex::with_cache(64 << 20).await;
    // A dictionary that is longer than what a read keeps in memory.
    let random = |n: usize| (n as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    let records = many(1, 20_000).into_iter().enumerate();
    let named = |(n, record)| OperationRecord { entity: Some(format!("entry/{:032x}", random(n))), ..record };
    index.publish(records.map(named).collect()).await;
    let engine = index.another_engine(index.manifest().segments[0].size);
    let view = engine.open_manifest(index.manifest()).await.unwrap();
    assert!(!view.segments[0].segment.is_local());
    let before = index.cache_bytes();
    let compiler = QueryCompiler::new(engine.fields());
    let compiled = compiler.parse("entity:entry*", 0, QueryDeadline::after(Duration::from_hours(1))).unwrap();
    let run = tokio::task::spawn_blocking(move || {
        let reader = &view.segments[0].reader;
        let scoring = EnableScoring::disabled_from_schema(reader.schema());
        (compiled.query.weight(scoring).unwrap().count(reader).unwrap(), view)
    });
    assert_eq!(run.await.unwrap().0, 20_000);
    assert_eq!(index.cache_bytes(), before, "no part of the dictionary was long enough for the disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_up_waits_for_no_download_of_a_cold_cache_and_segments_come_to_the_disk_behind_it() {
    let (store, index) = cold_index().await;
    let engine = index.another_engine(64 << 20);
    let look_up = async {
        let lookup = engine.open(index.manifest()).await.unwrap();
        let entity = "entry/1/7".to_owned();
        assert!(lookup.latest_commits(std::slice::from_ref(&entity)).await.unwrap()[0].is_some());
        assert_eq!(lookup.recorded_outcomes(&[token(3, 5)]).await.unwrap()[0].len(), 1);
    };
    tokio::time::timeout(Duration::from_secs(90), look_up).await.expect("nothing waits for a download");
    let read = store.take_counts();
    assert!(read.bytes <= max_cold_bytes(&index) && read.requests <= 3 * 8, "{read:?}");

    store.wait_for_held(1).await;
    store.release();
    loop {
        tokio::time::timeout(Duration::from_secs(90), engine.segment_fetched()).await.expect("they are fetched");
        let view = engine.open_manifest(index.manifest()).await.unwrap();
        let local: Vec<bool> = view.segments.iter().map(|shown| shown.segment.is_local()).collect();
        assert!(local.is_sorted() && local[2], "the newest come first: {local:?}");
        if view.is_local() {
            break;
        }
    }
}

/// The last eighth of the share is for segments that are there: one that comes to the disk before it is filled is used from there.
#[tokio::test(flavor = "multi_thread")]
async fn segments_that_came_to_the_disk_are_used_up_to_all_of_their_share() {
    let (store, index) = cold_index().await;
    let total: u64 = index.manifest().segments.iter().map(|segment| segment.size).sum();
    // Six of eight parts are for segments that are opened: a bit more than these take.
    let engine = index.another_engine(total * 20 / 19 * 8 / 6);
    let is_local = async || engine.open_manifest(index.manifest()).await.unwrap().is_local();
    assert!(!is_local().await, "they are read by ranges at first");
    store.release();
    let wait = async {
        while !is_local().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(90), wait).await.expect("all of them are used from the disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_that_only_a_background_download_finds_is_reported() {
    let (store, index) = cold_index().await;
    store.release();
    let key = index.manifest().segments[2].key.clone();
    let mut body = index.store.get(&key, 1 << 30).await.unwrap().unwrap().body.unwrap().to_vec();
    // In the store of records, which no hash of Tantivy's guards.
    body[40] ^= 1;
    index.store.put(&key, body.into()).await.unwrap();
    let engine = index.another_engine(64 << 20);
    let damaged = async {
        loop {
            match engine.open_manifest(index.manifest()).await {
                Err(EngineError::Damaged { key, .. }) => return key,
                Err(error) => panic!("{error}"),
                Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(90), damaged).await.expect("it is reported"), key);
}

/// As bundles are recorded.
fn bundles(count: u32) -> Vec<OperationRecord> {
    let names = ["red", "green", "blue", "ochre"];
    let bundle = |n: u32| {
        let (repo, bundle) = (names[n as usize % 4], format!("{:027x}", u128::from(n) * 0x9e37_79b9_7f4a_7c15));
        OperationRecord {
            seq: u64::from(n) + 1,
            repo: Some(repo.to_owned()),
            bundle: Some(bundle.clone()),
            entity: Some(format!("bundle/{repo}/{bundle}")),
            path: Some(format!("bundles/{repo}/{bundle}/bundle.yaml")),
            message: Some(format!("release {} of the {repo} table for day {}", n % 977, n % 31)),
            writer: Some("loader".to_owned()),
            idempotency_key: Some(format!("key-{n}")),
            payload: serde_json::json!({ "tidemark": 1, "ops": [{ "descriptor": format!("bundles/{repo}/{bundle}/bundle.yaml") }] }),
            descriptor: serde_json::json!({ "id": bundle, "leafSize": 2_097_152, "count": n % 100 }),
            ..plain(token(u64::from(n / 50), n.wrapping_mul(2_654_435_761)))
        }
    };
    (0..count).map(bundle).collect()
}

/// The size of a segment and the time that it takes, to compare formats: `-- --ignored --nocapture the_size_of_a_segment`.
#[tokio::test]
#[ignore = "a measurement; 'make long' runs it"]
async fn the_size_of_a_segment() {
    let index = TestIndex::with_cache(4 << 30).await;
    let records = bundles(50_000);
    let began = tokio::time::Instant::now();
    let mut builder = index.engine.builder().unwrap();
    for chunk in records.chunks(512) {
        builder.add(chunk.to_vec()).await.unwrap();
    }
    let packed = builder.finish().await.unwrap();
    println!("{} documents: {} bytes, {} ms", packed.documents, packed.size, began.elapsed().as_millis());
}

/// The memory that a segment takes which is read by ranges, after it was opened, asked for a word and read:
/// `-- --ignored --nocapture the_memory_of_an_open_segment`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement; 'make long' runs it"]
async fn the_memory_of_an_open_segment() {
    const OPENED: u64 = 200;
    let mut index = TestIndex::with_cache(4 << 30).await;
    index.publish(bundles(25_000)).await;
    let (of, fields) = (index.manifest().segments[0].clone(), index.engine.fields().clone());
    let folder = tempfile::TempDir::new().unwrap();
    let cache = SegmentDiskCache::open(index.store.clone(), folder.path(), 4 << 30).unwrap();
    let anonymous_kib = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        anonymous.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    for measured in [false, true] {
        let mut remote = Vec::new();
        for _ in 0..if measured { OPENED } else { 1 } {
            remote.push(cache.get_ranged(&of).await.unwrap());
        }
        let (of, fields) = (of.clone(), fields.clone());
        let steps = move || {
            let mut last = anonymous_kib();
            let mut step = |name: &str| {
                let now = anonymous_kib();
                if measured {
                    println!("{name}: {} KiB a segment", now.saturating_sub(last) / OPENED);
                }
                last = now;
            };
            let open: Vec<_> =
                remote.into_iter().map(|cached| OpenSegment::open(&of, &fields, cached).unwrap()).collect();
            step("open");
            for segment in &open {
                for field in fields.default_search() {
                    segment.docs_with(field, "release").unwrap();
                }
            }
            step("dictionaries of a bare word");
            for segment in &open {
                segment.docs_with(fields.entity, "bundle/red/x").unwrap();
                segment.docs_with(fields.token, "x").unwrap();
            }
            step("dictionaries of look-ups");
            for segment in &open {
                (0..25_000).step_by(1000).for_each(|doc| assert!(segment.record(doc).is_ok()));
            }
            step("records");
        };
        tokio::task::spawn_blocking(steps).await.unwrap();
    }
}

#[tokio::test]
async fn a_segment_is_finished_early_when_the_disk_has_no_room_for_more() {
    let index = TestIndex::with_cache(1 << 20).await;
    let mut builder = index.engine.builder().unwrap();
    let mut seqs = 1..;
    let mut added = 0;
    while builder.size() < usize::MAX {
        let chunk: Vec<_> =
            many(1, 50).into_iter().zip(seqs.by_ref()).map(|(record, seq)| OperationRecord { seq, ..record }).collect();
        added += chunk.len() as u64;
        builder.add(chunk).await.unwrap();
        // The size is that of the records that were indexed by now.
        assert!(builder.flush().await.unwrap().is_none());
        assert!(added < 5000, "a megabyte holds no more");
    }
    // One chunk more was read already: it fits.
    builder.add(many(2, 50)).await.unwrap();
    let packed = builder.finish().await.unwrap();
    assert_eq!(packed.documents, added + 50);
    assert!(index.cache_bytes() <= 1 << 20);
    // Another one may be built while this one is uploaded, and has no room where not even a record fits.
    let mut next = index.engine.builder().unwrap();
    next.add(many(3, 2000)).await.unwrap();
    let error = next.finish().await.unwrap_err();
    assert!(matches!(error, EngineError::NoRoom { .. }), "{error}");
}

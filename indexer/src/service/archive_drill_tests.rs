//! The table of an archive under snapshots, clean-ups and restores on the real engine, at whatever call a process ends.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../../ingest/tests/pipeline/fake_bucket.rs"]
#[expect(dead_code, reason = "the helpers belong to the tests of the ingest")]
mod fake_bucket;
#[path = "../../ingest/tests/pipeline/world.rs"]
#[expect(dead_code, reason = "the helpers belong to the tests of the ingest")]
mod world;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};

use futures::TryStreamExt as _;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tidemark_archive::ArchiveTable;
use tidemark_catalog::{ArchiveExtent, LogCursor};
use tidemark_ingest::{
    IngestError, IngestOptions, OperationRecord, RestoreTarget,
    cleanup::{CleanupRequest, CleanupRules},
    reindex, restore,
    snapshot::{LogArchive, SettledRecord, SnapshotRequest},
};
use tidemark_search::{EngineOptions, TantivyEngine};
use tidemark_store::{Entropy, StoreSecond};
use tidemark_wal::Token;
use tokio::time::timeout;

use self::world::{EngineMaker, EntryDraft, IngestWorld, restore_request, small_batches, standing};
use super::snapshot_archive::TableArchive;

/// What is recorded, by operation.
type Recorded = BTreeMap<(Token, u32), OperationRecord>;

/// How many calls of a process are drawn at which it ends, and how many writes whose answers are lost.
const ENDS: u64 = 26;
const LOST_ANSWERS: u64 = 12;

/// Engines each of which begins with an empty cache, so that it reads the store.
fn engines(cache: &TempDir) -> EngineMaker {
    let (folder, opened) = (cache.path().to_owned(), Cell::new(0));
    Box::new(move |store| {
        opened.set(opened.get() + 1);
        let cache_folder = folder.join(opened.get().to_string());
        Arc::new(TantivyEngine::open(store, &EngineOptions { cache_folder, cache_bytes: 1 << 30 }).unwrap())
    })
}

/// An index whose history is settled, and nothing of it is archived yet.
async fn settled_world(cache: &TempDir) -> IngestWorld {
    let options = IngestOptions { compaction: false, ..small_batches() };
    let world = IngestWorld::with_engine(options, engines(cache)).await;
    for number in 0..12 {
        world.append(world.ago(30_000 - number * 7), &EntryDraft::entity(number % 5));
        world.append(world.ago(29_000 - number * 5), &EntryDraft::group(&[number, number + 1]));
    }
    for number in 0..4 {
        let id = format!("b{number}");
        world.append(world.ago(28_000 - number), &EntryDraft::bundle(&id));
        if number % 2 == 0 {
            world.describe(&id, world.ago(28_000 - number));
        }
    }
    world.run_for(Duration::from_mins(10)).await;
    world.report_keeps().await;
    world
}

/// The table of a process.
async fn table(world: &IngestWorld, process: &Entropy) -> Arc<dyn LogArchive> {
    let id = world.snapshot_maker().await.0.root.id().await.unwrap().unwrap();
    Arc::new(TableArchive(ArchiveTable::open(&world.bucket.store("index"), &id, process.clone())))
}

/// A process takes a snapshot.
async fn snapshot(world: &IngestWorld, process: &Entropy) -> anyhow::Result<Arc<dyn LogArchive>> {
    let archive = table(world, process).await;
    let mut maker = world.snapshot_maker().await.0;
    maker.archive = Arc::clone(&archive);
    maker.make(&SnapshotRequest { name: Some("daily".parse()?), ..SnapshotRequest::default() }).await?;
    Ok(archive)
}

/// A process takes a snapshot, and cleans up by it.
async fn protect(world: &IngestWorld, process: &Entropy) -> anyhow::Result<Arc<dyn LogArchive>> {
    let archive = snapshot(world, process).await?;
    let mut executor = world.cleanup_executor().await;
    executor.archive = Arc::clone(&archive);
    let rules = CleanupRules {
        min_age: Duration::from_secs(1),
        max_entries: None,
        max_bytes: None,
        keep_snapshots: NonZeroUsize::MIN,
    };
    executor.run(&CleanupRequest { rules, dry_run: false }).await?;
    Ok(archive)
}

fn segments(world: &IngestWorld) -> Vec<String> {
    world.bucket.keys().into_iter().filter(|key| key.starts_with("index/g1/segment/")).collect()
}

/// The archive is all that is left, and the index is restored from it.
async fn restore_from_archive(world: &IngestWorld, archive: &dyn LogArchive) -> Result<(), IngestError> {
    for key in segments(world) {
        world.bucket.forget(&key);
    }
    let request = restore_request(&RestoreTarget::Latest);
    restore(&world.generation_task(Some("back")), archive, &request).await.map(drop)
}

async fn maintain(world: &IngestWorld, process: &Entropy) -> anyhow::Result<()> {
    let archive = protect(world, process).await?;
    Ok(restore_from_archive(world, &*archive).await?)
}

async fn rows(archive: &dyn LogArchive) -> Vec<SettledRecord> {
    let Some(version) = archive.latest().await.unwrap() else { return Vec::new() };
    let all = LogCursor::default()..LogCursor(StoreSecond::KSUID_END);
    archive.rows(&version, all).try_collect().await.unwrap()
}

/// Whatever has ended: each operation is in the log or in the archive, there once and as it was recorded, and what verified snapshots name
/// can be read.
async fn assert_protected(world: &IngestWorld, expected: &Recorded, case: &str) {
    let archive = table(world, &Entropy::seeded(99)).await;
    let rows = rows(&*archive).await;
    let keys: Vec<_> = rows.iter().map(|row| (row.record.token, row.record.op)).collect();
    assert!(keys.is_sorted_by(|one, next| one < next), "{case}: an operation stands twice");
    for (key, SettledRecord { record, .. }) in keys.iter().zip(&rows) {
        assert_eq!(Some(&OperationRecord { seq: 0, ..record.clone() }), expected.get(key), "{case}");
    }
    let archived: BTreeSet<_> = keys.into_iter().collect();
    let logged: BTreeSet<Token> =
        world.bucket.keys().iter().filter_map(|key| key.strip_prefix("log/")?.parse().ok()).collect();
    for (token, op) in expected.keys() {
        assert!(logged.contains(token) || archived.contains(&(*token, *op)), "{case}: {token} is lost");
    }
    let pins = world.snapshot_maker().await.0.pins;
    let register = pins.register().await.unwrap();
    let is_whole = !segments(world).is_empty();
    for (name, pin, proof) in register.snapshots() {
        let held = pins.read_list(pin).await.unwrap();
        let checksums = held.segments.iter().map(|segment| (&segment.key, &segment.checksum));
        for (key, checksum) in checksums.filter(|_| is_whole) {
            let body = world.bucket.body(&format!("index/{key}"));
            assert_eq!(hex::encode(Sha256::digest(body)), *checksum, "{case}: {name}");
        }
        let version = archive.remembered_version(proof.archive.as_ref().unwrap()).await.unwrap();
        let version = version.unwrap_or_else(|| panic!("{case}: the version of {name} is gone"));
        assert_eq!(version.operations, expected.len() as u64, "{case}");
        assert_eq!(archive.verify(&version).await.unwrap().damaged, [], "{case}");
    }
}

/// All is done: the log is empty, and the index has what it had, once.
async fn assert_restored(world: &IngestWorld, expected: &Recorded, case: &str) {
    assert_protected(world, expected, case).await;
    assert!(!world.bucket.keys().iter().any(|key| key.starts_with("log/") && key.len() == "log/".len() + 27), "{case}");
    let contents = world.contents().await;
    assert_ne!(world.manifest().await.generation.to_string(), "g1", "{case}");
    assert_eq!(contents.records.len(), expected.len(), "{case}");
    assert_eq!(&standing(&contents), expected, "{case}");
}

/// A number below `bound`, from a fixed seed.
fn drawn(seed: u64, bound: u64) -> u64 {
    u64::from_le_bytes(Entropy::seeded(seed).bytes()) % bound
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_or_doubled_at_whatever_call_a_process_ends() {
    let cache = TempDir::new().unwrap();
    let base = settled_world(&cache).await;
    let (now, expected) = (base.bucket.now(), standing(&base.contents().await));
    assert_eq!(expected.len(), 12 + 24 + 4);
    let steady = base.copied_at(now);
    maintain(&steady, &Entropy::seeded(1)).await.unwrap();
    // Without those of the assertions, at which no process would end.
    let (requests, mut ended) = (steady.bucket.requests(), 0);
    assert_restored(&steady, &expected, "steady").await;
    for seed in 0..ENDS {
        let (world, request) = (base.copied_at(now), drawn(seed, requests) + 1);
        let case = format!("seed {seed}, request {request} of {requests}");
        world.bucket.die_at(Some(request));
        let process = Entropy::seeded(1000 + seed);
        ended += u32::from(timeout(Duration::from_hours(1), maintain(&world, &process)).await.is_err());
        world.bucket.die_at(None);
        assert_protected(&world, &expected, &case).await;
        maintain(&world, &Entropy::seeded(2000 + seed)).await.unwrap_or_else(|error| panic!("{case}: {error:#}"));
        assert_restored(&world, &expected, &case).await;
    }
    assert!(ended >= 20, "only {ended} processes ended");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_or_doubled_where_the_answer_to_a_write_is_lost() {
    let cache = TempDir::new().unwrap();
    let base = settled_world(&cache).await;
    let (now, expected) = (base.bucket.now(), standing(&base.contents().await));
    let steady = base.copied_at(now);
    maintain(&steady, &Entropy::seeded(1)).await.unwrap();
    let writes = steady.bucket.writes();
    for seed in 0..LOST_ANSWERS {
        let (world, write) = (base.copied_at(now), drawn(100 + seed, writes) + 1);
        let case = format!("seed {seed}, write {write} of {writes}");
        world.bucket.lose_answer_of_write(Some(write));
        let done = maintain(&world, &Entropy::seeded(1000 + seed)).await;
        assert_protected(&world, &expected, &case).await;
        if done.is_err() {
            maintain(&world, &Entropy::seeded(2000 + seed)).await.unwrap_or_else(|error| panic!("{case}: {error:#}"));
        }
        assert_restored(&world, &expected, &case).await;
    }
}

/// Rows that an earlier run has left are compared with the index as a whole: of segments that are on the disk, without a request more.
#[tokio::test(start_paused = true)]
async fn the_rows_of_an_earlier_run_are_compared_at_no_more_requests_than_own_ones() {
    let cache = TempDir::new().unwrap();
    let base = settled_world(&cache).await;
    let whole = base.copied_at(base.bucket.now());
    snapshot(&whole, &Entropy::seeded(1)).await.unwrap();
    let world = base.copied_at(base.bucket.now());
    for request in 1.. {
        world.bucket.die_at(Some(world.bucket.requests() + request));
        let process = Entropy::seeded(10 + request);
        let ended = timeout(Duration::from_hours(1), snapshot(&world, &process)).await;
        world.bucket.die_at(None);
        assert!(ended.is_err(), "request {request}: it ends before it is verified");
        if table(&world, &process).await.latest().await.unwrap().is_some() {
            break;
        }
    }
    let before = world.bucket.requests();
    snapshot(&world, &Entropy::seeded(2)).await.unwrap();
    let (went_on, at_once) = (world.bucket.requests() - before, whole.bucket.requests());
    assert!(went_on <= at_once, "{went_on} requests, {at_once} of a snapshot in one run");
}

/// What a snapshot remembers of the table is that version and no other one: a later one has more rows.
#[tokio::test(start_paused = true)]
async fn a_version_is_remembered_by_its_number_and_its_hash() {
    let cache = TempDir::new().unwrap();
    let world = settled_world(&cache).await;
    let archive = protect(&world, &Entropy::seeded(1)).await.unwrap();
    let latest = archive.latest().await.unwrap().unwrap();
    let extent = ArchiveExtent { version: latest.number, hash: latest.hash.clone(), end: latest.end };
    assert_eq!(archive.remembered_version(&extent).await.unwrap(), Some(latest.clone()));
    let other = ArchiveExtent { hash: "0".repeat(64), ..extent.clone() };
    assert_eq!(archive.remembered_version(&other).await.unwrap(), None);
    let later = ArchiveExtent { version: latest.number + 1, ..extent };
    assert_eq!(archive.remembered_version(&later).await.unwrap(), None);
}

fn flip(world: &IngestWorld, key: &str, place: usize) {
    let mut body = world.bucket.body(key).to_vec();
    let at = [0, body.len() / 2, body.len() - 1][place];
    body[at] ^= 1;
    world.bucket.plant(key, body, world.bucket.now());
}

/// Refused in words that name the objects at `keys`, and nothing was switched.
async fn assert_refused(world: &IngestWorld, done: Result<(), IngestError>, keys: &[&String]) {
    let refused = done.expect_err(&format!("{keys:?}")).to_string();
    for key in keys {
        let name = key.rsplit('/').next().unwrap_or(key);
        assert!(refused.contains(name), "{name} is not in: {refused}");
    }
    assert!(refused.contains("; "), "what to do is not in: {refused}");
    assert_eq!(world.manifest().await.generation.to_string(), "g1", "{refused}");
    assert_eq!(world.registered_generation().await.to_string(), "g1", "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_flipped_byte_of_a_segment_or_of_the_archive_is_gone_around_or_refused_and_never_restored() {
    let cache = TempDir::new().unwrap();
    let base = settled_world(&cache).await;
    protect(&base, &Entropy::seeded(1)).await.unwrap();
    let (now, expected) = (base.bucket.now(), standing(&base.contents().await));
    let segment = segments(&base).pop().unwrap();
    let data = base.bucket.keys().into_iter().find(|key| key.contains("/archive/") && key.contains("/data/")).unwrap();
    let request = restore_request(&RestoreTarget::Snapshot("daily".to_owned()));
    for place in 0..3 {
        // The segment of the index that a snapshot names. The archive has what it held.
        let world = base.copied_at(now);
        flip(&world, &segment, place);
        assert_refused(&world, reindex(&world.generation_task(None)).await.map(drop), &[&segment]).await;
        let archive = table(&world, &Entropy::seeded(2)).await;
        let report = restore(&world.generation_task(None), &*archive, &request).await.unwrap();
        let [said] = report.damaged.as_slice() else { panic!("{:?}", report.damaged) };
        assert!(said.contains(segment.trim_start_matches("index/")), "{said}");
        assert_eq!(standing(&world.contents().await), expected, "byte {place}");

        // The archive is damaged as well.
        let world = base.copied_at(now);
        flip(&world, &segment, place);
        flip(&world, &data, place);
        let archive = table(&world, &Entropy::seeded(2)).await;
        let done = restore(&world.generation_task(None), &*archive, &request).await.map(drop);
        assert_refused(&world, done, &[&segment, &data]).await;

        // Or it is all that is left.
        let world = base.copied_at(now);
        flip(&world, &data, place);
        let archive = table(&world, &Entropy::seeded(2)).await;
        assert_refused(&world, restore_from_archive(&world, &*archive).await, &[&data]).await;
    }
}

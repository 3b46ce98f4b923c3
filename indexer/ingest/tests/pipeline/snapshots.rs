//! Snapshots of an index that a real ingest writes, with a model of an archive.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures::TryStreamExt as _;
use serde_json::{Value, json};
use tidemark_catalog::{
    CatalogError, Generation, IndexPin, LogCursor, SNAPSHOT_OWNER, SnapshotRetention, TransactionRejected,
};
use tidemark_crds::Reason;
use tidemark_ingest::{
    IngestOptions, OperationRecord, ToCause as _,
    snapshot::{
        LogArchive as _, SettledRecord, SnapshotCopier, SnapshotError, SnapshotMaker, SnapshotProgress, SnapshotReport,
        SnapshotRequest, SnapshotStep, model_archive::ModelArchive,
    },
};
use tidemark_store::StoreSecond;
use tidemark_wal::{Outcome, Token};
use tokio::time::{Instant, timeout};

use crate::{
    MINUTE,
    edited_archive::edited,
    fake_bucket::BadRead,
    world::{EntryDraft, IngestWorld, small_batches},
};

fn named(name: &str) -> SnapshotRequest {
    SnapshotRequest { name: Some(name.parse().unwrap()), ..SnapshotRequest::default() }
}

async fn snapshot(world: &IngestWorld) -> SnapshotReport {
    world.snapshot_maker().await.0.make(&SnapshotRequest::default()).await.unwrap()
}

/// What the archive holds, in its order.
async fn archived(world: &IngestWorld) -> Vec<OperationRecord> {
    let (_, archive) = world.snapshot_maker().await;
    let Some(version) = archive.latest().await.unwrap() else { return Vec::new() };
    let all = LogCursor::default()..LogCursor(StoreSecond::KSUID_END);
    let rows: Vec<_> = archive.rows(&version, all).try_collect().await.unwrap();
    rows.into_iter().map(|row| row.record).collect()
}

/// The operations of the index that are settled, as they stand: by a naive reading of the rule.
async fn settled(world: &IngestWorld) -> Vec<OperationRecord> {
    let (manifest, contents) = (world.manifest().await, world.contents().await);
    let mut standing: BTreeMap<(Token, u32), OperationRecord> = BTreeMap::new();
    for (seq, record) in contents.records {
        if !contents.marks.corrected.contains(seq) && record.token.second() < manifest.audited {
            standing.insert((record.token, record.op), record);
        }
    }
    let unreadable: Vec<Token> = standing
        .values()
        .filter(|record| record.decision.outcome == Outcome::Unreadable)
        .map(|record| record.token)
        .collect();
    standing.into_values().filter(|record| !unreadable.contains(&record.token)).collect()
}

/// A log whose first part had its last look by the audit, with entries of all kinds.
async fn audited_world() -> IngestWorld {
    let world = IngestWorld::new(small_batches()).await;
    for number in 0..80 {
        world.append(world.ago(30_000 - number * 7), &EntryDraft::entity(number % 9));
        world.append(world.ago(29_000 - number * 5), &EntryDraft::group(&[number, number + 1, number + 2]));
    }
    for number in 0..12 {
        world.append(world.ago(28_000 - number), &EntryDraft::bundle(&format!("b{number}")));
        if number % 3 == 0 {
            world.describe(&format!("b{number}"), world.ago(28_000 - number));
        }
    }
    world.plant_others();
    for number in 0..20 {
        world.append(world.ago(300 - number), &EntryDraft::entity(number));
    }
    world.run_for(10 * MINUTE).await;
    world
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_archives_what_is_settled_and_nothing_else() {
    let world = audited_world().await;
    let (maker, _) = world.snapshot_maker().await;
    let report = maker.make(&SnapshotRequest::default()).await.unwrap();
    let (rows, wanted) = (archived(&world).await, settled(&world).await);
    assert!(wanted.len() > 300 && wanted.iter().any(|record| record.decision.outcome == Outcome::Aborted));
    assert_eq!(rows, wanted);
    assert_eq!(report.archived, wanted.len() as u64);
    let manifest = world.manifest().await;
    assert_eq!((report.proof.cursor, report.proof.horizon), (manifest.cursor, manifest.horizon));
    assert_eq!(report.proof.archive_end(), LogCursor(manifest.audited));
    assert!(rows.len() < world.contents().await.records.len(), "the last entries may still change");
    let progress = *maker.progress.borrow();
    assert_eq!((progress.step, progress.done), (SnapshotStep::ReadingArchive, rows.len() as u64));
}

#[tokio::test(start_paused = true)]
async fn what_follows_is_archived_once_by_the_next_snapshot() {
    let world = audited_world().await;
    let first = snapshot(&world).await;
    let idle = snapshot(&world).await;
    assert_eq!((idle.archived, idle.proof.archive), (0, first.proof.archive));
    assert_ne!(idle.name, first.name);
    // The audit passes the last entries meanwhile.
    world.run_for(Duration::from_hours(4)).await;
    let last = snapshot(&world).await;
    let (rows, wanted) = (archived(&world).await, settled(&world).await);
    assert_eq!(rows, wanted);
    assert_eq!(first.archived + last.archived, wanted.len() as u64);
    assert_eq!(rows.len(), world.outcomes().await.values().map(Vec::len).sum::<usize>(), "everything is settled");
}

/// An index of sixty entries that are settled, and of a group that the store refuses to give.
async fn world_with_unreadable() -> (IngestWorld, Token) {
    let world = IngestWorld::new(small_batches()).await;
    for number in 0..60 {
        world.append(world.ago(30_000 - number), &EntryDraft::entity(number));
    }
    let bad = world.append(world.ago(29_970), &EntryDraft::group(&[70, 71]));
    world.bucket.spoil(Some((&bad.to_string(), BadRead::Refused)));
    world.run_for(10 * MINUTE).await;
    assert_eq!(world.outcomes().await[&bad], [Outcome::Unreadable]);
    (world, bad)
}

/// An entry of which nothing is decided is left out as a whole, and stays in the log when it can be read later: what the archive has of
/// these seconds does not change.
#[tokio::test(start_paused = true)]
async fn an_entry_that_cannot_be_read_is_passed_over() {
    let (world, bad) = world_with_unreadable().await;
    let first = snapshot(&world).await;
    assert_eq!(first.archived, 60);
    world.bucket.spoil(None);
    world.run_for(Duration::from_hours(2)).await;
    assert_eq!(world.outcomes().await[&bad], [Outcome::Committed; 2]);
    let second = snapshot(&world).await;
    assert_eq!(second.archived, 0);
    assert!(archived(&world).await.iter().all(|record| record.token != bad));
    assert!(world.bucket.keys().iter().any(|key| key.ends_with(&bad.to_string())));
}

/// A run ends when it has pinned the index. Until another one goes on with that pin, an entry that could not be read is decided, and
/// another snapshot archives it: the pinned manifest knows nothing of it, and the archive is right.
#[tokio::test(start_paused = true)]
async fn a_snapshot_of_before_an_entry_could_be_read_goes_on_beside_an_archive_that_has_it() {
    let (world, bad) = world_with_unreadable().await;
    let (maker, _) = world.snapshot_maker().await;
    let pin = maker.pins.pin(&maker.chain, "daily", SNAPSHOT_OWNER).await.unwrap();
    world.bucket.spoil(None);
    world.run_for(Duration::from_hours(2)).await;
    assert_eq!(world.outcomes().await[&bad], [Outcome::Committed; 2]);
    archived_and_not_verified(&world, "later").await;
    assert_eq!(archived(&world).await.len(), 62);
    let report = maker.make(&named("daily")).await.unwrap();
    assert_eq!((report.pin.list, report.archived), (pin.list, 0));
}

/// The index was made again from the log, and another generation has archived other outcomes: that is no damage.
#[tokio::test(start_paused = true)]
async fn an_archive_of_an_earlier_generation_with_other_outcomes_is_told_from_a_damaged_one() {
    let world = audited_world().await;
    let (maker, request) = (archived_and_not_verified(&world, "daily").await, named("daily"));
    let data = data_file(&world, "index");
    let text = String::from_utf8(world.bucket.remove(&data).to_vec()).unwrap();
    let earlier = text.replace(r#""generation":"g1""#, r#""generation":"g7""#);
    assert_ne!(earlier, text);
    let other = earlier.replacen(r#""outcome":"committed""#, r#""outcome":"aborted""#, 1);
    let missing = earlier.split_once('\n').unwrap().1.to_owned();
    for differing in [other, missing] {
        world.bucket.plant(&data, differing, world.ago(0));
        let refused = maker.make(&request).await.unwrap_err();
        let is_seventh = |by: &Generation| by.to_string() == "g7";
        let told = matches!(&refused, SnapshotError::OutcomesDiffer { archived_by, .. } if is_seventh(archived_by));
        assert!(told, "{refused}");
        assert_eq!(refused.to_cause().reason, Reason::OutcomesDiffer);
        assert!(maker.pins.register().await.unwrap().snapshots().is_empty());
    }
    // Whoever archived it, where it agrees it is proven.
    world.bucket.plant(&data, earlier, world.ago(0));
    maker.make(&request).await.unwrap();
}

/// What was old when it was indexed first is archived at once: not with the next entries, nor in the next minute.
#[tokio::test(start_paused = true)]
async fn what_was_old_when_it_was_indexed_is_archived_at_once() {
    let world = IngestWorld::new(small_batches()).await;
    for number in 0..40 {
        world.append(world.ago(30_000 - number), &EntryDraft::entity(number));
    }
    for number in 0..7 {
        world.append(world.ago(300 - number), &EntryDraft::entity(number));
    }
    let running = world.start();
    while world.status().entries.total() < 47 {
        world.pass(Duration::from_millis(100)).await;
    }
    world.stop(running).await;
    let report = snapshot(&world).await;
    assert_eq!((report.archived, report.audit_overdue), (40, None));
}

/// An audit that is late: a snapshot says so where nobody writes the index, and waits for a writer that is there.
#[tokio::test(start_paused = true)]
async fn a_snapshot_waits_for_an_audit_that_is_late() {
    let world = IngestWorld::new(small_batches()).await;
    let bad = world.append(world.ago(100), &EntryDraft::bundle("b"));
    for number in 0..20 {
        world.append(world.ago(90 - number), &EntryDraft::entity(number));
    }
    world.run_for(2 * MINUTE).await;
    // An operation that the audit cannot look at.
    world.bucket.spoil(Some((&bad.to_string(), BadRead::Fails)));
    world.run_for(Duration::from_hours(5)).await;
    let begun = Instant::now();
    let report = snapshot(&world).await;
    assert!(report.audit_overdue.is_some_and(|due| due > bad.second()), "{:?}", report.audit_overdue);
    assert_eq!((report.archived, begun.elapsed() < MINUTE), (0, true), "nobody writes the index");

    let running = world.start();
    while world.manifest().await.holder.is_none() {
        world.pass(Duration::from_millis(100)).await;
    }
    let (maker, _) = world.snapshot_maker().await;
    let mut progress = maker.progress.subscribe();
    // The answer of `wait_for` locks the progress.
    let waits = async {
        let is_waiting =
            |progress: &SnapshotProgress| progress.step == SnapshotStep::AwaitingAudit && progress.total > 0;
        progress.wait_for(is_waiting).await.map(drop).unwrap();
        world.bucket.spoil(None);
    };
    let request = SnapshotRequest::default();
    let (made, waited) = tokio::join!(maker.make(&request), timeout(Duration::from_hours(1), waits));
    let report = made.unwrap();
    waited.expect("it says what it waits for");
    assert_eq!((report.archived, report.audit_overdue), (21, None));
    world.stop(running).await;
}

/// A writer that holds the index and does nothing: the snapshot is made all the same.
#[tokio::test(start_paused = true)]
async fn a_snapshot_does_not_wait_for_an_audit_without_end() {
    let world = IngestWorld::new(small_batches()).await;
    let bad = world.append(world.ago(100), &EntryDraft::bundle("b"));
    let running = world.start();
    world.pass(2 * MINUTE).await;
    world.bucket.spoil(Some((&bad.to_string(), BadRead::Fails)));
    world.pass(Duration::from_hours(5)).await;
    drop(running);
    let begun = Instant::now();
    let report = snapshot(&world).await;
    assert!(report.audit_overdue.is_some());
    assert!((MINUTE..10 * MINUTE).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_without_an_archive_leaves_the_archive_alone() {
    let world = audited_world().await;
    let request = SnapshotRequest { without_archive: true, ..SnapshotRequest::default() };
    let report = world.snapshot_maker().await.0.make(&request).await.unwrap();
    assert_eq!((report.archived, &report.proof.archive, report.audit_overdue), (0, &None, None));
    assert!(report.proof.audited > StoreSecond::default());
    assert!(world.bucket.keys().iter().all(|key| !key.contains("archive/")));
    // Copied without one, too.
    let (copier, archive) = world.snapshot_copier().await;
    let first = snapshot(&world).await;
    assert!(first.archived > 0);
    copier.copy(&report.name, &report.pin, None).await.unwrap();
    assert!(archive.latest().await.unwrap().is_none());
    let next = world.snapshot_maker().await.0.make(&request).await.unwrap();
    assert_eq!((next.archived, next.proof.archive), (0, None));
    assert_eq!(rows(&archive_of(&world).await).await.len() as u64, first.archived);
}

/// A process that ends at any of its requests: another one of that name goes on, and everything is archived once.
#[tokio::test(start_paused = true)]
async fn a_snapshot_goes_on_after_a_crash_at_any_request() {
    let world = audited_world().await;
    let wanted = settled(&world).await;
    let mut ended = 0;
    for request in 0.. {
        let name = format!("daily-{request}");
        let (maker, _) = world.snapshot_maker().await;
        world.bucket.die_at(Some(world.bucket.requests() + request));
        let made = timeout(Duration::from_mins(1), maker.make(&named(&name))).await;
        world.bucket.die_at(None);
        drop(maker);
        let is_whole = made.is_ok();
        let report = world.snapshot_maker().await.0.make(&named(&name)).await.unwrap();
        assert_eq!(report.name, name);
        let again = world.snapshot_maker().await.0.make(&named(&name)).await.unwrap();
        assert_eq!(again.pin, report.pin, "it is made once");
        assert_eq!(archived(&world).await, wanted, "request {request}");
        if is_whole {
            break;
        }
        ended += 1;
    }
    assert!(ended > 20, "{ended} requests only");
}

/// The answer to any of its writes is lost: it finds what it has written, or another run goes on, and everything is archived once.
#[tokio::test(start_paused = true)]
async fn a_snapshot_goes_on_after_a_lost_answer_to_any_write() {
    let base = audited_world().await;
    let wanted = settled(&base).await;
    for write in 1.. {
        let world = base.copied_at(base.bucket.now());
        let (maker, _) = world.snapshot_maker().await;
        let lost = world.bucket.writes() + write;
        world.bucket.lose_answer_of_write(Some(lost));
        let made = maker.make(&named("daily")).await;
        let is_over = world.bucket.writes() < lost;
        if made.is_err() {
            world.snapshot_maker().await.0.make(&named("daily")).await.unwrap();
        }
        assert_eq!(archived(&world).await, wanted, "write {write}");
        assert_eq!(maker.pins.register().await.unwrap().snapshots().len(), 1, "write {write}");
        if is_over {
            assert!(write > 4, "{write} writes only");
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_snapshots_at_once_archive_everything_once() {
    let world = audited_world().await;
    let ((one, _), (other, _)) = (world.snapshot_maker().await, world.snapshot_maker().await);
    let request = SnapshotRequest::default();
    let (one, other) = tokio::join!(one.make(&request), other.make(&request));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_ne!(one.name, other.name);
    assert_eq!(archived(&world).await, settled(&world).await);
    // Two of one name are one snapshot.
    let ((one, _), (other, _)) = (world.snapshot_maker().await, world.snapshot_maker().await);
    let request = named("daily");
    let made = tokio::join!(one.make(&request), other.make(&request));
    assert!(made.0.is_ok() || made.1.is_ok(), "{made:?}");
    assert_eq!(archived(&world).await, settled(&world).await);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_of_a_damaged_object_is_not_verified() {
    let world = audited_world().await;
    let key = format!("index/{}", world.manifest().await.segments[0].key);
    let (maker, _) = world.snapshot_maker().await;
    maker.engine.open(&world.manifest().await).await.unwrap();
    let body = world.bucket.remove(&key);
    for damaged in [None, Some([&body[..], b" "].concat()), Some(body[..body.len() - 1].to_vec())] {
        if let Some(damaged) = damaged {
            world.bucket.plant(&key, damaged, world.ago(0));
        }
        let refused = maker.make(&named("daily")).await.unwrap_err();
        assert!(matches!(&refused, SnapshotError::Damaged { key: found, .. } if found.ends_with(&key)), "{refused}");
        let register = maker.pins.register().await.unwrap();
        assert!(register.pins.is_empty(), "what cannot be restored is not held back: {register:?}");
    }
    world.bucket.plant(&key, body, world.ago(0));
    maker.make(&named("daily")).await.unwrap();
}

/// A run of the snapshot `name` that archived, and ended before it had read again.
async fn archived_and_not_verified(world: &IngestWorld, name: &str) -> SnapshotMaker {
    let (maker, archive) = world.snapshot_maker().await;
    for request in 0.. {
        world.bucket.die_at(Some(world.bucket.requests() + request));
        let ended = timeout(Duration::from_mins(1), maker.make(&named(name))).await;
        world.bucket.die_at(None);
        assert!(ended.is_err(), "request {request}: it ends before it is verified");
        if archive.latest().await.unwrap().is_some() {
            break;
        }
    }
    assert!(maker.pins.register().await.unwrap().snapshots().is_empty());
    maker
}

/// The first data file that a version of the archive names. Runs that ended early have left others.
fn data_file(world: &IngestWorld, store: &str) -> String {
    let folder = format!("{store}/archive/");
    let (data, records): (Vec<_>, Vec<_>) =
        world.bucket.keys().into_iter().filter(|key| key.starts_with(&folder)).partition(|key| key.contains("/data/"));
    let bodies: Vec<_> = records.iter().map(|key| world.bucket.body(key)).collect();
    let is_named = |key: &String| {
        let name = key.rsplit('/').next().unwrap();
        bodies.iter().any(|body| String::from_utf8_lossy(body).contains(name))
    };
    data.into_iter().find(is_named).unwrap()
}

/// The archive was changed behind our back before the snapshot read it again.
#[tokio::test(start_paused = true)]
async fn a_snapshot_with_an_archive_that_lacks_operations_is_not_verified() {
    let world = audited_world().await;
    let (maker, request) = (archived_and_not_verified(&world, "daily").await, named("daily"));
    let data = data_file(&world, "index");
    let body = world.bucket.remove(&data);
    let lines: Vec<&[u8]> = body.split_inclusive(|byte| *byte == b'\n').collect();
    let without = |at: usize| [&lines[..at], &lines[at + 1..]].concat().concat();
    for at in [0, lines.len() / 2, lines.len() - 1] {
        world.bucket.plant(&data, without(at), world.ago(0));
        let refused = maker.make(&request).await.unwrap_err();
        assert!(matches!(refused, SnapshotError::ArchiveDamaged { .. }), "{refused}");
        assert!(maker.pins.register().await.unwrap().snapshots().is_empty());
    }
    world.bucket.plant(&data, body, world.ago(0));
    maker.make(&request).await.unwrap();
}

/// `text`, rows of a model of an archive, with another value at `place` of the first row that has one there.
fn with_other(text: &str, place: &str) -> String {
    let mut found = false;
    let edited = text.lines().map(|line| {
        let mut row: Value = serde_json::from_str(line).unwrap();
        if let Some(value) = row.pointer_mut(place).filter(|value| !value.is_null() && !found) {
            found = true;
            *value = value.as_u64().map_or_else(|| other_text(value), |number| json!(number + 1));
        }
        row.to_string() + "\n"
    });
    let edited: String = edited.collect();
    assert!(found, "no row has {place}");
    edited
}

fn other_text(value: &Value) -> Value {
    match value.as_str() {
        Some("bound" | "timed") => json!("inferred"),
        _ => json!("other"),
    }
}

/// What a row says beside its outcome: where, and what it is called.
const ROW_PARTS: [(&str, &str); 12] = [
    ("/record/body", "body"),
    ("/record/size", "body"),
    ("/record/decision/entryTime", "evidence or store times"),
    ("/record/decision/completed", "evidence or store times"),
    ("/record/decision/evidence", "evidence or store times"),
    ("/record/decision/observations/0/time", "evidence or store times"),
    ("/record/decision/observations/0/key", "evidence or store times"),
    ("/record/descriptorBody", "evidence or store times"),
    ("/record/seq", "seq"),
    ("/record/entity", "names"),
    ("/record/message", "names"),
    ("/record/payload", "names"),
];

/// An earlier run ended when it had archived, and has left a row that says something else than the index: the snapshot that goes on does
/// not trust it.
#[tokio::test(start_paused = true)]
async fn a_row_of_an_earlier_run_with_other_bytes_or_times_is_not_trusted() {
    let world = audited_world().await;
    let (maker, request) = (archived_and_not_verified(&world, "daily").await, named("daily"));
    let data = data_file(&world, "index");
    let body = world.bucket.remove(&data);
    let text = String::from_utf8(body.to_vec()).unwrap();
    for (place, called) in ROW_PARTS {
        world.bucket.plant(&data, with_other(&text, place), world.ago(0));
        let refused = maker.make(&request).await.expect_err(place);
        assert!(matches!(refused, SnapshotError::ArchiveDamaged { .. }), "{place}: {refused}");
        assert!(refused.to_string().contains(&format!("has another {called} there")), "{place}: {refused}");
        assert!(maker.pins.register().await.unwrap().snapshots().is_empty(), "{place}");
    }
    world.bucket.plant(&data, body, world.ago(0));
    maker.make(&request).await.unwrap();
}

/// What the same run has written is compared with what is read of it, all that a row says.
#[tokio::test(start_paused = true)]
async fn a_row_that_is_read_with_other_bytes_or_times_than_were_written_is_not_trusted() {
    for (place, _) in ROW_PARTS {
        let world = audited_world().await;
        let (mut maker, _) = world.snapshot_maker().await;
        let found = AtomicBool::new(false);
        maker.archive = edited(&maker.archive, move |mut row| {
            let mut value = serde_json::to_value(&row.record).unwrap();
            let record = value.pointer_mut(place.strip_prefix("/record").unwrap()).filter(|value| !value.is_null());
            if let Some(value) = record.filter(|_| !found.swap(true, Ordering::Relaxed)) {
                *value = value.as_u64().map_or_else(|| other_text(value), |number| json!(number + 1));
            }
            row.record = serde_json::from_value(value).unwrap();
            Some(Ok(row))
        });
        let refused = maker.make(&named("daily")).await.expect_err(place);
        assert!(matches!(refused, SnapshotError::ArchiveDamaged { .. }), "{place}: {refused}");
        assert!(refused.to_string().contains("were written"), "{place}: {refused}");
        assert!(maker.pins.register().await.unwrap().snapshots().is_empty(), "{place}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_so_many_snapshots_stay_as_are_wanted() {
    let world = audited_world().await;
    let request = SnapshotRequest { keep_last: NonZeroUsize::new(2), ..SnapshotRequest::default() };
    let mut names = Vec::new();
    for _ in 0..4 {
        let report = world.snapshot_maker().await.0.make(&request).await.unwrap();
        let past: Vec<String> = names.iter().rev().skip(1).take(1).cloned().collect();
        assert_eq!(report.dropped, past);
        names.push(report.name);
        world.pass(MINUTE).await;
    }
    let (maker, _) = world.snapshot_maker().await;
    let left: Vec<String> = maker.pins.register().await.unwrap().pins.into_keys().collect();
    assert_eq!(left, names[2..]);
    let window = maker.pins.register().await.unwrap().recovery_window().unwrap();
    let manifest = world.manifest().await;
    assert_eq!(*window.end(), manifest.cursor.second().before(Duration::from_secs(1)));
    assert!(*window.start() < world.ago(30_000));
}

#[tokio::test(start_paused = true)]
async fn no_index_has_no_snapshot() {
    let world = IngestWorld::new(IngestOptions::default()).await;
    let (maker, _) = world.snapshot_maker().await;
    let refused = maker.make(&SnapshotRequest::default()).await.unwrap_err();
    assert!(matches!(refused, SnapshotError::NoIndex { .. }), "{refused}");
    assert!(world.bucket.keys().iter().all(|key| !key.contains("snapshots/")));
    // A young log has nothing to archive yet.
    world.append(world.ago(100), &EntryDraft::entity(1));
    world.run_for(5 * MINUTE).await;
    let report = snapshot(&world).await;
    assert_eq!(report.archived, 0);
    assert_eq!(report.proof.counts.total(), 1);
}

/// A process that was suspended for longer than a day finds its pin gone.
#[tokio::test(start_paused = true)]
async fn a_snapshot_whose_pin_was_dropped_meanwhile_is_not_verified() {
    let world = audited_world().await;
    let (maker, _) = world.snapshot_maker().await;
    world.bucket.slow(Duration::from_secs(1));
    let (request, dropping) = (named("daily"), async {
        loop {
            world.pass(Duration::from_secs(3)).await;
            let left = maker.pins.register().await.unwrap().pins.contains_key("daily");
            if left {
                break;
            }
        }
        maker.pins.unpin("daily", "snapshot").await
    });
    let (made, dropped) = tokio::join!(maker.make(&request), dropping);
    dropped.unwrap();
    let refused = made.unwrap_err();
    assert!(matches!(refused, SnapshotError::Chain(CatalogError::Rejected(_))), "{refused}");
    assert_eq!(refused.to_cause().reason, Reason::PinChanged, "another attempt pins the index again");
    world.bucket.slow(Duration::ZERO);
    assert!(maker.pins.register().await.unwrap().pins.is_empty());
}

async fn archive_of(world: &IngestWorld) -> ModelArchive {
    world.snapshot_maker().await.1
}

/// What an archive holds, in its order.
async fn rows(archive: &ModelArchive) -> Vec<SettledRecord> {
    let version = archive.latest().await.unwrap().unwrap();
    let all = LogCursor::default()..LogCursor(StoreSecond::KSUID_END);
    archive.rows(&version, all).try_collect().await.unwrap()
}

/// The copying process ends at any of its requests, and another one goes on: the copy has what the snapshot holds, once.
#[tokio::test(start_paused = true)]
async fn a_copy_in_a_second_store_goes_on_after_a_crash_at_any_request() {
    let world = audited_world().await;
    let report = snapshot(&world).await;
    let source = rows(&world.snapshot_maker().await.1).await;
    let mut ended = 0;
    for request in 0.. {
        let (copier, archive) = world.snapshot_copier().await;
        world.bucket.die_at(Some(world.bucket.requests() + request));
        let copied = timeout(Duration::from_mins(1), copier.copy(&report.name, &report.pin, None)).await;
        world.bucket.die_at(None);
        let is_whole = copied.is_ok();
        if !is_whole {
            ended += 1;
        }
        let (copier, _) = world.snapshot_copier().await;
        let there = copier.copy(&report.name, &report.pin, None).await.unwrap();
        let proof = there.verified.clone().unwrap();
        assert_eq!((proof.digest, proof.cursor), (report.proof.digest, report.proof.cursor));
        let held = copier.to.pins.read_list(&there).await.unwrap();
        assert_eq!(held, copier.from.pins.read_list(&report.pin).await.unwrap());
        assert_eq!(rows(&archive).await, source, "request {request}");
        assert_eq!(copier.to.pins.register().await.unwrap().pins.len(), 1);
        for key in held.objects() {
            let body = |store: &str| world.bucket.remove(&format!("{store}/{key}"));
            let (copy, original) = (body("copy"), body("index"));
            assert_eq!(copy, original);
            world.bucket.plant(&format!("index/{key}"), original, world.ago(0));
        }
        for key in world.bucket.keys().into_iter().filter(|key| key.starts_with("copy/")) {
            world.bucket.remove(&key);
        }
        if is_whole {
            break;
        }
    }
    assert!(ended > 20, "{ended} requests only");
}

#[tokio::test(start_paused = true)]
async fn a_copy_follows_its_snapshots_and_what_is_damaged_there_is_found() {
    let world = audited_world().await;
    let (copier, archive) = world.snapshot_copier().await;
    for _ in 0..3 {
        let report = snapshot(&world).await;
        copier.copy(&report.name, &report.pin, NonZeroUsize::new(2)).await.unwrap();
        world.run_for(Duration::from_hours(1)).await;
    }
    assert_eq!(copier.to.pins.register().await.unwrap().snapshots().len(), 2);
    assert_eq!(rows(&archive).await, rows(&world.snapshot_maker().await.1).await);
    // The same size, other bytes.
    let report = snapshot(&world).await;
    let key = format!("copy/{}", copier.from.pins.read_list(&report.pin).await.unwrap().segments[0].key);
    copier.copy(&report.name, &report.pin, None).await.unwrap();
    let body = world.bucket.remove(&key);
    world.bucket.plant(&key, vec![b' '; body.len()], world.ago(0));
    // It is copied again.
    let later = snapshot(&world).await;
    copier.copy(&later.name, &later.pin, None).await.unwrap();
    assert_eq!(world.bucket.body(&key), body);
    // What cannot be mended since it is damaged at its source too is reported.
    let source = key.replace("copy/", "index/");
    for key in [&key, &source] {
        world.bucket.plant(key, vec![b' '; body.len()], world.ago(0));
    }
    let refused = copier.copy("again", &later.pin, None).await.unwrap_err();
    assert!(matches!(refused, SnapshotError::Damaged { .. }), "{refused}");
    assert!(!copier.to.pins.register().await.unwrap().pins.contains_key("again"));
    // A good copy is not replaced by what is damaged at its source.
    world.bucket.plant(&key, body.clone(), world.ago(0));
    copier.copy("again", &later.pin, None).await.unwrap();
    assert_eq!(world.bucket.body(&key), body);
}

/// The objects of the copy `pin` in the second store, each of which is there as it is in the first manifest that named it.
async fn objects_of_copy(world: &IngestWorld, copier: &SnapshotCopier, pin: &IndexPin) -> BTreeSet<String> {
    let held = copier.to.pins.read_list(pin).await.unwrap();
    let segments = held.segments.iter().map(|segment| (&segment.key, &segment.checksum));
    let sidecars = held.sidecars.iter().map(|sidecar| (&sidecar.key, &sidecar.checksum));
    for (key, checksum) in segments.chain(sidecars) {
        let key = format!("copy/{key}");
        assert!(world.bucket.keys().contains(&key), "{key} is gone");
        assert_eq!(hex::encode(<sha2::Sha256 as sha2::Digest>::digest(world.bucket.body(&key))), *checksum);
    }
    held.objects().map(|key| format!("copy/{key}")).collect()
}

/// The objects of all copies that are verified, each of which is whole.
async fn objects_of_copies(world: &IngestWorld, copier: &SnapshotCopier) -> BTreeSet<String> {
    let mut objects = BTreeSet::new();
    for (_, pin, _) in copier.to.pins.register().await.unwrap().snapshots() {
        objects.extend(objects_of_copy(world, copier, pin).await);
    }
    objects
}

/// The segments and sidecars in the second store, whatever they are.
fn objects_there(world: &IngestWorld) -> BTreeSet<String> {
    let keys = world.bucket.keys().into_iter();
    keys.filter(|key| key.starts_with("copy/g1/segment/") || key.starts_with("copy/g1/sidecar/")).collect()
}

/// Snapshots of an index that was compacted between them: the first one's objects and the second one's are different ones.
async fn compacted_world() -> (IngestWorld, SnapshotReport, SnapshotReport) {
    let world = audited_world().await;
    let first = snapshot(&world).await;
    world.compact_all(&world.manifest().await).await;
    let second = snapshot(&world).await;
    (world, first, second)
}

#[tokio::test(start_paused = true)]
async fn a_second_store_keeps_no_object_that_no_copy_there_names_any_more() {
    let (world, first, second) = compacted_world().await;
    let (copier, archive) = world.snapshot_copier().await;
    let pin = copier.copy(&first.name, &first.pin, None).await.unwrap();
    let old = objects_of_copy(&world, &copier, &pin).await;
    let keep_one = NonZeroUsize::new(1);
    copier.copy(&second.name, &second.pin, keep_one).await.unwrap();
    assert_eq!(copier.to.pins.register().await.unwrap().pins.len(), 1);
    assert!(old.is_subset(&objects_there(&world)), "they are young");
    let others = [
        "copy/g1/segment/readme",
        "copy/g1/sidecar/00000000000000000001-x",
        "copy/g1/other/00000000000000000001-0123456789abcdef0123456789abcdef",
        "copy/00000000000000000001-0123456789abcdef0123456789abcdef",
    ];
    for key in others {
        world.bucket.plant(key, "another program's", world.ago(9_000_000));
    }
    world.pass(Duration::from_hours(25)).await;
    let third = snapshot(&world).await;
    copier.copy(&third.name, &third.pin, keep_one).await.unwrap();
    assert!(old.is_subset(&objects_there(&world)), "the first store still pins them: they may be copied again");
    // The retention of the first store drops its snapshots, too.
    let request = SnapshotRequest { keep_last: keep_one, ..SnapshotRequest::default() };
    let fourth = world.snapshot_maker().await.0.make(&request).await.unwrap();
    let archived = world.bucket.kept("copy/archive/");
    copier.copy(&fourth.name, &fourth.pin, keep_one).await.unwrap();
    let named = objects_of_copies(&world, &copier).await;
    let others: BTreeSet<String> = others[..2].iter().map(|key| (*key).to_owned()).collect();
    assert_eq!(objects_there(&world), named.union(&others).cloned().collect());
    // Both manifests name the sidecars.
    assert!(!old.is_subset(&named));
    assert_eq!(world.bucket.kept("copy/archive/"), archived);
    assert_eq!(rows(&archive).await, rows(&world.snapshot_maker().await.1).await);
}

/// Garbage of copies that are gone, two days old, and all objects of `held` as an earlier copy that ended has left them.
fn plant_old_objects(world: &IngestWorld, held: &BTreeSet<String>) -> BTreeSet<String> {
    let old = world.ago(200_000);
    for key in held {
        world.bucket.plant(key, world.bucket.body(&key.replacen("copy/", "index/", 1)), old);
    }
    let name = |number: u64| format!("copy/g1/segment/00000000000000000001-{number:032x}");
    let garbage: BTreeSet<String> = (0..3).map(name).collect();
    for key in &garbage {
        world.bucket.plant(key, "garbage", old);
    }
    garbage
}

fn forget_copies(world: &IngestWorld) {
    let keys = world.bucket.keys().into_iter();
    keys.filter(|key| key.starts_with("copy/")).for_each(|key| world.bucket.forget(&key));
}

/// The objects that a copy of the snapshot `pin` has.
async fn objects_wanted(copier: &SnapshotCopier, pin: &IndexPin) -> BTreeSet<String> {
    let held = copier.from.pins.read_list(pin).await.unwrap();
    held.objects().map(|key| format!("copy/{key}")).collect()
}

/// The process ends at any of its requests while it copies, drops and deletes: nothing is deleted that a copy needs, and the next one
/// deletes the rest.
#[tokio::test(start_paused = true)]
async fn garbage_of_copies_is_deleted_after_a_crash_at_any_request() {
    let (world, first, second) = compacted_world().await;
    let mut ended = 0;
    for request in 0.. {
        forget_copies(&world);
        let (copier, _) = world.snapshot_copier().await;
        let old = objects_wanted(&copier, &first.pin).await;
        let garbage = plant_old_objects(&world, &old);
        world.bucket.die_at(Some(world.bucket.requests() + request));
        let copied = timeout(MINUTE, copier.copy(&second.name, &second.pin, NonZeroUsize::new(1))).await;
        world.bucket.die_at(None);
        objects_of_copies(&world, &copier).await;
        assert!(old.is_subset(&objects_there(&world)), "request {request}: the first store still has their snapshot");
        if let Ok(copied) = copied {
            copied.unwrap();
            assert!(garbage.is_disjoint(&objects_there(&world)));
            break;
        }
        ended += 1;
        world.pass(Duration::from_hours(25)).await;
        let (again, _) = world.snapshot_copier().await;
        again.copy(&second.name, &second.pin, NonZeroUsize::new(1)).await.unwrap();
        objects_of_copies(&world, &again).await;
        assert!(garbage.is_disjoint(&objects_there(&world)), "request {request}");
    }
    assert!(ended > 30, "{ended} requests only");
}

/// One copier finds the objects of its snapshot there, old and named by no copy, while another one collects, and while the first store
/// drops that snapshot or keeps it: however their requests fall, each copy that is verified is whole.
#[tokio::test(start_paused = true)]
async fn a_copier_and_a_collector_at_once_leave_no_copy_that_lacks_an_object() {
    let (mut copied, mut refused) = (0, 0);
    for begin in (0..1200).step_by(79) {
        let (world, first, second) = compacted_world().await;
        let (copier, _) = world.snapshot_copier().await;
        let (collecting, _) = world.snapshot_copier().await;
        let old = objects_wanted(&copier, &first.pin).await;
        let garbage = plant_old_objects(&world, &old);
        let (maker, _) = world.snapshot_maker().await;
        world.bucket.slow(Duration::from_millis(20));
        let drop_and_collect = async {
            world.pass(Duration::from_millis(begin * 5)).await;
            // Only the second one stays in the first store.
            let now = world.bucket.now();
            let (keep_last, replaced) = (NonZeroUsize::new(1), BTreeSet::new());
            let retention = SnapshotRetention { keep_last, floor: LogCursor::default(), now, replaced, copy_of: None };
            maker.pins.drop_expired(&retention).await.unwrap();
            collecting.copy(&second.name, &second.pin, None).await.unwrap();
        };
        let (first_copy, ()) = tokio::join!(copier.copy(&first.name, &first.pin, None), drop_and_collect);
        world.bucket.slow(Duration::ZERO);
        objects_of_copies(&world, &copier).await;
        assert!(garbage.is_disjoint(&objects_there(&world)), "{begin}");
        let register = copier.to.pins.register().await.unwrap();
        assert!(register.snapshots().iter().any(|(name, ..)| *name == second.name));
        match first_copy {
            Ok(_) => copied += 1,
            Err(error) => {
                // Its pin was dropped, and the list of that perhaps.
                assert!(matches!(error, SnapshotError::Chain(_)), "{begin}: {error}");
                assert!(!register.pins.contains_key(&first.name));
                refused += 1;
            }
        }
    }
    assert!(copied > 2 && refused > 0, "{copied} copied, {refused} refused: one of both was not tried");
}

/// A copying process ends between its commit to the second archive and the reading of that: the next one reads it.
#[tokio::test(start_paused = true)]
async fn what_an_earlier_copy_has_not_read_again_is_read_by_the_next_one() {
    let world = audited_world().await;
    let report = snapshot(&world).await;
    let (copier, archive) = world.snapshot_copier().await;
    for request in 0.. {
        world.bucket.die_at(Some(world.bucket.requests() + request));
        let ended = timeout(Duration::from_mins(1), copier.copy(&report.name, &report.pin, None)).await;
        world.bucket.die_at(None);
        assert!(ended.is_err(), "request {request}: it ends before it is read again");
        if archive.latest().await.unwrap().is_some() {
            break;
        }
    }
    let data = data_file(&world, "copy");
    let body = world.bucket.remove(&data);
    let text = String::from_utf8(body.to_vec()).unwrap();
    for damaged in
        [text.split_once('\n').unwrap().1.to_owned(), text.replacen(r#""seq":"#, r#""seq":1"#, 1), text.clone() + &text]
    {
        world.bucket.plant(&data, damaged, world.ago(0));
        let refused = copier.copy(&report.name, &report.pin, None).await.unwrap_err();
        assert!(matches!(refused, SnapshotError::ArchiveDamaged { .. }), "{refused}");
        assert!(copier.to.pins.register().await.unwrap().pins.is_empty());
    }
    world.bucket.plant(&data, body, world.ago(0));
    copier.copy(&report.name, &report.pin, None).await.unwrap();
    // What was read is not read once more.
    let later = snapshot(&world).await;
    let reads = world.bucket.reads(&data);
    copier.copy(&later.name, &later.pin, None).await.unwrap();
    assert_eq!(world.bucket.reads(&data), reads);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_copied_to_an_index() {
    let world = audited_world().await;
    let report = snapshot(&world).await;
    let (copier, _) = world.snapshot_copier().await;
    // One that has come to any generation by now.
    for generation in ["g1", "g2", "g10", "g777"] {
        let manifest = format!("copy/{generation}/manifest/00000000000000000001");
        // Beside it what a copy has.
        let others = ["copy/archive/x", "copy/g1/segment/x", "copy/g3/sidecar/x", "copy/readme", "copy/snapshots/x"];
        for key in others {
            world.bucket.plant(key, "another", world.ago(0));
        }
        world.bucket.plant(&manifest, "a manifest", world.ago(0));
        let refused = copier.copy(&report.name, &report.pin, None).await.unwrap_err();
        assert!(matches!(refused, SnapshotError::CopyRefused { .. }), "{refused}");
        assert_eq!(world.bucket.keys().iter().filter(|key| key.starts_with("copy/")).count(), 1 + others.len());
        world.bucket.forget(&manifest);
    }
}

/// Each would drop the copies of the other one, and delete what only those name.
#[tokio::test(start_paused = true)]
async fn a_second_store_has_the_copies_of_one_index_of_a_log() {
    let world = audited_world().await;
    let report = snapshot(&world).await;
    let keep_one = NonZeroUsize::new(1);
    let (copier, _) = world.snapshot_copier().await;
    copier.copy(&report.name, &report.pin, keep_one).await.unwrap();
    let other = world.with_index("other");
    other.register_index().await;
    other.run_for(10 * MINUTE).await;
    let request = SnapshotRequest { without_archive: true, ..named("others") };
    let others = other.snapshot_maker().await.0.make(&request).await.unwrap();
    let (of_other, _) = other.snapshot_copier().await;
    let of_another = |error: &SnapshotError, known: &IngestWorld| {
        let rejected = matches!(
            error,
            SnapshotError::Chain(CatalogError::Rejected(TransactionRejected::CopiesOfAnother { other, .. })) if *other == known.url()
        );
        rejected && error.to_cause().reason == Reason::OwnedByAnother
    };
    let copied = world.copied();
    let refused = of_other.copy(&others.name, &others.pin, keep_one).await.unwrap_err();
    assert!(of_another(&refused, &world) && refused.to_string().contains("test://bucket/other"), "{refused}");
    assert!(world.copied() == copied, "a refused copy changes nothing");
    copier.copy(&report.name, &report.pin, keep_one).await.unwrap();

    // Once it is on the register no more, the other one takes its place, and leaves what it does not hold.
    world.unregister().await;
    of_other.copy(&others.name, &others.pin, keep_one).await.unwrap();
    let copies = of_other.to.pins.register().await.unwrap();
    assert_eq!(copies.pins.keys().collect::<Vec<_>>(), ["others", report.name.as_str()]);
    let refused = copier.copy(&report.name, &report.pin, keep_one).await.unwrap_err();
    assert!(of_another(&refused, &other), "{refused}");
    objects_of_copies(&other, &of_other).await;
}

/// An index is lost after its snapshot was copied, and another one of its log takes its place. Gives the lost one, that snapshot, the new
/// one, and two snapshots of that: one that was audited less far than the lost one's reached, and one that was audited further.
async fn taken_over() -> (IngestWorld, SnapshotReport, IngestWorld, [SnapshotReport; 2]) {
    let lost = IngestWorld::new(small_batches()).await;
    for number in 0..20 {
        lost.append(lost.ago(30_000 - number * 7), &EntryDraft::entity(number));
    }
    for number in 0..6 {
        lost.append(lost.ago(300 - number), &EntryDraft::entity(number));
    }
    lost.run_for(10 * MINUTE).await;
    let first = snapshot(&lost).await;
    let new = lost.with_index("other");
    new.register_index().await;
    lost.unregister().await;
    new.run_for(10 * MINUTE).await;
    let early = snapshot(&new).await;
    new.run_for(Duration::from_hours(4)).await;
    let late = snapshot(&new).await;
    let held = first.proof.cursor.second();
    assert!(early.proof.audited < held && held <= late.proof.audited);
    (lost, first, new, [early, late])
}

/// The new index's copier ends at any of its requests: the copies of the lost one stay until the new one has a copy that holds as much.
#[tokio::test(start_paused = true)]
async fn the_copies_of_a_lost_index_stay_until_those_of_its_successor_hold_as_much() {
    let (lost, first, new, [early, late]) = taken_over().await;
    let keep_one = NonZeroUsize::new(1);
    let mut ended = 0;
    for request in 0.. {
        forget_copies(&new);
        lost.snapshot_copier().await.0.copy(&first.name, &first.pin, keep_one).await.unwrap();
        let mut is_whole = true;
        for report in [&early, &late] {
            let (copier, _) = new.snapshot_copier().await;
            new.bucket.die_at(Some(new.bucket.requests() + request));
            let copied = timeout(MINUTE, copier.copy(&report.name, &report.pin, keep_one)).await;
            new.bucket.die_at(None);
            let (copier, _) = new.snapshot_copier().await;
            objects_of_copies(&new, &copier).await;
            let register = copier.to.pins.register().await.unwrap();
            let has = |name: &str| register.snapshots().iter().any(|(known, ..)| *known == name);
            assert!(has(&first.name) || has(&late.name), "request {request}");
            if !copied.is_ok_and(|copied| copied.is_ok()) {
                (is_whole, ended) = (false, ended + 1);
                copier.copy(&report.name, &report.pin, keep_one).await.unwrap();
            }
            let left: Vec<_> = copier.to.pins.register().await.unwrap().pins.into_keys().collect();
            let wanted = if report.name == early.name { vec![&first.name, &early.name] } else { vec![&late.name] };
            assert_eq!(left.iter().collect::<Vec<_>>(), wanted, "request {request}");
        }
        if is_whole {
            break;
        }
    }
    assert!(ended > 60, "{ended} requests only");
}

/// An index begins to copy where it should not, and has no copy there in the end.
#[tokio::test(start_paused = true)]
async fn the_place_of_an_index_that_has_no_copy_there_may_be_taken() {
    let (lost, first, new, [_, late]) = taken_over().await;
    let (by_mistake, _) = new.snapshot_copier().await;
    let damaged = by_mistake.from.pins.read_list(&late.pin).await.unwrap().segments[0].key.clone();
    let damaged = format!("other/{damaged}");
    let of_another = |copied: Result<IndexPin, SnapshotError>| {
        matches!(copied, Err(SnapshotError::Chain(CatalogError::Rejected(TransactionRejected::CopiesOfAnother { .. }))))
    };
    let (copier, _) = lost.snapshot_copier().await;
    // Whatever the new one holds is damaged: its pin is dropped again, and what it had begun is over.
    let body = new.bucket.body(&damaged);
    new.bucket.plant(&damaged, vec![b' '; body.len()], new.ago(0));
    by_mistake.copy(&late.name, &late.pin, None).await.unwrap_err();
    new.bucket.plant(&damaged, body, new.ago(0));
    // The lost index is found again.
    lost.register_index().await;
    copier.copy(&first.name, &first.pin, None).await.unwrap();
    assert!(of_another(by_mistake.copy(&late.name, &late.pin, None).await), "both are registered");

    // It ends in the middle of its first copy, which may go on for a day.
    forget_copies(&new);
    let (by_mistake, _) = new.snapshot_copier().await;
    new.bucket.die_at(Some(new.bucket.requests() + 30));
    timeout(MINUTE, by_mistake.copy(&late.name, &late.pin, None)).await.unwrap_err();
    new.bucket.die_at(None);
    let (copier, _) = lost.snapshot_copier().await;
    assert!(copier.to.pins.register().await.unwrap().pins.contains_key(&late.name), "it has begun");
    assert!(of_another(copier.copy(&first.name, &first.pin, None).await));
    new.pass(Duration::from_hours(25)).await;
    copier.copy(&first.name, &first.pin, None).await.unwrap();
    let left: Vec<_> = copier.to.pins.register().await.unwrap().pins.into_keys().collect();
    assert_eq!(left, std::slice::from_ref(&first.name), "what was left half made is gone");
    let (by_mistake, _) = new.snapshot_copier().await;
    assert!(of_another(by_mistake.copy(&late.name, &late.pin, None).await));
    objects_of_copies(&lost, &copier).await;
}

/// An index begins in the second store after the copier looked for one, or the copies are another index's by then.
#[tokio::test(start_paused = true)]
async fn a_collector_of_copies_deletes_nothing_where_an_index_or_the_copies_of_another_one_are() {
    let world = audited_world().await;
    let report = snapshot(&world).await;
    let (copier, _) = world.snapshot_copier().await;
    copier.copy(&report.name, &report.pin, None).await.unwrap();
    let garbage = plant_old_objects(&world, &BTreeSet::new());
    let collect = async |copier: &SnapshotCopier| {
        copier.collector.collect(&report.pin.generation, world.bucket.now()).await.unwrap().deleted
    };
    let manifest = "copy/g7/manifest/00000000000000000001";
    world.bucket.plant(manifest, "a manifest", world.ago(0));
    assert_eq!(collect(&copier).await, 0);
    assert!(garbage.is_subset(&objects_there(&world)));
    world.bucket.forget(manifest);
    let (of_other, _) = world.with_index("other").snapshot_copier().await;
    assert_eq!(collect(&of_other).await, 0);
    assert!(garbage.is_subset(&objects_there(&world)));
    assert_eq!(collect(&copier).await, garbage.len() as u64);
}

//! The log's floor moves to the archive of another index, where the index that cleaned the log up is lost.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use tidemark_catalog::{CatalogError, Generation, LogCursor, LogFloor, LogId, TransactionRejected};
use tidemark_crds::Reason;
use tidemark_ingest::{
    EntryBody, ToCause as _,
    cleanup::{CleanupError, FloorMoveError, FloorMoveReport, FloorMoveRequest, FloorMover, HoldReason},
    snapshot::{LogArchive, SettledRecord, SnapshotError, SnapshotRequest, model_archive::ModelArchive},
};
use tidemark_store::Entropy;
use tidemark_wal::{Outcome, Token};
use tokio::time::timeout;

use crate::{
    MINUTE,
    cleanup::{archived, clean, entries, request},
    edited_archive::{EditedArchive, RowEdit, edited},
    lost_index::with_archive,
    world::IngestWorld,
};

const OTHER: &str = "other";
const LOST: FloorMoveRequest = FloorMoveRequest { accepts_loss: true, dry_run: false };

/// A log that its first index has cleaned up, as it is with that index, and with another one that was begun from a copy of its snapshot, went
/// on with the log, and has a snapshot of its own. Both are registered.
async fn begun_again() -> (IngestWorld, IngestWorld) {
    let (world, _) = with_archive().await;
    world.copy_snapshot("copied").await;
    world.report_keeps().await;
    assert!(clean(&world).await.unwrap().deletion.deleted > 100);
    let other = world.with_index(OTHER);
    let running = other.start_cold("other", other.cold_start(true, None).await);
    other.pass(5 * 60 * MINUTE).await;
    other.stop(running).await;
    let (mut maker, _) = other.snapshot_maker().await;
    // It was begun as a later generation.
    maker.chain = maker.chain.follow().await.unwrap();
    maker.make(&SnapshotRequest::default()).await.unwrap();
    other.report_keeps().await;
    (world, other)
}

/// As before, and the first index is on the register no more.
async fn lost() -> (IngestWorld, IngestWorld) {
    let (world, other) = Box::pin(begun_again()).await;
    world.unregister().await;
    (world, other)
}

async fn floor(world: &IngestWorld) -> LogFloor {
    world.root().await.floor.unwrap()
}

/// All rows below the floor.
async fn rows_below(world: &IngestWorld, floor: &LogFloor) -> Vec<SettledRecord> {
    let archive = world.archive().await;
    let version = archive.latest().await.unwrap().unwrap();
    archive.rows(&version, LogCursor::default()..floor.second).try_collect().await.unwrap()
}

fn without(archive: &Arc<dyn LogArchive>, token: Token) -> Arc<dyn LogArchive> {
    edited(archive, move |row| (row.record.token != token).then_some(Ok(row)))
}

#[tokio::test(start_paused = true)]
async fn a_log_whose_cleaner_is_lost_is_cleaned_up_again_once_its_floor_rests_on_another_archive() {
    let (world, other) = Box::pin(begun_again()).await;
    let seen = floor(&other).await;
    // Two indexes clean no log up.
    let held = other.floor_mover(&world).await.run(&seen, FloorMoveRequest::default()).await.unwrap_err();
    let second = |error: &FloorMoveError| {
        matches!(error, FloorMoveError::Chain(CatalogError::Rejected(TransactionRejected::SecondCleaner { .. })))
    };
    assert!(second(&held) && held.to_string().contains("tidemark log unregister"), "{held}");
    world.unregister().await;
    let refused = clean(&other).await.unwrap_err();
    assert!(matches!(refused, CleanupError::OtherArchive { .. }), "{refused}");
    assert!(refused.to_string().contains("tidemark log floor"), "{refused}");

    let rows = rows_below(&world, &seen).await;
    let dry_run = FloorMoveRequest { dry_run: true, ..FloorMoveRequest::default() };
    let records = other.root_records().await;
    let shown = other.floor_mover(&world).await.run(&seen, dry_run).await.unwrap();
    assert_eq!((other.root_records().await, floor(&other).await), (records, seen.clone()));
    let moved = other.floor_mover(&world).await.run(&seen, FloorMoveRequest::default()).await.unwrap();
    assert_eq!(moved, shown);
    let FloorMoveReport { floor: now, was_there, compared, unread } = moved;
    assert_eq!((now.second, now.archive), (seen.second, other.archive().await.url()));
    assert_eq!((compared, was_there, unread), (rows.len() as u64, false, None));
    assert_eq!((other.root_records().await, floor(&other).await), (records + 1, shown.floor.clone()));
    // Once more there is nothing to do.
    let again = other.floor_mover(&world).await.run(&shown.floor, FloorMoveRequest::default()).await.unwrap();
    assert!(again.was_there && other.root_records().await == records + 1, "{again:?}");

    let (before, archived) = (entries(&other), archived(&other).await);
    let report = clean(&other).await.unwrap();
    assert_eq!(entries(&other), before.difference(&archived).copied().collect());
    assert_eq!(report.deletion.deleted, before.intersection(&archived).count() as u64);
    assert!(report.deletion.deleted > 10 && report.floor > seen.second, "{report:?}");
    // The index that is back is not the log's cleaner any more.
    let root = other.root().await;
    assert_eq!(root.cleaner.unwrap().index, other.url());
}

async fn is_refused(mover: &FloorMover, seen: &LogFloor, request: FloorMoveRequest) -> FloorMoveError {
    let records = mover.root.head().await.unwrap().unwrap().number;
    let refused = mover.run(seen, request).await.unwrap_err();
    assert_eq!(mover.root.head().await.unwrap().unwrap().number, records, "{refused}");
    assert!(!refused.is_unknown() && refused.to_string().split("; ").count() >= 3, "{refused}");
    refused
}

/// Whatever is said of the archive that the floor rests on, what can be read of it has to be in the new one.
#[tokio::test(start_paused = true)]
async fn the_floor_moves_to_no_archive_that_lacks_what_the_present_one_holds() {
    let (world, other) = Box::pin(lost()).await;
    let seen = floor(&other).await;
    let mut mover = other.floor_mover(&world).await;
    let whole = Arc::clone(&mover.archive);
    let rows = rows_below(&world, &seen).await;
    let (first, last) = (rows[0].record.token, rows[rows.len() - 1].record.token);
    let lacks = |what: &'static str, edit: fn(&mut SettledRecord)| {
        let edit = move |mut row: SettledRecord| {
            if row.record.token == last && row.record.op == 0 {
                edit(&mut row);
            }
            Some(Ok(row))
        };
        (edited(&whole, edit), last, what)
    };
    for (archive, token, lacked) in [
        (without(&whole, first), first, "nothing"),
        (without(&whole, last), last, "nothing"),
        lacks("another outcome", |row| row.record.decision.outcome = Outcome::Expired),
        lacks("other bytes", |row| row.record.body = EntryBody::of("other".into())),
        lacks("not the bytes", |row| row.record.body = EntryBody::Digest(row.record.body.digest().unwrap())),
    ] {
        mover.archive = archive;
        for request in [FloorMoveRequest::default(), LOST] {
            let refused = is_refused(&mover, &seen, request).await;
            let FloorMoveError::Lacks { token: found, op: 0, what, .. } = &refused else { panic!("{refused}") };
            assert!(*found == token && what.contains(lacked), "{lacked}: {refused}");
            assert_eq!(refused.to_cause().reason, Reason::OutcomesDiffer);
        }
    }
    // More than it has to hold is no fault.
    mover.archive = whole;
    mover.known = Ok(without(mover.known.as_ref().unwrap(), last));
    mover.run(&seen, FloorMoveRequest::default()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_floor_moves_to_no_archive_that_is_short_damaged_or_of_another_log() {
    let (world, other) = Box::pin(lost()).await;
    let seen = floor(&other).await;
    let id = seen.log.clone();
    let mut mover = other.floor_mover(&world).await;
    let whole = Arc::clone(&mover.archive);

    let at = |folder: &str, log: &LogId| ModelArchive::open(&world.bucket.store(folder), log, Entropy::seeded(1));
    let short = at("short", &id);
    mover.archive = Arc::new(short.clone());
    for end in [None, Some(LogCursor(seen.second.second().before(Duration::from_secs(1))))] {
        if let Some(end) = end {
            short.extend(stream::empty().boxed(), end, &Generation::first()).await.unwrap();
        }
        let refused = is_refused(&mover, &seen, LOST).await;
        assert!(matches!(&refused, FloorMoveError::Short { end: found, .. } if *found == end), "{refused}");
        assert_eq!(refused.to_cause().reason, Reason::BelowFloor);
    }

    // The folder of another log's archive, by the name of this log's.
    let foreign = LogId("f".repeat(id.0.len()));
    let end = LogCursor(seen.second.second().next());
    at("third", &foreign).extend(stream::empty().boxed(), end, &Generation::first()).await.unwrap();
    for key in world.bucket.keys().into_iter().filter(|key| key.starts_with("third/")) {
        let body = world.bucket.remove(&key);
        world.bucket.plant(&key.replace(&foreign.0, &id.0), body, world.ago(0));
    }
    mover.archive = Arc::new(at("third", &id));
    let refused = is_refused(&mover, &seen, LOST).await;
    assert_eq!(refused.to_cause().reason, Reason::OwnedByAnother, "{refused}");

    // An index that is not on the log's register.
    mover.archive = whole;
    let registered = std::mem::replace(&mut mover.index, "test://bucket/another".to_owned());
    let refused = is_refused(&mover, &seen, LOST).await;
    assert!(
        matches!(refused, FloorMoveError::Chain(CatalogError::Rejected(TransactionRejected::NotRegistered { .. }))),
        "{refused}"
    );
    mover.index = registered;

    let is_data = |key: &String| key.starts_with("other/archive/") && key.contains("/data/");
    let file = world.bucket.keys().into_iter().rfind(is_data).unwrap();
    let body = world.bucket.remove(&file);
    for damaged in [None, Some("{}")] {
        if let Some(damaged) = damaged {
            world.bucket.plant(&file, damaged, world.ago(0));
        }
        let refused = is_refused(&mover, &seen, LOST).await;
        assert!(matches!(&refused, FloorMoveError::Damaged { count: 1, .. }), "{refused}");
        assert_eq!(refused.to_cause().reason, Reason::ArchiveDamaged);
    }
    world.bucket.plant(&file, body, world.ago(0));
    mover.run(&seen, FloorMoveRequest::default()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_floor_that_is_raised_while_archives_are_compared_stays_where_it_is() {
    let (world, other) = Box::pin(lost()).await;
    let seen = floor(&other).await;
    let mut mover = other.floor_mover(&world).await;
    let (archive, edit, raises) =
        (Arc::clone(&mover.archive), Arc::new(|row| Some(Ok(row))) as RowEdit, Some(mover.root.clone()));
    let whole = std::mem::replace(&mut mover.archive, Arc::new(EditedArchive { archive, edit, raises }));
    let refused = mover.run(&seen, FloorMoveRequest::default()).await.unwrap_err();
    let changed = |error: &FloorMoveError| {
        matches!(error, FloorMoveError::Chain(CatalogError::Rejected(TransactionRejected::FloorChanged { .. })))
    };
    assert!(changed(&refused) && refused.to_cause().reason == Reason::Fenced, "{refused}");
    let raised = floor(&other).await;
    assert_eq!((&raised.archive, raised.second.second()), (&seen.archive, seen.second.second().next()));
    // Nor does what was seen then count later.
    mover.archive = whole;
    assert!(changed(&is_refused(&mover, &seen, LOST).await));
    assert_eq!(floor(&other).await, raised);
}

/// Nothing is there to compare with: the person who moves the floor says so. Nothing goes that the new archive has not.
#[tokio::test(start_paused = true)]
async fn where_the_archive_of_the_floor_is_lost_nothing_goes_that_the_new_one_lacks() {
    let (world, other) = Box::pin(lost()).await;
    let seen = floor(&other).await;
    let rows = rows_below(&world, &seen).await;
    let one = &rows.iter().find(|row| row.record.body.bytes().is_some()).unwrap().record;
    let (token, body) = (one.token, one.body.bytes().unwrap().to_vec());
    world.lose_bucket();
    let mut mover = other.floor_mover(&world).await;
    mover.archive = without(&mover.archive, token);
    let refused = is_refused(&mover, &seen, FloorMoveRequest::default()).await;
    assert!(matches!(refused, FloorMoveError::Unread { .. }) && refused.to_string().contains("--lost"), "{refused}");
    assert_eq!(refused.to_cause().reason, Reason::ArchiveDamaged);
    let moved = mover.run(&seen, LOST).await.unwrap();
    assert_eq!((moved.compared, moved.floor.second, moved.unread.is_some()), (0, seen.second, true), "{moved:?}");

    // The entry comes back from the bucket's versions.
    let mut executor = other.cleanup_executor().await;
    let whole = std::mem::replace(&mut executor.archive, Arc::clone(&mover.archive));
    world.bucket.plant(&format!("log/{token}"), body, token.second());
    let report = executor.run(&request()).await.unwrap();
    assert!(report.deletion.deleted > 10, "{report:?}");
    assert!(
        report
            .deletion
            .named
            .iter()
            .any(|held| held.key == token.to_string() && held.reason == HoldReason::NotArchived)
    );
    assert!(entries(&other).contains(&token), "no archive has it");
    executor.archive = whole;
    assert_eq!(executor.run(&request()).await.unwrap().deletion.deleted, 1);
    assert!(!entries(&other).contains(&token));
}

/// A part of it can be read, or the store fails.
#[tokio::test(start_paused = true)]
async fn what_can_be_read_of_a_lost_archive_is_compared() {
    let (world, other) = Box::pin(lost()).await;
    let seen = floor(&other).await;
    let rows = rows_below(&world, &seen).await;
    let mut mover = other.floor_mover(&world).await;
    let (whole, known) = (Arc::clone(&mover.archive), mover.known.as_ref().map(Arc::clone).unwrap());
    let end = rows[rows.len() / 2].record.token;
    let damaged = edited(&known, move |row| {
        let (key, why) = ("data/x.parquet".to_owned(), "it is gone".to_owned());
        let is_damaged = row.record.token >= end;
        Some(if is_damaged { Err(SnapshotError::ArchiveDamaged { key, why }) } else { Ok(row) })
    });
    mover.known = Ok(Arc::clone(&damaged));
    let refused = is_refused(&mover, &seen, FloorMoveRequest::default()).await;
    let FloorMoveError::Unread { why, .. } = &refused else { panic!("{refused}") };
    assert!(why.contains("data/x.parquet") && !why.contains("; "), "{refused}");
    // What the readable part holds, the new one has to.
    mover.archive = without(&whole, rows[0].record.token);
    assert!(matches!(is_refused(&mover, &seen, LOST).await, FloorMoveError::Lacks { .. }));
    mover.archive = Arc::clone(&whole);
    let shown = mover.run(&seen, FloorMoveRequest { dry_run: true, ..LOST }).await.unwrap();
    assert_eq!(shown.compared, rows.iter().filter(|row| row.record.token < end).count() as u64);
    assert!(shown.unread.is_some_and(|why| why.contains("data/x.parquet")));
    assert_eq!(floor(&other).await, seen, "it was only shown");

    // An error of the new archive is none of the old one.
    mover.archive = edited(&whole, |_| {
        Some(Err(SnapshotError::ArchiveDamaged { key: "data/y.parquet".to_owned(), why: "it is gone".to_owned() }))
    });
    let refused = is_refused(&mover, &seen, LOST).await;
    assert!(matches!(refused, FloorMoveError::Archive(_)), "{refused}");
    // One that cannot even be opened.
    mover.archive = whole;
    let unopened = || SnapshotError::NoIndex { url: "s3://gone".to_owned() };
    mover.known = Err(unopened());
    assert!(matches!(
        is_refused(&mover, &seen, FloorMoveRequest::default()).await,
        FloorMoveError::Unread { cause, .. } if cause == unopened().to_cause()
    ));
    mover.run(&seen, LOST).await.unwrap();
}

/// A damaged file in the middle hides nothing that follows it.
#[tokio::test(start_paused = true)]
async fn rows_behind_what_is_damaged_of_a_lost_archive_are_compared() {
    let (world, other) = Box::pin(lost()).await;
    let seen = floor(&other).await;
    let rows = rows_below(&world, &seen).await;
    let token = |place: usize| rows[place].record.token;
    let (first_lost, after_lost, last) = (token(rows.len() / 3), token(rows.len() / 2), token(rows.len() - 1));
    let is_lost = move |token: Token| first_lost <= token && token < after_lost;
    let mut mover = other.floor_mover(&world).await;
    let whole = Arc::clone(&mover.archive);
    mover.known = Ok(edited(mover.known.as_ref().unwrap(), move |row| {
        let (key, why) = ("data/x.parquet".to_owned(), "it is gone".to_owned());
        Some(if is_lost(row.record.token) { Err(SnapshotError::ArchiveDamaged { key, why }) } else { Ok(row) })
    }));
    mover.archive = without(&whole, last);
    for request in [FloorMoveRequest::default(), LOST] {
        let refused = is_refused(&mover, &seen, request).await;
        assert!(matches!(refused, FloorMoveError::Lacks { token, .. } if token == last), "{refused}");
    }
    // What is lost cannot be compared.
    mover.archive = without(&whole, first_lost);
    let refused = is_refused(&mover, &seen, FloorMoveRequest::default()).await;
    assert!(matches!(&refused, FloorMoveError::Unread { why, .. } if why.contains("data/x.parquet")), "{refused}");
    let moved = mover.run(&seen, LOST).await.unwrap();
    let left = rows.iter().filter(|row| !is_lost(row.record.token)).count() as u64;
    assert!(moved.compared == left && left < rows.len() as u64, "{moved:?}");
    assert!(moved.unread.is_some_and(|why| why.contains("data/x.parquet")));
}

/// Files of the archive itself are lost.
#[tokio::test(start_paused = true)]
async fn rows_of_an_archive_follow_a_file_that_is_lost() {
    let (world, other) = Box::pin(begun_again()).await;
    let archive = other.archive().await;
    let is_data = |key: &String| key.starts_with("other/archive/") && key.contains("/data/");
    let files: Vec<_> = other.bucket.keys().into_iter().filter(is_data).collect();
    let rows = async || {
        let version = archive.latest().await.unwrap().unwrap();
        let rows: Vec<_> = archive.rows(&version, LogCursor::default()..version.end).collect().await;
        let damages = rows.iter().filter(|row| row.is_err()).count();
        (rows.into_iter().filter_map(Result::ok).collect::<Vec<_>>(), damages)
    };
    let (all, _) = rows().await;
    let mut others = 0;
    for file in &files {
        let body = world.bucket.remove(file);
        let (left, damages) = rows().await;
        assert!(damages == 1 && left.iter().all(|row| all.contains(row)), "{file}");
        others += all.len() - left.len();
        world.bucket.plant(file, body, world.ago(0));
    }
    assert_eq!(others, all.len(), "each row was lost with one file");
}

/// A process that ends at any of its requests has moved the floor or left it, and the next one ends with it moved.
#[tokio::test(start_paused = true)]
async fn a_move_that_dies_at_any_request_is_made_by_the_next_one() {
    let (world, other) = Box::pin(lost()).await;
    let first = floor(&other).await;
    let mut ended = 0;
    for request in 0.. {
        let seen = floor(&other).await;
        world.bucket.die_at(Some(world.bucket.requests() + request));
        let run = async { other.floor_mover(&world).await.run(&seen, FloorMoveRequest::default()).await };
        let moved = timeout(MINUTE, Box::pin(run)).await;
        world.bucket.die_at(None);
        let now = floor(&other).await;
        if let Ok(moved) = moved {
            assert_eq!(moved.unwrap().floor, now);
            break;
        }
        let archive = if now == first { &first.archive } else { &other.archive().await.url() };
        assert_eq!((now.second, &now.archive), (first.second, archive), "request {request}");
        ended += 1;
    }
    assert!(ended > 10, "{ended} requests only");
    assert!(clean(&other).await.unwrap().deletion.deleted > 10);
}

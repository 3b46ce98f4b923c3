//! The whole ingest on a store in memory, with the model engine and paused time.

#![allow(clippy::unwrap_used, reason = "a test")]

mod add_hook_builder;
mod bad_objects;
mod cleanup;
mod cold_start;
mod compaction;
mod days;
mod drill;
mod edited_archive;
mod expectations;
mod failing_drain;
mod fake_bucket;
mod final_outcomes;
mod floor;
mod generations;
mod given_up;
mod guards;
mod history;
mod key_retention;
mod large_second;
mod lost_index;
mod restored_audit;
mod second_store;
mod snapshots;
mod verify;
mod verify_archive;
mod world;

use std::time::Duration;

use tidemark_catalog::LogCursor;
use tidemark_store::StoreSecond;
use tidemark_wal::Outcome;

use tidemark_crds::Reason;
use tidemark_ingest::{IngestOptions, ToCause as _};
use world::{EntryDraft, IngestWorld, small_batches};

const MINUTE: Duration = Duration::from_mins(1);

#[tokio::test(start_paused = true)]
async fn a_backfill_indexes_every_entry_once() {
    let world = IngestWorld::new(IngestOptions { batch_records: 100, chunk: 64, ..IngestOptions::default() }).await;
    for number in 0..1500u64 {
        world.append(world.ago(100_000 - number * 7 / 3), &EntryDraft::entity(number % 40));
    }
    world.plant_others();
    world.run_for(MINUTE).await;
    assert_eq!(world.bucket.reads("log/") - world.bucket.reads("log/.tidemark/"), 1500 + 3, "each entry is read once");
    let contents = world.check().await;
    assert_eq!(contents.records.len(), 1500 + 3);
    assert!(world.status().lag_seconds == 0 && world.status().problem.is_none(), "{:?}", world.status());
}

#[tokio::test(start_paused = true)]
async fn one_second_holds_any_number_of_entries() {
    let options =
        IngestOptions { batch_records: 10, segment_memory: 20_000, compaction: false, ..IngestOptions::default() };
    let world = IngestWorld::new(options).await;
    let second = world.ago(5000);
    for number in 0..3000 {
        world.append(second, &EntryDraft::entity(number % 7));
    }
    world.append(world.ago(4999), &EntryDraft::entity(1));
    world.run_for(MINUTE).await;
    assert_eq!(world.check().await.records.len(), 3001);
    let manifest = world.manifest().await;
    assert!(manifest.segments.len() > 10, "{} segments", manifest.segments.len());
}

#[tokio::test(start_paused = true)]
async fn what_is_not_sealed_waits_and_is_published_soon_after() {
    let world = IngestWorld::new(IngestOptions::default()).await;
    let running = world.start();
    world.pass(MINUTE).await;
    world.append(world.bucket.now(), &EntryDraft::entity(1));
    world.pass(IngestWorld::delay()).await;
    assert!(world.contents().await.records.is_empty());
    world.pass(Duration::from_secs(3)).await;
    assert_eq!(world.check().await.records.len(), 1);
    world.stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_log_moves_the_watermark_with_few_requests() {
    let world = IngestWorld::new(IngestOptions::default()).await;
    let running = world.start();
    world.pass(5 * MINUTE).await;
    let (before, requests) = (world.manifest().await, world.bucket.requests());
    world.pass(10 * MINUTE).await;
    let spent = world.bucket.requests() - requests;
    let after = world.manifest().await;
    assert!(after.cursor.second().since(before.cursor.second()) >= 9 * MINUTE);
    assert!(spent < 10 * 60, "{spent} requests in ten minutes");
    world.stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn the_same_key_commits_once() {
    let world = IngestWorld::new(small_batches()).await;
    let late = world.append_at(world.ago(900), world.ago(100), &EntryDraft::entity(1).key("a"));
    let first = world.append(world.ago(800), &EntryDraft::entity(1).key("a"));
    let again = world.append(world.ago(800).next(), &EntryDraft::entity(2).key("a"));
    let other = world.append(world.ago(790), &EntryDraft::entity(2).key("b"));
    let much_later = world.append(world.ago(300), &EntryDraft::entity(3).key("a"));
    let group = world.append(world.ago(290), &EntryDraft::group(&[1, 2, 3]).key("g"));
    let group_again = world.append(world.ago(200), &EntryDraft::group(&[1, 2, 3]).key("g"));
    world.run_for(MINUTE).await;
    let outcomes = world.outcomes().await;
    for (token, outcome) in [
        (late, Outcome::Late),
        (first, Outcome::Committed),
        (again, Outcome::Duplicate),
        (other, Outcome::Committed),
        (much_later, Outcome::Duplicate),
    ] {
        assert_eq!(outcomes[&token], [outcome]);
    }
    assert_eq!(outcomes[&group], [Outcome::Committed; 3]);
    assert_eq!(outcomes[&group_again], [Outcome::Duplicate; 3]);
    world.check().await;
}

#[tokio::test(start_paused = true)]
async fn a_late_entry_becomes_a_correction_once() {
    let world = IngestWorld::new(small_batches()).await;
    for number in 0..50 {
        world.append(world.ago(500 - number), &EntryDraft::entity(number % 5).key(&number.to_string()));
    }
    world.run_for(MINUTE).await;
    let hidden = world.ago(300);
    let found = world.append_at(hidden, world.bucket.now(), &EntryDraft::entity(1));
    let visible_too_late = world.append(hidden, &EntryDraft::entity(2));
    let duplicate = world.append(hidden, &EntryDraft::entity(2).key("49"));
    world.run_for(20 * MINUTE).await;
    world.run_for(20 * MINUTE).await;
    let outcomes = world.outcomes().await;
    assert_eq!(outcomes[&found], [Outcome::Late]);
    assert_eq!(outcomes[&visible_too_late], [Outcome::Committed]);
    assert_eq!(outcomes[&duplicate], [Outcome::Duplicate]);
    assert_eq!(world.check().await.records.len(), 53);
}

#[tokio::test(start_paused = true)]
async fn a_late_descriptor_corrects_an_aborted_operation_once() {
    let world = IngestWorld::new(small_batches()).await;
    let token = world.append(world.ago(200), &EntryDraft::bundle("b1"));
    let never = world.append(world.ago(200), &EntryDraft::bundle("b2"));
    world.run_for(MINUTE).await;
    assert_eq!(world.outcomes().await[&token], [Outcome::Aborted]);
    world.describe("b1", world.bucket.now());
    world.run_for(20 * MINUTE).await;
    world.run_for(70 * MINUTE).await;
    let outcomes = world.outcomes().await;
    assert_eq!(outcomes[&token], [Outcome::Late]);
    assert_eq!(outcomes[&never], [Outcome::Aborted]);
    let contents = world.check().await;
    assert_eq!((contents.records.len(), contents.marks.corrected.len()), (3, 1));
    let standing = world.manifest().await.totals.standing();
    assert_eq!((standing.late, standing.aborted), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_aborted_label_move_stays_aborted_when_the_label_is_moved_later() {
    let world = IngestWorld::new(small_batches()).await;
    let crashed = world.append(world.ago(200), &EntryDraft::label("l"));
    world.run_for(MINUTE).await;
    assert_eq!(world.outcomes().await[&crashed], [Outcome::Aborted]);
    let (moved, seen) = (world.append(world.bucket.now(), &EntryDraft::label("l")), world.bucket.now());
    world.move_label("l", seen);
    world.run_for(20 * MINUTE).await;
    world.run_for(70 * MINUTE).await;
    let outcomes = world.outcomes().await;
    assert_eq!(outcomes[&crashed], [Outcome::Aborted]);
    assert_eq!(outcomes[&moved], [Outcome::Committed]);
    assert!(world.check().await.marks.corrected.is_empty());
}

#[tokio::test(start_paused = true)]
async fn compaction_changes_no_answer_and_bounds_the_segments() {
    let world = IngestWorld::new(small_batches()).await;
    for number in 0..1000u64 {
        world.append(world.ago(50_000 - number * 20), &EntryDraft::entity(number % 30).key(&(number / 2).to_string()));
    }
    world.run_for(10 * MINUTE).await;
    let manifest = world.manifest().await;
    assert!(manifest.segments.len() < 40, "{} segments", manifest.segments.len());
    assert!(manifest.sidecars.len() < 40, "{} sidecars", manifest.sidecars.len());
    let contents = world.check().await;
    assert_eq!(contents.records.len(), 1000);
    assert_eq!(manifest.totals.counts.duplicate, 500);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_is_reported_and_nothing_is_skipped() {
    let world = IngestWorld::new(IngestOptions::default()).await;
    let mut tokens = Vec::new();
    for number in 0..20 {
        tokens.push(world.append(world.ago(500 - number), &EntryDraft::entity(number)));
    }
    world.bucket.fail(Some(&tokens[7].to_string()));
    let running = world.start();
    world.pass(3 * MINUTE).await;
    let problem = world.status().problem.expect("it is said");
    assert!(problem.message.contains(&tokens[7].to_string()), "{}", problem.message);
    assert!(world.contents().await.records.is_empty());
    world.bucket.fail(None);
    world.pass(3 * MINUTE).await;
    assert_eq!(world.check().await.records.len(), 20);
    assert_eq!(world.status().problem, None);
    for (part, span) in [("list of", 10 * MINUTE), (".tidemark/", 10 * MINUTE), ("index/", MINUTE)] {
        world.append(world.ago(30), &EntryDraft::entity(1));
        world.bucket.fail(Some(part));
        world.pass(span).await;
        assert!(world.status().problem.is_some() || part == "index/", "{part}");
        world.bucket.fail(None);
        world.pass(5 * MINUTE).await;
        assert_eq!(world.status().problem, None, "{part}");
    }
    assert_eq!(world.check().await.records.len(), 23);
    world.stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_at_any_request_leaves_neither_gap_nor_double() {
    let mut crashes = 0;
    for step in (3u64..).step_by(7) {
        let world = IngestWorld::new(small_batches()).await;
        for number in 0..60u64 {
            world.append(world.ago(500 - number * 3), &EntryDraft::entity(number % 5).key(&(number % 50).to_string()));
        }
        world.append(world.ago(450), &EntryDraft::bundle("b1"));
        let died = world.run_until_request(step).await;
        world.describe("b1", world.bucket.now());
        world.run_for(15 * MINUTE).await;
        let contents = world.check().await;
        let standing = contents.records.len() as u64 - contents.marks.corrected.len();
        assert_eq!(standing, 61, "after a crash at request {step}");
        crashes += u64::from(died);
        if !died {
            break;
        }
    }
    assert!(crashes > 20, "{crashes} crashes");
}

#[tokio::test(start_paused = true)]
async fn of_two_only_one_writes_and_the_other_succeeds_it() {
    let world = IngestWorld::new(small_batches()).await;
    let first = world.start_as("first");
    world.pass(MINUTE).await;
    let second = world.start_as("second");
    world.pass(5 * MINUTE).await;
    assert_eq!(world.manifest().await.epoch, 1);
    drop(first);
    world.append(world.bucket.now(), &EntryDraft::entity(1));
    world.pass(5 * MINUTE).await;
    assert_eq!(world.manifest().await.epoch, 2);
    assert_eq!(world.check().await.records.len(), 1);
    world.stop(second).await;
    assert_eq!(world.manifest().await.holder, None);
}

#[tokio::test(start_paused = true)]
async fn a_backfill_costs_little_more_than_two_requests_an_entry() {
    let entries = 4000;
    let world = IngestWorld::new(IngestOptions::default()).await;
    for number in 0..entries {
        let at = world.ago(50_000 - number * 5);
        let id = format!("b{number}");
        world.append(at, &EntryDraft::bundle(&id));
        world.describe(&id, at);
    }
    let before = world.bucket.requests();
    world.run_for(Duration::from_secs(30)).await;
    let spent = world.bucket.requests() - before;
    assert_eq!(world.check().await.records.len() as u64, entries);
    assert!(spent <= entries * 2 + entries / 100 + 40, "{spent} requests for {entries} entries");
}

#[tokio::test(start_paused = true)]
async fn a_segment_that_is_gone_or_damaged_is_named_until_it_is_brought_back() {
    let world = IngestWorld::new(IngestOptions { compaction: false, ..small_batches() }).await;
    for number in 0..20 {
        world.append(world.ago(500 - number), &EntryDraft::entity(number));
    }
    world.run_for(MINUTE).await;
    let segment = world.manifest().await.segments[1].key.clone();
    let key = format!("index/{segment}");
    let kept = world.bucket.remove(&key);
    let running = world.start();
    for damage in [None, Some("{}")] {
        if let Some(body) = damage {
            world.bucket.plant(&key, body, world.bucket.now());
        }
        world.append(world.ago(70), &EntryDraft::entity(1));
        world.pass(3 * MINUTE).await;
        let problem = world.status().problem.expect("it is said");
        assert!(problem.message.contains(&segment), "{}", problem.message);
    }
    world.bucket.plant(&key, kept, world.bucket.now());
    world.pass(2 * MINUTE).await;
    assert_eq!(world.status().problem, None);
    assert_eq!(world.check().await.records.len(), 22);
    world.stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_was_deleted_after_it_was_listed_does_not_stall_the_tail() {
    let world = IngestWorld::new(IngestOptions::default()).await;
    for number in 0..5 {
        world.append(world.ago(500 - number), &EntryDraft::entity(number));
    }
    let deleted = world.append(world.ago(498), &EntryDraft::entity(9));
    world.bucket.hide(&format!("log/{deleted}"));
    world.run_for(5 * MINUTE).await;
    assert_eq!(world.check().await.records.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn an_entry_from_the_future_does_not_delay_the_others() {
    let world = IngestWorld::new(IngestOptions::default()).await;
    world.append(StoreSecond::from_unix(5_680_000_000), &EntryDraft::entity(0));
    let running = world.start();
    for number in 1..=6 {
        world.pass(MINUTE + Duration::from_secs(7)).await;
        world.append(world.bucket.now(), &EntryDraft::entity(number));
        world.pass(IngestWorld::delay() + Duration::from_secs(1 + 6)).await;
        assert_eq!(world.contents().await.records.len() as u64, number, "sealed six seconds ago");
    }
    world.check().await;
    world.stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn the_lag_grows_while_the_log_or_the_clock_cannot_be_read() {
    let world = IngestWorld::new(IngestOptions::default()).await;
    let running = world.start();
    world.pass(5 * MINUTE).await;
    assert_eq!(world.status().lag_seconds, 0);
    for part in ["list of", ".tidemark/clock"] {
        world.bucket.fail(Some(part));
        world.pass(10 * MINUTE).await;
        let status = world.status();
        assert!(status.problem.is_some(), "{part}");
        assert!((500..=610).contains(&status.lag_seconds), "{part}: {} s", status.lag_seconds);
        world.bucket.fail(None);
        world.pass(2 * MINUTE).await;
        assert_eq!((world.status().lag_seconds, world.status().problem), (0, None), "{part}");
    }
    world.stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn many_aborted_operations_are_settled_while_the_tail_goes_on() {
    let aborted = 4000;
    let world = IngestWorld::new(IngestOptions { compaction: false, ..IngestOptions::default() }).await;
    let at = world.ago(200);
    for number in 0..aborted {
        world.append(at, &EntryDraft::bundle(&format!("b{number}")));
    }
    world.run_for(Duration::from_secs(20)).await;
    assert_eq!(world.manifest().await.totals.counts.aborted, aborted);
    for number in 0..aborted {
        world.describe(&format!("b{number}"), world.bucket.now());
    }
    for second in 1..IngestWorld::delay().as_secs() {
        world.append(world.ago(second), &EntryDraft::entity(second));
    }
    world.bucket.slow(Duration::from_millis(100));
    let running = world.start();
    let mut worst = Duration::ZERO;
    for number in 0..150 {
        world.append(world.bucket.now(), &EntryDraft::entity(number));
        world.pass(Duration::from_secs(1)).await;
        let sealed = world.bucket.now().before(IngestWorld::delay());
        if number > 10 {
            worst = worst.max(sealed.since(world.status().cursor.second()));
        }
    }
    world.bucket.slow(Duration::ZERO);
    assert!(worst < Duration::from_secs(16), "the tail stood still for {worst:?}");
    world.stop(running).await;
    let standing = world.manifest().await.totals.standing();
    assert_eq!((standing.late, standing.aborted), (aborted, 0));
    world.check().await;
}

#[tokio::test(start_paused = true)]
async fn the_log_is_told_once_an_hour_what_the_index_has_looked_at_for_the_last_time() {
    let world = IngestWorld::new(IngestOptions::default()).await;
    world.append(world.ago(500), &EntryDraft::entity(1));
    assert_eq!(world.keeps().await, LogCursor::default());
    world.run_for(10 * MINUTE).await;
    let audited = world.ago(400);
    world.set_audited(audited).await;
    world.run_for(20 * MINUTE).await;
    assert_eq!(world.keeps().await, LogCursor::default());
    world.run_for(61 * MINUTE).await;
    let told = world.manifest().await.audited;
    assert!(world.keeps().await >= LogCursor(audited) && world.keeps().await <= LogCursor(told));
}

#[tokio::test(start_paused = true)]
async fn pods_that_live_for_minutes_tell_the_log_once_an_hour_what_the_index_keeps() {
    let world = IngestWorld::new(IngestOptions::default()).await;
    world.append(world.ago(500), &EntryDraft::entity(1));
    let mut told = vec![world.root_records().await];
    for _ in 0..8 {
        world.run_for(10 * MINUTE).await;
        let audited = world.ago(400);
        world.set_audited(audited).await;
        told.push(world.root_records().await);
    }
    let last = told.len() - 1;
    assert!(told[..6].iter().all(|records| *records == told[0]), "the root has a record of this hour: {told:?}");
    assert_eq!(told[last], told[0] + 1, "{told:?}");
    assert!(world.keeps().await > LogCursor::default());
    // The next one an hour later, however many processes start.
    for _ in 0..3 {
        world.run_for(10 * MINUTE).await;
        world.set_audited(world.ago(400)).await;
    }
    assert_eq!(world.root_records().await, told[last]);
    for _ in 0..5 {
        world.run_for(10 * MINUTE).await;
        world.set_audited(world.ago(400)).await;
    }
    assert_eq!(world.root_records().await, told[last] + 1);
}

#[tokio::test(start_paused = true)]
async fn a_writer_whose_index_was_taken_off_the_register_ends() {
    let world = IngestWorld::new(IngestOptions::default()).await;
    world.append(world.ago(500), &EntryDraft::entity(1));
    let running = world.start();
    world.pass(10 * MINUTE).await;
    assert_eq!(world.manifest().await.totals.records, 1);
    world.unregister().await;
    let ended = world.ended(running).await;
    assert!(ended.to_string().contains("no index is named"), "{ended}");
}

#[tokio::test(start_paused = true)]
async fn an_index_below_the_log_floor_is_refused_and_one_above_it_is_not() {
    let world = IngestWorld::new(IngestOptions::default()).await;
    for number in 0..5 {
        world.append(world.ago(500 - number), &EntryDraft::entity(number));
    }
    world.raise_floor(world.ago(400)).await;
    let refused = world.run_to_its_end().await.unwrap_err();
    assert!(refused.to_string().contains("is in the archive \"memory:///archive\""), "{refused}");
    assert_eq!(refused.to_cause().reason, Reason::BelowFloor);
    assert_eq!(world.manifest().await.totals.records, 0);

    let world = IngestWorld::new(IngestOptions::default()).await;
    world.append(world.ago(500), &EntryDraft::entity(1));
    world.run_for(2 * MINUTE).await;
    world.raise_floor(world.ago(400)).await;
    world.append(world.ago(10), &EntryDraft::entity(2));
    world.run_for(5 * MINUTE).await;
    assert_eq!(world.check().await.records.len(), 2);
}

//! Objects that cannot be read for good: each stops nobody.

use std::{collections::BTreeMap, time::Duration};

use tidemark_crds::Reason;
use tidemark_ingest::IngestOptions;
use tidemark_wal::{Outcome, Token};

use crate::{
    MINUTE,
    fake_bucket::BadRead,
    world::{EntryDraft, IngestWorld, small_batches},
};

const BAD: [BadRead; 2] = [BadRead::Refused, BadRead::Panics];

/// A log of free entities, one a second, that ends `ago` seconds ago. Gives its tokens.
fn append_entities(world: &IngestWorld, count: u64, ago: u64) -> Vec<Token> {
    (0..count).map(|number| world.append(world.ago(ago + count - number), &EntryDraft::entity(number))).collect()
}

fn with_outcome(outcomes: &BTreeMap<Token, Vec<Outcome>>, outcome: Outcome) -> Vec<Token> {
    outcomes.iter().filter(|(_, all)| all.contains(&outcome)).map(|(token, _)| *token).collect()
}

#[tokio::test(start_paused = true)]
async fn a_bad_entry_is_unreadable_until_it_can_be_read() {
    for bad in BAD {
        let world = IngestWorld::new(small_batches()).await;
        let tokens = append_entities(&world, 60, 100);
        let group = world.append(world.ago(130), &EntryDraft::group(&[70, 71, 72]));
        world.bucket.spoil(Some((&group.to_string(), bad)));
        world.run_for(5 * MINUTE).await;
        let outcomes = world.outcomes().await;
        assert_eq!(with_outcome(&outcomes, Outcome::Unreadable), [group], "{bad:?}");
        assert_eq!(with_outcome(&outcomes, Outcome::Committed).len(), tokens.len(), "{bad:?}");
        let unreadable = world.check().await;
        let record = unreadable.records.values().find(|record| record.token == group).unwrap();
        assert!(record.reason.as_ref().unwrap().contains(match bad {
            BadRead::Refused => "it is archived",
            BadRead::Fails => "fails",
            BadRead::Panics => "panicked",
        }));

        // While it runs on, the hourly attempt finds it mended.
        let running = world.start();
        world.pass(10 * MINUTE).await;
        assert_eq!(world.manifest().await.totals.standing().unreadable, 1, "{bad:?}");
        world.bucket.spoil(None);
        world.pass(70 * MINUTE).await;
        world.stop(running).await;
        let outcomes = world.outcomes().await;
        assert_eq!(outcomes[&group], [Outcome::Committed; 3], "{bad:?}");
        world.check().await;
    }
}

/// Store times are whole seconds, and an entry waits until those before it are judged: in a second with more entries than are
/// read at once, none of a later second is ever read beside the bad one.
#[tokio::test(start_paused = true)]
async fn a_bad_entry_in_a_second_with_more_entries_than_are_read_at_once_stops_nobody() {
    let world = IngestWorld::new(IngestOptions::default()).await;
    let busy = world.ago(100);
    let mut tokens: Vec<Token> = (0..200).map(|number| world.append(busy, &EntryDraft::entity(number))).collect();
    tokens.extend(append_entities(&world, 20, 50));
    tokens.sort_unstable();
    world.bucket.spoil(Some((&tokens[0].to_string(), BadRead::Refused)));
    world.run_for(10 * MINUTE).await;
    let outcomes = world.outcomes().await;
    assert_eq!(with_outcome(&outcomes, Outcome::Unreadable), tokens[..1]);
    assert_eq!(with_outcome(&outcomes, Outcome::Committed).len(), tokens.len() - 1);
    world.check().await;
}

/// Appends entries of one second, none of which can be read.
fn append_spoilt(world: &IngestWorld, count: u64, bad: BadRead) {
    for number in 0..count {
        let token = world.append(world.ago(4000), &EntryDraft::entity(1000 + number));
        world.bucket.spoil(Some((&token.to_string(), bad)));
    }
}

/// None of those that are read at once proves that the store gives others.
#[tokio::test(start_paused = true)]
async fn more_bad_entries_in_a_row_than_are_read_at_once_stop_nobody() {
    for bad in BAD {
        let options = IngestOptions::default();
        let count = options.fetches as u64 + 16;
        let world = IngestWorld::new(options).await;
        append_spoilt(&world, count, bad);
        let good = append_entities(&world, 20, 50);
        world.run_for(30 * MINUTE).await;
        let outcomes = world.outcomes().await;
        assert_eq!(with_outcome(&outcomes, Outcome::Unreadable).len() as u64, count, "{bad:?}");
        assert_eq!(with_outcome(&outcomes, Outcome::Committed), good, "{bad:?}");
        world.check().await;
    }
}

/// Whether an entry was deleted is seen by reading it, which panics too.
#[tokio::test(start_paused = true)]
async fn entries_whose_reading_panics_end_no_process_while_nothing_else_can_be_read() {
    let world = IngestWorld::new(small_batches()).await;
    let tokens = append_entities(&world, 3, 100);
    let entries = format!("log/{}", &tokens[0].to_string()[..3]);
    world.bucket.spoil(Some((&entries, BadRead::Panics)));
    let running = world.start();
    world.pass(60 * MINUTE).await;
    assert!(world.status().problem.is_some_and(|problem| problem.message.contains("panicked")), "{:?}", world.status());
    world.bucket.spoil(None);
    world.pass(30 * MINUTE).await;
    assert_eq!(with_outcome(&world.outcomes().await, Outcome::Committed), tokens);
    world.stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_reads_what_was_unreadable_whatever_its_age() {
    let world = IngestWorld::new(small_batches()).await;
    append_entities(&world, 20, 100);
    let old = world.append(world.ago(110), &EntryDraft::entity(99));
    world.bucket.spoil(Some((&old.to_string(), BadRead::Refused)));
    world.run_for(5 * MINUTE).await;
    assert_eq!(world.manifest().await.totals.standing().unreadable, 1);
    world.pass(Duration::from_hours(100)).await;
    world.bucket.spoil(None);
    world.run_for(5 * MINUTE).await;
    assert_eq!(world.manifest().await.totals.standing().unreadable, 0);
    assert_eq!(world.outcomes().await[&old], [Outcome::Committed]);
    world.check().await;
}

/// The hundred of an hour are for what is not judged yet.
#[tokio::test(start_paused = true)]
async fn what_is_unreadable_already_is_not_judged_again() {
    let world = IngestWorld::new(IngestOptions::default()).await;
    append_spoilt(&world, 210, BadRead::Refused);
    append_entities(&world, 20, 50);
    let running = world.start();
    world.pass(150 * MINUTE).await;
    for hour in 1..=8 {
        world.pass(60 * MINUTE).await;
        assert_eq!(world.manifest().await.totals.standing().unreadable, 209 + hour, "hour {hour}");
        let bad = world.append(world.bucket.now(), &EntryDraft::entity(hour));
        world.bucket.spoil(Some((&bad.to_string(), BadRead::Refused)));
        world.pass(MINUTE).await;
        world.append(world.bucket.now(), &EntryDraft::entity(hour));
        world.pass(4 * MINUTE).await;
        assert_eq!(world.outcomes().await[&bad], [Outcome::Unreadable], "hour {hour}");
    }
    world.stop(running).await;
    world.check().await;
}

#[tokio::test(start_paused = true)]
async fn unreadable_entries_that_are_tried_again_hold_up_no_tail() {
    for bad in BAD {
        let world = IngestWorld::new(IngestOptions::default()).await;
        append_spoilt(&world, 100, bad);
        append_entities(&world, 20, 50);
        world.run_for(30 * MINUTE).await;
        assert_eq!(world.manifest().await.totals.standing().unreadable, 100, "{bad:?}");
        let token = world.append(world.ago(20), &EntryDraft::entity(5000));
        // A hundred reads and looks at what is refused, one after the other, would take ten minutes.
        world.bucket.slow(Duration::from_secs(3));
        let running = world.start();
        world.pass(3 * MINUTE).await;
        world.bucket.slow(Duration::ZERO);
        assert_eq!(world.outcomes().await.get(&token).map(Vec::as_slice), Some(&[Outcome::Committed][..]), "{bad:?}");
        world.bucket.spoil(None);
        world.pass(70 * MINUTE).await;
        assert_eq!(world.manifest().await.totals.standing().unreadable, 0, "{bad:?}");
        world.stop(running).await;
        world.check().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_the_audit_cannot_read_keeps_no_other_from_its_last_look() {
    let world = IngestWorld::new(small_batches()).await;
    let late = world.append(world.ago(60), &EntryDraft::bundle("late"));
    let running = world.start();
    world.pass(30 * MINUTE).await;
    // After its look at ten minutes, before that at an hour.
    world.describe("late", world.bucket.now());
    let refused = world.append(world.bucket.now(), &EntryDraft::bundle("refused"));
    world.pass(2 * MINUTE).await;
    // Its look at ten minutes fails again and again: nothing of its folder is read.
    world.describe("refused", world.bucket.now());
    world.bucket.spoil(Some(("refused", BadRead::Refused)));
    world.pass(40 * MINUTE).await;
    let outcomes = world.outcomes().await;
    assert_eq!(outcomes[&refused], [Outcome::Aborted]);
    assert_eq!(outcomes[&late], [Outcome::Late]);
    assert_eq!(world.status().problem.unwrap().cause.reason, Reason::AccessDenied);
    world.stop(running).await;
    world.check().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_descriptor_counts_by_its_attributes() {
    let world = IngestWorld::new(small_batches()).await;
    for number in 0..20 {
        let bundle = format!("b{number:02}");
        world.append(world.ago(200 - number), &EntryDraft::bundle(&bundle));
        world.describe(&bundle, world.ago(200 - number));
    }
    world.bucket.spoil(Some(("b07", BadRead::Refused)));
    world.run_for(5 * MINUTE).await;
    let contents = world.check().await;
    assert!(contents.records.values().all(|record| record.decision.outcome == Outcome::Committed));
    let refused = contents.records.values().find(|record| record.path.as_ref().unwrap().contains("b07")).unwrap();
    assert!(refused.reason.as_ref().unwrap().contains("it is archived"), "{:?}", refused.reason);
}

#[tokio::test(start_paused = true)]
async fn while_everything_is_refused_nothing_is_decided() {
    let world = IngestWorld::new(small_batches()).await;
    let first = append_entities(&world, 20, 100)[0].to_string();
    world.bucket.spoil(Some((&format!("log/{}", &first[..2]), BadRead::Refused)));
    let running = world.start();
    world.pass(60 * MINUTE).await;
    let status = world.status();
    assert_eq!(status.problem.unwrap().cause.reason, Reason::AccessDenied);
    assert_eq!(world.manifest().await.totals.records, 0);
    world.bucket.spoil(None);
    world.pass(5 * MINUTE).await;
    assert_eq!(with_outcome(&world.outcomes().await, Outcome::Committed).len(), 20);
    world.stop(running).await;
    world.check().await;
}

#[tokio::test(start_paused = true)]
async fn what_precedes_a_bad_last_entry_is_published_and_not_read_again() {
    let world = IngestWorld::new(IngestOptions::default()).await;
    let tokens = append_entities(&world, 2000, 100);
    let last = world.append(world.ago(99), &EntryDraft::entity(5000));
    world.bucket.spoil(Some((&last.to_string(), BadRead::Refused)));
    let running = world.start();
    world.pass(5 * MINUTE).await;
    assert_eq!(with_outcome(&world.outcomes().await, Outcome::Committed).len(), tokens.len());
    assert_eq!(world.status().problem.unwrap().cause.reason, Reason::AccessDenied);
    let before = world.bucket.requests();
    world.pass(60 * MINUTE).await;
    let hour = world.bucket.requests() - before;
    assert!(hour < 5000, "{hour} requests in an hour that reads one entry again and again");
    // A later entry that is read proves that the door is open.
    world.append(world.bucket.now(), &EntryDraft::entity(5001));
    world.pass(10 * MINUTE).await;
    assert_eq!(world.outcomes().await[&last], [Outcome::Unreadable]);
    assert_eq!(world.status().problem, None);
    world.stop(running).await;
    world.check().await;
}

#[tokio::test(start_paused = true)]
async fn an_audit_that_cannot_read_delays_no_tail() {
    let world = IngestWorld::new(small_batches()).await;
    let aborted = world.append(world.ago(60), &EntryDraft::bundle("absent"));
    let running = world.start();
    world.pass(2 * MINUTE).await;
    assert_eq!(world.outcomes().await[&aborted], [Outcome::Aborted]);
    // It comes late, and is in a class that is not given; nothing later is in its store.
    world.describe("absent", world.bucket.now());
    world.bucket.spoil(Some(("absent", BadRead::Refused)));
    for number in 0..30 {
        let token = world.append(world.bucket.now(), &EntryDraft::entity(number));
        world.pass(2 * MINUTE).await;
        assert_eq!(world.outcomes().await[&token], [Outcome::Committed], "entry {number}");
    }
    world.stop(running).await;
    world.check().await;
}

#[tokio::test(start_paused = true)]
async fn the_names_of_files_are_recorded_and_a_list_that_cannot_be_read_stops_nobody() {
    let world = IngestWorld::new(IngestOptions { file_names: true, ..small_batches() }).await;
    let plant = |bundle: &str, lists: u64, has_list: bool| {
        let (at, folder) = (world.ago(100), format!("metadata/bundles/r/{bundle}"));
        world.bucket.plant(&format!("{folder}/bundle.yaml"), format!("id: {bundle}\ncount: {lists}\n"), at);
        if has_list {
            let list = format!("BundleEntries:\n- name: {bundle}.csv\n");
            world.bucket.plant(&format!("{folder}/bundle-files-0.yaml"), list, at);
        }
        world.append(at, &EntryDraft::bundle(bundle))
    };
    let [whole, refused, missing, none] =
        [("whole", 1, true), ("refused", 1, true), ("missing", 2, true), ("none", 0, false)]
            .map(|(bundle, lists, has_list)| plant(bundle, lists, has_list));
    world.bucket.spoil(Some(("bundles/r/refused/bundle-files-0.yaml", BadRead::Refused)));
    world.run_for(5 * MINUTE).await;
    let contents = world.check().await;
    let record = |token| contents.records.values().find(|record| record.token == token).unwrap();
    for token in [whole, refused, missing, none] {
        assert_eq!(record(token).decision.outcome, Outcome::Committed);
    }
    let names = |token| record(token).files.clone().map(|files| (files.names, files.incomplete.unwrap_or_default()));
    assert_eq!(names(whole), Some((vec!["whole.csv".to_owned()], String::new())));
    assert!(names(refused).is_some_and(|(names, why)| names.is_empty() && why.contains("it is archived")));
    assert!(names(missing).is_some_and(|(names, why)| names == ["missing.csv"] && why.contains("is missing")));
    assert_eq!(names(none), None);
}

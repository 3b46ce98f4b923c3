//! The start of an index that holds nothing, of a log that was cleaned up: what is recorded first, then the log.

use std::time::Duration;

use tidemark_catalog::LogCursor;
use tidemark_crds::Reason;
use tidemark_ingest::{RestoreTarget, ToCause as _};
use tidemark_wal::{Outcome, Token};
use tokio::time::timeout;

use crate::{
    MINUTE,
    lost_index::{Recorded, recorded, with_archive},
    world::{EntryDraft, IngestWorld, RunningIngest, standing},
};

/// The index is lost and the log was cleaned up. What is recorded is in the archive below the index, or in the second store alone.
async fn lost(is_in_copies: bool) -> (IngestWorld, Token, Recorded) {
    let (world, bad) = with_archive().await;
    if is_in_copies {
        world.copy_snapshot("daily").await;
    }
    let before = recorded(&world).await;
    world.lose_index().await;
    if is_in_copies {
        world.lose_bucket();
    }
    (world, bad, before)
}

/// The index has what it had, and goes on.
async fn is_whole(world: &IngestWorld, running: &RunningIngest, bad: Token, before: &Recorded, what: &str) {
    world.pass(90 * MINUTE).await;
    assert!(!running.is_finished(), "{what}: it ended");
    let after = standing(&world.check().await);
    for (place, one) in before.iter().filter(|((token, _), _)| *token != bad) {
        assert_eq!(after.get(place), Some(one), "{what}: it was decided again");
    }
    assert_eq!(world.outcomes().await[&bad], [Outcome::Committed; 2], "{what}");
    assert_eq!(after.len(), before.len() + 1, "{what}");
    let token = world.append(world.bucket.now(), &EntryDraft::entity(1));
    world.pass(5 * MINUTE).await;
    assert!(world.outcomes().await.contains_key(&token), "{what}: ingest stands still");
}

#[tokio::test(start_paused = true)]
async fn an_index_that_holds_nothing_begins_with_what_is_recorded_and_goes_on_with_the_log() {
    for is_in_copies in [false, true] {
        let (world, bad, before) = lost(is_in_copies).await;
        for bundle in (0..12).map(|number| format!("metadata/bundles/r/b{number}/bundle.yaml")) {
            world.bucket.forget(&bundle);
        }
        let cold = world.cold_start(is_in_copies, None).await;
        assert!(cold.is_due().await.unwrap() && cold.reach().await.unwrap() > LogCursor::default());
        let running = world.start_cold("only", cold);
        is_whole(&world, &running, bad, &before, &format!("copies: {is_in_copies}")).await;
        assert_eq!(world.manifest().await.generation.to_string(), "g2");
        world.stop(running).await;
        // Started again, there is nothing to do.
        let cold = world.cold_start(is_in_copies, None).await;
        assert!(!cold.is_due().await.unwrap());
        let keys = world.bucket.keys();
        cold.run().await.unwrap();
        assert_eq!(world.bucket.keys(), keys);
    }
}

#[tokio::test(start_paused = true)]
#[ignore = "takes longer than four minutes: for `make long`"]
async fn a_cold_start_that_dies_at_any_request_is_gone_on_with_by_the_next_one() {
    for is_in_copies in [false, true] {
        let mut died = 0;
        for step in (1..).step_by(13) {
            let (world, bad, before) = lost(is_in_copies).await;
            world.bucket.die_at(Some(world.bucket.requests() + step));
            let cold = world.cold_start(is_in_copies, None);
            let ended = Box::pin(timeout(2 * MINUTE, async { cold.await.run().await })).await.is_ok();
            world.bucket.die_at(None);
            died += u64::from(!ended);
            let running = world.start_cold("only", world.cold_start(is_in_copies, None).await);
            is_whole(&world, &running, bad, &before, &format!("copies: {is_in_copies}, step {step}")).await;
            assert_eq!(world.manifest().await.generation.to_string(), "g2", "after step {step}");
            world.stop(running).await;
            if ended {
                break;
            }
        }
        assert!(died > 10, "{died} crashes only");
    }
}

/// The snapshot that the first cold start has left says that a task of its name made a generation with the number of the one that is begun
/// again.
#[tokio::test(start_paused = true)]
async fn an_index_that_is_lost_twice_is_begun_again_wherever_the_second_start_dies() {
    for step in (6..60).step_by(9) {
        let (world, bad, before) = lost(false).await;
        world.bucket.slow(Duration::from_millis(20));
        let running = world.start_cold("only", world.cold_start(false, None).await);
        world.pass(5 * MINUTE).await;
        world.stop(running).await;
        let lost = world.bucket.keys().into_iter().filter(|key| key.starts_with("index/g2/"));
        lost.for_each(|key| world.bucket.forget(&key));
        world.bucket.die_at(Some(world.bucket.requests() + step));
        let cold = world.cold_start(false, None);
        drop(Box::pin(timeout(2 * MINUTE, async { cold.await.run().await })).await);
        world.bucket.die_at(None);
        let begun = timeout(30 * MINUTE, world.cold_start(false, None).await.run()).await;
        begun.expect("it has no end").unwrap();
        let running = world.start_cold("only", world.cold_start(false, None).await);
        is_whole(&world, &running, bad, &before, &format!("step {step}")).await;
        world.stop(running).await;
    }
}

/// Two pods start at once: one restores, the other waits, and one of them writes.
#[tokio::test(start_paused = true)]
async fn of_two_cold_starts_one_restores_and_both_go_on() {
    for pause in [0, 200, 1500, 8000] {
        let (world, bad, before) = lost(true).await;
        world.bucket.slow(Duration::from_millis(30));
        let first = world.start_cold("first", world.cold_start(true, None).await);
        world.pass(Duration::from_millis(pause)).await;
        let second = world.start_cold("second", world.cold_start(true, None).await);
        world.pass(30 * MINUTE).await;
        assert!(!first.is_finished() && !second.is_finished(), "after {pause} ms");
        is_whole(&world, &first, bad, &before, &format!("after {pause} ms")).await;
        assert_eq!(world.manifest().await.generation.to_string(), "g2", "after {pause} ms");
        assert!(world.manifest_of("g3").await.is_none(), "after {pause} ms: it was made twice");
        drop((first, second));
    }
}

#[tokio::test(start_paused = true)]
async fn a_cold_start_to_a_time_stays_there_until_it_is_promoted() {
    let (world, bad, before) = lost(true).await;
    let middle = before.keys().nth(before.len() / 3).unwrap().0.second();
    let fold: Recorded = before
        .iter()
        .filter(|((token, _), _)| token.second() <= middle)
        .map(|(place, one)| (*place, one.clone()))
        .collect();
    let running = world.start_cold("only", world.cold_start(true, Some(middle)).await);
    world.pass(30 * MINUTE).await;
    assert_eq!(world.manifest().await.until, Some(middle));
    assert!(standing(&world.check().await) == fold);
    world.stop(running).await;
    let running = world.start_cold("only", world.cold_start(true, Some(middle)).await);
    world.pass(10 * MINUTE).await;
    assert!(standing(&world.check().await) == fold, "it was begun once more");
    world.promote_from_copies().await.unwrap();
    is_whole(&world, &running, bad, &before, "promoted").await;
    world.stop(running).await;
}

/// What people restore they promote.
#[tokio::test(start_paused = true)]
async fn an_index_that_was_restored_by_hand_is_left_as_it_is() {
    let (world, _, before) = lost(false).await;
    let middle = before.keys().nth(before.len() / 3).unwrap().0.second();
    world.restore(None, &RestoreTarget::Time(middle)).await.unwrap();
    for has_copies in [false, true] {
        let cold = world.cold_start(has_copies, None).await;
        assert!(!cold.is_due().await.unwrap());
        cold.run().await.unwrap();
        assert_eq!(world.manifest().await.until, Some(middle));
    }
}

#[tokio::test(start_paused = true)]
async fn an_index_is_begun_over_no_hole() {
    let (world, _, _) = lost(true).await;
    // Neither the archive nor the copies are named.
    let refused = world.cold_start(false, None).await.run().await.unwrap_err();
    assert_eq!(refused.to_cause().reason, Reason::BelowFloor, "{refused}");
    // They end below the floor.
    let end = world.copies().await.place.archive.latest().await.unwrap().unwrap().end;
    world.raise_floor_over(end.second().after(Duration::from_hours(100))).await;
    let keys = world.bucket.keys();
    let refused = world.cold_start(true, None).await.run().await.unwrap_err();
    assert_eq!(refused.to_cause().reason, Reason::BelowFloor, "{refused}");
    assert_eq!(world.bucket.keys(), keys, "a refused start writes nothing");
}

/// All of the log is there, and nothing is recorded of it: it is indexed as ever.
#[tokio::test(start_paused = true)]
async fn a_log_of_which_nothing_is_recorded_is_indexed_from_its_first_entry() {
    let world = IngestWorld::new(crate::world::small_batches()).await;
    let token = world.append(world.ago(500), &EntryDraft::entity(1));
    let cold = world.cold_start(false, None).await;
    assert!(!cold.is_due().await.unwrap());
    let running = world.start_cold("only", cold);
    world.pass(5 * MINUTE).await;
    assert!(world.outcomes().await.contains_key(&token));
    assert_eq!(world.manifest().await.generation.to_string(), "g1");
    world.stop(running).await;
    // Copies that were named are not there: that is no reason to go on without them.
    let empty = IngestWorld::new(crate::world::small_batches()).await;
    let refused = empty.cold_start(true, None).await.run().await.unwrap_err();
    assert_eq!(refused.to_cause().reason, Reason::InvalidURL, "{refused}");
}

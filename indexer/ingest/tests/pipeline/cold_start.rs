//! The start of an index that holds nothing, of a log that was cleaned up: what is recorded first, then the log.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tidemark_catalog::{EndReason, LogCursor, Manifest};
use tidemark_crds::Reason;
use tidemark_ingest::{
    ColdStart, IngestError, IngestOptions, RestoreOrigin, RestoreTarget, ToCause as _, UnauditedReport,
    engine::IndexEngine, model_engine::ModelEngine, snapshot::SnapshotRequest,
};
use tidemark_store::StoreSecond;
use tidemark_wal::{Outcome, Token};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    MINUTE,
    lost_index::{Recorded, recorded, small_archive, with_archive},
    world::{EntryDraft, IngestWorld, RunningIngest, small_batches, standing},
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

/// What is left of an index that holds nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LeftBehind {
    /// The archive below it. The log was cleaned up.
    Archive,
    /// Its snapshots and its archive.
    Snapshots,
    /// Copies of both in the second store. The log was cleaned up.
    Copies,
}

impl LeftBehind {
    /// As `whole`, which has copies, at the time `now`, but for what is lost.
    async fn of(self, whole: &IngestWorld, now: StoreSecond) -> IngestWorld {
        let world = whole.copied_at(now);
        match self {
            Self::Archive => drop(world.lose_index().await),
            Self::Snapshots => forget_all(&world, "index/g1/manifest/"),
            Self::Copies => {
                world.lose_index().await;
                world.lose_bucket();
            }
        }
        world
    }
}

fn forget_all(world: &IngestWorld, prefix: &str) {
    let lost = world.bucket.keys().into_iter().filter(|key| key.starts_with(prefix));
    lost.for_each(|key| world.bucket.forget(&key));
}

#[tokio::test(start_paused = true)]
async fn a_cold_start_that_dies_at_any_write_is_gone_on_with_by_the_next_one() {
    let (whole, bad) = small_archive().await;
    whole.copy_snapshot("daily").await;
    let (before, now) = (recorded(&whole).await, whole.bucket.now());
    for left in [LeftBehind::Archive, LeftBehind::Snapshots, LeftBehind::Copies] {
        let (lost, has_copies) = (left.of(&whole, now).await, left == LeftBehind::Copies);
        let mut died = 0;
        for write in 1.. {
            let (world, what) = (lost.copied_at(now), format!("{left:?}, write {write}"));
            world.bucket.die_at_write(Some(write));
            let cold = world.cold_start(has_copies, None).await;
            let ended =
                Box::pin(timeout(2 * MINUTE, cold.run())).await.map(|done| done.expect("it has not died")).is_ok();
            world.bucket.die_at_write(None);
            died += u64::from(!ended);
            let running = world.start_cold("only", world.cold_start(has_copies, None).await);
            let token = world.append(world.bucket.now(), &EntryDraft::entity(1));
            world.pass(5 * MINUTE).await;
            assert!(!running.is_finished(), "{what}: it ended");
            assert_eq!(world.manifest().await.generation.to_string(), "g2", "{what}");
            let mut after = standing(&world.check().await);
            assert!(after.remove(&(token, 0)).is_some(), "{what}: ingest stands still");
            let decided = [(bad, 0), (bad, 1)].map(|place| after.remove(&place).map(|one| one.decision.outcome));
            assert_eq!(decided, [Some(Outcome::Committed); 2], "{what}");
            assert!(before.keys().filter(|(token, _)| *token != bad).eq(after.keys()), "{what}");
            assert!(after.iter().all(|(place, one)| before[place] == *one), "{what}: it was decided again");
            world.stop(running).await;
            if ended {
                break;
            }
        }
        assert!(died > 12, "{left:?}: {died} crashes only");
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

/// The process that restored the index from the second store ended before it promoted it. The next one names another place, or none.
#[tokio::test(start_paused = true)]
async fn what_a_cold_start_has_restored_is_promoted_by_the_next_one_whatever_place_that_names() {
    for names_another in [false, true] {
        let (world, bad, before) = lost(true).await;
        // What people restore they promote.
        for task in [None, Some("by-hand")] {
            world.restore_from_copies(task, &RestoreTarget::Latest).await.unwrap();
            assert!(!world.cold_start(false, None).await.is_due().await.unwrap(), "{task:?}");
        }
        let report = world.restore_from_copies(Some("cold-start"), &RestoreTarget::Latest).await.unwrap();
        let mut cold = world.cold_start(false, None).await;
        if names_another {
            let place = world.with_index("elsewhere").snapshot_copier().await.0.from;
            let open = |store| Ok(Arc::new(ModelEngine::new(store)) as Arc<dyn IndexEngine>);
            cold.origin = Some(RestoreOrigin::new(place, Box::new(open)));
        }
        assert!(cold.is_due().await.unwrap());
        let running = world.start_cold("only", cold);
        is_whole(&world, &running, bad, &before, &format!("another: {names_another}")).await;
        assert_eq!(world.manifest().await.generation, report.generation);
        world.stop(running).await;
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

/// An operation was corrected after the snapshot `old`, of which there is a copy. Gives its entry, the snapshot's manifest, and the objects
/// that the snapshot consists of.
async fn corrected_since_snapshot() -> (IngestWorld, Token, Manifest, Vec<(String, Bytes)>) {
    let whole = IngestWorld::new(IngestOptions { compaction: false, ..small_batches() }).await;
    for number in 0..12 {
        whole.append(whole.ago(30_000 - number), &EntryDraft::entity(number));
    }
    let token = whole.append(whole.ago(90 * 60), &EntryDraft::bundle("b1"));
    whole.run_for(10 * MINUTE).await;
    whole.copy_snapshot("old").await;
    let old = whole.manifest().await;
    let is_kept = |key: &String| ["g1/segment/", "g1/sidecar/", "snapshots/"].iter().any(|part| key.contains(part));
    let kept = whole.bucket.keys().into_iter().filter(|key| key.starts_with("index/") && is_kept(key));
    let kept: Vec<_> = kept.map(|key| (key.clone(), whole.bucket.body(&key))).collect();
    whole.describe("b1", whole.bucket.now());
    whole.run_for(60 * MINUTE).await;
    assert_eq!(whole.outcomes().await[&token], [Outcome::Late]);
    (whole, token, old, kept)
}

/// The log was cleaned up behind what is left: the correction stands in what has audited that second.
#[tokio::test(start_paused = true)]
async fn an_index_is_not_begun_with_what_was_not_audited_up_to_the_floor() {
    let (whole, token, old, kept) = corrected_since_snapshot().await;
    let mut copied = None;
    for is_copied in [false, true] {
        let made = whole.copied_at(whole.bucket.now());
        if is_copied {
            made.copy_snapshot("new").await;
        } else {
            made.snapshot_maker().await.0.make(&SnapshotRequest::default()).await.unwrap();
        }
        made.bucket.forget("metadata/bundles/r/b1/bundle.yaml");
        let floor = made.lose_index().await;
        assert!(!LogCursor(old.audited).covers(token) && floor.covers(token) && floor < old.cursor);
        copied.get_or_insert_with(|| made.copied_at(made.bucket.now()));
        made.lose_bucket();
        let keys = made.bucket.keys();
        let begun = made.cold_start(true, None).await.run().await;
        if is_copied {
            begun.unwrap();
            assert_eq!(made.outcomes().await[&token], [Outcome::Late]);
        } else {
            let refused = begun.unwrap_err();
            assert_eq!(refused.to_cause().reason, Reason::BelowFloor, "{refused}");
            assert_eq!(made.bucket.keys(), keys, "a refused start writes nothing");
        }
    }
    // The old snapshot is below the index, too, and reaches further than the archive.
    let own = copied.unwrap();
    for (key, body) in kept {
        own.bucket.plant(&key, body, own.ago(0));
    }
    own.cold_start(false, None).await.run().await.unwrap();
    assert_eq!(own.outcomes().await[&token], [Outcome::Late]);
}

/// The chain of the index is lost, and its snapshot reaches further than its archive. It is on the register still and keeps little of the log,
/// so that the floor rises while the snapshot is restored, perhaps by a process that ends there.
#[tokio::test(start_paused = true)]
async fn an_index_does_not_switch_to_what_is_not_audited_up_to_the_floor_by_then() {
    let (whole, token, old, kept) = corrected_since_snapshot().await;
    whole.snapshot_maker().await.0.make(&SnapshotRequest::default()).await.unwrap();
    whole.report_keeps().await;
    whole.bucket.forget("metadata/bundles/r/b1/bundle.yaml");
    let (end, now) = (whole.archive_end().await, whole.bucket.now());
    assert!(!LogCursor(old.audited).covers(token) && end.covers(token) && end < old.cursor);
    for (has_archive, is_killed) in [(true, false), (true, true), (false, false)] {
        let (world, what) = (whole.copied_at(now), format!("archive: {has_archive}, killed: {is_killed}"));
        let is_left = |key: &String| has_archive && key.starts_with("index/archive/");
        let lost = world.bucket.keys().into_iter().filter(|key| key.starts_with("index/") && !is_left(key));
        lost.for_each(|key| world.bucket.forget(&key));
        for (key, body) in &kept {
            world.bucket.plant(key, body.clone(), world.ago(0));
        }
        world.bucket.hold(Some("g1/segment/"));
        let cold = world.cold_start(false, None).await;
        let begun = AbortOnDropHandle::new(tokio::spawn(async move { cold.run().await }));
        while !world.pins().await.contains(&"source-of-g2".to_owned()) {
            world.pass(Duration::from_millis(100)).await;
        }
        world.raise_floor_beside(end).await;
        let begun = if is_killed {
            drop(begun);
            world.bucket.hold(None);
            Box::pin(world.cold_start(false, None).await.run()).await
        } else {
            world.bucket.hold(None);
            begun.await.unwrap()
        };
        let made = world.manifest_of("g2").await.unwrap().closed.map(|end| end.by);
        // With the archive what the snapshot had not settled was settled up to there.
        assert_eq!(made, (!has_archive).then_some(EndReason::Abandoned), "{what}");
        let index = world.manifest().await;
        if has_archive {
            begun.unwrap_or_else(|refused| panic!("{what}: {refused}"));
            assert_eq!(world.outcomes().await[&token], [Outcome::Late], "{what}");
            assert!(index.until.is_none() && end <= LogCursor(index.audited), "{what}");
            assert_eq!(index.cursor, old.cursor, "{what}: what follows the archive is in the snapshot");
            world.check().await;
        } else {
            let refused = begun.unwrap_err();
            assert_eq!(refused.to_cause().reason, Reason::BelowFloor, "{what}: {refused}");
            assert_eq!((index.generation.to_string().as_str(), index.next_seq), ("g1", 1), "{what}");
            assert_eq!(world.pins().await, ["old"], "{what}");
        }
    }
}

/// An operation was corrected after the snapshot `old`, and archived as it is then. All of the index is lost but that snapshot and the archive,
/// and the descriptor was deleted: what was recorded is not found in the log any more. Gives the entry, the snapshot's manifest and the floor.
async fn lost_but_for_an_old_snapshot() -> (IngestWorld, Token, Manifest, LogCursor) {
    let (world, token, old, kept) = corrected_since_snapshot().await;
    world.snapshot_maker().await.0.make(&SnapshotRequest::default()).await.unwrap();
    world.bucket.forget("metadata/bundles/r/b1/bundle.yaml");
    let floor = world.lose_index().await;
    for (key, body) in kept {
        world.bucket.plant(&key, body, world.ago(0));
    }
    assert!(!LogCursor(old.audited).covers(token) && floor.covers(token));
    (world, token, old, floor)
}

/// Recorded outcomes survive every switch: also one that the archive alone has settled.
#[tokio::test(start_paused = true)]
async fn a_snapshot_is_restored_with_what_the_archive_has_settled_since() {
    for target in ["snapshot", "time", "token"] {
        let (world, token, old, floor) = Box::pin(lost_but_for_an_old_snapshot()).await;
        let to = match target {
            "snapshot" => RestoreTarget::Snapshot("old".to_owned()),
            "time" => RestoreTarget::Time(floor.second()),
            _ => RestoreTarget::Token(token),
        };
        let report = world.restore(None, &to).await.unwrap();
        assert_eq!(world.outcomes().await[&token], [Outcome::Late], "{target}");
        assert_eq!(report.unaudited, None, "{target}");
        let restored = world.manifest().await;
        assert_eq!(LogCursor(restored.audited), floor.min(restored.cursor), "{target}");
        world.check().await;
        world.promote().await.unwrap();
        let promoted = world.manifest().await;
        assert!(promoted.until.is_none() && floor <= LogCursor(promoted.audited), "{target}");
        assert_eq!(promoted.cursor, old.cursor, "{target}");
        assert_eq!(world.outcomes().await[&token], [Outcome::Late], "{target}");
        world.check().await;
    }
}

/// While a restore copies, the writer has its last look at what is copied, and that is archived. A descriptor that comes after that changes
/// nothing: the restored index would contradict the archive.
#[tokio::test(start_paused = true)]
async fn what_was_settled_while_a_restore_copied_stays_as_it_was_archived() {
    let world = IngestWorld::new(IngestOptions { compaction: false, ..small_batches() }).await;
    for number in 0..12 {
        world.append(world.ago(30_000 - number), &EntryDraft::entity(number));
    }
    let token = world.append(world.ago(600), &EntryDraft::bundle("b1"));
    world.append(world.ago(300), &EntryDraft::entity(1));
    world.run_for(MINUTE).await;
    let copied = world.manifest().await;
    assert_eq!(world.outcomes().await[&token], [Outcome::Aborted]);
    assert!(copied.cursor.covers(token) && !LogCursor(copied.audited).covers(token));
    world.bucket.hold(Some("g2/segment/"));
    let meanwhile = async {
        while !world.pins().await.contains(&"source-of-g2".to_owned()) {
            world.pass(Duration::from_millis(100)).await;
        }
        // Longer than the audit window.
        world.run_for(Duration::from_hours(4)).await;
        world.snapshot_maker().await.0.make(&SnapshotRequest::default()).await.unwrap();
        assert!(world.archive_end().await.covers(token));
        world.bucket.hold(None);
    };
    let to = RestoreTarget::Time(copied.cursor.second().before(Duration::from_secs(1)));
    let (restored, ()) = tokio::join!(world.restore(None, &to), meanwhile);
    restored.unwrap();
    world.describe("b1", world.bucket.now());
    world.promote().await.unwrap();
    world.run_for(60 * MINUTE).await;
    assert_eq!(world.outcomes().await[&token], [Outcome::Aborted]);
    world.check().await;
}

/// A process ends somewhere while it restores, and the archive has more by the time the next one goes on: what that makes is of one version.
#[tokio::test(start_paused = true)]
async fn a_restore_that_goes_on_beside_a_longer_archive_has_what_that_has_settled() {
    let (whole, token, old, kept) = corrected_since_snapshot().await;
    let before = whole.bucket.keys();
    whole.snapshot_maker().await.0.make(&SnapshotRequest::default()).await.unwrap();
    let later =
        whole.bucket.keys().into_iter().filter(|key| key.starts_with("index/archive/") && !before.contains(key));
    let later: Vec<_> = later.map(|key| (whole.bucket.body(&key), key)).collect();
    assert!(!later.is_empty(), "the archive was not extended");
    whole.bucket.forget("metadata/bundles/r/b1/bundle.yaml");
    whole.lose_index().await;
    for (key, body) in kept {
        whole.bucket.plant(&key, body, whole.ago(0));
    }
    for (_, key) in &later {
        whole.bucket.forget(key);
    }
    let (now, to) = (whole.bucket.now(), RestoreTarget::Snapshot("old".to_owned()));
    let mut began_within = 0;
    for manifest in 2..12 {
        let world = whole.copied_at(now);
        world.bucket.hold(Some(&format!("g2/manifest/{manifest:020}")));
        let is_killed = timeout(MINUTE, world.restore(Some("task"), &to)).await.is_err();
        world.bucket.hold(None);
        let has_switched = world.manifest_of("g1").await.is_some_and(|open| open.closed.is_some());
        if !is_killed || has_switched {
            break;
        }
        let begun = world.manifest_of("g2").await.unwrap();
        began_within += u64::from(begun.next_seq > 1 && begun.next_seq < old.next_seq);
        for (body, key) in &later {
            world.bucket.plant(key, body.clone(), world.ago(0));
        }
        world.restore(Some("task"), &to).await.unwrap();
        assert_eq!(world.outcomes().await[&token], [Outcome::Late], "killed before manifest {manifest}");
        assert_eq!(world.manifest().await.cursor, old.cursor);
        world.check().await;
    }
    assert!(began_within > 0, "no process ended between two publications");
}

/// People may restore what is not audited up to the floor, and look at it, and are told before that no writer goes on from there: the
/// correction would be lost.
#[tokio::test(start_paused = true)]
async fn what_is_not_audited_up_to_the_floor_is_restored_by_hand_and_not_promoted() {
    let (world, token, old, floor) = Box::pin(lost_but_for_an_old_snapshot()).await;
    let archived = world.bucket.keys().into_iter().filter(|key| key.starts_with("index/archive/"));
    let archived: Vec<_> = archived.map(|key| (world.bucket.body(&key), key)).collect();
    for (_, key) in &archived {
        world.bucket.forget(key);
    }
    let report = world.restore(None, &RestoreTarget::Snapshot("old".to_owned())).await.unwrap();
    assert_eq!(world.outcomes().await[&token], [Outcome::Aborted]);
    let restored = world.manifest().await;
    assert!(floor < restored.cursor && LogCursor(restored.audited) < floor);
    assert_eq!(report.unaudited, Some(UnauditedReport { audited: LogCursor(restored.audited), floor }));
    let refused = world.promote().await.unwrap_err();
    assert!(matches!(refused, IngestError::PromotionBelowFloor { .. }), "{refused}");
    assert_eq!(refused.to_cause().reason, Reason::BelowFloor, "{refused}");
    for way_out in ["tidemark restore --latest", "tidemark promote --decide-again"] {
        assert!(refused.to_string().contains(way_out), "{refused}");
    }
    let after = world.manifest().await;
    assert_eq!(
        (after.generation, after.until, after.segments),
        (restored.generation, restored.until, restored.segments)
    );
    // The archive is back. As it says: that, and what the snapshot has recorded after it.
    for (body, key) in archived {
        world.bucket.plant(&key, body, world.ago(0));
    }
    world.restore(None, &RestoreTarget::Latest).await.unwrap();
    assert_eq!(world.manifest().await.cursor, floor);
    world.promote().await.unwrap();
    let promoted = world.manifest().await;
    assert!(promoted.until.is_none() && floor <= LogCursor(promoted.audited));
    assert_eq!(promoted.cursor, old.cursor);
    assert_eq!(world.outcomes().await[&token], [Outcome::Late]);
    world.check().await;
}

/// Nothing is gone from the log. Another process begins the index with it, before or while that is restored.
#[tokio::test(start_paused = true)]
async fn an_index_that_is_begun_meanwhile_is_left_as_it_is() {
    let (whole, _) = small_archive().await;
    whole.copy_snapshot("daily").await;
    whole.lose_bucket();
    let (tokens, now) =
        (whole.bucket.keys().into_iter().filter(|key| key.starts_with("log/")).count(), whole.bucket.now());
    for is_restoring in [false, true] {
        let world = whole.copied_at(now);
        world.bucket.slow(Duration::from_millis(20));
        world.bucket.hold((!is_restoring).then_some("copy/"));
        let cold = world.start_cold("cold", world.cold_start(true, None).await);
        world.pass(Duration::from_secs(1)).await;
        while is_restoring && world.manifest_of("g2").await.is_none() {
            world.pass(Duration::from_millis(10)).await;
        }
        world.bucket.hold(Some("copy/"));
        let other = world.start_as("other");
        world.pass(5 * MINUTE).await;
        world.bucket.hold(None);
        world.pass(5 * MINUTE).await;
        let what = format!("restoring: {is_restoring}");
        assert!(!cold.is_finished() && !other.is_finished(), "{what}");
        assert_eq!(world.manifest().await.generation.to_string(), "g1", "{what}");
        let made = world.manifest_of("g2").await.map(|made| made.closed.map(|end| end.by));
        assert_eq!(made, is_restoring.then_some(Some(EndReason::Abandoned)), "{what}");
        let token = world.append(world.bucket.now(), &EntryDraft::entity(1));
        world.pass(5 * MINUTE).await;
        let outcomes = world.outcomes().await;
        assert!(outcomes.contains_key(&token) && outcomes.len() > 10, "{what}: {} of {tokens}", outcomes.len());
        world.check().await;
    }
}

/// Nothing but the snapshot has what the last of its objects held.
#[tokio::test(start_paused = true)]
async fn a_promotion_that_is_refused_again_uploads_nothing() {
    let (world, bad) = with_archive().await;
    let before = recorded(&world).await;
    let lost = world.manifest().await.segments.pop().unwrap();
    let key = format!("index/{}", lost.key);
    let body = world.bucket.remove(&key);
    forget_all(&world, "index/g1/manifest/");
    let mut written = Vec::new();
    for _ in 0..3 {
        let refused = world.cold_start(false, None).await.run().await.unwrap_err();
        assert!(matches!(refused, IngestError::OutcomesLost { .. }), "{refused}");
        let uploaded = world.bucket.keys().iter().filter(|key| key.contains("/segment/")).count();
        written.push((uploaded, world.manifest().await.epoch));
    }
    assert_eq!(written, [written[0]; 3]);
    world.bucket.plant(&key, body, world.bucket.now());
    let running = world.start_cold("only", world.cold_start(false, None).await);
    is_whole(&world, &running, bad, &before, "put back").await;
    world.stop(running).await;
}

/// The archive below the index is damaged: that is found before anything is restored, or only when its last rows are read.
#[tokio::test(start_paused = true)]
async fn a_damaged_archive_is_gone_around_only_where_another_place_is_named() {
    let (whole, _) = small_archive().await;
    let is_data = |key: &String| key.starts_with("index/archive/") && key.contains("/data/");
    let first: Vec<_> = whole.bucket.keys().into_iter().filter(is_data).collect();
    whole.run_for(180 * MINUTE).await;
    whole.copy_snapshot("later").await;
    let second: Vec<_> = whole.bucket.keys().into_iter().filter(|key| is_data(key) && !first.contains(key)).collect();
    let outcomes = whole.outcomes().await;
    for lost in [&first, &second] {
        for (has_copies, was_cleaned_up) in [(false, false), (false, true), (true, true)] {
            let world = whole.copied_at(whole.bucket.now());
            if was_cleaned_up {
                world.lose_index().await;
            } else {
                let left = |key: &String| key.starts_with("index/") && !key.starts_with("index/archive/");
                world.bucket.keys().iter().filter(|key| left(key)).for_each(|key| world.bucket.forget(key));
            }
            for key in lost {
                world.bucket.forget(key);
            }
            let begun = world.cold_start(has_copies, None).await.run().await;
            let what = format!("copies: {has_copies}, cleaned up: {was_cleaned_up}, {lost:?}");
            // Also where all of the log is there: the descriptors of its entries may be gone.
            if !has_copies {
                let refused = begun.unwrap_err();
                assert_eq!(refused.to_cause().reason, Reason::ArchiveDamaged, "{what}: {refused}");
                continue;
            }
            begun.unwrap_or_else(|refused| panic!("{what}: {refused}"));
            let running = world.start();
            world.pass(10 * MINUTE).await;
            assert_eq!(world.outcomes().await, outcomes, "{what}");
            world.check().await;
            world.stop(running).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn segments_of_the_other_place_are_read_only_where_it_is_restored_from() {
    let (whole, _) = small_archive().await;
    whole.copy_snapshot("daily").await;
    for (is_lost, expected) in [(false, 0), (true, 1)] {
        let world = whole.copied_at(whole.bucket.now());
        if is_lost {
            world.lose_index().await;
            world.lose_bucket();
        }
        let opened = Arc::new(AtomicUsize::new(0));
        let (origin, counted) = (world.copies().await, opened.clone());
        let open = move |store| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(Arc::new(ModelEngine::new(store)) as Arc<dyn IndexEngine>)
        };
        let origin = Some(RestoreOrigin::new(origin.place, Box::new(open)));
        let cold = ColdStart { origin, ..world.cold_start(false, None).await };
        assert_eq!(cold.is_due().await.unwrap(), is_lost);
        assert_eq!(opened.load(Ordering::Relaxed), 0);
        cold.run().await.unwrap();
        assert_eq!(opened.load(Ordering::Relaxed), expected);
    }
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

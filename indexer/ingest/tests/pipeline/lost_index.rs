//! Restores of an index that was lost, or of which objects are gone or damaged: from its snapshots and the archive.

use std::{collections::BTreeMap, time::Duration};

use tidemark_catalog::{EndReason, LogCursor};
use tidemark_crds::Reason;
use tidemark_ingest::{
    IngestError, IngestOptions, LostOutcomePolicy, OperationRecord, RestoreTarget, ToCause as _,
    snapshot::SnapshotRequest,
};
use tidemark_store::StoreSecond;
use tidemark_wal::{Outcome, Token};

use crate::{
    MINUTE,
    fake_bucket::BadRead,
    world::{EntryDraft, IngestWorld, small_batches, standing},
};

/// What is recorded, by operation.
pub(crate) type Recorded = BTreeMap<(Token, u32), OperationRecord>;

/// An index with a snapshot: most of its history is archived, one entry of that could not be read, and its last entries are not archived.
/// Gives the entry as well.
pub(crate) async fn with_archive() -> (IngestWorld, Token) {
    archived_index(80, 12, 20).await
}

/// As [`with_archive`], with so few entries that all of it can be restored again and again.
pub(crate) async fn small_archive() -> (IngestWorld, Token) {
    archived_index(3, 2, 4).await
}

/// With twice as many older entries as `old`, so many `bundles` beside them, and the `last` ones.
async fn archived_index(old: u64, bundles: u64, last: u64) -> (IngestWorld, Token) {
    let world = IngestWorld::new(IngestOptions { compaction: false, ..small_batches() }).await;
    for number in 0..old {
        world.append(world.ago(30_000 - number * 7), &EntryDraft::entity(number % 9));
        world.append(world.ago(29_000 - number * 5), &EntryDraft::group(&[number, number + 1, number + 2]));
    }
    for number in 0..bundles {
        let id = format!("b{number}");
        world.append(world.ago(28_000 - number), &EntryDraft::bundle(&id));
        if number % 2 == 0 {
            world.describe(&id, world.ago(28_000 - number));
        }
    }
    let bad = world.append(world.ago(29_970), &EntryDraft::group(&[70, 71]));
    world.bucket.spoil(Some((&bad.to_string(), BadRead::Refused)));
    for number in 0..last {
        world.append(world.ago(300 - number), &EntryDraft::entity(number));
    }
    world.run_for(10 * MINUTE).await;
    assert_eq!(world.outcomes().await[&bad], [Outcome::Unreadable]);
    let (maker, _) = world.snapshot_maker().await;
    let made = maker
        .make(&SnapshotRequest { name: Some("daily".parse().unwrap()), ..SnapshotRequest::default() })
        .await
        .unwrap();
    assert_eq!(made.archived, old + 3 * old + bundles);
    world.bucket.spoil(None);
    (world, bad)
}

/// A time to restore to that has little of what is recorded.
fn early(recorded: &Recorded) -> RestoreTarget {
    RestoreTarget::Time(recorded.keys().nth(20).unwrap().0.second())
}

pub(crate) async fn recorded(world: &IngestWorld) -> Recorded {
    standing(&world.contents().await)
}

/// Without the entry that the archive passed over.
pub(crate) async fn recorded_but(world: &IngestWorld, bad: Token) -> Recorded {
    let mut recorded = standing(&world.check().await);
    recorded.retain(|(token, _), _| *token != bad);
    recorded
}

pub(crate) fn below(recorded: &Recorded, bad: Token, cursor: LogCursor) -> Recorded {
    let is_below = |token: Token| token != bad && cursor.covers(token);
    recorded.iter().filter(|((token, _), _)| is_below(*token)).map(|(place, one)| (*place, one.clone())).collect()
}

/// The log was cleaned up, and nothing is left of the index but its archive: that first, then the log.
#[tokio::test(start_paused = true)]
async fn an_index_that_was_lost_is_restored_from_the_archive_and_goes_on_from_the_log() {
    let (world, bad) = with_archive().await;
    let before = recorded(&world).await;
    let end = world.lose_index().await;
    for bundle in (0..12).map(|number| format!("metadata/bundles/r/b{number}/bundle.yaml")) {
        // Later deletions of descriptors do not un-happen an outcome.
        world.bucket.forget(&bundle);
    }
    let report = world.restore(Some("cold"), &RestoreTarget::Latest).await.unwrap();
    assert_eq!((report.generation.to_string().as_str(), report.cursor), ("g2", end));
    assert!(recorded_but(&world, bad).await == below(&before, bad, end));
    assert_eq!(world.outcomes().await[&bad], [Outcome::Unreadable], "it was passed over, and is in the log");
    let again = world.restore(Some("cold"), &RestoreTarget::Latest).await.unwrap();
    assert_eq!(again.generation, report.generation, "it was done");
    let running = world.start();
    world.pass(10 * MINUTE).await;
    assert_eq!(world.manifest().await.cursor, end, "it waits for the promotion");
    world.promote().await.unwrap();
    world.pass(90 * MINUTE).await;
    let after = standing(&world.check().await);
    for (place, one) in before.iter().filter(|((token, _), _)| *token != bad) {
        assert_eq!(after.get(place), Some(one), "it was decided again");
    }
    // What could not be read when the rest was archived is in the log, and is found there.
    assert_eq!(world.outcomes().await[&bad], [Outcome::Committed; 2]);
    assert_eq!(after.len(), before.len() + 1);
    let token = world.append(world.bucket.now(), &EntryDraft::entity(1));
    world.pass(5 * MINUTE).await;
    assert!(world.outcomes().await.contains_key(&token), "ingest stands still");
    world.stop(running).await;
}

/// Nothing of the log is left below its floor: the promotion takes from the archive what no generation has.
#[tokio::test(start_paused = true)]
async fn what_follows_the_time_of_a_restore_comes_from_the_archive_where_no_generation_has_it() {
    let (world, bad) = with_archive().await;
    let mut before = recorded(&world).await;
    before.retain(|(token, _), _| *token != bad);
    let middle = before.keys().nth(before.len() / 3).unwrap().0;
    let end = world.lose_index().await;
    for target in [RestoreTarget::Time(middle.second()), RestoreTarget::Token(middle)] {
        world.restore(None, &target).await.unwrap();
        let fold: Recorded = before
            .iter()
            .filter(|((token, _), _)| match target {
                RestoreTarget::Token(last) => *token <= last,
                _ => token.second() <= middle.second(),
            })
            .map(|(place, one)| (*place, one.clone()))
            .collect();
        assert!(recorded_but(&world, bad).await == fold, "{target}");
    }
    let report = world.promote().await.unwrap();
    assert_eq!(report.cursor, end);
    assert!(recorded_but(&world, bad).await == below(&before, bad, end));
    let running = world.start();
    world.pass(10 * MINUTE).await;
    let after = standing(&world.check().await);
    assert!(before.iter().all(|(place, one)| after.get(place) == Some(one)));
    world.stop(running).await;
}

/// An object of the open generation, and so of its snapshots, is gone or damaged.
#[tokio::test(start_paused = true)]
async fn an_index_of_which_an_object_is_lost_is_restored_from_the_archive() {
    for damage in [None, Some("damaged")] {
        let (world, bad) = with_archive().await;
        let before = recorded(&world).await;
        let end = world.archive_end().await;
        let segments = world.manifest().await.segments;
        let lost = segments.iter().find(|segment| end.covers(segment.last)).unwrap();
        let key = format!("index/{}", lost.key);
        world.bucket.remove(&key);
        if let Some(body) = damage {
            world.bucket.plant(&key, body, world.bucket.now());
        }
        let report = world.restore(None, &RestoreTarget::Latest).await.unwrap();
        assert_eq!((report.generation.to_string().as_str(), report.cursor), ("g4", end));
        for given_up in ["g2", "g3"] {
            let ended = world.manifest_of(given_up).await.unwrap().closed.unwrap();
            assert_eq!(ended.by, EndReason::Abandoned);
        }
        assert_eq!(world.pins().await, ["before-g4", "daily"]);
        world.promote().await.unwrap();
        let running = world.start();
        world.pass(90 * MINUTE).await;
        let after = standing(&world.check().await);
        for (place, one) in before.iter().filter(|((token, _), _)| *token != bad) {
            assert_eq!(after.get(place), Some(one), "it was decided again");
        }
        assert_eq!(world.outcomes().await[&bad], [Outcome::Committed; 2]);
        world.stop(running).await;
    }
}

/// A snapshot all of whose operations are archived, of a time at which the archive does not end.
async fn archived_snapshot() -> (IngestWorld, Recorded) {
    let world = IngestWorld::new(IngestOptions { compaction: false, ..small_batches() }).await;
    for number in 0..30 {
        world.append(world.ago(30_000 - number * 7), &EntryDraft::entity(number % 9));
    }
    world.append(world.ago(29_900), &EntryDraft::bundle("never"));
    world.run_for(10 * MINUTE).await;
    let request = SnapshotRequest { name: Some("daily".parse().unwrap()), ..SnapshotRequest::default() };
    let made = world.snapshot_maker().await.0.make(&request).await.unwrap();
    assert!(world.archive_end().await < made.proof.cursor);
    let before = recorded(&world).await;
    (world, before)
}

fn damage(world: &IngestWorld, key: &str, body: Option<&'static str>) {
    world.bucket.remove(key);
    if let Some(body) = body {
        world.bucket.plant(key, body, world.bucket.now());
    }
}

/// Segments of a snapshot are gone or damaged: it is restored with what the archive has of them, and the report says so.
#[tokio::test(start_paused = true)]
async fn a_snapshot_is_restored_with_what_the_archive_has_of_its_lost_segments() {
    let (base, before) = archived_snapshot().await;
    let (now, segments) = (base.bucket.now(), base.manifest().await.segments);
    assert!(segments.len() > 3);
    for (body, lost) in [(None, 0..1), (Some("damaged"), 1..2), (Some("damaged"), 1..3), (None, 0..segments.len())] {
        let (world, what) = (base.copied_at(now), format!("{body:?}, {lost:?}"));
        for segment in &segments[lost.clone()] {
            damage(&world, &format!("index/{}", segment.key), body);
        }
        let target = RestoreTarget::Snapshot("daily".to_owned());
        let report = world.restore(None, &target).await.unwrap();
        assert_eq!(report.damaged.len(), lost.len(), "{what}: {:?}", report.damaged);
        for (segment, said) in segments[lost].iter().zip(&report.damaged) {
            assert!(report.damaged.iter().any(|said| said.contains(&segment.key)), "{what}: {said}");
        }
        assert!(standing(&world.check().await) == before, "{what}");
        world.promote().await.unwrap();
        world.describe("never", world.bucket.now());
        stays_as(&world, &before).await;
    }
}

/// What the archive does not have of a lost segment nothing stands for, and what is damaged of the archive is named beside it.
#[tokio::test(start_paused = true)]
async fn a_snapshot_with_a_lost_segment_is_refused_where_the_archive_does_not_have_it() {
    let (base, _) = archived_snapshot().await;
    let target = RestoreTarget::Snapshot("daily".to_owned());
    let segment = base.manifest().await.segments[1].key.clone();
    let data = base.bucket.keys().into_iter().find(|key| key.contains("/archive/") && key.contains("/data/")).unwrap();
    for body in [None, Some("damaged")] {
        let world = base.copied_at(base.bucket.now());
        damage(&world, &format!("index/{segment}"), Some("damaged"));
        damage(&world, &data, body);
        let refused = world.restore(None, &target).await.unwrap_err();
        let (said, cause) = (refused.to_string(), refused.to_cause());
        assert!(said.contains(&segment) && said.contains(data.trim_start_matches("index/")), "{said}");
        assert_eq!(cause.reason, Reason::ArchiveDamaged, "{said}");
        let open = world.manifest().await;
        assert!(open.generation.to_string() == "g1" && open.until.is_none(), "{said}");
    }
    // The archive's first rows can be read, and are not enough.
    let world = base.copied_at(base.bucket.now());
    let is_data = |key: &String| key.contains("/archive/") && key.contains("/data/");
    let known: Vec<_> = world.bucket.keys().into_iter().filter(is_data).collect();
    world.run_for(30 * MINUTE).await;
    world.snapshot_maker().await.0.make(&SnapshotRequest::default()).await.unwrap();
    let later = world.bucket.keys().into_iter().find(|key| is_data(key) && !known.contains(key)).unwrap();
    damage(&world, &format!("index/{segment}"), None);
    damage(&world, &later, Some("damaged"));
    let refused = world.restore(None, &target).await.unwrap_err();
    assert!(refused.to_string().contains(later.trim_start_matches("index/")), "{refused}");
    assert_eq!(world.manifest().await.generation.to_string(), "g1", "{refused}");
    // Its entries are younger than the archive.
    let world = base.copied_at(base.bucket.now());
    world.append(world.ago(300), &EntryDraft::entity(1));
    world.run_for(10 * MINUTE).await;
    let request = SnapshotRequest { name: Some("young".parse().unwrap()), ..SnapshotRequest::default() };
    world.snapshot_maker().await.0.make(&request).await.unwrap();
    let young = world.manifest().await.segments.last().unwrap().key.clone();
    damage(&world, &format!("index/{young}"), Some("damaged"));
    let refused = world.restore(None, &RestoreTarget::Snapshot("young".to_owned())).await.unwrap_err();
    assert!(refused.to_string().contains(&young) && refused.to_cause().reason == Reason::IndexDamaged, "{refused}");
}

/// An entry could be read only after its second was archived, and the segment with what was decided then is lost: the archive stands for all
/// else, and it is not decided once more.
#[tokio::test(start_paused = true)]
async fn an_outcome_that_only_a_lost_segment_held_is_not_decided_again() {
    let (world, bad) = small_archive().await;
    world.run_for(25 * MINUTE).await;
    assert_eq!(world.outcomes().await[&bad], [Outcome::Committed; 2]);
    let request = SnapshotRequest { name: Some("decided".parse().unwrap()), ..SnapshotRequest::default() };
    let made = world.snapshot_maker().await.0.make(&request).await.unwrap();
    assert!(world.archive_end().await < made.proof.cursor);
    let segments = world.manifest().await.segments;
    let lost = segments.iter().rfind(|segment| (segment.first..=segment.last).contains(&bad)).unwrap();
    assert!(world.archive_end().await.covers(lost.last), "the archive does not reach past its entries");
    damage(&world, &format!("index/{}", lost.key), None);
    let refused = world.restore(None, &RestoreTarget::Snapshot("decided".to_owned())).await.unwrap_err();
    assert!(refused.to_string().contains(&lost.key) && refused.to_cause().reason == Reason::IndexDamaged, "{refused}");
    let open = world.manifest().await;
    assert!(open.generation.to_string() == "g1" && open.until.is_none(), "{refused}");
}

/// The index's own archive is damaged: a restore from copies goes around it, and says so.
#[tokio::test(start_paused = true)]
async fn a_damaged_archive_does_not_hinder_a_restore_from_copies() {
    let (world, before) = archived_snapshot().await;
    world.copy_snapshot("daily").await;
    let data = |key: &String| key.starts_with("index/archive/") && key.contains("/data/");
    let data = world.bucket.keys().into_iter().find(data).unwrap();
    damage(&world, &data, Some("damaged"));
    let report = world.restore_from_copies(None, &RestoreTarget::Latest).await.unwrap();
    let [said] = report.damaged.as_slice() else { panic!("{:?}", report.damaged) };
    assert!(said.contains(data.trim_start_matches("index/")), "{said}");
    assert!(standing(&world.check().await) == before);
}

/// The same for a promotion of an index whose objects are lost as well: the archive of the copies ends where the own one does.
#[tokio::test(start_paused = true)]
async fn a_promotion_takes_from_the_archive_of_the_copies_what_the_own_one_has_lost() {
    let (world, before) = archived_snapshot().await;
    world.copy_snapshot("daily").await;
    for segment in world.manifest().await.segments {
        damage(&world, &format!("index/{}", segment.key), None);
    }
    let is_data = |key: &String| key.starts_with("index/archive/") && key.contains("/data/");
    for data in world.bucket.keys().into_iter().filter(is_data) {
        damage(&world, &data, Some("damaged"));
    }
    world.restore_from_copies(None, &early(&before)).await.unwrap();
    assert!(standing(&world.check().await).len() < before.len());
    world.promote_from_copies().await.unwrap();
    assert!(standing(&world.check().await) == before);
}

/// An operation was corrected after the snapshot, and the sidecar that says so is lost: the snapshot is restored as it is, once, and what was
/// not settled in it is audited again.
#[tokio::test(start_paused = true)]
async fn a_snapshot_is_restored_as_it_is_where_what_corrected_it_is_lost() {
    let world = IngestWorld::new(IngestOptions { compaction: false, ..small_batches() }).await;
    for number in 0..20 {
        world.append(world.ago(400 - number), &EntryDraft::entity(number));
    }
    let token = world.append(world.ago(300), &EntryDraft::bundle("b1"));
    world.run_for(MINUTE).await;
    let (maker, _) = world.snapshot_maker().await;
    maker.make(&SnapshotRequest::default()).await.unwrap();
    let cursor = world.manifest().await.cursor;
    world.describe("b1", world.bucket.now());
    let known = world.manifest().await.sidecars;
    world.run_for(15 * MINUTE).await;
    assert_eq!(world.outcomes().await[&token], [Outcome::Late]);
    let sidecars = world.manifest().await.sidecars;
    let lost = sidecars.iter().find(|sidecar| !known.contains(sidecar)).unwrap();
    let key = format!("index/{}", lost.key);
    let body = world.bucket.remove(&key);
    // Requests take time, so that a restore that has no end is seen.
    world.bucket.slow(Duration::from_millis(100));
    let restoring = tokio::time::timeout(6 * 60 * MINUTE, world.restore(None, &RestoreTarget::Latest));
    let report = restoring.await.expect("the restore has no end").unwrap();
    world.bucket.slow(Duration::ZERO);
    assert_eq!((report.generation.to_string().as_str(), report.cursor), ("g3", cursor));
    assert_eq!(world.outcomes().await[&token], [Outcome::Aborted]);
    // The promotion reads what was replaced.
    world.bucket.plant(&key, body, world.bucket.now());
    world.promote().await.unwrap();
    world.run_for(15 * MINUTE).await;
    assert_eq!(world.outcomes().await[&token], [Outcome::Late]);
    world.check().await;
}

/// Between two snapshots records came to seconds that both have.
#[tokio::test(start_paused = true)]
async fn of_snapshots_that_end_in_the_same_second_the_later_one_is_restored() {
    for [earlier, later] in [["a", "b"], ["b", "a"]] {
        let world = IngestWorld::new(IngestOptions { compaction: false, ..small_batches() }).await;
        for number in 0..10 {
            world.append(world.ago(400 - number), &EntryDraft::entity(number));
        }
        world.run_for(MINUTE).await;
        let snapshot = async |name: &str| {
            let request = SnapshotRequest { name: Some(name.parse().unwrap()), ..SnapshotRequest::default() };
            world.snapshot_maker().await.0.make(&request).await.unwrap().proof.cursor
        };
        let end = snapshot(earlier).await;
        let since = world.plant_history(world.ago(200), 3, |_| Outcome::Committed).await;
        assert_eq!(snapshot(later).await, end);
        let lost = world.bucket.keys().into_iter().filter(|key| key.starts_with("index/g1/manifest/"));
        lost.for_each(|key| world.bucket.forget(&key));
        let report = world.restore(None, &RestoreTarget::Latest).await.unwrap();
        assert_eq!((report.cursor, report.records), (end, 13), "from {earlier}, not from {later}");
        let outcomes = world.outcomes().await;
        assert!(since.iter().all(|token| outcomes.contains_key(token)));
    }
}

/// An object is lost that holds what follows the time of a restore: the archive has it as well.
#[tokio::test(start_paused = true)]
async fn a_promotion_takes_from_the_archive_what_a_replaced_generation_has_lost() {
    let (world, bad) = with_archive().await;
    let before = recorded(&world).await;
    world.restore(None, &early(&before)).await.unwrap();
    let end = world.archive_end().await;
    let segments = world.manifest_of("g1").await.unwrap().segments;
    let archived: Vec<_> = segments.iter().filter(|segment| end.covers(segment.last)).collect();
    world.bucket.remove(&format!("index/{}", archived.last().unwrap().key));
    let report = world.promote().await.unwrap();
    assert_eq!(report.cursor, world.manifest_of("g1").await.unwrap().cursor);
    let after = standing(&world.check().await);
    assert!(before.iter().filter(|((token, _), _)| *token != bad).all(|(place, one)| after.get(place) == Some(one)));
    let running = world.start();
    world.pass(90 * MINUTE).await;
    assert_eq!(world.outcomes().await[&bad], [Outcome::Committed; 2]);
    world.stop(running).await;
}

/// What a sidecar says follows from the records: a correction stands in the place of what it corrects.
#[tokio::test(start_paused = true)]
async fn a_promotion_needs_no_sidecar_of_a_replaced_generation() {
    let (world, bad) = with_archive().await;
    let late = world.append(world.ago(60), &EntryDraft::bundle("late"));
    world.run_for(5 * MINUTE).await;
    world.describe("late", world.bucket.now());
    world.run_for(20 * MINUTE).await;
    assert_eq!(
        (&world.outcomes().await[&late], &world.outcomes().await[&bad]),
        (&vec![Outcome::Late], &vec![Outcome::Committed; 2])
    );
    let before = recorded(&world).await;
    world.restore(None, &early(&before)).await.unwrap();
    for sidecar in world.manifest_of("g1").await.unwrap().sidecars {
        world.bucket.remove(&format!("index/{}", sidecar.key));
    }
    world.bucket.forget("metadata/bundles/r/late/bundle.yaml");
    world.promote().await.unwrap();
    stays_as(&world, &before).await;
}

/// The promoted index has what was recorded, and an indexer decides nothing of it again.
async fn stays_as(world: &IngestWorld, before: &Recorded) {
    assert!(standing(&world.check().await) == *before, "the promoted index has other outcomes");
    let running = world.start();
    world.pass(90 * MINUTE).await;
    assert!(standing(&world.check().await) == *before, "outcomes were decided again");
    world.stop(running).await;
}

/// All records of a generation are in one object, which is lost. Most of them are in the objects of a snapshot as well.
#[tokio::test(start_paused = true)]
async fn a_promotion_takes_from_a_snapshot_what_a_replaced_generation_has_lost() {
    let (world, _) = with_archive().await;
    let snapshot = world.manifest().await;
    world.compact_all(&snapshot).await;
    for number in 0..20 {
        world.append(world.ago(30 - number), &EntryDraft::entity(number));
    }
    world.run_for(10 * MINUTE).await;
    let before = recorded(&world).await;
    world.restore(None, &early(&before)).await.unwrap();
    let merged = world.manifest_of("g1").await.unwrap().segments.swap_remove(0);
    assert_eq!(merged.seq.end, snapshot.next_seq);
    assert!(world.archive_end().await < LogCursor(merged.last.second()), "it reaches past the archive's end");
    world.bucket.remove(&format!("index/{}", merged.key));
    let report = world.promote().await.unwrap();
    assert_eq!(report.cursor, world.manifest_of("g1").await.unwrap().cursor);
    stays_as(&world, &before).await;
}

/// The chain of the replaced generation is gone: what a pin has of it is taken, and that nothing is left is not passed over.
#[tokio::test(start_paused = true)]
async fn a_promotion_says_of_which_generations_nothing_is_left() {
    for has_pin in [true, false] {
        let world = IngestWorld::new(small_batches()).await;
        for number in 0..30 {
            world.append(world.ago(3000 - number * 7), &EntryDraft::entity(number));
        }
        world.run_for(10 * MINUTE).await;
        let before = recorded(&world).await;
        world.restore(None, &early(&before)).await.unwrap();
        let restored = recorded(&world).await;
        assert!(restored.len() < before.len());
        let lost = |key: &String| key.contains("/g1/manifest/") || (!has_pin && key.contains("/snapshots/"));
        for key in world.bucket.keys().into_iter().filter(lost) {
            world.bucket.remove(&key);
        }
        assert!(world.manifest_of("g1").await.is_none());
        let report = world.promote().await.unwrap();
        let after = standing(&world.contents_of(&world.manifest_of("g2").await.unwrap()).await);
        if has_pin {
            assert_eq!(report.missing, []);
            assert!(after == before, "the pin has what was recorded");
        } else {
            assert_eq!(report.missing, ["g1".parse().unwrap()]);
            assert!(after == restored);
        }
    }
}

/// As before, with records in the lost object that came after the snapshot.
#[tokio::test(start_paused = true)]
async fn what_nothing_has_any_more_is_decided_again_only_where_that_is_asked_for() {
    let (world, bad) = with_archive().await;
    let snapshot = world.manifest().await;
    world.describe("since", world.ago(25));
    let since = world.append(world.ago(25), &EntryDraft::bundle("since"));
    world.run_for(10 * MINUTE).await;
    world.compact_all(&world.manifest().await).await;
    let later = world.append(world.bucket.now(), &EntryDraft::entity(1));
    world.run_for(10 * MINUTE).await;
    let before = recorded(&world).await;
    let end = world.manifest().await.cursor;
    world.restore(None, &early(&before)).await.unwrap();
    let restored = world.manifest().await;
    let lost = world.manifest_of("g1").await.unwrap().segments.swap_remove(0);
    world.bucket.remove(&format!("index/{}", lost.key));
    world.bucket.forget("metadata/bundles/r/since/bundle.yaml");

    let refused = world.promote().await.unwrap_err();
    assert_eq!(refused.to_cause().reason, Reason::IndexDamaged);
    let message = refused.to_string();
    assert!(message.contains(&lost.key) && message.contains("--decide-again"), "{message}");
    assert_eq!(message.split("; ").count(), 3, "{message}");
    let after = world.manifest().await;
    assert_eq!((after.segments, after.until, after.cursor), (restored.segments, restored.until, restored.cursor));

    let report = world.promote_by(None, LostOutcomePolicy::DecideAgain).await.unwrap();
    // What the snapshot has and was not settled may have been corrected since.
    let again = report.decided_again.unwrap();
    assert_eq!((again.first, LogCursor(again.last.next())), (snapshot.audited, end));
    assert!(again.why.contains(&lost.key), "{}", again.why);
    assert_eq!(report.cursor, snapshot.cursor);
    assert!(recorded_but(&world, bad).await == below(&before, bad, snapshot.cursor));
    let running = world.start();
    world.pass(90 * MINUTE).await;
    let after = recorded_but(&world, bad).await;
    let kept = below(&before, bad, snapshot.cursor);
    assert!(kept.iter().all(|(place, one)| after.get(place) == Some(one)), "what a snapshot has was decided again");
    assert_eq!((after.len(), after.contains_key(&(later, 0))), (below(&before, bad, end).len(), true));
    assert_eq!(before[&(since, 0)].decision.outcome, Outcome::Committed);
    assert_eq!(after[&(since, 0)].decision.outcome, Outcome::Aborted, "its descriptor is gone by now");
    world.stop(running).await;
}

/// Nothing has the outcomes, and the log was cleaned up: its entries cannot be decided again either.
#[tokio::test(start_paused = true)]
async fn what_was_cleaned_up_from_the_log_is_never_decided_again() {
    let (world, _) = with_archive().await;
    let before = recorded(&world).await;
    world.restore(None, &early(&before)).await.unwrap();
    let end = world.archive_end().await;
    for segment in world.manifest_of("g1").await.unwrap().segments {
        world.bucket.remove(&format!("index/{}", segment.key));
    }
    let files: Vec<_> = world.bucket.keys().into_iter().filter(|key| key.contains("/data/")).collect();
    let files: Vec<_> = files.into_iter().map(|key| (key.clone(), world.bucket.remove(&key))).collect();
    world.raise_floor(end.second()).await;
    let refused = world.promote_by(None, LostOutcomePolicy::DecideAgain).await.unwrap_err();
    assert_eq!(refused.to_cause().reason, Reason::BelowFloor, "{refused}");
    assert!(world.manifest().await.until.is_some());
    for (key, body) in files {
        world.bucket.plant(&key, body, world.bucket.now());
    }
    assert_eq!(world.promote_by(None, LostOutcomePolicy::DecideAgain).await.unwrap().cursor, end);
}

/// No writer goes on within a second.
#[tokio::test(start_paused = true)]
async fn an_index_that_was_restored_to_a_token_is_not_promoted_with_nothing_behind_it() {
    let (world, _) = with_archive().await;
    let last = recorded(&world).await.keys().last().unwrap().0;
    world.restore(None, &RestoreTarget::Token(last)).await.unwrap();
    let segments = world.manifest_of("g1").await.unwrap().segments;
    for segment in segments.iter().filter(|segment| segment.last >= last) {
        world.bucket.remove(&format!("index/{}", segment.key));
    }
    let refused = world.promote_by(None, LostOutcomePolicy::DecideAgain).await.unwrap_err();
    assert!(refused.to_string().contains("to a time"), "{refused}");
    world.restore(None, &RestoreTarget::Time(last.second().before(Duration::from_secs(1)))).await.unwrap();
    let report = world.promote_by(None, LostOutcomePolicy::DecideAgain).await.unwrap();
    assert_eq!(report.decided_again.unwrap().first, last.second());
    let running = world.start();
    world.pass(10 * MINUTE).await;
    assert!(recorded(&world).await.contains_key(&(last, 0)));
    world.check().await;
    world.stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn an_archive_of_which_a_file_is_lost_restores_nothing_and_changes_nothing() {
    let (world, _) = with_archive().await;
    let end = world.lose_index().await;
    let files = world.bucket.keys().into_iter().filter(|key| key.contains("/data/"));
    let lost: Vec<_> = files.map(|key| (key.clone(), world.bucket.remove(&key))).collect();
    let before = world.bucket.keys();
    let refused = world.restore(None, &RestoreTarget::Latest).await.unwrap_err();
    assert_eq!(refused.to_cause().reason, Reason::ArchiveDamaged, "{refused}");
    assert!(refused.to_string().contains(&lost[0].0.replace("index/archive/", "archive/")), "{refused}");
    assert_eq!(world.bucket.keys(), before);
    for (key, body) in lost {
        world.bucket.plant(&key, body, world.bucket.now());
    }
    assert_eq!(world.restore(None, &RestoreTarget::Latest).await.unwrap().cursor, end);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_restored_is_refused_and_nothing_is_written() {
    let (world, _) = with_archive().await;
    let cursor = world.manifest().await.cursor;
    let first = recorded(&world).await.keys().next().unwrap().0.second();
    let before = world.bucket.keys();
    let future = StoreSecond::from_unix(3_000_000_000);
    for target in [
        RestoreTarget::Time(future),
        RestoreTarget::Time(cursor.second()),
        RestoreTarget::Time(first.before(Duration::from_secs(1))),
        RestoreTarget::Token(Token::first_of(future)),
    ] {
        let refused = world.restore(None, &target).await.unwrap_err();
        let IngestError::OutsideRecoveryWindow { first: from, last, .. } = &refused else { panic!("{refused}") };
        assert_eq!((*from, last.next()), (first, cursor.second()));
        assert_eq!(refused.to_string().split("; ").count(), 3, "{refused}");
    }
    let unknown = world.restore(None, &RestoreTarget::Snapshot("weekly".to_owned())).await.unwrap_err();
    assert_eq!(unknown.to_cause().reason, Reason::SnapshotMissing);
    let early = world.promote().await.unwrap_err();
    assert_eq!(early.to_cause().reason, Reason::NothingToPromote);
    assert_eq!(world.bucket.keys(), before);

    let world = IngestWorld::new(small_batches()).await;
    let before = world.bucket.keys();
    let nothing = world.restore(None, &RestoreTarget::Latest).await.unwrap_err();
    assert!(matches!(nothing, IngestError::NothingRecorded { .. }), "{nothing}");
    assert_eq!(world.bucket.keys(), before);
}

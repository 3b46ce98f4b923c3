//! Restores from copies of the snapshots in a second store, which is only read.

use std::time::Duration;

use proptest::prelude::*;
use tidemark_catalog::IndexOwner;
use tidemark_crds::Reason;
use tidemark_ingest::{
    IngestError, RestoreRequest, RestoreTarget, ToCause as _, restore_from, snapshot::SnapshotReport,
};
use tidemark_store::StoreSecond;
use tidemark_wal::{Outcome, Token};
use tokio::time::timeout;

use crate::{
    MINUTE,
    generations::{HistoryStep, history_step},
    lost_index::{Recorded, recorded, small_archive, with_archive},
    world::{EntryDraft, IngestWorld, small_batches, standing},
};

fn up_to(recorded: &Recorded, last: Token) -> Recorded {
    recorded.range(..=(last, u32::MAX)).map(|(place, record)| (*place, record.clone())).collect()
}

fn end_of(second: StoreSecond) -> Token {
    Token::from_parts(second, [255; 16])
}

fn snapshot(name: &str) -> RestoreTarget {
    RestoreTarget::Snapshot(name.to_owned())
}

async fn is_fold(world: &IngestWorld, fold: &Recorded, what: &str) {
    assert!(!fold.is_empty() && standing(&world.check().await) == *fold, "another index: {what}");
}

/// Two snapshots of a random history, each copied. Restores each of them, and to some time and some token, first from the original, then
/// from the copy.
async fn restores_the_same(history: &[HistoryStep], to: u64) {
    let world = IngestWorld::new(small_batches()).await;
    let half = history.len() / 2;
    let append =
        |from: usize, to: usize| (from..to).map(|number| history[number].append(number, &world)).collect::<Vec<_>>();
    let mut tokens = append(0, half);
    world.run_for(2 * MINUTE).await;
    let first = world.copy_snapshot("first").await;
    // Their bundles are completed late, and are corrected.
    for number in (0..half).filter(|number| history[*number].kind == 4) {
        world.describe(&format!("b{number}"), world.bucket.now());
    }
    let begin = world.bucket.now();
    tokens.extend(append(half, history.len()));
    tokens.sort();
    world.run_for(70 * MINUTE).await;
    let second = world.copy_snapshot("second").await;
    let (all, copied) = (recorded(&world).await, world.copied());
    let token = tokens[usize::try_from(to).unwrap() % tokens.len()];
    let time = begin.before(Duration::from_secs(320 - to));
    let end = |report: &SnapshotReport| end_of(report.proof.cursor.second().before(Duration::from_secs(1)));
    for (target, last) in [
        (snapshot("first"), end(&first)),
        (snapshot("second"), end(&second)),
        (RestoreTarget::Time(time), end_of(time)),
        (RestoreTarget::Token(token), token),
    ] {
        let fold = up_to(&all, last);
        if fold.is_empty() {
            let refused = world.restore_from_copies(None, &target).await;
            assert!(matches!(
                refused,
                Err(IngestError::OutsideRecoveryWindow { .. } | IngestError::SnapshotMissing { .. })
            ));
            continue;
        }
        world.restore(None, &target).await.unwrap();
        is_fold(&world, &fold, &format!("{target}, from the original")).await;
        world.restore_from_copies(None, &target).await.unwrap();
        is_fold(&world, &fold, &format!("{target}, from the copy")).await;
        assert!(world.manifest().await.until.is_some());
    }
    assert!(world.copied() == copied, "the second store was written to");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// A restore from a copy is the restore from the original, and both are the fold of what was recorded.
    #[test]
    fn a_restore_from_a_copy_is_that_from_the_original(
        history in prop::collection::vec(history_step(), 2..25),
        to in 0u64..22,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(restores_the_same(&history, to));
    }
}

/// The index's bucket is gone, and the log was cleaned up: all that is left is in the second store.
async fn only_copies() -> (IngestWorld, Token, Recorded) {
    let (world, bad) = with_archive().await;
    world.copy_snapshot("daily").await;
    let before = recorded(&world).await;
    world.lose_index().await;
    world.lose_bucket();
    (world, bad, before)
}

#[tokio::test(start_paused = true)]
async fn an_index_whose_bucket_is_gone_is_made_again_from_the_copies_and_goes_on_from_the_log() {
    let (world, bad, before) = only_copies().await;
    let copied = world.copied();
    let report = world.restore_from_copies(Some("task"), &RestoreTarget::Latest).await.unwrap();
    assert_eq!(report.generation.to_string(), "g2");
    assert!(recorded(&world).await == before);
    let again = world.restore_from_copies(Some("task"), &RestoreTarget::Latest).await.unwrap();
    assert_eq!(again.generation, report.generation, "it was done");
    world.promote_from_copies().await.unwrap();
    let running = world.start();
    world.pass(90 * MINUTE).await;
    let after = standing(&world.check().await);
    for (place, one) in before.iter().filter(|((token, _), _)| *token != bad) {
        assert_eq!(after.get(place), Some(one), "it was decided again");
    }
    assert_eq!(world.outcomes().await[&bad], [Outcome::Committed; 2]);
    let token = world.append(world.bucket.now(), &EntryDraft::entity(1));
    world.pass(5 * MINUTE).await;
    assert!(world.outcomes().await.contains_key(&token), "ingest stands still");
    world.stop(running).await;
    assert!(world.copied() == copied, "the second store was written to");
}

/// What follows the time of the restore is in the archive of the second store, and nowhere else.
#[tokio::test(start_paused = true)]
async fn a_promotion_takes_what_follows_from_the_archive_of_the_second_store() {
    let (world, bad, before) = only_copies().await;
    let end = world.copies().await.place.archive.latest().await.unwrap().unwrap().end;
    let middle = before.keys().nth(before.len() / 3).unwrap().0.second();
    world.restore_from_copies(None, &RestoreTarget::Time(middle)).await.unwrap();
    let fold = up_to(&before, end_of(middle));
    assert!(fold.len() < before.len());
    is_fold(&world, &fold, "restored").await;
    let promoted = world.promote_from_copies().await.unwrap();
    assert_eq!(promoted.cursor, end);
    let running = world.start();
    world.pass(90 * MINUTE).await;
    let after = standing(&world.check().await);
    for (place, one) in before.iter().filter(|((token, _), _)| *token != bad) {
        assert_eq!(after.get(place), Some(one), "it was decided again");
    }
    world.stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn a_restore_from_copies_that_dies_at_any_write_is_gone_on_with() {
    let (lost, _) = small_archive().await;
    lost.copy_snapshot("daily").await;
    let before = recorded(&lost).await;
    lost.lose_index().await;
    lost.lose_bucket();
    let (now, mut died, mut went_on) = (lost.bucket.now(), 0, 0);
    for step in 1.. {
        let world = lost.copied_at(now);
        world.bucket.die_at_write(Some(step));
        let ended = timeout(2 * MINUTE, world.restore_from_copies(None, &RestoreTarget::Latest)).await;
        let ended = ended.map(|done| done.expect("it has not died")).is_ok();
        world.bucket.die_at_write(None);
        died += u64::from(!ended);
        went_on +=
            u64::from(world.manifest_of("g2").await.is_some_and(|made| made.next_seq > 1 && made.building.is_some()));
        if world.manifest_of("g1").await.is_none_or(|first| first.closed.is_none()) {
            let again = timeout(20 * MINUTE, world.restore_from_copies(None, &RestoreTarget::Latest)).await;
            let report = again.unwrap_or_else(|_| panic!("not ended after step {step}")).unwrap();
            assert_eq!(report.generation.to_string(), "g2", "what was made is gone on with, after step {step}");
        }
        assert!(recorded(&world).await == before, "after step {step}");
        if ended {
            break;
        }
    }
    assert!(died > 10 && went_on > 3, "{died} crashes, {went_on} of them while operations were copied");
}

/// The process ends while it copies, and the next one finds another snapshot that reaches further, in which an outcome was corrected.
#[tokio::test(start_paused = true)]
async fn what_was_begun_with_another_snapshot_is_given_up() {
    let world = IngestWorld::new(small_batches()).await;
    for number in 0..40 {
        world.append(world.ago(400 - number), &EntryDraft::entity(number));
    }
    let token = world.append(world.ago(395), &EntryDraft::bundle("b1"));
    world.run_for(MINUTE).await;
    world.copy_snapshot("first").await;
    let target = RestoreTarget::Latest;
    for request in (1..).step_by(3) {
        world.bucket.die_at(Some(world.bucket.requests() + request));
        let ended = timeout(2 * MINUTE, world.restore_from_copies(None, &target)).await;
        world.bucket.die_at(None);
        assert!(ended.is_err(), "no process ended while it copied");
        if world.manifest_of("g2").await.is_some_and(|made| made.totals.records > 12) {
            break;
        }
    }
    world.describe("b1", world.bucket.now());
    world.run_for(15 * MINUTE).await;
    let all = recorded(&world).await;
    assert_eq!(world.outcomes().await[&token], [Outcome::Late]);
    world.copy_snapshot("second").await;
    let report = world.restore_from_copies(None, &target).await.unwrap();
    assert_eq!(report.generation.to_string(), "g3");
    is_fold(&world, &all, "restored from the second snapshot").await;
}

#[tokio::test(start_paused = true)]
async fn what_is_removed_in_the_second_store_is_gone_around_or_refused() {
    let (world, bad, before) = only_copies().await;
    let origin = world.copies().await;
    let register = origin.place.pins.register().await.unwrap();
    let held = origin.place.pins.read_list(&register.pins["daily"]).await.unwrap();
    // The archive does not have its entries.
    world.bucket.remove(&format!("copy/{}", held.segments.last().unwrap().key));
    // The archive reaches less far.
    let end = origin.place.archive.latest().await.unwrap().unwrap().end;
    let last = RestoreTarget::Time(held.cursor.second().before(Duration::from_secs(1)));
    let lost = world.restore_from_copies(None, &last).await.unwrap_err();
    let IngestError::OriginLost { url, .. } = &lost else { panic!("{lost}") };
    assert!(url.contains("copy") && lost.to_cause().reason == Reason::IndexDamaged, "{lost}");
    let report = world.restore_from_copies(None, &RestoreTarget::Latest).await.unwrap();
    assert_eq!(report.cursor, end);
    let mut archived = up_to(&before, end_of(end.second().before(Duration::from_secs(1))));
    archived.retain(|(token, _), _| *token != bad);
    let mut restored = recorded(&world).await;
    restored.retain(|(token, _), _| *token != bad);
    assert!(restored == archived);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_whose_list_was_changed_is_not_restored() {
    let (world, ..) = only_copies().await;
    let list = format!("copy/{}", world.copies().await.place.pins.register().await.unwrap().pins["daily"].list);
    let body = world.bucket.remove(&list);
    let mut changed = body.to_vec();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    world.bucket.plant(&list, changed, world.ago(0));
    let damaged = world.restore_from_copies(None, &snapshot("daily")).await.unwrap_err();
    assert_eq!(damaged.to_cause().reason, Reason::IndexDamaged, "{damaged}");
    world.bucket.plant(&list, body, world.ago(0));
    world.restore_from_copies(None, &snapshot("daily")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_restored_from_a_second_store_is_refused_and_nothing_is_written() {
    let (world, _, before) = only_copies().await;
    let keys = world.bucket.keys();
    let future = StoreSecond::from_unix(3_000_000_000);
    let outside = world.restore_from_copies(None, &RestoreTarget::Time(future)).await.unwrap_err();
    let IngestError::OutsideRecoveryWindow { target, first, .. } = &outside else { panic!("{outside}") };
    assert!(target.contains("/copy") && *first == before.keys().next().unwrap().0.second(), "{outside}");
    let unknown = world.restore_from_copies(None, &snapshot("weekly")).await.unwrap_err();
    assert_eq!(unknown.to_cause().reason, Reason::SnapshotMissing);

    // Another owner's index.
    let (task, origin) = (world.generation_task(None), world.copies().await);
    world.register_index().await;
    let keys_now = world.bucket.keys();
    let owner = IndexOwner::Named { name: "another".to_owned() };
    let request = RestoreRequest { target: RestoreTarget::Latest, owner, reaches_floor: false };
    let owned = restore_from(&task, &world.archive().await, &origin, &request).await.unwrap_err();
    assert_eq!(owned.to_cause().reason, Reason::OwnedByAnother, "{owned}");
    assert!(world.bucket.keys().iter().all(|key| keys_now.contains(key) || key.contains("clock")), "{keys:?}");

    // Nothing of this log is there: of another one, or nothing at all.
    let id = world.root().await.id.unwrap().to_string();
    let other = "f".repeat(id.len());
    for (key, body) in world.copied() {
        world.bucket.remove(&key);
        world.bucket.plant(&key.replace(&id, &other), body, world.ago(0));
    }
    let another = world.restore_from_copies(None, &RestoreTarget::Latest).await.unwrap_err();
    let IngestError::OriginOfAnotherLog { found, .. } = &another else { panic!("{another}") };
    assert_eq!((found, another.to_cause().reason), (&other, Reason::InvalidURL));
    for key in world.copied().into_keys() {
        world.bucket.remove(&key);
    }
    let nothing = world.restore_from_copies(None, &RestoreTarget::Latest).await.unwrap_err();
    assert!(matches!(&nothing, IngestError::NothingRecorded { url } if url.contains("/copy")), "{nothing}");
}

//! What stands archived, or had its last look by the audit, is final: whatever an index is restored from and promoted with, a descriptor that
//! comes afterwards changes nothing.

use std::time::Duration;

use tidemark_catalog::LogCursor;
use tidemark_ingest::{
    IngestOptions, OutcomeSelection, RestoreTarget,
    snapshot::{SnapshotMaker, SnapshotRequest},
};
use tidemark_store::StoreSecond;
use tidemark_wal::{Outcome, Token};
use tokio::time::timeout;

use crate::{
    MINUTE,
    fake_bucket::BadRead,
    verify::VerifyRun,
    world::{EntryDraft, IngestWorld, small_batches},
};

/// Longer than the audit looks.
const HOURS: Duration = Duration::from_hours(3);

/// An index with a bundle that nobody has completed, which is not audited so far, and a copy of it in the second store.
async fn copied() -> (IngestWorld, Token) {
    let world = IngestWorld::new(IngestOptions { compaction: false, ..small_batches() }).await;
    for number in 0..20 {
        world.append(world.ago(400 - number), &EntryDraft::entity(number));
    }
    let token = world.append(world.ago(300), &EntryDraft::bundle("never"));
    for number in 0..4 {
        world.append(world.ago(200 - number), &EntryDraft::entity(number));
    }
    world.run_for(2 * MINUTE).await;
    world.copy_snapshot("early").await;
    assert!(world.manifest().await.audited <= token.second());
    (world, token)
}

/// As before, and the bundle had its last look and was archived since.
async fn archived() -> (IngestWorld, Token) {
    let (world, token) = copied().await;
    world.run_for(HOURS).await;
    snapshot(&world).await;
    assert!(LogCursor(token.second()) < world.archive_end().await);
    (world, token)
}

/// Of the generation that is open.
async fn maker(world: &IngestWorld) -> SnapshotMaker {
    let mut maker = world.snapshot_maker().await.0;
    maker.chain = maker.chain.follow().await.unwrap();
    maker
}

async fn snapshot(world: &IngestWorld) {
    maker(world).await.make(&SnapshotRequest::default()).await.unwrap();
}

/// A descriptor comes after the last look: the outcome stays, index and archive say the same, and can be snapshotted again.
async fn is_final(world: &IngestWorld, token: Token, what: &str) {
    world.describe("never", world.bucket.now());
    world.run_for(HOURS).await;
    assert_eq!(world.outcomes().await[&token], [Outcome::Aborted], "{what}: it was decided again");
    assert!(world.archive_end().await <= LogCursor(world.manifest().await.audited), "{what}");
    let found = VerifyRun::of(world, OutcomeSelection::All).await;
    assert!(found.is_sound(), "{what}: {:#?}", found.findings);
    snapshot(world).await;
    world.check().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_archived_stays_so_in_an_index_that_is_restored_from_an_earlier_copy() {
    let (base, token) = archived().await;
    let now = base.bucket.now();
    let at = |after| RestoreTarget::Time(StoreSecond::from_unix(token.second().unix() + after));
    for target in [RestoreTarget::Latest, at(0), at(150), RestoreTarget::Token(token)] {
        for takes_from_copies in [false, true] {
            let (world, what) = (base.copied_at(now), format!("{target}, from copies: {takes_from_copies}"));
            world.restore_from_copies(None, &target).await.unwrap();
            let restored = world.manifest().await;
            let settled = world.archive_end().await.min(restored.cursor);
            assert!(settled <= LogCursor(restored.audited), "{what}: it is audited less far than its archive");
            if takes_from_copies { world.promote_from_copies().await } else { world.promote().await }.unwrap();
            is_final(&world, token, &what).await;
        }
    }
}

/// It is restored twice from the copy, and promoted twice.
#[tokio::test(start_paused = true)]
async fn what_is_archived_stays_so_however_often_an_index_is_restored_and_promoted() {
    let (world, token) = archived().await;
    for target in [RestoreTarget::Time(token.second()), RestoreTarget::Latest, RestoreTarget::Latest] {
        world.restore_from_copies(None, &target).await.unwrap();
        world.promote().await.unwrap();
        world.restore(None, &RestoreTarget::Time(token.second())).await.unwrap();
        world.promote().await.unwrap();
    }
    is_final(&world, token, "promoted six times").await;
}

/// An index of the same log that was begun later has seen the descriptor.
#[tokio::test(start_paused = true)]
async fn what_is_archived_stays_so_in_an_index_that_is_restored_from_another_one() {
    let (world, token) = archived().await;
    world.describe("never", world.bucket.now());
    let other = world.with_index("other");
    other.register_index().await;
    other.run_for(MINUTE).await;
    assert_ne!(other.outcomes().await[&token], [Outcome::Aborted]);
    let held = other.snapshot_maker().await.0;
    let request = SnapshotRequest { name: Some("late".parse().unwrap()), ..SnapshotRequest::default() };
    let made = held.make(&request).await.unwrap();
    // The second store is that of the other index.
    for key in world.copied().into_keys() {
        world.bucket.forget(&key);
    }
    other.snapshot_copier().await.0.copy(&made.name, &made.pin, None).await.unwrap();
    world.restore_from_copies(None, &RestoreTarget::Latest).await.unwrap();
    assert_eq!(world.outcomes().await[&token], [Outcome::Aborted], "another index's outcome was taken");
    world.promote_from_copies().await.unwrap();
    is_final(&world, token, "from another index").await;
}

/// Nothing is archived: the generation that was replaced has had its last look.
#[tokio::test(start_paused = true)]
async fn what_a_replaced_generation_has_settled_stays_so() {
    let (world, token) = copied().await;
    world.run_for(HOURS).await;
    assert!(token.second() < world.manifest().await.audited);
    world.restore_from_copies(None, &RestoreTarget::Latest).await.unwrap();
    assert!(world.manifest().await.audited <= token.second());
    world.promote().await.unwrap();
    is_final(&world, token, "it was settled").await;
}

/// The replaced generation has corrected an outcome since the copy was made: the audit finds that again.
#[tokio::test(start_paused = true)]
async fn what_a_replaced_generation_has_corrected_is_found_again() {
    let (world, token) = copied().await;
    world.describe("never", world.bucket.now());
    world.run_for(HOURS).await;
    assert_eq!(world.outcomes().await[&token], [Outcome::Late]);
    world.restore_from_copies(None, &RestoreTarget::Latest).await.unwrap();
    assert_eq!(world.outcomes().await[&token], [Outcome::Aborted]);
    world.promote().await.unwrap();
    assert_eq!(world.manifest().await.audited, token.second());
    world.run_for(HOURS).await;
    assert_eq!(world.outcomes().await[&token], [Outcome::Late]);
    snapshot(&world).await;
    world.check().await;
}

/// What the copy has not corrected yet is archived as corrected, and the descriptor is gone since.
#[tokio::test(start_paused = true)]
async fn a_correction_that_is_archived_is_taken_from_the_archive() {
    let (world, token) = copied().await;
    world.describe("never", world.bucket.now());
    world.run_for(HOURS).await;
    snapshot(&world).await;
    world.bucket.forget("metadata/bundles/r/never/bundle.yaml");
    world.restore_from_copies(None, &RestoreTarget::Latest).await.unwrap();
    assert_eq!(world.outcomes().await[&token], [Outcome::Late]);
    world.promote().await.unwrap();
    world.run_for(HOURS).await;
    assert_eq!(world.outcomes().await[&token], [Outcome::Late]);
    assert!(world.archive_end().await <= LogCursor(world.manifest().await.audited));
    snapshot(&world).await;
}

/// An entry that the index's own archive passed over, and that came to be readable before the copy's archive was made.
#[tokio::test(start_paused = true)]
async fn what_only_the_other_archive_has_is_taken_from_there() {
    let world = IngestWorld::new(IngestOptions { compaction: false, ..small_batches() }).await;
    for number in 0..20 {
        world.append(world.ago(30_000 - number), &EntryDraft::entity(number));
    }
    let bad = world.append(world.ago(29_990), &EntryDraft::group(&[70, 71]));
    world.bucket.spoil(Some((&bad.to_string(), BadRead::Refused)));
    world.run_for(10 * MINUTE).await;
    snapshot(&world).await;
    assert_eq!(world.outcomes().await[&bad], [Outcome::Unreadable]);
    world.bucket.spoil(None);
    let other = world.with_index("other");
    other.register_index().await;
    other.run_for(10 * MINUTE).await;
    other.copy_snapshot("daily").await;
    // The log was cleaned up by the other archive.
    world.bucket.forget(&format!("log/{bad}"));
    let pinned = world.copied().into_keys().filter(|key| key.starts_with("copy/snapshots/"));
    pinned.for_each(|key| world.bucket.forget(&key));
    let rows = world.copies().await.place.archive.latest().await.unwrap().unwrap().operations;
    world.restore_from_copies(None, &RestoreTarget::Latest).await.unwrap();
    assert_eq!(world.outcomes().await[&bad], [Outcome::Committed; 2]);
    assert_eq!(world.check().await.records.len() as u64, rows);
}

/// A process pinned the index, and ended before it archived. The next one of its name comes after the index was restored to what looks at some
/// of that once more.
#[tokio::test(start_paused = true)]
async fn a_pin_of_a_replaced_generation_archives_nothing_that_the_index_has_not_settled() {
    let (base, token) = copied().await;
    base.run_for(HOURS).await;
    let request = SnapshotRequest { name: Some("left".parse().unwrap()), ..SnapshotRequest::default() };
    for step in 1.. {
        let world = base.copied_at(base.bucket.now());
        world.bucket.die_at_write(Some(step));
        let made = timeout(20 * MINUTE, maker(&world).await.make(&request)).await;
        world.bucket.die_at_write(None);
        assert!(made.is_err(), "it is not pinned before it is archived");
        let pins = world.snapshot_maker().await.0.pins.register().await.unwrap().pins;
        let is_archived = LogCursor(token.second()) < world.archive_end().await;
        if is_archived || pins.get("left").is_none_or(|pin| !pin.confirmed) {
            assert!(!is_archived, "no process ended between its pin and its archive");
            continue;
        }
        world.restore_from_copies(None, &RestoreTarget::Latest).await.unwrap();
        assert!(world.manifest().await.audited <= token.second());
        maker(&world).await.make(&request).await.unwrap();
        let audited = LogCursor(world.manifest().await.audited);
        assert!(world.archive_end().await <= audited, "it is archived further than the index is audited");
        break;
    }
}

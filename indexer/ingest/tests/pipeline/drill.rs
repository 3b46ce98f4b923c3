//! Drills: a snapshot is restored into a prefix of its own, compared, and removed again.

use std::time::Duration;

use tidemark_crds::Reason;
use tidemark_ingest::{
    DrillError, EngineOpener, RestoreDrill, ToCause as _, engine::EngineError, snapshot::SnapshotRequest,
};
use tokio::time::timeout;

use crate::{
    MINUTE,
    world::{EntryDraft, IngestWorld, small_batches},
};

async fn with_snapshot() -> IngestWorld {
    let world = IngestWorld::new(small_batches()).await;
    for number in 0..60 {
        world.append(world.ago(30_000 - number * 7), &EntryDraft::entity(number % 9).key(&(number % 50).to_string()));
        world.append(world.ago(29_000 - number * 5), &EntryDraft::group(&[number, number + 1]));
    }
    world.append(world.ago(400), &EntryDraft::bundle("b1"));
    world.run_for(MINUTE).await;
    world.describe("b1", world.bucket.now());
    world.run_for(20 * MINUTE).await;
    assert_eq!(world.contents().await.marks.corrected.len(), 1);
    world.snapshot_maker().await.0.make(&SnapshotRequest::default()).await.unwrap();
    world
}

#[tokio::test(start_paused = true)]
async fn a_drill_restores_all_of_a_snapshot_and_leaves_nothing_behind() {
    let world = with_snapshot().await;
    let before = world.bucket.keys();
    let report = world.drill().await.run().await.unwrap();
    let standing = world.manifest().await.totals.standing().total();
    assert_eq!((report.operations, report.archived), (standing, 60 + 120));
    assert!(report.bytes > 0);
    assert_eq!(world.bucket.keys(), before);
}

#[tokio::test(start_paused = true)]
async fn a_drill_finds_what_a_restore_would_lack_and_leaves_nothing_behind() {
    let world = with_snapshot().await;
    let segment = format!("index/{}", world.manifest().await.segments[0].key);
    let archived = world.bucket.keys().into_iter().find(|key| key.contains("/data/")).unwrap();
    for (lost, reason) in [(segment, Reason::IndexDamaged), (archived, Reason::ArchiveDamaged)] {
        let body = world.bucket.remove(&lost);
        let before = world.bucket.keys();
        let failed = world.drill().await.run().await.unwrap_err();
        assert_eq!(failed.to_cause().reason, reason, "{failed}");
        assert_eq!(world.bucket.keys(), before);
        world.bucket.plant(&lost, body, world.bucket.now());
    }
    let world = IngestWorld::new(small_batches()).await;
    world.run_for(MINUTE).await;
    let failed = world.drill().await.run().await.unwrap_err();
    assert!(matches!(failed, DrillError::NoSnapshot { .. }), "{failed}");
}

/// What a drill leaves that ends at any of its requests goes with the first one a day later, and other objects stay.
#[tokio::test(start_paused = true)]
async fn what_a_drill_left_is_removed_by_one_a_day_later() {
    let world = with_snapshot().await;
    world.bucket.plant("index/drill/readme.txt", "not ours", world.bucket.now());
    let before = world.bucket.keys();
    let mut ended = 0;
    for request in (0..).step_by(3) {
        let drill = world.drill().await;
        world.bucket.die_at(Some(world.bucket.requests() + request));
        ended += u64::from(timeout(MINUTE, drill.run()).await.is_err());
        world.bucket.die_at(None);
        if ended * 3 <= request {
            break;
        }
    }
    assert!(ended > 5 && world.bucket.keys().len() > before.len(), "{ended} times");
    world.drill().await.run().await.unwrap();
    assert!(world.bucket.keys().len() > before.len(), "another drill may go on");
    world.pass(Duration::from_hours(25)).await;
    world.drill().await.run().await.unwrap();
    assert_eq!(world.bucket.keys(), before);
}

/// A drill may take longer than a day: for most of that it reads, and writes nothing.
#[tokio::test(start_paused = true)]
async fn a_drill_that_goes_on_for_days_loses_nothing_to_another_one() {
    let world = with_snapshot().await;
    let before = world.bucket.keys();
    let written = |world: &IngestWorld| world.bucket.keys().iter().filter(|key| key.contains("/segment/")).count();
    let (segments, drill) = (written(&world), world.drill().await);
    world.bucket.slow(Duration::from_hours(3));
    let running = tokio::spawn(async move { drill.run().await });
    let mut other = 0;
    while !running.is_finished() {
        world.pass(Duration::from_hours(12)).await;
        if written(&world) > segments {
            // Of the first one a request is on its way meanwhile.
            world.bucket.slow(Duration::ZERO);
            let refused: EngineOpener = Box::new(|_| Err(EngineError::Gone { key: "engine".to_owned() }));
            let failing = RestoreDrill { drill_engine: refused, ..world.drill().await };
            assert!(failing.run().await.is_err());
            world.bucket.slow(Duration::from_hours(3));
            other += 1;
        }
    }
    let report = running.await.unwrap().unwrap();
    assert!(report.operations > 0 && other > 3, "{other} others");
    assert_eq!(world.bucket.keys(), before);
}

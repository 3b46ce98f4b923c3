//! How far a restored index is audited, where the process that restores it ends and another one goes on.

use tidemark_catalog::LogCursor;
use tidemark_ingest::{RestoreTarget, reindex};
use tokio::time::timeout;

use crate::{
    MINUTE,
    generations::{appended_is_indexed, makes_a_part},
    world::{EntryDraft, IngestWorld, small_batches, standing},
};

/// A process copied the operations and ended. The audit has had its last look at them since, so that the next process takes over how far it
/// has come, and then closes the open generation: it ends at each request in turn.
#[tokio::test(start_paused = true)]
async fn a_restore_that_dies_after_it_took_the_audit_over_is_ended_by_the_next_one() {
    let base = IngestWorld::new(small_batches()).await;
    for number in 0..30 {
        base.append(base.ago(400 - number), &EntryDraft::entity(number % 5));
    }
    base.append(base.ago(300), &EntryDraft::bundle("never"));
    base.run_for(MINUTE).await;
    let target = RestoreTarget::Time(base.ago(200));
    makes_a_part(&base, "g2", async || base.restore(None, &target).await).await;
    base.run_for(200 * MINUTE).await;
    let (open, whole) = (base.manifest().await, standing(&base.contents().await));
    let RestoreTarget::Time(last) = target else { unreachable!() };
    assert!(open.until.is_none() && open.audited > last.next(), "{open:?}");
    let now = base.bucket.now();
    let undisturbed = base.copied_at(now);
    undisturbed.restore(None, &target).await.unwrap();
    let requests = undisturbed.bucket.requests();
    let (mut between, mut switched) = (0, 0);
    for step in (1..=requests).rev() {
        let world = base.copied_at(now);
        world.bucket.die_at(Some(step));
        assert!(timeout(2 * MINUTE, world.restore(None, &target)).await.is_err());
        world.bucket.die_at(None);
        if world.manifest_of("g2").await.unwrap().audited < last.next() {
            break;
        }
        if world.manifest().await.until.is_some() {
            switched += 1;
        } else {
            between += 1;
            let ended = timeout(20 * MINUTE, world.restore(None, &target)).await;
            ended.unwrap_or_else(|_| panic!("not ended after step {step} of {requests}")).unwrap();
        }
        let restored = world.manifest().await;
        assert_eq!(restored.generation.to_string(), "g2", "it was made once more, after step {step} of {requests}");
        assert_eq!((restored.until, restored.audited), (Some(last), last.next()), "after step {step} of {requests}");
        world.promote().await.unwrap();
        assert!(standing(&world.check().await) == whole, "after step {step} of {requests}");
        let running = world.start();
        appended_is_indexed(&world, step).await;
        world.stop(running).await;
    }
    assert!(between > 3 && switched > 0, "{between} crashes between the two, {switched} after both");
}

/// A clean-up need not wait for the next report of the indexer.
#[tokio::test(start_paused = true)]
async fn the_root_says_what_a_new_generation_needs_of_the_log_as_soon_as_it_is_written() {
    let world = IngestWorld::new(small_batches()).await;
    for number in 0..30 {
        world.append(world.ago(30_000 - number), &EntryDraft::entity(number % 5));
    }
    world.run_for(10 * MINUTE).await;
    world.report_keeps().await;
    let audited = LogCursor(world.manifest().await.audited);
    world.raise_floor_beside(audited).await;
    for switched in ["reindexed", "promoted", "reindexed"] {
        if switched == "reindexed" {
            reindex(&world.generation_task(None)).await.unwrap();
        } else {
            world.restore(None, &RestoreTarget::Latest).await.unwrap();
            assert_eq!(world.keeps().await, LogCursor::default(), "it needs all of it until it is promoted");
            world.promote().await.unwrap();
        }
        assert_eq!(world.manifest().await.generation, world.registered_generation().await, "{switched}");
        assert_eq!((world.keeps().await, LogCursor(world.manifest().await.audited)), (audited, audited), "{switched}");
    }
}

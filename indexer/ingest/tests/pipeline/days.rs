//! Days of store time: what an index keeps and asks for does not grow.

use std::{collections::BTreeSet, time::Duration};

use tidemark_ingest::IngestOptions;

use super::{
    MINUTE,
    world::{EntryDraft, IngestWorld, small_batches},
};

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

#[tokio::test(start_paused = true)]
async fn an_idle_log_keeps_and_asks_for_the_same_on_every_day() {
    let world = IngestWorld::new(IngestOptions::default()).await;
    let running = world.start();
    world.pass(2 * DAY).await;
    let mut days = Vec::new();
    for _ in 0..5 {
        let before = world.bucket.requests();
        world.pass(DAY).await;
        days.push((world.bucket.requests() - before, world.bucket.keys().len()));
    }
    let (requests, objects): (Vec<_>, Vec<_>) = days.into_iter().unzip();
    // The goal for a log with one metadata store, heartbeat, horizon, trimming and collection of garbage included.
    assert!(requests.iter().all(|requests| *requests <= 25 * 24 * 60), "{requests:?} requests a day");
    println!("{requests:?} requests, {objects:?} objects");
    // At most 127 records of the index's chain and as many of the collectors'; some boundaries, clock objects and the root.
    assert!(objects.iter().all(|objects| *objects <= 280), "{objects:?} objects");
    world.stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn what_compaction_replaces_is_gone_two_days_later() {
    let world = IngestWorld::new(small_batches()).await;
    let running = world.start();
    for number in 0..5 * 48 {
        world.append(world.ago(0), &EntryDraft::entity(number));
        world.pass(30 * MINUTE).await;
    }
    let manifest = world.manifest().await;
    assert!(manifest.epoch >= 5, "the writer raises its epoch every day: {}", manifest.epoch);
    let named: BTreeSet<String> = manifest.objects().map(|key| format!("index/{key}")).collect();
    let kept = world.bucket.keys();
    assert!(named.iter().all(|key| kept.contains(key)), "the index names what is gone");
    // An epoch lasts a day, the grace another, and a pass comes within an hour.
    let old = world.ago((2 * DAY + 2 * HOUR).as_secs());
    let garbage = kept.iter().filter(|key| key.contains("/segment/") && !named.contains(*key));
    let garbage: Vec<_> = garbage.collect();
    assert!(!garbage.is_empty(), "nothing was compacted in the last day");
    // A segment is replaced some time after it was written: those of the first two days have long been.
    let leaked: Vec<_> = garbage.iter().filter(|key| world.bucket.time(key) < old.before(DAY)).collect();
    assert!(leaked.is_empty(), "{leaked:?}");
    world.stop(running).await;
    world.check().await;
}

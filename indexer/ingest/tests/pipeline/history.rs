//! What corrections, audits and unreadable entries cost, after any history.

use std::time::Duration;

use tidemark_ingest::IngestOptions;
use tidemark_wal::Outcome;

use crate::{
    MINUTE,
    fake_bucket::BadRead,
    world::{EntryDraft, IngestWorld, StoreCost},
};

fn without_compactions() -> IngestOptions {
    IngestOptions { compaction: false, ..IngestOptions::default() }
}

/// Every tenth operation of the history was aborted for good.
#[tokio::test(start_paused = true)]
async fn a_correction_and_the_audits_cost_the_same_after_any_history() {
    let mut costs = Vec::new();
    for history in [1_000, 10_000, 30_000] {
        let world = IngestWorld::new(without_compactions()).await;
        world.run_for(MINUTE).await;
        let outcome = |number: u64| if number.is_multiple_of(10) { Outcome::Aborted } else { Outcome::Committed };
        world.plant_history(world.ago(20_000), history, outcome).await;
        let running = world.start();
        world.pass(30 * MINUTE).await;
        let audits = world.cost_of("", world.pass(30 * MINUTE)).await;
        // Both were sealed without it: the history has its entity and its key.
        world.append(world.ago(300), &EntryDraft::entity(7));
        world.append(world.ago(300), &EntryDraft::entity(8).key("k1"));
        let correction = world.cost_of("", world.pass(30 * MINUTE)).await;
        let standing = world.manifest().await.totals.standing();
        assert_eq!((standing.committed, standing.duplicate), (history * 9 / 10 + 1, 1), "after {history}");
        costs.push((audits, correction));
        world.stop(running).await;
    }
    println!("{costs:#?}");
    // The hourly passes come at the same times; numbers have more digits.
    let is_alike = |one: &StoreCost, first: &StoreCost| {
        one.requests == first.requests && one.read_bytes.abs_diff(first.read_bytes) < 200
    };
    for (audits, correction) in &costs {
        assert!(is_alike(audits, &costs[0].0) && is_alike(correction, &costs[0].1), "{costs:#?}");
    }
}

/// What is refused for good adds up; the requests of an hour do not.
#[tokio::test(start_paused = true)]
async fn unreadable_entries_are_tried_again_in_turns_of_a_bounded_length() {
    const UNREADABLE: u64 = 2_000;
    let world = IngestWorld::new(without_compactions()).await;
    world.run_for(MINUTE).await;
    let tokens = world.plant_history(world.ago(20_000), UNREADABLE, |_| Outcome::Unreadable).await;
    for token in &tokens {
        world.bucket.plant(&format!("log/{token}"), r#"{"tidemark":1,"ops":[{"kind":"entry"}]}"#, token.second());
        world.bucket.spoil(Some((&token.to_string(), BadRead::Refused)));
    }
    let running = world.start();
    // All of them at the take-over: a new release or new credentials may read them.
    let first = world.cost_of("", world.pass(10 * MINUTE)).await;
    assert!(first.requests >= UNREADABLE, "{first:?}");
    for hour in 1..=4 {
        let later = world.cost_of("", world.pass(60 * MINUTE)).await;
        assert!(later.requests < 3_000, "{later:?} in hour {hour}");
    }
    // Each one has its turn.
    world.bucket.spoil(None);
    world.pass(Duration::from_hours(6)).await;
    let standing = world.manifest().await.totals.standing();
    assert_eq!((standing.unreadable, standing.committed), (0, UNREADABLE));
    world.stop(running).await;
}

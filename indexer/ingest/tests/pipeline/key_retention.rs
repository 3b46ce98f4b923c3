//! Idempotency keys that count for a while only.

use std::time::Duration;

use tidemark_ingest::{IngestOptions, reindex};
use tidemark_wal::{Outcome, Token};

use crate::{
    verify::VerifyRun,
    world::{EntryDraft, IngestWorld, small_batches, standing},
};

const MINUTE: Duration = Duration::from_mins(1);
const RETENTION: Duration = Duration::from_secs(100);

/// Entries that repeat two keys: seconds after the first one, key, and what becomes of them.
const REPEATED: [(u64, &str, Outcome); 10] = [
    (0, "nightly", Outcome::Committed),
    (50, "hourly", Outcome::Committed),
    (60, "nightly", Outcome::Duplicate),
    (100, "nightly", Outcome::Duplicate),
    (101, "nightly", Outcome::Committed),
    // The duplicates in between move nothing.
    (151, "hourly", Outcome::Committed),
    (201, "nightly", Outcome::Duplicate),
    (202, "nightly", Outcome::Committed),
    (251, "hourly", Outcome::Duplicate),
    (900, "nightly", Outcome::Committed),
];

/// A log on which these were appended, and their tokens.
async fn repeated(options: IngestOptions) -> (IngestWorld, Vec<Token>) {
    let world = IngestWorld::with_retention(options, RETENTION).await;
    let begin = world.ago(2000);
    let append = |(second, key, _): (u64, &str, Outcome)| {
        world.append(begin.after(Duration::from_secs(second)), &EntryDraft::entity(second).key(key))
    };
    let tokens = REPEATED.into_iter().map(append).collect();
    (world, tokens)
}

async fn outcomes_of(world: &IngestWorld, tokens: &[Token]) -> Vec<Outcome> {
    let outcomes = world.outcomes().await;
    tokens.iter().flat_map(|token| outcomes[token].clone()).collect()
}

fn expected() -> Vec<Outcome> {
    REPEATED.into_iter().map(|(_, _, outcome)| outcome).collect()
}

#[tokio::test(start_paused = true)]
async fn a_key_commits_again_once_it_has_expired_wherever_a_batch_ends() {
    for batch_records in [1, 3, 4, 1000] {
        let (world, tokens) = repeated(IngestOptions { batch_records, ..small_batches() }).await;
        world.run_for(MINUTE).await;
        assert_eq!(outcomes_of(&world, &tokens).await, expected(), "{batch_records} records a batch");
        world.check().await;
        let verified = VerifyRun::all(&world).await;
        assert!(verified.is_sound(), "{:?}", verified.findings);
        // A rebuild takes what was recorded.
        let before = standing(&world.contents().await);
        reindex(&world.generation_task(None)).await.unwrap();
        assert_eq!(standing(&world.contents().await), before);
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_commits_again_once_it_has_expired_wherever_a_process_dies() {
    let mut crashes = 0;
    for step in (1..).step_by(3) {
        let (world, tokens) = repeated(IngestOptions { batch_records: 2, ..small_batches() }).await;
        let died = world.run_until_request(step).await;
        world.run_for(5 * MINUTE).await;
        assert_eq!(outcomes_of(&world, &tokens).await, expected(), "after a crash at request {step}");
        crashes += u64::from(died);
        if !died {
            break;
        }
    }
    assert!(crashes > 5, "{crashes} crashes");
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_is_found_late_is_a_duplicate_of_what_its_key_counted_for() {
    let (world, tokens) = repeated(small_batches()).await;
    world.run_for(MINUTE).await;
    let begin = tokens[0].second();
    let hidden = |second| world.append(begin.after(Duration::from_secs(second)), &EntryDraft::entity(1).key("nightly"));
    // The one before it committed at 202, the one after it at 900.
    let found = [302, 303, 800].map(hidden);
    world.run_for(20 * MINUTE).await;
    world.run_for(20 * MINUTE).await;
    let (committed, duplicate) = (Outcome::Committed, Outcome::Duplicate);
    assert_eq!(outcomes_of(&world, &found).await, [duplicate, committed, duplicate]);
    assert_eq!(outcomes_of(&world, &tokens).await, expected());
    let verified = VerifyRun::all(&world).await;
    assert!(verified.is_sound(), "{:?}", verified.findings);
}

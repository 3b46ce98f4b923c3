//! The guards of entries that a lock guarded: a clean-up deletes each after its entry, and those that an earlier one left.

use std::{collections::BTreeSet, time::Duration};

use tidemark_ingest::{cleanup::CleanupRequest, snapshot::SnapshotRequest};
use tidemark_wal::{Token, guard_key};
use tokio::time::timeout;

use crate::{
    MINUTE,
    cleanup::{clean, entries, request},
    fake_bucket::BadDeletion,
    world::{EntryDraft, IngestWorld, small_batches},
};

/// A log of guarded entries.
struct GuardedWorld {
    world: IngestWorld,
    /// An entry that is no longer what the archive has, so that there always is something to clean up.
    rewritten: Token,
}

impl GuardedWorld {
    /// `settled` entries that the audit has left behind, and some that are young.
    async fn new(settled: u64) -> Self {
        let world = IngestWorld::new(small_batches()).await;
        let ages = (0..settled).map(|number| 30_000 - number * 7).chain([300, 299]);
        let mut tokens = Vec::new();
        for (number, age) in (0..).zip(ages) {
            let at = world.ago(age);
            let token = world.append(at, &EntryDraft::entity(number).guarded());
            world.guard(token, at);
            tokens.push(token);
        }
        world.run_for(10 * MINUTE).await;
        world.snapshot_maker().await.0.make(&SnapshotRequest::default()).await.unwrap();
        world.report_keeps().await;
        let rewritten = tokens[usize::try_from(settled / 2).unwrap()];
        let key = format!("log/{rewritten}");
        world.bucket.plant(&key, r#"{"tidemark": 1, "ops": [{}]}"#, world.bucket.time(&key));
        Self { world, rewritten }
    }

    /// The entries that have a guard.
    fn guards(&self) -> BTreeSet<Token> {
        let keys = self.world.bucket.keys();
        keys.iter().filter_map(|key| key.strip_prefix("log/.tidemark/guard/")?.parse().ok()).collect()
    }

    fn entries(&self) -> BTreeSet<Token> {
        entries(&self.world)
    }

    async fn clean(&self) -> u64 {
        clean(&self.world).await.unwrap().deletion.deleted
    }
}

/// A process that ends at any of its requests: no entry loses its guard, and the next clean-up deletes the guards that were left.
#[tokio::test(start_paused = true)]
async fn guards_that_a_crash_left_go_with_the_next_cleanup_and_no_entry_loses_its_own() {
    let mut left = 0;
    for request in 0.. {
        let log = GuardedWorld::new(6).await;
        let before = log.guards();
        assert_eq!((before.len(), &log.entries()), (8, &before));
        log.world.bucket.die_at(Some(log.world.bucket.requests() + request));
        let is_whole = timeout(Duration::from_mins(1), clean(&log.world)).await.is_ok();
        log.world.bucket.die_at(None);
        assert!(log.guards().is_superset(&log.entries()), "request {request}: an entry has lost its guard");
        left += log.guards().len() - log.entries().len();
        log.clean().await;
        assert_eq!(log.guards(), log.entries(), "request {request}");
        assert!(log.entries().contains(&log.rewritten) && log.entries().len() == 3);
        if is_whole {
            break;
        }
    }
    assert!(left > 0, "no crash left a guard");
}

#[tokio::test(start_paused = true)]
async fn a_guard_whose_deletion_failed_goes_with_the_next_cleanup() {
    for (bad, left) in
        [(BadDeletion::Denied, 6), (BadDeletion::Locked, 6), (BadDeletion::Fails, 6), (BadDeletion::Unanswered, 0)]
    {
        let log = GuardedWorld::new(7).await;
        log.world.bucket.spoil_deletions(Some((".tidemark/guard/", bad)));
        // The second one finds no entry to delete, and guards that it may not.
        assert_eq!((log.clean().await, log.clean().await), (6, 0), "{bad:?}");
        assert_eq!(log.guards().difference(&log.entries()).count(), left, "{bad:?}");
        log.world.bucket.spoil_deletions(None);
        assert_eq!(log.clean().await, 0);
        assert_eq!(log.guards(), log.entries(), "{bad:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_guard_stays_without_proof_that_its_entry_is_gone_and_archived() {
    let log = GuardedWorld::new(7).await;
    let (bucket, before) = (&log.world.bucket, log.guards());
    bucket.spoil_deletions(Some((".tidemark/guard/", BadDeletion::Fails)));
    log.clean().await;
    bucket.spoil_deletions(None);
    let left: Vec<Token> = before.difference(&log.entries()).copied().collect();
    // The archive does not know the entry of one; one is younger than what is cleaned up; one is no guard.
    let unknown = Token::from_parts(log.world.ago(30_000), [9; 16]);
    let young = Token::from_parts(log.world.ago(200), [9; 16]);
    for token in [unknown, young] {
        log.world.guard(token, token.second());
    }
    bucket.plant("log/.tidemark/guard/readme", "hello", log.world.ago(0));
    // Nor does the store say that the entry of another one is gone.
    let silent = left[2];
    bucket.fail(Some(&format!("log/{silent}")));
    let dry = CleanupRequest { dry_run: true, ..request() };
    log.world.cleanup_executor().await.run(&dry).await.unwrap();
    assert_eq!(log.guards().len(), before.len() + 2, "a rehearsal deletes nothing");
    log.clean().await;
    let mut expected: BTreeSet<Token> = log.entries();
    expected.extend([unknown, young, silent]);
    assert_eq!(log.guards(), expected);
    bucket.fail(None);
    log.clean().await;
    expected.remove(&silent);
    assert_eq!(log.guards(), expected);
    assert!(bucket.keys().contains(&"log/.tidemark/guard/readme".to_owned()));
    assert!(bucket.keys().contains(&format!("log/{}", guard_key(log.rewritten))));
}

#[tokio::test(start_paused = true)]
async fn two_cleanups_at_once_leave_no_guard_and_take_none_of_an_entry() {
    let log = GuardedWorld::new(20).await;
    log.world.bucket.spoil_deletions(Some((".tidemark/guard/", BadDeletion::Fails)));
    log.clean().await;
    log.world.bucket.spoil_deletions(None);
    log.world.bucket.slow(Duration::from_millis(50));
    let (one, other) = tokio::join!(clean(&log.world), clean(&log.world));
    assert!(one.is_ok() || other.is_ok(), "{one:?} {other:?}");
    assert_eq!(log.guards(), log.entries());
}

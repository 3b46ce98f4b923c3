//! Two logs and one prefix: an index holds the records of one log, and says whose.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::{sync::Arc, time::Duration};

use support::{
    Act, Call, Stage,
    process::{INDEX, Process, owner, publish},
};
use tidemark_catalog::{AcquireError, CatalogError, Generation, PurgeStats, PurgeTarget, TransactionRejected};
use tokio::{sync::Notify, time::timeout};

/// The two processes' names: each with a log of its own, and nothing else in common with the other than the index.
fn two(stage: &Stage) -> (Process, Process) {
    (Process::new("a", stage, owner("1")), Process::of_log("log2", "b", stage, owner("2")))
}

async fn below(stage: &Stage, prefix: &str) -> Vec<String> {
    stage.keys().await.into_iter().filter(|key| key.starts_with(prefix)).collect()
}

fn is_refused<T>(answer: Result<T, CatalogError>) -> String {
    match answer {
        Err(CatalogError::Rejected(refused @ TransactionRejected::OfAnotherLog { .. })) => refused.to_string(),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was let in"),
    }
}

#[tokio::test(start_paused = true)]
async fn another_log_is_refused_before_it_writes_anything_and_told_who_has_the_index() {
    let stage = Stage::new();
    let (a, b) = two(&stage);
    let mut writer = a.writes().await;
    publish(&mut writer).await.unwrap();
    let before = stage.keys().await;
    let told = is_refused(b.open().await);
    for part in ["memory:///log", "ns/wal", "uid \"1\"", INDEX, "; choose another prefix", "`adoptOwner` does not help"]
    {
        assert!(told.contains(part), "{told}");
    }
    assert_eq!(stage.keys().await, before, "the other log's process wrote something");
    publish(&mut writer).await.unwrap();
    // Also when the holder is gone, and to the same owner with another log: records would be mixed.
    writer.release().await.unwrap();
    is_refused(Process::of_log("log2", "a", &stage, owner("1")).open().await);
    is_refused(b.open().await);
    a.writes().await;
}

#[tokio::test(start_paused = true)]
async fn two_logs_race_for_a_fresh_prefix_and_one_of_them_gets_it() {
    for (slow, fast) in [("log", "log2"), ("log2", "log")] {
        let stage = Stage::new();
        let view = stage.calm();
        let (slow, fast) =
            (Process::of_log(slow, "slow", &view, owner("1")), Process::of_log(fast, "fast", &stage, owner("2")));
        // Both look before either writes, and the record of one is on its way while the other's lands.
        let ((_, of_slow), (_, of_fast)) = (slow.open().await.unwrap(), fast.open().await.unwrap());
        let wake = Arc::new(Notify::new());
        view.disturb(Call::Put, "index/g1/manifest/", 0, 1, Act::Pause(wake.clone()));
        let (lost, won) = tokio::join!(slow.acquire(&of_slow), async {
            let won = fast.acquire(&of_fast).await;
            wake.notify_one();
            won
        });
        let Err(AcquireError::Chain(refused)) = lost else { panic!("both logs have the prefix") };
        is_refused::<()>(Err(refused));
        let mut writer = won.unwrap();
        publish(&mut writer).await.unwrap();
        let (of_slow, of_fast) = (slow.root.id().await.unwrap(), fast.root.id().await.unwrap());
        assert_ne!(of_slow, of_fast);
        assert_eq!(writer.manifest().state.claim.clone().map(|claim| claim.log), of_fast);
        assert_eq!(below(&stage, "index/").await.len(), 2, "a take-over and a publication, of one log");
    }
}

#[tokio::test(start_paused = true)]
async fn a_purge_on_behalf_of_another_log_removes_nothing() {
    let stage = Stage::new();
    let (a, b) = two(&stage);
    // Both are registered, each in its own log: the second lost the race for the prefix.
    let (_, of_b) = b.open().await.unwrap();
    let mut writer = a.writes().await;
    assert!(b.acquire(&of_b).await.is_err());
    publish(&mut writer).await.unwrap();
    let before = below(&stage, "index/").await;
    assert!(matches!(b.purge().find_target().await, Ok(PurgeTarget::Lost { last: None, .. })));
    assert_eq!(b.purges().await, PurgeStats::default());
    assert_eq!(below(&stage, "index/").await, before);
    assert!(b.root.state().await.unwrap().indexes.is_empty(), "it comes off its own register");
    assert!(matches!(b.purge().find_target().await, Ok(PurgeTarget::Nothing)));
    assert_eq!(below(&stage, "index/").await, before);
    publish(&mut writer).await.unwrap();
    // It waits for the role of a fresh prefix while the other log takes that: the same.
    let stage = Stage::new();
    let (a, b) = two(&stage);
    b.open().await.unwrap();
    let view = stage.calm();
    let waits = Process::of_log("log2", "b", &view, owner("2"));
    let wake = Arc::new(Notify::new());
    view.disturb(Call::Put, "index/g1/manifest/", 0, 1, Act::Pause(wake.clone()));
    let (swept, writer) = tokio::join!(timeout(Duration::from_hours(1), waits.purges()), async {
        let writer = a.writes().await;
        wake.notify_one();
        writer
    });
    assert_eq!(swept.unwrap(), PurgeStats::default());
    assert_eq!(below(&stage, "index/").await.len(), 1);
    drop(writer);
}

#[tokio::test(start_paused = true)]
async fn after_a_purge_another_log_may_have_the_prefix_and_sweeps_nothing_of_the_one_before() {
    let stage = Stage::new();
    let (a, b) = two(&stage);
    drop(a.writes().await);
    a.purges().await;
    let fence = below(&stage, "index/g1/").await;
    let mut writer = b.writes().await;
    assert_eq!(writer.manifest().state.generation, "g2".parse().unwrap());
    publish(&mut writer).await.unwrap();
    let before = below(&stage, "index/").await;
    assert_eq!(a.purges().await.deleted, 0);
    assert_eq!(below(&stage, "index/").await, before);
    // The one before may not come back while the other log has the prefix.
    is_refused(Process::new("a", &stage, owner("3")).open().await);
    drop(writer);
    assert_eq!(b.purges().await.fences, 2, "its own generation's");
    assert_eq!(below(&stage, "index/g1/").await, fence);
    assert_eq!(Process::new("a", &stage, owner("3")).writes().await.manifest().state.generation, "g3".parse().unwrap());
}

/// The simulation found it: the purge was interrupted after it had closed the index, the owner registered the next
/// generation, and another log was faster there. What was closed has to go all the same.
#[tokio::test(start_paused = true)]
async fn a_purge_that_was_interrupted_goes_on_though_another_log_has_the_next_generation() {
    let stage = Stage::new();
    let (a, b) = two(&stage);
    a.writes().await.purge().await.unwrap();
    assert_eq!(a.open().await.unwrap().1.generation(), &"g2".parse().unwrap());
    let mut writer = b.writes().await;
    let of_b = below(&stage, "index/g2/").await;
    assert_eq!(a.purges().await.fences, 2);
    assert_eq!(below(&stage, "index/g1/").await.len(), 2, "the fence of what was closed");
    assert_eq!(below(&stage, "index/g2/").await, of_b);
    publish(&mut writer).await.unwrap();
    drop(writer);
    // The next one comes after the present owner of the prefix.
    b.purges().await;
    let again = Process::new("a", &stage, owner("3"));
    assert_eq!(again.writes().await.manifest().state.generation, "g3".parse().unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_index_that_does_not_say_whose_records_it_holds_is_nobodys() {
    let stage = Stage::new();
    let a = Process::new("a", &stage, owner("1"));
    let unclaimed = tidemark_catalog::IndexChain::open(
        &stage.store().below("index"),
        Generation::first(),
        tidemark_store::Entropy::seeded(1),
    );
    a.acquire(&unclaimed).await.unwrap().release().await.unwrap();
    let before = below(&stage, "index/").await;
    let refused = a.open().await.map(drop).unwrap_err();
    assert!(
        matches!(&refused, CatalogError::Rejected(TransactionRejected::Unclaimed { url }) if url == INDEX),
        "{refused}"
    );
    assert_eq!(a.purges().await, PurgeStats::default());
    assert_eq!(below(&stage, "index/").await, before);
}

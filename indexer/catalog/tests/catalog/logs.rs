//! Two logs and one prefix: an index holds the records of one log, and says whose.

use std::{sync::Arc, time::Duration};

use futures::TryStreamExt as _;
use tidemark_catalog::{
    AcquireError, CatalogError, Generation, IndexChain, PublishError, PurgeStats, PurgeTarget, TransactionRejected,
    heartbeat,
};
use tokio::{sync::Notify, time::timeout};

use super::support::{
    CallFault, ScriptedStore, StoreCall,
    process::{INDEX, IndexProcess, owner, publish},
};

/// The two processes' names: each with a log of its own, and nothing else in common with the other than the index.
fn two(stage: &ScriptedStore) -> (IndexProcess, IndexProcess) {
    (IndexProcess::new("a", stage, owner("1")), IndexProcess::of_log("log2", "b", stage, owner("2")))
}

async fn below(stage: &ScriptedStore, prefix: &str) -> Vec<String> {
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
    let stage = ScriptedStore::new();
    let (a, b) = two(&stage);
    let mut writer = a.writes().await;
    publish(&mut writer).await.unwrap();
    let before = stage.keys().await;
    let refusal = is_refused(b.open().await);
    for part in ["memory:///log", "ns/wal", "uid \"1\"", INDEX, "; choose another prefix", "`adoptOwner` does not help"]
    {
        assert!(refusal.contains(part), "{refusal}");
    }
    assert_eq!(stage.keys().await, before, "the other log's process wrote something");
    publish(&mut writer).await.unwrap();
    // Also when the holder is gone, and to the same owner with another log: records would be mixed.
    writer.release().await.unwrap();
    is_refused(IndexProcess::of_log("log2", "a", &stage, owner("1")).open().await);
    is_refused(b.open().await);
    a.writes().await;
}

#[tokio::test(start_paused = true)]
async fn two_logs_race_for_a_fresh_prefix_and_one_of_them_gets_it() {
    for (slow, fast) in [("log", "log2"), ("log2", "log")] {
        let stage = ScriptedStore::new();
        let view = stage.calm();
        let (slow, fast) = (
            IndexProcess::of_log(slow, "slow", &view, owner("1")),
            IndexProcess::of_log(fast, "fast", &stage, owner("2")),
        );
        // Both look before either writes, and the record of one is on its way while the other's lands.
        let ((_, of_slow), (_, of_fast)) = (slow.open().await.unwrap(), fast.open().await.unwrap());
        let wake = Arc::new(Notify::new());
        view.disturb(StoreCall::Put, "index/g1/manifest/", 0, 1, CallFault::Pause(wake.clone()));
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
    let stage = ScriptedStore::new();
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
    let stage = ScriptedStore::new();
    let (a, b) = two(&stage);
    b.open().await.unwrap();
    let view = stage.calm();
    let waits = IndexProcess::of_log("log2", "b", &view, owner("2"));
    let wake = Arc::new(Notify::new());
    view.disturb(StoreCall::Put, "index/g1/manifest/", 0, 1, CallFault::Pause(wake.clone()));
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
    let stage = ScriptedStore::new();
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
    is_refused(IndexProcess::new("a", &stage, owner("3")).open().await);
    drop(writer);
    assert_eq!(b.purges().await.fences, 2, "its own generation's");
    assert_eq!(below(&stage, "index/g1/").await, fence);
    assert_eq!(
        IndexProcess::new("a", &stage, owner("3")).writes().await.manifest().state.generation,
        "g3".parse().unwrap()
    );
}

/// The simulation found it: the purge was interrupted after it had closed the index, the owner registered the next
/// generation, and another log was faster there. What was closed has to go all the same.
#[tokio::test(start_paused = true)]
async fn a_purge_that_was_interrupted_goes_on_though_another_log_has_the_next_generation() {
    let stage = ScriptedStore::new();
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
    let again = IndexProcess::new("a", &stage, owner("3"));
    assert_eq!(again.writes().await.manifest().state.generation, "g3".parse().unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_index_that_does_not_say_whose_records_it_holds_is_nobodys() {
    let stage = ScriptedStore::new();
    let a = IndexProcess::new("a", &stage, owner("1"));
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

/// What is below the prefix `from`, once more below `to`: a bucket that is replicated, or restored from a copy.
async fn copy(stage: &ScriptedStore, from: &str, to: &str) {
    let (source, target) = (stage.store().below(from), stage.store().below(to));
    let keys: Vec<_> = source.list("", None).map_ok(|object| object.key).try_collect().await.unwrap();
    for key in keys {
        let body = source.get(&key, 1 << 20).await.unwrap().unwrap().body.unwrap();
        target.put(&key, body).await.unwrap();
    }
}

fn claims(answer: &CatalogError) -> (String, String) {
    match answer {
        CatalogError::Rejected(TransactionRejected::LogMoved { log, claimed, .. }) => (log.clone(), claimed.clone()),
        other => panic!("{other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_and_its_copy_cannot_alternate_in_one_index() {
    let stage = ScriptedStore::new();
    let original = IndexProcess::new("a", &stage, owner("1"));
    let mut writer = original.writes().await;
    publish(&mut writer).await.unwrap();
    copy(&stage, "log", "copy").await;
    writer.release().await.unwrap();
    // The same id and the same owner, and no process holds the index.
    let before = stage.keys().await;
    let copied = IndexProcess::of_log("copy", "b", &stage, owner("1"));
    assert_eq!(copied.root.id().await.unwrap(), original.root.id().await.unwrap());
    let refused = copied.open().await.err().unwrap();
    assert_eq!(claims(&refused), ("memory:///copy".to_owned(), "memory:///log".to_owned()));
    for part in ["--moved-from 'memory:///log'", "`movedFrom`", "choose another prefix"] {
        assert!(refused.to_string().contains(part), "{refused}");
    }
    assert_eq!(stage.keys().await, before, "the copy's process wrote something");
    // One that had looked before the original made its first record is refused at the record.
    let view = stage.calm();
    let waits = IndexProcess::of_log("copy", "b", &view, owner("1"));
    let index = IndexChain::open(&view.store().below("index"), Generation::first(), tidemark_store::Entropy::seeded(7));
    let Err(AcquireError::Chain(refused)) = waits.acquire(&index.for_log(&waits.root)).await else {
        panic!("the copy writes the index")
    };
    claims(&refused);
    publish(&mut original.writes().await).await.unwrap();
    // Nor does the copy's purge touch it.
    let before = below(&stage, "index/").await;
    assert!(copied.purge().find_target().await.is_err());
    assert_eq!(below(&stage, "index/").await, before);
}

#[tokio::test(start_paused = true)]
async fn a_moved_log_goes_on_once_it_is_told_and_its_old_place_is_refused_from_then_on() {
    let stage = ScriptedStore::new();
    let original = IndexProcess::new("a", &stage, owner("1"));
    let mut writer = original.writes().await;
    publish(&mut writer).await.unwrap();
    let cursor = writer.manifest().state.cursor;
    copy(&stage, "log", "new").await;
    let process_moved_from = |url| IndexProcess::of_log("new", "b", &stage, owner("1")).moved_from(url);
    claims(&process_moved_from("memory:///elsewhere").open().await.err().unwrap());
    // A reader of the old place learns of the move with the next manifest.
    let reader = original.open().await.unwrap().1;
    let seen = reader.latest().await.unwrap().unwrap();
    let mut moved = process_moved_from("memory:///log").writes().await;
    assert_eq!(moved.manifest().state.cursor, cursor);
    assert_eq!(moved.manifest().state.claim.as_ref().map(|claim| claim.url.as_str()), Some("memory:///new"));
    publish(&mut moved).await.unwrap();
    assert_eq!(claims(&reader.poll_newer(&seen).await.unwrap_err()).1, "memory:///new");
    // A writer that was left behind is fenced, and may not come back.
    assert!(matches!(writer.check().await, Err(PublishError::Fenced { .. })));
    claims(&original.open().await.err().unwrap());
    // With and without the flag: the claim is its own.
    drop(IndexProcess::of_log("new", "b", &stage, owner("1")).writes().await);
    process_moved_from("memory:///log").writes().await;
}

#[tokio::test(start_paused = true)]
async fn an_index_is_taken_off_the_register_only_when_no_process_writes_it() {
    let stage = ScriptedStore::new();
    let process = IndexProcess::new("a", &stage, owner("1"));
    let (_, chain) = process.open().await.unwrap();
    assert!(!chain.has_live_writer(&process.log.entries).await.unwrap(), "it has no writer yet");
    let writer = process.acquire(&chain).await.unwrap();
    let beats = tokio::spawn({
        let clock = process.clock.clone();
        async move { heartbeat(&clock).await }
    });
    assert!(chain.has_live_writer(&process.log.entries).await.unwrap());
    beats.abort();
    let began = tokio::time::Instant::now();
    assert!(!chain.has_live_writer(&process.log.entries).await.unwrap());
    assert!(began.elapsed() >= Duration::from_mins(1));
    writer.release().await.unwrap();
    let seen = process.root.state().await.unwrap().indexes[INDEX].clone();
    process.root.unregister(INDEX, &seen).await.unwrap();
    assert!(process.root.state().await.unwrap().indexes.is_empty());
    // It is registered again by the next indexer.
    process.writes().await;
    assert!(process.root.state().await.unwrap().indexes.contains_key(INDEX));
}

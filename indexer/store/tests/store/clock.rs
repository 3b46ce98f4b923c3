//! Clock objects that nobody moves any more, and processes that come back to one.

use std::{sync::Arc, time::Duration};

use crate::support::{CallFault, ScriptedStore, StoreCall};
use tidemark_store::{ClockError, StoreClock};
use tokio::sync::Notify;

const DAY: Duration = Duration::from_hours(24);

fn clock(bucket: &ScriptedStore, name: &str) -> StoreClock {
    StoreClock::new([&bucket.store().below("log"), &bucket.store().below("meta")], name)
}

fn objects(names: &[&str]) -> Vec<String> {
    let in_store = |store: &'static str| names.iter().map(move |name| format!("{store}/.tidemark/clock/{name}"));
    in_store("log").chain(in_store("meta")).collect()
}

#[tokio::test(start_paused = true)]
async fn clock_objects_that_nobody_moved_for_a_day_are_deleted_in_every_store() {
    let bucket = ScriptedStore::new();
    for pod in ["a", "b"] {
        clock(&bucket, pod).probe().await.unwrap();
    }
    tokio::time::advance(DAY / 2).await;
    let (holder, own) = (clock(&bucket, "holder"), clock(&bucket, "own"));
    holder.write_heartbeat().await.unwrap();
    assert_eq!(own.delete_abandoned().await.unwrap(), 0);
    tokio::time::advance(DAY / 2).await;
    assert_eq!(own.delete_abandoned().await.unwrap(), 4);
    let holders = "log/.tidemark/clock/holder".to_owned();
    assert_eq!(bucket.keys().await, [vec![holders], objects(&["own"])].concat());
    // Its own was written just now, however long ago it was before.
    tokio::time::advance(2 * DAY).await;
    assert_eq!(own.delete_abandoned().await.unwrap(), 1);
    assert_eq!(bucket.keys().await, objects(&["own"]));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_suspended_for_a_day_writes_its_clock_object_again() {
    let bucket = ScriptedStore::new();
    let sleeper = clock(&bucket, "sleeper");
    let before = sleeper.probe().await.unwrap().now;
    tokio::time::advance(2 * DAY).await;
    assert_eq!(clock(&bucket, "other").delete_abandoned().await.unwrap(), 2);
    assert_eq!(sleeper.probe().await.unwrap().now, before.after(2 * DAY));
    assert_eq!(bucket.keys().await, objects(&["other", "sleeper"]));
}

/// It comes back between the listing and the deletion, so that its probe finds the object gone that it wrote.
#[tokio::test(start_paused = true)]
async fn a_deletion_within_a_probe_is_no_vanished_clock_object() {
    let bucket = ScriptedStore::new();
    let sleeper = bucket.calm();
    clock(&sleeper, "sleeper").probe().await.unwrap();
    tokio::time::advance(DAY).await;
    let (deletes, heads) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    bucket.disturb(StoreCall::Delete, "log/.tidemark/clock/sleeper", 0, 1, CallFault::Pause(Arc::clone(&deletes)));
    sleeper.disturb(StoreCall::Head, "log/.tidemark/clock/sleeper", 0, 1, CallFault::Pause(Arc::clone(&heads)));
    let other = clock(&bucket, "other");
    let deletion = tokio::spawn(async move { other.delete_abandoned().await });
    tokio::task::yield_now().await;
    let probing = clock(&sleeper, "sleeper");
    let probe = tokio::spawn(async move { probing.probe().await });
    tokio::task::yield_now().await;
    deletes.notify_one();
    deletion.await.unwrap().unwrap();
    assert!(!bucket.keys().await.contains(&"log/.tidemark/clock/sleeper".to_owned()));
    heads.notify_one();
    probe.await.unwrap().unwrap();
    assert!(bucket.keys().await.contains(&"log/.tidemark/clock/sleeper".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_the_deletion_keeps_no_other_one_from_it() {
    let bucket = ScriptedStore::new();
    clock(&bucket, "a").probe().await.unwrap();
    tokio::time::advance(DAY).await;
    bucket.disturb(StoreCall::Delete, "log/", 0, u64::MAX, CallFault::Forbid);
    let refused = clock(&bucket, "b").delete_abandoned().await.unwrap_err();
    assert!(matches!(refused, ClockError::Store(_)), "{refused}");
    let keys = bucket.keys().await;
    assert!(keys.contains(&"log/.tidemark/clock/a".to_owned()) && !keys.contains(&"meta/.tidemark/clock/a".to_owned()));
}

/// A crash at any of its calls leaves what the next one deletes.
#[tokio::test(start_paused = true)]
async fn a_deletion_that_ends_at_any_call_is_finished_by_the_next_one() {
    for call in 0.. {
        let bucket = ScriptedStore::new();
        clock(&bucket, "a").probe().await.unwrap();
        tokio::time::advance(DAY).await;
        let dying = bucket.calm();
        dying.disturb(StoreCall::Any, "", call, 1, CallFault::EndAfter);
        let ended = tokio::time::timeout(Duration::from_mins(10), clock(&dying, "b").delete_abandoned()).await.is_err();
        clock(&bucket, "b").delete_abandoned().await.unwrap();
        assert_eq!(bucket.keys().await, objects(&["b"]), "at call {call}");
        if !ended {
            assert!(call >= 8, "only {call} calls");
            break;
        }
    }
}

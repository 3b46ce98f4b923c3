//! Removing an index for good: what stays, who may not come back, and a process that ends at any of its calls.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tidemark_catalog::{
    CatalogError, GarbageCollector, Generation, IndexChain, IndexOwner, LogId, ObjectKind, ObjectName, PurgeStats,
    PurgeTarget, TransactionRejected, WriterIdentity, WriterLease,
};
use tidemark_store::{Create, Entropy, UserMetadata};
use tokio::{sync::Notify, time::timeout};

use super::support::{
    CallFault, ScriptedStore, StoreCall,
    process::{INDEX, IndexProcess, owner, publish},
};

/// An index of some records, objects that were never published, and strangers in and around it. Gives its writer.
async fn filled(stage: &ScriptedStore, process: &IndexProcess) -> WriterLease {
    let mut writer = process.writes().await;
    for _ in 0..4 {
        publish(&mut writer).await.unwrap();
    }
    let generation = writer.manifest().state.generation.clone();
    let leak = |kind, seed| ObjectName::new(&generation, kind, 1, &Entropy::seeded(seed)).to_string();
    for key in [leak(ObjectKind::Segment, 1), leak(ObjectKind::Sidecar, 2)] {
        put(stage, &format!("index/{key}")).await;
    }
    for key in STRANGERS {
        put(stage, key).await;
    }
    writer
}

const STRANGERS: [&str; 6] = [
    "index/README.txt",
    "index/g1/plan/1",
    "index/g1/manifest/notes",
    "index/nested/g1/manifest/00000000000000000001",
    "index2/g1/manifest/00000000000000000001",
    "log/0ujtsYcgvSTl8PAuAdqWYSMnLOv",
];

async fn put(stage: &ScriptedStore, key: &str) {
    let created = stage.store().create(key, Bytes::from_static(b"x"), &UserMetadata::new()).await;
    assert!(matches!(created, Create::Committed | Create::Lost), "{created:?}");
}

/// Objects that Tidemark did not write, in each folder of an index that has the catalog's names, and an archive.
pub(crate) fn objects_of_others(log: &LogId) -> Vec<String> {
    let nonce = "0123456789abcdef".repeat(2);
    let epoch = "0".repeat(20);
    let within = [
        "g1/segment/notes.txt".to_owned(),
        format!("g1/segment/{epoch}-{nonce}.bak"),
        format!("g1/sidecar/{epoch}-{nonce}/part"),
        format!("g1/sidecar/{epoch}-{}", nonce.to_uppercase()),
        "g1/manifest/notes.txt".to_owned(),
        format!("snapshots/{log}/notes.txt"),
        format!("snapshots/{log}/list/notes.txt"),
        format!("snapshots/{log}/list/g1/notes.txt"),
        format!("snapshots/{log}/list/g1/{nonce}.bak"),
        format!("gc/{log}/notes.txt"),
        format!("gc/{log}/list/notes.txt"),
        format!("gc/{log}/list/g1/notes.txt"),
        format!("gc/{log}/list/g1/{nonce}.bak"),
        format!("archive/{log}/metadata/v1.metadata.json"),
        format!("archive/{log}/data/day=20000/{nonce}.parquet"),
    ];
    within.into()
}

/// What is left below the index.
async fn left(stage: &ScriptedStore) -> Vec<String> {
    let keys = stage.keys().await.into_iter();
    keys.filter(|key| key.starts_with("index/") && !STRANGERS.contains(&key.as_str())).collect()
}

/// The closing record and the boundary of `generation`, and nothing else.
fn fence(generation: u64, last: u64) -> Vec<String> {
    let chain = format!("index/g{generation}/manifest");
    vec![format!("{chain}/{last:020}"), format!("{chain}/boundary/{:020}", last - 1)]
}

async fn strangers_stay(stage: &ScriptedStore) {
    let keys = stage.keys().await;
    for key in STRANGERS {
        assert!(keys.iter().any(|known| known == key), "\"{key}\" is gone");
    }
}

/// The lists of the purged generation go, those of the next one stay.
#[tokio::test(start_paused = true)]
async fn lists_of_garbage_go_with_their_generation() {
    let stage = ScriptedStore::new();
    let a = IndexProcess::new("a", &stage, owner("1"));
    let mut writer = filled(&stage, &a).await;
    writer.raise_epoch().await.unwrap();
    let log = a.root.id().await.unwrap().unwrap();
    let collector = GarbageCollector::new(&stage.store().below("index"), &log, Entropy::seeded(4));
    assert_eq!(collector.collect("test").await.unwrap().candidates, 2);
    let lists = async || left(&stage).await.into_iter().filter(|key| key.contains("/list/")).collect::<Vec<_>>();
    let list = lists().await.remove(0);
    let next = list.replace("/list/g1/", "/list/g2/");
    put(&stage, &next).await;
    writer.release().await.unwrap();
    a.purges().await;
    assert_eq!(lists().await, [next]);
    // The state names one that is gone.
    collector.collect("test").await.unwrap();
    assert!(collector.chain().latest().await.unwrap().unwrap().state.lists.is_empty());
}

#[tokio::test(start_paused = true)]
async fn objects_of_others_and_the_archive_outlive_the_index() {
    let stage = ScriptedStore::new();
    let a = IndexProcess::new("a", &stage, owner("1"));
    let writer = filled(&stage, &a).await;
    let others: Vec<_> =
        objects_of_others(&a.root.id().await.unwrap().unwrap()).iter().map(|key| format!("index/{key}")).collect();
    for key in &others {
        put(&stage, key).await;
    }
    writer.release().await.unwrap();
    let swept = a.purges().await;
    let kept = stage.keys().await;
    let gone: Vec<_> = others.iter().filter(|key| !kept.contains(key)).collect();
    assert!(gone.is_empty(), "{gone:?}");
    // Those in the generation: five, and the two of `STRANGERS`.
    assert_eq!((swept.fences, swept.unknown), (2, 7));
}

#[tokio::test(start_paused = true)]
async fn what_is_left_is_a_fence_and_what_is_not_ours() {
    let stage = ScriptedStore::new();
    let a = IndexProcess::new("a", &stage, owner("1"));
    filled(&stage, &a).await.release().await.unwrap();
    let swept = a.purges().await;
    // Take-over, four publications, release, take-over, closing record.
    assert_eq!(left(&stage).await, fence(1, 8));
    assert_eq!((swept.fences, swept.unknown), (2, 2));
    strangers_stay(&stage).await;
    let root = a.root.state().await.unwrap();
    assert!(root.indexes.is_empty());
    assert!(root.purged[INDEX].recorded.is_some());
    // Again: there is nothing to do.
    assert_eq!(a.purges().await, PurgeStats { deleted: 0, ..swept });
    assert_eq!(left(&stage).await, fence(1, 8));
}

#[tokio::test(start_paused = true)]
async fn the_prefix_starts_the_next_generation_for_anybody_but_the_same_uid() {
    let stage = ScriptedStore::new();
    let a = IndexProcess::new("a", &stage, owner("1"));
    filled(&stage, &a).await.release().await.unwrap();
    a.purges().await;
    assert!(matches!(a.open().await, Err(CatalogError::Rejected(TransactionRejected::PurgedForOwner { .. }))));
    let b = IndexProcess::new("b", &stage, IndexOwner::Named { name: "b".to_owned() });
    let mut writer = b.writes().await;
    assert_eq!(writer.manifest().state.generation, "g2".parse().unwrap());
    publish(&mut writer).await.unwrap();
    // The purge of the owner before comes once more, and does the new index no harm.
    a.purges().await;
    publish(&mut writer).await.unwrap();
    writer.release().await.unwrap();
    b.purges().await;
    assert_eq!(left(&stage).await, [fence(1, 8), fence(2, 6)].concat());
    // One that is called by its name may come back.
    assert_eq!(b.writes().await.manifest().state.generation, "g3".parse().unwrap());
}

/// Found by seed 13 of the simulation's purge: its successor took the new owner's registration for a refusal.
#[tokio::test(start_paused = true)]
async fn a_purge_that_was_interrupted_is_finished_also_when_another_owner_has_the_prefix() {
    let stage = ScriptedStore::new();
    let a = IndexProcess::new("a", &stage, owner("1"));
    filled(&stage, &a).await.release().await.unwrap();
    let disturbed = stage.calm();
    disturbed.disturb(StoreCall::Delete, "segment", 0, 1, CallFault::EndBefore);
    let first = IndexProcess::new("a", &disturbed, owner("1"));
    assert!(timeout(Duration::from_hours(1), first.purges()).await.is_err());
    let mut writer = IndexProcess::new("b", &stage, owner("2")).writes().await;
    a.purges().await;
    let of_the_first = left(&stage).await.into_iter().filter(|key| key.starts_with("index/g1/"));
    assert_eq!(of_the_first.collect::<Vec<_>>(), fence(1, 8));
    publish(&mut writer).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_resource_made_again_keeps_its_index_when_the_purge_of_its_predecessor_comes_late() {
    let stage = ScriptedStore::new();
    let old = IndexProcess::new("old", &stage, owner("1"));
    filled(&stage, &old).await.release().await.unwrap();
    let new = IndexProcess::new("new", &stage, owner("2"));
    let mut writer = new.writes().await;
    let before = left(&stage).await;
    assert!(matches!(old.purge().find_target().await, Ok(PurgeTarget::Nothing)));
    assert_eq!(old.purges().await, PurgeStats::default());
    assert_eq!(left(&stage).await, before);
    publish(&mut writer).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_slept_through_the_purge_commits_nothing() {
    for on_its_way in [true, false] {
        let stage = ScriptedStore::new();
        let a = IndexProcess::new("a", &stage, owner("1"));
        drop(filled(&stage, &a).await);
        // The zombie has a view of its own: record 6 made it the writer, and it publishes record 7.
        let view = stage.calm();
        let zombie = IndexProcess::new("a", &view, owner("1"));
        let mut writer = zombie.writes().await;
        let wake = Arc::new(Notify::new());
        if on_its_way {
            view.disturb(StoreCall::Put, "manifest/00000000000000000007", 0, 1, CallFault::Pause(wake.clone()));
        }
        let asleep = wake.clone();
        let publishing = tokio::spawn(async move {
            if !on_its_way {
                asleep.notified().await;
            }
            let first = publish(&mut writer).await;
            (first, publish(&mut writer).await)
        });
        tokio::task::yield_now().await;
        a.purges().await;
        let fence = left(&stage).await;
        wake.notify_one();
        let (first, second) = timeout(Duration::from_hours(1), publishing).await.unwrap().unwrap();
        assert!(first.is_err() && second.is_err(), "{first:?}, {second:?}");
        let chain = IndexChain::open(&stage.store().below("index"), Generation::first(), Entropy::seeded(9));
        let latest = chain.latest().await.unwrap().unwrap();
        assert!(latest.state.is_purged());
        assert!(fence.contains(&format!("index/g1/manifest/{:020}", latest.number)), "{fence:?}");
        // What the zombie left means nothing, and the next sweep takes it.
        a.purges().await;
        assert_eq!(left(&stage).await, fence);
    }
}

#[tokio::test(start_paused = true)]
async fn two_purge_at_once() {
    let stage = ScriptedStore::new();
    let (a, b) = (IndexProcess::new("a", &stage, owner("1")), IndexProcess::new("b", &stage, owner("1")));
    filled(&stage, &a).await.release().await.unwrap();
    tokio::join!(a.purges(), b.purges());
    assert_eq!(left(&stage).await.len(), 2, "{:?}", left(&stage).await);
    strangers_stay(&stage).await;
}

#[tokio::test(start_paused = true)]
async fn a_process_that_ends_at_any_call_is_succeeded_by_one_that_finishes() {
    for act in
        [CallFault::EndBefore, CallFault::EndAfter, CallFault::LoseAnswer, CallFault::LandLater(Duration::from_mins(5))]
    {
        let mut call = 0;
        loop {
            let stage = ScriptedStore::new();
            let a = IndexProcess::new("a", &stage, owner("1"));
            filled(&stage, &a).await.release().await.unwrap();
            let disturbed = stage.calm();
            disturbed.disturb(StoreCall::Any, "", call, 1, act.clone());
            let first = IndexProcess::new("a", &disturbed, owner("1"));
            let identity = WriterIdentity("a".to_owned());
            let purge = first.purge();
            let run = purge.run(&identity, &first.clock, &first.log.entries, |_| ());
            let ended = timeout(Duration::from_hours(1), run).await;
            let struck = disturbed.calls() > call;
            if let Ok(Ok(_)) = ended {
                assert!(matches!(a.purge().find_target().await, Ok(PurgeTarget::Closed(_))));
            }
            // Its successor, perhaps under another name.
            let successor = IndexProcess::new("b", &stage, owner("1"));
            let swept = timeout(Duration::from_hours(1), successor.purges()).await.unwrap();
            assert_eq!((swept.fences, swept.unknown), (2, 2), "{act:?} at call {call}");
            assert_eq!(left(&stage).await.len(), 2, "{act:?} at call {call}: {:?}", left(&stage).await);
            strangers_stay(&stage).await;
            // What lands even later means nothing.
            tokio::time::sleep(Duration::from_mins(10)).await;
            let next = IndexProcess::new("c", &stage, IndexOwner::Named { name: "c".to_owned() });
            assert_eq!(next.writes().await.manifest().state.generation, "g2".parse().unwrap());
            if !struck {
                break;
            }
            call += 1;
        }
        assert!(call > 30, "{act:?} struck {call} calls only");
    }
}

//! The ingest on the real engine, through every kind of publication: the model stands for it in every other test.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../../ingest/tests/pipeline/fake_bucket.rs"]
#[expect(dead_code, reason = "the helpers belong to the tests of the ingest")]
mod fake_bucket;
#[path = "real_engine/history.rs"]
mod history;
#[path = "../../ingest/tests/pipeline/world.rs"]
#[expect(dead_code, reason = "the helpers belong to the tests of the ingest")]
mod world;

use std::{sync::Arc, time::Duration};

use tempfile::TempDir;
use tidemark_ingest::IngestOptions;
use tidemark_search::{EngineOptions, TantivyEngine};
use world::{EngineMaker, EntryDraft, IngestWorld, small_batches};

const MINUTE: Duration = Duration::from_mins(1);

#[tokio::test(start_paused = true)]
async fn the_real_engine_gives_the_same_answers_as_the_model() {
    let cache = TempDir::new().unwrap();
    let options = EngineOptions { cache_folder: cache.path().to_owned(), cache_bytes: 1 << 30 };
    let tantivy: EngineMaker = Box::new(move |store| Arc::new(TantivyEngine::open(store, &options).unwrap()));
    let mut outcomes = Vec::new();
    for world in [IngestWorld::new(small_batches()).await, IngestWorld::with_engine(small_batches(), tantivy).await] {
        for number in 0..150u64 {
            let draft = EntryDraft::entity(number % 9).key(&(number * 2 / 3).to_string());
            world.append(world.ago(2000 - number * 5), &draft);
        }
        world.append(world.ago(900), &EntryDraft::bundle("b1"));
        world.append(world.ago(890), &EntryDraft::group(&[1, 2, 1]).key("g"));
        world.plant_others();
        world.run_for(2 * MINUTE).await;
        world.describe("b1", world.bucket.now());
        world.append(world.ago(500), &EntryDraft::entity(3));
        world.append(world.ago(499), &EntryDraft::entity(3).key("1"));
        world.run_for(20 * MINUTE).await;
        let contents = world.check().await;
        assert_eq!((contents.records.len(), contents.marks.corrected.len()), (160, 1));
        assert_eq!(world.status().problem, None);
        let standing: Vec<_> = world.outcomes().await.into_values().collect();
        outcomes.push((standing, contents.marks.outdated.len()));
    }
    assert_eq!(outcomes[0], outcomes[1]);
}

#[tokio::test(start_paused = true)]
async fn on_a_small_disk_no_entry_is_read_twice() {
    const BUNDLES: u64 = 6000;
    let cache = TempDir::new().unwrap();
    // One segment of some chunks fills it, and the next one begins while that one is uploaded.
    let options = EngineOptions { cache_folder: cache.path().to_owned(), cache_bytes: 8 << 20 };
    let tantivy: EngineMaker = Box::new(move |store| Arc::new(TantivyEngine::open(store, &options).unwrap()));
    // A compaction beside it holds room for as long as this machine takes: nothing that this clock could wait for.
    let options = IngestOptions { compaction: false, ..IngestOptions::default() };
    let world = IngestWorld::with_engine(options, tantivy).await;
    for number in 0..BUNDLES {
        let at = world.ago(9000 - number);
        world.append(at, &EntryDraft::bundle(&format!("b{number}")));
        world.describe(&format!("b{number}"), at);
    }
    let running = world.start();
    while world.status().totals.is_none_or(|totals| totals.records < BUNDLES) {
        world.pass(Duration::from_secs(1)).await;
        assert_eq!(world.status().problem, None);
    }
    world.stop(running).await;
    let entries = world.bucket.reads("log/") - world.bucket.reads("log/.tidemark/");
    let reads = entries + world.bucket.reads("metadata/");
    assert!(
        (200..=201).contains(&(reads * 100 / BUNDLES)),
        "{reads} reads of {BUNDLES} entries with a descriptor each"
    );
    let contents = world.check().await;
    assert_eq!(contents.records.len() as u64, BUNDLES);
}

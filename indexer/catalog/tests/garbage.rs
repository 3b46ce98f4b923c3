//! Pins and the collection of garbage, at every step and against each other.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use support::{
    Act, Call, Stage,
    process::{Process, owner, publish},
};
use tidemark_catalog::{
    CatalogError, CompactionResult, GARBAGE_GRACE, GarbageCollector, GarbageReport, Generation, IndexChain, LogId,
    MAX_GARBAGE_CANDIDATES, ObjectKind, ObjectName, PinChain, PublishRequest, RecordCounts, SegmentMeta, SetDigest,
    TransactionRejected, WriterLease,
};
use tidemark_store::{Entropy, Store};
use tidemark_wal::{Outcome, Token};
use tokio::time::{advance, timeout};

/// An index with one writer.
struct IndexFixture {
    stage: Stage,
    process: Process,
    writer: WriterLease,
    log: LogId,
    entropy: Entropy,
}

impl IndexFixture {
    async fn new() -> Self {
        let stage = Stage::new();
        let process = Process::new("a", &stage, owner("1"));
        let writer = process.writes().await;
        let log = process.root.id().await.unwrap().unwrap();
        Self { stage, process, writer, log, entropy: Entropy::seeded(7) }
    }

    fn index(&self) -> Store {
        self.stage.store().below("index")
    }

    fn collector(&self) -> GarbageCollector {
        GarbageCollector::new(&self.index(), &self.log, self.entropy.clone())
    }

    async fn collect(&self) -> GarbageReport {
        self.collector().collect("test").await.unwrap()
    }

    fn pins(&self) -> PinChain {
        PinChain::open(&self.index(), &self.log, self.entropy.clone())
    }

    fn chain(&self) -> IndexChain {
        IndexChain::open(&self.index(), Generation::first(), self.entropy.clone())
    }

    /// Uploads a segment of one record.
    async fn upload(&self) -> SegmentMeta {
        let state = &self.writer.manifest().state;
        let key =
            ObjectName::new(&state.generation, ObjectKind::Segment, self.writer.epoch(), &self.entropy).to_string();
        self.index().put(&key, Bytes::from_static(b"records")).await.unwrap();
        let token = Token::new(state.cursor.second(), &self.entropy);
        let mut counts = RecordCounts::default();
        counts.add(Outcome::Aborted);
        SegmentMeta {
            key,
            size: 7,
            checksum: "0".repeat(64),
            digest: SetDigest::of(token, 0, Outcome::Aborted, None),
            first: token,
            last: token,
            seq: state.next_seq..state.next_seq + 1,
            counts,
            documents: 1,
        }
    }

    async fn publish(&mut self) -> String {
        let segment = self.upload().await;
        let state = &self.writer.manifest().state;
        let publication = PublishRequest {
            from: state.cursor,
            to: state.cursor,
            horizon: state.horizon,
            first_seq: state.next_seq,
            records: 1,
            segments: vec![segment.clone()],
            sidecars: Vec::new(),
        };
        self.writer.publish(publication).await.unwrap();
        segment.key
    }

    /// Replaces the first segment by another with the same record.
    async fn compact(&mut self) -> String {
        let old = self.writer.manifest().state.segments[0].clone();
        let key = self.upload().await.key;
        let (removes, adds) = (vec![old.key.clone()], vec![SegmentMeta { key, ..old.clone() }]);
        self.writer.adopt(CompactionResult { removes, adds, ..CompactionResult::default() }).await.unwrap();
        old.key
    }

    async fn raise_epoch(&mut self) {
        self.writer.raise_epoch().await.unwrap();
    }

    async fn has(&self, key: &str) -> bool {
        self.index().head(key).await.unwrap().is_some()
    }

    /// Time passes, by the store's clock.
    async fn wait(&self, span: Duration) {
        advance(span).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_compaction_dropped_goes_after_the_grace_and_never_before() {
    let mut ground = IndexFixture::new().await;
    ground.publish().await;
    let dropped = ground.compact().await;
    let named = ground.writer.manifest().state.segments[0].key.clone();
    // Of the present epoch: it could be on its way into the index.
    assert_eq!(ground.collect().await.candidates, 0);
    ground.raise_epoch().await;
    assert_eq!(ground.collect().await.candidates, 1);
    ground.wait(GARBAGE_GRACE.saturating_sub(Duration::from_secs(1))).await;
    assert_eq!(ground.collect().await.deleted, 0);
    ground.wait(Duration::from_secs(2)).await;
    let report = ground.collect().await;
    assert_eq!((report.deleted, report.deleted_bytes, report.candidates), (1, 7, 0));
    assert!(!ground.has(&dropped).await && ground.has(&named).await);
    assert_eq!(ground.collect().await.deleted, 0);
}

#[tokio::test(start_paused = true)]
async fn the_grace_counts_from_when_an_object_was_first_seen_unreferenced() {
    let mut ground = IndexFixture::new().await;
    ground.publish().await;
    ground.wait(GARBAGE_GRACE * 10).await;
    let dropped = ground.compact().await;
    ground.raise_epoch().await;
    ground.collect().await;
    ground.wait(GARBAGE_GRACE / 2).await;
    ground.collect().await;
    assert!(ground.has(&dropped).await);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_was_never_published_goes_once_its_epoch_is_over() {
    let mut ground = IndexFixture::new().await;
    let lost = ground.upload().await.key;
    ground.collect().await;
    ground.wait(GARBAGE_GRACE * 2).await;
    ground.collect().await;
    assert!(ground.has(&lost).await, "its writer might still publish it");
    ground.raise_epoch().await;
    ground.collect().await;
    ground.wait(GARBAGE_GRACE).await;
    assert_eq!(ground.collect().await.deleted, 1);
}

#[tokio::test(start_paused = true)]
async fn only_names_of_the_catalog_in_generations_with_a_chain_of_this_log_are_garbage() {
    let mut ground = IndexFixture::new().await;
    ground.publish().await;
    ground.raise_epoch().await;
    let other = ObjectName::new(&"g9".parse().unwrap(), ObjectKind::Segment, 1, &ground.entropy).to_string();
    let strangers = [other, "notes.txt".to_owned(), "g1/plan/00000000000000000001-x".to_owned()];
    for key in &strangers {
        ground.index().put(key, Bytes::from_static(b"x")).await.unwrap();
    }
    // Another log's collector, and one that may not decide about a generation that is not its own.
    let foreign = GarbageCollector::new(&ground.index(), &LogId("f".repeat(32)), ground.entropy.clone());
    let dropped = ground.compact().await;
    ground.raise_epoch().await;
    for _ in 0..3 {
        assert_eq!(foreign.collect("other").await.unwrap().deleted, 0);
        ground.wait(GARBAGE_GRACE).await;
    }
    assert!(ground.has(&dropped).await);
    for _ in 0..3 {
        ground.collect().await;
        ground.wait(GARBAGE_GRACE).await;
    }
    assert!(!ground.has(&dropped).await);
    for key in strangers {
        assert!(ground.has(&key).await, "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pin_holds_what_the_index_drops_until_it_is_dropped_itself() {
    let mut ground = IndexFixture::new().await;
    ground.publish().await;
    let pin = ground.pins().pin(&ground.chain(), "daily", "me").await.unwrap();
    assert!(pin.confirmed && pin.made.is_some());
    ground.pins().pin_again("daily", "copy", "you").await.unwrap();
    let dropped = ground.compact().await;
    ground.raise_epoch().await;
    for name in ["daily", "copy"] {
        for _ in 0..3 {
            ground.collect().await;
            ground.wait(GARBAGE_GRACE).await;
        }
        assert!(ground.has(&dropped).await && ground.has(&pin.list).await, "{name}");
        let owner = if name == "daily" { "me" } else { "you" };
        assert!(matches!(ground.pins().unpin(name, "stranger").await, Err(CatalogError::Rejected(_))));
        ground.pins().unpin(name, owner).await.unwrap();
    }
    assert!(!ground.has(&pin.list).await);
    ground.collect().await;
    ground.wait(GARBAGE_GRACE).await;
    ground.collect().await;
    assert!(!ground.has(&dropped).await);
}

#[tokio::test(start_paused = true)]
async fn a_pass_that_cannot_read_a_list_deletes_nothing_and_says_which() {
    let mut ground = IndexFixture::new().await;
    ground.publish().await;
    let dropped = ground.compact().await;
    ground.raise_epoch().await;
    ground.collect().await;
    let pin = ground.pins().pin(&ground.chain(), "daily", "me").await.unwrap();
    ground.index().delete(std::slice::from_ref(&pin.list)).await.unwrap();
    ground.wait(GARBAGE_GRACE).await;
    let error = ground.collector().collect("test").await.unwrap_err();
    assert!(matches!(&error, CatalogError::Corrupt { key, .. } if key.ends_with(&pin.list)), "{error}");
    assert!(ground.has(&dropped).await);
    ground.pins().unpin("daily", "me").await.unwrap();
    assert_eq!(ground.collect().await.deleted, 1);
}

/// The index drops an object, and a pass that began before deletes it, while a pin of an earlier manifest is being made.
#[tokio::test(start_paused = true)]
async fn a_pin_of_a_manifest_that_the_index_has_left_is_made_again() {
    let mut ground = IndexFixture::new().await;
    ground.publish().await;
    // The pin's process is paused just before its pin becomes visible.
    let resume = std::sync::Arc::new(tokio::sync::Notify::new());
    ground.stage.disturb(Call::Put, "snapshots/", 1, 1, Act::Pause(resume.clone()));
    let (pins, chain) = (ground.pins(), ground.chain());
    let pinning = tokio::spawn(async move { pins.pin(&chain, "daily", "me").await });
    advance(Duration::from_secs(1)).await;
    let dropped = ground.compact().await;
    ground.raise_epoch().await;
    ground.collect().await;
    ground.wait(GARBAGE_GRACE).await;
    assert_eq!(ground.collect().await.deleted, 1);
    assert!(!ground.has(&dropped).await);
    resume.notify_one();
    let pin = pinning.await.unwrap().unwrap();
    assert!(pin.confirmed);
    for key in ground.pins().read_list(&pin).await.unwrap().objects() {
        assert!(ground.has(key).await, "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_closed_generation_is_not_pinned_and_its_manifest_is_no_root() {
    let mut ground = IndexFixture::new().await;
    let key = ground.publish().await;
    let state = ground.writer.manifest().state.clone();
    let successor = tidemark_catalog::Manifest { generation: "g2".parse().unwrap(), ..state };
    let log = ground.log.clone();
    let (index, entropy) = (ground.index(), ground.entropy.clone());
    ground.writer.close(&successor).await.unwrap();
    let chain = IndexChain::open(&index, Generation::first(), entropy.clone());
    let refused = PinChain::open(&index, &log, entropy.clone()).pin(&chain, "late", "me").await.unwrap_err();
    assert!(matches!(refused, CatalogError::Rejected(TransactionRejected::Closed { .. })), "{refused}");
    let collector = GarbageCollector::new(&index, &log, entropy);
    collector.collect("test").await.unwrap();
    advance(GARBAGE_GRACE).await;
    assert_eq!(collector.collect("test").await.unwrap().deleted, 1);
    assert!(index.head(&key).await.unwrap().is_none());
    drop(ground.process);
}

#[tokio::test(start_paused = true)]
async fn of_two_passes_the_one_that_began_first_stops() {
    let mut ground = IndexFixture::new().await;
    ground.publish().await;
    ground.compact().await;
    ground.raise_epoch().await;
    ground.collect().await;
    ground.wait(GARBAGE_GRACE).await;
    let resume = std::sync::Arc::new(tokio::sync::Notify::new());
    // The listing of the first pass waits.
    ground.stage.disturb(Call::List, "index", 4, 1, Act::Pause(resume.clone()));
    let first = ground.collector();
    let first = tokio::spawn(async move { first.collect("first").await });
    advance(Duration::from_secs(1)).await;
    assert_eq!(ground.collector().collect("second").await.unwrap().deleted, 1);
    resume.notify_one();
    let refused = first.await.unwrap().unwrap_err();
    assert!(matches!(refused, CatalogError::Rejected(TransactionRejected::Fenced { .. })), "{refused}");
}

/// A pass that ends at any call: nothing that is named goes, and a later pass finishes.
#[tokio::test(start_paused = true)]
async fn a_crash_at_any_step_of_a_pass_deletes_nothing_that_is_named() {
    for (step, end) in (0..120).flat_map(|step| [(step, Act::EndBefore), (step, Act::EndAfter)]) {
        let mut ground = IndexFixture::new().await;
        ground.publish().await;
        let pin = ground.pins().pin(&ground.chain(), "daily", "me").await.unwrap();
        ground.compact().await;
        let dropped = ground.compact().await;
        ground.raise_epoch().await;
        ground.collect().await;
        ground.wait(GARBAGE_GRACE).await;
        ground.stage.disturb(Call::Any, "index", step, 1, end);
        let whole = timeout(Duration::from_secs(100), ground.collector().collect("crashing")).await.is_ok();
        ground.stage.peace();
        for key in ground.writer.manifest().state.objects() {
            assert!(ground.has(key).await, "step {step}: {key}");
        }
        for key in ground.pins().read_list(&pin).await.unwrap().objects() {
            assert!(ground.has(key).await, "step {step}: {key}");
        }
        ground.collect().await;
        ground.wait(GARBAGE_GRACE).await;
        ground.collect().await;
        assert!(!ground.has(&dropped).await, "step {step}");
        publish(&mut ground.writer).await.unwrap();
        if whole {
            assert!(step > 10, "{step} calls only");
            return;
        }
    }
    panic!("a pass has more calls than were tried");
}

#[tokio::test(start_paused = true)]
async fn a_pass_carries_a_bounded_number_of_candidates() {
    let mut ground = IndexFixture::new().await;
    for _ in 0..MAX_GARBAGE_CANDIDATES + 5 {
        let name = ObjectName::new(&Generation::first(), ObjectKind::Segment, 1, &ground.entropy).to_string();
        ground.index().put(&name, Bytes::new()).await.unwrap();
    }
    ground.raise_epoch().await;
    let report = ground.collect().await;
    assert_eq!((report.candidates, report.waiting), (MAX_GARBAGE_CANDIDATES as u64, 5));
    ground.wait(GARBAGE_GRACE).await;
    assert_eq!(ground.collect().await.deleted, MAX_GARBAGE_CANDIDATES as u64);
    ground.collect().await;
    ground.wait(GARBAGE_GRACE).await;
    assert_eq!(ground.collect().await.deleted, 5);
}

#[tokio::test(start_paused = true)]
async fn a_purge_drops_the_pins_and_their_lists_first() {
    let mut ground = IndexFixture::new().await;
    ground.publish().await;
    let pin = ground.pins().pin(&ground.chain(), "daily", "me").await.unwrap();
    let (log, index) = (ground.log.clone(), ground.index());
    ground.writer.release().await.unwrap();
    ground.process.purges().await;
    assert!(index.head(&pin.list).await.unwrap().is_none());
    let pins = PinChain::open(&index, &log, Entropy::seeded(9));
    assert!(pins.register().await.unwrap().pins.is_empty());
}

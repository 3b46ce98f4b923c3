//! Pins and the collection of garbage, at every step and against each other.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use bytes::Bytes;
use tidemark_catalog::{
    CatalogError, CompactionResult, EndReason, GARBAGE_GRACE, GarbageCollector, GarbageReport, GarbageSurvey,
    Generation, GenerationEnd, IndexChain, LogId, MAX_LIST_CANDIDATES, Manifest, ObjectKind, ObjectName, PinChain,
    PublishRequest, RecordCounts, SegmentMeta, SetDigest, SetElement, TransactionRejected, WriterLease,
};
use tidemark_store::{Entropy, Store};
use tidemark_wal::{Outcome, Token};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{advance, timeout},
};

use super::{
    purge::objects_of_others,
    support::{
        CallFault, ScriptedStore, StoreCall,
        process::{IndexProcess, owner, publish},
        strike_each_call,
    },
};

const HOUR: Duration = Duration::from_hours(1);

/// An index with one writer.
pub(crate) struct IndexFixture {
    pub(crate) stage: ScriptedStore,
    process: IndexProcess,
    writer: WriterLease,
    log: LogId,
    entropy: Entropy,
}

impl IndexFixture {
    pub(crate) async fn new() -> Self {
        let stage = ScriptedStore::new();
        let process = IndexProcess::new("a", &stage, owner("1"));
        let writer = process.writes().await;
        let log = process.root.id().await.unwrap().unwrap();
        Self { stage, process, writer, log, entropy: Entropy::seeded(7) }
    }

    pub(crate) fn index(&self) -> Store {
        self.stage.store().below("index")
    }

    fn collector(&self) -> GarbageCollector {
        GarbageCollector::new(&self.index(), &self.log, self.entropy.clone())
    }

    async fn collect(&self) -> GarbageReport {
        self.collector().collect("test").await.unwrap()
    }

    /// Two passes with the grace between them: what was garbage at the first is gone.
    pub(crate) async fn collect_all(&self) {
        self.collect().await;
        self.wait(GARBAGE_GRACE).await;
        self.collect().await;
    }

    pub(crate) fn pins(&self) -> PinChain {
        PinChain::open(&self.index(), &self.log, self.entropy.clone())
    }

    pub(crate) fn chain(&self) -> IndexChain {
        IndexChain::open(&self.index(), Generation::first(), self.entropy.clone())
    }

    pub(crate) fn chain_of(&self, generation: u64) -> IndexChain {
        IndexChain::open(&self.index(), numbered(generation), self.entropy.clone())
    }

    /// The generations before this one end, as by reindexes, and it begins.
    pub(crate) async fn rebuild_up_to(&self, generation: u64) {
        let claim = &self.writer.manifest().state.claim;
        for number in 2..=generation {
            let end = GenerationEnd { generation: Some(numbered(number)), by: EndReason::Reindex };
            let close =
                |open: Option<&Manifest>| Ok(open.map(|open| Manifest { closed: Some(end.clone()), ..open.clone() }));
            self.chain_of(number - 1).chain().append(None, close).await.unwrap();
            let first = Manifest { epoch: 1, claim: claim.clone(), ..Manifest::new(numbered(number)) };
            self.chain_of(number).chain().append(None, |_| Ok(Some(first.clone()))).await.unwrap();
        }
    }

    /// All objects of these generations are lost.
    async fn lose(&self, generations: RangeInclusive<u64>) {
        let is_lost = |key: &String| generations.clone().any(|number| key.starts_with(&format!("index/g{number}/")));
        let keys: Vec<_> = self.stage.keys().await.into_iter().filter(is_lost).collect();
        assert!(keys.len() >= generations.count());
        self.stage.store().delete(&keys).await.unwrap();
    }

    /// As a writer that was suspended with an upload on its way.
    async fn upload_late(&self, generation: u64) -> String {
        let key = ObjectName::new(&numbered(generation), ObjectKind::Segment, 1, &self.entropy).to_string();
        self.index().put(&key, Bytes::from_static(b"late")).await.unwrap();
        key
    }

    /// A pass, and how many requests it made.
    async fn count(&self, pass: impl Future<Output = Result<GarbageReport, CatalogError>>) -> u64 {
        let before = self.stage.calls();
        pass.await.unwrap();
        self.stage.calls() - before
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
        let aborted = SetElement { token, op: 0, outcome: Outcome::Aborted, evidence: None, body: None };
        SegmentMeta {
            key,
            size: 7,
            checksum: "0".repeat(64),
            format: 1,
            digest: SetDigest::of(&aborted),
            first: token,
            last: token,
            entry_times: token.second()..token.second().next(),
            seq: state.next_seq..state.next_seq + 1,
            counts,
            unsettled: 1,
            documents: 1,
        }
    }

    pub(crate) async fn publish(&mut self) -> String {
        let segment = self.upload().await;
        let state = &self.writer.manifest().state;
        let publication =
            PublishRequest { records: 1, segments: vec![segment.clone()], ..PublishRequest::after(state) };
        self.writer.publish(publication).await.unwrap();
        segment.key
    }

    /// Replaces the first segment by another with the same record.
    pub(crate) async fn compact(&mut self) -> String {
        let old = self.writer.manifest().state.segments[0].clone();
        let key = self.upload().await.key;
        let (removes, adds) = (vec![old.key.clone()], vec![SegmentMeta { key, ..old.clone() }]);
        self.writer.adopt(CompactionResult { removes, adds, ..CompactionResult::default() }).await.unwrap();
        old.key
    }

    pub(crate) async fn raise_epoch(&mut self) {
        self.writer.raise_epoch().await.unwrap();
    }

    pub(crate) async fn has(&self, key: &str) -> bool {
        self.index().head(key).await.unwrap().is_some()
    }

    /// The keys below the index's URL that begin with `prefix`.
    async fn index_keys(&self, prefix: &str) -> Vec<String> {
        let keys = self.stage.keys().await;
        let keys = keys.iter().filter_map(|key| key.strip_prefix("index/"));
        keys.filter(|key| key.starts_with(prefix)).map(str::to_owned).collect()
    }

    async fn lists_of_garbage(&self) -> Vec<String> {
        self.index_keys(&format!("gc/{}/list/", self.log)).await
    }

    /// An index with two objects that it dropped: one that is due, and one that no pass has seen.
    async fn with_garbage() -> (Self, String, String) {
        let mut ground = Self::new().await;
        ground.publish().await;
        let due = ground.compact().await;
        ground.raise_epoch().await;
        ground.collect().await;
        ground.wait(GARBAGE_GRACE).await;
        let unseen = ground.compact().await;
        ground.raise_epoch().await;
        (ground, due, unseen)
    }

    /// A pass that waits at its call number `skip` of this kind until it is resumed.
    async fn suspended_pass(
        &self,
        call: StoreCall,
        skip: u64,
    ) -> (Arc<Notify>, JoinHandle<Result<GarbageReport, CatalogError>>) {
        let resume = Arc::new(Notify::new());
        self.stage.disturb(call, "index", skip, 1, CallFault::Pause(resume.clone()));
        let collector = self.collector();
        let pass = tokio::spawn(async move { collector.collect("suspended").await });
        advance(Duration::from_secs(1)).await;
        (resume, pass)
    }

    async fn has_what_is_named(&self, step: u64) {
        for key in self.writer.manifest().state.objects() {
            assert!(self.has(key).await, "step {step}: {key}");
        }
    }

    async fn has_no_list(&self, step: u64) {
        let left = self.lists_of_garbage().await;
        assert!(left.is_empty(), "step {step}: {left:?}");
    }

    /// Time passes, by the store's clock.
    pub(crate) async fn wait(&self, span: Duration) {
        advance(span).await;
    }
}

fn numbered(generation: u64) -> Generation {
    format!("g{generation}").parse().unwrap()
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
    let strangers: Vec<_> = strangers.into_iter().chain(objects_of_others(&ground.log)).collect();
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
        // The four among the segments and sidecars are reported.
        assert_eq!(ground.collect().await.others, 4);
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
    ground.collect_all().await;
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
    let resume = Arc::new(Notify::new());
    ground.stage.disturb(StoreCall::Put, "snapshots/", 1, 1, CallFault::Pause(resume.clone()));
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

/// The generation after `state`, with the same records.
fn successor_of(state: &Manifest) -> Manifest {
    Manifest { generation: numbered(2), ..state.clone() }
}

#[tokio::test(start_paused = true)]
async fn a_generation_that_is_closed_stays_until_the_pin_of_its_last_manifest_is_dropped() {
    let mut ground = IndexFixture::new().await;
    let key = ground.publish().await;
    let (last, chain, pins) = (ground.writer.manifest().state.clone(), ground.chain(), ground.pins());
    let (index, collector) = (ground.index(), ground.collector());
    ground.writer.close(&successor_of(&last), &pins, "reindex").await.unwrap();
    let pin = pins.register().await.unwrap().pins["before-g2"].clone();
    assert!(pin.confirmed && pin.owner == "reindex", "{pin:?}");
    assert_eq!(pins.read_list(&pin).await.unwrap(), last);
    let refused = pins.pin(&chain, "late", "me").await.unwrap_err();
    assert!(matches!(refused, CatalogError::Rejected(TransactionRejected::Closed { .. })), "{refused}");
    for _ in 0..3 {
        assert_eq!(collector.collect("test").await.unwrap().deleted, 0);
        advance(GARBAGE_GRACE).await;
    }
    assert!(index.head(&key).await.unwrap().is_some());
    // Its manifest alone is no root.
    pins.unpin("before-g2", "reindex").await.unwrap();
    collector.collect("test").await.unwrap();
    advance(GARBAGE_GRACE).await;
    assert_eq!(collector.collect("test").await.unwrap().deleted, 1);
    assert!(index.head(&key).await.unwrap().is_none());
    drop(ground.process);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_pinned_for_a_close_that_is_refused() {
    let mut ground = IndexFixture::new().await;
    ground.publish().await;
    let behind = Manifest { next_seq: 1, ..successor_of(&ground.writer.manifest().state) };
    let pins = ground.pins();
    assert!(ground.writer.close(&behind, &pins, "reindex").await.is_err());
    assert!(pins.register().await.unwrap().pins.is_empty());
    drop(ground.process);
}

/// A writer that ends within a close: the next one closes, and what the pin holds is what the generation ended with.
#[tokio::test(start_paused = true)]
async fn a_close_is_repeated_after_a_crash_at_any_step() {
    let calls = strike_each_call(steps(), async |(step, end)| {
        let mut ground = IndexFixture::new().await;
        ground.publish().await;
        let (pins, chain, process, stage) = (ground.pins(), ground.chain(), ground.process, ground.stage);
        let successor = successor_of(&ground.writer.manifest().state);
        let close = Box::pin(ground.writer.close(&successor, &pins, "reindex"));
        let whole = crashes(&stage, step, end, close).await.is_some();
        let is_closed = async || chain.latest().await.unwrap().unwrap().state.closed.is_some();
        if !is_closed().await {
            let mut next = process.acquire(&chain).await.unwrap();
            publish(&mut next).await.unwrap();
            let successor = successor_of(&next.manifest().state);
            next.close(&successor, &pins, "reindex").await.unwrap();
        }
        assert!(is_closed().await, "step {step}");
        let pin = pins.register().await.unwrap().pins["before-g2"].clone();
        let (held, last) = (pins.read_list(&pin).await.unwrap(), chain.latest().await.unwrap().unwrap());
        assert!(pin.confirmed && pin.manifest + 1 == last.number, "step {step}: {pin:?}");
        assert_eq!(held, Manifest { closed: None, holder: held.holder.clone(), ..last.state }, "step {step}");
        whole.then_some(step)
    })
    .await;
    assert!(calls > 10, "{calls} calls only");
}

/// A writer that lost its lease within a close takes no pin of the one that closed.
#[tokio::test(start_paused = true)]
async fn a_suspended_close_drops_no_pin_of_a_later_one() {
    let calls = strike_each_call(0..60, async |step| {
        let mut ground = IndexFixture::new().await;
        ground.publish().await;
        let (pins, chain, process, stage) = (ground.pins(), ground.chain(), ground.process, ground.stage);
        // A pin that an earlier attempt left.
        pins.pin(&chain, "before-g2", "reindex").await.unwrap();
        let resume = Arc::new(Notify::new());
        stage.disturb(StoreCall::Any, "index", step, 1, CallFault::Pause(resume.clone()));
        let (suspended, late_pins) = (ground.writer, pins.clone());
        let successor = successor_of(&suspended.manifest().state);
        let late = tokio::spawn(async move { suspended.close(&successor, &late_pins, "reindex").await.is_ok() });
        advance(Duration::from_secs(1)).await;
        let whole = late.is_finished();
        stage.peace();
        let has_closed = chain.latest().await.unwrap().unwrap().state.closed.is_some();
        if !has_closed {
            let next = process.acquire(&chain).await.unwrap();
            let successor = successor_of(&next.manifest().state);
            next.close(&successor, &pins, "reindex").await.unwrap();
        }
        resume.notify_one();
        assert_eq!(late.await.unwrap(), has_closed, "step {step}");
        let register = pins.register().await.unwrap();
        let pin = register.pins.get("before-g2").unwrap_or_else(|| panic!("step {step}: the pin is gone"));
        assert!(pin.confirmed && pins.read_list(pin).await.is_ok(), "step {step}");
        whole.then_some(step)
    })
    .await;
    assert!(calls > 10, "{calls} calls only");
}

#[tokio::test(start_paused = true)]
async fn an_hourly_pass_asks_for_the_same_after_one_rebuild_and_after_fifty() {
    let mut costs = Vec::new();
    for rebuilds in [1, 50] {
        let mut ground = IndexFixture::new().await;
        ground.publish().await;
        ground.rebuild_up_to(rebuilds + 1).await;
        ground.collect().await;
        ground.wait(GARBAGE_GRACE).await;
        assert_eq!(ground.collect().await.deleted, 1);
        ground.wait(HOUR).await;
        let hourly = ground.count(ground.collector().collect("test")).await;
        // What a day's pass and `tidemark gc` add: three listings for each closed generation, one of them to find it, and one that finds
        // no further one.
        let everywhere = ground.count(ground.collector().collect_everywhere("test")).await;
        assert_eq!(everywhere, hourly + 3 * rebuilds + 1);
        costs.push(hourly);
    }
    assert_eq!(costs[0], costs[1]);
    assert!(costs[0] <= 40, "{costs:?} requests");
}

#[tokio::test(start_paused = true)]
async fn what_lands_in_a_closed_generation_long_after_its_end_goes_too() {
    let mut ground = IndexFixture::new().await;
    ground.publish().await;
    ground.rebuild_up_to(4).await;
    ground.collect_all().await;
    ground.wait(HOUR).await;
    let late = ground.upload_late(2).await;
    assert_eq!(ground.collect().await.candidates, 0, "the generation is not listed in this hour");
    let mut hours = 0;
    while ground.has(&late).await {
        ground.wait(HOUR).await;
        ground.collect().await;
        hours += 1;
        assert!(hours <= 50, "it stays");
    }
    assert!(hours >= 24, "{hours} h after the upload");
}

#[tokio::test(start_paused = true)]
async fn a_pin_in_a_closed_generation_holds_until_it_is_dropped() {
    let mut ground = IndexFixture::new().await;
    let pinned = ground.publish().await;
    ground.pins().pin(&ground.chain(), "daily", "me").await.unwrap();
    ground.rebuild_up_to(3).await;
    for _ in 0..80 {
        ground.collect().await;
        ground.wait(HOUR).await;
    }
    assert!(ground.has(&pinned).await);
    ground.pins().unpin("daily", "me").await.unwrap();
    for _ in 0..50 {
        ground.collect().await;
        ground.wait(HOUR).await;
    }
    assert!(!ground.has(&pinned).await);
}

/// Generations end while a pass runs: at each of its calls.
#[tokio::test(start_paused = true)]
async fn nothing_is_forgotten_when_a_generation_ends_within_a_pass() {
    let calls = strike_each_call(0..120, async |step| {
        let mut ground = IndexFixture::new().await;
        let published = ground.publish().await;
        ground.collect().await;
        ground.wait(HOUR).await;
        let (resume, pass) = ground.suspended_pass(StoreCall::Any, step).await;
        let whole = pass.is_finished();
        ground.stage.peace();
        let late = ground.upload_late(1).await;
        ground.rebuild_up_to(2).await;
        let named = ground.upload_late(2).await;
        resume.notify_one();
        pass.await.unwrap().unwrap();
        for _ in 0..50 {
            ground.collect().await;
            ground.wait(HOUR).await;
        }
        assert!(!ground.has(&published).await && !ground.has(&late).await, "step {step}");
        assert!(ground.has(&named).await, "step {step}: its epoch is in force");
        whole.then_some(step)
    })
    .await;
    assert!(calls > 10, "{calls} calls only");
}

/// A pass over an index that was rebuilt ends at any call: what is left is collected later.
#[tokio::test(start_paused = true)]
async fn a_crash_at_any_step_forgets_no_closed_generation() {
    let calls = strike_each_call(steps(), async |(step, end)| {
        let mut ground = IndexFixture::new().await;
        let published = ground.publish().await;
        ground.collect().await;
        ground.rebuild_up_to(3).await;
        ground.wait(HOUR).await;
        let late = ground.upload_late(2).await;
        let whole = crashes(&ground.stage, step, end, ground.collector().collect("crashing")).await.is_some();
        for _ in 0..50 {
            ground.collect().await;
            ground.wait(HOUR).await;
        }
        assert!(!ground.has(&published).await && !ground.has(&late).await, "step {step}");
        let state = ground.collector().chain().latest().await.unwrap().unwrap().state;
        assert_eq!((state.ended, state.lists.len()), (2, 0), "step {step}");
        whole.then_some(step)
    })
    .await;
    assert!(calls > 10, "{calls} calls only");
}

#[tokio::test(start_paused = true)]
async fn of_two_passes_the_one_that_began_first_stops() {
    let mut ground = IndexFixture::new().await;
    ground.publish().await;
    ground.compact().await;
    ground.raise_epoch().await;
    ground.collect().await;
    ground.wait(GARBAGE_GRACE).await;
    // The listing of the first pass waits.
    let (resume, first) = ground.suspended_pass(StoreCall::List, 4).await;
    assert_eq!(ground.collector().collect("second").await.unwrap().deleted, 1);
    resume.notify_one();
    let refused = first.await.unwrap().unwrap_err();
    assert!(matches!(refused, CatalogError::Rejected(TransactionRejected::Fenced { .. })), "{refused}");
}

/// A pass that ends at any call: nothing that is named goes, and a later pass finishes.
#[tokio::test(start_paused = true)]
async fn a_crash_at_any_step_of_a_pass_deletes_nothing_that_is_named() {
    let calls = strike_each_call(steps(), async |(step, end)| {
        let mut ground = IndexFixture::new().await;
        ground.publish().await;
        let pin = ground.pins().pin(&ground.chain(), "daily", "me").await.unwrap();
        ground.compact().await;
        let dropped = ground.compact().await;
        ground.raise_epoch().await;
        ground.collect().await;
        ground.wait(GARBAGE_GRACE).await;
        let whole = crashes(&ground.stage, step, end, ground.collector().collect("crashing")).await.is_some();
        ground.has_what_is_named(step).await;
        for key in ground.pins().read_list(&pin).await.unwrap().objects() {
            assert!(ground.has(key).await, "step {step}: {key}");
        }
        ground.collect_all().await;
        assert!(!ground.has(&dropped).await, "step {step}");
        ground.wait(GARBAGE_GRACE).await;
        ground.collect().await;
        ground.has_no_list(step).await;
        publish(&mut ground.writer).await.unwrap();
        whole.then_some(step)
    })
    .await;
    assert!(calls > 10, "{calls} calls only");
}

/// What a busy log makes in a day: a publication a second, with what merges replace.
#[tokio::test(start_paused = true)]
async fn all_of_a_busy_day_is_gone_after_forty_nine_hours() {
    const BURSTS: usize = 12;
    const BURST_OBJECTS: usize = 10_000;
    let mut ground = IndexFixture::new().await;
    let named = ground.publish().await;
    ground.raise_epoch().await;
    let mut most = 0;
    for pass in 0..=24 {
        if pass < BURSTS {
            for number in 0..BURST_OBJECTS {
                let kind = if number % 3 == 0 { ObjectKind::Sidecar } else { ObjectKind::Segment };
                let name = ObjectName::new(&Generation::first(), kind, 1, &ground.entropy).to_string();
                ground.index().put(&name, Bytes::new()).await.unwrap();
            }
        }
        let report = ground.collect().await;
        assert_eq!(report.waiting, 0, "pass {pass}");
        most = most.max(report.candidates);
        ground.wait(HOUR * 2).await;
    }
    assert_eq!(most, (BURSTS * BURST_OBJECTS) as u64);
    let left = ground.index_keys("g1/s").await;
    assert_eq!(left, [named]);
    assert!(ground.lists_of_garbage().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn more_than_one_list_holds_is_in_several() {
    let mut ground = IndexFixture::new().await;
    for _ in 0..MAX_LIST_CANDIDATES + 5 {
        let name = ObjectName::new(&Generation::first(), ObjectKind::Segment, 1, &ground.entropy).to_string();
        ground.index().put(&name, Bytes::new()).await.unwrap();
    }
    ground.raise_epoch().await;
    let report = ground.collect().await;
    assert_eq!((report.candidates, report.waiting), (MAX_LIST_CANDIDATES + 5, 0));
    assert_eq!(ground.lists_of_garbage().await.len(), 2);
    ground.wait(GARBAGE_GRACE).await;
    assert_eq!(ground.collect().await.deleted, MAX_LIST_CANDIDATES + 5);
    assert!(ground.lists_of_garbage().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pass_that_finds_nothing_new_writes_no_list() {
    let mut ground = IndexFixture::new().await;
    ground.publish().await;
    ground.compact().await;
    ground.raise_epoch().await;
    ground.collect().await;
    let lists = ground.lists_of_garbage().await;
    assert_eq!(lists.len(), 1);
    for _ in 0..23 {
        ground.wait(HOUR).await;
        assert_eq!(ground.collect().await.candidates, 1);
        assert_eq!(ground.lists_of_garbage().await, lists);
    }
}

/// What it named gets a new date: it goes a day later, and no earlier.
#[tokio::test(start_paused = true)]
async fn a_list_that_is_gone_damaged_or_refused_costs_a_day() {
    for fault in ["gone", "damaged", "refused"] {
        let mut ground = IndexFixture::new().await;
        ground.publish().await;
        let dropped = ground.compact().await;
        ground.raise_epoch().await;
        ground.collect().await;
        let list = ground.lists_of_garbage().await.remove(0);
        let index = ground.index();
        match fault {
            "gone" => index.delete(std::slice::from_ref(&list)).await.unwrap(),
            "damaged" => index.put(&list, Bytes::from_static(b"{}")).await.unwrap(),
            _ => ground.stage.disturb(StoreCall::Get, &list, 0, u64::MAX, CallFault::Forbid),
        }
        ground.wait(GARBAGE_GRACE).await;
        assert_eq!(ground.collect().await.deleted, 0, "{fault}");
        assert!(!ground.has(&list).await, "{fault}");
        ground.wait(GARBAGE_GRACE).await;
        assert_eq!(ground.collect().await.deleted, 1, "{fault}");
        assert!(!ground.has(&dropped).await, "{fault}");
    }
}

/// A process that ended within a pin holds an object that was a candidate for almost a day, until its owner drops the pin.
#[tokio::test(start_paused = true)]
async fn a_candidate_that_is_named_again_begins_its_grace_again() {
    let mut ground = IndexFixture::new().await;
    ground.publish().await;
    let resume = Arc::new(Notify::new());
    ground.stage.disturb(StoreCall::Put, "snapshots/", 1, 1, CallFault::Pause(resume.clone()));
    let (pins, chain) = (ground.pins(), ground.chain());
    let pinning =
        tokio::spawn(async move { timeout(Duration::from_secs(100), pins.pin(&chain, "daily", "me")).await.is_err() });
    advance(Duration::from_secs(1)).await;
    let dropped = ground.compact().await;
    let other = ground.compact().await;
    ground.raise_epoch().await;
    assert_eq!(ground.collect().await.candidates, 2);
    // Its last call is the pin itself.
    ground.stage.disturb(StoreCall::Get, "g1/manifest", 0, u64::MAX, CallFault::EndBefore);
    resume.notify_one();
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert!(pinning.await.unwrap());
    ground.stage.peace();
    assert!(!ground.pins().register().await.unwrap().pins["daily"].confirmed);
    ground.wait(GARBAGE_GRACE / 2).await;
    assert_eq!(ground.collect().await.candidates, 1);
    ground.wait(GARBAGE_GRACE / 4).await;
    ground.pins().unpin("daily", "me").await.unwrap();
    assert_eq!(ground.collect().await.candidates, 2);
    ground.wait(GARBAGE_GRACE / 4).await;
    // The other one of the same list keeps its date.
    assert_eq!(ground.collect().await.deleted, 1);
    assert!(ground.has(&dropped).await && !ground.has(&other).await);
    ground.wait(GARBAGE_GRACE / 2).await;
    assert_eq!(ground.collect().await.deleted, 0);
    ground.wait(GARBAGE_GRACE / 4).await;
    assert_eq!(ground.collect().await.deleted, 1);
    assert!(!ground.has(&dropped).await);
    assert!(ground.lists_of_garbage().await.is_empty());
}

/// A pass ends, or is suspended, between its list and its record: the list goes a day later, and never one that a record names.
#[tokio::test(start_paused = true)]
async fn a_list_that_no_record_names_goes_after_the_grace() {
    let mut ground = IndexFixture::new().await;
    ground.publish().await;
    ground.compact().await;
    ground.raise_epoch().await;
    ground.stage.disturb(StoreCall::Put, "/list/", 0, 1, CallFault::EndAfter);
    assert!(timeout(Duration::from_secs(100), ground.collector().collect("ends")).await.is_err());
    ground.stage.peace();
    let orphan = ground.lists_of_garbage().await.remove(0);
    ground.wait(HOUR).await;
    ground.collect().await;
    let named = ground.lists_of_garbage().await;
    assert_eq!((named.len(), named.contains(&orphan)), (2, true));
    ground.wait(GARBAGE_GRACE.saturating_sub(HOUR + Duration::from_secs(110))).await;
    ground.collect().await;
    assert!(ground.has(&orphan).await, "it may be of a pass that is under way");
    ground.wait(Duration::from_mins(2)).await;
    ground.collect().await;
    let left = ground.lists_of_garbage().await;
    assert_eq!((left.len(), left.contains(&orphan)), (1, false));
    assert!(named.contains(&left[0]));
}

/// Suspended at any call for two days, while others collect: what it does afterwards neither deletes nor keeps anything else.
#[tokio::test(start_paused = true)]
async fn a_pass_that_was_suspended_at_any_call_leaves_nothing() {
    let calls = strike_each_call(0..150, async |step| {
        let (ground, early, late) = IndexFixture::with_garbage().await;
        let (resume, pass) = ground.suspended_pass(StoreCall::Any, step).await;
        let whole = pass.is_finished();
        ground.stage.peace();
        let later = ground.upload_late(1).await;
        for _ in 0..2 {
            ground.wait(GARBAGE_GRACE).await;
            ground.collect().await;
        }
        assert!(!ground.has(&early).await && !ground.has(&late).await && !ground.has(&later).await, "step {step}");
        let last = ground.upload_late(1).await;
        ground.collect().await;
        resume.notify_one();
        let _ = pass.await.unwrap();
        assert!(ground.has(&last).await, "step {step}");
        ground.has_what_is_named(step).await;
        ground.wait(GARBAGE_GRACE).await;
        ground.collect_all().await;
        assert!(!ground.has(&last).await, "step {step}");
        ground.has_no_list(step).await;
        whole.then_some(step)
    })
    .await;
    assert!(calls > 10, "{calls} calls only");
}

/// Answers are lost, and writes land late, at any call.
#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_at_any_call_loses_nothing_and_leaves_nothing() {
    let acts = [CallFault::LoseAnswer, CallFault::Drop, CallFault::LandLater(HOUR * 5)];
    let calls = strike_each_call((0..150).flat_map(|step| acts.clone().map(|act| (step, act))), async |(step, act)| {
        let (ground, early, late) = IndexFixture::with_garbage().await;
        let before = ground.stage.calls();
        ground.stage.disturb(StoreCall::Any, "index", step, 3, act);
        let _ = ground.collector().collect("disturbed").await;
        let whole = ground.stage.calls() - before <= step;
        ground.stage.peace();
        ground.has_what_is_named(step).await;
        for _ in 0..60 {
            ground.wait(HOUR).await;
            let _ = ground.collector().collect("test").await;
        }
        assert!(!ground.has(&early).await && !ground.has(&late).await, "step {step}");
        ground.has_no_list(step).await;
        whole.then_some(step)
    })
    .await;
    assert!(calls > 10, "{calls} calls only");
}

/// A lock or a hold on one object, or a right that is lacking.
#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_deleted_keeps_no_other() {
    let mut ground = IndexFixture::new().await;
    for _ in 0..1500 {
        let name = ObjectName::new(&Generation::first(), ObjectKind::Segment, 1, &ground.entropy).to_string();
        ground.index().put(&name, Bytes::new()).await.unwrap();
    }
    ground.raise_epoch().await;
    ground.collect().await;
    let garbage = |keys: Vec<String>| keys.into_iter().filter(|key| key.contains("/segment/")).collect::<Vec<_>>();
    let locked = garbage(ground.stage.keys().await)[3].clone();
    ground.stage.disturb(StoreCall::Delete, &locked, 0, u64::MAX, CallFault::Forbid);
    ground.wait(GARBAGE_GRACE).await;
    let later = ground.upload().await.key;
    ground.raise_epoch().await;
    assert!(ground.collector().collect("test").await.is_err());
    let left = garbage(ground.stage.keys().await);
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.contains(&locked) && left.iter().any(|key| key.ends_with(&later)));
    // What came meanwhile has its day, though the pass failed.
    ground.wait(GARBAGE_GRACE).await;
    assert!(ground.collector().collect("test").await.is_err());
    assert_eq!(garbage(ground.stage.keys().await), [locked]);
    ground.stage.peace();
    ground.collect().await;
    assert!(garbage(ground.stage.keys().await).is_empty());
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

/// A pass that reads every list: it fails if one is gone.
async fn every_list_is_read(index: &Store, log: &LogId) {
    GarbageCollector::new(index, log, Entropy::seeded(3)).collect("later").await.unwrap();
}

/// How many lists there are.
pub(crate) async fn lists(ground: &IndexFixture) -> usize {
    ground.stage.keys().await.iter().filter(|key| key.contains("/list/")).count()
}

/// Ends `work` at its call `step`. Whether it got to its end instead.
pub(crate) async fn crashes<T>(
    stage: &ScriptedStore,
    step: u64,
    end: CallFault,
    work: impl Future<Output = T>,
) -> Option<T> {
    stage.disturb(StoreCall::Any, "index", step, 1, end);
    let done = timeout(Duration::from_secs(100), work).await.ok();
    stage.peace();
    done
}

pub(crate) fn steps() -> impl Iterator<Item = (u64, CallFault)> {
    (0..120).flat_map(|step| [(step, CallFault::EndBefore), (step, CallFault::EndAfter)])
}

/// A process that ends within a pin: its owner makes the pin again, another owner cannot have the name, and what the pin holds stays
/// and goes as if nothing had happened.
#[tokio::test(start_paused = true)]
async fn a_pin_is_made_again_by_its_owner_after_a_crash_at_any_step() {
    let calls = strike_each_call(steps(), async |(step, end)| {
        let mut ground = IndexFixture::new().await;
        ground.publish().await;
        let (pins, chain) = (ground.pins(), ground.chain());
        let whole = crashes(&ground.stage, step, end, pins.pin(&chain, "daily", "me")).await.is_some();
        let left = pins.register().await.unwrap().pins.get("daily").cloned();
        if left.is_some() {
            let refused = pins.pin(&chain, "daily", "you").await.unwrap_err();
            assert!(
                matches!(refused, CatalogError::Rejected(TransactionRejected::Pin { .. })),
                "step {step}: {refused}"
            );
            assert_eq!(pins.register().await.unwrap().pins.get("daily").cloned(), left, "step {step}");
        }
        let made = match left {
            Some(pin) if pin.confirmed => {
                assert!(pins.pin(&chain, "daily", "me").await.is_err(), "step {step}: it counts");
                pin
            }
            _ => pins.pin(&chain, "daily", "me").await.unwrap(),
        };
        assert!(made.confirmed, "step {step}");
        // One list may be left that nothing names.
        assert!(lists(&ground).await <= 2, "step {step}");
        let dropped = ground.compact().await;
        ground.raise_epoch().await;
        ground.collect_all().await;
        assert!(ground.has(&dropped).await && ground.has(&made.list).await, "step {step}");
        pins.unpin("daily", "me").await.unwrap();
        assert!(!ground.has(&made.list).await, "step {step}");
        ground.collect_all().await;
        assert!(!ground.has(&dropped).await, "step {step}");
        whole.then_some(step)
    })
    .await;
    assert!(calls > 5, "{calls} calls only");
}

/// A process that ends within the drop of a pin whose copy another owner has.
#[tokio::test(start_paused = true)]
async fn a_copy_keeps_what_it_holds_after_a_crash_at_any_step_of_a_drop() {
    let calls = strike_each_call(steps(), async |(step, end)| {
        let mut ground = IndexFixture::new().await;
        ground.publish().await;
        let pins = ground.pins();
        pins.pin(&ground.chain(), "daily", "me").await.unwrap();
        pins.pin_again("daily", "copy", "you").await.unwrap();
        let dropped = ground.compact().await;
        ground.raise_epoch().await;
        let whole = crashes(&ground.stage, step, end, pins.unpin("daily", "me")).await.is_some();
        assert!(pins.unpin("daily", "you").await.is_err(), "step {step}: it is not theirs");
        if pins.register().await.unwrap().pins.contains_key("daily") {
            pins.unpin("daily", "me").await.unwrap();
        }
        ground.collect_all().await;
        assert!(ground.has(&dropped).await, "step {step}");
        // The last one that has the list takes it along.
        crashes(&ground.stage, step, CallFault::EndBefore, pins.unpin("copy", "you")).await;
        if pins.register().await.unwrap().pins.contains_key("copy") {
            pins.unpin("copy", "you").await.unwrap();
        }
        ground.collect_all().await;
        assert!(!ground.has(&dropped).await, "step {step}");
        whole.then_some(step)
    })
    .await;
    assert!(calls > 2, "{calls} calls only");
}

/// Two processes of one owner make the same pin: one of them has it.
#[tokio::test(start_paused = true)]
async fn a_pin_that_was_made_again_meanwhile_does_not_count_for_the_first_process() {
    let mut ground = IndexFixture::new().await;
    ground.publish().await;
    let (pins, chain) = (ground.pins(), ground.chain());
    // Paused between the pin and its confirmation.
    let resume = Arc::new(Notify::new());
    ground.stage.disturb(StoreCall::Put, "snapshots/", 2, 1, CallFault::Pause(resume.clone()));
    let first = tokio::spawn(async move { pins.pin(&chain, "daily", "me").await });
    advance(Duration::from_secs(1)).await;
    let pins = ground.pins();
    let again = pins.pin(&ground.chain(), "daily", "me").await.unwrap();
    resume.notify_one();
    let refused = first.await.unwrap().unwrap_err();
    assert!(matches!(refused, CatalogError::Rejected(TransactionRejected::PinChanged { .. })), "{refused}");
    assert_eq!(pins.register().await.unwrap().pins["daily"], again);
    assert_eq!(lists(&ground).await, 1);
    every_list_is_read(&ground.index(), &ground.log).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_pin_leaves_no_list() {
    let mut ground = IndexFixture::new().await;
    ground.publish().await;
    let pins = ground.pins();
    pins.pin(&ground.chain(), "daily", "me").await.unwrap();
    for owner in ["me", "you"] {
        assert!(pins.pin(&ground.chain(), "daily", owner).await.is_err());
    }
    assert_eq!(lists(&ground).await, 1);
}

/// The drop is paused after it has seen the pin; meanwhile the owner drops it and makes another one of that name.
#[tokio::test(start_paused = true)]
async fn a_drop_does_not_drop_the_pin_that_was_made_again_under_its_name() {
    let mut ground = IndexFixture::new().await;
    ground.publish().await;
    let pins = ground.pins();
    pins.pin(&ground.chain(), "daily", "me").await.unwrap();
    let resume = Arc::new(Notify::new());
    ground.stage.disturb(StoreCall::Put, "snapshots/", 0, 1, CallFault::Pause(resume.clone()));
    let late = pins.clone();
    let late = tokio::spawn(async move { late.unpin("daily", "me").await });
    advance(Duration::from_secs(1)).await;
    pins.unpin("daily", "me").await.unwrap();
    let again = pins.pin(&ground.chain(), "daily", "me").await.unwrap();
    resume.notify_one();
    let refused = late.await.unwrap().unwrap_err();
    assert!(matches!(refused, CatalogError::Rejected(TransactionRejected::PinChanged { .. })), "{refused}");
    assert_eq!(pins.register().await.unwrap().pins["daily"], again);
    assert!(ground.has(&again.list).await);
    assert_eq!(lists(&ground).await, 1);
}

/// A purge runs between a pin's list and its record, and the pin's process ends as soon as the record is there.
#[tokio::test(start_paused = true)]
async fn a_pin_that_comes_after_the_purge_names_no_list_that_is_gone() {
    for others in [true, false] {
        let mut ground = IndexFixture::new().await;
        ground.publish().await;
        let (pins, chain) = (ground.pins(), ground.chain());
        if others {
            pins.pin(&chain, "first", "me").await.unwrap();
        }
        let resume = Arc::new(Notify::new());
        ground.stage.disturb(StoreCall::Put, "snapshots/", 1, 1, CallFault::Pause(resume.clone()));
        let late =
            tokio::spawn(async move { timeout(Duration::from_secs(100), pins.pin(&chain, "late", "you")).await });
        advance(Duration::from_secs(1)).await;
        let (log, index) = (ground.log.clone(), ground.index());
        ground.writer.release().await.unwrap();
        ground.process.purges().await;
        ground.stage.disturb(StoreCall::Put, "snapshots/", 0, 1, CallFault::EndAfter);
        resume.notify_one();
        let refused = late.await.unwrap();
        ground.stage.peace();
        every_list_is_read(&index, &log).await;
        assert!(matches!(refused, Ok(Err(CatalogError::Rejected(TransactionRejected::Purged { .. })))), "{refused:?}");
        let keys = ground.stage.keys().await;
        assert!(!keys.iter().any(|key| key.contains("/list/")), "{keys:?}");
    }
}

/// The purge of one owner comes late, or is repeated: it leaves the pins of the next owner's generation alone.
#[tokio::test(start_paused = true)]
async fn a_purge_leaves_the_pins_of_the_next_generation_alone() {
    strike_each_call(steps(), async |(step, end)| {
        let mut ground = IndexFixture::new().await;
        ground.publish().await;
        ground.pins().pin(&ground.chain(), "daily", "me").await.unwrap();
        let (stage, log, index, pins) = (ground.stage.clone(), ground.log.clone(), ground.index(), ground.pins());
        ground.writer.release().await.unwrap();
        ground.process.purges().await;
        let next = IndexProcess::new("b", &stage, owner("2"));
        let mut writer = next.writes().await;
        publish(&mut writer).await.unwrap();
        let chain = IndexChain::open(&index, "g2".parse().unwrap(), Entropy::seeded(5));
        let pin = pins.pin(&chain, "daily", "you").await.unwrap();
        let whole = crashes(&stage, step, end, Box::pin(ground.process.purges())).await.is_some();
        assert_eq!(pins.register().await.unwrap().pins.get("daily"), Some(&pin), "step {step}");
        assert!(index.head(&pin.list).await.unwrap().is_some(), "step {step}");
        every_list_is_read(&index, &log).await;
        whole.then_some(step)
    })
    .await;
}

/// Pins and candidates of one log, in the folders of another one.
#[tokio::test(start_paused = true)]
async fn a_folder_with_the_records_of_another_log_is_refused() {
    let mut ground = IndexFixture::new().await;
    ground.publish().await;
    ground.pins().pin(&ground.chain(), "daily", "me").await.unwrap();
    ground.collect().await;
    let (index, other) = (ground.index(), LogId("f".repeat(32)));
    for key in ground.stage.keys().await.iter().filter_map(|key| key.strip_prefix("index/")) {
        if key.starts_with("snapshots/") || key.starts_with("gc/") {
            let body = index.get(key, 1 << 20).await.unwrap().unwrap().body.unwrap();
            index.put(&key.replace(&ground.log.0, &other.0), body).await.unwrap();
        }
    }
    let pins = PinChain::open(&index, &other, ground.entropy.clone());
    let refused = [
        pins.register().await.map(drop).unwrap_err(),
        pins.pin(&ground.chain(), "mine", "me").await.map(drop).unwrap_err(),
        pins.pin_again("daily", "mine", "me").await.map(drop).unwrap_err(),
        pins.unpin("daily", "me").await.unwrap_err(),
        GarbageCollector::new(&index, &other, ground.entropy.clone()).collect("other").await.map(drop).unwrap_err(),
        // A pass of the log itself reads the pins of all logs.
        ground.collector().collect("own").await.map(drop).unwrap_err(),
    ];
    for refused in refused {
        let rejected = matches!(&refused, CatalogError::Rejected(TransactionRejected::FolderOfAnotherLog { log, found, .. })
            if *log == other && *found == ground.log);
        assert!(rejected, "{refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_survey_finds_what_a_pass_would_and_writes_nothing() {
    let (mut ground, due, unseen) = IndexFixture::with_garbage().await;
    let upload = ground.upload().await.key;
    let others = objects_of_others(&ground.log);
    for key in &others {
        ground.index().put(key, Bytes::from_static(b"somebody's own")).await.unwrap();
    }
    let list = format!("snapshots/{}/list/g1/{}", ground.log, "b".repeat(32));
    ground.index().put(&list, Bytes::from_static(b"left behind")).await.unwrap();
    let survey = GarbageSurvey::new(&ground.index(), &ground.log, ground.entropy.clone());
    let keys = ground.stage.keys().await;
    let mut leaks = Vec::new();
    let counts = survey.count(|key, _| leaks.push(key.to_owned())).await.unwrap();
    assert_eq!(ground.stage.keys().await, keys, "it writes nothing");
    // What a collector knows is no leak, nor what is on its way; the list is too young to be one.
    assert_eq!(leaks, std::slice::from_ref(&unseen));
    assert_eq!((counts.garbage, counts.candidates, counts.undecided, counts.stray_lists), (2, 1, 1, 0));
    assert!(counts.others > 0, "{counts:?}");
    ground.wait(2 * HOUR).await;
    ground.publish().await;
    let counts = survey.count(|_, _| ()).await.unwrap();
    assert_eq!(counts.stray_lists, 0, "a process that was suspended may still pin it");
    ground.wait(GARBAGE_GRACE).await;
    let kept = ground.publish().await;
    let pin = ground.pins().pin(&ground.chain(), "daily", "test").await.unwrap();
    leaks.clear();
    let counts = survey.count(|key, _| leaks.push(key.to_owned())).await.unwrap();
    assert_eq!(leaks, [unseen, list]);
    assert_eq!((counts.garbage, counts.stray_lists), (2, 1));
    assert!(
        ground.has(&kept).await && ground.has(&due).await && ground.has(&upload).await && ground.has(&pin.list).await
    );
    // As the pass that follows says.
    let report = ground.collect().await;
    assert_eq!((report.deleted, report.candidates, report.others), (1, 1, counts.others));
}

/// The index was lost with its first generations, and made again as a later one.
#[tokio::test(start_paused = true)]
async fn garbage_of_an_index_without_its_first_generations_is_found_and_collected() {
    let ground = IndexFixture::new().await;
    ground.rebuild_up_to(12).await;
    ground.lose(1..=10).await;
    let (garbage, present) = (ground.upload_late(11).await, ground.upload_late(12).await);
    // Objects of others, and those of a generation without a chain.
    let unborn = ground.upload_late(13).await;
    let others = ["g0/x", "g-notes/x", "g10", "g110", "g11a/x", "gc-notes/x", "garbage/x", "note"];
    for key in others {
        ground.index().put(key, Bytes::from_static(b"somebody's own")).await.unwrap();
    }
    let mut leaks = Vec::new();
    let survey = GarbageSurvey::new(&ground.index(), &ground.log, ground.entropy.clone());
    let counts = survey.count(|key, _| leaks.push(key.to_owned())).await.unwrap();
    assert_eq!((leaks, counts.listed, counts.undecided), (vec![garbage.clone()], 2, 1));
    assert_eq!(ground.collect().await.candidates, 1);
    ground.wait(GARBAGE_GRACE).await;
    assert_eq!(ground.collect().await.deleted, 1);
    assert!(!ground.has(&garbage).await && ground.has(&present).await && ground.has(&unborn).await);
    for key in others {
        assert!(ground.has(key).await, "{key}");
    }
}

/// Some of its first generations are there, and those after them are gone.
#[tokio::test(start_paused = true)]
async fn garbage_behind_a_gap_between_generations_is_collected() {
    let ground = IndexFixture::new().await;
    ground.rebuild_up_to(12).await;
    ground.lose(4..=10).await;
    let (closed, open) = (ground.upload_late(11).await, ground.upload_late(12).await);
    assert_eq!(ground.collect().await.candidates, 1);
    ground.wait(GARBAGE_GRACE).await;
    assert_eq!(ground.collect().await.deleted, 1);
    assert!(!ground.has(&closed).await && ground.has(&open).await);

    // In the next hour the epoch of that upload is over.
    let raised = |open: Option<&Manifest>| Ok(open.map(|open| Manifest { epoch: open.epoch + 1, ..open.clone() }));
    ground.chain_of(12).chain().append(None, raised).await.unwrap();
    ground.wait(HOUR).await;
    assert_eq!(ground.collect().await.candidates, 1, "the open generation is listed every hour");
    let known = async || ground.collector().chain().latest().await.unwrap().unwrap().state;
    assert_eq!((known().await.ended, known().await.beyond), (3, [numbered(12)].into()));
    // The open generation ends, and the next one begins.
    let end = GenerationEnd { generation: Some(numbered(13)), by: EndReason::Reindex };
    let close = |open: Option<&Manifest>| Ok(open.map(|open| Manifest { closed: Some(end.clone()), ..open.clone() }));
    let closed = ground.chain_of(12).chain().append(None, close).await.unwrap();
    let first = Manifest { epoch: 2, claim: closed.state.claim, ..Manifest::new(numbered(13)) };
    ground.chain_of(13).chain().append(None, |_| Ok(Some(first.clone()))).await.unwrap();
    let late = ground.upload_late(13).await;
    ground.wait(HOUR).await;
    assert_eq!(ground.collect().await.candidates, 2);
    assert_eq!((known().await.ended, known().await.beyond), (3, [numbered(13)].into()));
    ground.wait(GARBAGE_GRACE.saturating_sub(HOUR)).await;
    assert_eq!(ground.collect().await.deleted, 1);
    ground.wait(HOUR).await;
    assert_eq!(ground.collect().await.deleted, 1);
    assert!(!ground.has(&open).await && !ground.has(&late).await);
}

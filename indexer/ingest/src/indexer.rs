//! The writer at work: drain what is sealed, audit what was published, adopt what was compacted, and rest.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use tidemark_catalog::{Cursor, RootChain, TransactionRejected, WriterLease};
use tidemark_store::{
    Clock, StoreSecond,
    planted::{Fault, planted},
};
use tidemark_wal::{ListedEntry, LogReader, ParameterSchedule, Token};
use tokio::time::{Instant, sleep};

use super::{
    IngestOptions,
    audit::Audit,
    batch::{Batch, CorrectionTotals},
    compact::Compactor,
    error::IngestError,
    index::Shelf,
    resolve::Resolver,
    status::Reporter,
    tail::{self, Entries, FIRST_PAUSE, Fetched, rest},
};
use crate::engine::{Lookup, RecordMarks};

/// How long a busy indexer rests.
const BUSY: Duration = Duration::from_secs(1);
/// How long an idle one rests at most.
const IDLE: Duration = Duration::from_secs(5);
/// How often an idle indexer publishes that the horizon has moved.
const ADVANCE: Duration = Duration::from_mins(1);
/// How far the estimate of store time may lag behind: it counts whole seconds, twice.
const ESTIMATE_LAG: Duration = Duration::from_secs(2);

/// The writer of an index. All that it knows can be dropped at any time: the chain has it.
pub(crate) struct Indexer {
    pub(super) clock: Clock,
    pub(super) root: RootChain,
    pub(super) reader: LogReader,
    pub(super) writer_lease: WriterLease,
    pub(super) shelf: Shelf,
    pub(super) options: IngestOptions,
    pub(super) reporter: Reporter,
    pub(super) resolver: Resolver,
    pub(super) index: Option<Arc<dyn Lookup>>,
    pub(super) audit: Audit,
    pub(super) compactor: Compactor,
    /// The parameters and the horizon that the last probe gave.
    pub(super) frozen: Option<Frozen>,
    /// Marks that a planted fault holds back.
    pub(super) held_back: (RecordMarks, CorrectionTotals),
    /// The oldest entry that was seen and is not sealed.
    waiting: Option<Token>,
    /// The last drain found entries.
    busy: bool,
    /// When the cursor was published last.
    advanced: Option<Instant>,
}

/// What a probe of the clock and a look at the parameters after it give.
#[derive(Clone, Debug)]
pub(crate) struct Frozen {
    pub(crate) horizon: StoreSecond,
    pub(crate) schedule: ParameterSchedule,
}

impl Indexer {
    pub(super) fn new(
        clock: Clock,
        root: RootChain,
        reader: LogReader,
        writer_lease: WriterLease,
        shelf: Shelf,
        options: IngestOptions,
    ) -> Self {
        let (reporter, manifest) = (shelf.reporter.clone(), &writer_lease.manifest().state);
        let audit = Audit::after_restart(manifest.horizon, manifest.cursor);
        Self {
            clock,
            root,
            reader,
            writer_lease,
            shelf,
            options,
            reporter,
            resolver: Resolver::default(),
            index: None,
            audit,
            compactor: Compactor::default(),
            frozen: None,
            held_back: Default::default(),
            waiting: None,
            busy: true,
            advanced: None,
        }
    }

    /// Works until a failure ends it. The future may be dropped at any time.
    pub(super) async fn work(&mut self) -> Result<(), IngestError> {
        let (mut trouble, mut pause) = (FIRST_PAUSE, BUSY);
        loop {
            match self.round().await {
                Ok(found) => {
                    self.reporter.all_done();
                    trouble = FIRST_PAUSE;
                    pause = if found { BUSY } else { (pause + BUSY).min(IDLE) };
                    self.rest(pause).await;
                }
                Err(failure) if failure.is_retryable() => {
                    self.resolver.forget();
                    self.reporter.run_ends(false);
                    self.reporter.trouble("indexing", &failure);
                    trouble = rest(trouble).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Everything once. Gives whether there were entries to publish.
    async fn round(&mut self) -> Result<bool, IngestError> {
        self.keep_house().await?;
        if !self.worth_a_probe().await? {
            return Ok(false);
        }
        let (frozen, listing) = self.look().await?;
        self.frozen = Some(frozen.clone());
        self.busy = false;
        if frozen.horizon > self.cursor().second() {
            self.busy = self.drain(&frozen, listing).await?;
        }
        self.keep_house().await?;
        Ok(self.busy)
    }

    /// What is done between two batches.
    async fn keep_house(&mut self) -> Result<(), IngestError> {
        self.adopt().await?;
        self.audit().await
    }

    /// Whether there may be something to publish: sealed entries, or a horizon that was not published for long.
    async fn worth_a_probe(&mut self) -> Result<bool, IngestError> {
        if self.busy || self.advanced.is_none_or(|advanced| advanced.elapsed() >= ADVANCE) {
            return Ok(true);
        }
        if !self.sealed_by_now() {
            self.waiting = tail::oldest(&self.reader, self.cursor()).await?;
        }
        Ok(self.sealed_by_now())
    }

    /// Whether the oldest entry that was seen waiting is sealed by now, as far as can be said without a probe.
    fn sealed_by_now(&self) -> bool {
        self.waiting.is_some_and(|waiting| self.sealed_in(waiting).is_none_or(|wait| wait.is_zero()))
    }

    /// How long it takes about until `token` is sealed; `None` if the clock was not read lately.
    fn sealed_in(&self, token: Token) -> Option<Duration> {
        let now = self.clock.estimate()?.after(ESTIMATE_LAG);
        let horizon = self.frozen.as_ref()?.schedule.horizon(now);
        Some(token.second().next().since(horizon))
    }

    /// Probes the clock, then reads the parameters; the listing comes after both.
    async fn look(&mut self) -> Result<(Frozen, stream::BoxStream<'static, ListedEntry>), IngestError> {
        let from = self.cursor().second();
        if planted(Fault::ClockReadAfterListing) {
            let all = tail::list(&self.reader, from, StoreSecond::KSUID_END.next(), &self.reporter);
            let all: Vec<ListedEntry> = all.collect().await;
            let frozen = self.freeze().await?;
            let horizon = frozen.horizon;
            let sealed = all.into_iter().filter(move |listed| listed.token.second() < horizon);
            return Ok((frozen, stream::iter(sealed).boxed()));
        }
        let frozen = self.freeze().await?;
        let listing = tail::list(&self.reader, from, frozen.horizon, &self.reporter);
        Ok((frozen, listing))
    }

    /// `H`, from a probe and from parameters that were read after it. Every second below `H` lies before the probe, so
    /// that the parameters are certain for it.
    async fn freeze(&mut self) -> Result<Frozen, IngestError> {
        let now = self.clock.probe().await?.now;
        let schedule = self
            .root
            .parameters()
            .await?
            .ok_or(tidemark_catalog::CatalogError::Rejected(TransactionRejected::NoParameters))?;
        let horizon = schedule.horizon(now);
        Ok(Frozen { horizon, schedule })
    }

    /// Publishes everything from the cursor up to the horizon, in batches. Gives whether there were entries.
    async fn drain(
        &mut self,
        frozen: &Frozen,
        listing: stream::BoxStream<'static, ListedEntry>,
    ) -> Result<bool, IngestError> {
        self.reporter.run_starts(frozen.horizon);
        let mut entries = Entries::fetch(&self.reader, &frozen.schedule, listing, &self.options, &self.reporter);
        let mut batch = self.batch();
        let mut found = false;
        loop {
            let fetched = entries.next(self.options.chunk).await;
            if fetched.is_empty() {
                break;
            }
            found = true;
            let (before, after) = cut(&batch, fetched);
            self.take(&mut batch, before).await?;
            if !after.is_empty() {
                batch = self.next_batch(batch, frozen.horizon).await?;
                self.take(&mut batch, after).await?;
            }
        }
        if found || self.advanced.is_none_or(|advanced| advanced.elapsed() >= ADVANCE) {
            self.finish(batch, frozen.horizon).await?;
        }
        self.reporter.run_ends(true);
        Ok(found)
    }

    /// Publishes a full batch and begins the next one. All entries of its last second are in it.
    async fn next_batch(&mut self, batch: Batch, horizon: StoreSecond) -> Result<Batch, IngestError> {
        let to = batch.newest().map_or(self.cursor().second(), StoreSecond::next);
        self.publish(batch, to, horizon).await?;
        self.keep_house().await?;
        Ok(self.batch())
    }

    async fn take(&mut self, batch: &mut Batch, fetched: Vec<Fetched>) -> Result<(), IngestError> {
        let Some(first) = fetched.first() else { return Ok(()) };
        let oldest = batch.oldest().unwrap_or(first.second);
        self.reporter.read(fetched.len() as u64, oldest, self.reader.unrecognized_keys());
        let records = fetched.into_iter().flat_map(|entry| entry.records).collect();
        let index = self.index().await?;
        batch.take(records, &mut self.resolver, &*index).await
    }

    async fn finish(&mut self, batch: Batch, horizon: StoreSecond) -> Result<(), IngestError> {
        let beyond = if planted(Fault::CursorOffByOne) { horizon.next() } else { horizon };
        self.publish(batch, beyond, beyond).await?;
        self.advanced = Some(Instant::now());
        if self.waiting.is_some_and(|waiting| waiting.second() < horizon) {
            self.waiting = None;
        }
        Ok(())
    }

    pub(super) fn batch(&self) -> Batch {
        Batch::new(&self.shelf, self.writer_lease.manifest().state.next_seq, &self.options)
    }

    pub(super) fn cursor(&self) -> Cursor {
        self.writer_lease.manifest().state.cursor
    }

    /// The index as it is published.
    pub(super) async fn index(&mut self) -> Result<Arc<dyn Lookup>, IngestError> {
        if let Some(index) = &self.index {
            return Ok(index.clone());
        }
        let index = self.shelf.engine.open(&self.writer_lease.manifest().state).await?;
        self.index = Some(index.clone());
        Ok(index)
    }

    /// Opens the index that was just published. What the batches before have added is in it.
    pub(super) async fn open_index(&mut self) -> Result<(), IngestError> {
        self.index = None;
        self.resolver.forget();
        self.index().await.map(drop)
    }

    /// Rests until there is something to do: at most `pause`, less if an entry is sealed or a compaction is done before.
    async fn rest(&mut self, pause: Duration) {
        let sealed = self.waiting.and_then(|waiting| self.sealed_in(waiting));
        let pause = sealed.map_or(pause, |sealed| pause.min(sealed.max(BUSY)));
        tokio::select! {
            biased;
            () = self.compactor.finished() => {}
            () = sleep(pause) => {}
        }
    }
}

/// The entries that still belong into `batch`, and those that come after it: none unless it is full.
fn cut(batch: &Batch, mut fetched: Vec<Fetched>) -> (Vec<Fetched>, Vec<Fetched>) {
    let Some(newest) = batch.newest().filter(|_| batch.full()) else {
        return (fetched, Vec::new());
    };
    let boundary = fetched.partition_point(|entry| entry.second <= newest);
    let after = fetched.split_off(boundary);
    (fetched, after)
}

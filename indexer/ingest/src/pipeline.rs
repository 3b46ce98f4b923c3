//! The loop of the writer: publish what is sealed, audit what was published, adopt compactions, sleep.

use std::{sync::Arc, time::Duration};

use tidemark_catalog::{PublishError, RootChain};
use tidemark_store::{StoreClock, StoreSecond};
use tidemark_wal::Token;
use tokio::time::{Instant, sleep};

use crate::{
    audit::LogAuditor,
    audit_schedule::{AUDITED_STEP, AuditSchedule},
    batch::RecordBatch,
    compaction::IndexCompactor,
    drain_obstacle::{DrainObstacle, FailingEntries},
    entry_stream::{EntryListing, EntryReader, FetchedEntry, TAIL_ATTEMPTS},
    error::IngestError,
    horizon::SealedHorizon,
    mutants,
    publisher::IndexPublisher,
    retry::{RetryBackoff, RetryFailure},
    root_floor::RootFloor,
    status::IngestStatusTracker,
    whole_seconds::WholeSeconds,
};

/// The pause after a pass that found entries.
const BUSY_INTERVAL: Duration = Duration::from_secs(1);
/// The longest pause while passes find none.
/// Each pass costs a LIST, and an idle log may make 25 requests a minute in all.
const MAX_IDLE_INTERVAL: Duration = Duration::from_secs(7);
/// How often an idle writer publishes that the horizon has moved.
/// Readers see a horizon only once it is published, but each publication is a record of the chain: 1 440 a day.
const ADVANCE_INTERVAL: Duration = Duration::from_mins(1);
/// How long a publication waits at most while compactions do not keep up.
const BEHIND_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause after passes that have lost what they had read: an hour has at most six of them, whatever each one costs.
const MAX_LOSSY_BACKOFF: Duration = Duration::from_mins(10);
/// How often a writer raises its own epoch: what it uploaded and never published is garbage from then on.
const EPOCH_INTERVAL: Duration = Duration::from_hours(24);
/// How far the estimate of store time may lag behind: it counts whole seconds, twice.
const MAX_ESTIMATE_LAG: Duration = Duration::from_secs(2);

/// The stages of the writer and the loop over them. All that it remembers can be dropped at any time: the chain has it.
pub(crate) struct IngestPipeline {
    clock: StoreClock,
    root: RootChain,
    entries: EntryReader,
    publisher: IndexPublisher,
    audit: LogAuditor,
    compactor: IndexCompactor,
    tracker: IngestStatusTracker,
    /// The horizon and the parameters of the last probe.
    sealed: Option<SealedHorizon>,
    /// The oldest entry that was listed before it was sealed.
    oldest_unsealed: Option<Token>,
    /// Whether the last pass found entries.
    busy: bool,
    /// What ended the last drain, if that can be tried alone.
    obstacle: Option<DrainObstacle>,
    /// Whether the last pass had read entries that it did not publish.
    is_lossy: bool,
    /// When everything up to a horizon was last published.
    advanced: Option<Instant>,
    /// When this writer's epoch began.
    epoch_began: Instant,
}

impl IngestPipeline {
    pub(crate) fn new(
        (clock, root): (StoreClock, RootChain),
        entries: EntryReader,
        publisher: IndexPublisher,
        compaction: bool,
        tracker: IngestStatusTracker,
    ) -> Self {
        let schedule = AuditSchedule::after_takeover(publisher.manifest().audited, publisher.cursor().second());
        let audited = entries.clone().with_floor(Arc::new(RootFloor(root.clone())));
        Self {
            clock,
            root,
            audit: LogAuditor::new(audited, schedule),
            compactor: IndexCompactor::new(compaction),
            entries,
            publisher,
            tracker,
            sealed: None,
            oldest_unsealed: None,
            busy: true,
            obstacle: None,
            is_lossy: false,
            advanced: None,
            epoch_began: Instant::now(),
        }
    }

    /// Runs passes until one fails with an error that is not retryable. The future may be dropped at any time.
    pub(crate) async fn run(&mut self) -> Result<(), IngestError> {
        let (mut backoff, mut interval) = (RetryBackoff::new(), BUSY_INTERVAL);
        let mut lossy_backoff = RetryBackoff::up_to(MAX_LOSSY_BACKOFF);
        loop {
            let cursor = self.publisher.cursor();
            match self.run_pass().await {
                Ok(found) => {
                    self.publisher.restore_batch_limit();
                    self.tracker.mark_caught_up();
                    if !self.audit.is_failing() {
                        self.tracker.clear_error();
                    }
                    backoff.reset();
                    lossy_backoff.reset();
                    interval = if found { BUSY_INTERVAL } else { (interval + BUSY_INTERVAL).min(MAX_IDLE_INTERVAL) };
                    self.sleep(interval).await;
                }
                Err(failure) if failure.is_retryable() => {
                    // The next pass reads the batch again, from the published cursor: less of it, so that what precedes the
                    // failure is soon published and not read again and again.
                    self.publisher.discard_unpublished();
                    if self.obstacle.is_none() {
                        self.publisher.lower_batch_limit();
                    }
                    self.tracker.end_pass(false);
                    self.tracker.set_error(RetryFailure::new("indexing", &failure));
                    if self.publisher.cursor() > cursor {
                        lossy_backoff.reset();
                    }
                    let pause = backoff.next_pause();
                    let is_lossy = std::mem::take(&mut self.is_lossy);
                    sleep(if is_lossy { pause.max(lossy_backoff.next_pause()) } else { pause }).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Releases the writer's lease.
    pub(crate) async fn release(self) -> Result<(), PublishError> {
        self.publisher.release().await
    }

    /// Runs every stage once. Gives whether there were entries to publish.
    async fn run_pass(&mut self) -> Result<bool, IngestError> {
        self.run_maintenance().await?;
        if self.should_probe().await? {
            self.wait_for_compaction().await?;
            let (sealed, listing) = self.probe_and_list().await?;
            self.sealed = Some(sealed.clone());
            self.busy = false;
            if sealed.horizon > self.publisher.cursor().second() {
                self.busy = self.drain(&sealed, listing).await?;
            }
            self.run_maintenance().await?;
        }
        self.publish_audited().await?;
        Ok(self.busy)
    }

    /// Publishes how far the audit has come, if that is much further than the manifest says: what is settled can be archived at once, and
    /// not only with the next entries or the next minute.
    async fn publish_audited(&mut self) -> Result<(), IngestError> {
        let Some(SealedHorizon { horizon, .. }) = self.sealed else { return Ok(()) };
        if self.publisher.audited_since_published() < AUDITED_STEP {
            return Ok(());
        }
        let (batch, cursor) = (self.publisher.begin_batch(), self.publisher.cursor().second());
        self.publisher.publish(batch, cursor, horizon).await
    }

    /// Runs the stages that publish between two batches.
    async fn run_maintenance(&mut self) -> Result<(), IngestError> {
        // No batch is in hand here, so that without a compaction nothing is on its way into the index.
        if self.epoch_is_due() && self.compactor.is_idle() {
            self.publisher.raise_epoch().await?;
            self.epoch_began = Instant::now();
        }
        // While the epoch is due none begins: with two lanes there might always be one.
        let may_start = !self.epoch_is_due();
        if let Some(failure) = self.compactor.run(&mut self.publisher, may_start).await? {
            // Without a compaction the index stays correct, so that the pass continues.
            self.tracker.set_error(RetryFailure::new("compacting", &failure));
        }
        self.tracker.set_compaction_stalled(self.compactor.stalled());
        let Some(sealed) = &self.sealed else { return Ok(()) };
        match self.audit.run(&mut self.publisher, sealed).await {
            Err(failure) if failure.is_retryable() => {
                // What an audit cannot read is audited later; the tail must not wait for it.
                self.publisher.discard_unpublished();
                self.tracker.set_error(RetryFailure::new("auditing", &failure));
                Ok(())
            }
            audited => audited,
        }
    }

    /// Waits while there are too many segments, for a while: fewer publications, with more entries each, make fewer of them.
    async fn wait_for_compaction(&mut self) -> Result<(), IngestError> {
        let until = Instant::now() + BEHIND_PAUSE;
        while Instant::now() < until && self.compactor.is_behind(&self.publisher) {
            tokio::select! {
                biased;
                () = self.compactor.finished() => {}
                () = tokio::time::sleep_until(until) => {}
            }
            self.run_maintenance().await?;
        }
        Ok(())
    }

    fn epoch_is_due(&self) -> bool {
        self.epoch_began.elapsed() >= EPOCH_INTERVAL
    }

    /// Whether there may be something to publish: sealed entries, or a horizon that was not published for long.
    ///
    /// An idle log costs one LIST a pass. A probe writes an object and is worth it only if something may be sealed.
    async fn should_probe(&mut self) -> Result<bool, IngestError> {
        if self.busy || self.must_advance() {
            return Ok(true);
        }
        if !self.sealed_by_now() {
            self.oldest_unsealed = self.entries.oldest(self.publisher.cursor()).await?;
        }
        Ok(self.sealed_by_now())
    }

    fn must_advance(&self) -> bool {
        self.advanced.is_none_or(|advanced| advanced.elapsed() >= ADVANCE_INTERVAL)
    }

    /// Whether the oldest unsealed entry is sealed by now, as far as can be said without a probe.
    fn sealed_by_now(&self) -> bool {
        self.oldest_unsealed.is_some_and(|oldest| self.time_to_seal(oldest).is_none_or(|wait| wait.is_zero()))
    }

    /// About how long it takes until `token` is sealed; `None` before the clock was read.
    fn time_to_seal(&self, token: Token) -> Option<Duration> {
        let now = self.clock.rough_estimate()?.after(MAX_ESTIMATE_LAG);
        let horizon = self.sealed.as_ref()?.schedule.horizon(now);
        Some(token.second().next().since(horizon))
    }

    /// Computes the horizon, then lists the entries from the cursor up to it.
    async fn probe_and_list(&mut self) -> Result<(SealedHorizon, EntryListing), IngestError> {
        let from = self.publisher.cursor().second();
        let early = mutants::early_listing(|| self.entries.list(from, StoreSecond::KSUID_END.next())).await?;
        let sealed = SealedHorizon::compute(&self.clock, &self.root, self.publisher.cursor()).await?;
        // Again, although `should_probe` has listed already: only a listing that begins after the probe shows every entry
        // below the horizon. An entry may have become visible between that LIST and the probe.
        let horizon = sealed.horizon;
        self.entries.reader().seal(horizon);
        let listing = self.entries.list(from, horizon);
        Ok((sealed, mutants::listing_below(listing, early, horizon)))
    }

    /// Publishes everything from the cursor up to the horizon, in batches. Gives whether there were entries.
    async fn drain(&mut self, sealed: &SealedHorizon, mut listing: EntryListing) -> Result<bool, IngestError> {
        self.tracker.begin_pass(sealed.horizon);
        if let Some(obstacle) = self.obstacle.take() {
            self.pass_obstacle(obstacle, sealed).await?;
            listing = self.entries.list(self.publisher.cursor().second(), sealed.horizon);
        }
        let (batch, found) = self.read(listing, sealed).await?;
        if found || self.must_advance() {
            self.finish(batch, sealed.horizon).await?;
        }
        self.tracker.end_pass(true);
        Ok(found)
    }

    /// Publishes what precedes `obstacle`, and tries that alone. An error if it still is in the way.
    async fn pass_obstacle(&mut self, mut obstacle: DrainObstacle, sealed: &SealedHorizon) -> Result<(), IngestError> {
        let second = match obstacle.second(&self.entries, sealed).await {
            Ok(second) => second,
            Err(failure) => {
                self.obstacle = Some(obstacle);
                return Err(failure.into());
            }
        };
        let cursor = self.publisher.cursor().second();
        if let Some(second) = second.filter(|second| *second > cursor) {
            // Where this fails, what ended it comes first.
            let (batch, _) = self.read(self.entries.list(cursor, second), sealed).await?;
            self.publisher.publish(batch, second, sealed.horizon).await?;
        }
        let tried = obstacle.retry(&self.entries, &mut self.publisher, sealed).await;
        if tried.is_err() {
            self.obstacle = Some(obstacle);
        }
        tried
    }

    /// Reads the entries of `listing` into batches, and publishes all of these but the last. Gives that, and whether there were entries.
    async fn read(
        &mut self,
        listing: EntryListing,
        sealed: &SealedHorizon,
    ) -> Result<(RecordBatch, bool), IngestError> {
        let begin = self.publisher.cursor().second();
        let mut entries = self.entries.fetch(listing, &sealed.schedule, TAIL_ATTEMPTS);
        let mut batch = self.publisher.begin_batch();
        let (mut seconds, mut found, mut more, mut newest) = (WholeSeconds::default(), false, true, None);
        while more {
            let was_whole = seconds.batch_is_whole();
            let added = match entries.next_chunk().await {
                Ok(fetched) => {
                    let last = fetched.iter().rev().find_map(|entry| entry.records.last());
                    newest = last.map(|record| record.token).or(newest);
                    more = !fetched.is_empty();
                    found |= more;
                    let ready = if more { seconds.push(fetched) } else { seconds.finish() };
                    let second = ready.first().map_or(begin, |first| first.second);
                    let added = self.add_ready(&mut batch, ready, sealed).await;
                    if let Some(question) = self.publisher.take_unanswered() {
                        self.obstacle = Some(DrainObstacle::Question(second, question));
                    }
                    added
                }
                Err(failure) => {
                    self.obstacle = Some(DrainObstacle::Entries(FailingEntries::after(begin, newest)));
                    Err(failure)
                }
            };
            if let Err(failure) = added {
                self.is_lossy = found;
                // What precedes the failure is published, so that it is not read again and again.
                if batch.len() > 0 && batch.is_intact() && was_whole {
                    self.publish_up_to_newest(batch, sealed.horizon).await?;
                }
                return Err(failure);
            }
        }
        Ok((batch, found))
    }

    /// Adds entries to the batch, and publishes it where it is full.
    async fn add_ready(
        &mut self,
        batch: &mut RecordBatch,
        ready: Vec<FetchedEntry>,
        sealed: &SealedHorizon,
    ) -> Result<(), IngestError> {
        let (before, after) = split_at_boundary(batch, ready);
        self.add(batch, before, sealed).await?;
        if !after.is_empty() {
            let empty = self.publisher.begin_batch();
            *batch = self.next_batch(std::mem::replace(batch, empty), sealed.horizon).await?;
            self.add(batch, after, sealed).await?;
        }
        Ok(())
    }

    async fn add(
        &mut self,
        batch: &mut RecordBatch,
        mut fetched: Vec<FetchedEntry>,
        sealed: &SealedHorizon,
    ) -> Result<(), IngestError> {
        let Some(first) = fetched.first() else { return Ok(()) };
        let oldest = batch.oldest().unwrap_or(first.second);
        self.tracker.add_read(fetched.len() as u64, oldest, self.entries.reader().unrecognized_keys());
        // The entries keep their shares of the memory until a segment has the records.
        let records = fetched.iter_mut().flat_map(|entry| std::mem::take(&mut entry.records)).collect();
        Ok(self.publisher.add(batch, records, &sealed.schedule).await?)
    }

    /// Publishes a full batch and begins the next one. All entries of its last second are in it.
    async fn next_batch(&mut self, batch: RecordBatch, horizon: StoreSecond) -> Result<RecordBatch, IngestError> {
        self.publish_up_to_newest(batch, horizon).await?;
        self.run_maintenance().await?;
        self.wait_for_compaction().await?;
        // Only now: maintenance publishes corrections, which take the next seqs.
        Ok(self.publisher.begin_batch())
    }

    /// Publishes a batch that has all entries of its newest second.
    async fn publish_up_to_newest(&mut self, batch: RecordBatch, horizon: StoreSecond) -> Result<(), IngestError> {
        let to = batch.newest().map_or(self.publisher.cursor().second(), StoreSecond::next);
        self.publisher.publish(batch, to, horizon).await
    }

    /// Publishes the last batch of a pass, with the cursor at the horizon.
    async fn finish(&mut self, batch: RecordBatch, horizon: StoreSecond) -> Result<(), IngestError> {
        let to = mutants::cursor_bound(horizon);
        self.publisher.publish(batch, to, to).await?;
        self.advanced = Some(Instant::now());
        if self.oldest_unsealed.is_some_and(|oldest| oldest.second() < horizon) {
            self.oldest_unsealed = None;
        }
        Ok(())
    }

    /// Sleeps for at most `interval`; less if an entry is sealed or a compaction is finished before.
    async fn sleep(&mut self, interval: Duration) {
        let sealed = self.oldest_unsealed.and_then(|oldest| self.time_to_seal(oldest));
        let interval = sealed.map_or(interval, |sealed| interval.min(sealed.max(BUSY_INTERVAL)));
        tokio::select! {
            biased;
            () = self.compactor.finished() => {}
            () = sleep(interval) => {}
        }
    }
}

/// The entries that belong to `batch`, and those that come after it: none unless it is full.
///
/// A batch ends between two seconds, because the cursor counts whole seconds.
fn split_at_boundary(batch: &RecordBatch, mut fetched: Vec<FetchedEntry>) -> (Vec<FetchedEntry>, Vec<FetchedEntry>) {
    let Some(newest) = batch.newest().filter(|_| batch.is_full()) else {
        return (fetched, Vec::new());
    };
    let boundary = fetched.partition_point(|entry| entry.second <= newest);
    let after = fetched.split_off(boundary);
    (fetched, after)
}

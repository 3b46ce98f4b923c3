//! The loop of a delivery: reads records, sends batches, and acknowledges what has arrived.
//!
//! One batch is on its way at a time. A batch that failed is sent again before anything that comes after it, so that a destination that
//! takes batches whole gets the records in the order of their seqs. Only records that the destination refused one by one for the moment
//! are overtaken by others.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::RangeBounds,
    time::Duration,
};

use tidemark_catalog::{ConsumerPosition, ConsumerProgress};
use tidemark_search::api::MAX_CHANGES;
use tidemark_store::Entropy;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    ack_window::{AckWindow, NeverSent, RecordEnd, WindowLimits},
    batch::{BatchLimits, ReadyRecords},
    circuit_breaker::{BreakerOptions, BreakerState, CircuitBreaker},
    dead_letters::DeadLetters,
    destination::{BatchAnswer, Destination, RecordVerdict},
    mutants,
    record::DeliveryRecord,
    source::{ChangePage, ChangeSource, SourceError},
    status::DeliveryStatus,
};

/// The longest wait for a change in one request.
const READ_WAIT: Duration = Duration::from_secs(20);
/// The pause after the first failure; it doubles with each further one in a row.
const MIN_RETRY_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause between two attempts, unless the destination asks for more.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause that a destination may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);
/// How long a batch that is on its way may take when the process is to end.
const STOP_GRACE: Duration = Duration::from_secs(8);
/// So many records in a row that are rejected are no poison any more: the destination rejects everything.
const MAX_REJECTED_IN_A_ROW: u32 = 100;

/// What to do with a record that the destination will never take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectedPolicy {
    /// Put it aside, and go on.
    DeadLetter,
    /// Try it again and again; nothing after it is delivered.
    Block,
}

/// How to deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryOptions {
    /// What ends a batch.
    pub batch: BatchLimits,
    /// What may be unacknowledged.
    pub window: WindowLimits,
    /// When a destination is left alone.
    pub breaker: BreakerOptions,
    /// What becomes of poison.
    pub rejected: RejectedPolicy,
    /// Whether to wait for what is published later.
    pub follow: bool,
}

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryEnd {
    /// Everything that is published was delivered.
    Finished,
    /// It was told to stop.
    Stopped,
}

/// Why a delivery ended.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// There are no changes to be had.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The destination is gone.
    #[error("{why}; what was not acknowledged is delivered to the next one")]
    Ended {
        /// What happened.
        why: String,
    },
    /// An acknowledgement of what was never sent.
    #[error(transparent)]
    Acknowledgement(#[from] NeverSent),
}

/// Delivers the records of one consumer.
pub(crate) struct DeliveryPump<'a> {
    source: &'a dyn ChangeSource,
    destination: &'a dyn Destination,
    dead_letters: DeadLetters,
    entropy: Entropy,
    options: DeliveryOptions,
    progress: watch::Sender<ConsumerProgress>,
    status: watch::Sender<DeliveryStatus>,
    /// The place up to which was read.
    cursor: ConsumerPosition,
    /// Read, and not admitted to the window yet: the rest of one page, and the place behind it.
    page: VecDeque<DeliveryRecord>,
    page_end: Option<ConsumerPosition>,
    /// Whether everything that was published was read; only where it does not follow.
    is_read: bool,
    window: AckWindow,
    ready: ReadyRecords,
    /// Batches to be sent before all others, in this order.
    outgoing: VecDeque<Vec<DeliveryRecord>>,
    /// Records that the destination does not take for the moment, by seq.
    retries: BTreeMap<u64, (Instant, DeliveryRecord)>,
    /// Records that hold up all others, by seq: they were rejected, and could not be put aside.
    blocking: BTreeSet<u64>,
    breaker: CircuitBreaker,
    /// Nothing is sent before.
    not_before: Option<Instant>,
    /// Attempts in a row that brought nothing.
    attempts: u32,
    rejected_in_a_row: u32,
    /// Whether the last failure was one of reading.
    has_failed_to_read: bool,
}

impl<'a> DeliveryPump<'a> {
    /// Delivers what comes after `done` from `source` to `destination`.
    pub(crate) fn new(
        source: &'a dyn ChangeSource,
        destination: &'a dyn Destination,
        dead_letters: DeadLetters,
        entropy: Entropy,
        options: DeliveryOptions,
        done: ConsumerProgress,
    ) -> Self {
        let cursor = done.acknowledged.clone();
        let status = DeliveryStatus {
            progress: done.clone(),
            end: None,
            unacknowledged: 0,
            unacknowledged_bytes: 0,
            breaker: BreakerState::Closed,
            blocked: None,
            last_error: None,
        };
        Self {
            source,
            destination,
            dead_letters,
            entropy,
            options,
            progress: watch::Sender::new(done.clone()),
            status: watch::Sender::new(status),
            cursor,
            page: VecDeque::new(),
            page_end: None,
            is_read: false,
            window: AckWindow::new(options.window, done),
            ready: ReadyRecords::default(),
            outgoing: VecDeque::new(),
            retries: BTreeMap::new(),
            blocking: BTreeSet::new(),
            breaker: CircuitBreaker::new(options.breaker),
            not_before: None,
            attempts: 0,
            rejected_in_a_row: 0,
            has_failed_to_read: false,
        }
    }

    /// What is done without a gap, as it moves.
    pub(crate) fn progress(&self) -> watch::Receiver<ConsumerProgress> {
        self.progress.subscribe()
    }

    /// How far it is, as it changes. Others tell here what is published, while nothing is read.
    pub(crate) fn status(&self) -> watch::Sender<DeliveryStatus> {
        self.status.clone()
    }

    /// Delivers until everything is, or until `stop`. The future may be dropped: what was not acknowledged comes again.
    pub(crate) async fn run(mut self, stop: &CancellationToken) -> Result<DeliveryEnd, DeliveryError> {
        loop {
            self.admit();
            self.publish();
            if stop.is_cancelled() {
                return Ok(DeliveryEnd::Stopped);
            }
            let now = Instant::now();
            if let Some(until) = self.paused_until(now) {
                let _ = stop.run_until_cancelled(sleep_until(until)).await;
            } else if let Some(batch) = self.next_batch(now) {
                if self.send(batch, stop).await? {
                    return Ok(DeliveryEnd::Stopped);
                }
            } else if self.page.is_empty() && !self.is_read && self.window.room() > 0 {
                self.read(stop).await?;
            } else if let Some(due) = self.next_due() {
                let _ = stop.run_until_cancelled(sleep_until(due)).await;
            } else {
                return Ok(DeliveryEnd::Finished);
            }
        }
    }

    /// Takes from the page into the window what there is room for.
    fn admit(&mut self) {
        let now = Instant::now();
        while let Some(record) = self.page.pop_front() {
            if !self.window.has_room(record.bytes()) {
                self.page.push_front(record);
                return;
            }
            self.window.admit(record.position.clone(), record.bytes());
            self.ready.push(record, now);
        }
        if let Some(end) = self.page_end.take() {
            self.window.pass(end);
        }
    }

    /// Tells what is done, and how far it is.
    fn publish(&self) {
        let progress = self.window.progress();
        self.progress.send_if_modified(|known| {
            let is_new = *known != *progress;
            known.clone_from(progress);
            is_new
        });
        let (unacknowledged, unacknowledged_bytes) = (self.window.operations(), self.window.bytes());
        let breaker = self.breaker.state(Instant::now());
        self.status.send_if_modified(|known| {
            let last = (known.unacknowledged, known.unacknowledged_bytes, known.breaker);
            let is_new = known.progress != *progress || last != (unacknowledged, unacknowledged_bytes, breaker);
            known.progress.clone_from(progress);
            (known.unacknowledged, known.unacknowledged_bytes, known.breaker) =
                (unacknowledged, unacknowledged_bytes, breaker);
            is_new
        });
    }

    /// Until when nothing is sent or read.
    fn paused_until(&self, now: Instant) -> Option<Instant> {
        let paused = self.not_before.filter(|until| now < *until);
        self.breaker.open_until(now).max(paused)
    }

    /// What is to be sent now: what failed before, what was put off and is due, and then a batch that is full or has waited.
    fn next_batch(&mut self, now: Instant) -> Option<Vec<DeliveryRecord>> {
        // A record that holds up all others holds up none that comes before it.
        if let Some(blocking) = self.blocking.first().copied() {
            self.repeat_due(..blocking, now);
        }
        if self.outgoing.is_empty() {
            self.repeat_due(.., now);
        }
        if let Some(batch) = self.outgoing.pop_front() {
            return Some(batch);
        }
        let limits = self.options.batch;
        // Where nothing more can be read a batch waits for nothing.
        let is_last = self.is_read || !self.page.is_empty() || self.window.room() == 0;
        let is_due = self.ready.due(&limits).is_some_and(|due| is_last || due <= now);
        is_due.then(|| self.ready.take(&limits, now))
    }

    /// What was put off and is due, of these seqs, is sent before all others.
    fn repeat_due(&mut self, seqs: impl RangeBounds<u64>, now: Instant) {
        let due: Vec<_> = self.retries.extract_if(seqs, |_, (due, _)| *due <= now).collect();
        let mut again = ReadyRecords::default();
        for (_, (_, record)) in due {
            again.push(record, now);
        }
        let mut batches = Vec::new();
        while !again.is_empty() {
            batches.push(again.take(&self.options.batch, now));
        }
        for batch in batches.into_iter().rev() {
            self.outgoing.push_front(batch);
        }
    }

    /// When something is to be sent that is not yet.
    fn next_due(&self) -> Option<Instant> {
        let retry = self.retries.values().map(|(due, _)| *due).min();
        let batch = self.ready.due(&self.options.batch);
        retry.into_iter().chain(batch).min()
    }

    async fn read(&mut self, stop: &CancellationToken) -> Result<(), DeliveryError> {
        let limit = usize::try_from(self.window.room()).unwrap_or(MAX_CHANGES).min(MAX_CHANGES);
        let until_due = self.next_due().map(|due| due.saturating_duration_since(Instant::now()));
        let wait = if self.options.follow { until_due.unwrap_or(READ_WAIT).min(READ_WAIT) } else { Duration::ZERO };
        let page = stop.run_until_cancelled(self.source.page(&self.cursor, limit, wait)).await;
        match page {
            None => Ok(()),
            Some(Ok(ChangePage { records, next, more, end })) => {
                self.is_read = !self.options.follow && !more;
                let is_mended = std::mem::take(&mut self.has_failed_to_read);
                self.status.send_modify(|status| {
                    status.end = Some(end);
                    status.last_error.take_if(|_| is_mended);
                });
                self.cursor.clone_from(&next);
                (self.page, self.page_end) = (records.into(), Some(next));
                Ok(())
            }
            Some(Err(SourceError::Transient(why))) if self.options.follow => {
                tracing::warn!(why, "no changes were read; asking again");
                self.note(format!("no changes were read: {why}"));
                self.has_failed_to_read = true;
                let _ = stop.run_until_cancelled(sleep(self.entropy.jittered(MIN_RETRY_PAUSE * 4))).await;
                Ok(())
            }
            Some(Err(error)) => Err(error.into()),
        }
    }

    /// Sends a batch. Gives whether the process is to end before there is an answer.
    async fn send(&mut self, batch: Vec<DeliveryRecord>, stop: &CancellationToken) -> Result<bool, DeliveryError> {
        if mutants::acknowledges_first() {
            self.acknowledge(&batch)?;
            self.publish();
        }
        let overdue = async {
            stop.cancelled().await;
            sleep(STOP_GRACE).await;
        };
        let answer = tokio::select! {
            biased;
            answer = self.destination.deliver(&batch) => answer,
            () = overdue => return Ok(true),
        };
        match answer {
            BatchAnswer::Answered(verdicts) if verdicts.len() == batch.len() => self.apply(batch, verdicts).await?,
            BatchAnswer::Answered(verdicts) => {
                let why = format!("{} records were sent and {} are answered", batch.len(), verdicts.len());
                self.fail(batch, &why, None)?;
            }
            BatchAnswer::Refused { why } => self.divide(batch, why).await?,
            BatchAnswer::Failed { why, retry_after } => self.fail(batch, &why, retry_after)?,
            BatchAnswer::Ended { why } => return Err(DeliveryError::Ended { why }),
        }
        Ok(false)
    }

    /// Nothing is known of the batch: it comes again, first.
    fn fail(
        &mut self,
        batch: Vec<DeliveryRecord>,
        why: &str,
        retry_after: Option<Duration>,
    ) -> Result<(), DeliveryError> {
        let now = Instant::now();
        self.breaker.record_failure(now);
        let pause = self.next_pause().max(retry_after.unwrap_or_default().min(MAX_RETRY_AFTER));
        self.not_before = Some(now + pause);
        tracing::warn!(why, breaker = %self.breaker.state(now), "a batch was not delivered; it is sent again");
        self.note(why.to_owned());
        if mutants::drops_failed() {
            return self.acknowledge(&batch);
        }
        self.outgoing.push_front(batch);
        Ok(())
    }

    /// The destination refuses the batch as it is: halves are tried, and a single record is poison.
    async fn divide(&mut self, mut batch: Vec<DeliveryRecord>, why: String) -> Result<(), DeliveryError> {
        self.breaker.record_success();
        if batch.len() > 1 {
            let second = batch.split_off(batch.len().div_ceil(2));
            self.outgoing.push_front(second);
            self.outgoing.push_front(batch);
            return Ok(());
        }
        for record in batch {
            if let Some(blocked) = self.reject(record, &why, false).await? {
                self.outgoing.push_front(vec![blocked]);
            }
        }
        Ok(())
    }

    async fn apply(&mut self, batch: Vec<DeliveryRecord>, verdicts: Vec<RecordVerdict>) -> Result<(), DeliveryError> {
        let now = Instant::now();
        let takes_something = verdicts.iter().any(|verdict| !matches!(verdict, RecordVerdict::Retry { .. }));
        let delivers = verdicts.contains(&RecordVerdict::Delivered);
        if takes_something {
            self.breaker.record_success();
        } else {
            self.breaker.record_failure(now);
        }
        if delivers {
            (self.attempts, self.rejected_in_a_row) = (0, 0);
            self.status.send_modify(|status| status.last_error = None);
        }
        let (mut pause, mut blocked) = (None, Vec::new());
        for (record, verdict) in batch.into_iter().zip(verdicts) {
            match verdict {
                RecordVerdict::Delivered => {
                    self.blocking.remove(&record.seq());
                    self.window.acknowledge(record.seq(), RecordEnd::Delivered)?;
                }
                RecordVerdict::Retry { why } => {
                    let due = now + *pause.get_or_insert_with(|| self.next_pause());
                    self.note(why);
                    if self.blocking.contains(&record.seq()) {
                        self.not_before = Some(due);
                        blocked.push(record);
                    } else {
                        self.retries.insert(record.seq(), (due, record));
                    }
                }
                RecordVerdict::Rejected { why } => blocked.extend(self.reject(record, &why, delivers).await?),
            }
        }
        if delivers && self.blocking.is_empty() {
            self.status.send_modify(|status| status.blocked = None);
        }
        // From the back, so that they are in order in front of the others.
        for record in blocked.into_iter().rev() {
            self.outgoing.push_front(vec![record]);
        }
        Ok(())
    }

    /// The destination will never take this record. Gives it back if it holds up all others, until it is taken or put aside. A destination that rejects everything is broken,
    /// and no record is poison; one that `delivers` others in the same answer is not.
    async fn reject(
        &mut self,
        record: DeliveryRecord,
        why: &str,
        delivers: bool,
    ) -> Result<Option<DeliveryRecord>, DeliveryError> {
        let is_poison = self.options.rejected == RejectedPolicy::DeadLetter
            && (delivers || self.rejected_in_a_row < MAX_REJECTED_IN_A_ROW);
        let put_aside = if is_poison { Some(self.dead_letters.put(&record, why).await) } else { None };
        match put_aside {
            Some(Ok(())) => {
                tracing::warn!(seq = record.seq(), token = %record.token, why, "the destination rejects a record; it was put aside");
                self.rejected_in_a_row += u32::from(!delivers);
                self.attempts = 0;
                self.blocking.remove(&record.seq());
                self.window.acknowledge(record.seq(), RecordEnd::DeadLettered)?;
                Ok(None)
            }
            blocked => {
                let why = match blocked {
                    Some(Err(error)) => format!("record {} cannot be put aside: {error}", record.seq()),
                    _ => format!("record {} is rejected: {why}", record.seq()),
                };
                tracing::warn!(why, "a record holds up all others; it is sent again");
                self.status.send_modify(|status| status.blocked = Some(why));
                self.blocking.insert(record.seq());
                self.not_before = Some(Instant::now() + self.next_pause());
                Ok(Some(record))
            }
        }
    }

    fn acknowledge(&mut self, batch: &[DeliveryRecord]) -> Result<(), DeliveryError> {
        for record in batch {
            self.window.acknowledge(record.seq(), RecordEnd::Delivered)?;
        }
        Ok(())
    }

    /// How long to wait after one more attempt that brought nothing.
    fn next_pause(&mut self) -> Duration {
        let doubled = MIN_RETRY_PAUSE.saturating_mul(1 << self.attempts.min(10));
        self.attempts = self.attempts.saturating_add(1);
        self.entropy.jittered(doubled.min(MAX_RETRY_PAUSE))
    }

    fn note(&mut self, why: String) {
        self.has_failed_to_read = false;
        self.status.send_modify(|status| status.last_error = Some(why));
    }
}

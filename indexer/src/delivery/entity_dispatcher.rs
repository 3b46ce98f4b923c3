//! The loop of an ordered dispatch: reads records and hands each entity's to one worker at a time, in order.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use serde_json::json;
use tidemark_catalog::{ConsumerPosition, ConsumerProgress};
use tidemark_search::api::{FeedPosition, MAX_CHANGES};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    ack_window::{AckWindow, RecordEnd},
    circuit_breaker::BreakerState,
    entity_queues::{EntityQueues, WorkerId},
    pump::{DeliveryEnd, DeliveryError, DeliveryOptions},
    record::DeliveryRecord,
    source::{ChangePage, ChangeSource, SourceError},
    status::DeliveryStatus,
    worker_socket::{WorkerEvent, WorkerLines, WorkerMessage, WorkerSocket},
};

/// The longest wait for a change in one request.
const READ_WAIT: Duration = Duration::from_secs(20);
/// The pause after a request that failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// How long workers may finish what they have when the process is to end.
const STOP_GRACE: Duration = Duration::from_secs(8);
/// The most records that a worker may ask for at once.
const MAX_CREDITS: u32 = 10_000;
/// How many events of workers wait for the loop.
const MAX_EVENTS: usize = 64;
/// Why nothing goes on.
const NO_WORKER: &str = "no worker is attached";

/// A worker that is there.
#[derive(Debug)]
struct AttachedWorker {
    /// How many records may be with it.
    credits: usize,
    lines: WorkerLines,
}

/// Hands the records of one consumer to workers.
pub(crate) struct EntityDispatcher<'a> {
    source: &'a dyn ChangeSource,
    socket: &'a WorkerSocket,
    follow: bool,
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
    queues: EntityQueues,
    workers: BTreeMap<WorkerId, AttachedWorker>,
}

type PageAnswer = Result<ChangePage, SourceError>;

impl<'a> EntityDispatcher<'a> {
    /// Hands what comes after `done` from `source` to the workers at `socket`.
    pub(crate) fn new(
        source: &'a dyn ChangeSource,
        socket: &'a WorkerSocket,
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
            socket,
            follow: options.follow,
            progress: watch::Sender::new(done.clone()),
            status: watch::Sender::new(status),
            cursor,
            page: VecDeque::new(),
            page_end: None,
            is_read: false,
            window: AckWindow::new(options.window, done),
            queues: EntityQueues::default(),
            workers: BTreeMap::new(),
        }
    }

    /// What is done without a gap, as it moves.
    pub(crate) fn progress(&self) -> watch::Receiver<ConsumerProgress> {
        self.progress.subscribe()
    }

    /// How far it is, as it changes. Others tell here what is published.
    pub(crate) fn status(&self) -> watch::Sender<DeliveryStatus> {
        self.status.clone()
    }

    /// Listens for workers and hands out until everything is done, or until `stop`. The future may be dropped: what was not acknowledged
    /// comes again.
    pub(crate) async fn run(self, stop: &CancellationToken) -> Result<DeliveryEnd, DeliveryError> {
        let path = self.socket.path.display().to_string();
        let Some(bound) = stop.run_until_cancelled(self.socket.bind()).await else { return Ok(DeliveryEnd::Stopped) };
        let unusable = |error| DeliveryError::Ended {
            why: format!("workers cannot attach at \"{path}\": {error}; choose another path with --workers"),
        };
        let bound = bound.map_err(unusable)?;
        tracing::info!(path, "waiting for workers");
        let (events, received) = mpsc::channel(MAX_EVENTS);
        tokio::select! {
            ended = self.dispatch(received, stop) => ended,
            never = bound.accept(events) => match never {},
        }
    }

    /// Hands out to the workers that `events` tells of.
    async fn dispatch(
        mut self,
        mut events: mpsc::Receiver<WorkerEvent>,
        stop: &CancellationToken,
    ) -> Result<DeliveryEnd, DeliveryError> {
        let mut reading: Option<BoxFuture<'a, PageAnswer>> = None;
        let mut ends: Option<Instant> = None;
        loop {
            self.admit();
            if ends.is_none() {
                self.hand_out();
            }
            self.publish();
            if ends.is_some() && self.queues.is_idle() {
                return Ok(DeliveryEnd::Stopped);
            }
            if self.is_read && self.page.is_empty() && self.window.operations() == 0 {
                return Ok(DeliveryEnd::Finished);
            }
            if reading.is_none() && self.page.is_empty() && !self.is_read && self.window.room() > 0 {
                reading = Some(self.next_page());
            }
            let overdue = self.queues.oldest().map(|(since, worker)| (since + self.socket.work_timeout, worker));
            tokio::select! {
                biased;
                () = stop.cancelled(), if ends.is_none() => ends = Some(Instant::now() + STOP_GRACE),
                () = until(ends) => return Ok(DeliveryEnd::Stopped),
                () = until(overdue.map(|(due, _)| due)) => if let Some((_, worker)) = overdue {
                    self.refuse(worker, "a record was not acknowledged in time");
                },
                // Before what workers say, which may never pause. The window bounds how often.
                answer = pending(&mut reading) => {
                    reading = None;
                    self.take_page(answer)?;
                }
                Some(event) = events.recv() => self.apply(event)?,
            }
        }
    }

    /// Takes from the page into the window what there is room for.
    fn admit(&mut self) {
        while let Some(record) = self.page.pop_front() {
            if !self.window.has_room(record.bytes()) {
                self.page.push_front(record);
                return;
            }
            self.window.admit(record.position.clone(), record.bytes());
            self.queues.push(record);
        }
        if let Some(end) = self.page_end.take() {
            self.window.pass(end);
        }
    }

    /// Hands out what may be, each to the worker that has the least.
    fn hand_out(&mut self) {
        let now = Instant::now();
        loop {
            let held = |worker: &WorkerId| self.queues.held_by(*worker);
            let free = self.workers.iter().filter(|(worker, attached)| held(worker) < attached.credits);
            let Some((worker, attached)) = free.min_by_key(|(worker, _)| held(worker)) else { return };
            let Some(record) = self.queues.hand_out(*worker, now) else { return };
            attached.lines.send(record.json);
        }
    }

    /// Tells what is done, and how far it is.
    fn publish(&self) {
        let progress = self.window.progress();
        self.progress.send_if_modified(|known| {
            let is_new = known != progress;
            known.clone_from(progress);
            is_new
        });
        let has_none = self.workers.is_empty() && self.window.operations() > 0;
        self.status.send_if_modified(|known| {
            let next = DeliveryStatus {
                progress: progress.clone(),
                unacknowledged: self.window.operations(),
                unacknowledged_bytes: self.window.bytes(),
                blocked: has_none.then(|| NO_WORKER.to_owned()),
                ..known.clone()
            };
            let is_new = *known != next;
            *known = next;
            is_new
        });
    }

    /// The request for the records that come next.
    fn next_page(&self) -> BoxFuture<'a, PageAnswer> {
        let limit = usize::try_from(self.window.room()).unwrap_or(MAX_CHANGES).min(MAX_CHANGES);
        let (source, after, follow) = (self.source, self.cursor.clone(), self.follow);
        let read = async move {
            let answer = source.page(&after, limit, if follow { READ_WAIT } else { Duration::ZERO }).await;
            if let (Err(SourceError::Transient(why)), true) = (&answer, follow) {
                tracing::warn!(why, "no changes were read; asking again");
                sleep(RETRY_INTERVAL).await;
            }
            answer
        };
        read.boxed()
    }

    fn take_page(&mut self, answer: PageAnswer) -> Result<(), SourceError> {
        match answer {
            Ok(ChangePage { records, next, more, end }) => {
                self.is_read = !self.follow && !more;
                self.cursor.clone_from(&next);
                (self.page, self.page_end) = (records.into(), Some(next));
                self.status.send_modify(|status| (status.end, status.last_error) = (Some(end), None));
                Ok(())
            }
            Err(SourceError::Transient(why)) if self.follow => {
                self.status.send_modify(|status| status.last_error = Some(format!("no changes were read: {why}")));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn apply(&mut self, event: WorkerEvent) -> Result<(), DeliveryError> {
        match event {
            WorkerEvent::Attached(worker, lines) => {
                tracing::debug!(?worker, "a worker is attached");
                self.workers.insert(worker, AttachedWorker { credits: 1, lines });
            }
            WorkerEvent::Gone(worker) => self.detach(worker),
            // It was detached, and does not know yet.
            WorkerEvent::Said(worker, _) if !self.workers.contains_key(&worker) => {}
            WorkerEvent::Said(worker, Ok(WorkerMessage::Credits(credits))) if credits > MAX_CREDITS => {
                self.refuse(worker, &format!("{credits} credits are more than {MAX_CREDITS}"));
            }
            WorkerEvent::Said(worker, Ok(WorkerMessage::Credits(credits))) => {
                if let Some(attached) = self.workers.get_mut(&worker) {
                    attached.credits = credits as usize;
                }
            }
            WorkerEvent::Said(worker, Ok(WorkerMessage::Done(position))) => {
                let FeedPosition { generation, seq, .. } = position.clone();
                if self.queues.acknowledge(worker, &ConsumerPosition { generation, seq }) {
                    self.window.acknowledge(seq, RecordEnd::Delivered)?;
                } else {
                    self.refuse(worker, &format!("\"{position}\" is not with this worker"));
                }
            }
            WorkerEvent::Said(worker, Err(why)) => self.refuse(worker, &format!("the line is no message: {why}")),
        }
        Ok(())
    }

    /// Ends the connection of a worker, and says why.
    fn refuse(&mut self, worker: WorkerId, why: &str) {
        tracing::warn!(why, "a worker is sent away; others get what it has");
        if let Some(attached) = self.workers.remove(&worker) {
            attached.lines.send_away(json!({ "problem": why }).to_string().into());
        }
        self.detach(worker);
    }

    /// Others get what the worker has.
    fn detach(&mut self, worker: WorkerId) {
        self.workers.remove(&worker);
        self.queues.take_back(worker);
    }
}

/// What the future gives; nothing ever, where there is none.
async fn pending(future: &mut Option<BoxFuture<'_, PageAnswer>>) -> PageAnswer {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// Waits until a moment; for ever, where there is none.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;

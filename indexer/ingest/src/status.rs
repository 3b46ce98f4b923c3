//! The status of an ingest: for `/v1/status`, metrics, progress bars and log lines.

use std::{convert::Infallible, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde::Serialize;
use tidemark_catalog::{GarbageReport, LogCursor, Manifest, RecordCounts, StandbyReason};
use tidemark_store::{ChainRecord, StoreSecond};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tracing::{error, info, warn};

use crate::{
    cause::FailureCause,
    retry::{RetryEvent, RetryFailure},
};

/// A problem that lasts is logged at most this often.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// The role of a process for an index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IngestRole {
    /// It has not asked for the writer's lease yet.
    #[default]
    Starting,
    /// Another process writes; this one takes over when the other one's heartbeat stops.
    Standby,
    /// It writes.
    Writer,
    /// It no longer writes.
    Ended,
}

/// The present problem. Nothing is skipped or lost: the ingest retries until it succeeds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IngestProblem {
    /// What the ingest was doing.
    pub doing: &'static str,
    /// The failure with the object at fault and the remedy.
    pub message: String,
    /// How many attempts in a row have failed.
    pub attempts: u32,
    /// Why, and which store is at fault.
    #[serde(flatten)]
    pub cause: FailureCause,
}

/// How far a pass over sealed seconds has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct IngestProgress {
    /// Where it started.
    pub from: LogCursor,
    /// Where it stands.
    pub at: LogCursor,
    /// Where it ends: the horizon.
    pub to: StoreSecond,
    /// Entries so far.
    pub entries: u64,
}

/// What the index consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct IndexSize {
    /// Segments.
    pub segments: u64,
    /// Records in them, corrected ones included.
    pub records: u64,
    /// Bytes of segments and sidecars.
    pub bytes: u64,
}

/// The state of an ingest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct IngestStatus {
    /// The role of the process.
    pub role: IngestRole,
    /// The writer's number, also while another process is the writer; 0 before it is known.
    pub epoch: u64,
    /// The number of the manifest that was published or read last.
    pub manifest: u64,
    /// `H` as it was computed last.
    pub horizon: StoreSecond,
    /// Every token whose second lies below it is decided and recorded.
    pub cursor: LogCursor,
    /// How many seconds of sealed entries wait to be published; 0 when none does. While the stores do not answer: for how
    /// long it has been unknown what waits.
    pub lag_seconds: u64,
    /// Operations by outcome, corrections taken into account.
    pub entries: RecordCounts,
    /// Entries that were read and are not published yet.
    pub pending: u64,
    /// Keys in the log that are not tokens.
    pub unrecognized_keys: u64,
    /// The present problem.
    pub problem: Option<IngestProblem>,
    /// The pass over sealed seconds that is running.
    pub progress: Option<IngestProgress>,
    /// Whether this process has published everything up to a horizon once.
    pub caught_up: bool,
    /// The present writer, as this process last saw; `None` before it saw another one.
    pub holder: Option<String>,
    /// The time that the index was restored to, while this process waits for its promotion.
    pub restored_to: Option<StoreSecond>,
    /// What the index consists of, once a manifest is known.
    pub totals: Option<IndexSize>,
    /// Why no segments are compacted although some should be. The index stays correct, and becomes slower.
    pub compaction_stalled: Option<String>,
    /// Objects that the index no longer names and that are deleted after a day; `None` before this process looked.
    pub garbage: Option<u64>,
}

/// Writes the status, and the log lines that go with it. Clones write the same status.
#[derive(Clone, Debug)]
pub(crate) struct IngestStatusTracker {
    status: watch::Sender<IngestStatus>,
    /// Until when no further error is logged.
    quiet_until: Arc<Mutex<Option<Instant>>>,
    /// From what the lag is estimated while the store does not answer.
    lag: Arc<Mutex<LagEstimate>>,
}

/// What was last known of the log.
#[derive(Clone, Copy, Debug, Default)]
struct LagEstimate {
    /// The horizon, and when it was learned.
    horizon: Option<(StoreSecond, Instant)>,
    /// Every entry below it is published.
    published: StoreSecond,
}

impl LagEstimate {
    /// Where the horizon is by now, by the local monotonic clock.
    fn horizon_now(&self) -> Option<StoreSecond> {
        self.horizon.map(|(horizon, learned)| horizon.after(learned.elapsed()))
    }

    fn learn(&mut self, horizon: StoreSecond) {
        if self.horizon.is_none_or(|(known, _)| known < horizon) {
            self.horizon = Some((horizon, Instant::now()));
        }
    }
}

impl IngestStatusTracker {
    pub(crate) fn new(status: watch::Sender<IngestStatus>) -> Self {
        Self { status, quiet_until: Arc::default(), lag: Arc::default() }
    }

    /// Applies the events of retried calls until it is dropped.
    pub(crate) async fn follow(&self, mut events: mpsc::UnboundedReceiver<RetryEvent>) -> Infallible {
        while let Some(event) = events.recv().await {
            match event {
                RetryEvent::Failed(failure) => self.set_error(failure),
                RetryEvent::Recovered => self.clear_error(),
            }
        }
        std::future::pending().await
    }

    pub(crate) fn set_role(&self, role: IngestRole) {
        self.status.send_modify(|status| (status.role, status.restored_to) = (role, None));
    }

    /// Another process writes; this one stands by.
    pub(crate) fn set_waiting(&self, waiting: &StandbyReason) {
        let began = self
            .status
            .send_if_modified(|status| std::mem::replace(&mut status.role, IngestRole::Standby) != IngestRole::Standby);
        match waiting {
            StandbyReason::Unanswered { error } => self.set_error(RetryFailure::new("looking for the writer", error)),
            _ => self.clear_error(),
        }
        self.status.send_if_modified(|status| match waiting {
            // The writer before the restore holds nothing any more.
            StandbyReason::NotPromoted { until } => {
                let known = status.restored_to == Some(*until) && status.holder.is_none();
                (status.restored_to, status.holder) = (Some(*until), None);
                !known
            }
            // Nothing was seen.
            StandbyReason::Unanswered { .. } => false,
            StandbyReason::ForHolder { .. } | StandbyReason::BackingOff { .. } => status.restored_to.take().is_some(),
        });
        if let StandbyReason::ForHolder { holder, epoch, .. } = waiting {
            self.status.send_if_modified(|status| {
                let known = status.epoch == *epoch && status.holder.as_ref() == Some(&holder.0);
                (status.epoch, status.holder) = (*epoch, Some(holder.0.clone()));
                !known
            });
        }
        match waiting {
            StandbyReason::ForHolder { holder, epoch, .. } if began => {
                info!(%holder, epoch, "another process writes the index; standing by");
            }
            StandbyReason::NotPromoted { until } if began => {
                info!(%until, "the index was restored and is not promoted; nothing is indexed before `tidemark promote`");
            }
            StandbyReason::BackingOff { wait } => {
                info!(?wait, "the index changed writers several times in a row; backing off");
            }
            StandbyReason::ForHolder { .. } | StandbyReason::NotPromoted { .. } | StandbyReason::Unanswered { .. } => {}
        }
    }

    /// A manifest was published or taken over.
    pub(crate) fn set_manifest(&self, latest: &ChainRecord<Manifest>) {
        self.lag.lock().learn(latest.state.horizon);
        self.status.send_modify(|status| {
            let manifest = &latest.state;
            status.manifest = latest.number;
            status.epoch = manifest.epoch;
            status.horizon = status.horizon.max(manifest.horizon);
            status.cursor = manifest.cursor;
            status.entries = manifest.totals.standing();
            status.totals = Some(IndexSize {
                segments: manifest.segments.len() as u64,
                records: manifest.totals.records,
                bytes: manifest.totals.bytes,
            });
            if let Some(progress) = &mut status.progress {
                progress.at = manifest.cursor;
                status.lag_seconds = progress.to.since(manifest.cursor.second()).as_secs();
            }
        });
    }

    /// A pass over the sealed seconds up to `horizon` begins.
    pub(crate) fn begin_pass(&self, horizon: StoreSecond) {
        self.lag.lock().learn(horizon);
        self.status.send_modify(|status| {
            status.horizon = status.horizon.max(horizon);
            status.progress = Some(IngestProgress { from: status.cursor, at: status.cursor, to: horizon, entries: 0 });
        });
    }

    /// `entries` more were read; the oldest one that is not published yet has second `oldest`.
    pub(crate) fn add_read(&self, entries: u64, oldest: StoreSecond, unrecognized_keys: u64) {
        self.status.send_modify(|status| {
            status.pending += entries;
            status.unrecognized_keys = unrecognized_keys;
            if let Some(progress) = &mut status.progress {
                progress.entries += entries;
                status.lag_seconds = progress.to.since(oldest).as_secs();
            }
        });
    }

    /// Why no segments are compacted although some should be; `None` if nothing keeps them from it. Logs when it begins.
    pub(crate) fn set_compaction_stalled(&self, why: Option<&str>) {
        let changed = self.status.send_if_modified(|status| {
            let changed = status.compaction_stalled.as_deref() != why;
            if changed {
                status.compaction_stalled = why.map(str::to_owned);
            }
            changed
        });
        if let Some(why) = why.filter(|_| changed) {
            warn!(why, "segments are not compacted; the index stays correct, and searches become slower");
        }
    }

    /// What was read is published.
    pub(crate) fn clear_pending(&self) {
        self.status.send_modify(|status| status.pending = 0);
    }

    /// A pass over the index's garbage ended.
    pub(crate) fn set_garbage(&self, report: &GarbageReport) {
        self.status.send_modify(|status| status.garbage = Some(report.candidates + report.waiting));
    }

    /// The pass has reached its horizon, or failed; what it had read and not published is read again.
    pub(crate) fn end_pass(&self, done: bool) {
        self.status.send_modify(|status| {
            status.pending = 0;
            if let Some(progress) = status.progress.take_if(|_| done) {
                status.lag_seconds = 0;
                if progress.entries > 0 {
                    let IngestProgress { entries, to, .. } = progress;
                    info!(entries, horizon = %to, "published everything below the horizon");
                }
            }
        });
    }

    /// Something failed and will be retried.
    pub(crate) fn set_error(&self, failure: RetryFailure) {
        let RetryFailure { doing, message, cause } = failure;
        let mut attempts = 1;
        let lag = *self.lag.lock();
        self.status.send_modify(|status| {
            if let Some(horizon) = lag.horizon_now() {
                status.lag_seconds = horizon.since(lag.published.max(status.cursor.second())).as_secs();
            }
            attempts += status.problem.as_ref().map_or(0, |problem| problem.attempts);
            status.problem = Some(IngestProblem { doing, message: message.clone(), attempts, cause });
        });
        if self.should_log() {
            error!(doing, attempts, "{message}; nothing is lost; retrying");
        }
    }

    /// A pass succeeded: nothing that is sealed waits.
    pub(crate) fn mark_caught_up(&self) {
        let mut lag = self.lag.lock();
        lag.published = lag.horizon_now().unwrap_or_default();
        drop(lag);
        self.status.send_if_modified(|status| {
            let first = !std::mem::replace(&mut status.caught_up, true);
            std::mem::take(&mut status.lag_seconds) > 0 || first
        });
    }

    /// What failed succeeds again.
    pub(crate) fn clear_error(&self) {
        let recovered = self.status.send_if_modified(|status| {
            let recovered = status.problem.take().is_some();
            if recovered {
                let behind = |progress: IngestProgress| progress.to.since(status.cursor.second()).as_secs();
                status.lag_seconds = status.progress.map_or(0, behind);
            }
            recovered
        });
        if recovered {
            *self.quiet_until.lock() = None;
            info!("recovered");
        }
    }

    /// Whether an error is logged now; limits the rate.
    fn should_log(&self) -> bool {
        let now = Instant::now();
        let mut quiet_until = self.quiet_until.lock();
        if quiet_until.is_some_and(|until| now < until) {
            return false;
        }
        *quiet_until = Some(now + LOG_INTERVAL);
        true
    }
}

//! What an ingest says about itself: for `/v1/status`, metrics, progress bars and log lines.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Serialize;
use tidemark_catalog::{Cursor, Manifest, RecordCounts, StandbyReason};
use tidemark_store::{ChainRecord, StoreSecond};
use tokio::{sync::watch, time::Instant};
use tracing::{error, info};

use crate::cause::{FailureCause, ToCause};

/// For how long a trouble that goes on is not logged again.
const SILENCE: Duration = Duration::from_mins(1);

/// The part that a process plays for an index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IngestRole {
    /// It has not asked for the writer's role yet.
    #[default]
    Starting,
    /// Another process writes; this one takes over when that one falls silent.
    Standby,
    /// It writes.
    Writer,
    /// It writes no more.
    Ended,
}

/// What goes wrong at present. Nothing is skipped or lost meanwhile: the ingest tries again until it works.
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

/// How far a run through sealed seconds has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct IngestProgress {
    /// Where it started.
    pub from: Cursor,
    /// Where it stands.
    pub at: Cursor,
    /// Where it ends: the horizon.
    pub to: StoreSecond,
    /// Entries so far.
    pub entries: u64,
}

/// What the index consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct IndexTotals {
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
    /// The part that the process plays.
    pub role: IngestRole,
    /// The writer's number, also while another process is the writer; 0 before it is known.
    pub epoch: u64,
    /// The number of the manifest that was published or read last.
    pub manifest: u64,
    /// `H` as it was computed last.
    pub horizon: StoreSecond,
    /// Every token whose second lies below it is decided and recorded.
    pub cursor: Cursor,
    /// How many seconds of sealed entries wait to be published; 0 when none does. While the stores do not answer, for how
    /// long it is unknown what waits.
    pub lag_seconds: u64,
    /// Operations by outcome, corrections taken into account.
    pub entries: RecordCounts,
    /// Entries that were read and are not published yet.
    pub pending: u64,
    /// Keys in the log that are no tokens.
    pub unrecognized_keys: u64,
    /// What goes wrong at present.
    pub problem: Option<IngestProblem>,
    /// A run through sealed seconds, while one goes on.
    pub progress: Option<IngestProgress>,
    /// Whether this process has published everything up to a horizon once.
    pub caught_up: bool,
    /// Who writes instead, as this process last saw.
    pub holder: Option<String>,
    /// What the index consists of, once a manifest is known.
    pub totals: Option<IndexTotals>,
}

/// Writes the status, and the log lines that go with it.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    status: watch::Sender<IngestStatus>,
    /// Until when no further failure is logged. Clones share it.
    quiet_until: Arc<Mutex<Option<Instant>>>,
    /// What the lag is counted by while the store does not answer. Clones share it.
    known: Arc<Mutex<Known>>,
}

/// What was known last of the log.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// The horizon, and when it was learned.
    horizon: Option<(StoreSecond, Instant)>,
    /// Nothing below it waits to be published.
    clear: StoreSecond,
}

impl Known {
    /// Where the horizon is by now, by the local monotonic clock.
    fn now(&self) -> Option<StoreSecond> {
        self.horizon.map(|(horizon, learned)| horizon.after(learned.elapsed()))
    }

    fn learn(&mut self, horizon: StoreSecond) {
        if self.horizon.is_none_or(|(known, _)| known < horizon) {
            self.horizon = Some((horizon, Instant::now()));
        }
    }
}

impl Reporter {
    pub(crate) fn new(status: watch::Sender<IngestStatus>) -> Self {
        Self { status, quiet_until: Arc::default(), known: Arc::default() }
    }

    pub(crate) fn role(&self, role: IngestRole) {
        self.status.send_modify(|status| status.role = role);
    }

    /// Another process writes.
    pub(crate) fn waits(&self, waiting: &StandbyReason) {
        let began = self
            .status
            .send_if_modified(|status| std::mem::replace(&mut status.role, IngestRole::Standby) != IngestRole::Standby);
        match waiting {
            StandbyReason::Unanswered { error } => self.trouble("looking for the writer", error),
            _ => self.well(),
        }
        if let StandbyReason::ForHolder { holder, epoch, .. } = waiting {
            self.status.send_if_modified(|status| {
                let known = status.epoch == *epoch && status.holder.as_ref() == Some(&holder.0);
                (status.epoch, status.holder) = (*epoch, Some(holder.0.clone()));
                !known
            });
        }
        match waiting {
            StandbyReason::ForHolder { holder, epoch, .. } if began => {
                info!(%holder, epoch, "another process writes the index: standing by");
            }
            StandbyReason::BackingOff { wait } => {
                info!(?wait, "the index changed hands several times in a row: waiting")
            }
            StandbyReason::ForHolder { .. } | StandbyReason::Unanswered { .. } => {}
        }
    }

    /// A manifest was published or taken over.
    pub(crate) fn manifest(&self, slot: &ChainRecord<Manifest>) {
        self.known().learn(slot.state.horizon);
        self.status.send_modify(|status| {
            let manifest = &slot.state;
            status.manifest = slot.number;
            status.epoch = manifest.epoch;
            status.horizon = status.horizon.max(manifest.horizon);
            status.cursor = manifest.cursor;
            status.entries = manifest.totals.standing();
            status.totals = Some(IndexTotals {
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

    /// A run through the sealed seconds up to `horizon` starts.
    pub(crate) fn run_starts(&self, horizon: StoreSecond) {
        self.known().learn(horizon);
        self.status.send_modify(|status| {
            status.horizon = status.horizon.max(horizon);
            status.progress = Some(IngestProgress { from: status.cursor, at: status.cursor, to: horizon, entries: 0 });
        });
    }

    /// `entries` more were read; the oldest that is not published yet has second `oldest`.
    pub(crate) fn read(&self, entries: u64, oldest: StoreSecond, unrecognized_keys: u64) {
        self.status.send_modify(|status| {
            status.pending += entries;
            status.unrecognized_keys = unrecognized_keys;
            if let Some(progress) = &mut status.progress {
                progress.entries += entries;
                status.lag_seconds = progress.to.since(oldest).as_secs();
            }
        });
    }

    /// What was read is published, or was dropped to be read again.
    pub(crate) fn nothing_pending(&self) {
        self.status.send_modify(|status| status.pending = 0);
    }

    /// The run has reached its horizon, or was broken off.
    pub(crate) fn run_ends(&self, done: bool) {
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

    /// Something failed and will be tried again.
    pub(crate) fn trouble(&self, doing: &'static str, failure: &impl ToCause) {
        let message = whole(failure);
        let mut attempts = 1;
        let known = *self.known();
        self.status.send_modify(|status| {
            if let Some(horizon) = known.now() {
                status.lag_seconds = horizon.since(known.clear.max(status.cursor.second())).as_secs();
            }
            attempts += status.problem.as_ref().map_or(0, |trouble| trouble.attempts);
            status.problem =
                Some(IngestProblem { doing, message: message.clone(), attempts, cause: failure.to_cause() });
        });
        if self.may_speak() {
            error!(doing, attempts, "{message}; nothing is lost: trying again");
        }
    }

    /// A round ended well: nothing that is sealed waits.
    pub(crate) fn all_done(&self) {
        let mut known = self.known();
        known.clear = known.now().unwrap_or_default();
        drop(known);
        self.status.send_if_modified(|status| {
            let first = !std::mem::replace(&mut status.caught_up, true);
            std::mem::take(&mut status.lag_seconds) > 0 || first
        });
        self.well();
    }

    /// What failed works again.
    pub(crate) fn well(&self) {
        let healed = self.status.send_if_modified(|status| {
            let healed = status.problem.take().is_some();
            if healed {
                let behind = |progress: IngestProgress| progress.to.since(status.cursor.second()).as_secs();
                status.lag_seconds = status.progress.map_or(0, behind);
            }
            healed
        });
        if healed {
            *self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner) = None;
            info!("works again");
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_speak(&self) -> bool {
        let now = Instant::now();
        let mut quiet_until = self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet = quiet_until.is_some_and(|until| now < until);
        if !quiet {
            *quiet_until = Some(now + SILENCE);
        }
        !quiet
    }
}

/// The message with those of all its causes that it does not contain already.
fn whole(failure: &(dyn std::error::Error + 'static)) -> String {
    let mut message = failure.to_string();
    let mut cause = failure.source();
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        cause = inner.source();
    }
    message
}

//! What makes a generation of an index and switches to it: its parts, and what its commands share.

use std::{convert::Infallible, sync::Arc};

use tidemark_catalog::{
    CatalogError, Generation, GenerationSwitch, LogCursor, RootChain, RootState, StandbyReason, TransactionRejected,
    WriterLease, heartbeat,
};
use tidemark_store::{Entropy, Store, StoreClock, StoreSecond};
use tidemark_wal::Log;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    engine::IndexEngine, error::IngestError, options::IngestOptions, retry::StageRetrier,
    segment_upload::SegmentUploader, status::IngestStatusTracker,
};

/// What makes a generation of an index.
#[derive(Clone)]
pub struct GenerationTask {
    /// The log of the index.
    pub log: Log,
    /// The process's clock of that log: its probes are the maker's heartbeat.
    pub clock: StoreClock,
    /// The log's root chain, where the index is registered.
    pub root: RootChain,
    /// The store of the index.
    pub index: Store,
    /// What builds and reads segments in that store.
    pub engine: Arc<dyn IndexEngine>,
    /// The name of the task. One that is started again under it goes on with its generation, and does nothing if the index has switched to
    /// that. Without a name only a generation on the way is gone on with.
    pub name: Option<String>,
    /// Limits on memory; [`IngestOptions::batch_records`] is how much a crash loses.
    pub options: IngestOptions,
    /// For the names of objects.
    pub entropy: Entropy,
    /// How many records of how many are copied.
    pub progress: watch::Sender<CopyProgress>,
}

/// How far the copy of a generation has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyProgress {
    /// Records that the new generation has.
    pub copied: u64,
    /// Records of the generation that they are copied from, by what is known.
    pub total: u64,
}

/// What an index consists of after a switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchReport {
    /// The open generation.
    pub generation: Generation,
    /// The number of the manifest that was read last.
    pub manifest: u64,
    /// Every token whose second lies below it is recorded.
    pub cursor: LogCursor,
    /// Its records.
    pub records: u64,
    /// The bytes of its objects.
    pub bytes: u64,
    /// What a promotion leaves to the log to decide again.
    pub decided_again: Option<DecideAgainReport>,
    /// Why a promotion of what was restored is refused, unless it is to decide again.
    pub unaudited: Option<UnauditedReport>,
    /// Earlier generations of which a promotion found neither chain nor pin, the latest one first: what they alone had recorded the log
    /// decides again.
    pub missing: Vec<Generation>,
    /// Objects that a restore found gone or damaged, and how: what they held was taken from elsewhere.
    pub damaged: Vec<String>,
}

/// What was restored has seconds below the log's floor of which corrections may be lost: the log does not show them any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnauditedReport {
    /// What lies below it had its last look.
    pub audited: LogCursor,
    /// The log's floor.
    pub floor: LogCursor,
}

impl UnauditedReport {
    /// Of what holds the log up to `cursor` and had its last look up to `audited`.
    pub(crate) fn of(root: &RootState, cursor: LogCursor, audited: StoreSecond) -> Option<Self> {
        let (audited, floor) = (LogCursor(audited), root.floor.as_ref()?.second);
        (audited < floor.min(cursor)).then_some(Self { audited, floor })
    }
}

/// Seconds whose outcomes were recorded and are lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecideAgainReport {
    /// The first second.
    pub first: StoreSecond,
    /// The last second of which something was recorded.
    pub last: StoreSecond,
    /// What is damaged.
    pub why: String,
}

/// What runs beside a task until this is dropped.
pub(crate) struct TaskCompanions {
    _heartbeat: AbortOnDropHandle<Infallible>,
    _failures: AbortOnDropHandle<Infallible>,
    retrier: StageRetrier,
}

impl GenerationTask {
    /// Moves the heartbeat of this process, and logs what has to be retried.
    pub(crate) fn accompany(&self) -> TaskCompanions {
        let clock = self.clock.clone();
        let (retrier, events) = StageRetrier::new();
        let tracker = IngestStatusTracker::new(watch::Sender::default());
        TaskCompanions {
            _heartbeat: AbortOnDropHandle::new(tokio::spawn(async move { heartbeat(&clock).await })),
            _failures: AbortOnDropHandle::new(tokio::spawn(async move { tracker.follow(events).await })),
            retrier,
        }
    }

    /// The switch on behalf of this task, which does `what`.
    pub(crate) async fn switch(&self, what: &str) -> Result<GenerationSwitch, IngestError> {
        let id = self.root.id().await?.ok_or(CatalogError::from(TransactionRejected::NoParameters))?;
        let task = self.name.as_ref().map_or_else(|| what.to_owned(), |name| format!("{what} {name}"));
        let holders = (&self.log.entries, &self.clock);
        Ok(GenerationSwitch::new((&self.root, &id), &self.index, holders, &task, &self.entropy))
    }

    /// What uploads objects of the generation of `made`.
    pub(crate) fn uploader(&self, made: &WriterLease, companions: &TaskCompanions) -> SegmentUploader {
        let name = (made.manifest().state.generation.clone(), made.epoch());
        let retrier = companions.retrier.clone();
        SegmentUploader::new(self.index.clone(), self.engine.clone(), name, self.entropy.clone(), retrier)
    }

    /// Reports how many records are copied of `total`.
    pub(crate) fn progress_of(&self, total: u64) -> impl Fn(u64) + use<> {
        let progress = self.progress.clone();
        progress.send_modify(|progress| progress.total = total);
        move |copied| {
            progress.send_replace(CopyProgress { copied, total });
        }
    }

    /// Records in the log's root what the index needs of the log, in a generation that it has just switched to or been promoted in: a clean-up
    /// need not wait for the writer's next report. A restored index needs all of it until it is promoted.
    pub(crate) async fn report_keeps(&self, switch: &GenerationSwitch) {
        let reported = async {
            let (open, latest) = switch.open_generation().await?;
            if latest.state.until.is_some() {
                return Ok(());
            }
            let audited = LogCursor(latest.state.audited);
            self.root.keep(self.index.url().as_str(), open.generation(), audited).await
        };
        if let Err(error) = reported.await {
            tracing::warn!(%error, "the log's root does not say what the index needs of the log; a clean-up waits until the indexer says it, within the hour");
        }
    }

    /// What the index is now.
    pub(crate) async fn report(&self, switch: &GenerationSwitch) -> Result<SwitchReport, IngestError> {
        let (open, latest) = switch.open_generation().await?;
        let (totals, cursor) = (&latest.state.totals, latest.state.cursor);
        let unaudited = match latest.state.until {
            Some(_) => UnauditedReport::of(&self.root.state().await?, cursor, latest.state.audited),
            None => None,
        };
        Ok(SwitchReport {
            generation: open.generation().clone(),
            manifest: latest.number,
            cursor,
            records: totals.records,
            bytes: totals.bytes,
            decided_again: None,
            unaudited,
            missing: Vec::new(),
            damaged: Vec::new(),
        })
    }
}

/// Gives up the generation `made`, which a failure ended, if the index has switched from `source` to another one meanwhile. After an unknown
/// outcome nothing is done.
pub(crate) async fn give_up_after(
    failure: &IngestError,
    switch: &GenerationSwitch,
    made: &Generation,
    source: &Generation,
) {
    if failure.is_unknown() {
        return;
    }
    if let Err(error) = switch.give_up_unless_open(made, source, log_wait).await {
        tracing::warn!(generation = %made, %error, "the generation that was begun stays; the next task gives it up after a day");
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as what waits calls it")]
pub(crate) fn log_wait(why: StandbyReason) {
    tracing::debug!(?why, "waiting for another process");
}

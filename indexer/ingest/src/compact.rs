//! Compaction beside the tail: computed in a task of its own, adopted by the writer alone.
//!
//! A compaction replaces neighbouring segments by one with the same records and seqs, or sidecars by one with the same
//! marks. Marks are kept by seq, and seqs survive, so that nothing is re-mapped and what is published meanwhile stays
//! valid. If an input is gone when the result comes, the manifest refuses it and the next plan starts from what is there.

use tidemark_catalog::{CompactionResult, Manifest, PublishError, SegmentMeta, SidecarMeta};
use tidemark_store::planted::{Fault, planted};
use tokio::time::{Duration, Instant};
use tokio_util::task::AbortOnDropHandle;

use super::{
    error::IngestError,
    index::{Shelf, Summary},
    indexer::Indexer,
    rejudge::Rejudge,
    tail,
    tiers::Tiers,
};
use crate::engine::{EngineError, RecordMarks};

/// After a compaction failed, the next one waits.
const AFTER_FAILURE: Duration = Duration::from_secs(30);

/// At most one compaction at a time.
#[derive(Debug, Default)]
pub(crate) struct Compactor {
    task: Option<AbortOnDropHandle<Result<CompactionResult, EngineError>>>,
    result: Option<Result<CompactionResult, EngineError>>,
    not_before: Option<Instant>,
}

/// What to replace by one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    Segments(Vec<SegmentMeta>),
    Sidecars(Vec<SidecarMeta>),
}

impl Plan {
    /// The most useful thing to do to `manifest`, if anything.
    pub(crate) fn of(manifest: &Manifest) -> Option<Self> {
        let marks: Vec<u64> = manifest.sidecars.iter().map(|sidecar| sidecar.corrected + sidecar.outdated).collect();
        if let Some(run) = Tiers::SIDECARS.plan(&marks) {
            return Some(Self::Sidecars(manifest.sidecars[run].to_vec()));
        }
        let documents: Vec<u64> = manifest.segments.iter().map(|segment| segment.documents).collect();
        let run = Tiers::SEGMENTS.plan(&documents)?;
        Some(Self::Segments(manifest.segments[run].to_vec()))
    }

    async fn carry_out(self, shelf: Shelf, rejudge: Rejudge) -> Result<CompactionResult, EngineError> {
        match self {
            Self::Segments(inputs) => merge_segments(&inputs, &shelf, &rejudge).await,
            Self::Sidecars(inputs) => merge_sidecars(&inputs, &shelf).await,
        }
    }
}

async fn merge_segments(
    inputs: &[SegmentMeta],
    shelf: &Shelf,
    rejudge: &Rejudge,
) -> Result<CompactionResult, EngineError> {
    let Some(summary) = Summary::of(inputs) else { return Ok(CompactionResult::default()) };
    let packed = if planted(Fault::OutcomeDecidedAgain) {
        rejudge.rebuild(inputs, shelf).await?
    } else {
        shelf.engine.merge(inputs).await?
    };
    let merged = shelf.put_segment(packed, summary).await;
    Ok(CompactionResult {
        removes: inputs.iter().map(|segment| segment.key.clone()).collect(),
        adds: vec![merged],
        ..CompactionResult::default()
    })
}

async fn merge_sidecars(inputs: &[SidecarMeta], shelf: &Shelf) -> Result<CompactionResult, EngineError> {
    let mut marks = RecordMarks::default();
    for sidecar in inputs {
        marks.merge(&shelf.engine.read_marks(sidecar).await?);
    }
    let counts = inputs.iter().map(|sidecar| sidecar.counts).sum();
    let digest = inputs.iter().map(|sidecar| sidecar.digest).sum();
    Ok(CompactionResult {
        removes_sidecars: inputs.iter().map(|sidecar| sidecar.key.clone()).collect(),
        adds_sidecars: vec![shelf.put_sidecar(&marks, counts, digest).await?],
        ..CompactionResult::default()
    })
}

impl Compactor {
    /// Resolves when a compaction is done; never while there is none. May be dropped and called again.
    pub(crate) async fn finished(&mut self) {
        if self.result.is_some() {
            return;
        }
        match &mut self.task {
            Some(task) => self.result = Some(tail::finished(task).await),
            None => std::future::pending().await,
        }
        self.task = None;
    }

    /// What came of a compaction, once it is done.
    async fn take(&mut self) -> Option<Result<CompactionResult, EngineError>> {
        if self.task.as_ref().is_some_and(AbortOnDropHandle::is_finished) {
            self.finished().await;
        }
        self.result.take()
    }
}

impl Indexer {
    /// Adopts a compaction that is done, and starts the next one.
    pub(super) async fn adopt(&mut self) -> Result<(), IngestError> {
        match self.compactor.take().await {
            Some(Ok(compaction)) => self.adopt_one(compaction).await?,
            Some(Err(failure)) => self.compaction_failed(&failure),
            None => {}
        }
        self.start_compaction();
        Ok(())
    }

    async fn adopt_one(&mut self, mut compaction: CompactionResult) -> Result<(), IngestError> {
        if planted(Fault::CompactionLosesCorrection) {
            lose_what_was_published_meanwhile(&mut compaction, &self.writer_lease.manifest().state);
        }
        match self.writer_lease.adopt(compaction).await {
            Ok(slot) => self.reporter.manifest(slot),
            Err(PublishError::Rejected(refused)) => {
                tracing::info!(%refused, "the index changed while it was compacted: planning anew");
                return Ok(());
            }
            Err(failure) => return Err(failure.into()),
        }
        self.open_index().await
    }

    fn compaction_failed(&mut self, failure: &EngineError) {
        self.reporter.trouble("compacting", failure);
        self.compactor.not_before = Some(Instant::now() + AFTER_FAILURE);
    }

    fn start_compaction(&mut self) {
        let waits = self.compactor.not_before.is_some_and(|until| Instant::now() < until);
        if !self.options.compaction || waits || self.compactor.task.is_some() {
            return;
        }
        let Some(plan) = Plan::of(&self.writer_lease.manifest().state) else { return };
        let rejudge = Rejudge::new(&self.reader, self.frozen.as_ref());
        let task = tokio::spawn(plan.carry_out(self.shelf.clone(), rejudge));
        self.compactor.task = Some(AbortOnDropHandle::new(task));
    }
}

/// The fault: every sidecar is replaced by the one that was made from those known at the start.
fn lose_what_was_published_meanwhile(compaction: &mut CompactionResult, manifest: &Manifest) {
    let Some(merged) = compaction.adds_sidecars.first_mut() else { return };
    let known: Vec<&SidecarMeta> = manifest.sidecars.iter().collect();
    merged.counts = known.iter().map(|sidecar| sidecar.counts).sum();
    merged.digest = known.iter().map(|sidecar| sidecar.digest).sum();
    merged.corrected = known.iter().map(|sidecar| sidecar.corrected).sum();
    merged.outdated = known.iter().map(|sidecar| sidecar.outdated).sum();
    compaction.removes_sidecars = known.iter().map(|sidecar| sidecar.key.clone()).collect();
}

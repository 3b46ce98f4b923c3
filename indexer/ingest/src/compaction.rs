//! Compaction beside the tail: computed in a task of its own, adopted between two batches.
//!
//! A compaction replaces neighbouring segments by one with the same records and seqs, or sidecars by one with the same
//! marks. Marks are kept by seq, and seqs survive, so that nothing is re-mapped and what is published meanwhile stays
//! valid. If an input is gone when the result arrives, the manifest refuses it and the next plan starts from what exists.

use tidemark_catalog::{CompactionResult, Manifest, SegmentMeta, SidecarMeta};
use tokio::time::{Duration, Instant};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    compaction_policy::CompactionPolicy,
    engine::{EngineError, RecordMarks},
    error::IngestError,
    mutants,
    publisher::Publisher,
    segment_upload::{SegmentStats, SegmentUploader},
    task,
};

/// The pause after a compaction that failed.
const FAILURE_PAUSE: Duration = Duration::from_secs(30);

/// Runs at most one compaction at a time.
#[derive(Debug)]
pub(crate) struct IndexCompactor {
    enabled: bool,
    task: Option<AbortOnDropHandle<Result<CompactionResult, EngineError>>>,
    result: Option<Result<CompactionResult, EngineError>>,
    paused_until: Option<Instant>,
}

impl IndexCompactor {
    pub(crate) fn new(enabled: bool) -> Self {
        Self { enabled, task: None, result: None, paused_until: None }
    }

    /// Whether none runs and none waits to be published.
    pub(crate) fn is_idle(&self) -> bool {
        self.task.is_none() && self.result.is_none()
    }

    /// Waits until a compaction is finished; never ends while none runs. May be dropped and called again.
    pub(crate) async fn finished(&mut self) {
        if self.result.is_some() {
            return;
        }
        match &mut self.task {
            Some(task) => self.result = Some(task::join(task).await),
            None => std::future::pending().await,
        }
        self.task = None;
    }

    /// Publishes a finished compaction and starts the next one. Gives why the finished one failed, if it did.
    pub(crate) async fn run(&mut self, publisher: &mut Publisher) -> Result<Option<EngineError>, IngestError> {
        let mut failure = None;
        match self.take_result().await {
            Some(Ok(compaction)) => {
                let compaction = mutants::adopted(compaction, publisher.manifest());
                publisher.adopt(compaction).await?;
            }
            Some(Err(error)) => {
                self.paused_until = Some(Instant::now() + FAILURE_PAUSE);
                failure = Some(error);
            }
            None => {}
        }
        self.start(publisher);
        Ok(failure)
    }

    async fn take_result(&mut self) -> Option<Result<CompactionResult, EngineError>> {
        if self.task.as_ref().is_some_and(AbortOnDropHandle::is_finished) {
            self.finished().await;
        }
        self.result.take()
    }

    fn start(&mut self, publisher: &Publisher) {
        let paused = self.paused_until.is_some_and(|until| Instant::now() < until);
        if !self.enabled || paused || self.task.is_some() {
            return;
        }
        let Some(plan) = CompactionPlan::of(publisher.manifest()) else { return };
        let task = tokio::spawn(plan.carry_out(publisher.uploader().clone()));
        self.task = Some(AbortOnDropHandle::new(task));
    }
}

/// What to replace by one object.
#[derive(Clone, Debug, PartialEq, Eq)]
enum CompactionPlan {
    Segments(Vec<SegmentMeta>),
    Sidecars(Vec<SidecarMeta>),
}

impl CompactionPlan {
    /// The most useful compaction of `manifest`, if any.
    fn of(manifest: &Manifest) -> Option<Self> {
        // Sidecars first: every open of the index reads all of them, and they are cheap to merge.
        let marks: Vec<u64> = manifest.sidecars.iter().map(|sidecar| sidecar.corrected + sidecar.outdated).collect();
        if let Some(run) = CompactionPolicy::SIDECARS.plan(&marks) {
            return Some(Self::Sidecars(manifest.sidecars[run].to_vec()));
        }
        let documents: Vec<u64> = manifest.segments.iter().map(|segment| segment.documents).collect();
        let run = CompactionPolicy::SEGMENTS.plan(&documents)?;
        Some(Self::Segments(manifest.segments[run].to_vec()))
    }

    async fn carry_out(self, uploader: SegmentUploader) -> Result<CompactionResult, EngineError> {
        match self {
            Self::Segments(inputs) => merge_segments(&inputs, &uploader).await,
            Self::Sidecars(inputs) => merge_sidecars(&inputs, &uploader).await,
        }
    }
}

async fn merge_segments(inputs: &[SegmentMeta], uploader: &SegmentUploader) -> Result<CompactionResult, EngineError> {
    let Some(stats) = SegmentStats::merged(inputs) else { return Ok(CompactionResult::default()) };
    let packed = uploader.engine().merge(inputs).await?;
    let merged = uploader.upload_segment(packed, stats).await;
    Ok(CompactionResult {
        removes: inputs.iter().map(|segment| segment.key.clone()).collect(),
        adds: vec![merged],
        ..CompactionResult::default()
    })
}

async fn merge_sidecars(inputs: &[SidecarMeta], uploader: &SegmentUploader) -> Result<CompactionResult, EngineError> {
    let mut marks = RecordMarks::default();
    for sidecar in inputs {
        marks.merge(&uploader.engine().read_marks(sidecar).await?);
    }
    let counts = inputs.iter().map(|sidecar| sidecar.counts).sum();
    let digest = inputs.iter().map(|sidecar| sidecar.digest).sum();
    Ok(CompactionResult {
        removes_sidecars: inputs.iter().map(|sidecar| sidecar.key.clone()).collect(),
        adds_sidecars: vec![uploader.upload_sidecar(&marks, counts, digest).await?],
        ..CompactionResult::default()
    })
}

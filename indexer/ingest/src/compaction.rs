//! Compaction beside the tail: computed in tasks of its own, adopted between two batches.
//!
//! A compaction replaces neighbouring segments by one with the same records and seqs, or sidecars by one with the same
//! marks. Marks are kept by seq, and seqs survive, so that nothing is re-mapped and what is published meanwhile stays
//! valid. If an input is gone when the result arrives, the manifest refuses it and the next plan starts from what exists.
//!
//! There are two lanes, so that small compactions, which keep the number of segments down, never wait for a large one. Each has at
//! most one compaction, of inputs that the other one does not use. After a failure a lane tries a smaller compaction, and without a
//! damaged input.

use std::{collections::BTreeSet, ops::Range, time::Duration};

use tidemark_catalog::{CompactionResult, Manifest, SegmentMeta, SidecarMeta};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    compaction_policy::{CompactionPolicy, ObjectWeight},
    engine::{EngineError, RecordMarks, RecordStats},
    error::IngestError,
    mutants,
    publisher::IndexPublisher,
    retry::RetryBackoff,
    segment_upload::{SegmentStats, SegmentUploader},
    task,
};

/// The largest segment that a compaction makes, if the engine has room for it: about 1.5 million records, which are compacted and
/// uploaded in one to two minutes, and downloaded in as long; a terabyte of log is then some hundred segments.
const MAX_SEGMENT_BYTES: u64 = 1 << 30;
/// A compaction of fewer bytes is a small one.
const SMALL_COMPACTION_BYTES: u64 = 32 << 20;
/// A compaction is a small one only below this part of the largest possible one.
const SMALL_COMPACTION_PART: u64 = 8;
/// The pause of a lane after a failure, unless room was lacking; it doubles with each further one.
const FIRST_FAILURE_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause after failures.
const MAX_FAILURE_PAUSE: Duration = Duration::from_hours(1);
/// For how long a lane makes smaller compactions after one failed, and pauses where none is small enough.
const SMALLER_INTERVAL: Duration = Duration::from_mins(10);
/// As [`SMALLER_INTERVAL`], where room was lacking: it comes back as soon as a new segment is uploaded, and to ask for it costs
/// nothing.
const NO_ROOM_INTERVAL: Duration = Duration::from_secs(30);

/// Runs at most one small and one large compaction at a time.
#[derive(Debug)]
pub(crate) struct IndexCompactor {
    enabled: bool,
    small: CompactionLane,
    large: CompactionLane,
    /// Keys of objects that cannot be read: no compaction has them as inputs.
    damaged: BTreeSet<String>,
    /// Why no compaction runs although one is due.
    stalled: Option<String>,
}

impl IndexCompactor {
    pub(crate) fn new(enabled: bool) -> Self {
        let (small, large) = (CompactionLane::new(), CompactionLane::new());
        Self { enabled, small, large, damaged: BTreeSet::new(), stalled: None }
    }

    /// Whether none runs and none waits to be published.
    pub(crate) fn is_idle(&self) -> bool {
        self.small.is_idle() && self.large.is_idle()
    }

    /// Waits until a compaction is finished; never ends while none runs. May be dropped and called again.
    pub(crate) async fn finished(&mut self) {
        tokio::select! {
            biased;
            () = self.small.finished() => {}
            () = self.large.finished() => {}
        }
    }

    /// Whether publications must slow down, since compactions do not keep up with them: each open of the index, each look-up and each
    /// manifest costs more with each segment.
    pub(crate) fn is_behind(&self, publisher: &IndexPublisher) -> bool {
        let policy = segment_policy(publisher);
        self.enabled && policy.growing(&weights(publisher.manifest(), |_| false)) > 2 * policy.object_limit
    }

    /// Why no compaction runs although one is due.
    pub(crate) fn stalled(&self) -> Option<&str> {
        self.stalled.as_deref()
    }

    /// Publishes the finished compactions, one after the other, and starts the next ones if it may. Gives why one failed, if it
    /// did.
    pub(crate) async fn run(
        &mut self,
        publisher: &mut IndexPublisher,
        may_start: bool,
    ) -> Result<Option<EngineError>, IngestError> {
        let mut failure = None;
        for lane in [&mut self.small, &mut self.large] {
            match lane.take_result().await {
                Some(Ok(compaction)) => {
                    lane.backoff.reset();
                    if !compaction.adds.is_empty() {
                        self.stalled = None;
                    }
                    let compaction = mutants::adopted(compaction, publisher.manifest());
                    publisher.adopt(compaction).await?;
                }
                Some(Err(error)) => {
                    lane.failed(&error);
                    if let EngineError::Damaged { key, .. } | EngineError::Gone { key } = &error {
                        self.damaged.insert(key.clone());
                    }
                    failure = Some(error);
                }
                None => {}
            }
        }
        if self.enabled && may_start {
            self.start(publisher);
        }
        // A lack of room is no failure as long as something smaller is compacted.
        Ok(failure.filter(|failure| !matches!(failure, EngineError::NoRoom { .. })))
    }

    fn start(&mut self, publisher: &IndexPublisher) {
        let manifest = publisher.manifest();
        if self.small.is_ready()
            && let Some(plan) = sidecar_plan(manifest, &self.damaged)
        {
            self.small.start(plan, publisher.uploader());
        }
        let policy = segment_policy(publisher);
        let small_bytes = SMALL_COMPACTION_BYTES.min(policy.max_bytes / SMALL_COMPACTION_PART);
        for (size, bytes) in [(CompactionSize::Small, 0..small_bytes), (CompactionSize::Large, small_bytes..u64::MAX)] {
            let (lane, other) = match size {
                CompactionSize::Small => (&mut self.small, &self.large),
                CompactionSize::Large => (&mut self.large, &self.small),
            };
            if !lane.is_ready() {
                continue;
            }
            let weights = weights(manifest, |key| self.damaged.contains(key) || other.uses(key));
            let older = older_runs(manifest, publisher.uploader().engine().format(), &weights);
            let mut runs = policy.runs(&weights).into_iter().chain(older);
            let due = runs.find(|run| bytes.contains(&ObjectWeight::sum(&weights[run.clone()]).bytes));
            let Some(run) = due else { continue };
            let possible = match run.len() {
                1 => Some(run.clone()).filter(|_| lane.shrink == 0),
                _ => CompactionPolicy::shrunk(&weights, run.clone(), lane.shrink),
            };
            if let Some(run) = possible {
                lane.start(CompactionPlan::Segments(manifest.segments[run].to_vec()), publisher.uploader());
            } else {
                // A compaction that becomes due meanwhile does not wait for a segment that is to be rebuilt.
                if run.len() > 1 {
                    lane.paused_until = lane.shrunk_until;
                }
                self.stalled.get_or_insert_with(|| stalled(&manifest.segments[run], lane.last_failure.as_deref()));
            }
        }
    }
}

fn segment_policy(publisher: &IndexPublisher) -> CompactionPolicy {
    CompactionPolicy::segments(MAX_SEGMENT_BYTES.min(publisher.uploader().engine().max_compaction_bytes()))
}

#[derive(Clone, Copy)]
enum CompactionSize {
    Small,
    Large,
}

/// The segments in a format older than `format`, each for itself, the smallest first: they are rebuilt when nothing is to be
/// compacted, so that none is left when the next version no longer reads them.
fn older_runs(manifest: &Manifest, format: u32, weights: &[ObjectWeight]) -> Vec<Range<usize>> {
    let segments = manifest.segments.iter().zip(weights).enumerate();
    let older = segments.filter(|(_, (segment, weight))| segment.format < format && weight.available);
    let mut older: Vec<_> = older.map(|(at, _)| at..at + 1).collect();
    older.sort_by_key(|run| weights[run.start].bytes);
    older
}

fn stalled(segments: &[SegmentMeta], failure: Option<&str>) -> String {
    let (count, bytes) = (segments.len(), segments.iter().map(|segment| segment.size).sum::<u64>());
    let why = failure.unwrap_or("an earlier compaction failed");
    if let [segment] = segments {
        return format!("\"{}\" of {bytes} bytes stays in format {}: {why}", segment.key, segment.format);
    }
    format!("{count} segments of {bytes} bytes are not compacted, nor any two of them: {why}")
}

fn weights(manifest: &Manifest, is_kept: impl Fn(&str) -> bool) -> Vec<ObjectWeight> {
    let segments = manifest.segments.iter();
    segments
        .map(|segment| ObjectWeight {
            items: segment.documents,
            bytes: segment.size,
            available: !is_kept(&segment.key),
        })
        .collect()
}

/// The sidecars to compact. They come before segments: every open of the index reads all of them, and they are cheap to compact.
fn sidecar_plan(manifest: &Manifest, damaged: &BTreeSet<String>) -> Option<CompactionPlan> {
    let weights: Vec<_> = manifest
        .sidecars
        .iter()
        .map(|sidecar| ObjectWeight {
            items: sidecar.corrected + sidecar.outdated,
            bytes: sidecar.size,
            available: !damaged.contains(&sidecar.key),
        })
        .collect();
    let run = CompactionPolicy::SIDECARS.runs(&weights).into_iter().next()?;
    Some(CompactionPlan::Sidecars(manifest.sidecars[run].to_vec()))
}

/// One compaction at a time, and what its failures teach.
#[derive(Debug)]
struct CompactionLane {
    /// The keys of the inputs, while they are in use.
    inputs: BTreeSet<String>,
    task: Option<AbortOnDropHandle<Result<CompactionResult, EngineError>>>,
    result: Option<Result<CompactionResult, EngineError>>,
    backoff: RetryBackoff,
    paused_until: Option<Instant>,
    /// How often the number of inputs is halved, and until when.
    shrink: u32,
    shrunk_until: Option<Instant>,
    last_failure: Option<String>,
}

impl CompactionLane {
    fn new() -> Self {
        Self {
            inputs: BTreeSet::new(),
            task: None,
            result: None,
            backoff: RetryBackoff::between(FIRST_FAILURE_PAUSE, MAX_FAILURE_PAUSE),
            paused_until: None,
            shrink: 0,
            shrunk_until: None,
            last_failure: None,
        }
    }

    fn uses(&self, key: &str) -> bool {
        self.inputs.contains(key)
    }

    fn is_idle(&self) -> bool {
        self.task.is_none() && self.result.is_none()
    }

    fn is_ready(&mut self) -> bool {
        let now = Instant::now();
        if self.shrunk_until.is_some_and(|until| until <= now) {
            (self.shrink, self.shrunk_until, self.last_failure) = (0, None, None);
        }
        self.is_idle() && self.paused_until.is_none_or(|until| until <= now)
    }

    fn pause(&mut self, pause: Duration) {
        self.paused_until = Some(Instant::now() + pause);
    }

    fn start(&mut self, plan: CompactionPlan, uploader: &SegmentUploader) {
        self.inputs = plan.keys();
        self.task = Some(AbortOnDropHandle::new(tokio::spawn(plan.carry_out(uploader.clone()))));
    }

    async fn finished(&mut self) {
        if self.result.is_some() {
            return;
        }
        match &mut self.task {
            Some(task) => self.result = Some(task::join(task).await),
            None => std::future::pending().await,
        }
        self.task = None;
    }

    async fn take_result(&mut self) -> Option<Result<CompactionResult, EngineError>> {
        if self.task.as_ref().is_some_and(AbortOnDropHandle::is_finished) {
            self.finished().await;
        }
        let result = self.result.take()?;
        self.inputs.clear();
        Some(result)
    }

    /// The next compaction is another one: without the damaged input, or smaller.
    fn failed(&mut self, error: &EngineError) {
        self.last_failure = Some(error.to_string());
        match error {
            EngineError::NoRoom { .. } => self.make_smaller(NO_ROOM_INTERVAL),
            EngineError::Damaged { .. } | EngineError::Gone { .. } => {}
            _ => {
                self.make_smaller(SMALLER_INTERVAL);
                let pause = self.backoff.next_pause();
                self.pause(pause);
            }
        }
    }

    fn make_smaller(&mut self, interval: Duration) {
        self.shrink += 1;
        self.shrunk_until = Some(Instant::now() + interval);
    }
}

/// What to replace by one object.
#[derive(Clone, Debug, PartialEq, Eq)]
enum CompactionPlan {
    Segments(Vec<SegmentMeta>),
    Sidecars(Vec<SidecarMeta>),
}

impl CompactionPlan {
    fn keys(&self) -> BTreeSet<String> {
        match self {
            Self::Segments(inputs) => inputs.iter().map(|segment| segment.key.clone()).collect(),
            Self::Sidecars(inputs) => inputs.iter().map(|sidecar| sidecar.key.clone()).collect(),
        }
    }

    async fn carry_out(self, uploader: SegmentUploader) -> Result<CompactionResult, EngineError> {
        match self {
            Self::Segments(inputs) => compact_segments(&inputs, &uploader).await,
            Self::Sidecars(inputs) => compact_sidecars(&inputs, &uploader).await,
        }
    }
}

async fn compact_segments(inputs: &[SegmentMeta], uploader: &SegmentUploader) -> Result<CompactionResult, EngineError> {
    let Some(stats) = SegmentStats::compacted(inputs) else { return Ok(CompactionResult::default()) };
    let packed = uploader.engine().compact(inputs).await?;
    // Before the upload: nothing that differs from the inputs gets a checksum and a place in a manifest.
    let parts: Vec<u64> = inputs.iter().map(|segment| segment.documents).collect();
    let found = uploader.engine().stats(&packed, &parts).await?;
    check_output(inputs, packed.documents, &found)?;
    let compacted = uploader.upload_segment(packed, stats).await;
    Ok(CompactionResult {
        removes: inputs.iter().map(|segment| segment.key.clone()).collect(),
        adds: vec![compacted],
        ..CompactionResult::default()
    })
}

/// The records of the output, read from it again, are those that the manifest says the inputs hold, in their order.
fn check_output(inputs: &[SegmentMeta], documents: u64, found: &[RecordStats]) -> Result<(), EngineError> {
    let refused = |why: String| EngineError::Refused { what: "compact segments".to_owned(), why };
    let wanted: u64 = inputs.iter().map(|segment| segment.documents).sum();
    if documents != wanted || found.len() != inputs.len() {
        return Err(refused(format!("{wanted} records went in, {documents} came out")));
    }
    let differing = inputs.iter().zip(found).find(|(input, found)| RecordStats::of(input) != **found);
    let Some((input, found)) = differing else { return Ok(()) };
    let RecordStats { records, digest, .. } = found;
    Err(refused(format!(
        "the records of \"{}\" are not in the output as they were: {records} with digest {digest} where the manifest says {} \
         with digest {}",
        input.key, input.documents, input.digest
    )))
}

async fn compact_sidecars(inputs: &[SidecarMeta], uploader: &SegmentUploader) -> Result<CompactionResult, EngineError> {
    let mut marks = RecordMarks::default();
    for sidecar in inputs {
        marks.merge(&uploader.engine().read_marks(sidecar).await?);
    }
    let (Some(first), Some(last)) = (inputs.first(), inputs.last()) else { return Ok(CompactionResult::default()) };
    let causes = first.causes.start..last.causes.end;
    let counts = inputs.iter().map(|sidecar| sidecar.counts).sum();
    let digest = inputs.iter().map(|sidecar| sidecar.digest).sum();
    Ok(CompactionResult {
        removes_sidecars: inputs.iter().map(|sidecar| sidecar.key.clone()).collect(),
        adds_sidecars: vec![uploader.upload_sidecar(&marks, causes, counts, digest).await?],
        ..CompactionResult::default()
    })
}

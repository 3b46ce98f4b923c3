//! The status of this pod: its phase, its progress, and what keeps it from its work.
//!
//! It is assembled here and nowhere else, from the status of the ingest, of the search and of the stores: as the report at
//! `/v1/process`, which the operator polls, and as the answer of `/v1/status`. Both exist before any store is open.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use tidemark_crds::{PodPhase, PodProblem, PodReport, RestoreProgress, SinkReport, StoreRole, names::WalComponent};
use tidemark_ingest::{CopyProgress, FailureCause, IngestRole, IngestStatus, ToCause};
use tidemark_search::{
    SearchService,
    api::{self, IndexVersion, OutcomeCounts, StatusAnswer, instant},
};
use tidemark_store::StoreSecond;
use tokio::sync::watch;

/// The status of this pod. Clones share it.
#[derive(Clone)]
pub struct PodStatus(Arc<PodStatusInner>);

struct PodStatusInner {
    kind: WalComponent,
    ingest: Option<watch::Receiver<IngestStatus>>,
    search: Option<Arc<dyn SearchService>>,
    sink: Option<watch::Receiver<SinkReport>>,
    state: Mutex<PodState>,
}

#[derive(Default)]
struct PodState {
    phase: Option<PodPhase>,
    identity: Option<String>,
    generation: Option<String>,
    probed: bool,
    adopted_from: Option<String>,
    store_roles: Vec<(String, StoreRole)>,
    /// What the index is begun with.
    restore: Option<watch::Receiver<CopyProgress>>,
    /// By the operation that failed.
    problems: BTreeMap<&'static str, (FailureCause, String)>,
}

impl PodStatus {
    /// A pod that writes an index and may serve search beside it.
    pub fn indexer(ingest: watch::Receiver<IngestStatus>, search: Option<Arc<dyn SearchService>>) -> Self {
        Self::new(WalComponent::Indexer, Some(ingest), search, None)
    }

    /// A pod that serves search.
    pub fn search(search: Arc<dyn SearchService>) -> Self {
        Self::new(WalComponent::Search, None, Some(search), None)
    }

    /// A pod that reads an index with `search`, and delivers its changes.
    pub fn sink(sink: watch::Receiver<SinkReport>, search: Arc<dyn SearchService>) -> Self {
        Self::new(WalComponent::Search, None, Some(search), Some(sink))
    }

    fn new(
        kind: WalComponent,
        ingest: Option<watch::Receiver<IngestStatus>>,
        search: Option<Arc<dyn SearchService>>,
        sink: Option<watch::Receiver<SinkReport>>,
    ) -> Self {
        Self(Arc::new(PodStatusInner { kind, ingest, search, sink, state: Mutex::default() }))
    }

    /// Sets the role of each store's URL, so that problems name it.
    pub fn set_store_roles(&self, store_roles: Vec<(String, StoreRole)>) {
        self.state().store_roles = store_roles;
    }

    /// Sets a phase that overrides those of ingest and search; `None` ends that.
    pub fn set_phase(&self, phase: Option<PodPhase>) {
        self.state().phase = phase;
    }

    /// The index holds nothing and is restored from what is recorded of its log: sets that phase.
    pub(crate) fn begin_restore(&self, progress: watch::Receiver<CopyProgress>) {
        let mut state = self.state();
        (state.phase, state.restore) = (Some(PodPhase::Restoring), Some(progress));
    }

    /// Sets the name of this process, which is that of a writer.
    pub(crate) fn set_identity(&self, identity: &str) {
        self.state().identity = Some(identity.to_owned());
    }

    /// The stores passed their probe.
    pub(crate) fn set_probed(&self) {
        self.state().probed = true;
    }

    /// The index was registered.
    pub(crate) fn set_registered(&self, generation: &str, adopted_from: Option<String>) {
        let mut state = self.state();
        state.generation = Some(generation.to_owned());
        state.adopted_from = adopted_from.or(state.adopted_from.take());
    }

    /// `operation` failed and is retried.
    pub(crate) fn set_failure(&self, operation: &'static str, failure: &impl ToCause) {
        self.set_problem(operation, failure.to_cause(), failure.to_string());
    }

    /// `operation` keeps the pod from its work; the message names the remedy.
    pub(crate) fn set_problem(&self, operation: &'static str, cause: FailureCause, message: String) {
        self.state().problems.insert(operation, (cause, message));
    }

    /// `operation` succeeded.
    pub(crate) fn clear_problem(&self, operation: &'static str) {
        self.state().problems.remove(operation);
    }

    /// The report for the operator and for people.
    pub fn report(&self) -> PodReport {
        let ingest = self.0.ingest.as_ref().map(|ingest| ingest.borrow().clone());
        let search = self.0.search.as_ref().and_then(|search| search.status());
        let state = self.state();
        let mut report = PodReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kind: self.0.kind,
            phase: PodPhase::Starting,
            identity: state.identity.clone(),
            generation: state.generation.clone(),
            epoch: 0,
            manifest: 0,
            horizon: None,
            cursor: None,
            lag_seconds: 0,
            pending_entries: 0,
            unreadable_entries: 0,
            entries: 0,
            index_bytes: 0,
            caught_up: false,
            probed: state.probed,
            adopted_from: state.adopted_from.clone(),
            writer: None,
            restore: None,
            restored_to: None,
            sink: self.0.sink.as_ref().map(|sink| sink.borrow().clone()),
            problems: self.problems(&state, ingest.as_ref()),
        };
        match &ingest {
            Some(ingest) => report_ingest(&mut report, ingest),
            None => report_search(&mut report, search),
        }
        // It waits for the consumer once it can read the index.
        if report.phase == PodPhase::Serving && report.sink.as_ref().is_some_and(|sink| !sink.holding) {
            report.phase = PodPhase::Standby;
        }
        report.phase = state.phase.unwrap_or(report.phase);
        let restore = state.restore.as_ref().filter(|_| report.phase == PodPhase::Restoring);
        report.restore = restore.map(|progress| {
            let CopyProgress { copied, total } = *progress.borrow();
            RestoreProgress { copied, total }
        });
        report
    }

    /// The state of the index: what the search knows, where there is one, with what the ingest knows better. `None` before
    /// a manifest is known.
    pub(crate) fn status_answer(&self) -> Option<StatusAnswer> {
        let ingest = self.0.ingest.as_ref().map(|ingest| ingest.borrow().clone());
        match (&self.0.search, ingest) {
            (Some(search), Some(ingest)) => Some(with_ingest(search.status()?, ingest)),
            (Some(search), None) => search.status(),
            (None, Some(ingest)) => self.status_of_ingest(&ingest),
            (None, None) => None,
        }
    }

    /// The state of the index as an indexer knows it that serves no search.
    fn status_of_ingest(&self, ingest: &IngestStatus) -> Option<StatusAnswer> {
        let PodReport { generation, horizon, cursor, writer, problems, .. } = self.report();
        let totals = ingest.totals.as_ref().filter(|_| ingest.manifest > 0)?;
        Some(StatusAnswer {
            horizon,
            index_version: IndexVersion { generation: generation?, manifest: ingest.manifest, watermark: cursor? },
            lag_seconds: ingest.lag_seconds,
            lag_reason: None,
            epoch: ingest.epoch,
            writer,
            role: if ingest.role == IngestRole::Writer { api::ProcessRole::Writer } else { api::ProcessRole::Standby },
            entries: OutcomeCounts::of(&ingest.entries, 0),
            segments: totals.segments,
            documents: totals.records,
            bytes: totals.bytes,
            garbage: ingest.garbage,
            unrecognized_keys: ingest.unrecognized_keys,
            overlay: None,
            problems: problems
                .into_iter()
                .map(|problem| problem.message)
                .chain(ingest.compaction_stalled.clone())
                .collect(),
            details: serde_json::Map::new(),
        })
    }

    fn problems(&self, state: &PodState, ingest: Option<&IngestStatus>) -> Vec<PodProblem> {
        let mut found: Vec<(FailureCause, String)> = state.problems.values().cloned().collect();
        if let Some(problem) = ingest.and_then(|ingest| ingest.problem.as_ref()) {
            found.push((problem.cause.clone(), problem.message.clone()));
        }
        if let Some(search) = &self.0.search {
            found.extend(search.failures());
        }
        let mut problems = Vec::<PodProblem>::new();
        for (FailureCause { reason, url }, message) in found {
            let role = match reason {
                reason if reason.is_unusable_token() => Some(StoreRole::Auth),
                _ => url.and_then(|url| role_of(&state.store_roles, &url)),
            };
            if !problems.iter().any(|known| (known.reason, known.role) == (reason, role)) {
                problems.push(PodProblem { reason, role, message });
            }
        }
        problems
    }

    fn state(&self) -> MutexGuard<'_, PodState> {
        self.0.state.lock()
    }
}

/// Fills in what an ingest knows.
fn report_ingest(report: &mut PodReport, ingest: &IngestStatus) {
    report.phase = match ingest.role {
        IngestRole::Starting => PodPhase::Starting,
        IngestRole::Standby => PodPhase::Standby,
        IngestRole::Writer => PodPhase::Writing,
        IngestRole::Ended => PodPhase::Ended,
    };
    let known = |second: StoreSecond| (second > StoreSecond::default()).then(|| instant(second));
    report.epoch = ingest.epoch;
    report.manifest = ingest.manifest;
    report.horizon = known(ingest.horizon);
    report.cursor = known(ingest.cursor.second());
    report.lag_seconds = ingest.lag_seconds;
    report.pending_entries = ingest.pending;
    report.entries = OutcomeCounts::of(&ingest.entries, 0).total();
    report.unreadable_entries = ingest.entries.unreadable;
    report.restored_to = ingest.restored_to.and_then(known);
    report.index_bytes = ingest.totals.map_or(0, |totals| totals.bytes);
    report.caught_up = ingest.caught_up && ingest.lag_seconds == 0 && ingest.role == IngestRole::Writer;
    report.writer = if ingest.role == IngestRole::Writer { report.identity.clone() } else { ingest.holder.clone() };
}

/// Adds to a search's status what the ingest beside it knows better.
fn with_ingest(mut status: StatusAnswer, ingest: IngestStatus) -> StatusAnswer {
    status.role = match ingest.role {
        IngestRole::Writer => api::ProcessRole::Writer,
        IngestRole::Starting | IngestRole::Standby => api::ProcessRole::Standby,
        IngestRole::Ended => api::ProcessRole::Reader,
    };
    status.garbage = ingest.garbage;
    // A standby sees the index as the search does; only the writer knows how far it is behind.
    if ingest.role == IngestRole::Writer {
        status.lag_seconds = ingest.lag_seconds;
        status.horizon = Some(ingest.horizon.timestamp());
        let behind = ingest.progress.filter(|_| ingest.lag_seconds > 0);
        status.lag_reason = behind
            .map(|run| format!("indexing what is sealed: {} entries so far, at {} of {}", run.entries, run.at, run.to));
    }
    status.problems.extend(ingest.problem.map(|problem| format!("{}: {}", problem.doing, problem.message)));
    status.problems.extend(ingest.compaction_stalled);
    status
}

/// Fills in what a search service knows.
fn report_search(report: &mut PodReport, status: Option<StatusAnswer>) {
    let Some(status) = status else { return };
    report.phase = PodPhase::Serving;
    report.generation = Some(status.index_version.generation);
    report.epoch = status.epoch;
    report.manifest = status.index_version.manifest;
    report.horizon = status.horizon;
    report.cursor = (status.index_version.watermark > Timestamp::UNIX_EPOCH).then_some(status.index_version.watermark);
    report.lag_seconds = status.lag_seconds;
    report.entries = OutcomeCounts { pending: 0, ..status.entries }.total();
    report.unreadable_entries = status.entries.unreadable;
    report.index_bytes = status.bytes;
    report.caught_up = status.lag_seconds == 0;
    report.writer = status.writer;
}

/// The role of the store whose URL is `url` or the longest prefix of it.
fn role_of(store_roles: &[(String, StoreRole)], url: &str) -> Option<StoreRole> {
    let below = |root: &str| {
        let root = root.trim_end_matches('/');
        url.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let found = store_roles.iter().filter(|(root, _)| below(root)).max_by_key(|(root, _)| root.len());
    found.map(|(_, role)| *role)
}

#[cfg(test)]
mod tests {
    use tidemark_crds::Reason;
    use tidemark_store::StoreError;

    use super::*;

    fn failed(url: &str) -> StoreError {
        StoreError::Failed { url: url.to_owned(), key: "k".to_owned(), why: "gone".to_owned() }
    }

    #[test]
    fn a_problem_names_its_place_and_goes_when_it_is_mended() {
        let pod = PodStatus::indexer(watch::channel(IngestStatus::default()).1, None);
        pod.set_store_roles(vec![
            ("s3://b/log".to_owned(), StoreRole::Log),
            ("s3://b/log-2".to_owned(), StoreRole::Metadata),
            ("s3://b/log/index".to_owned(), StoreRole::Index),
        ]);
        for (url, role) in [
            ("s3://b/log/.tidemark/root", StoreRole::Log),
            ("s3://b/log-2", StoreRole::Metadata),
            ("s3://b/log/index/g1", StoreRole::Index),
        ] {
            pod.set_failure("opening", &failed(url));
            let problems = pod.report().problems;
            assert_eq!(problems.iter().map(|problem| problem.role).collect::<Vec<_>>(), [Some(role)], "{url}");
            assert_eq!(problems[0].reason, Reason::Unreachable);
        }
        pod.clear_problem("opening");
        assert_eq!(pod.report().problems, []);
    }

    #[test]
    fn a_sink_reports_its_delivery_from_the_start() {
        let sink = watch::Sender::new(SinkReport::default());
        let pod = PodStatus::sink(sink.subscribe(), Arc::new(tidemark_search::IndexSearcher::default()));
        assert_eq!((pod.report().phase, pod.report().sink), (PodPhase::Starting, Some(SinkReport::default())));
        sink.send_modify(|report| (report.holding, report.delivered) = (true, 7));
        assert_eq!(pod.report().sink.map(|sink| (sink.holding, sink.delivered)), Some((true, 7)));
    }

    #[test]
    fn a_phase_that_was_set_goes_before_the_role() {
        let (sender, receiver) = watch::channel(IngestStatus::default());
        let pod = PodStatus::indexer(receiver, None);
        assert_eq!(pod.report().phase, PodPhase::Starting);
        sender.send_modify(|status| status.role = IngestRole::Standby);
        assert_eq!(pod.report().phase, PodPhase::Standby);
        pod.set_phase(Some(PodPhase::Purging));
        assert_eq!(pod.report().phase, PodPhase::Purging);
        pod.set_phase(None);
        assert_eq!(pod.report().phase, PodPhase::Standby);
        let progress = watch::Sender::new(CopyProgress { copied: 3, total: 7 });
        pod.begin_restore(progress.subscribe());
        let report = pod.report();
        assert_eq!(report.phase, PodPhase::Restoring);
        assert_eq!(report.restore, Some(RestoreProgress { copied: 3, total: 7 }));
        pod.set_phase(None);
        assert_eq!(pod.report().restore, None);
    }
}

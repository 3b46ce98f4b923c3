//! What the handlers share: the search service, the metadata stores, the metrics, and how an error becomes a problem that names what is
//! served.

use std::sync::Arc;

use axum::extract::FromRef;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

#[cfg(feature = "archive")]
use super::served_archive::ServedArchive;
use super::{
    arguments::MinTokenArgs,
    extract::QueryString,
    feed_admission::{FeedAdmission, FeedLimits},
    live_descriptors::LiveDescriptors,
    problem::HttpProblem,
};
use crate::{metrics::MetricsRegistry, pod_status::PodStatus};
use tidemark_search::{SearchError, SearchService, api::StatusAnswer};

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct AppState {
    inner: Arc<AppInner>,
    live: LiveDescriptors,
    #[cfg(feature = "archive")]
    archive: ServedArchive,
}

struct AppInner {
    search: Arc<dyn SearchService>,
    metrics: MetricsRegistry,
    stop: CancellationToken,
    pod: PodStatus,
    mode: ServerMode,
    openapi: &'static str,
    feeds: FeedAdmission,
    streams: TaskTracker,
}

impl FromRef<AppState> for MetricsRegistry {
    fn from_ref(app: &AppState) -> Self {
        app.metrics().clone()
    }
}

/// What a server is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServerMode {
    /// Search: it is ready once there is something to search.
    Search,
    /// The status of its pod: it is ready as long as the process lives.
    StatusOnly,
}

impl AppState {
    pub(super) fn new(
        search: Arc<dyn SearchService>,
        metrics: MetricsRegistry,
        stop: CancellationToken,
        pod: PodStatus,
        mode: ServerMode,
        openapi: &'static str,
        feeds: FeedLimits,
    ) -> Self {
        let feeds = FeedAdmission::new(feeds);
        let inner =
            Arc::new(AppInner { search, metrics, stop, pod, mode, openapi, feeds, streams: TaskTracker::new() });
        Self {
            inner,
            live: LiveDescriptors::default(),
            #[cfg(feature = "archive")]
            archive: ServedArchive::default(),
        }
    }

    /// The same over these metadata stores.
    pub(super) fn with_live_descriptors(self, live: LiveDescriptors) -> Self {
        Self { live, ..self }
    }

    /// The same with this archive.
    #[cfg(feature = "archive")]
    pub(super) fn with_archive(self, archive: ServedArchive) -> Self {
        Self { archive, ..self }
    }

    /// The archive.
    #[cfg(feature = "archive")]
    pub(super) fn archive(&self) -> &ServedArchive {
        &self.archive
    }

    /// Says whether descriptors are in the metadata stores.
    pub(crate) fn live_descriptors(&self) -> &LiveDescriptors {
        &self.live
    }

    /// The status of this pod.
    pub(crate) fn pod(&self) -> &PodStatus {
        &self.inner.pod
    }

    /// What the server is for.
    pub(super) fn mode(&self) -> ServerMode {
        self.inner.mode
    }

    /// The search service.
    pub(crate) fn search(&self) -> &dyn SearchService {
        self.inner.search.as_ref()
    }

    /// The metrics of this process.
    pub(crate) fn metrics(&self) -> &MetricsRegistry {
        &self.inner.metrics
    }

    /// The shutdown signal of the process.
    pub(super) fn stop(&self) -> &CancellationToken {
        &self.inner.stop
    }

    /// What goes on after its connection was handed over. The server waits for it when it ends.
    pub(super) fn streams(&self) -> &TaskTracker {
        &self.inner.streams
    }

    /// The clients that follow the changes.
    pub(super) fn feeds(&self) -> &FeedAdmission {
        &self.inner.feeds
    }

    /// What is known about the index.
    pub(crate) fn status(&self) -> Option<StatusAnswer> {
        self.inner.pod.status_answer()
    }

    /// Why nothing is known about it yet.
    pub(crate) fn not_ready(&self) -> String {
        self.inner.search.not_ready()
    }

    /// Whether this process should get requests, or why not.
    pub(crate) fn ready(&self) -> Result<(), String> {
        if self.inner.stop.is_cancelled() {
            return Err("the process is stopping".to_owned());
        }
        match self.inner.mode {
            ServerMode::Search => self.status().map(drop).ok_or_else(|| self.not_ready()),
            ServerMode::StatusOnly => Ok(()),
        }
    }

    /// The OpenAPI document.
    pub(super) fn openapi(&self) -> &'static str {
        self.inner.openapi
    }

    /// Waits for `min_token`, if it was given.
    pub(crate) async fn wait_for(&self, args: MinTokenArgs) -> Result<(), HttpProblem> {
        let Some((token, wait)) = args.min_token() else {
            return Ok(());
        };
        let waited = self.search().wait_for(token, wait).await;
        waited.map_err(|error| self.problem(error))
    }

    /// The problem that an error is, with what is served.
    pub(crate) fn problem(&self, error: SearchError) -> HttpProblem {
        HttpProblem::from(error).at(self.status().map(|status| status.index_version))
    }

    /// As [`problem`](Self::problem), for a page of results: one that is gone starts again without its cursor.
    pub(crate) fn problem_of_page(&self, error: SearchError, query: &QueryString) -> HttpProblem {
        let gone = matches!(error, SearchError::Gone { .. });
        let problem = self.problem(error);
        if gone { problem.restart(query.without(&["cursor"])) } else { problem }
    }

    /// As [`problem`](Self::problem), for changes: where seqs have changed, they start again from the first one.
    pub(crate) fn problem_of_changes(&self, error: SearchError, query: &QueryString) -> HttpProblem {
        let restart = match &error {
            SearchError::GenerationChanged { start, .. } => Some(query.replaced("from", start).without(&[])),
            _ => None,
        };
        let problem = self.problem(error);
        match restart {
            Some(url) => problem.restart(url),
            None => problem,
        }
    }
}

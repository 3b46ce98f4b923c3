//! What the handlers share: the search service, the metrics, and how an error becomes a problem that names what is served.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{arguments::MinTokenArgs, extract::QueryString, problem::HttpProblem};
use crate::{metrics::MetricsRegistry, pod_status::PodStatus};
use tidemark_search::{SearchError, SearchService, api::StatusAnswer};

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct AppState(Arc<AppInner>);

struct AppInner {
    search: Arc<dyn SearchService>,
    metrics: MetricsRegistry,
    stop: CancellationToken,
    pod: PodStatus,
    mode: ServerMode,
    openapi: &'static str,
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
    ) -> Self {
        Self(Arc::new(AppInner { search, metrics, stop, pod, mode, openapi }))
    }

    /// The status of this pod.
    pub(crate) fn pod(&self) -> &PodStatus {
        &self.0.pod
    }

    /// What the server is for.
    pub(super) fn mode(&self) -> ServerMode {
        self.0.mode
    }

    /// The search service.
    pub(crate) fn search(&self) -> &dyn SearchService {
        self.0.search.as_ref()
    }

    /// The metrics of this process.
    pub(crate) fn metrics(&self) -> &MetricsRegistry {
        &self.0.metrics
    }

    /// The shutdown signal of the process.
    pub(super) fn stop(&self) -> &CancellationToken {
        &self.0.stop
    }

    /// What is known about the index.
    pub(crate) fn status(&self) -> Option<StatusAnswer> {
        self.0.pod.status_answer()
    }

    /// Why nothing is known about it yet.
    pub(crate) fn not_ready(&self) -> String {
        self.0.search.not_ready()
    }

    /// Whether this process should get requests, or why not.
    pub(crate) fn ready(&self) -> Result<(), String> {
        if self.0.stop.is_cancelled() {
            return Err("the process is stopping".to_owned());
        }
        match self.0.mode {
            ServerMode::Search => self.status().map(drop).ok_or_else(|| self.not_ready()),
            ServerMode::StatusOnly => Ok(()),
        }
    }

    /// The OpenAPI document.
    pub(super) fn openapi(&self) -> &'static str {
        self.0.openapi
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
}

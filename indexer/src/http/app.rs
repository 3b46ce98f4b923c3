//! What the handlers share: the search service, the figures, and how an error becomes a problem that says what is served.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{metrics::Metrics, parameters::Parameters, problem::Problem};
use crate::process::Process;
use tidemark_search::{SearchError, SearchService, api::StatusAnswer};

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct App(Arc<Shared>);

struct Shared {
    search: Arc<dyn SearchService>,
    metrics: Metrics,
    stop: CancellationToken,
    process: Process,
    serves: Serves,
}

/// What a server is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Serves {
    /// Search: it is ready once there is something to search.
    Search,
    /// The state of its process: it is ready as long as that lives.
    Process,
}

impl App {
    pub(super) fn new(
        search: Arc<dyn SearchService>,
        metrics: Metrics,
        stop: CancellationToken,
        process: Process,
        serves: Serves,
    ) -> Self {
        Self(Arc::new(Shared { search, metrics, stop, process, serves }))
    }

    /// What the process says about itself.
    pub(crate) fn process(&self) -> &Process {
        &self.0.process
    }

    /// What the server is for.
    pub(super) fn serves(&self) -> Serves {
        self.0.serves
    }

    /// The search service.
    pub(crate) fn search(&self) -> &dyn SearchService {
        self.0.search.as_ref()
    }

    /// The figures of this process.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// What tells the process to stop.
    pub(super) fn stop(&self) -> &CancellationToken {
        &self.0.stop
    }

    /// What is known about the index.
    pub(crate) fn status(&self) -> Option<StatusAnswer> {
        self.0.process.status()
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
        match self.0.serves {
            Serves::Search => self.status().map(drop).ok_or_else(|| self.not_ready()),
            Serves::Process => Ok(()),
        }
    }

    /// Waits for `min_token`, if it was asked for.
    pub(crate) async fn wait_for(&self, parameters: &Parameters) -> Result<(), Problem> {
        let Some((token, wait)) = parameters.min_token()? else {
            return Ok(());
        };
        let waited = self.search().wait_for(token, wait).await;
        waited.map_err(|error| self.problem(error))
    }

    /// The problem that an error is, with what is served.
    pub(crate) fn problem(&self, error: SearchError) -> Problem {
        Problem::from(error).at(self.status().map(|status| status.position))
    }

    /// As [`problem`](Self::problem), for a page of results: one that is gone starts again without its cursor.
    pub(crate) fn problem_of_page(&self, error: SearchError, parameters: &Parameters) -> Problem {
        let gone = matches!(error, SearchError::Gone { .. });
        let problem = self.problem(error);
        if gone { problem.restart(parameters.without(&["cursor"])) } else { problem }
    }
}

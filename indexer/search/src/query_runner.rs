//! Runs queries on threads that may block, within the limits on queries.

use std::sync::Arc;

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
    time::timeout,
};

use super::{
    error::SearchError,
    limits::{QueryDeadline, QueryLimits},
};

/// The places of running queries. Clones share them.
#[derive(Clone)]
pub(crate) struct QueryRunner {
    limits: QueryLimits,
    permits: Arc<Semaphore>,
}

impl QueryRunner {
    pub(crate) fn new(limits: QueryLimits) -> Self {
        Self { limits, permits: Arc::new(Semaphore::new(limits.max_concurrent)) }
    }

    /// Runs a query, or refuses it if no place is free in time.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        query: impl FnOnce(QueryDeadline) -> Result<T, SearchError> + Send + 'static,
    ) -> Result<T, SearchError> {
        let permit = timeout(self.limits.admission_timeout, self.permits.clone().acquire_owned()).await;
        let permit = permit.ok().and_then(Result::ok).ok_or_else(|| SearchError::Overloaded {
            detail: format!("{} searches are running already; try again in a moment", self.limits.max_concurrent),
        })?;
        self.run_admitted(permit, query).await
    }

    /// Runs a query when its turn comes. It waits for its place behind all queries that wait already.
    pub(crate) async fn run_in_turn<T: Send + 'static>(
        &self,
        query: impl FnOnce(QueryDeadline) -> Result<T, SearchError> + Send + 'static,
    ) -> Result<T, SearchError> {
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.map_err(|error| SearchError::Internal { detail: error.to_string() })?;
        self.run_admitted(permit, query).await
    }

    async fn run_admitted<T: Send + 'static>(
        &self,
        permit: OwnedSemaphorePermit,
        query: impl FnOnce(QueryDeadline) -> Result<T, SearchError> + Send + 'static,
    ) -> Result<T, SearchError> {
        let QueryLimits { admission_timeout, query_timeout, .. } = self.limits;
        let deadline = QueryDeadline::after(query_timeout);
        let running = spawn_blocking(move || {
            // The permit moves into the task: a blocking thread cannot be cancelled, and a query whose
            // caller has gone keeps its place until it ends.
            let _permit = permit;
            query(deadline)
        });
        // The query checks its deadline itself; this is for one that reads from a store that hangs.
        match timeout(query_timeout + admission_timeout, running).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(panic)) => Err(SearchError::Internal { detail: format!("a search failed: {panic}") }),
            Err(_) => Err(deadline.error()),
        }
    }
}

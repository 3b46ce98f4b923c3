//! What bounds one query inside the search service. The server's own bounds come before these; the README has one table of all.

use std::{io, time::Duration};

use tokio::time::Instant;

use super::error::SearchError;

/// The bounds on queries of one process.
///
/// A query waits at most [`admission_timeout`](Self::admission_timeout) for one of [`max_concurrent`](Self::max_concurrent)
/// places and then runs for at most [`query_timeout`](Self::query_timeout). Whatever runs out, the caller gets
/// [`SearchError::Overloaded`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryLimits {
    /// How many queries run at once. Each holds a thread and, for facets, up to 64 MiB.
    pub max_concurrent: usize,
    /// How many exports run at once; more are refused. Each keeps its view open and takes one of the places above only while it
    /// reads its next hits, in turn with the queries that wait.
    pub max_exports: usize,
    /// How long a query waits for its place.
    pub admission_timeout: Duration,
    /// How long a query may run once it has its place.
    pub query_timeout: Duration,
}

impl Default for QueryLimits {
    fn default() -> Self {
        Self {
            max_concurrent: 16,
            max_exports: 2,
            admission_timeout: Duration::from_secs(2),
            query_timeout: Duration::from_secs(10),
        }
    }
}

/// The moment at which a running query ends. Code that loops over documents checks it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueryDeadline {
    ends: Instant,
    allowed: Duration,
    /// By how much the paused clock moves with each check.
    #[cfg(test)]
    tick: Duration,
}

impl QueryDeadline {
    pub(crate) fn after(allowed: Duration) -> Self {
        Self {
            ends: Instant::now() + allowed,
            allowed,
            #[cfg(test)]
            tick: Duration::ZERO,
        }
    }

    /// A deadline on a paused clock that moves with each check.
    #[cfg(test)]
    pub(crate) fn ticking(allowed: Duration, tick: Duration) -> Self {
        Self { tick, ..Self::after(allowed) }
    }

    pub(crate) fn check(&self) -> Result<(), SearchError> {
        #[cfg(test)]
        if !self.tick.is_zero() {
            let _ = futures::FutureExt::now_or_never(tokio::time::advance(self.tick));
        }
        if Instant::now() >= self.ends {
            return Err(self.error());
        }
        Ok(())
    }

    /// The same for code that Tantivy calls.
    pub(crate) fn check_scan(&self) -> tantivy::Result<()> {
        self.check().map_err(|error| io::Error::other(error).into())
    }

    pub(crate) fn error(&self) -> SearchError {
        SearchError::Overloaded {
            detail: format!(
                "the search took longer than {} ms; narrow it, or leave out facets and histogram",
                self.allowed.as_millis()
            ),
        }
    }
}

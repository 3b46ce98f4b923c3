//! The clients that follow the changes: how many there are at once, and what they are answered with, within the memory of all answers.

use std::{sync::Arc, time::Duration};

use axum::{extract::FromRequestParts, http::request::Parts};
use tidemark_search::api::{ChangesAnswer, ChangesRequest, FeedStart};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use super::{
    app::AppState,
    connections::{ConnectionActivity, FollowingConnection},
    extract::QueryString,
    feed_memory::{FeedMemory, FeedShare},
    problem::HttpProblem,
};

/// How long a client may take for an answer.
pub(super) const MAX_STALL: Duration = Duration::from_mins(1);
/// How long a request waits for memory before it is refused.
pub(super) const MAX_SHARE_WAIT: Duration = Duration::from_secs(5);
/// Files that may be open beside the connections of clients that follow: other connections, segments, and connections to stores.
const OTHER_FILES: u64 = 1536;
/// So many clients may follow, however few files may be open.
const MIN_CLIENTS: usize = 64;

/// How many clients follow the changes at once, and how many bytes of answers are made for them or on their way.
#[derive(Clone, Copy, Debug)]
pub struct FeedLimits {
    /// Requests that wait for changes, streams of events and WebSockets. One that waits takes a task and a connection.
    pub clients: usize,
    /// Bytes of answers. At least those of one.
    pub answer_bytes: usize,
}

impl Default for FeedLimits {
    fn default() -> Self {
        Self { clients: 4096, answer_bytes: 192 << 20 }
    }
}

impl FeedLimits {
    /// How many files must be open for so many clients.
    pub(crate) fn open_files(self) -> u64 {
        OTHER_FILES + self.clients as u64
    }

    /// The same for a process that may open so many files.
    pub(crate) fn within_open_files(self, files: u64) -> Self {
        let clients = usize::try_from(files.saturating_sub(OTHER_FILES)).unwrap_or(usize::MAX);
        Self { clients: self.clients.min(clients.max(MIN_CLIENTS)), ..self }
    }
}

/// The places of clients and the memory of their answers.
pub(super) struct FeedAdmission {
    limits: FeedLimits,
    places: Arc<Semaphore>,
    memory: FeedMemory,
}

impl FeedAdmission {
    pub(super) fn new(limits: FeedLimits) -> Self {
        Self { limits, places: Arc::new(Semaphore::new(limits.clients)), memory: FeedMemory::new(limits.answer_bytes) }
    }

    fn admit(&self) -> Result<OwnedSemaphorePermit, HttpProblem> {
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            let clients = self.limits.clients;
            HttpProblem::overloaded(format!(
                "{clients} clients follow the changes already; try again when one has ended"
            ))
        })
    }

    /// The memory of an answer; refused where none becomes free within `wait`.
    async fn share(&self, wait: Duration) -> Result<FeedShare, HttpProblem> {
        timeout(wait, self.memory.share()).await.map_err(|_| {
            let mebibytes = self.limits.answer_bytes >> 20;
            HttpProblem::overloaded(format!(
                "{mebibytes} MiB of changes are on their way to clients already; try again when one has taken its answer"
            ))
        })
    }
}

/// The place of a client that follows the changes, until it is dropped.
pub(crate) struct FeedSlot {
    _place: OwnedSemaphorePermit,
    connection: Option<FollowingConnection>,
}

impl FromRequestParts<AppState> for FeedSlot {
    type Rejection = HttpProblem;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, HttpProblem> {
        let place = app.feeds().admit()?;
        let connection = parts.extensions.get::<Arc<ConnectionActivity>>().map(ConnectionActivity::follow);
        Ok(Self { _place: place, connection })
    }
}

impl FeedSlot {
    /// Whether the client has taken an answer in time. Else its connection is closed, with which goes what the answer holds.
    pub(super) async fn takes(&self, sending: impl Future<Output = bool>) -> bool {
        let is_sent = timeout(MAX_STALL, sending).await;
        if is_sent.is_err()
            && let Some(connection) = &self.connection
        {
            connection.close();
        }
        is_sent.unwrap_or(false)
    }
}

/// Changes, and the memory that is set aside for them.
pub(super) struct FeedAnswer {
    pub(super) changes: ChangesAnswer,
    pub(super) share: FeedShare,
}

impl AppState {
    /// The changes that there are, for a client that has not been answered yet.
    pub(super) async fn present_changes(
        &self,
        request: &ChangesRequest,
        query: &QueryString,
    ) -> Result<FeedAnswer, HttpProblem> {
        self.page_of_changes(request, query, MAX_SHARE_WAIT).await
    }

    /// The changes after those that the client has, for which it waits. Where there are none it is told so after `wait`. Refused where no
    /// memory becomes free within `share_wait`.
    pub(super) async fn next_changes(
        &self,
        mut request: ChangesRequest,
        wait: Duration,
        share_wait: Duration,
        query: &QueryString,
    ) -> Result<FeedAnswer, HttpProblem> {
        let ends = Instant::now() + wait;
        loop {
            if let FeedStart::After(position) = &request.start {
                let left = ends.saturating_duration_since(Instant::now());
                let waited = self.search().published_after(position, left).await;
                waited.map_err(|error| self.problem_of_changes(error, query))?;
            }
            let answer = self.page_of_changes(&request, query, share_wait).await?;
            // A page that has used up its time without a change has moved on: the client has to know how far.
            if !answer.changes.changes.is_empty() || answer.changes.more || Instant::now() >= ends {
                return Ok(answer);
            }
            request.start = FeedStart::After(answer.changes.next);
        }
    }

    async fn page_of_changes(
        &self,
        request: &ChangesRequest,
        query: &QueryString,
        share_wait: Duration,
    ) -> Result<FeedAnswer, HttpProblem> {
        let share = self.feeds().share(share_wait).await?;
        let request = ChangesRequest { wait: Duration::ZERO, ..request.clone() };
        let changes = self.search().changes(request).await;
        changes.map(|changes| FeedAnswer { changes, share }).map_err(|error| self.problem_of_changes(error, query))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_clients_follow_where_fewer_files_may_be_open() {
        let limits = FeedLimits::default();
        let clients = |files| limits.within_open_files(files).clients;
        assert_eq!(clients(limits.open_files()), 4096);
        assert_eq!(clients(u64::MAX), 4096);
        assert_eq!(clients(limits.open_files() - 100), 3996);
        assert_eq!((clients(1024), clients(0)), (64, 64));
    }
}

//! A client that follows the changes: its place, and what it is answered with, within the memory of all answers.

use std::{sync::Arc, time::Duration};

use axum::{extract::FromRequestParts, http::request::Parts};
use tidemark_search::api::{ChangesAnswer, ChangesRequest, FeedStart};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout},
};

use super::{
    app::AppState,
    connections::{ConnectionActivity, FollowingConnection},
    extract::QueryString,
    feed_memory::FeedShare,
    problem::HttpProblem,
};

/// How long a client may take for an answer.
pub(super) const MAX_STALL: Duration = Duration::from_mins(1);
/// How long a request waits for memory before it is refused.
pub(super) const MAX_SHARE_WAIT: Duration = Duration::from_secs(5);

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

//! Answers that may have megabytes: a thousand hits, or an entry with its payload and descriptors.

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::problem::HttpProblem;

/// `answer` as JSON. Made on a thread that may block, so that no other request waits for it.
pub(crate) async fn large_json<T: Serialize + Send + 'static>(answer: T) -> Result<Response, HttpProblem> {
    let made = spawn_blocking(move || serde_json::to_vec(&answer)).await;
    let body = made.ok().and_then(Result::ok).ok_or_else(HttpProblem::internal)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

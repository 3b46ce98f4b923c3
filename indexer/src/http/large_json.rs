//! Answers that may have megabytes: a thousand hits, or an entry with its payload and descriptors.

use axum::{
    body::Body,
    http::header,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::problem::HttpProblem;

/// `answer` as JSON. Made on a thread that may block, so that no other request waits for it.
pub(crate) async fn large_json<T: Serialize + Send + 'static>(answer: T) -> Result<Response, HttpProblem> {
    json_bytes(answer).await.map(json_response)
}

/// `answer` as the bytes of its JSON, made in the same way.
pub(super) async fn json_bytes<T: Serialize + Send + 'static>(answer: T) -> Result<Vec<u8>, HttpProblem> {
    let made = spawn_blocking(move || serde_json::to_vec(&answer)).await;
    made.ok().and_then(Result::ok).ok_or_else(HttpProblem::internal)
}

/// The response whose body is this JSON.
pub(super) fn json_response(body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body.into()).into_response()
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use axum::{body::to_bytes, http::StatusCode};
    use serde::{Serializer, ser::Error as _};

    use super::*;

    /// An answer that takes until somebody else has made progress.
    struct SlowAnswer(mpsc::Receiver<u8>);

    impl Serialize for SlowAnswer {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let number = self.0.recv_timeout(Duration::from_secs(30)).map_err(S::Error::custom)?;
            serializer.serialize_u8(number)
        }
    }

    /// On one thread: what blocks it keeps the other request from its answer.
    #[tokio::test]
    async fn while_an_answer_is_made_other_requests_are_served() {
        let (sender, receiver) = mpsc::channel();
        let other = async { sender.send(7) };
        let (answer, sent) = tokio::join!(large_json(SlowAnswer(receiver)), other);
        sent.unwrap();
        let answer = answer.expect("it is made");
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/json");
        assert_eq!(to_bytes(answer.into_body(), usize::MAX).await.unwrap(), "7");
    }

    #[tokio::test]
    async fn an_answer_that_cannot_be_made_is_an_internal_error() {
        let (sender, receiver) = mpsc::channel();
        drop(sender);
        let problem = large_json(SlowAnswer(receiver)).await.expect_err("nobody sends");
        assert_eq!(problem.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}

//! The body of a request: how it is bounded while it is read, and the drafts in it.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderMap, StatusCode, header},
};
use futures::TryStreamExt as _;
use serde_json::{Map, Value};
use tidemark_wal::EntryDraft;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};
use utoipa::ToSchema;

use super::admission::AppendAdmission;
use crate::{
    draft_input::{EntryInput, entry_draft, keyed_without_writer},
    http::problem::HttpProblem,
};

/// The longest time that a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The drafts of a request.
#[derive(Debug, PartialEq)]
pub(super) struct RequestedDrafts {
    /// In their order, at least one.
    pub(super) drafts: Vec<EntryDraft>,
    /// Whether they came as an array, and are answered as one.
    pub(super) is_batch: bool,
}

/// One draft, or several in an array.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it describes the body; which is read by hand, so that an error names the entry at fault")]
#[allow(clippy::large_enum_variant, reason = "none is ever made")]
pub(super) enum AppendBody {
    /// A draft.
    One(EntryInput),
    /// Drafts, which are appended at once as long as they have nothing in common.
    Batch(Vec<EntryInput>),
}

/// How many bytes the body has, as its client says. Pages in a browser cannot send JSON to another origin without asking first, and
/// nothing answers them.
pub(super) fn declared_size(headers: &HeaderMap) -> Result<u64, HttpProblem> {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !media_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        let detail = "send the entries as \"Content-Type: application/json\"; nothing was appended";
        let title = "the body has another media type";
        return Err(HttpProblem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", title, detail));
    }
    let size = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    size.ok_or_else(|| {
        let detail = "send the size of the body as \"Content-Length\", not in chunks; nothing was appended";
        HttpProblem::new(StatusCode::LENGTH_REQUIRED, "length-required", "the size of the body is not known", detail)
    })
}

/// Reads a body of `size` bytes, which take their places as they come.
pub(super) async fn read_body(
    body: Body,
    size: u64,
    admission: &AppendAdmission,
) -> Result<(Vec<u8>, OwnedSemaphorePermit), HttpProblem> {
    admission.check_size(size)?;
    timeout(BODY_TIMEOUT, read_chunks(body, size, admission)).await.unwrap_or_else(|_| {
        let detail =
            format!("the body did not arrive within {} s; nothing was appended; send it again", BODY_TIMEOUT.as_secs());
        Err(HttpProblem::new(StatusCode::REQUEST_TIMEOUT, "slow-body", "the body did not arrive in time", detail))
    })
}

async fn read_chunks(
    body: Body,
    size: u64,
    admission: &AppendAdmission,
) -> Result<(Vec<u8>, OwnedSemaphorePermit), HttpProblem> {
    let unreadable = |why: String| invalid(format!("the body cannot be read: {why}; nothing was appended"));
    let (mut read, mut places) = (Vec::new(), admission.admit_bytes(0)?);
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.try_next().await.map_err(|error| unreadable(error.to_string()))? {
        places.merge(admission.admit_bytes(chunk.len() as u64)?);
        read.extend_from_slice(&chunk);
        if read.len() as u64 > size {
            return Err(unreadable(format!("it has more than the {size} bytes that it announced")));
        }
    }
    Ok((read, places))
}

/// The drafts that a body holds. Of several, all are checked before any is appended.
pub(super) fn read_drafts(body: &[u8], has_writer_name: bool) -> Result<RequestedDrafts, HttpProblem> {
    let unreadable = |error: serde_json::Error| {
        invalid(format!("the body is neither a JSON object nor an array of objects: {error}; nothing was appended"))
    };
    let is_batch = body.trim_ascii_start().starts_with(b"[");
    let values: Vec<Map<String, Value>> = if is_batch {
        serde_json::from_slice(body).map_err(unreadable)?
    } else {
        vec![serde_json::from_slice(body).map_err(unreadable)?]
    };
    if values.is_empty() {
        return Err(invalid("the array holds no entry; nothing was appended".to_owned()));
    }
    let mut drafts = Vec::with_capacity(values.len());
    for (index, value) in values.into_iter().enumerate() {
        let draft = entry_draft(value);
        drafts.push(draft.map_err(|why| invalid(format!("entry {}: {why}; nothing was appended", index + 1)))?);
    }
    match keyed_without_writer(&drafts) {
        Some(index) if !has_writer_name => Err(invalid(format!(
            "entry {} has an idempotency key and no writer, and keys count per writer; nothing was appended; name its \"writer\", or start \
             the service with --writer",
            index + 1
        ))),
        _ => Ok(RequestedDrafts { drafts, is_batch }),
    }
}

fn invalid(detail: String) -> HttpProblem {
    HttpProblem::new(StatusCode::BAD_REQUEST, "invalid-draft", "the entries cannot be appended", detail)
}

#[cfg(test)]
mod tests {
    use super::{super::AppendLimits, *};

    fn refusal(body: &str) -> HttpProblem {
        read_drafts(body.as_bytes(), false).unwrap_err()
    }

    #[test]
    fn an_object_is_one_draft_and_an_array_several() {
        let read = |body: &str| {
            let read = read_drafts(body.as_bytes(), false).unwrap();
            (read.drafts.len(), read.is_batch)
        };
        assert_eq!(read(r#" {"free": true}"#), (1, false));
        assert_eq!(read(r#" [{"free": true}, {"ops": []}]"#), (2, true));
        assert_eq!(read("[{}]"), (1, true));
    }

    #[test]
    fn what_is_wrong_is_named_and_refuses_everything() {
        for (body, named) in [
            ("", "neither a JSON object"),
            ("7", "neither a JSON object"),
            ("[]", "no entry"),
            (r#"[{}, {"ops": [{"path": 1}]}]"#, "entry 2: "),
            (r#"[{}, {"ops": [], "idempotencyKey": "k"}]"#, "entry 2 has an idempotency key and no writer"),
        ] {
            let refused = refusal(body);
            assert!(refused.detail.contains(named) && refused.detail.contains("nothing was appended"), "{refused:?}");
            assert_eq!(refused.status, 400);
        }
        assert!(read_drafts(br#"{"ops": [], "idempotencyKey": "k"}"#, true).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up() {
        let body = Body::from_stream(futures::stream::pending::<Result<&[u8], std::io::Error>>());
        let admission = AppendAdmission::new(AppendLimits { entries: 1, bytes: 10 });
        assert_eq!(read_body(body, 5, &admission).await.unwrap_err().status, 408);
    }
}

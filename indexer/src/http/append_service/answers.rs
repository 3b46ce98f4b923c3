//! What is answered for each entry: a proof, what its client still has to put, or a problem that names the entry.

use std::collections::BTreeMap;

use axum::{
    Json,
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tidemark_wal::{
    AppendError, AppendProof, AppendReceipt, CompletionUpload, ConfirmError, Outcome, PendingAppend, Token,
};
use utoipa::ToSchema;

use crate::http::problem::{HttpProblem, MEDIA_TYPE, ProblemDetails};

/// How long a client should wait before it repeats what was not proven, in seconds.
const RETRY_AFTER: u64 = 1;

/// What is said of an entry whose expectation no index has judged yet.
const UNDECIDED: &str = "undecided";

/// An entry that is committed, in every index and permanently.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AppendedEntry {
    /// Its token.
    token: String,
    /// The draft's first operation within the entry: 0 unless it shares the entry with others.
    op: u32,
    /// `committed`.
    outcome: &'static str,
    /// Store time at which everything was seen.
    #[schema(format = DateTime)]
    acknowledged: String,
    /// How many tokens it took.
    attempts: u32,
}

/// An entry that is complete in time, and whose expectation an index has yet to judge.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct UndecidedEntry {
    /// Its token.
    token: String,
    /// The draft's first operation within the entry: 0.
    op: u32,
    /// `undecided`: it will be `committed`, or `conflicted` if another one was first; or `duplicate` if an earlier append of its key is committed.
    outcome: &'static str,
    /// Store time at which everything was seen.
    #[schema(format = DateTime)]
    seen: String,
    /// Store time from which on an index may have decided it: then ask for `/v1/entries/{token}?min_token={token}`.
    #[schema(format = DateTime)]
    decided: String,
    /// How many tokens it took.
    attempts: u32,
}

/// An entry that is written, and that its client completes.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct BegunEntry {
    /// Its token.
    token: String,
    /// The key under which a repeated append counts once.
    idempotency_key: String,
    /// Store time after which no URL is valid any more.
    #[schema(format = DateTime)]
    ends: String,
    /// What its client has to put, in this order. None: the entry completes itself.
    uploads: Vec<BegunUpload>,
}

/// One object that a client has to put.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct BegunUpload {
    /// The operation within the entry.
    op: u32,
    /// Where to `PUT` it: 200 or 201 created; 409 or 412 (Azure 403) it is there already; else refused. A secret until it ends.
    url: String,
    /// The headers to send with it, all of them.
    headers: BTreeMap<String, String>,
    /// What it holds, to the byte: the entry names its digest.
    body: String,
}

/// An entry that is not acknowledged, or a request of which nothing was appended.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AppendProblem {
    #[serde(flatten)]
    details: ProblemDetails,
    /// The entry that was written, if one was.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// What became of it: `late`, `fenced`, `aborted`, or `unproven`: it may be committed.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    /// The key under which a repeated append counts once.
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<String>,
}

/// What became of one entry.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum AppendAnswer {
    /// It is committed.
    Appended(AppendedEntry),
    /// It is complete in time, and undecided.
    Undecided(UndecidedEntry),
    /// It is written, and its client completes it.
    Begun(BegunEntry),
    /// It is not acknowledged.
    Failed(AppendProblem),
}

impl AppendAnswer {
    pub(super) fn appended(receipt: &AppendReceipt) -> Self {
        let AppendReceipt { token, op, proof, attempts } = receipt;
        let (token, op, attempts) = (token.to_string(), *op, *attempts);
        match proof {
            AppendProof::Committed { acknowledged } => Self::Appended(AppendedEntry {
                token,
                op,
                outcome: Outcome::Committed.as_str(),
                acknowledged: acknowledged.to_string(),
                attempts,
            }),
            AppendProof::Undecided { seen, decided } => Self::Undecided(UndecidedEntry {
                token,
                op,
                outcome: UNDECIDED,
                seen: seen.to_string(),
                decided: decided.to_string(),
                attempts,
            }),
        }
    }

    pub(super) fn begun(pending: PendingAppend) -> Self {
        Self::Begun(BegunEntry {
            token: pending.token.to_string(),
            idempotency_key: pending.idempotency_key,
            ends: pending.ends.to_string(),
            uploads: pending.uploads.into_iter().filter_map(begun_upload).collect(),
        })
    }

    /// The answer for an entry that was not begun, since one before it failed.
    pub(super) fn not_begun() -> Self {
        let detail = "an entry before it was not acknowledged; this one was not begun; send it again";
        let problem = HttpProblem::new(
            StatusCode::FAILED_DEPENDENCY,
            "not-begun",
            "an earlier entry of the request failed",
            detail,
        );
        Self::Failed(AppendProblem::of_request(&problem))
    }

    pub(super) fn failed(error: &AppendError) -> Self {
        Self::Failed(AppendProblem::of_append(error))
    }

    pub(super) fn not_confirmed(error: &ConfirmError) -> Self {
        Self::Failed(AppendProblem::of_confirmation(error))
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Appended(_) => StatusCode::OK,
            Self::Undecided(_) | Self::Begun(_) => StatusCode::ACCEPTED,
            Self::Failed(problem) => problem.status(),
        }
    }

    /// What is counted.
    pub(super) fn result(&self) -> &'static str {
        match self {
            Self::Appended(_) => Outcome::Committed.as_str(),
            Self::Undecided(_) => UNDECIDED,
            Self::Begun(_) => "begun",
            Self::Failed(problem) => problem.outcome.unwrap_or("refused"),
        }
    }
}

/// Its signed URL; the service refuses drafts where the store has none.
fn begun_upload(upload: CompletionUpload) -> Option<BegunUpload> {
    let signed = upload.signed?;
    let body = String::from_utf8_lossy(&upload.body).into_owned();
    Some(BegunUpload { op: upload.op, url: signed.url.into(), headers: signed.headers, body })
}

impl AppendProblem {
    /// The problem of a whole request.
    pub(super) fn of_request(problem: &HttpProblem) -> Self {
        Self { details: (**problem).clone(), token: None, outcome: None, idempotency_key: None }
    }

    fn of_append(error: &AppendError) -> Self {
        let detail = error.to_string();
        match error {
            AppendError::Invalid { .. } => Self::of_request(&HttpProblem::new(
                StatusCode::BAD_REQUEST,
                "invalid-draft",
                "the entries cannot be appended",
                detail,
            )),
            AppendError::Lock(error) if error.rejection().is_some() => {
                let title = "the lock never had the grant";
                Self::of_request(&HttpProblem::new(StatusCode::CONFLICT, "no-such-grant", title, detail))
            }
            AppendError::Occupied { token, .. } => Self::conflict(*token, Outcome::Aborted, "occupied", detail),
            AppendError::Fenced { token, .. } => Self::conflict(*token, Outcome::Fenced, "fenced", detail),
            AppendError::Unproven { token, outcome, idempotency_key, .. } => {
                let idempotency_key = Some(idempotency_key.clone());
                Self { idempotency_key, ..Self::unproven(*token, *outcome, detail) }
            }
            AppendError::KeyExpired { idempotency_key, .. } => {
                let title = "it is not proven that the entry is committed, and its key counts no more";
                // No 504: clients repeat that by themselves, and another try would count beside this one.
                let problem = HttpProblem::new(StatusCode::CONFLICT, "key-expired", title, detail);
                let (outcome, idempotency_key) = (Some("unproven"), Some(idempotency_key.clone()));
                Self { outcome, idempotency_key, ..Self::of_request(&problem) }
            }
            // Nothing was written: the stores, their clocks or the parameters are not to be had.
            _ => Self::of_request(&HttpProblem::storage(detail)),
        }
    }

    fn of_confirmation(error: &ConfirmError) -> Self {
        let detail = error.to_string();
        match error {
            ConfirmError::Absent { .. } => {
                let title = "the log has no such entry";
                Self::of_request(&HttpProblem::new(StatusCode::NOT_FOUND, "no-such-entry", title, detail))
            }
            ConfirmError::Unproven { token, outcome, .. } => Self::unproven(*token, *outcome, detail),
            _ => Self::of_request(&HttpProblem::storage(detail)),
        }
    }

    fn unproven(token: Token, outcome: Option<Outcome>, detail: String) -> Self {
        match outcome {
            Some(Outcome::Late) => Self::conflict(token, Outcome::Late, "late", detail),
            Some(Outcome::Fenced) => Self::conflict(token, Outcome::Fenced, "fenced", detail),
            _ => {
                let title = "it is not proven that the entry is committed";
                let problem = HttpProblem::new(StatusCode::GATEWAY_TIMEOUT, "unproven", title, detail);
                Self::of_entry(&problem.retry_after(RETRY_AFTER), token, "unproven")
            }
        }
    }

    /// What another try of the same draft does not change.
    fn conflict(token: Token, outcome: Outcome, kind: &str, detail: String) -> Self {
        let problem = HttpProblem::new(StatusCode::CONFLICT, kind, "the entry is not committed", detail);
        Self::of_entry(&problem, token, outcome.as_str())
    }

    fn of_entry(problem: &HttpProblem, token: Token, outcome: &'static str) -> Self {
        Self { token: Some(token.to_string()), outcome: Some(outcome), ..Self::of_request(problem) }
    }

    fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.details.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl IntoResponse for AppendAnswer {
    fn into_response(self) -> Response {
        let (status, is_problem) = (self.status(), matches!(self, Self::Failed(_)));
        let mut response = (status, Json(&self)).into_response();
        if is_problem {
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        }
        with_retry_after(&self, response)
    }
}

/// The answers of several entries, in their order. The status is that of the first one that failed, else of the first one that is not proven
/// to be committed, so that who looks at nothing else takes neither for a success.
pub(super) fn batch_response(answers: &[AppendAnswer]) -> Response<Body> {
    let failed = answers.iter().find(|answer| matches!(answer, AppendAnswer::Failed(_)));
    let unproven = || answers.iter().find(|answer| !matches!(answer, AppendAnswer::Appended(_)));
    let Some(shown) = failed.or_else(unproven).or(answers.first()) else {
        return HttpProblem::internal().into_response();
    };
    with_retry_after(shown, (shown.status(), Json(answers)).into_response())
}

fn with_retry_after(answer: &AppendAnswer, mut response: Response) -> Response {
    if let AppendAnswer::Failed(problem) = answer
        && let Some(seconds) = problem.details.retry_after
    {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expired_key_is_not_answered_with_what_clients_repeat() {
        let (idempotency_key, why) = ("k".to_owned(), "it is absent".to_owned());
        let answer = AppendAnswer::failed(&AppendError::KeyExpired { idempotency_key, why });
        assert_eq!((answer.status(), answer.result()), (StatusCode::CONFLICT, "unproven"));
        assert!(!answer.into_response().headers().contains_key(header::RETRY_AFTER));
    }
}

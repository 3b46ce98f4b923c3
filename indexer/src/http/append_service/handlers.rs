//! `POST /v1/append`, and the confirmation of what a client completed by itself.

use std::future::Future;

use axum::{
    Json,
    extract::{Path, Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use futures::{StreamExt as _, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use tidemark_wal::{EntryDraft, Token};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use utoipa::IntoParams;

use super::{
    answers::{AppendAnswer, AppendProblem, AppendedEntry, UndecidedEntry, batch_response},
    app::AppendApp,
    request_body::{AppendBody, RequestedDrafts, declared_size, read_body, read_drafts},
};
use crate::{
    draft_input::independent_runs,
    http::{
        extract::{NoArgs, QueryArgs},
        problem::{HttpProblem, ProblemDetails},
    },
};

/// How many entries of one request are appended at once.
const CONCURRENCY: usize = 16;
/// The same where they share entries: each waits for others.
const SHARED_CONCURRENCY: usize = 1000;

/// What a client may ask of an append.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct AppendArgs {
    /// `false`: the service writes the entry only, and answers 202 with signed URLs. The client puts each body to its URL before the end,
    /// and then asks for `/v1/append/{token}/confirm`. By default the service completes the entry.
    complete: Option<bool>,
    /// `true`: drafts whose operations have attributes only share an entry with those of other requests that come within 20 ms. Others have
    /// an entry of their own all the same.
    share: Option<bool>,
}

/// How the entries of a request are appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AppendMode {
    Complete,
    Share,
    Begin,
}

/// Append entries: a draft, or an array of drafts.
///
/// 200 says that each entry is committed, in every index and permanently. An array is answered by an array with an answer for each draft, in
/// their order, unless the whole request is refused; its status is that of the first entry that failed, else 202 if one is not proven. Repeat
/// what was not acknowledged with the same writer and idempotency key: then it counts once.
#[utoipa::path(
    post,
    path = "/v1/append",
    tag = "append",
    params(AppendArgs),
    request_body(content = AppendBody, description = "a draft, or an array of drafts"),
    responses(
        (status = 200, description = "committed", body = AppendAnswer),
        (status = 202, description = "written, and to be completed by the client; or complete, with an expectation that no index has judged yet", body = AppendAnswer),
        (status = 400, description = "it cannot be appended", body = AppendProblem, content_type = "application/problem+json"),
        (status = 403, description = "it comes from a page in a browser", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 408, description = "the body did not arrive in time", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 409, description = "the entry is late, fenced, or aborted since another update has the name; or it may be committed, and its key counts no more", body = AppendProblem, content_type = "application/problem+json"),
        (status = 411, description = "the size of the body is not known", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 413, description = "more than the service takes at once", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 415, description = "the body is not JSON", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 429, description = "the service takes no more at the moment", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 503, description = "a store failed; nothing was appended", body = AppendProblem, content_type = "application/problem+json"),
        (status = 504, description = "it is not proven that the entry is committed", body = AppendProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn append(
    State(app): State<AppendApp>,
    QueryArgs { args, .. }: QueryArgs<AppendArgs>,
    request: Request,
) -> Result<Response, HttpProblem> {
    let mode = append_mode(args)?;
    if mode == AppendMode::Begin && !app.writer.has_signed_urls() {
        let detail = "the log's stores have no signed URLs; nothing was appended; leave out \"complete=false\": the service then completes the entries";
        return Err(HttpProblem::invalid("complete", detail));
    }
    let size = declared_size(request.headers())?;
    let (body, bytes) = read_body(request.into_body(), size, &app.admission).await?;
    let has_writer_name = app.has_writer_name;
    // Megabytes of JSON keep no other request waiting.
    let read = tokio::task::spawn_blocking(move || read_drafts(&body, has_writer_name)).await;
    let RequestedDrafts { drafts, is_batch } = read.map_err(|_| HttpProblem::internal())??;
    let entries = app.admission.admit_entries(drafts.len())?;
    let mut answers = to_the_end(&app, [bytes, entries], append_all(app.clone(), drafts, mode)).await?;
    Ok(match answers.pop() {
        Some(answer) if !is_batch => answer.into_response(),
        last => {
            answers.extend(last);
            batch_response(&answers)
        }
    })
}

/// Whether an entry that was begun with `complete=false` is committed, once its client has put everything.
///
/// 504 says that it is not proven: something is absent yet, or it was asked for after the end. An entry that is proven here is committed in
/// every index.
#[utoipa::path(
    post,
    path = "/v1/append/{token}/confirm",
    tag = "append",
    params(("token" = String, Path, description = "the token of the entry"), NoArgs),
    responses(
        (status = 200, description = "committed", body = AppendedEntry),
        (status = 202, description = "complete, with an expectation that no index has judged yet", body = UndecidedEntry),
        (status = 400, description = "it is no token", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 404, description = "the log has no such entry", body = AppendProblem, content_type = "application/problem+json"),
        (status = 409, description = "the entry is late or fenced", body = AppendProblem, content_type = "application/problem+json"),
        (status = 429, description = "the service takes no more at the moment", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 503, description = "a store failed", body = AppendProblem, content_type = "application/problem+json"),
        (status = 504, description = "it is not proven that the entry is committed", body = AppendProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn confirm(
    State(app): State<AppendApp>,
    Path(token): Path<String>,
    _: QueryArgs<NoArgs>,
) -> Result<Response, HttpProblem> {
    let token: Token = token.parse().map_err(|error| HttpProblem::invalid("token", format!("token: {error}")))?;
    let place = app.admission.admit_entries(1)?;
    let working = app.clone();
    let work = async move {
        let started = Instant::now();
        let answer = match working.writer.confirm(token).await {
            Ok(receipt) => AppendAnswer::appended(&receipt),
            Err(error) => AppendAnswer::not_confirmed(&error),
        };
        working.figures.appended(answer.result(), started.elapsed());
        answer
    };
    to_the_end(&app, [place], work).await.map(IntoResponse::into_response)
}

/// Whether requests should be sent here: not once the process is stopping.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "health",
    responses(
        (status = 200, description = "ready", body = Value),
        (status = 503, description = "not ready, with the reason", body = ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(super) async fn append_readyz(State(app): State<AppendApp>) -> Result<Json<Value>, HttpProblem> {
    if app.stop.is_cancelled() {
        return Err(HttpProblem::not_ready("the process is stopping"));
    }
    Ok(Json(json!({ "status": "ready" })))
}

fn append_mode(args: AppendArgs) -> Result<AppendMode, HttpProblem> {
    match (args.complete.unwrap_or(true), args.share.unwrap_or(false)) {
        (true, false) => Ok(AppendMode::Complete),
        (true, true) => Ok(AppendMode::Share),
        (false, false) => Ok(AppendMode::Begin),
        (false, true) => {
            let detail =
                "what shares an entry is completed by it; nothing was appended; leave out \"share\" or \"complete\"";
            Err(HttpProblem::invalid("share", detail))
        }
    }
}

/// Does the work with its places whether or not the client waits for it: what is half done may be committed, and nobody would know.
async fn to_the_end<T: Send + 'static, const N: usize>(
    app: &AppendApp,
    places: [OwnedSemaphorePermit; N],
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, HttpProblem> {
    let working = app.appends.spawn(async move {
        let _places = places;
        work.await
    });
    working.await.map_err(|error| {
        tracing::error!(%error, "an append panicked");
        HttpProblem::internal()
    })
}

/// Appends the drafts, and gives an answer for each. After a failure nothing further is begun.
async fn append_all(app: AppendApp, drafts: Vec<EntryDraft>, mode: AppendMode) -> Vec<AppendAnswer> {
    let mut answers = Vec::with_capacity(drafts.len());
    let at_once = if mode == AppendMode::Share { SHARED_CONCURRENCY } else { CONCURRENCY };
    for run in independent_runs(drafts) {
        if answers.iter().any(|answer| matches!(answer, AppendAnswer::Failed(_))) {
            answers.extend(run.iter().map(|_| AppendAnswer::not_begun()));
            continue;
        }
        // Collected before they are streamed: with a closure in the stream the future would not be `Send`.
        let appends: Vec<_> = run.into_iter().map(|draft| append_one(app.clone(), draft, mode)).collect();
        answers.extend(stream::iter(appends).buffered(at_once).collect::<Vec<_>>().await);
    }
    answers
}

async fn append_one(app: AppendApp, mut draft: EntryDraft, mode: AppendMode) -> AppendAnswer {
    let started = Instant::now();
    draft.lock = draft.lock.or(app.lock);
    let answer = match mode {
        AppendMode::Complete => app.writer.append(draft).await.map(|receipt| AppendAnswer::appended(&receipt)),
        AppendMode::Share => app.batcher.append(draft).await.map(|receipt| AppendAnswer::appended(&receipt)),
        AppendMode::Begin => app.writer.begin(draft).await.map(AppendAnswer::begun),
    };
    let answer = answer.unwrap_or_else(|error| {
        let answer = AppendAnswer::failed(&error);
        if matches!(answer.status(), StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT) {
            tracing::warn!(%error, "an entry is not acknowledged");
        }
        answer
    });
    app.figures.appended(answer.result(), started.elapsed());
    answer
}

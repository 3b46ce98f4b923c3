//! `GET /v1/search/export`.

use std::{io, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures::{
    Stream, StreamExt as _,
    stream::{self, BoxStream},
};
use serde::Deserialize;
use serde_json::json;
use tokio::{sync::mpsc, task::spawn_blocking, time::timeout};
use utoipa::{
    IntoParams,
    openapi::path::{Parameter, ParameterIn},
};

use super::{
    app::AppState,
    arguments::MinTokenArgs,
    extract::QueryArgs,
    problem::{HttpProblem, ProblemDetails},
    search::{ANSWER_PARAMETERS, SearchArgs},
};
use tidemark_search::{
    SearchError, SearchExport,
    api::{FeedPosition, IndexVersion, SearchHit},
};

/// How many pages wait for a client that reads slowly.
const PAGES_IN_FLIGHT: usize = 2;
/// How long a client may read nothing.
const MAX_STALL: Duration = Duration::from_mins(1);

const GENERATION: HeaderName = HeaderName::from_static("tidemark-generation");
const MANIFEST: HeaderName = HeaderName::from_static("tidemark-manifest");
const POSITION: HeaderName = HeaderName::from_static("tidemark-position");
const WATERMARK: HeaderName = HeaderName::from_static("tidemark-watermark");

/// The parameters of an export: those of a search that choose its hits.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct ExportArgs(SearchArgs);

impl IntoParams for ExportArgs {
    fn into_params(parameter_in: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let parameters = SearchArgs::into_params(parameter_in).into_iter();
        parameters.filter(|parameter| !ANSWER_PARAMETERS.contains(&parameter.name.as_str())).collect()
    }
}

/// Exports all hits of a search, one JSON object a line, by token, the oldest first.
///
/// The lines are those of the `hits` of a search, of one state of the index, which the headers `tidemark-generation`,
/// `tidemark-manifest` and `tidemark-watermark` name, and of what was not sealed when the export began (leave that out with
/// `sealed=true`). An export that fails in the middle is aborted, if it can after a line `{"error": …}` with the problem: a transfer
/// that ends as HTTP says is whole. Two exports run at once; one takes an hour at most, and ends if its client reads nothing for a
/// minute. To go on after a failure, set `from` to the token of the last line, whose lines then come again. `/v1/changes` with `from` set
/// to the header `tidemark-position` gives what was sealed after that state.
#[utoipa::path(
    get,
    path = "/v1/search/export",
    tag = "search",
    params(ExportArgs, MinTokenArgs),
    responses(
        (status = 200, description = "the hits, one a line", body = String, content_type = "application/x-ndjson"),
        (status = 400, description = "`q` is no query of the language, or a parameter is not as its schema says; `parameter` names it", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 414, description = "the query string is too long", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 503, description = "overloaded or not ready", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 504, description = "`min_token` did not become visible", body = ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn export(
    State(app): State<AppState>,
    QueryArgs { args: ExportArgs(args), wait, .. }: QueryArgs<ExportArgs, MinTokenArgs>,
) -> Result<Response, HttpProblem> {
    app.wait_for(wait).await?;
    let export = app.search().export(args.into()).await.map_err(|error| app.problem(error))?;
    let SearchExport { index_version, position, pages } = export;
    // An empty one is asked again below.
    let mut pages = pages.fuse();
    // Before anything is sent: what fails at once is an answer with a status.
    let first = pages.next().await.transpose().map_err(|error| app.problem(error))?;
    let (sender, receiver) = mpsc::channel(PAGES_IN_FLIGHT);
    let pages = stream::iter(first.map(Ok)).chain(pages).boxed();
    // It ends with the receiver, which the answer owns.
    tokio::spawn(send_pages(app, pages, sender));
    Ok((headers(&index_version, &position), Body::from_stream(body(receiver))).into_response())
}

/// A part of the answer, or its end.
enum ExportPart {
    Lines(Bytes),
    End,
}

/// Sends all pages, and the end if it is one. Gives up when nobody reads any more.
async fn send_pages(
    app: AppState,
    mut pages: BoxStream<'static, Result<Vec<SearchHit>, SearchError>>,
    sender: mpsc::Sender<ExportPart>,
) {
    loop {
        let (part, is_last) = match pages.next().await {
            Some(Ok(hits)) => {
                // Megabytes, where messages are long.
                let lines = spawn_blocking(move || lines(&hits)).await.ok().flatten();
                (lines.map(ExportPart::Lines), false)
            }
            None => (Some(ExportPart::End), true),
            Some(Err(error)) => {
                tracing::warn!(%error, "an export failed and was aborted");
                let line = json!({ "error": &*app.problem(error) });
                (Some(ExportPart::Lines(format!("{line}\n").into())), true)
            }
        };
        let Some(part) = part else { return };
        let is_sent = timeout(MAX_STALL, sender.send(part)).await.is_ok_and(|sent| sent.is_ok());
        if is_last || !is_sent {
            return;
        }
    }
}

/// Hits as lines; `None` if one has no form in JSON.
fn lines(hits: &[SearchHit]) -> Option<Bytes> {
    let mut lines = Vec::new();
    for hit in hits {
        serde_json::to_writer(&mut lines, hit).ok()?;
        lines.push(b'\n');
    }
    Some(lines.into())
}

/// What is received, as a body that fails unless the end was received too.
fn body(receiver: mpsc::Receiver<ExportPart>) -> impl Stream<Item = io::Result<Bytes>> {
    let parts = stream::unfold(Some(receiver), |receiver| async {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(ExportPart::Lines(lines)) => Some((Ok(lines), Some(receiver))),
            Some(ExportPart::End) => None,
            None => Some((Err(io::Error::other("the export was aborted")), None)),
        }
    });
    // The compression asks for more after the end.
    parts.fuse()
}

fn headers(version: &IndexVersion, position: &FeedPosition) -> HeaderMap {
    let IndexVersion { generation, manifest, watermark } = version;
    let mut headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"))]);
    let values = [
        (GENERATION, generation.clone()),
        (MANIFEST, manifest.to_string()),
        (POSITION, position.to_string()),
        (WATERMARK, watermark.to_string()),
    ];
    headers.extend(values.into_iter().filter_map(|(name, value)| Some((name, HeaderValue::try_from(value).ok()?))));
    headers
}

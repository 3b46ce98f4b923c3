//! `tidemark changes`: what an index records, as lines, from a search service.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, anyhow};
use backon::{BackoffBuilder as _, ExponentialBuilder};
use clap::Args;
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep};
use url::Url;

use super::output::print_line;

/// How long the service may wait for a change before it answers, in seconds.
const WAIT_SECS: u64 = 20;
/// How long one request may take, the wait included.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);
/// How long after an answer a token that is not taken any more may be one that is just replaced.
const TOKEN_ROTATION: Duration = Duration::from_mins(1);
/// The pauses before a service that does not answer is asked again.
const RETRY_INTERVALS: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(500))
    .with_max_delay(Duration::from_secs(10))
    .with_jitter()
    .without_max_times();

/// Print what an index has recorded, one JSON object a line, in the order of publication.
///
/// It asks a running `tidemark serve`, and keeps nothing: each line has its `position`, which `--from` goes on after. A line may come
/// again after a failure of this command, never of the service.
#[derive(Debug, Args)]
#[command(after_help = "Example: tidemark changes --url http://127.0.0.1:7281 --from now --follow\n\
    Example: tidemark changes --url http://127.0.0.1:7281 --from 2026-11-20 --query 'kind:label repo:models'")]
pub(super) struct ChangesCommand {
    /// The address of the service.
    #[arg(long, env = "TIDEMARK_URL", value_name = "URL")]
    url: Url,
    /// Where to start; before the first record by default. A position: after it. A token or a time: before the first record of an entry
    /// that is not older. `snapshot:NAME`: after the records of that snapshot. `now`: after all that is published.
    #[arg(long, env = "TIDEMARK_FROM", value_name = "POSITION")]
    from: Option<String>,
    /// Only records that this query finds, in the language of the search.
    #[arg(long, env = "TIDEMARK_QUERY", value_name = "QUERY")]
    query: Option<String>,
    /// Go on with what is recorded from now on, and ask again while the service does not answer.
    #[arg(long, env = "TIDEMARK_FOLLOW")]
    follow: bool,
    /// Print each record with its payload and descriptor.
    #[arg(long, env = "TIDEMARK_PAYLOAD")]
    payload: bool,
    /// File that holds the search token. It is read again for each request.
    #[arg(long, env = "TIDEMARK_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// What is read of an answer.
#[derive(Debug, Deserialize)]
struct ChangesLines {
    changes: Vec<Value>,
    next: String,
    more: bool,
}

/// Why there is no answer.
enum ChangesFailure {
    /// The same request may succeed later.
    Transient(anyhow::Error),
    /// It will not.
    Final(anyhow::Error),
}

impl ChangesCommand {
    pub(super) async fn run(mut self) -> anyhow::Result<()> {
        let client = reqwest::Client::builder().timeout(REQUEST_TIMEOUT).build()?;
        let (mut intervals, mut answered) = (RETRY_INTERVALS.build(), None);
        loop {
            match self.request(&client, answered).await {
                Ok(ChangesLines { changes, next, more }) => {
                    answered = Some(Instant::now());
                    intervals = RETRY_INTERVALS.build();
                    changes.iter().try_for_each(|change| print_line(&change.to_string()))?;
                    if !more && !self.follow {
                        return Ok(());
                    }
                    self.from = Some(next);
                }
                Err(ChangesFailure::Transient(error)) if self.follow => {
                    tracing::warn!(error = format!("{error:#}"), "no changes were read; asking again");
                    sleep(intervals.next().unwrap_or_default()).await;
                }
                Err(ChangesFailure::Transient(error) | ChangesFailure::Final(error)) => return Err(error),
            }
        }
    }

    /// The next changes; `answered` is when the service last gave some.
    async fn request(
        &self,
        client: &reqwest::Client,
        answered: Option<Instant>,
    ) -> Result<ChangesLines, ChangesFailure> {
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["v1", "changes"]);
        }
        // An answer that is waited for and lost would take along what "now" meant, so the first one gives a position at once.
        let wait = if self.follow && answered.is_some() { WAIT_SECS } else { 0 };
        let mut parameters = vec![("wait", wait.to_string()), ("limit", "1000".to_owned())];
        parameters.push(("payload", self.payload.to_string()));
        parameters.extend(self.from.iter().map(|from| ("from", from.clone())));
        parameters.extend(self.query.iter().map(|query| ("q", query.clone())));
        let mut request = client.get(url).query(&parameters);
        if let Some(file) = &self.token_file {
            let token = std::fs::read_to_string(file);
            let token = token.with_context(|| format!("the token file \"{}\" cannot be read", file.display()));
            request = request.bearer_auth(token.map_err(ChangesFailure::Final)?.trim());
        }
        let answer = request.send().await.map_err(|error| ChangesFailure::Transient(error.without_url().into()))?;
        let status = answer.status();
        let body = answer.text().await.map_err(|error| ChangesFailure::Transient(error.without_url().into()))?;
        if status.is_success() {
            let read = serde_json::from_str(&body).context("the answer is none of a feed of changes");
            return read.map_err(ChangesFailure::Final);
        }
        let refusal = anyhow!("\"{}\" answers {status}: {}", self.url, detail(&body));
        let is_replaced =
            status == StatusCode::UNAUTHORIZED && answered.is_some_and(|at| at.elapsed() < TOKEN_ROTATION);
        Err(if is_transient(status) || is_replaced {
            ChangesFailure::Transient(refusal)
        } else {
            ChangesFailure::Final(refusal)
        })
    }
}

fn is_transient(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

/// What a problem says, or the whole body of what is none.
fn detail(body: &str) -> String {
    let problem: Option<Value> = serde_json::from_str(body).ok();
    let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str());
    detail.unwrap_or_else(|| body.trim()).to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::{Json, Router, extract::RawQuery, http::HeaderMap, routing::get};
    use parking_lot::Mutex;
    use serde_json::json;

    use super::*;

    /// A service below a path prefix, whose answers these are, one after the other; the last one repeats. Gives what it was asked.
    async fn service(answers: Vec<(u16, Value)>) -> (Url, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        let handler = move |RawQuery(query): RawQuery, headers: HeaderMap| {
            let token = headers.get("authorization").map(|token| token.to_str().unwrap());
            let mut seen = seen.lock();
            let (status, body) = answers[seen.len().min(answers.len() - 1)].clone();
            let asked = format!("{} {}", query.unwrap_or_default(), token.unwrap_or_default());
            seen.push(asked.trim().to_owned());
            std::future::ready((StatusCode::from_u16(status).unwrap(), Json(body)))
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/orders/", listener.local_addr().unwrap()).parse().unwrap();
        let app = Router::new().route("/orders/v1/changes", get(handler));
        tokio::spawn(async move { axum::serve(listener, app).await });
        (url, asked)
    }

    fn command(url: Url, follow: bool) -> ChangesCommand {
        ChangesCommand { url, from: None, query: Some("a b".to_owned()), follow, payload: false, token_file: None }
    }

    fn page(next: &str, more: bool) -> (u16, Value) {
        (200, json!({"changes": [{"position": next}], "next": next, "more": more}))
    }

    #[tokio::test]
    async fn it_ends_with_the_last_change_and_sends_the_token() {
        let token = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(token.path(), "secret\n").unwrap();
        let (url, asked) = service(vec![page("g1:1", true), page("g1:2", false)]).await;
        let command = ChangesCommand { token_file: Some(token.path().to_owned()), ..command(url, false) };
        command.run().await.unwrap();
        let expected = ["wait=0&limit=1000&payload=false&q=a+b", "wait=0&limit=1000&payload=false&from=g1%3A1&q=a+b"];
        assert_eq!(*asked.lock(), expected.map(|query| format!("{query} Bearer secret")));
    }

    #[tokio::test]
    async fn it_follows_over_failures_until_the_position_is_refused() {
        let failure = (503, json!({"detail": "busy"}));
        let gone = (410, json!({"detail": "restored since"}));
        let (url, asked) = service(vec![failure.clone(), page("g1:1", false), failure.clone(), gone]).await;
        let error = command(url, true).run().await.unwrap_err().to_string();
        assert!(error.contains("410") && error.contains("restored since"), "{error}");
        let from: Vec<bool> = asked.lock().iter().map(|query| query.contains("from=g1%3A1")).collect();
        assert_eq!(from, [false, false, true, true]);
        // Nothing is waited for before there is a position.
        let waits: Vec<bool> = asked.lock().iter().map(|query| query.starts_with("wait=20&")).collect();
        assert_eq!(waits, [false, false, true, true]);
        let (url, asked) = service(vec![failure]).await;
        assert!(command(url, false).run().await.unwrap_err().to_string().contains("busy"));
        assert_eq!(asked.lock().len(), 1);
    }

    #[tokio::test]
    async fn a_token_may_be_replaced_while_it_follows() {
        let refused = (401, json!({"detail": "no valid token"}));
        let gone = (410, json!({"detail": "restored since"}));
        let (url, asked) = service(vec![page("g1:1", false), refused.clone(), page("g1:2", false), gone]).await;
        let error = command(url, true).run().await.unwrap_err().to_string();
        assert!(error.contains("410"), "{error}");
        assert_eq!(asked.lock().len(), 4);
        let (url, asked) = service(vec![refused]).await;
        let error = command(url, true).run().await.unwrap_err().to_string();
        assert!(error.contains("401") && asked.lock().len() == 1, "{error}");
    }
}

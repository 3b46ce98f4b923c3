//! `tidemark changes`: what an index records, as lines, from a search service, or under a consumer's name from the index itself.

use std::{io::Write as _, path::PathBuf, time::Duration};

use anyhow::{Context as _, anyhow};
use backon::{BackoffBuilder as _, ExponentialBuilder};
use clap::Args;
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use tidemark_catalog::ConsumerName;
use tidemark_search::api::FeedStart;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    args::{CacheArgs, StoresArgs},
    consumer_args::{consumer_name, consumer_stores, feed_start, query_text},
    dispatch_args::DispatchArgs,
    exit::CommandExit,
    failure_verdict::ended,
    output::print_line,
    shutdown::stop_on_signal,
};
use crate::{
    delivery::{
        BatchAnswer, BatchLimits, BreakerOptions, DeliveryOptions, DeliveryRecord, DeliveryTarget, Destination,
        RecordVerdict, RejectedPolicy, WindowLimits,
    },
    service::{ConsumerOptions, ConsumerService, StartupMode, cache_options},
};

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

/// Lines are written as they come: a page of the feed at a time.
const LINES: DeliveryOptions = DeliveryOptions {
    batch: BatchLimits { operations: 1000, bytes: 1 << 20, delay: Duration::ZERO },
    window: WindowLimits { operations: 1000, bytes: 4 << 20 },
    breaker: BreakerOptions { failures: 1, open_for: Duration::from_secs(1) },
    rejected: RejectedPolicy::Block,
    follow: true,
};

/// What may be with workers or wait for them: records of one entity wait for each other, and are not to keep those of others back.
const WORK_WINDOW: WindowLimits = WindowLimits { operations: 10_000, bytes: 64 << 20 };

/// Print what an index has recorded, one JSON object a line, in the order of publication.
///
/// With --url it asks a running `tidemark serve`, and keeps nothing: each line has its `position`, which `--from` goes on after. A line may
/// come again after a failure of this command, never of the service. With --name it reads the index itself, and what was written to standard
/// output and flushed is acknowledged under that name, in the index: a command of the same name that is started later goes on there. Lines of
/// the last second may come again then. With --by records go to workers instead, and what these have done is acknowledged.
#[derive(Debug, Args)]
#[command(after_help = "Example: tidemark changes --url http://127.0.0.1:7281 --from now --follow\n\
    Example: tidemark changes --url http://127.0.0.1:7281 --from 2026-11-20 --query 'kind:label repo:models'\n\
    Example: tidemark changes --index s3://idx/orders --name audit --follow | tee -a audit.jsonl\n\
    Example: tidemark changes --index s3://idx/orders --name work --follow --by entity --workers work.sock")]
pub(super) struct ChangesCommand {
    /// The address of the service.
    #[arg(long, env = "TIDEMARK_URL", value_name = "URL", required_unless_present = "name")]
    url: Option<Url>,
    /// The consumer that holds the position: a letter, then letters, digits and hyphens, in lower case. While another process holds it,
    /// this one waits.
    #[arg(long, env = "TIDEMARK_NAME", value_name = "NAME", value_parser = consumer_name, requires = "index")]
    name: Option<ConsumerName>,
    /// With --name: where the index is, the URL that `tidemark index --index` has.
    #[arg(long, env = "TIDEMARK_INDEX", value_name = "URL")]
    index: Option<Url>,
    /// Where to start; before the first record by default. A position: after it. A token or a time: before the first record of an entry
    /// that is not older. `snapshot:NAME`: after the records of that snapshot. `now`: after all that is published. A consumer that exists
    /// goes on where it is.
    #[arg(long, env = "TIDEMARK_FROM", value_name = "POSITION")]
    from: Option<String>,
    /// Only records that this query finds, in the language of the search.
    #[arg(long, env = "TIDEMARK_QUERY", value_name = "QUERY")]
    query: Option<String>,
    /// Go on with what is recorded from now on, and ask again while the service does not answer.
    #[arg(long, env = "TIDEMARK_FOLLOW")]
    follow: bool,
    /// Print each record with its payload and descriptor. With --name they are always there.
    #[arg(long, env = "TIDEMARK_PAYLOAD")]
    payload: bool,
    /// File that holds the search token. It is read again for each request.
    #[arg(long, env = "TIDEMARK_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// With --name: name of this process. After a restart under the same name it continues at once, else after a minute. No two processes
    /// may share a name.
    #[arg(long, env = "TIDEMARK_IDENTITY", value_name = "NAME")]
    identity: Option<String>,
    #[command(flatten)]
    dispatch: DispatchArgs,
    #[command(flatten)]
    stores: StoresArgs,
    #[command(flatten)]
    cache: CacheArgs,
}

/// Standard output as a destination: a record is delivered once its line is written and flushed.
struct LinesDestination;

#[async_trait::async_trait]
impl Destination for LinesDestination {
    async fn deliver(&self, batch: &[DeliveryRecord]) -> BatchAnswer {
        let lines: String = batch.iter().flat_map(|record| [&*record.json, "\n"]).collect();
        // Whoever reads it may be slow: that keeps no other task from running.
        let written = tokio::task::spawn_blocking(move || {
            let mut out = std::io::stdout().lock();
            out.write_all(lines.as_bytes()).and_then(|()| out.flush())
        });
        match written.await.map_err(std::io::Error::from).flatten() {
            Ok(()) => BatchAnswer::Answered(vec![RecordVerdict::Delivered; batch.len()]),
            // Nobody reads any more, and nobody will.
            Err(error) => BatchAnswer::Ended { why: format!("the lines cannot be written: {error}") },
        }
    }
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
    pub(super) async fn run(self) -> anyhow::Result<()> {
        match (&self.name, &self.index, &self.url) {
            (Some(name), Some(index), _) => {
                let (name, index) = (name.clone(), index.clone());
                Box::pin(self.consume(name, &index)).await
            }
            (_, _, Some(url)) => {
                let url = url.clone();
                self.ask(&url).await
            }
            _ => Err(CommandExit::Usage.with(anyhow!("--name requires --index; nothing is read; name the index"))),
        }
    }

    /// Prints what comes after the position of the consumer `name`.
    async fn consume(self, name: ConsumerName, index: &Url) -> anyhow::Result<()> {
        let Self { from, query, follow, identity, dispatch, stores, cache, .. } = self;
        let usage = |why: String| CommandExit::Usage.with(anyhow!(why));
        let start = from.map_or(Ok(FeedStart::Earliest), |from| feed_start(&from)).map_err(usage)?;
        let query = query_text(&query.unwrap_or_default()).map_err(usage)?;
        let (cache, _temporary) = cache_options(cache.cache_dir, cache.cache_mib << 20)?;
        let (index, consumers) = consumer_stores(index, &stores.settings());
        let socket = dispatch.socket();
        let window = if socket.is_some() { WORK_WINDOW } else { LINES.window };
        let delivery = DeliveryOptions { window, follow, ..LINES };
        let options = ConsumerOptions {
            index,
            consumers,
            cache,
            name,
            identity,
            start,
            query,
            delivery,
            listen: None,
            startup: StartupMode::FailFast,
        };
        let stop = CancellationToken::new();
        let _signal = stop_on_signal(stop.clone())?;
        let service = ConsumerService::start(options).await?;
        let lines = || DeliveryTarget::Destination(Box::new(LinesDestination));
        let target = socket.map_or_else(lines, DeliveryTarget::Workers);
        ended(Box::pin(service.run(|_| Ok(target), &stop)).await).map(drop)
    }

    /// Prints what a service answers.
    async fn ask(mut self, url: &Url) -> anyhow::Result<()> {
        let client = reqwest::Client::builder().timeout(REQUEST_TIMEOUT).build()?;
        let (mut intervals, mut answered) = (RETRY_INTERVALS.build(), None);
        loop {
            match self.request(url, &client, answered).await {
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
        service: &Url,
        client: &reqwest::Client,
        answered: Option<Instant>,
    ) -> Result<ChangesLines, ChangesFailure> {
        let mut url = service.clone();
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
        let refusal = anyhow!("\"{service}\" answers {status}: {}", problem_detail(&body));
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
pub(super) fn problem_detail(body: &str) -> String {
    let problem: Option<Value> = serde_json::from_str(body).ok();
    let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str());
    detail.unwrap_or_else(|| body.trim()).to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::{Json, Router, extract::RawQuery, http::HeaderMap, routing::get};
    use clap::FromArgMatches as _;
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

    fn command(url: &Url, follow: bool) -> ChangesCommand {
        let url = url.to_string();
        let mut arguments = vec!["changes", "--url", &url, "--query", "a b"];
        arguments.extend(follow.then_some("--follow"));
        let matches = ChangesCommand::augment_args(clap::Command::new("changes")).get_matches_from(arguments);
        ChangesCommand::from_arg_matches(&matches).unwrap()
    }

    fn page(next: &str, more: bool) -> (u16, Value) {
        (200, json!({"changes": [{"position": next}], "next": next, "more": more}))
    }

    #[tokio::test]
    async fn it_ends_with_the_last_change_and_sends_the_token() {
        let token = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(token.path(), "secret\n").unwrap();
        let (url, asked) = service(vec![page("g1:1", true), page("g1:2", false)]).await;
        let command = ChangesCommand { token_file: Some(token.path().to_owned()), ..command(&url, false) };
        Box::pin(command.run()).await.unwrap();
        let expected = ["wait=0&limit=1000&payload=false&q=a+b", "wait=0&limit=1000&payload=false&from=g1%3A1&q=a+b"];
        assert_eq!(*asked.lock(), expected.map(|query| format!("{query} Bearer secret")));
    }

    #[tokio::test]
    async fn it_follows_over_failures_until_the_position_is_refused() {
        let failure = (503, json!({"detail": "busy"}));
        let gone = (410, json!({"detail": "restored since"}));
        let (url, asked) = service(vec![failure.clone(), page("g1:1", false), failure.clone(), gone]).await;
        let error = Box::pin(command(&url, true).run()).await.unwrap_err().to_string();
        assert!(error.contains("410") && error.contains("restored since"), "{error}");
        let from: Vec<bool> = asked.lock().iter().map(|query| query.contains("from=g1%3A1")).collect();
        assert_eq!(from, [false, false, true, true]);
        // Nothing is waited for before there is a position.
        let waits: Vec<bool> = asked.lock().iter().map(|query| query.starts_with("wait=20&")).collect();
        assert_eq!(waits, [false, false, true, true]);
        let (url, asked) = service(vec![failure]).await;
        let error = Box::pin(command(&url, false).run()).await.unwrap_err();
        assert!(error.to_string().contains("busy"));
        assert_eq!(asked.lock().len(), 1);
    }

    #[tokio::test]
    async fn a_token_may_be_replaced_while_it_follows() {
        let refused = (401, json!({"detail": "no valid token"}));
        let gone = (410, json!({"detail": "restored since"}));
        let (url, asked) = service(vec![page("g1:1", false), refused.clone(), page("g1:2", false), gone]).await;
        let error = Box::pin(command(&url, true).run()).await.unwrap_err().to_string();
        assert!(error.contains("410"), "{error}");
        assert_eq!(asked.lock().len(), 4);
        let (url, asked) = service(vec![refused]).await;
        let error = Box::pin(command(&url, true).run()).await.unwrap_err().to_string();
        assert!(error.contains("401") && asked.lock().len() == 1, "{error}");
    }
}

//! What became of an entry with an expectation: a search service of an index is asked until it has decided it.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, anyhow};
use backon::{BackoffBuilder as _, ExponentialBuilder};
use clap::Args;
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use tidemark_search::api::{ExpectationAnswer, SameKeyOperation};
use tidemark_wal::{Outcome, Token};
use tokio::time::{Instant, sleep};
use url::Url;

use super::{changes::problem_detail, exit::CommandExit};

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long after the index may have decided an entry it is asked: an index that is further behind is not waited for.
const MAX_LAG: Duration = Duration::from_mins(10);
/// The pauses between two questions.
const QUESTION_INTERVALS: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(500))
    .with_max_delay(Duration::from_secs(10))
    .without_max_times();

/// Which service knows what became of entries.
#[derive(Debug, Args)]
pub(super) struct AppendDecisionArgs {
    /// The address of a search service of an index of the log: an entry with an expectation is waited for until the index has decided it. Code 9:
    /// another one was first.
    #[arg(long, env = "TIDEMARK_URL", value_name = "URL")]
    url: Option<Url>,
    /// File that holds the search token. It is read again for each request.
    #[arg(long, env = "TIDEMARK_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl AppendDecisionArgs {
    /// The service, if one was named.
    pub(super) fn open(self) -> anyhow::Result<Option<AppendDecision>> {
        let Self { url, token_file } = self;
        let Some(url) = url else { return Ok(None) };
        let client = reqwest::Client::builder().timeout(REQUEST_TIMEOUT).build()?;
        Ok(Some(AppendDecision { client, url, token_file }))
    }
}

/// A search service that is asked what became of entries.
#[derive(Debug)]
pub(super) struct AppendDecision {
    client: reqwest::Client,
    url: Url,
    token_file: Option<PathBuf>,
}

/// What an index has decided of an entry with an expectation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct DecidedOutcome {
    outcome: Outcome,
    #[serde(default, skip_serializing)]
    sealed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expectation: Option<ExpectationAnswer>,
    /// Of a duplicate the committed operation that it repeats.
    #[serde(default, skip_serializing)]
    same_key: Option<SameKeyOperation>,
}

/// What is read of an entry.
#[derive(Debug, Deserialize)]
struct AskedEntry {
    ops: Vec<DecidedOutcome>,
}

impl DecidedOutcome {
    /// What a writer can prove itself.
    pub(super) fn committed() -> Self {
        Self { outcome: Outcome::Committed, sealed: true, reason: None, expectation: None, same_key: None }
    }

    /// The entry that is committed: `token`, which was asked about, or the earlier one that it repeats.
    pub(super) fn committed_entry(&self, token: Token) -> Option<Token> {
        match self.outcome {
            Outcome::Committed => Some(token),
            Outcome::Duplicate => self.same_key.map(|same| same.token),
            _ => None,
        }
    }

    /// Whether it is decided that it is not committed, and no earlier append of it is either.
    pub(super) fn is_conflicted(&self) -> bool {
        !matches!(self.outcome, Outcome::Committed | Outcome::Duplicate)
    }

    /// Why it is not committed.
    pub(super) fn reason(&self) -> String {
        self.reason.clone().unwrap_or_else(|| format!("the index has it as {}", self.outcome.as_str()))
    }
}

/// Why there is no answer.
enum DecisionFailure {
    /// The same question may be answered later.
    Transient(anyhow::Error),
    /// It will not.
    Final(anyhow::Error),
}

impl AppendDecision {
    /// What the index has decided of the entry, which it cannot know before `earliest` is over.
    pub(super) async fn wait(&self, token: Token, earliest: Duration) -> anyhow::Result<DecidedOutcome> {
        let until = Instant::now() + earliest + MAX_LAG;
        let mut intervals = QUESTION_INTERVALS.build();
        loop {
            let why = match self.ask(token).await {
                Ok(Some(outcome)) => return Ok(outcome),
                Ok(None) => anyhow!("the index has not decided it"),
                Err(DecisionFailure::Transient(error)) => error,
                Err(DecisionFailure::Final(error)) => return Err(undecided(token, error)),
            };
            if Instant::now() >= until {
                return Err(undecided(token, why));
            }
            sleep(intervals.next().unwrap_or_default()).await;
        }
    }

    /// What the index has decided, if it has.
    async fn ask(&self, token: Token) -> Result<Option<DecidedOutcome>, DecisionFailure> {
        let transient = |error: reqwest::Error| DecisionFailure::Transient(error.without_url().into());
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["v1", "entries", &token.to_string()]);
        }
        let mut request = self.client.get(url).query(&[("min_token", token.to_string())]);
        if let Some(file) = &self.token_file {
            let secret = std::fs::read_to_string(file);
            let secret = secret.with_context(|| format!("the token file \"{}\" cannot be read", file.display()));
            request = request.bearer_auth(secret.map_err(DecisionFailure::Final)?.trim());
        }
        let answer = request.send().await.map_err(transient)?;
        let status = answer.status();
        let body = answer.text().await.map_err(transient)?;
        if status.is_success() {
            let read = serde_json::from_str(&body).context("the answer is none of a search service");
            let AskedEntry { ops } = read.map_err(DecisionFailure::Final)?;
            // What the store refuses to give is decided once it can be read.
            return Ok(ops.into_iter().next().filter(|op| op.sealed && op.outcome != Outcome::Unreadable));
        }
        let refusal = anyhow!("\"{}\" answers {status}: {}", self.url, problem_detail(&body));
        // An index that is behind has no such entry yet.
        let passes = [StatusCode::NOT_FOUND, StatusCode::TOO_MANY_REQUESTS].contains(&status);
        Err(if passes || status.is_server_error() {
            DecisionFailure::Transient(refusal)
        } else {
            DecisionFailure::Final(refusal)
        })
    }
}

fn undecided(token: Token, why: anyhow::Error) -> anyhow::Error {
    let what =
        format!("entry \"{token}\" is complete in time, and what became of it is not known; ask an index for it");
    CommandExit::Unacknowledged.with(why.context(what))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::{Json, Router, extract::RawQuery, routing::get};
    use parking_lot::Mutex;
    use serde_json::{Value, json};
    use tidemark_store::StoreSecond;

    use super::*;

    /// A service below a path prefix, whose answers these are, one after the other; the last one repeats. Gives how often it was asked.
    async fn service(answers: Vec<(u16, Value)>) -> (AppendDecision, Arc<Mutex<usize>>) {
        let asked = Arc::new(Mutex::new(0));
        let seen = Arc::clone(&asked);
        let handler = move |RawQuery(query): RawQuery| {
            let mut seen = seen.lock();
            let (status, body) = answers[(*seen).min(answers.len() - 1)].clone();
            *seen += 1;
            assert_eq!(query, Some(format!("min_token={}", token())));
            std::future::ready((StatusCode::from_u16(status).unwrap(), Json(body)))
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/orders/", listener.local_addr().unwrap()).parse().unwrap();
        let app = Router::new().route(&format!("/orders/v1/entries/{}", token()), get(handler));
        tokio::spawn(async move { axum::serve(listener, app).await });
        let decision = AppendDecisionArgs { url: Some(url), token_file: None }.open().unwrap().unwrap();
        (decision, asked)
    }

    fn token() -> Token {
        Token::first_of(StoreSecond::from_unix(1_800_000_000))
    }

    fn op(outcome: &str, sealed: bool) -> Value {
        json!({"ops": [{"outcome": outcome, "sealed": sealed, "reason": "another one was first"}]})
    }

    #[tokio::test]
    async fn it_asks_until_the_index_has_decided() {
        let decided = op("conflicted", true);
        let (pending, unreadable) = (op("pending", false), op("unreadable", true));
        let answers = vec![(404, json!({})), (200, pending), (200, unreadable), (200, decided)];
        let (decision, asked) = service(answers).await;
        let outcome = decision.wait(token(), Duration::ZERO).await.unwrap();
        assert!(outcome.is_conflicted() && outcome.reason() == "another one was first", "{outcome:?}");
        assert_eq!(*asked.lock(), 4);
        for outcome in ["committed", "duplicate"] {
            let (decision, _) = service(vec![(200, op(outcome, true))]).await;
            assert!(!decision.wait(token(), Duration::ZERO).await.unwrap().is_conflicted(), "{outcome}");
        }
    }

    #[tokio::test]
    async fn the_committed_entry_of_a_duplicate_is_the_one_that_it_repeats() {
        let earlier = Token::first_of(StoreSecond::from_unix(1_799_999_000));
        let same_key = json!({"token": earlier, "op": 0});
        for (outcome, committed) in [("committed", Some(token())), ("duplicate", Some(earlier)), ("conflicted", None)] {
            let answer = json!({"ops": [{"outcome": outcome, "sealed": true, "same_key": same_key}]});
            let (decision, _) = service(vec![(200, answer)]).await;
            let decided = decision.wait(token(), Duration::ZERO).await.unwrap();
            assert_eq!(decided.committed_entry(token()), committed, "{outcome}");
        }
    }

    #[tokio::test]
    async fn what_is_refused_is_not_asked_again() {
        let (decision, asked) = service(vec![(401, json!({"detail": "no valid token"}))]).await;
        let error = decision.wait(token(), Duration::ZERO).await.unwrap_err();
        assert!(format!("{error:#}").contains("no valid token"), "{error:#}");
        assert_eq!((CommandExit::of(Err(error)), *asked.lock()), (CommandExit::Unacknowledged, 1));
    }
}

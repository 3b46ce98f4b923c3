//! `kubectl tidemark search`: a query to a WAL's search, without a route into the cluster.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use reqwest::StatusCode;
use serde_json::Value;
use tidemark_search::query_examples_text;
use tokio::time::{Instant, sleep};

use super::{
    client::{ForwardedResponse, KubectlClient},
    objects::{WalObject, display_value, table, text},
};
use crate::cli::output::print_line;

/// Characters of a message that a row shows.
const MAX_MESSAGE_CHARS: usize = 80;
/// How long a search waits for a pod that answers: a roll-out, or a WAL that was applied just now.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// The pause before another pod is asked.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

const EXAMPLE: &str = "Example: kubectl tidemark search orders 'kind:bundle contributors:ada' -n data";

/// Search a WAL through a forwarded port, and print the hits.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE, after_long_help = format!("{EXAMPLE}\n\nQueries:\n{}", query_examples_text()))]
pub(super) struct WalSearchCommand {
    /// The WAL.
    #[arg(value_name = "WAL")]
    pub(super) wal: String,
    /// The query, as the page and the API take it; everything if left out.
    #[arg(value_name = "QUERY", default_value = "")]
    pub(super) query: String,
    /// The most hits to print.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(super) size: u32,
    /// Print the answer of the service unchanged.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) token: TokenArgs,
}

/// The token of a search with `auth: {type: Token}`.
#[derive(Clone, Debug, Args)]
pub(super) struct TokenArgs {
    /// File that holds the search token.
    #[arg(long, env = "TIDEMARK_TOKEN_FILE", value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// The search token. From the environment only: what a command line says, others on the machine can read.
    #[arg(skip = std::env::var("TIDEMARK_TOKEN").ok())]
    pub(super) token: Option<String>,
}

impl TokenArgs {
    pub(super) fn read(&self) -> anyhow::Result<Option<String>> {
        let Some(file) = &self.token_file else { return Ok(self.token.clone()) };
        let token = std::fs::read_to_string(file);
        let token = token.with_context(|| format!("the token file \"{}\" cannot be read", file.display()))?;
        Ok(Some(token.trim().to_owned()))
    }
}

impl WalSearchCommand {
    pub(super) async fn run(self, client: &KubectlClient) -> anyhow::Result<()> {
        self.lines(client).await?.iter().try_for_each(|line| print_line(line))
    }

    pub(super) async fn lines(&self, client: &KubectlClient) -> anyhow::Result<Vec<String>> {
        let Self { wal, query, size, json, token } = self;
        let token = token.read()?;
        let wal = WalObject::get(client, wal).await?;
        let mut parameters = vec![("size".to_owned(), size.to_string())];
        if !query.is_empty() {
            parameters.push(("q".to_owned(), query.clone()));
        }
        let answer = ask(&wal, &parameters, token.as_deref()).await?;
        if !answer.status.is_success() {
            bail!(refusal(&wal, &answer, token.is_some()));
        }
        if *json {
            return Ok(vec![answer.body.trim_end().to_owned()]);
        }
        let answer: Value = serde_json::from_str(&answer.body).context("search answers no JSON")?;
        Ok(hits(&answer))
    }
}

/// The answer of a ready search pod. While pods are replaced, the one that was asked may go: another one is asked then.
async fn ask(
    wal: &WalObject,
    parameters: &[(String, String)],
    token: Option<&str>,
) -> anyhow::Result<ForwardedResponse> {
    let begin = Instant::now();
    let mut has_reported = false;
    loop {
        let failure = match wal.ready_search_pod().await {
            Ok(None) => anyhow!(
                "no search pod of \"{0}\" is ready; the search was not answered; see kubectl tidemark check {0} -n {1}",
                wal.name,
                wal.namespace
            ),
            Ok(Some(pod)) => match pod.get("/v1/search", parameters, token).await {
                Ok(answer) if answer.status != StatusCode::SERVICE_UNAVAILABLE => return Ok(answer),
                Ok(answer) => anyhow!(refusal(wal, &answer, token.is_some())),
                Err(failure) => failure,
            },
            Err(failure) => failure,
        };
        if begin.elapsed() >= READY_TIMEOUT {
            return Err(failure);
        }
        if !has_reported {
            eprintln!("waiting up to {} s for a search pod: {failure:#}", READY_TIMEOUT.as_secs());
            has_reported = true;
        }
        sleep(RETRY_INTERVAL).await;
    }
}

/// What a refusal means, and what to do.
fn refusal(wal: &WalObject, answer: &ForwardedResponse, with_token: bool) -> String {
    let secret = text(&wal.object, "/spec/search/auth/secretRef/name");
    if answer.status == StatusCode::UNAUTHORIZED {
        let what = if with_token { "refuses this token" } else { "requires a token" };
        return format!(
            "search of \"{}\" {what}; give the value of key \"token\" of Secret \"{secret}\" by --token-file or TIDEMARK_TOKEN",
            wal.name
        );
    }
    let problem: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let detail = match text(&problem, "/detail") {
        "" => answer.body.trim(),
        detail => detail,
    };
    format!("search of \"{}\" answers {}: {detail}", wal.name, answer.status)
}

fn hits(answer: &Value) -> Vec<String> {
    let head = ["TIME", "KIND", "OUTCOME", "ENTITY", "MESSAGE"].map(str::to_owned).to_vec();
    let hits = answer["hits"].as_array().map_or(&[][..], Vec::as_slice);
    let rows = hits.iter().map(|hit| {
        let message: String =
            text(hit, "/message").lines().next().unwrap_or_default().chars().take(MAX_MESSAGE_CHARS).collect();
        let sealed = if hit["sealed"] == true { "" } else { ", not sealed" };
        let outcome = format!("{}{sealed}", display_value(hit, "/outcome"));
        vec![display_value(hit, "/time"), display_value(hit, "/kind"), outcome, display_value(hit, "/entity"), message]
    });
    let mut lines = table(&std::iter::once(head).chain(rows).collect::<Vec<_>>());
    let total = display_value(answer, "/total");
    let notes = answer["notes"].as_array().map_or(&[][..], Vec::as_slice);
    lines.extend(notes.iter().filter_map(Value::as_str).map(|note| format!("note: {note}")));
    lines.push(format!("{} of {total}, complete up to {}", hits.len(), display_value(answer, "/watermark")));
    lines
}

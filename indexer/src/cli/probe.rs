//! `tidemark probe`: whether a service answers, where there is no shell and no curl.

use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, sleep};
use url::Url;

use super::{args::span, output::print_line};

/// Time between two tries.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// How long one try may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Wait until a URL answers with success (2xx).
///
/// The image holds no shell and no curl: `helm test` and init containers use this. Tries again until the time is up.
#[derive(Debug, Args)]
#[command(after_help = "Example: tidemark probe http://tidemark-operator.tidemark-system:8080/readyz --timeout 60s")]
pub(super) struct ProbeCommand {
    /// What to ask, http:// or https://.
    #[arg(value_name = "URL")]
    url: Url,
    /// How long to try; 0s tries once.
    #[arg(long, env = "TIDEMARK_TIMEOUT", value_name = "SPAN", default_value = "30s", value_parser = span)]
    timeout: Duration,
}

impl ProbeCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { url, timeout } = self;
        let client = reqwest::Client::builder().timeout(REQUEST_TIMEOUT).build()?;
        let end = Instant::now() + timeout;
        loop {
            let failed = match client.get(url.clone()).send().await {
                Ok(answer) if answer.status().is_success() => {
                    return print_line(&format!("{url} answers {}", answer.status()));
                }
                Ok(answer) => {
                    let status = answer.status();
                    format!("it answers {status}: {}", answer.text().await.unwrap_or_default().trim())
                }
                Err(error) => format!("it does not answer: {:#}", anyhow::Error::from(error.without_url())),
            };
            if Instant::now() + RETRY_INTERVAL >= end {
                anyhow::bail!("\"{url}\" is not ready after {}s: {failed}", timeout.as_secs());
            }
            sleep(RETRY_INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, http::StatusCode, routing::get};

    use super::*;

    async fn server(status: StatusCode) -> Url {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/readyz", listener.local_addr().unwrap()).parse().unwrap();
        let app = Router::new().route("/readyz", get(move || async move { (status, "no leader yet\n") }));
        tokio::spawn(async move { axum::serve(listener, app).await });
        url
    }

    #[tokio::test]
    async fn success_is_an_answer_of_2xx() {
        let probe = ProbeCommand { url: server(StatusCode::OK).await, timeout: Duration::ZERO };
        probe.run().await.unwrap();
    }

    #[tokio::test]
    async fn anything_else_says_what_was_answered() {
        let url = server(StatusCode::SERVICE_UNAVAILABLE).await;
        let error = ProbeCommand { url, timeout: Duration::ZERO }.run().await.unwrap_err().to_string();
        assert!(error.contains("503") && error.contains("no leader yet"), "{error}");
    }
}

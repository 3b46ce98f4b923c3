//! A real `OpenSearch` on loopback.

use std::{net::TcpListener, time::Duration};

use anyhow::{Context, bail, ensure};
use reqwest::Method;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{
    root, tools,
    watchdog::{ProcessRecipe, WatchedProcess, log_file},
};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_mins(3);

/// A running `OpenSearch` with a folder of its own. Dropping it stops it.
pub struct OpenSearchServer {
    server: WatchedProcess,
    url: String,
    _folder: TempDir,
}

impl OpenSearchServer {
    /// Starts a server, which does not answer yet; `None` where there is no Java (in CI an error), or the registry does not answer. The first
    /// start on a machine fetches it.
    pub async fn start() -> anyhow::Result<Option<Self>> {
        let fetch = || tools::optional_script("maven.sh", &["opensearch"]);
        let Some(jars) = tokio::task::spawn_blocking(fetch).await?? else { return Ok(None) };
        let folder = tempfile::Builder::new().prefix("tidemark-opensearch-").tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let source = root().join("tests/tools/opensearch/OpenSearchServer.java");
        let data = folder.path().to_str().context("the temporary folder's name is text")?;
        let (jars, source) = (format!("{}/*", jars.display()), source.display().to_string());
        // It lives for some seconds: what it compiles is to be quick.
        let command = ["java", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-cp", &jars, &source, data, &port.to_string()];
        let server = WatchedProcess::start(ProcessRecipe::new(command, log_file("opensearch")?))?;
        Ok(Some(Self { server, url: format!("http://127.0.0.1:{port}"), _folder: folder }))
    }

    /// Waits until it answers.
    pub async fn until_ready(&mut self) -> anyhow::Result<()> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let log = self.server.log().display().to_string();
            match self.request(Method::GET, "/_cluster/health?wait_for_status=yellow&timeout=30s", "").await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > give_up => {
                    return Err(error.context(format!("OpenSearch is not ready; its log is \"{log}\"")));
                }
                Err(_) => {}
            }
            if let Some(status) = self.server.ended() {
                bail!("OpenSearch ended ({status}); its log is \"{log}\"");
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// SIGKILL, and nothing more.
    pub fn kill(&mut self) {
        self.server.stop();
    }

    /// Starts a killed server again, with what it has kept.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        Ok(self.server.start_again()?)
    }

    /// Its URL, without a trailing slash.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What it answers to a request, which has to succeed. Where there is no body it is empty.
    pub async fn request(&self, method: Method, path: &str, body: &str) -> anyhow::Result<Value> {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(40)).build()?;
        let request = client.request(method, format!("{}{path}", self.url)).header("content-type", "application/json");
        let answer = request.body(body.to_owned()).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{status} for {path}: {text}");
        Ok(serde_json::from_str(&text)?)
    }
}

impl Drop for OpenSearchServer {
    fn drop(&mut self) {
        self.server.stop();
        if !std::thread::panicking() {
            let _ = std::fs::remove_file(self.server.log());
        }
    }
}

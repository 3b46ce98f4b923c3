//! How fast an entry shows: written -> visible in the overlay, and horizon -> visible as sealed, while busy and after
//! idling. The whole of `tidemark index --listen` runs as a process of its own, over the S3 server in this one.

use std::{
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use serde_json::{Map, Value};
use tidemark_catalog::RootChain;
use tidemark_store::Entropy;
use tidemark_tests::{
    S3Server,
    bench::{number, percentile},
    stores,
};
use tidemark_wal::{EntryDraft, Log, LogWriter, LogWriterOptions, Token};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    time::Instant,
};

/// What lies between a token's second and the horizon: W 2 s + R 1 s + V 0 s + 1 s.
const HORIZON_DELAY: Duration = Duration::from_secs(4);

/// Ends when it is dropped.
struct IndexerProcess(Child);

impl Drop for IndexerProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let server = Arc::new(S3Server::start()?);
    for bucket in ["log", "meta", "index"] {
        server.create_bucket(bucket);
    }
    let program = std::env::var("TIDEMARK_PROGRAM").unwrap_or_else(|_| "target/release/tidemark".to_owned());
    let mut child = Command::new(&program)
        .args(["index", "--log", "s3://log", "--metadata", "s3://meta", "--index", "s3://index", "--expiry", "2s"])
        .args(["--request-timeout", "1s", "--visibility-delay", "0s", "--listen", "127.0.0.1:0"])
        .envs(server.environment())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("\"{program}\" does not start; build it with cargo build --release"))?;
    let out = child.stdout.take().context("it has an output")?;
    let _running = IndexerProcess(child);
    let mut lines = BufReader::new(tokio::process::ChildStdout::from_std(out)?).lines();
    let address = lines.next_line().await?.context("it prints its address")?;

    let entropy = Entropy::from_os();
    let open = |bucket: &str| stores::open(&format!("s3://{bucket}"), &server.environment());
    let log = Log::over(open("log"), vec![open("meta")]);
    let root = Arc::new(RootChain::open(&log, entropy.clone()));
    let writer = LogWriter::open(log, root, LogWriterOptions::named("bench"), entropy).await?;

    let busy = number("BENCH_BUSY_APPENDS", 100);
    let mut watches = Vec::new();
    for n in 0..busy {
        watches.push(tokio::spawn(watch(address.clone(), append(&writer, n).await?, Arc::clone(&server))));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let mut shown = Vec::new();
    for watch in watches {
        shown.push(watch.await??);
    }
    print("busy", &shown);

    let mut shown = Vec::new();
    for n in 0..number("BENCH_IDLE_APPENDS", 5) {
        tokio::time::sleep(Duration::from_secs(30)).await;
        shown.push(watch(address.clone(), append(&writer, busy + n).await?, Arc::clone(&server)).await?);
    }
    print("after 30 s of rest", &shown);
    Ok(())
}

async fn append(writer: &LogWriter, n: u64) -> anyhow::Result<Token> {
    let attributes = Map::from_iter([("n".to_owned(), Value::from(n))]);
    Ok(writer.append(EntryDraft { attributes, ..EntryDraft::default() }).await?.token)
}

/// How long after it was acknowledged the entry was in an answer, and how long after its second was below the horizon it
/// was in one as sealed.
async fn watch(address: String, token: Token, server: Arc<S3Server>) -> anyhow::Result<(Duration, Duration)> {
    let client = reqwest::Client::new();
    let url = format!("{address}v1/entries/{token}");
    let written = Instant::now();
    let mut visible = None;
    loop {
        let answer = client.get(&url).send().await?;
        if answer.status().is_success() {
            let seen = *visible.get_or_insert_with(|| written.elapsed());
            if answer.text().await?.contains("\"sealed\":true") {
                // The second is below the horizon once store time's whole second is past it by the delay.
                let below = token.second().next().timestamp() + HORIZON_DELAY;
                let late = server.clock().now().duration_since(below);
                return Ok((seen, Duration::try_from(late).unwrap_or_default()));
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn print(when: &str, shown: &[(Duration, Duration)]) {
    let (visible, sealed): (Vec<_>, Vec<_>) = shown.iter().copied().unzip();
    for (what, figures) in [("acknowledged -> visible", visible), ("horizon -> sealed", sealed)] {
        println!(
            "{when}: {what}: median {:.2} s, largest {:.2} s of {}",
            percentile(&figures, 0.5).as_secs_f64(),
            percentile(&figures, 1.0).as_secs_f64(),
            figures.len()
        );
    }
}

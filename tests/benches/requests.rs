//! Store requests, counted by the S3 server: for an entry with one descriptor, of a log on which nothing happens, and of one
//! `tidemark serve` while nothing happens and while an entry is written every second.
//!
//! `BENCH_ENTRIES` (20 000) entries; `BENCH_IDLE_SECONDS` (180) of rest.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use tidemark_ingest::IngestOptions;
use tidemark_tests::{
    S3Server, TidemarkProcess,
    bench::{IndexBench, number},
    faults::StoreOperation,
    stores,
    workload::SampleLog,
};
use tidemark_wal::{Log, Token};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long an index may take to be made.
const PATIENCE: Duration = Duration::from_mins(2);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let count = number("BENCH_ENTRIES", 20_000);
    let server = S3Server::start()?;
    for bucket in ["log", "meta", "index"] {
        server.create_bucket(bucket);
    }
    let open = |bucket: &str| stores::open(&format!("s3://{bucket}"), &server.environment());
    let log = Log::over(open("log"), vec![open("meta")]);
    // A day and more ago: the audit window is over, as it is for a backfill.
    let last = server.clock().second().before(Duration::from_hours(30));
    server.hold(SampleLog::new(count, 200, last), "log", "meta");
    let cache = tempfile::tempdir()?;
    let bench = IndexBench::new(&log, &open("index"), cache.path(), IngestOptions::default()).await?;
    let mut status = bench.status.clone();
    server.reset_counts();
    let stop = CancellationToken::new();
    let running = tokio::spawn(bench.ingest.run(stop.clone()));
    status.wait_for(|status| status.cursor.second() > last).await?;
    let requests = server.requests();
    println!("backfill: {requests} requests for {count} entries = {:.4} an entry", requests as f64 / count as f64);
    print(&server.counts(), 1.0);

    // What is left to do (compaction, the move of the cursor to the present) is done within a minute.
    tokio::time::sleep(Duration::from_mins(1)).await;
    let idle = number("BENCH_IDLE_SECONDS", 180);
    server.reset_counts();
    tokio::time::sleep(Duration::from_secs(idle)).await;
    let minutes = idle as f64 / 60.0;
    println!(
        "idle: {:.1} requests a minute over {idle} s, one log store and one metadata store",
        server.requests() as f64 / minutes
    );
    print(&server.counts(), minutes);
    stop.cancel();
    running.await??;
    search(idle).await
}

/// A search beside no indexer, on an index that one has made: every request is its own, but for the entries that are written.
async fn search(seconds: u64) -> anyhow::Result<()> {
    let server = S3Server::start()?;
    for bucket in ["log", "meta", "index"] {
        server.create_bucket(bucket);
    }
    let last = server.clock().second().before(Duration::from_hours(30));
    server.hold(SampleLog::new(1000, 200, last), "log", "meta");
    let cache = tempfile::tempdir()?;
    let mut environment = server.index_environment();
    let folder = cache.path().to_str().context("the temporary folder has a name in UTF-8")?;
    environment.insert("TIDEMARK_CACHE_DIR".to_owned(), folder.to_owned());
    let indexer = TidemarkProcess::serving(&["index", "--no-search"], &environment).await?;
    let caught_up = async {
        while indexer.get("/v1/process").await?["caughtUp"] != true {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::Ok(())
    };
    timeout(PATIENCE, caught_up).await.with_context(|| format!("the index is not made: {}", indexer.log()))??;
    indexer.stop().await?;
    let serving = TidemarkProcess::serving(&["serve"], &environment).await?;
    serving.until_answer("/v1/status", |_| true).await;
    // It polls more and more slowly while nothing happens.
    tokio::time::sleep(Duration::from_mins(1)).await;
    let entries = stores::open("s3://log", &server.environment());
    let minutes = seconds as f64 / 60.0;
    for writes in [false, true] {
        server.reset_counts();
        for n in 0..seconds {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if writes {
                let token = Token::from_parts(server.clock().second(), u128::from(n).to_be_bytes());
                entries.put(&token.to_string(), r#"{"tidemark":1,"ops":[{}]}"#.into()).await?;
            }
        }
        let own = server.requests() - if writes { seconds } else { 0 };
        let when = if writes { "while an entry is written every second" } else { "idle" };
        println!("search, {when}: {:.1} requests a minute over {seconds} s", own as f64 / minutes);
        print(&server.counts(), minutes);
    }
    serving.stop().await?;
    Ok(())
}

fn print(counts: &BTreeMap<StoreOperation, u64>, over: f64) {
    for (operation, count) in counts {
        println!("  {:<10} {:.1}", format!("{operation:?}"), *count as f64 / over);
    }
}

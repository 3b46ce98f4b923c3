//! Store requests, counted by the S3 server: for an entry with one descriptor, and of a log on which nothing happens.
//!
//! `BENCH_ENTRIES` (20 000) entries; `BENCH_IDLE_SECONDS` (180) of rest.

use std::{collections::BTreeMap, time::Duration};

use tidemark_ingest::IngestOptions;
use tidemark_tests::{
    S3Server,
    bench::{IndexBench, number},
    faults::StoreOperation,
    stores,
    workload::SampleBundle,
};
use tidemark_wal::Log;
use tokio_util::sync::CancellationToken;

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
    let ago = Duration::from_hours(30);
    let mut last = server.clock().second();
    for bundle in SampleBundle::run(count, 200, server.clock().second(), ago) {
        server.insert_at("log", &bundle.token().to_string(), bundle.entry(), bundle.at);
        server.insert_at("meta", &bundle.path(), bundle.descriptor(), bundle.at);
        last = bundle.at;
    }
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
    Ok(())
}

fn print(counts: &BTreeMap<StoreOperation, u64>, over: f64) {
    for (operation, count) in counts {
        println!("  {:<10} {:.1}", format!("{operation:?}"), *count as f64 / over);
    }
}

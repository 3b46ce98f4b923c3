//! Backfill against its two raw limits, measured in the same run on the same real `MinIO`: Tantivy fed with the same
//! documents from memory, and LIST + GET of the same objects.
//!
//! `BENCH_ENTRIES` (20 000) entries with one descriptor each; three rounds, the medians count.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use tidemark_ingest::IngestOptions;
use tidemark_store::{Store, StoreSecond, UserMetadata};
use tidemark_tests::{
    MinioServer,
    bench::{AT_ONCE, IndexBench, median, number, rate, read_log, shortest, tantivy_alone},
    stores,
    workload::SampleBundle,
};
use tidemark_wal::{Log, LogReader, ParameterSchedule};
use tokio::time::Instant;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let count = number("BENCH_ENTRIES", 20_000);
    let minio = MinioServer::start().await?;
    for bucket in ["log", "meta", "index"] {
        minio.create_bucket(bucket).await?;
    }
    let environment = minio.environment();
    let open = |bucket: &str| stores::open(&format!("s3://{bucket}"), &environment);
    let log = Log::over(open("log"), vec![open("meta")]);
    let (first, last) = write(&log, count).await?;
    println!("{count} entries with one descriptor each, written to MinIO; each round: raw GET, raw Tantivy, backfill");

    let (mut gets, mut tantivy, mut backfill) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..3 {
        let (read, span) = read_log(&log).await?;
        anyhow::ensure!(read == count, "{read} of {count} entries are in the log");
        gets.push(rate(count, span));
        tantivy.push(rate(count, raw_tantivy(&log, &open("index"), first, last).await?));
        let cache = tempfile::tempdir()?;
        let bench = IndexBench::new(
            &log,
            &open("index").below(&format!("round-{round}")),
            cache.path(),
            IngestOptions::default(),
        )
        .await?;
        let started = Instant::now();
        let status = bench.until(last).await?;
        backfill.push(rate(count, started.elapsed()));
        anyhow::ensure!(
            status.entries.total() == count,
            "{} of {count} entries are in the index",
            status.entries.total()
        );
        println!("round {round}: {:.0} / {:.0} / {:.0} entries/s", gets[round], tantivy[round], backfill[round]);
    }
    let (gets, tantivy, backfill) = (median(gets), median(tantivy), median(backfill));
    println!("raw LIST + GET   {gets:>8.0} entries/s (two GETs an entry)");
    println!("raw Tantivy      {tantivy:>8.0} documents/s (one thread)");
    println!("backfill         {backfill:>8.0} entries/s");
    println!("backfill / smaller limit  {:.0} %", 100.0 * backfill / gets.min(tantivy));
    Ok(())
}

/// Writes the entries, waits until all are sealed, and gives the range of their seconds. Their tokens bear the store's
/// time, a few hundred in each second.
async fn write(log: &Log, count: u64) -> anyhow::Result<(StoreSecond, StoreSecond)> {
    let store_time = async || -> anyhow::Result<StoreSecond> {
        log.entries.put("now", "".into()).await?;
        Ok(log.entries.head("now").await?.map(|info| info.time).unwrap_or_default())
    };
    let first = store_time().await?;
    let mut now = first;
    let mut written = 0;
    while written < count {
        let chunk = (written..count.min(written + 500)).map(|n| SampleBundle { n, at: now });
        let puts = chunk.map(|bundle| async move {
            log.descriptors().put(&bundle.path(), bundle.descriptor()).await?;
            let created = log.entries.create(&bundle.token().to_string(), bundle.entry(), &UserMetadata::new()).await;
            anyhow::ensure!(matches!(created, tidemark_store::Create::Committed), "{created:?}");
            Ok(())
        });
        stream::iter(puts).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        written += 500;
        now = store_time().await?;
    }
    log.entries.delete(&["now".to_owned()]).await?;
    tokio::time::sleep(shortest().horizon_delay() + Duration::from_secs(3)).await;
    Ok((first, now))
}

/// Feeds the documents to Tantivy on one thread, from memory.
async fn raw_tantivy(log: &Log, index: &Store, first: StoreSecond, last: StoreSecond) -> anyhow::Result<Duration> {
    let reader = LogReader::new(log);
    let schedule = ParameterSchedule::constant(shortest());
    let (fetcher, schedule) = (&reader, &schedule);
    let resolved: Vec<_> = reader
        .list(first, last.next())
        .map(|listed| async move { fetcher.fetch(&listed?, schedule).await })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    let mut records: Vec<_> = resolved.into_iter().flat_map(tidemark_ingest::OperationRecord::from_resolved).collect();
    for (seq, record) in (1..).zip(&mut records) {
        record.seq = seq;
    }
    let cache = tempfile::tempdir()?;
    let options = tidemark_search::EngineOptions { cache_folder: cache.path().to_owned(), cache_bytes: 1 << 30 };
    let engine = tidemark_search::TantivyEngine::open(index.clone(), &options)?;
    tantivy_alone(&engine, &records).await
}

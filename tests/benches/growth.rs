//! What grows with a log, and by how much: memory, disk, segments, manifests, requests, garbage and the time of a restart of
//! `tidemark index` and `tidemark serve`, with their cache and with an empty one, with compaction, for logs of two sizes.
//!
//! `BENCH_GROWTH` (100000,1000000) entries with one descriptor each; the S3 server of this process makes their bodies when
//! they are asked for, and keeps the index in files. `BENCH_CACHE_DIR` is the cache folder of the programs (a temporary one),
//! `TIDEMARK_CACHE_MIB` its size. `tests/tools/limited.sh` as `TIDEMARK_PROGRAM` runs them in a control group on a small disk.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::ensure;
use tidemark_catalog::{Generation, IndexChain, Manifest};
use tidemark_store::{Entropy, StoreSecond};
use tidemark_tests::{
    S3Server, TidemarkProcess,
    bench::{compacted, percentile},
    stores,
    workload::SampleLog,
};
use tokio::time::{Instant, sleep};

const QUERIES: [&str; 8] = [
    "horizon",
    "manifest watermark",
    "\"daily prices\"",
    "repo:\"repo-7\" AND cursor",
    "genome OR maps OR weather",
    "ticket AND 4711",
    "kind:bundle AND label",
    "nosuchwordanywhere",
];
/// Rounds of the queries over HTTP.
const ROUNDS: usize = 20;
/// How long the segments must stay as they are before the index counts as compacted.
const REST: Duration = Duration::from_mins(1);
/// The most that an indexer with the default limits may take while it does nothing, in bytes.
const MAX_RESTING_BYTES: u64 = 256 << 20;
/// The most that it may take for any log, in bytes.
const MAX_PEAK_BYTES: u64 = 512 << 20;
/// How often the index is looked at.
const LOOK: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let sizes = std::env::var("BENCH_GROWTH").unwrap_or_else(|_| "100000,1000000".to_owned());
    for size in sizes.split(',') {
        GrowthRun::new(size.trim().parse()?)?.measure().await?;
    }
    Ok(())
}

/// A log of one size, its index and the programs on them.
struct GrowthRun {
    count: u64,
    last: StoreSecond,
    server: S3Server,
    chain: IndexChain,
    cache: tempfile::TempDir,
    environment: BTreeMap<String, String>,
}

impl GrowthRun {
    fn new(count: u64) -> anyhow::Result<Self> {
        let server = S3Server::start()?;
        for bucket in ["log", "meta", "index"] {
            server.create_bucket(bucket);
        }
        // The audit window is over, as it is for a backfill.
        let last = server.clock().second().before(Duration::from_hours(30));
        server.hold(SampleLog::new(count, 500, last), "log", "meta");
        let cache = match std::env::var_os("BENCH_CACHE_DIR") {
            Some(folder) => tempfile::tempdir_in(folder)?,
            None => tempfile::tempdir()?,
        };
        let mut environment = server.index_environment();
        let own = [("TIDEMARK_IDENTITY", "growth"), ("TIDEMARK_CACHE_DIR", text(cache.path()))];
        environment.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let index = stores::open("s3://index", &server.environment());
        let chain = IndexChain::open(&index, Generation::first(), Entropy::from_os());
        Ok(Self { count, last, server, chain, cache, environment })
    }

    async fn measure(self) -> anyhow::Result<()> {
        println!("== {} entries", self.count);
        self.backfill().await?;
        self.restart("its cache").await?;
        self.search().await?;
        self.clear_cache()?;
        self.restart("an empty cache").await?;
        self.clear_cache()?;
        self.first_answer().await
    }

    /// As on a new node.
    fn clear_cache(&self) -> anyhow::Result<()> {
        for item in std::fs::read_dir(self.cache.path())? {
            let path = item?.path();
            if path.is_dir() { std::fs::remove_dir_all(path)? } else { std::fs::remove_file(path)? }
        }
        Ok(())
    }

    /// The index from nothing, until it is compacted.
    async fn backfill(&self) -> anyhow::Result<()> {
        let started = Instant::now();
        let indexer = TidemarkProcess::serving(&["index", "--no-search"], &self.environment).await?;
        while self.manifest().await?.is_none_or(|manifest| manifest.cursor.second() <= self.last) {
            sleep(LOOK).await;
            indexer.memory()?;
        }
        let span = started.elapsed().as_secs_f64();
        println!("backfill: {span:.0} s, {:.0} entries/s, {}", self.count as f64 / span, requests(&self.server));
        let published = indexer.memory()?;
        let manifest = compacted(&self.chain, REST).await?;
        ensure!(manifest.totals.records == self.count, "{} records", manifest.totals.records);
        let memory = indexer.memory()?;
        println!(
            "indexer: largest resident memory {} MiB, after the last publication {} MiB ({} anonymous), at rest {} MiB ({} anonymous)",
            mib(memory.peak),
            mib(published.resident),
            mib(published.anonymous),
            mib(memory.resident),
            mib(memory.anonymous)
        );
        ensure!(
            memory.resident <= MAX_RESTING_BYTES && memory.peak <= MAX_PEAK_BYTES,
            "the indexer takes more than {} MiB when idle, or more than {} MiB at its peak",
            mib(MAX_RESTING_BYTES),
            mib(MAX_PEAK_BYTES)
        );
        let (stored, named) = (self.server.bytes("index"), manifest.totals.bytes);
        println!(
            "index: {} MiB in {} segments, {} bytes a record; {} MiB of others (garbage and records); manifest {} bytes",
            mib(named),
            manifest.segments.len(),
            named / self.count,
            mib(stored.saturating_sub(named)),
            serde_json::to_vec(&manifest)?.len(),
        );
        indexer.stop().await?;
        Ok(())
    }

    /// A process that comes back, until it has published and nothing waits.
    async fn restart(&self, cache: &str) -> anyhow::Result<()> {
        self.server.reset_counts();
        let started = Instant::now();
        let indexer = TidemarkProcess::serving(&["index", "--no-search"], &self.environment).await?;
        while indexer.get("/v1/process").await?["caughtUp"] != true {
            sleep(Duration::from_millis(50)).await;
        }
        println!(
            "restart of the indexer with {cache}: caught up after {:.1} s, {}; resident {} MiB",
            started.elapsed().as_secs_f64(),
            requests(&self.server),
            mib(indexer.memory()?.resident)
        );
        indexer.stop().await?;
        Ok(())
    }

    /// A search with an empty cache, until it has answered once.
    async fn first_answer(&self) -> anyhow::Result<()> {
        self.server.reset_counts();
        let started = Instant::now();
        let search = TidemarkProcess::serving(&["serve"], &self.environment).await?;
        search.until_answer("/v1/status", |_| true).await;
        let ready = started.elapsed().as_secs_f64();
        let total = search.get("/v1/search?q=horizon").await?["total"].clone();
        println!(
            "search with an empty cache: ready after {ready:.1} s, {total} hits after {:.1} s, {}",
            started.elapsed().as_secs_f64(),
            requests(&self.server)
        );
        search.stop().await?;
        Ok(())
    }

    async fn search(&self) -> anyhow::Result<()> {
        self.server.reset_counts();
        let started = Instant::now();
        let search = TidemarkProcess::serving(&["serve"], &self.environment).await?;
        search.until_answer("/v1/status", |_| true).await;
        println!("search: ready after {:.1} s, {}", started.elapsed().as_secs_f64(), requests(&self.server));
        for query in QUERIES {
            let mut spans = Vec::new();
            let path = format!(
                "/v1/search?sort=relevance&size=20&facets=&q={}",
                percent_encoding::utf8_percent_encode(query, percent_encoding::NON_ALPHANUMERIC)
            );
            let mut total = serde_json::Value::Null;
            for _ in 0..ROUNDS {
                let started = Instant::now();
                total = search.get(&path).await?["total"].clone();
                spans.push(started.elapsed());
            }
            println!(
                "  {query:<28} {total:>9} hits, p50 {:>8.2?}, worst {:>8.2?}",
                percentile(&spans, 0.5),
                percentile(&spans, 1.0)
            );
        }
        let memory = search.memory()?;
        println!(
            "search: largest resident memory {} MiB, now {} MiB ({} anonymous)",
            mib(memory.peak),
            mib(memory.resident),
            mib(memory.anonymous)
        );
        search.stop().await?;
        Ok(())
    }

    async fn manifest(&self) -> anyhow::Result<Option<Manifest>> {
        Ok(self.chain.latest().await?.map(|slot| slot.state))
    }
}

fn requests(server: &S3Server) -> String {
    let counts: Vec<String> =
        server.counts().iter().map(|(operation, count)| format!("{count} {operation:?}")).collect();
    format!("{} requests ({})", server.requests(), counts.join(", "))
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

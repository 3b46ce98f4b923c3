//! What the benchmarks share: an indexer to run to the end of a log, and figures to print.

use std::{
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _};
use tidemark_catalog::{Generation, IndexChain, Manifest, RootChain, WriterIdentity};
use tidemark_ingest::engine::IndexEngine as _;
use tidemark_ingest::{IngestOptions, IngestStatus, LogIngester, OperationRecord};
use tidemark_search::EngineOptions;
use tidemark_search::TantivyEngine;
use tidemark_store::{Entropy, Store, StoreClock, StoreSecond};
use tidemark_wal::{Log, LogParameters};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

/// Objects of a log that are read at once.
pub const AT_ONCE: usize = 64;

/// The shortest parameters: a second is sealed 3 s after it.
pub fn shortest() -> LogParameters {
    let second = Duration::from_secs(1);
    LogParameters { request_timeout: second, visibility_delay: Duration::ZERO, ..LogParameters::with_expiry(second) }
}

/// The manifest whose segments have stayed as they are for as long as `rest`.
pub async fn compacted(chain: &IndexChain, rest: Duration) -> anyhow::Result<Manifest> {
    let mut seen = (Instant::now(), Vec::new());
    loop {
        let manifest = chain.latest().await?.context("the index has no manifest any more")?.state;
        let keys: Vec<String> = manifest.segments.iter().map(|segment| segment.key.clone()).collect();
        if keys != seen.1 {
            seen = (Instant::now(), keys);
        } else if seen.0.elapsed() >= rest {
            return Ok(manifest);
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// An indexer that is ready to run.
pub struct IndexBench {
    /// The indexer.
    pub ingest: LogIngester,
    /// Its engine.
    pub engine: Arc<TantivyEngine>,
    /// What it says of itself.
    pub status: watch::Receiver<IngestStatus>,
}

impl IndexBench {
    /// An indexer of `log` into `index` with its cache in `cache`.
    pub async fn new(log: &Log, index: &Store, cache: &Path, options: IngestOptions) -> anyhow::Result<Self> {
        let entropy = Entropy::from_os();
        let root = RootChain::open(log, entropy.clone());
        root.ensure(&shortest()).await?;
        let cache = EngineOptions { cache_folder: cache.to_owned(), cache_bytes: 8 << 30 };
        let engine = Arc::new(TantivyEngine::open(index.clone(), &cache)?);
        let (sender, status) = watch::channel(IngestStatus::default());
        let ingest = LogIngester {
            log: log.clone(),
            clock: StoreClock::new(log.stores(), &entropy.nonce()),
            root,
            chain: IndexChain::open(index, Generation::first(), entropy.clone()),
            engine: engine.clone(),
            identity: WriterIdentity(entropy.nonce()),
            options,
            entropy,
            status: sender,
        };
        Ok(Self { ingest, engine, status })
    }

    /// Runs until the cursor has passed `last`, then stops.
    pub async fn until(mut self, last: StoreSecond) -> anyhow::Result<IngestStatus> {
        let stop = CancellationToken::new();
        let running = tokio::spawn(self.ingest.run(stop.clone()));
        let reached = self.status.wait_for(|status| status.cursor.second() > last).await;
        let status = reached.context("the indexer ended")?.clone();
        stop.cancel();
        running.await??;
        Ok(status)
    }
}

/// Lists the log and gets every entry and every descriptor, as many at once as the indexer does: how many entries, and how long it took.
pub async fn read_log(log: &Log) -> anyhow::Result<(u64, Duration)> {
    let started = Instant::now();
    let fetches = log.entries.list("", None).try_filter(|info| std::future::ready(!info.key.starts_with(".tidemark/")));
    let fetches = fetches.map(|info| async move {
        let entry = log.entries.get(&info?.key, u64::MAX).await?.and_then(|entry| entry.body).unwrap_or_default();
        let path = String::from_utf8_lossy(&entry).into_owned();
        log.descriptors().get(&path, u64::MAX).await?;
        anyhow::Ok(())
    });
    let read = fetches.buffer_unordered(AT_ONCE).try_fold(0, async |read, ()| Ok(read + 1)).await?;
    Ok((read, started.elapsed()))
}

/// How long it takes to feed the records to Tantivy, from memory on one thread.
pub async fn tantivy_alone(engine: &TantivyEngine, records: &[OperationRecord]) -> anyhow::Result<Duration> {
    let mut builder = engine.builder()?;
    let started = Instant::now();
    for chunk in records.chunks(512) {
        builder.add(chunk.to_vec()).await?;
    }
    let packed = builder.finish().await?;
    anyhow::ensure!(packed.documents == records.len() as u64, "{} documents", packed.documents);
    Ok(started.elapsed())
}

/// What clients did that work one beside the other.
#[derive(Clone, Debug)]
pub struct LoadFigures {
    /// How long each thing took.
    pub latencies: Vec<Duration>,
    /// How long all of it took.
    pub span: Duration,
}

impl LoadFigures {
    /// Things a second.
    pub fn rate(&self) -> f64 {
        rate(self.latencies.len() as u64, self.span)
    }
}

impl fmt::Display for LoadFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99] = [0.5, 0.99].map(|share| 1000.0 * percentile(&self.latencies, share).as_secs_f64());
        write!(f, "{:>8.0} a second, p50 {p50:>8.2} ms, p99 {p99:>8.2} ms", self.rate())
    }
}

/// Lets `clients` do one thing after the other, each by itself, and begin none after `span`. `act` gets numbers from 0, each once.
pub async fn load<A, F>(clients: u64, span: Duration, act: A) -> anyhow::Result<LoadFigures>
where
    A: Fn(u64) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = anyhow::Result<()>> + Send,
{
    let (started, next) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let running = (0..clients).map(|_| {
        let (act, next) = (act.clone(), Arc::clone(&next));
        tokio::spawn(async move {
            let mut latencies = Vec::new();
            while started.elapsed() < span {
                let begun = Instant::now();
                act(next.fetch_add(1, Ordering::Relaxed)).await?;
                latencies.push(begun.elapsed());
            }
            anyhow::Ok(latencies)
        })
    });
    let mut latencies = Vec::new();
    for client in running.collect::<Vec<_>>() {
        latencies.extend(client.await??);
    }
    Ok(LoadFigures { latencies, span: started.elapsed() })
}

/// `count` a second over `span`.
pub fn rate(count: u64, span: Duration) -> f64 {
    count as f64 / span.as_secs_f64()
}

/// The middle one of a few figures.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The figure below which `share` of all lie.
pub fn percentile(figures: &[Duration], share: f64) -> Duration {
    let mut sorted = figures.to_vec();
    sorted.sort();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index into a short list")]
    let index = ((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1);
    sorted.get(index).copied().unwrap_or_default()
}

/// A number from the environment, for longer or shorter runs.
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

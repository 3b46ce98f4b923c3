//! Delivery by `tidemark sink` to a webhook and to a bulk API, and the changes as a client of `tidemark serve` reads them, against plain reading of the
//! same segments and plain POSTs of the same bodies, in one run; then how long after its publication a record arrives.
//!
//! `BENCH_DELIVERY` (50 000) operations, each an entry with a descriptor, on the S3 server of this process, which also plays the destinations: it parses and
//! keeps what comes, for the plain POSTs as well. `BENCH_ROUNDS` (3) rounds, the medians count. Then an entry every 250 ms for `BENCH_TRICKLE_SECONDS` (60).
//! A publication is seen within 10 ms, so that delays may be as much too short.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use parking_lot::Mutex;
use serde_json::Value;
use tidemark_catalog::{Generation, IndexChain, Manifest};
use tidemark_ingest::engine::IndexEngine as _;
use tidemark_search::{EngineOptions, TantivyEngine};
use tidemark_store::Entropy;
use tidemark_tests::{
    LocalIndex, PeerAnswer, S3Server, SinkPeer, TidemarkProcess,
    bench::{compacted, median, number, percentile, rate},
    stores,
    workload::SampleLog,
};
use tokio::time::{Instant, sleep, timeout};

/// How long one step may take.
const PATIENCE: Duration = Duration::from_mins(10);
/// How long the segments must stay as they are before the index counts as compacted.
const REST: Duration = Duration::from_secs(5);
/// From one entry of the trickle to the next.
const TRICKLE_INTERVAL: Duration = Duration::from_millis(250);
/// How often a new manifest is looked for.
const LOOK: Duration = Duration::from_millis(10);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let run = DeliveryRun::new(number("BENCH_DELIVERY", 50_000)).await?;
    run.measure().await?;
    drop(run);
    trickle().await
}

/// An index that grows no more.
struct DeliveryRun {
    count: u64,
    server: S3Server,
    environment: BTreeMap<String, String>,
    chain: IndexChain,
    manifest: Manifest,
}

/// A destination of the sink: the arguments that name it, the path of its requests, and their media type.
#[derive(Clone, Copy)]
enum DestinationKind {
    Webhook,
    Bulk,
}

impl DestinationKind {
    fn name(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Bulk => "bulk API",
        }
    }

    fn arguments(self, peer: &SinkPeer) -> Vec<String> {
        match self {
            Self::Webhook => vec!["--webhook".to_owned(), format!("{}/hook", peer.url())],
            Self::Bulk => ["--elasticsearch", &peer.url(), "--elasticsearch-index", "orders"].map(str::to_owned).into(),
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Webhook => "/hook",
            Self::Bulk => "/orders/_bulk",
        }
    }
}

/// Rates of each kind of reading or delivery, by name, one a round.
type Rates = BTreeMap<String, Vec<f64>>;

impl DeliveryRun {
    async fn new(count: u64) -> anyhow::Result<Self> {
        let server = S3Server::start()?;
        for bucket in ["log", "meta", "index"] {
            server.create_bucket(bucket);
        }
        let last = server.clock().second().before(Duration::from_hours(30));
        server.hold(SampleLog::new(count, 500, last), "log", "meta");
        let environment = server.index_environment();
        let index = stores::open("s3://index", &environment);
        let chain = IndexChain::open(&index, Generation::first(), Entropy::from_os());
        let indexer = TidemarkProcess::serving(&["index", "--no-search"], &environment).await?;
        while chain.latest().await?.is_none_or(|latest| latest.state.cursor.second() <= last) {
            indexer.memory()?;
            sleep(Duration::from_millis(200)).await;
        }
        let manifest = compacted(&chain, REST).await?;
        ensure!(manifest.totals.records == count, "{} records", manifest.totals.records);
        indexer.stop().await?;
        Ok(Self { count, server, environment, chain, manifest })
    }

    async fn measure(&self) -> anyhow::Result<()> {
        let segments = &self.manifest.segments;
        let bytes: u64 = segments.iter().map(|segment| segment.size).sum();
        println!("{} records in {} segments of {} bytes", self.count, segments.len(), bytes);
        let mut rates = Rates::new();
        for round in 0..number("BENCH_ROUNDS", 3) {
            let mut note = |name: String, span: Duration| {
                println!("round {round}: {name}: {:.0} records/s", rate(self.count, span));
                rates.entry(name).or_default().push(rate(self.count, span));
            };
            note("GET of the segments".to_owned(), self.get_segments().await?);
            note("plain reading: GET, and every record decoded".to_owned(), self.read_records().await?);
            note("GET /v1/changes, pages of 1000".to_owned(), self.read_feed().await?);
            for kind in [DestinationKind::Webhook, DestinationKind::Bulk] {
                let (sent, posts) = self.deliver(kind, round).await?;
                note(format!("sink to a {}", kind.name()), sent);
                note(format!("plain POSTs to a {}", kind.name()), posts);
            }
        }
        let of = |name: &str| rates.get(name).map_or(f64::NAN, |rates| median(rates.clone()));
        let read = of("plain reading: GET, and every record decoded");
        for (name, figures) in &rates {
            println!("median: {name:<48} {:>9.0} records/s", median(figures.clone()));
        }
        println!("GET /v1/changes is {:.0} % of plain reading", 100.0 * of("GET /v1/changes, pages of 1000") / read);
        for kind in [DestinationKind::Webhook, DestinationKind::Bulk].map(DestinationKind::name) {
            let (sink, posts) = (of(&format!("sink to a {kind}")), of(&format!("plain POSTs to a {kind}")));
            println!(
                "sink to a {kind}: {:.0} % of plain reading, {:.0} % of plain POSTs, {:.0} % of one after the other",
                100.0 * sink / read,
                100.0 * sink / posts,
                100.0 * sink * (1.0 / read + 1.0 / posts)
            );
        }
        Ok(())
    }

    async fn get_segments(&self) -> anyhow::Result<Duration> {
        let started = Instant::now();
        for segment in &self.manifest.segments {
            let object = self.chain.index().get(&segment.key, u64::MAX).await?;
            object.and_then(|object| object.body).with_context(|| format!("\"{}\" is gone", segment.key))?;
        }
        Ok(started.elapsed())
    }

    /// With an empty cache, as a sink starts with one.
    async fn read_records(&self) -> anyhow::Result<Duration> {
        let (cache, started) = (tempfile::tempdir()?, Instant::now());
        let engine = engine(&self.chain, cache.path())?;
        let mut read = 0;
        for segment in &self.manifest.segments {
            read += engine.records(segment, segment.seq.clone()).await?.len() as u64;
        }
        ensure!(read == self.count, "{read} records");
        Ok(started.elapsed())
    }

    /// A client that asks for the next page as soon as it has one.
    async fn read_feed(&self) -> anyhow::Result<Duration> {
        let serving = TidemarkProcess::serving(&["serve"], &self.environment).await?;
        serving.until_answer("/v1/status", |status| status["manifest"].as_u64() > Some(0)).await;
        let (client, mut from, mut read) = (reqwest::Client::new(), String::new(), 0);
        let started = Instant::now();
        while read < self.count {
            let url = format!("{}/v1/changes?payload=true&limit=1000{from}", serving.url());
            let body = client.get(url).send().await?.error_for_status()?.bytes().await?;
            let answer: Value = serde_json::from_slice(&body)?;
            let changes = answer["changes"].as_array().context("changes")?.len() as u64;
            ensure!(changes > 0, "nothing after {read} records: {answer}");
            read += changes;
            from = format!("&from={}", answer["next"].as_str().context("a position")?);
        }
        let span = started.elapsed();
        serving.stop().await?;
        Ok(span)
    }

    /// A sink from its start until everything has arrived; then the same bodies once more by a plain client, one after the other.
    async fn deliver(&self, kind: DestinationKind, round: u64) -> anyhow::Result<(Duration, Duration)> {
        let (peer, count) = (SinkPeer::start()?, usize::try_from(self.count)?);
        let destination = kind.arguments(&peer);
        let name = format!("{}-{round}", kind.path().trim_start_matches('/').replace("/_", "-"));
        let mut arguments = vec!["sink", "--name", &name, "--identity", "bench"];
        arguments.extend(destination.iter().map(String::as_str));
        self.server.reset_counts();
        let started = Instant::now();
        let sink = TidemarkProcess::begun(&arguments, &self.environment).await?;
        let arrived = timeout(PATIENCE, peer.until_taken(count)).await;
        arrived.with_context(|| format!("{} of {count} have arrived: {}", peer.taken(), sink.log()))?;
        let (span, memory) = (started.elapsed(), sink.memory()?);
        ensure!(sink.stop().await?.success(), "the sink ends well");
        let bodies = peer.requests();
        println!(
            "  sink to a {}: {} requests to the store = {:.4} an operation; {} POSTs; {} MiB resident at most, {} no file holds",
            kind.name(),
            self.server.requests(),
            self.server.requests() as f64 / self.count as f64,
            bodies.len(),
            memory.peak >> 20,
            memory.anonymous >> 20
        );
        drop(peer);
        let peer = SinkPeer::start()?;
        let (client, url) = (reqwest::Client::new(), format!("{}{}", peer.url(), kind.path()));
        let started = Instant::now();
        for request in bodies {
            client.post(&url).body(request.body).send().await?.error_for_status()?.bytes().await?;
        }
        let posts = started.elapsed();
        ensure!(peer.taken() == count, "{} of {count} records", peer.taken());
        Ok((span, posts))
    }
}

fn engine(chain: &IndexChain, cache: &std::path::Path) -> anyhow::Result<TantivyEngine> {
    let options = EngineOptions { cache_folder: cache.to_owned(), cache_bytes: 8 << 30 };
    Ok(TantivyEngine::open(chain.index().clone(), &options)?)
}

/// A sink that follows, and when each of its requests came.
struct FollowingSink {
    name: &'static str,
    peer: SinkPeer,
    arrivals: Arc<Mutex<Vec<Instant>>>,
    sink: TidemarkProcess,
}

impl FollowingSink {
    async fn start(
        world: &LocalIndex,
        name: &'static str,
        kind: DestinationKind,
        more: &[&str],
    ) -> anyhow::Result<Self> {
        let (peer, arrivals) = (SinkPeer::start()?, Arc::new(Mutex::new(Vec::new())));
        let seen = Arc::clone(&arrivals);
        // One request at a time: they are numbered as they come.
        peer.answers(move |_, _| {
            seen.lock().push(Instant::now());
            PeerAnswer::Take
        });
        let destination = kind.arguments(&peer);
        let mut arguments = vec!["sink", "--name", name, "--identity", name];
        arguments.extend(destination.iter().map(String::as_str).chain(more.iter().copied()));
        let sink = TidemarkProcess::begun(&arguments, &world.environment).await?;
        Ok(Self { name, peer, arrivals, sink })
    }

    /// When each record came first, by seq.
    fn first_arrivals(&self) -> anyhow::Result<BTreeMap<u64, Instant>> {
        let (mut first, arrivals) = (BTreeMap::new(), self.arrivals.lock().clone());
        for (request, arrived) in self.peer.requests().iter().zip(arrivals) {
            for line in request.body.lines() {
                let parsed: Value = serde_json::from_str(line)?;
                let records = parsed.as_array().cloned().unwrap_or_else(|| vec![parsed]);
                let seqs =
                    records.iter().filter_map(|record| record["data"]["seq"].as_u64().or(record["seq"].as_u64()));
                for seq in seqs {
                    first.entry(seq).or_insert(arrived);
                }
            }
        }
        Ok(first)
    }
}

/// What is published while a few entries a second are written, and how soon sinks have it.
async fn trickle() -> anyhow::Result<()> {
    let world = LocalIndex::new()?;
    world.bundle(60, "first");
    let indexer = world.indexer(&[]).await?;
    indexer.until_answer("/v1/status", |status| status["entries"]["committed"] == 1).await;
    let sinks = [
        FollowingSink::start(&world, "webhook", DestinationKind::Webhook, &[]).await?,
        FollowingSink::start(&world, "webhook-50ms", DestinationKind::Webhook, &["--batch-delay", "50ms"]).await?,
        FollowingSink::start(&world, "bulk", DestinationKind::Bulk, &[]).await?,
    ];
    for FollowingSink { name, peer, sink, .. } in &sinks {
        let arrived = timeout(PATIENCE, peer.until_taken(1)).await;
        arrived.with_context(|| format!("{name} delivers nothing: {}", sink.log()))?;
    }
    let entries = number("BENCH_TRICKLE_SECONDS", 60) * 4;
    let index = stores::open("s3://index", &world.environment);
    let chain = IndexChain::open(&index, Generation::first(), Entropy::from_os());
    let (published, ()) = tokio::try_join!(watch(&chain, 1 + entries), async {
        for entry in 0..entries {
            world.bundle(0, &format!("b{entry}"));
            sleep(TRICKLE_INTERVAL).await;
        }
        anyhow::Ok(())
    })?;
    println!("{entries} entries, one every {TRICKLE_INTERVAL:?}, in {} publications", published.manifests);
    print_delays("publication -> plain reading of its records", &published.reads);
    for sink in &sinks {
        let (name, peer) = (sink.name, &sink.peer);
        let arrived = timeout(PATIENCE, peer.until_taken(usize::try_from(1 + entries)?)).await;
        arrived.with_context(|| format!("{name} has delivered {}: {}", peer.taken(), sink.sink.log()))?;
        let (arrivals, mut delays) = (sink.first_arrivals()?, Vec::new());
        for (seq, at) in &published.records {
            let arrived = arrivals.get(seq).with_context(|| format!("{name} lacks record {seq}"))?;
            delays.push(arrived.saturating_duration_since(*at));
        }
        print_delays(&format!("publication -> arrival, sink {name}"), &delays);
    }
    Ok(())
}

/// What was published, and when.
#[derive(Default)]
struct SeenPublications {
    manifests: u64,
    /// By seq.
    records: Vec<(u64, Instant)>,
    /// How long it took to read what each of them brought.
    reads: Vec<Duration>,
}

/// Looks at every manifest until there are `total` records, and reads what it brings.
async fn watch(chain: &IndexChain, total: u64) -> anyhow::Result<SeenPublications> {
    let cache = tempfile::tempdir()?;
    let engine = engine(chain, cache.path())?;
    let (mut seen, mut latest) = (SeenPublications::default(), chain.latest().await?.context("there is a manifest")?);
    while latest.state.totals.records < total {
        let Some(newer) = chain.poll_newer(&latest).await? else {
            sleep(LOOK).await;
            continue;
        };
        let (at, new) = (Instant::now(), latest.state.totals.records + 1..newer.state.totals.records + 1);
        if !new.is_empty() {
            let holding = |segment: &&_| holds(segment, &new);
            for segment in newer.state.segments.iter().filter(holding) {
                engine.records(segment, new.clone()).await?;
            }
            seen.reads.push(at.elapsed());
            seen.manifests += 1;
            seen.records.extend(new.map(|seq| (seq, at)));
        }
        latest = newer;
    }
    Ok(seen)
}

fn holds(segment: &tidemark_catalog::SegmentMeta, seqs: &std::ops::Range<u64>) -> bool {
    segment.seq.start < seqs.end && seqs.start < segment.seq.end
}

fn print_delays(what: &str, delays: &[Duration]) {
    let [p50, p99, largest] = [0.5, 0.99, 1.0].map(|share| percentile(delays, share).as_secs_f64());
    println!("{what}: p50 {p50:.3} s, p99 {p99:.3} s, largest {largest:.3} s of {}", delays.len());
}

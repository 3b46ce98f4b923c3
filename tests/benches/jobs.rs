//! What the jobs on a log and its index take, in one run: `snapshot`, `verify`, `cleanup`, `reindex`, `restore` and `promote`, against their raw
//! limits, and searches and ingest beside a snapshot against the same without one, in turn.
//!
//! `BENCH_JOBS` (100000,1000000) operations, each an entry with a descriptor, on the S3 server of this process. Every job is the
//! program itself, and the run ends where what it says is not what the log has. Time and memory are those of the program: what was resident
//! at most, and the largest parts of it that no file holds and that show mapped files, looked at every 10 ms. Requests are counted by the server, bytes are by how much its buckets have grown. For the last part the server's clock goes ahead of the machine's,
//! and `BENCH_INGEST_BACKLOG` (30 000) entries always wait for the indexer. `BENCH_JOBS_NEW` (a tenth) operations are appended in each of its rounds.

use std::{cell::Cell, collections::BTreeMap, pin::pin, time::Duration};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use serde_json::Value;
use tidemark_catalog::{Generation, IndexChain, LogCursor, RootChain};
use tidemark_ingest::engine::IndexEngine as _;
use tidemark_search::{EngineOptions, TantivyEngine};
use tidemark_store::{Entropy, Store, StoreSecond};
use tidemark_tests::{
    MemoryPeaks, S3Server, TidemarkProcess,
    bench::{compacted, number, percentile, rate, read_log, tantivy_alone},
    stores,
    workload::{SampleBundle, SampleLog},
};
use tidemark_wal::Log;
use tokio::time::{Instant, sleep};

const INDEX: &str = "s3://index";
/// How old the log is: more than the audit window.
const SETTLED_AGE: Duration = Duration::from_hours(30);
/// From one round to the next: what is appended then, of that age, is new to the index.
const ROUND_INTERVAL: Duration = Duration::from_hours(60);
/// Bundles in each second of the log.
const RATE: u64 = 500;
/// How long the segments must stay as they are before the index counts as compacted.
const REST: Duration = Duration::from_secs(20);
/// How often an indexer and its index are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Objects that plain reading has under way, as a snapshot does.
const CONCURRENT_READS: usize = 4;
/// Between two searches of the client.
const SEARCH_INTERVAL: Duration = Duration::from_millis(20);
/// The shortest time for which searches are measured without a snapshot.
const MIN_QUIET: Duration = Duration::from_secs(5);
/// Rounds of a snapshot, then none.
const ROUNDS: u64 = 2;
const QUERIES: [&str; 4] =
    ["horizon", "%22daily%20prices%22", "genome%20OR%20maps%20OR%20weather", "ticket%20AND%204711"];
/// A search that finds every operation.
const EVERYTHING: &str = "/v1/search?size=1&facets=&q=";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let sizes = std::env::var("BENCH_JOBS").unwrap_or_else(|_| "100000,1000000".to_owned());
    for size in sizes.split(',') {
        Box::pin(JobsRun::new(size.trim().parse()?)?.measure()).await?;
    }
    Ok(())
}

/// A log and its index.
struct JobsRun {
    count: u64,
    sample: SampleLog,
    last: StoreSecond,
    /// Operations that were appended behind those of the sample.
    appended: Cell<u64>,
    server: S3Server,
    log: Log,
    index: Store,
    environment: BTreeMap<String, String>,
    client: reqwest::Client,
}

/// What something took; 0 where it was not measured.
#[derive(Clone, Copy, Default)]
struct JobFigures {
    span: Duration,
    requests: u64,
    /// By how much the buckets have grown.
    bytes: u64,
    /// Of the program.
    memory: MemoryPeaks,
}

/// What a client saw that searches and appends.
#[derive(Default)]
struct LoadFigures {
    searches: Vec<Duration>,
    /// How far the index is behind the store's clock.
    lags: Vec<Duration>,
}

impl JobsRun {
    fn new(count: u64) -> anyhow::Result<Self> {
        let server = S3Server::start()?;
        for bucket in ["log", "meta", "index"] {
            server.create_bucket(bucket);
        }
        let last = server.clock().second().before(SETTLED_AGE);
        let sample = SampleLog::new(count, RATE, last);
        server.hold(sample, "log", "meta");
        let environment = server.index_environment();
        let open = |url: &str| stores::open(url, &environment);
        let (log, index) = (Log::over(open("s3://log"), vec![open("s3://meta")]), open(INDEX));
        let (appended, client) = (Cell::new(0), reqwest::Client::new());
        Ok(Self { count, sample, last, appended, server, log, index, environment, client })
    }

    async fn measure(self) -> anyhow::Result<()> {
        println!(
            "{:<48} {:>10} {:>9} {:>8} {:>11} {:>8} {:>7} {:>7} {:>7}",
            "job", "operations", "seconds", "per s", "requests/op", "bytes/op", "MiB", "no file", "mapped"
        );
        let backfill = self.backfill().await?;
        let plain = self.snapshot().await?;
        self.verify(plain).await?;
        self.cleanup().await?;
        let cost = [("Tantivy alone, goal 80 %", self.tantivy_alone().await?), ("first backfill", backfill)];
        self.restore_from_archive(&cost).await?;
        self.reindex(&cost).await?;
        self.restore().await?;
        let mut archived = 0;
        self.search_beside_snapshots(&mut archived).await?;
        self.ingest_beside_snapshots(&mut archived).await
    }

    async fn backfill(&self) -> anyhow::Result<Duration> {
        let (started, before) = (Instant::now(), self.stored());
        self.server.reset_counts();
        let indexer = TidemarkProcess::serving(&["index", "--no-search"], &self.environment).await?;
        let mut memory = MemoryPeaks::default();
        while self.cursor(&indexer).await? <= self.last.timestamp() {
            memory.observe(indexer.memory()?);
            sleep(LOOK).await;
        }
        let (span, requests, bytes) = (started.elapsed(), self.server.requests(), self.stored() - before);
        memory.observe(indexer.memory()?);
        print("first backfill, published", self.count, JobFigures { span, requests, bytes, memory }, &[]);
        // Only what had its last look is archived.
        self.until_audited("g1", &indexer, self.last).await?;
        let manifest = compacted(&self.chain("g1")?, REST).await?;
        ensure!(manifest.totals.records == self.count, "{} records", manifest.totals.records);
        ensure!(indexer.stop().await?.success(), "the indexer ends well");
        // As the indexer does every hour: a clean-up deletes nothing that it may still look at.
        let root = RootChain::open(&self.log, Entropy::from_os());
        root.keep(INDEX, &Generation::first(), LogCursor(manifest.audited)).await?;
        Ok(span)
    }

    /// Gives how long it takes to read what it has read and written.
    async fn snapshot(&self) -> anyhow::Result<Duration> {
        let (made, figures) = self.run(&["snapshot"]).await?;
        ensure!(made["archived"] == self.count && made["operations"] == self.count, "{made}");
        let plain = self.read_objects().await?;
        print("  GET of index and archive, 4 at once", self.count, plain, &[]);
        let bytes: usize = self.archive().filter_map(|key| Some(self.server.body("index", &key)?.len())).sum();
        println!("  the archive: {:.1} bytes an operation", bytes as f64 / self.count as f64);
        print("snapshot, all is archived", self.count, figures, &[("plain reading, goal 80 %", plain.span)]);
        Ok(plain.span)
    }

    async fn verify(&self, plain: Duration) -> anyhow::Result<()> {
        let (read, log) = read_log(&self.log).await?;
        ensure!(read == self.count, "{read} entries in the log");
        print("  LIST and GET of the log, 64 at once", read, JobFigures { span: log, ..JobFigures::default() }, &[]);
        for (name, option, checked, plain) in [
            ("verify, a sample of 1000", "--sample=1000", 1, plain),
            ("verify --all", "--all", self.count, plain + log),
        ] {
            let (summary, figures) = self.run(&["verify", option]).await?;
            let (outcomes, archive) = (&summary["outcomes"], &summary["archive"]);
            ensure!(summary["damage"] == 0 && summary["unverified"] == 0, "{summary}");
            ensure!(summary["records"] == self.count && archive["operations"] == self.count, "{summary}");
            let is_same = outcomes["agree"] == outcomes["operations"] && archive["differ"] == 0;
            ensure!(is_same && outcomes["missingEntries"] == 0, "{summary}");
            for figure in [&outcomes["agree"], &archive["compared"]] {
                ensure!(figure.as_u64() >= Some(checked), "{summary}");
            }
            // A sample of the log looks from some seconds on, where the log may have nothing.
            ensure!(option != "--all" || outcomes["entries"] == self.count, "{summary}");
            print(name, self.count, figures, &[("plain reading, goal 80 %", plain)]);
        }
        Ok(())
    }

    async fn cleanup(&self) -> anyhow::Result<()> {
        let arguments = ["cleanup", "--min-age", "1s", "--dry-run"];
        for (name, arguments, left) in
            [("cleanup --dry-run", &arguments[..], self.count), ("cleanup", &arguments[..3], 0)]
        {
            let (done, figures) = self.run(arguments).await?;
            ensure!(done["deleted"] == self.count && done["left"] == 0, "{done}");
            let (entries, _) = read_log(&self.log).await?;
            ensure!(entries == left, "{entries} entries in the log, {done}");
            print(name, self.count, figures, &[]);
        }
        Ok(())
    }

    async fn reindex(&self, cost: &[(&str, Duration)]) -> anyhow::Result<()> {
        let (built, figures) = self.run(&["reindex"]).await?;
        ensure!(built["generation"] == "g3" && built["records"] == self.count, "{built}");
        print("reindex, from the records of the index", self.count, figures, cost);
        Ok(())
    }

    /// To the middle of the log, beside a search; the promotion takes the rest from the generation before.
    async fn restore(&self) -> anyhow::Result<()> {
        let half = self.count / 2;
        let mut bundles = self.sample.bundles();
        let middle = bundles.find(|bundle| bundle.n + 1 == half).context("the log has a middle")?;
        let search = TidemarkProcess::serving(&["serve"], &self.environment).await?;
        search.until_answer(EVERYTHING, |answer| answer["total"] == self.count).await;
        let started = Instant::now();
        let (restored, figures) = self.run(&["restore", "--to-token", &middle.token().to_string()]).await?;
        ensure!(restored["generation"] == "g4" && restored["records"] == half, "{restored}");
        let answer = search.until_answer(EVERYTHING, |answer| answer["generation"] == "g4").await;
        ensure!(answer["total"] == half, "{answer}");
        let first = started.elapsed();
        print("restore to the middle, from the index", half, figures, &[]);
        let (promoted, figures) = self.run(&["promote"]).await?;
        ensure!(promoted["generation"] == "g4" && promoted["records"] == self.count, "{promoted}");
        search.until_answer(EVERYTHING, |answer| answer["total"] == self.count).await;
        print("promote, the other half", self.count - half, figures, &[]);
        println!("  a search beside them: first answer after {first:.1?}, everything after {:.1?}", started.elapsed());
        search.stop().await?;
        Ok(())
    }

    /// The index is lost but for its archive, and the log was cleaned up.
    async fn restore_from_archive(&self, cost: &[(&str, Duration)]) -> anyhow::Result<()> {
        for key in self.server.keys("index").into_iter().filter(|key| !key.starts_with("archive/")) {
            self.server.remove("index", &key);
        }
        let started = Instant::now();
        let (restored, figures) = self.run(&["restore", "--latest"]).await?;
        ensure!(restored["generation"] == "g2" && restored["records"] == self.count, "{restored}");
        print("restore of a lost index, from its archive", self.count, figures, cost);
        let search = TidemarkProcess::serving(&["serve"], &self.environment).await?;
        let answer = search.until_answer(EVERYTHING, |answer| answer["generation"] == restored["generation"]).await;
        ensure!(answer["total"] == self.count, "{answer}");
        let answered = started.elapsed();
        search.stop().await?;
        let (promoted, _) = self.run(&["promote"]).await?;
        ensure!(promoted["records"] == self.count, "{promoted}");
        println!(
            "  a new search: first answer, with everything, after {answered:.1?}; promoted after {:.1?}",
            started.elapsed()
        );
        Ok(())
    }

    /// A tenth of the log more, or `BENCH_JOBS_NEW`, which is settled, in an index whose indexer runs.
    async fn with_new_records(&self) -> anyhow::Result<TidemarkProcess> {
        self.server.clock().advance(ROUND_INTERVAL);
        let begin = self.server.clock().second().before(SETTLED_AGE);
        let new = number("BENCH_JOBS_NEW", self.count / 10);
        let end = begin.after(Duration::from_secs(new / RATE));
        for number in 0..new {
            self.append(begin.after(Duration::from_secs(number / RATE)));
        }
        let indexer = TidemarkProcess::serving(&["index"], &self.environment).await?;
        self.until_audited("g4", &indexer, end).await?;
        Ok(indexer)
    }

    /// Takes a snapshot, which archives what was appended before `settled` and not `archived` yet.
    async fn snapshot_of_new(&self, beside: &str, settled: u64, archived: u64) -> anyhow::Result<JobFigures> {
        let (made, figures) = self.run(&["snapshot"]).await?;
        ensure!(made["archived"] == settled - archived, "{settled} less {archived}: {made}");
        print(&format!("snapshot beside {beside}, what is new"), settled - archived, figures, &[]);
        Ok(figures)
    }

    /// Waits until the index has everything, and ends its indexer.
    async fn end_with_everything(&self, indexer: TidemarkProcess) -> anyhow::Result<()> {
        let total = self.count + self.appended.get();
        indexer.until_answer(EVERYTHING, |answer| answer["total"] == total).await;
        ensure!(indexer.stop().await?.success(), "the indexer ends well");
        Ok(())
    }

    /// Entries that wait for the indexer all the time, beside a snapshot and without one: how many are published in a second.
    async fn ingest_beside_snapshots(&self, archived: &mut u64) -> anyhow::Result<()> {
        let (mut beside, mut without) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let indexer = self.with_new_records().await?;
            let settled = self.appended.get();
            let (figures, rate) = self.ingesting(self.snapshot_of_new("ingest", settled, *archived)).await?;
            let span = figures?.span.max(MIN_QUIET);
            *archived = settled;
            beside.push(rate);
            without.push(self.ingesting(sleep(span)).await?.1);
            self.end_with_everything(indexer).await?;
        }
        for (name, rates) in [("beside a snapshot", beside), ("without", without)] {
            println!("  ingest {name}: {}, {} always waiting", rates.join(" and "), backlog());
        }
        Ok(())
    }

    /// Keeps entries waiting until `work` has ended. Gives how many were published in a second, from the first publication meanwhile to the last.
    async fn ingesting<T>(&self, work: impl Future<Output = T>) -> anyhow::Result<(T, String)> {
        let chain = self.chain("g4")?;
        let top_up = async || {
            let total = chain.latest().await?.context("there is a manifest")?.state.totals.records;
            let waiting = (self.count + self.appended.get()).saturating_sub(total);
            // Some in each second: one second is published as a whole.
            let missing = backlog().saturating_sub(waiting).min(backlog() / 10);
            let at = self.server.clock().second();
            (0..missing).for_each(|_| self.append(at));
            sleep(LOOK).await;
            anyhow::Ok(total)
        };
        // The first ones are sealed some seconds after they were written.
        let before = top_up().await?;
        while top_up().await? == before {}
        let (mut seen, mut work) = (Vec::new(), pin!(work));
        let done = loop {
            tokio::select! {
                done = &mut work => break done,
                total = top_up() => {
                    let total = total?;
                    if seen.last().is_none_or(|(_, known)| *known < total) {
                        seen.push((Instant::now(), total));
                    }
                }
            }
        };
        let [(first, from), .., (last, to)] = seen[..] else { return Ok((done, "too short to tell".to_owned())) };
        Ok((done, format!("{:.0} entries a second in {} publications", rate(to - from, last - first), seen.len() - 1)))
    }

    /// Of a tenth of the log more each time.
    async fn search_beside_snapshots(&self, archived: &mut u64) -> anyhow::Result<()> {
        let (mut beside, mut without) = (LoadFigures::default(), LoadFigures::default());
        for _ in 0..ROUNDS {
            let indexer = self.with_new_records().await?;
            let settled = self.appended.get();
            let snapshot = self.snapshot_of_new("searches", settled, *archived);
            let span = self.searching(&indexer, &mut beside, snapshot).await??.span;
            *archived = settled;
            self.searching(&indexer, &mut without, sleep(span.max(MIN_QUIET))).await?;
            self.end_with_everything(indexer).await?;
        }
        for (name, LoadFigures { searches, lags }) in [("beside a snapshot", beside), ("without", without)] {
            let [p50, p99] = [0.5, 0.99].map(|share| percentile(&searches, share));
            let [lag, longest] = [0.5, 1.0].map(|share| percentile(&lags, share));
            let count = searches.len();
            println!(
                "  {name}: {count} searches, p50 {p50:.2?}, p99 {p99:.2?}; index behind by {lag:.1?}, at most {longest:.1?}"
            );
        }
        Ok(())
    }

    /// A client searches and appends until `work` has ended.
    async fn searching<T>(
        &self,
        indexer: &TidemarkProcess,
        load: &mut LoadFigures,
        work: impl Future<Output = T>,
    ) -> anyhow::Result<T> {
        let mut work = pin!(work);
        loop {
            let query = QUERIES[load.searches.len() % QUERIES.len()];
            let looked = async {
                self.append(self.server.clock().second());
                let started = Instant::now();
                self.get(indexer, &format!("/v1/search?sort=relevance&size=20&facets=&q={query}")).await?;
                let span = started.elapsed();
                let lag = self.server.clock().now().duration_since(self.cursor(indexer).await?);
                sleep(SEARCH_INTERVAL).await;
                anyhow::Ok((span, Duration::try_from(lag).unwrap_or_default()))
            };
            tokio::select! {
                done = &mut work => return Ok(done),
                looked = looked => {
                    let (span, lag) = looked?;
                    load.searches.push(span);
                    load.lags.push(lag);
                }
            }
        }
    }

    /// A bundle whose entry and descriptor are written in this second.
    fn append(&self, at: StoreSecond) {
        let bundle = SampleBundle { n: self.count + self.appended.get(), at };
        self.appended.set(self.appended.get() + 1);
        self.server.insert_at("meta", &bundle.path(), bundle.descriptor(), at);
        self.server.insert_at("log", &bundle.token().to_string(), bundle.entry(), at);
    }

    /// Runs a command to its end: the last line that it prints, and what it took.
    async fn run(&self, arguments: &[&str]) -> anyhow::Result<(Value, JobFigures)> {
        let before = self.stored();
        self.server.reset_counts();
        let started = Instant::now();
        let (output, memory) = TidemarkProcess::measured(&[arguments, &["--json"]].concat(), &self.environment).await?;
        let (span, requests) = (started.elapsed(), self.server.requests());
        let printed = String::from_utf8(output.stdout)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{arguments:?}: {} {printed} {said}", output.status);
        let bytes = self.stored().saturating_sub(before);
        let last = printed.lines().next_back().with_context(|| format!("{arguments:?} prints nothing"))?;
        Ok((serde_json::from_str(last)?, JobFigures { span, requests, bytes, memory }))
    }

    /// Bytes of all buckets, the sample's left out.
    fn stored(&self) -> u64 {
        ["log", "meta", "index"].map(|bucket| self.server.bytes(bucket)).iter().sum()
    }

    /// The keys of the archive's objects.
    fn archive(&self) -> impl Iterator<Item = String> {
        self.server.keys("index").into_iter().filter(|key| key.starts_with("archive/"))
    }

    fn chain(&self, generation: &str) -> anyhow::Result<IndexChain> {
        Ok(IndexChain::open(&self.index, generation.parse()?, Entropy::from_os()))
    }

    async fn until_audited(
        &self,
        generation: &str,
        indexer: &TidemarkProcess,
        last: StoreSecond,
    ) -> anyhow::Result<()> {
        let chain = self.chain(generation)?;
        while chain.latest().await?.is_none_or(|latest| latest.state.audited <= last) {
            indexer.memory()?;
            sleep(LOOK).await;
        }
        Ok(())
    }

    async fn get(&self, process: &TidemarkProcess, path: &str) -> anyhow::Result<Value> {
        let answer = self.client.get(format!("{}{path}", process.url())).send().await?.error_for_status()?;
        Ok(serde_json::from_slice(&answer.bytes().await?)?)
    }

    /// Every entry before it is in the index.
    async fn cursor(&self, indexer: &TidemarkProcess) -> anyhow::Result<Timestamp> {
        let process = self.get(indexer, "/v1/process").await?;
        Ok(process["cursor"].as_str().map_or(Ok(Timestamp::UNIX_EPOCH), str::parse)?)
    }

    /// Gets every object of the index and its archive, a few at once.
    async fn read_objects(&self) -> anyhow::Result<JobFigures> {
        let manifest = self.chain("g1")?.latest().await?.context("there is a manifest")?.state;
        let segments = manifest.segments.iter().map(|segment| segment.key.clone());
        let sidecars = manifest.sidecars.iter().map(|sidecar| sidecar.key.clone());
        let keys: Vec<String> = segments.chain(sidecars).chain(self.archive()).collect();
        self.server.reset_counts();
        let started = Instant::now();
        let reads = stream::iter(keys).map(|key| async move {
            let object = self.index.get(&key, u64::MAX).await?;
            object.and_then(|object| object.body).with_context(|| format!("\"{key}\" is gone"))
        });
        reads.buffer_unordered(CONCURRENT_READS).try_for_each(async |_| Ok(())).await?;
        Ok(JobFigures { span: started.elapsed(), requests: self.server.requests(), ..JobFigures::default() })
    }

    /// How long Tantivy takes for the records of the index, one segment after the other.
    async fn tantivy_alone(&self) -> anyhow::Result<Duration> {
        let (cache, manifest) = (tempfile::tempdir()?, self.chain("g1")?.latest().await?);
        let options = EngineOptions { cache_folder: cache.path().to_owned(), cache_bytes: 8 << 30 };
        let engine = TantivyEngine::open(self.index.clone(), &options)?;
        let (mut span, mut fed) = (Duration::ZERO, 0);
        for segment in &manifest.context("there is a manifest")?.state.segments {
            let records = engine.records(segment, segment.seq.clone()).await?;
            span += tantivy_alone(&engine, &records).await?;
            fed += records.len() as u64;
        }
        ensure!(fed == self.count, "{fed} records");
        print("  Tantivy alone, the same records", fed, JobFigures { span, ..JobFigures::default() }, &[]);
        Ok(span)
    }
}

/// Entries that wait to be indexed while ingest is measured: more than are indexed within the 3 s after which a second is sealed.
fn backlog() -> u64 {
    number("BENCH_INGEST_BACKLOG", 30_000)
}

/// One line of the table, with the share of the rate of what it is compared with.
fn print(name: &str, count: u64, figures: JobFigures, against: &[(&str, Duration)]) {
    let JobFigures { span, requests, bytes, memory } = figures;
    let [requests, bytes] = [requests, bytes].map(|figure| figure as f64 / count as f64);
    let share = |span: &Duration| 100.0 * span.as_secs_f64() / figures.span.as_secs_f64();
    let shares: Vec<_> = against.iter().map(|(what, span)| format!("{:.1} % of {what}", share(span))).collect();
    let [resident, anonymous, file] = [memory.resident, memory.anonymous, memory.file].map(|bytes| bytes >> 20);
    println!(
        "{name:<48} {count:>10} {:>9.2} {:>8.0} {requests:>11.3} {bytes:>8.0} {resident:>7} {anonymous:>7} {file:>7}  {}",
        span.as_secs_f64(),
        rate(count, span),
        shares.join(", ")
    );
}

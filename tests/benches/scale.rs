//! A million entries: the memory of the process that indexes them, and the latency of searches over the segments that
//! come of it against raw Tantivy on one merged index of the same records, in one run.
//!
//! `BENCH_SCALE` (1 000 000) entries with one descriptor each on the S3 server of this process; the indexer is a process
//! of its own, without compaction, so that the searches meet many segments. `BENCH_ROUNDS` (30) rounds of the queries.

use std::{
    collections::BTreeMap,
    io::Read as _,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tantivy::{
    Document as _, Index, Searcher as RawSearcher, TantivyDocument,
    collector::{Count, TopDocs},
    doc,
    query::QueryParser,
    schema::{STORED, STRING, Schema, TextFieldIndexing, TextOptions, Value as _},
};
use tidemark_catalog::{Generation, IndexChain, Manifest, RootChain};
use tidemark_ingest::OperationRecord;
use tidemark_ingest::engine::IndexEngine as _;
use tidemark_search::EngineOptions;
use tidemark_search::TantivyEngine;
use tidemark_search::{
    FollowerOptions, IndexFollower, IndexSearcher, SearchService as _,
    api::{PageSize, QueryText, SearchRequest, SortOrder},
};
use tidemark_store::Entropy;
use tidemark_tests::{
    S3Server,
    bench::{number, percentile, shortest},
    stores,
    workload::SampleBundle,
};
use tidemark_wal::Log;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const SIZE: usize = 20;
const QUERIES: [&str; 16] = [
    "horizon",
    "manifest watermark",
    "clock AND invoices",
    "\"daily prices\"",
    "\"the second half\" AND epoch",
    "repo:\"repo-7\" AND cursor",
    "repo:\"repo-7\" AND repo:\"repo-8\"",
    "ticket AND 4711",
    "8080",
    "batch AND 17",
    "genome OR maps OR weather",
    "+reader +proves -archive",
    "kind:bundle AND label",
    "writer writes writing",
    "person AND 42",
    "nosuchwordanywhere",
];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let count = number("BENCH_SCALE", 1_000_000);
    let server = S3Server::start()?;
    for bucket in ["log", "meta", "index"] {
        server.create_bucket(bucket);
    }
    let now = server.clock().second();
    let mut last = now;
    for bundle in SampleBundle::run(count, 500, now, Duration::from_hours(30)) {
        server.insert_at("log", &bundle.token().to_string(), bundle.entry(), bundle.at);
        server.insert_at("meta", &bundle.path(), bundle.descriptor(), bundle.at);
        last = bundle.at;
    }
    let open = |bucket: &str| stores::open(&format!("s3://{bucket}"), &server.environment());
    let entropy = Entropy::from_os();
    RootChain::open(&Log::over(open("log"), vec![open("meta")]), entropy.clone()).ensure(&shortest()).await?;
    let chain = IndexChain::open(&open("index"), Generation::first(), entropy);

    let started = Instant::now();
    let mut indexer = Indexer::start(&server)?;
    let manifest = loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        indexer.lives()?;
        match chain.latest().await? {
            Some(slot) if slot.state.cursor.second() > last => break slot.state,
            _ => {}
        }
    };
    println!(
        "backfill of {count} entries: {:.0} s, {} segments",
        started.elapsed().as_secs_f64(),
        manifest.segments.len()
    );
    println!("largest resident memory of the indexer: {} MiB", indexer.peak_mib()?);
    drop(indexer);
    search(&chain, &manifest).await
}

/// A `tidemark index` process.
struct Indexer(Child);

impl Indexer {
    fn start(server: &S3Server) -> anyhow::Result<Self> {
        let program = std::env::var("TIDEMARK_PROGRAM").unwrap_or_else(|_| "target/release/tidemark".to_owned());
        let mut command = Command::new(&program);
        command.args(["index", "--log", "s3://log", "--metadata", "s3://meta", "--index", "s3://index"]);
        if std::env::var("BENCH_COMPACTION").is_err() {
            command.arg("--no-compaction");
        }
        command.envs(server.environment()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn();
        Ok(Self(child.with_context(|| format!("\"{program}\" does not start; build it with cargo build --release"))?))
    }

    fn lives(&mut self) -> anyhow::Result<()> {
        if self.0.try_wait()?.is_none() {
            return Ok(());
        }
        let mut said = String::new();
        if let Some(mut err) = self.0.stderr.take() {
            err.read_to_string(&mut said)?;
        }
        anyhow::bail!("the indexer ended: {said}")
    }

    fn peak_mib(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).context("no VmHWM")?;
        let kib: u64 = line.split_whitespace().nth(1).context("no figure")?.parse()?;
        Ok(kib / 1024)
    }
}

impl Drop for Indexer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn search(chain: &IndexChain, manifest: &Manifest) -> anyhow::Result<()> {
    let cache = tempfile::tempdir()?;
    let options = EngineOptions { cache_folder: cache.path().to_owned(), cache_bytes: 16 << 30 };
    let engine = Arc::new(TantivyEngine::open(chain.index().clone(), &options)?);
    let raw_folder = tempfile::tempdir()?;
    let raw = Raw::build(raw_folder.path(), &engine, manifest).await?;
    let follower = IndexFollower::new(engine, chain.clone(), None, &FollowerOptions::default())?;
    let searcher = Arc::new(IndexSearcher::default());
    searcher.serve(Arc::clone(&follower));
    let stop = CancellationToken::new();
    let run = tokio::spawn({
        let stop = stop.clone();
        async move { follower.run(stop).await }
    });
    while searcher.status().is_none() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("{} documents; ours in {} segments, raw in 1", manifest.totals.records, manifest.segments.len());

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut by_query: BTreeMap<&str, (Vec<Duration>, Vec<Duration>)> = BTreeMap::new();
    for round in 0..=number("BENCH_ROUNDS", 30) {
        for query in QUERIES {
            let started = Instant::now();
            let answer = searcher.search(request(query)).await?;
            let mine = started.elapsed();
            let raw = raw.clone();
            let started = Instant::now();
            let (total, hits) = tokio::task::spawn_blocking(move || raw.search(query)).await??;
            let raws = started.elapsed();
            anyhow::ensure!(answer.total == total as u64, "\"{query}\": {} hits against {total}", answer.total);
            anyhow::ensure!(answer.hits.len() == hits, "\"{query}\": pages differ");
            if round > 0 {
                ours.push(mine);
                theirs.push(raws);
                let (a, b) = by_query.entry(query).or_default();
                a.push(mine);
                b.push(raws);
            }
        }
    }
    for (query, (a, b)) in &by_query {
        println!("  {query:<36} ours p50 {:>8.2?}  raw p50 {:>8.2?}", percentile(a, 0.5), percentile(b, 0.5));
    }
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let (a, b) = (percentile(&ours, share), percentile(&theirs, share));
        println!("{name}: ours {a:.2?}, raw {b:.2?}, ratio {:.2}", a.as_secs_f64() / b.as_secs_f64());
    }
    stop.cancel();
    run.await?;
    Ok(())
}

fn request(query: &str) -> SearchRequest {
    SearchRequest {
        query: QueryText::new(query).expect("the query is short"),
        sort: SortOrder::Relevance,
        size: PageSize::new(SIZE).expect("a page of this size is allowed"),
        facets: Vec::new(),
        histogram: false,
        ..SearchRequest::default()
    }
}

/// The same records in one segment of plain Tantivy, with the fields that the queries need.
#[derive(Clone)]
struct Raw {
    searcher: RawSearcher,
    parser: Arc<QueryParser>,
}

impl Raw {
    async fn build(folder: &std::path::Path, engine: &TantivyEngine, manifest: &Manifest) -> anyhow::Result<Self> {
        let mut schema = Schema::builder();
        let text = |tokenizer: &str| {
            let indexing = TextFieldIndexing::default()
                .set_tokenizer(tokenizer)
                .set_index_option(tantivy::schema::IndexRecordOption::WithFreqsAndPositions);
            TextOptions::default().set_indexing_options(indexing)
        };
        let message = schema.add_text_field("message", text("en_stem"));
        let names = schema.add_text_field("names", text("default"));
        let people = schema.add_text_field("contributors", text("default"));
        let (repo, kind) = (schema.add_text_field("repo", STRING), schema.add_text_field("kind", STRING));
        let body = schema.add_bytes_field("record", STORED);
        let index = Index::create_in_dir(folder, schema.build())?;
        let mut writer = index.writer_with_num_threads::<TantivyDocument>(1, 256 << 20)?;
        for segment in &manifest.segments {
            for record in engine.records(segment, segment.seq.clone()).await? {
                let words = |field: &Option<String>| field.clone().unwrap_or_default();
                let mut document = doc!(
                    message => words(&record.message),
                    names => words(&record.repo),
                    repo => words(&record.repo),
                    kind => record.kind.as_str(),
                    body => serde_json::to_vec(&record)?,
                );
                for one in &record.contributors {
                    document.add_text(people, format!("{} {}", one.name, one.email));
                }
                writer.add_document(document)?;
            }
        }
        writer.commit()?;
        let segments = index.searchable_segment_ids()?;
        if segments.len() > 1 {
            writer.merge(&segments).wait()?;
        }
        writer.wait_merging_threads()?;
        let mut parser = QueryParser::for_index(&index, vec![message, names, people]);
        parser.set_conjunction_by_default();
        Ok(Self { searcher: index.reader()?.searcher(), parser: Arc::new(parser) })
    }

    /// How many match, and how many are on the first page, read and decoded.
    fn search(&self, query: &str) -> anyhow::Result<(usize, usize)> {
        let query = self.parser.parse_query(query)?;
        let top = TopDocs::with_limit(SIZE).order_by_score();
        let (total, top) = self.searcher.search(&query, &(Count, top))?;
        let mut hits = 0;
        for (_, address) in top {
            let document: TantivyDocument = self.searcher.doc(address)?;
            let (_, value) = document.iter_fields_and_values().next().context("a stored record")?;
            let _: OperationRecord = serde_json::from_slice(value.as_bytes().context("bytes")?)?;
            hits += 1;
        }
        Ok((total, hits))
    }
}

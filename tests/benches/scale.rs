//! A million entries: the memory of the process that indexes them, and the latency of searches over the segments that
//! come of it against raw Tantivy on one merged index of the same records, in one run.
//!
//! `BENCH_SCALE` (1 000 000) entries with one descriptor each on the S3 server of this process; the indexer is a process
//! of its own, and its index is compacted before it is searched (not with `BENCH_COMPACTION=0`: then the searches meet more
//! segments). `BENCH_ROUNDS` (100) rounds of the queries, ours and raw in turn, and a tenth of them with facets and histogram. A round
//! asks every query twice: of a search that has found its words before (*known*), as the same queries repeat, and of one that has never
//! looked a word up (*new*), as raw does each time. The second ratio is that of queries of ever new words;
//! then `BENCH_CLIENTS` (8) at once ask `tidemark serve` over HTTP, `BENCH_ROUNDS` times each query in all.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context as _;
use serde_json::json;
use tantivy::{
    Document as _, Index, Searcher as RawSearcher, TantivyDocument,
    aggregation::{AggContextParams, AggregationCollector, agg_req::Aggregations},
    collector::{Count, TopDocs},
    doc,
    query::QueryParser,
    schema::{FAST, STORED, STRING, Schema, TextFieldIndexing, TextOptions, Value as _},
};
use tidemark_catalog::{Generation, IndexChain, Manifest};
use tidemark_ingest::OperationRecord;
use tidemark_ingest::engine::IndexEngine as _;
use tidemark_search::EngineOptions;
use tidemark_search::TantivyEngine;
use tidemark_search::{
    FollowerOptions, IndexFollower, IndexSearcher, SearchService as _,
    api::{FacetField, PageSize, QueryText, SearchRequest, SortOrder},
};
use tidemark_store::Entropy;
use tidemark_tests::{
    S3Server, TidemarkProcess,
    bench::{compacted, median, number, percentile, rate},
    stores,
    workload::SampleLog,
};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

const SIZE: usize = 20;
/// How long the segments must stay as they are before the index counts as compacted.
const REST: Duration = Duration::from_secs(20);
const QUERIES: [&str; 16] = [
    "horizon",
    "manifest watermark",
    "clock AND invoices",
    "\"daily prices\"",
    "\"the second half\" AND epoch",
    "repo:\"repo-7\" AND cursor",
    "repo:\"repo-7\" AND kind:\"bundle\"",
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
    let last = server.clock().second().before(Duration::from_hours(30));
    server.hold(SampleLog::new(count, 500, last), "log", "meta");
    let index = stores::open("s3://index", &server.environment());
    let chain = IndexChain::open(&index, Generation::first(), Entropy::from_os());

    let started = Instant::now();
    let compacts = number("BENCH_COMPACTION", 1) > 0;
    let mut arguments = vec!["index", "--no-search"];
    if !compacts {
        arguments.push("--no-compaction");
    }
    let environment = server.index_environment();
    let indexer = TidemarkProcess::serving(&arguments, &environment).await?;
    let mut manifest = loop {
        sleep(Duration::from_millis(500)).await;
        indexer.memory()?;
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
    if compacts {
        manifest = compacted(&chain, REST).await?;
        println!("compacted after {:.0} s: {} segments", started.elapsed().as_secs_f64(), manifest.segments.len());
    }
    println!("largest resident memory of the indexer: {} MiB", indexer.peak_memory()? >> 20);
    indexer.stop().await?;
    search(&chain, &manifest).await?;
    search_at_once(&environment).await
}

async fn search(chain: &IndexChain, manifest: &Manifest) -> anyhow::Result<()> {
    let cache = tempfile::tempdir()?;
    let options = EngineOptions { cache_folder: cache.path().to_owned(), cache_bytes: 16 << 30 };
    let engine = Arc::new(TantivyEngine::open(chain.index().clone(), &options)?);
    let raw_folder = tempfile::tempdir()?;
    let raw = RawTantivyIndex::build(raw_folder.path(), &engine, manifest).await?;
    let follower = IndexFollower::new(engine, chain.clone(), None, &FollowerOptions::default())?;
    let searcher = Arc::new(IndexSearcher::default());
    searcher.serve(Arc::clone(&follower));
    let stop = CancellationToken::new();
    let run = tokio::spawn({
        let (stop, follower) = (stop.clone(), Arc::clone(&follower));
        async move { follower.run(stop).await }
    });
    while searcher.status().is_none() {
        sleep(Duration::from_millis(100)).await;
    }
    println!("{} documents; ours in {} segments, raw in 1", manifest.totals.records, manifest.segments.len());
    let rounds = number("BENCH_ROUNDS", 100);
    for (parts, rounds) in [(AnswerParts::Page, rounds), (AnswerParts::All, rounds.div_ceil(10))] {
        println!(
            "== {}, {rounds} rounds",
            if parts == AnswerParts::All { "facets and histogram" } else { "page and total" }
        );
        compare(&follower, &searcher, &raw, parts, rounds).await?;
    }
    stop.cancel();
    run.await?;
    Ok(())
}

/// What a search answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AnswerParts {
    /// A page, and the total.
    Page,
    /// Facets and the histogram, too.
    All,
}

/// Whether a search has looked the words of a query up before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum LookedUp {
    Known,
    New,
}

/// Every query by both, in turn. The first round, which reads files for the first time, does not count.
async fn compare(
    follower: &Arc<IndexFollower>,
    known: &IndexSearcher,
    raw: &RawTantivyIndex,
    parts: AnswerParts,
    rounds: u64,
) -> anyhow::Result<()> {
    let mut pairs: BTreeMap<(&str, LookedUp), Vec<(Duration, Duration)>> = BTreeMap::new();
    for round in 0..=rounds {
        for looked_up in [LookedUp::Known, LookedUp::New] {
            // All queries before the same one again, so that it does not find what was just read.
            for query in QUERIES {
                let new = IndexSearcher::default();
                new.serve(Arc::clone(follower));
                let searcher = if looked_up == LookedUp::Known { known } else { &new };
                let pair = if round % 2 == 0 {
                    let ours = ours(searcher, query, parts).await?;
                    (ours, raw.timed(query, parts).await?)
                } else {
                    let raw = raw.timed(query, parts).await?;
                    (ours(searcher, query, parts).await?, raw)
                };
                let ((span, total, hits), (raws, raw_total, raw_hits)) = pair;
                anyhow::ensure!(total == raw_total, "\"{query}\": {total} hits against {raw_total}");
                anyhow::ensure!(hits == raw_hits, "\"{query}\": pages differ");
                pairs.entry((query, looked_up)).or_default().push((span, raws));
            }
        }
    }
    println!(
        "  {:<36} {:>9} {:>9} {:>7} {:>9} {:>9} {:>7}   {:>9} {:>9} {:>7} {:>7}",
        "", "known p50", "raw p50", "paired", "known p99", "raw p99", "ratio", "new p50", "raw p50", "paired", "p99"
    );
    for query in QUERIES {
        print(query, [LookedUp::Known, LookedUp::New].map(|looked_up| pairs[&(query, looked_up)][1..].to_vec()));
    }
    let all = |looked_up| {
        let pairs = pairs.iter().filter(|((_, of), _)| *of == looked_up);
        pairs.flat_map(|(_, pairs)| &pairs[1..]).copied().collect()
    };
    print("all", [LookedUp::Known, LookedUp::New].map(all));
    Ok(())
}

/// One line: what was known before, then what was new.
fn print(name: &str, [known, new]: [Vec<(Duration, Duration)>; 2]) {
    let figures = |pairs: Vec<(Duration, Duration)>| {
        let paired = median(pairs.iter().map(|(ours, raw)| ours.as_secs_f64() / raw.as_secs_f64()).collect());
        let (ours, raw): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let spans =
            [(&ours, 0.5), (&raw, 0.5), (&ours, 0.99), (&raw, 0.99)].map(|(spans, share)| percentile(spans, share));
        (spans, paired, spans[2].as_secs_f64() / spans[3].as_secs_f64())
    };
    let ([ours, raw, ours99, raw99], paired, worst) = figures(known);
    let ([new_ours, new_raw, ..], new_paired, new_worst) = figures(new);
    println!(
        "  {name:<36} {ours:>9.2?} {raw:>9.2?} {paired:>7.2} {ours99:>9.2?} {raw99:>9.2?} {worst:>7.2}   {new_ours:>9.2?} {new_raw:>9.2?} {new_paired:>7.2} {new_worst:>7.2}"
    );
}

/// How long a search took, its total and the hits of its page.
async fn ours(searcher: &IndexSearcher, query: &str, parts: AnswerParts) -> anyhow::Result<(Duration, u64, usize)> {
    let started = Instant::now();
    let answer = searcher.search(request(query, parts)).await?;
    Ok((started.elapsed(), answer.total, answer.hits.len()))
}

/// Clients of `tidemark serve`, each with a connection of its own.
async fn search_at_once(environment: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let cache = tempfile::tempdir()?;
    let mut environment = environment.clone();
    let folder = cache.path().to_str().context("the temporary folder has a name in UTF-8")?;
    environment.insert("TIDEMARK_CACHE_DIR".to_owned(), folder.to_owned());
    let serving = TidemarkProcess::serving(&["serve"], &environment).await?;
    serving.until_answer("/v1/status", |_| true).await;
    let paths = QUERIES.map(|query| {
        let query = percent_encoding::utf8_percent_encode(query, percent_encoding::NON_ALPHANUMERIC);
        format!("{}/v1/search?sort=relevance&size={SIZE}&q={query}", serving.url())
    });
    let (clients, rounds) = (number("BENCH_CLIENTS", 8), number("BENCH_ROUNDS", 100));
    for (name, left_out, rounds) in [
        ("page and total", "&facets=", rounds),
        ("facets and histogram", "&facets=kind,repo,outcome,contributor,time", rounds.div_ceil(10)),
    ] {
        let urls: Vec<String> = paths.iter().map(|path| format!("{path}{left_out}")).collect();
        for clients in [1, clients] {
            let started = Instant::now();
            let running = (0..clients).map(|client| tokio::spawn(ask(urls.clone(), client, rounds.div_ceil(clients))));
            let mut spans = Vec::new();
            for asked in futures::future::join_all(running).await {
                spans.extend(asked??);
            }
            println!(
                "HTTP, {name}, clients {clients}: {:.0} searches/s, p50 {:.2?}, p99 {:.2?}",
                rate(spans.len() as u64, started.elapsed()),
                percentile(&spans, 0.5),
                percentile(&spans, 0.99)
            );
        }
    }
    println!("largest resident memory of the search: {} MiB", serving.peak_memory()? >> 20);
    serving.stop().await?;
    Ok(())
}

/// Gets every URL `rounds` times; clients do not begin with the same one.
async fn ask(urls: Vec<String>, client: u64, rounds: u64) -> anyhow::Result<Vec<Duration>> {
    let connection = reqwest::Client::new();
    let mut spans = Vec::new();
    for number in 0..rounds * urls.len() as u64 {
        let url = &urls[usize::try_from(number + client * 5)? % urls.len()];
        let started = Instant::now();
        let answer = connection.get(url).send().await?.error_for_status()?;
        answer.bytes().await?;
        spans.push(started.elapsed());
    }
    Ok(spans)
}

fn request(query: &str, parts: AnswerParts) -> SearchRequest {
    SearchRequest {
        query: QueryText::new(query).expect("the query is short"),
        sort: SortOrder::Relevance,
        size: PageSize::new(SIZE).expect("a page of this size is allowed"),
        facets: if parts == AnswerParts::All { FacetField::ALL.to_vec() } else { Vec::new() },
        histogram: parts == AnswerParts::All,
        ..SearchRequest::default()
    }
}

/// The same records in one segment of plain Tantivy, with the fields that the queries need.
#[derive(Clone)]
struct RawTantivyIndex {
    searcher: RawSearcher,
    parser: Arc<QueryParser>,
    /// The same facets and histogram as ours.
    aggregations: Aggregations,
}

impl RawTantivyIndex {
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
        let [repo, kind, outcome, contributor] =
            ["repo", "kind", "outcome", "contributor"].map(|name| schema.add_text_field(name, STRING | FAST));
        let second = schema.add_u64_field("second", FAST);
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
                    outcome => record.decision.outcome.as_str(),
                    second => record.token.second().unix(),
                    body => serde_json::to_vec(&record)?,
                );
                for one in &record.contributors {
                    document.add_text(people, format!("{} {}", one.name, one.email));
                    document.add_text(contributor, &one.name);
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
        let terms = |name: &str| json!({ "terms": { "field": name, "size": 1000, "segment_size": 10_000 } });
        let aggregations = serde_json::from_value(json!({
            "kind": terms("kind"), "repo": terms("repo"), "outcome": terms("outcome"), "contributor": terms("contributor"),
            "second": { "histogram": { "field": "second", "interval": 1.0 } },
        }))?;
        Ok(Self { searcher: index.reader()?.searcher(), parser: Arc::new(parser), aggregations })
    }

    /// How long a search took, its total and the hits of its page.
    async fn timed(&self, query: &'static str, parts: AnswerParts) -> anyhow::Result<(Duration, u64, usize)> {
        let raw = self.clone();
        let started = Instant::now();
        let (total, hits) = tokio::task::spawn_blocking(move || raw.search(query, parts)).await??;
        Ok((started.elapsed(), total as u64, hits))
    }

    /// How many match, and how many are on the first page, read and decoded.
    fn search(&self, query: &str, parts: AnswerParts) -> anyhow::Result<(usize, usize)> {
        let query = self.parser.parse_query(query)?;
        let top = TopDocs::with_limit(SIZE).order_by_score();
        let (total, top) = match parts {
            AnswerParts::Page => self.searcher.search(&query, &(Count, top))?,
            AnswerParts::All => {
                let collector = AggregationCollector::from_aggs(self.aggregations.clone(), AggContextParams::default());
                let (total, top, _) = self.searcher.search(&query, &(Count, top, collector))?;
                (total, top)
            }
        };
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

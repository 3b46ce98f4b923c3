//! Appends a second and their latency, of one writer and of 64 clients of one, batched and not, guarded by a lock and not, against plain PUTs of the same entries
//! to the same store, in one run; by clients of `tidemark append --serve`; then batches under several flush policies.
//!
//! Each case runs for `BENCH_APPEND_SECONDS` (4), on a real `MinIO` and on the S3 server of this process, which counts the requests (`BENCH_APPEND_MINIO=0`
//! leaves the first out). Clients wait for the answer of one append before the next.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use reqwest::StatusCode;
use serde_json::{Map, Value, json};
use tidemark_catalog::RootChain;
use tidemark_store::{Create, Entropy, Store, StoreClock, UserMetadata};
use tidemark_tests::{
    MinioServer, S3Server, TidemarkProcess,
    bench::{LoadFigures, load, number},
    stores,
};
use tidemark_wal::{
    AppendBatcher, DraftOperation, EntryDraft, FlushPolicy, GrantRequest, LockRef, Log, LogParameters, LogWriter,
    LogWriterOptions, WriteLocks,
};

/// How long an append may take: a slow machine refuses none.
const EXPIRY: Duration = Duration::from_mins(1);
/// Longer than the run: the lock is never renewed.
const LOCK_TTL: Duration = Duration::from_hours(1);
/// Clients at once.
const CLIENTS: u64 = 64;
/// Clients at once of a busy writer.
const MANY_CLIENTS: u64 = 512;
/// Waits of the first draft of a batch, in milliseconds, with the usual bounds of operations and bytes.
const WAITS: [u64; 5] = [0, 5, 20, 100, 500];
/// Bounds of operations in a batch, with the usual wait.
const OPERATIONS: [usize; 2] = [8, 64];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    if number("BENCH_APPEND_MINIO", 1) > 0 {
        let minio = MinioServer::start().await?;
        for bucket in ["log", "meta", "raw"] {
            minio.create_bucket(bucket).await?;
        }
        println!("== MinIO");
        AppendRun::new(minio.environment(), None).await?.measure().await?;
    }
    let server = S3Server::start()?;
    for bucket in ["log", "meta", "raw"] {
        server.create_bucket(bucket);
    }
    println!("== the S3 server of this process");
    AppendRun::new(server.environment(), Some(&server)).await?.measure().await
}

/// A log and its writer.
struct AppendRun<'a> {
    /// What a program needs to find the log.
    environment: BTreeMap<String, String>,
    log: Log,
    /// Where plain PUTs go.
    raw: Store,
    writer: LogWriter,
    /// Counts requests, if it can.
    server: Option<&'a S3Server>,
    span: Duration,
}

impl<'a> AppendRun<'a> {
    async fn new(mut environment: BTreeMap<String, String>, server: Option<&'a S3Server>) -> anyhow::Result<Self> {
        let open = |bucket: &str| stores::open(&format!("s3://{bucket}"), &environment);
        let raw = open("raw");
        let log = Log::over(open("log"), vec![open("meta")]);
        let entropy = Entropy::from_os();
        let root = Arc::new(RootChain::open(&log, entropy.clone()));
        root.ensure(&LogParameters::with_expiry(EXPIRY)).await?;
        let writer = LogWriter::open(log.clone(), root, LogWriterOptions::named("bench"), entropy).await?;
        let span = Duration::from_secs(number("BENCH_APPEND_SECONDS", 4));
        let places = [("TIDEMARK_LOG", "s3://log"), ("TIDEMARK_METADATA", "s3://meta")];
        environment.extend(places.map(|(name, url)| (name.to_owned(), url.to_owned())));
        Ok(Self { environment, log, raw, writer, server, span })
    }

    async fn measure(&self) -> anyhow::Result<()> {
        let body = self.entry_body().await?;
        println!("entries of {} bytes", body.len());
        for clients in [1, CLIENTS] {
            let (raw, body) = (self.raw.clone(), body.clone());
            let put = move |n| put(raw.clone(), format!("put-{clients}-{n}"), body.clone());
            let plain = self.case(&format!("plain PUT, clients {clients}"), clients, None, put).await?;
            self.plain_steps(clients, &plain).await?;
            self.appends(clients, &plain).await?;
        }
        self.guarded().await?;
        self.served().await?;
        self.policies().await
    }

    /// The same requests as an append of an entry without descriptors makes, without what decides.
    async fn plain_steps(&self, clients: u64, plain: &LoadFigures) -> anyhow::Result<()> {
        let (raw, body) = (self.raw.clone(), self.entry_body().await?);
        let steps = move |n| create_and_read(raw.clone(), format!("steps-{clients}-{n}"), body.clone());
        self.case(&format!("plain PUT, HEAD, GET, clients {clients}"), clients, Some(plain), steps).await?;
        Ok(())
    }

    async fn appends(&self, clients: u64, plain: &LoadFigures) -> anyhow::Result<()> {
        let writer = self.writer.clone();
        let records = move |n| append(writer.clone(), record(n));
        self.case(&format!("append, clients {clients}"), clients, Some(plain), records).await?;
        let writer = self.writer.clone();
        let bundles = move |n| append(writer.clone(), bundle(&format!("b-{clients}-{n}")));
        self.case(&format!("append with a descriptor, clients {clients}"), clients, Some(plain), bundles).await?;
        for clients in if clients == 1 { vec![1] } else { vec![clients, MANY_CLIENTS] } {
            self.batched(FlushPolicy::default(), clients, plain).await?;
        }
        Ok(())
    }

    /// One writer that holds a lock.
    async fn guarded(&self) -> anyhow::Result<()> {
        let clock = StoreClock::new(self.log.stores(), "bench-lock");
        let locks = WriteLocks::open(&self.log, clock, Entropy::from_os());
        let (name, request) = ("bench".parse()?, GrantRequest { ttl: LOCK_TTL, ..GrantRequest::of("bench") });
        let held = locks.acquire(&name, &request, false).await?;
        let writer = self.writer.clone();
        let unguarded = move |n| append(writer.clone(), record(n));
        let plain = self.case("append, clients 1, again", 1, None, unguarded).await?;
        let writer = self.writer.clone();
        let guarded = move |n| {
            let lock = Some(LockRef { name: name.clone(), grant: Some(held.grant.number) });
            append(writer.clone(), EntryDraft { lock, ..record(n) })
        };
        self.case("append guarded by a lock, clients 1", 1, Some(&plain), guarded).await?;
        Ok(())
    }

    /// Clients of `tidemark append --serve`, each with its own connection: a draft a request, a draft that may share an entry, ten drafts.
    async fn served(&self) -> anyhow::Result<()> {
        if !TidemarkProcess::output(&["append", "--help"], &self.environment).await?.contains("--serve") {
            println!("append --serve: this program has none");
            return Ok(());
        }
        let arguments = ["append", "--serve", "127.0.0.1:0", "--writer", "served"];
        let service = TidemarkProcess::serving(&arguments, &self.environment).await?;
        for (clients, query, drafts) in
            [(1, "", 1), (CLIENTS, "", 1), (CLIENTS, "?share=true", 1), (1, "", 10), (CLIENTS / 8, "", 10)]
        {
            let (client, url) = (reqwest::Client::new(), format!("{}/v1/append{query}", service.url()));
            let post = move |n| post(client.clone(), url.clone(), n, drafts);
            let name = format!("append --serve{query}, drafts a request {drafts}, clients {clients}");
            self.case(&name, clients, None, post).await?;
        }
        println!("append --serve: {} MiB resident at most", service.peak_memory()? >> 20);
        ensure!(service.stop().await?.success(), "the service ends well");
        Ok(())
    }

    async fn policies(&self) -> anyhow::Result<()> {
        let usual = FlushPolicy::default();
        let waits = WAITS.map(|wait| FlushPolicy { wait: Duration::from_millis(wait), ..usual });
        let bounds = OPERATIONS.map(|operations| FlushPolicy { operations, ..usual });
        for clients in [CLIENTS, MANY_CLIENTS] {
            let writer = self.writer.clone();
            let alone = move |n| append(writer.clone(), record(n));
            let plain = self.case(&format!("append, clients {clients}, again"), clients, None, alone).await?;
            for policy in waits.iter().chain(&bounds) {
                self.batched(*policy, clients, &plain).await?;
            }
        }
        Ok(())
    }

    async fn batched(&self, policy: FlushPolicy, clients: u64, against: &LoadFigures) -> anyhow::Result<()> {
        let batcher = AppendBatcher::new(self.writer.clone(), policy);
        let append = move |n| append_batched(batcher.clone(), record(n));
        let FlushPolicy { operations, wait, .. } = policy;
        let name = format!("batched, at most {operations} or {wait:?}, clients {clients}");
        self.case(&name, clients, Some(against), append).await?;
        Ok(())
    }

    /// Runs one case and prints its line.
    async fn case<A, F>(
        &self,
        name: &str,
        clients: u64,
        against: Option<&LoadFigures>,
        act: A,
    ) -> anyhow::Result<LoadFigures>
    where
        A: Fn(u64) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = anyhow::Result<()>> + Send,
    {
        if let Some(server) = self.server {
            server.reset_counts();
        }
        let figures = load(clients, self.span, act).await.with_context(|| name.to_owned())?;
        let share = against.map_or_else(String::new, |plain| format!("{:.0} %", 100.0 * figures.rate() / plain.rate()));
        let requests = self.server.map_or_else(String::new, |server| {
            format!("{:.2} requests each", server.requests() as f64 / figures.latencies.len() as f64)
        });
        println!("{name:<56} {figures}  {share:>7}  {requests}");
        Ok(figures)
    }

    /// The body of an entry as the writer makes it.
    async fn entry_body(&self) -> anyhow::Result<Bytes> {
        let token = self.writer.append(record(0)).await?.token;
        let entry = self.log.entries.get(&token.to_string(), u64::MAX).await?;
        entry.and_then(|entry| entry.body).context("the entry is there")
    }
}

/// A record that its entry completes.
fn record(n: u64) -> EntryDraft {
    EntryDraft { attributes: Map::from_iter([("run".to_owned(), Value::from(n))]), ..EntryDraft::default() }
}

/// An update that a descriptor completes.
fn bundle(id: &str) -> EntryDraft {
    let (path, body) = (format!("bundles/r/{id}/bundle.yaml"), Bytes::from(format!("id: {id}\nmessage: m\n")));
    EntryDraft { ops: vec![DraftOperation::Descriptor { path, body }], ..EntryDraft::default() }
}

async fn append(writer: LogWriter, draft: EntryDraft) -> anyhow::Result<()> {
    writer.append(draft).await?;
    Ok(())
}

async fn append_batched(batcher: AppendBatcher, draft: EntryDraft) -> anyhow::Result<()> {
    batcher.append(draft).await?;
    Ok(())
}

async fn post(client: reqwest::Client, url: String, n: u64, drafts: u64) -> anyhow::Result<()> {
    let draft = json!({"attributes": {"run": n}, "ops": []});
    let body = if drafts == 1 { draft } else { (0..drafts).map(|_| draft.clone()).collect() };
    let answer = client.post(url).json(&body).send().await?;
    let (status, text) = (answer.status(), answer.text().await?);
    ensure!(status == StatusCode::OK, "{status}: {text}");
    Ok(())
}

async fn put(store: Store, key: String, body: Bytes) -> anyhow::Result<()> {
    Ok(store.put(&key, body).await?)
}

async fn create_and_read(store: Store, key: String, body: Bytes) -> anyhow::Result<()> {
    let created = store.create(&key, body, &UserMetadata::new()).await;
    ensure!(matches!(created, Create::Committed), "{created:?}");
    store.head(&key).await?.context("it is there")?;
    store.get(&key, u64::MAX).await?.context("it is there")?;
    Ok(())
}

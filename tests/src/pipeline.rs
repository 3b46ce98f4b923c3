//! The real indexer over the S3 server in process, with the real Tantivy engine.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use tempfile::TempDir;
use tidemark_catalog::{Generation, IndexChain, RootChain, SegmentMeta, WriterIdentity};
use tidemark_indexer::http::{HttpServer, ServerOptions};
use tidemark_indexer::metrics::MetricsRegistry;
use tidemark_ingest::OperationRecord;
use tidemark_ingest::engine::IndexEngine;
use tidemark_ingest::{IngestOptions, IngestRole, IngestStatus, LogIngester};
use tidemark_search::EngineOptions;
use tidemark_search::TantivyEngine;
use tidemark_search::{FollowerOptions, IndexFollower, IndexSearcher};
use tidemark_store::{Entropy, Store, StoreClock, StoreSecond};
use tidemark_wal::{Log, LogParameters, Token};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{S3Server, stores};

/// How long a condition may take to become true.
const PATIENCE: Duration = Duration::from_mins(4);

/// A log, its index, and the indexer between them.
///
/// The log's entries lie in bucket `log`, the descriptors in `meta`, the index in `index`.
pub struct IndexPipeline {
    /// The server that holds all three.
    pub server: S3Server,
    /// The chain of the index.
    pub chain: IndexChain,
    entropy: Entropy,
    status: watch::Receiver<IngestStatus>,
    ends: Arc<Mutex<Vec<String>>>,
    running: Option<(CancellationToken, JoinHandle<()>)>,
    serving: Vec<DropGuard>,
}

impl IndexPipeline {
    /// An empty log with the shortest parameters (sealed 3 s after a token's second). Nothing runs yet.
    pub async fn new() -> Self {
        let server = S3Server::start().expect("the server starts");
        for bucket in ["log", "meta", "index"] {
            server.create_bucket(bucket);
        }
        let entropy = Entropy::from_os();
        let chain = IndexChain::open(&open(&server, "index"), Generation::first(), entropy.clone());
        let root = RootChain::open(&log(&server), entropy.clone());
        root.ensure(&parameters()).await.expect("the parameters are set");
        let status = watch::channel(IngestStatus::default()).1;
        Self { server, chain, entropy, status, ends: Arc::default(), running: None, serving: Vec::new() }
    }

    /// A second `ago` before the store's present.
    pub fn ago(&self, ago: u64) -> StoreSecond {
        self.server.clock().second().before(Duration::from_secs(ago))
    }

    /// Puts an entry that was written in the second of its token.
    pub fn entry(&self, at: StoreSecond, body: impl Into<Bytes>) -> Token {
        let token = Token::new(at, &self.entropy);
        self.server.insert_at("log", &token.to_string(), body, at);
        token
    }

    /// Puts a bundle with a descriptor that bears `message`, both of second `at`.
    pub fn bundle(&self, at: StoreSecond, id: &str, message: &str) -> Token {
        let path = format!("bundles/repo/{id}/bundle.yaml");
        // The descriptor first: the entry may be sealed as soon as it is there.
        self.server.insert_at("meta", &path, format!("id: {id}\nmessage: {message}\n"), at);
        self.entry(at, path)
    }

    /// Puts the descriptor of bundle `id`, written at `time`.
    pub fn descriptor(&self, id: &str, time: StoreSecond) {
        self.server.insert_at("meta", &format!("bundles/repo/{id}/bundle.yaml"), format!("id: {id}\n"), time);
    }

    /// Starts the indexer with an empty cache. It starts again when it ends with an error, as a pod would.
    pub fn start(&mut self) {
        let (sender, receiver) = watch::channel(IngestStatus::default());
        self.status = receiver;
        let stop = CancellationToken::new();
        let log = log(&self.server);
        let attempt = IngestAttempt {
            root: RootChain::open(&log, self.entropy.clone()),
            log,
            chain: self.chain.clone(),
            entropy: self.entropy.clone(),
            status: sender,
            identity: WriterIdentity(self.entropy.nonce()),
        };
        let ends = Arc::clone(&self.ends);
        let task = tokio::spawn(attempt.again_and_again(stop.clone(), ends));
        self.running = Some((stop, task));
    }

    /// Stops the indexer, which gives its role up.
    pub async fn stop(&mut self) {
        if let Some((stop, task)) = self.running.take() {
            stop.cancel();
            task.await.expect("the indexer did not panic");
        }
    }

    /// Drops the indexer wherever it is: for the stores it was killed.
    pub async fn kill(&mut self) {
        if let Some((_, task)) = self.running.take() {
            task.abort();
            let _ = task.await;
        }
    }

    /// Starts a search service over log and index, and gives its URL once it answers. It ends with the pipeline.
    pub async fn serve(&mut self) -> String {
        let log = log(&self.server);
        let cache = tempfile::tempdir().expect("a temporary folder");
        let root = Arc::new(RootChain::open(&log, self.entropy.clone()));
        let engine = Arc::new(engine(&self.chain, &cache));
        let options = FollowerOptions::default();
        let follower = IndexFollower::new(engine, self.chain.clone(), Some((&log, root)), &options);
        let follower = follower.expect("the follower starts");
        let searcher = Arc::new(IndexSearcher::default());
        searcher.serve(Arc::clone(&follower));
        let stop = CancellationToken::new();
        let server = HttpServer::new(searcher, MetricsRegistry::default(), ServerOptions::default(), stop.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        self.serving.push(stop.clone().drop_guard());
        tokio::spawn(async move {
            tokio::join!(follower.run(stop), server.run(listener));
            drop(cache);
        });
        let ready = format!("{url}/readyz");
        let give_up = Instant::now() + PATIENCE;
        while !reqwest::get(&ready).await.is_ok_and(|answer| answer.status().is_success()) {
            assert!(Instant::now() < give_up, "the search service is not ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        url
    }

    /// The indexer's present status.
    pub fn status(&self) -> IngestStatus {
        self.status.borrow().clone()
    }

    /// Waits until the status is as wanted. `what` says it in words, for the failure.
    pub async fn until(&mut self, what: &str, wanted: impl FnMut(&IngestStatus) -> bool) {
        let reached = tokio::time::timeout(PATIENCE, self.status.wait_for(wanted)).await.map(|found| found.is_ok());
        assert!(
            matches!(reached, Ok(true)),
            "\"{what}\" did not come true: {:?}; ended with {:?}",
            self.status(),
            self.ends()
        );
    }

    /// The errors with which the indexer ended and was started again.
    pub fn ends(&self) -> Vec<String> {
        self.ends.lock().clone()
    }

    /// Waits until something goes wrong, and gives what the indexer says of it: as its problem, or as its end.
    pub async fn problem(&mut self) -> String {
        let before = self.ends().len();
        let give_up = Instant::now() + PATIENCE;
        while Instant::now() < give_up {
            if let Some(problem) = &self.status.borrow().problem {
                return problem.message.clone();
            }
            if let Some(end) = self.ends().get(before) {
                return end.clone();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("nothing went wrong: {:?}", self.status());
    }

    /// Waits until the cursor has passed every one of `tokens`, and gives what is recorded of each: corrections last.
    pub async fn recorded(&mut self, tokens: &[Token]) -> Vec<Vec<OperationRecord>> {
        let last = tokens.iter().max().expect("there are tokens").second();
        self.until("the tokens are published", |status| status.cursor.0 > last).await;
        let mut all = self.records().await;
        tokens.iter().map(|token| all.remove(token).unwrap_or_default()).collect()
    }

    /// Every record of the index, by token and seq.
    pub async fn records(&self) -> BTreeMap<Token, Vec<OperationRecord>> {
        let cache = tempfile::tempdir().expect("a temporary folder");
        let engine = engine(&self.chain, &cache);
        let manifest = self.chain.latest().await.expect("the chain reads").expect("there is a manifest").state;
        let mut records: BTreeMap<Token, Vec<OperationRecord>> = BTreeMap::new();
        for segment in &manifest.segments {
            for record in all_of(&engine, segment).await {
                records.entry(record.token).or_default().push(record);
            }
        }
        for records in records.values_mut() {
            records.sort_by_key(|record| record.seq);
        }
        records
    }
}

/// What one run of the indexer needs.
struct IngestAttempt {
    log: Log,
    root: RootChain,
    chain: IndexChain,
    entropy: Entropy,
    status: watch::Sender<IngestStatus>,
    identity: WriterIdentity,
}

impl IngestAttempt {
    async fn again_and_again(self, stop: CancellationToken, ends: Arc<Mutex<Vec<String>>>) {
        while !stop.is_cancelled() {
            let cache = tempfile::tempdir().expect("a temporary folder");
            match Box::pin(self.ingest(&cache).run(stop.clone())).await {
                Ok(()) => return,
                Err(error) => ends.lock().push(error.to_string()),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn ingest(&self, cache: &TempDir) -> LogIngester {
        self.status.send_modify(|status| status.role = IngestRole::Starting);
        LogIngester {
            log: self.log.clone(),
            clock: StoreClock::new(self.log.stores(), &self.entropy.nonce()),
            root: self.root.clone(),
            chain: self.chain.clone(),
            engine: Arc::new(engine(&self.chain, cache)),
            identity: self.identity.clone(),
            options: IngestOptions::default(),
            entropy: self.entropy.clone(),
            status: self.status.clone(),
        }
    }
}

fn parameters() -> LogParameters {
    let second = Duration::from_secs(1);
    LogParameters { request_timeout: second, visibility_delay: Duration::ZERO, ..LogParameters::with_expiry(second) }
}

fn open(server: &S3Server, bucket: &str) -> Store {
    stores::open(&format!("s3://{bucket}"), &server.environment())
}

fn log(server: &S3Server) -> Log {
    Log::over(open(server, "log"), vec![open(server, "meta")])
}

fn engine(chain: &IndexChain, cache: &TempDir) -> TantivyEngine {
    let options = EngineOptions { cache_folder: cache.path().to_owned(), cache_bytes: 1 << 30 };
    TantivyEngine::open(chain.index().clone(), &options).expect("the engine opens")
}

async fn all_of(engine: &TantivyEngine, segment: &SegmentMeta) -> Vec<OperationRecord> {
    engine.records(segment, segment.seq.clone()).await.expect("the segment reads")
}

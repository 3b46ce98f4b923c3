//! `tidemark index`: the writer of an index, with search beside it if asked for.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use tidemark_catalog::{
    CatalogError, IndexChain, IndexOwner, IndexPurge, LogCursor, PurgeStats, RegistrationOutcome, RootChain, RootState,
    TransactionRejected, WriterIdentity,
};
use tidemark_store::{ChainRecord, Entropy, Store, StoreClock};
use tidemark_wal::{Log, ParameterSource};
use tokio::{
    net::TcpListener,
    sync::{Mutex, watch},
};
use tokio_util::sync::CancellationToken;

use super::{
    bootstrap::{FolderWriter, ParameterChoice, choose_parameters, open_generation, register, verify_contract},
    cold_start::{ColdStartOptions, cold_start},
    error::ServiceError,
    parameter_difference::report_difference,
    purge_request::{PurgeRequest, was_purged},
    serve::{listen_on, serve},
    startup_retry::{OPENING, StartupMode, StartupRetry},
    stores::{OpenStores, PodStores},
    supervise::{TaskSupervisor, ingest_beside},
};
#[cfg(feature = "archive")]
use crate::http::ServedArchive;
use crate::{
    http::{HttpServer, LiveDescriptors, ServerOptions},
    metrics::MetricsRegistry,
    pod_status::PodStatus,
};
use tidemark_crds::PodPhase;
use tidemark_ingest::engine::IndexEngine;
use tidemark_ingest::{
    ColdStart, CopyProgress, GenerationTask, IngestError, IngestOptions, IngestRole, IngestStatus, LogIngester,
};
use tidemark_search::EngineOptions;
use tidemark_search::TantivyEngine;
use tidemark_search::{FollowerOptions, IndexFollower, IndexSearcher, SearchService};

/// The name of the task that begins an index which holds nothing. It is recorded: what it has begun is gone on with under this name.
const COLD_START: &str = "cold-start";
/// Records of one publication while an index is restored: what a crash loses, and about the size of its segments.
const RESTORE_BATCH_RECORDS: u64 = 500_000;

/// Options of `tidemark index`.
pub struct IndexOptions {
    /// The log and where the index lives.
    pub stores: PodStores,
    /// Chooses the parameters from those that are recorded.
    pub parameters: ParameterChoice,
    /// Who owns the index: another owner's is refused.
    pub owner: IndexOwner,
    /// The owner to take over from.
    pub adopt: Option<String>,
    /// Where the log was before, if it was moved: [`RootChain::moved_from`].
    pub moved_from: Option<String>,
    /// Who writes; one that comes back takes over at once, so no two processes may share it. Random if left out.
    pub identity: Option<String>,
    /// Where to listen, if at all; port 0 takes a free one.
    pub listen: Option<SocketAddr>,
    /// Whether to serve search there; without it only health, metrics and the state of the process.
    pub search: bool,
    /// Whether to wait for dependencies that are not usable yet.
    pub startup: StartupMode,
    /// The segment cache.
    pub cache: EngineOptions,
    /// Limits and switches of the ingest.
    pub ingest: IngestOptions,
    /// What an index that holds nothing is begun with, beside what is below it.
    pub cold_start: Option<ColdStartOptions>,
    /// The folder in which a file `purge` with the UID of the owner requests the removal of the index.
    pub control: Option<PathBuf>,
}

/// An indexer that is ready to acquire the writer lease.
pub struct IndexService {
    task: Arc<IndexTask>,
    listener: Option<TcpListener>,
    stop: CancellationToken,
}

/// What every attempt shares.
struct IndexTask {
    options: IndexOptions,
    pod: PodStatus,
    search: Arc<IndexSearcher>,
    status: watch::Sender<IngestStatus>,
    entropy: Entropy,
    live: LiveDescriptors,
    #[cfg(feature = "archive")]
    archive: ServedArchive,
    /// Opened once: credentials are read again without opening.
    stores: OnceLock<OpenStores>,
    engine: OnceLock<Arc<TantivyEngine>>,
    /// What the first attempt starts with, if it was opened before.
    ready: Mutex<Option<IngestParts>>,
    control: PurgeRequest,
}

/// Everything that an ingest stands on.
struct IngestParts {
    log: Log,
    root: RootChain,
    chain: IndexChain,
    engine: Arc<TantivyEngine>,
    identity: WriterIdentity,
    folder: Option<FolderWriter>,
}

impl IndexService {
    /// Verifies the stores' contract, agrees on the parameters, registers the index and listens. If it waits for its
    /// dependencies it only listens: the rest is done while it runs.
    pub async fn start(options: IndexOptions, stop: CancellationToken) -> Result<Self, ServiceError> {
        let (status, watched) = watch::channel(IngestStatus::default());
        let search = Arc::new(IndexSearcher::default());
        let served = options.search.then(|| Arc::clone(&search) as Arc<dyn SearchService>);
        let pod = PodStatus::indexer(watched, served);
        pod.set_store_roles(options.stores.roles());
        // Before anything is opened: the operator believes no report without it.
        if let Some(identity) = &options.identity {
            pod.set_identity(identity);
        }
        let task = IndexTask {
            control: PurgeRequest::of(options.control.as_deref(), &options.owner),
            options,
            pod,
            search,
            status,
            entropy: Entropy::from_os(),
            live: LiveDescriptors::default(),
            #[cfg(feature = "archive")]
            archive: ServedArchive::default(),
            stores: OnceLock::new(),
            engine: OnceLock::new(),
            ready: Mutex::default(),
        };
        if task.options.startup == StartupMode::FailFast && !task.control.is_present().await {
            *task.ready.lock().await = Some(Box::pin(task.open()).await?);
        }
        let listener = match task.options.listen {
            Some(address) => Some(listen_on(address).await?),
            None => None,
        };
        Ok(Self { task: Arc::new(task), listener, stop })
    }

    /// The address that is listened on.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// What the ingest says about itself.
    pub fn status(&self) -> watch::Receiver<IngestStatus> {
        self.task.status.subscribe()
    }

    /// The status of this pod.
    pub fn pod(&self) -> PodStatus {
        self.task.pod.clone()
    }

    /// Indexes until stopped, or until another process takes over.
    pub async fn run(self) -> Result<(), ServiceError> {
        let Self { task, listener, stop } = self;
        let mut tasks = TaskSupervisor::new(stop.clone());
        if let Some(listener) = listener {
            serve(&mut tasks, listener, task.server(&stop));
        }
        tasks.start_retried("ingest", task.retry(), move |stop| Arc::clone(&task).attempt(stop));
        tasks.join().await
    }
}

impl IndexTask {
    /// Retries the attempts of this task.
    fn retry(&self) -> StartupRetry {
        StartupRetry { mode: self.options.startup, pod: self.pod.clone(), entropy: self.entropy.clone() }
    }

    fn server(&self, stop: &CancellationToken) -> HttpServer {
        let (options, metrics) = (ServerOptions::default(), MetricsRegistry::new());
        metrics.register(Box::new(self.options.stores.requests()));
        let pod = self.pod.clone();
        if self.options.search {
            let search = Arc::clone(&self.search) as Arc<dyn SearchService>;
            let server = HttpServer::with_pod_status(pod, search, metrics, options, stop.clone())
                .with_live_descriptors(self.live.clone());
            #[cfg(feature = "archive")]
            let server = server.with_archive(self.archive.clone());
            server
        } else {
            HttpServer::status_only(pod, metrics, options, stop.clone())
        }
    }

    /// Indexes until the ingest ends, or until a purge is requested.
    async fn attempt(self: Arc<Self>, stop: CancellationToken) -> Result<(), ServiceError> {
        let working = stop.child_token();
        let mut index = Box::pin(self.index_each_generation(&working));
        let ended = tokio::select! {
            biased;
            () = self.control.wait() => {
                tracing::info!("a purge of the index is requested; stopping the ingest");
                self.pod.set_phase(Some(PodPhase::Purging));
                working.cancel();
                index.await
            }
            ended = &mut index => ended,
        };
        match ended {
            Err(failure) if was_purged(&failure) => {}
            Err(failure) if failure.is_unknown() => return Err(failure),
            ended if stop.is_cancelled() || !self.control.is_present().await => return ended,
            _ => {}
        }
        self.remove(&stop).await
    }

    /// Removes the index, and then waits for `stop`: a process that exits would be restarted.
    async fn remove(&self, stop: &CancellationToken) -> Result<(), ServiceError> {
        self.pod.set_phase(Some(PodPhase::Purging));
        let OpenStores { log, index } = self.stores()?;
        let log = log.ok_or_else(|| ServiceError::Ended { task: "purge", why: "no log was named".to_owned() })?;
        let name = index.url().to_string();
        let identity = self.options.identity.clone().unwrap_or_else(|| format!("purge-{}", self.entropy.nonce()));
        let (identity, root) = (WriterIdentity(identity), self.root(&log));
        let purge = IndexPurge::new(root, index, &name, self.options.owner.clone(), self.entropy.clone());
        let clock = StoreClock::new(log.stores(), &clock_name(&identity));
        let waits = |waiting| tracing::debug!(?waiting, "waiting for the writer lease, to remove the index");
        let run = Box::pin(purge.run(&identity, &clock, &log.entries, waits));
        let Some(swept) = stop.run_until_cancelled(run).await else { return Ok(()) };
        let PurgeStats { deleted, fences, unknown } = swept?;
        tracing::info!(index = name, deleted, fences, unknown, "removed the index; unknown objects stay");
        self.pod.clear_problem(OPENING);
        self.pod.set_phase(Some(PodPhase::Purged));
        stop.cancelled().await;
        Ok(())
    }

    /// Indexes, and goes on in the next generation when the index switches to another one.
    async fn index_each_generation(&self, stop: &CancellationToken) -> Result<(), ServiceError> {
        let mut follower = None;
        loop {
            match self.index(stop, &mut follower).await {
                Err(ServiceError::Ingest(IngestError::Switching { generation })) => {
                    tracing::info!(%generation, "the index switches to another generation; opening it again");
                }
                ended => return ended,
            }
        }
    }

    /// Opens what is needed, unless that is done, and ingests until that ends. `follower` stays from one generation to the next: it answers
    /// meanwhile, and follows by itself.
    async fn index(
        &self,
        stop: &CancellationToken,
        follower: &mut Option<Arc<IndexFollower>>,
    ) -> Result<(), ServiceError> {
        let first = self.ready.lock().await.take();
        let ready = match first {
            Some(ready) => ready,
            None => match stop.run_until_cancelled(Box::pin(self.open())).await {
                Some(ready) => ready?,
                None => return Ok(()),
            },
        };
        self.pod.clear_problem(OPENING);
        let IngestParts { log, root, chain, engine, identity, folder } = ready;
        self.live.set_stores(&log.metadata);
        #[cfg(feature = "archive")]
        self.archive.set_index(&chain, &self.entropy);
        if follower.is_none() && self.options.search && self.options.listen.is_some() {
            let tail = (&log, Arc::new(root.clone()) as Arc<dyn ParameterSource>);
            let options = FollowerOptions::default();
            let followed = IndexFollower::new(Arc::clone(&engine), chain.clone(), Some(tail), &options)?;
            self.search.serve(Arc::clone(&followed));
            *follower = Some(followed);
        }
        let follower = follower.clone();
        let clock = StoreClock::new(log.stores(), &clock_name(&identity));
        let (options, entropy, status) = (self.options.ingest.clone(), self.entropy.clone(), self.status.clone());
        let recorded = root.clone();
        let cold = self.cold_start((&log, &root), chain.index(), &engine, &identity).await?;
        let engine: Arc<dyn IndexEngine> = engine;
        let ingest = LogIngester { log, clock, root, chain, engine, identity, options, entropy, status };
        let ingesting = Box::pin(async {
            match follower {
                // It follows until the ingest has ended: search goes on while that publishes the rest.
                Some(follower) => {
                    let following = async move { follower.run(CancellationToken::new()).await };
                    ingest_beside(following, stop, |stop| self.begin_and_ingest(cold, ingest, stop)).await
                }
                None => Box::pin(self.begin_and_ingest(cold, ingest, stop.clone())).await.map_err(ServiceError::from),
            }
        });
        let ended = tokio::select! {
            ended = ingesting => ended,
            never = report_difference(&recorded, &self.options.parameters, &self.pod) => match never {},
        };
        drop(folder);
        if ended.is_err() && self.options.startup == StartupMode::WaitForDependencies {
            self.status.send_modify(|status| status.role = IngestRole::Starting);
        }
        ended
    }

    /// Begins an index that holds nothing with what is recorded of its log, then ingests.
    async fn begin_and_ingest(
        &self,
        cold: Option<ColdStart>,
        ingest: LogIngester,
        stop: CancellationToken,
    ) -> Result<(), IngestError> {
        if let Some(cold) = cold {
            match stop.run_until_cancelled(Box::pin(self.begin(&cold))).await {
                Some(begun) => begun?,
                None => return Ok(()),
            }
        }
        ingest.run(stop).await
    }

    async fn begin(&self, cold: &ColdStart) -> Result<(), IngestError> {
        if !cold.is_due().await? {
            return Ok(());
        }
        self.pod.begin_restore(cold.task.progress.subscribe());
        let begun = cold.run().await;
        self.pod.set_phase(None);
        begun
    }

    /// What begins the index if that holds nothing; `None` of a log that was never indexed.
    async fn cold_start(
        &self,
        (log, root): (&Log, &RootChain),
        index: &Store,
        engine: &Arc<TantivyEngine>,
        identity: &WriterIdentity,
    ) -> Result<Option<ColdStart>, ServiceError> {
        let Some(id) = root.id().await? else { return Ok(None) };
        let task = GenerationTask {
            clock: StoreClock::new(log.stores(), &format!("{COLD_START}-{}", clock_name(identity))),
            log: log.clone(),
            root: root.clone(),
            index: index.clone(),
            engine: Arc::clone(engine) as Arc<dyn IndexEngine>,
            name: Some(COLD_START.to_owned()),
            options: IngestOptions { batch_records: RESTORE_BATCH_RECORDS, ..self.options.ingest.clone() },
            entropy: self.entropy.clone(),
            progress: watch::Sender::new(CopyProgress::default()),
        };
        let IndexOptions { cold_start: options, owner, cache, .. } = &self.options;
        cold_start(task, &id, owner, options.as_ref(), cache)
    }

    fn root(&self, log: &Log) -> RootChain {
        RootChain::open(log, self.entropy.clone()).moved_from(self.options.moved_from.as_deref())
    }

    async fn open(&self) -> Result<IngestParts, ServiceError> {
        let OpenStores { log, index } = self.stores()?;
        let log = log.ok_or_else(|| ServiceError::Ended { task: "ingest", why: "no log was named".to_owned() })?;
        let entropy = &self.entropy;
        let root = self.root(&log);
        let head = root.head().await?;
        let chain = match open_generation(&root, head.as_ref(), &index, entropy).await {
            Err(refused @ CatalogError::Rejected(_)) => return Err(refused.into()),
            // A store that failed is reported by its probe, in the order of the stores.
            chain => chain,
        };
        let head = self.verify_stores(&root, head, &log, &index).await?;
        let chain = chain?;
        let IndexOptions { parameters, owner, adopt, identity, startup, .. } = &self.options;
        let parameters = choose_parameters(head.as_ref(), &log, parameters, *startup)?;
        let engine = self.engine(index.clone())?;
        let owners = (owner, adopt.as_deref());
        let how = match register(&root, head, &parameters, (&chain, LogCursor::default()), owners).await {
            // One that holds nothing is restored first.
            Err(ServiceError::Chain(CatalogError::Rejected(TransactionRejected::BelowFloor { .. }))) => {
                // Nothing is written yet.
                let opening = WriterIdentity("opening".to_owned());
                let cold = self.cold_start((&log, &root), &index, &engine, &opening).await?;
                let reach = if let Some(cold) = cold { cold.reach().await? } else { LogCursor::default() };
                register(&root, root.head().await?, &parameters, (&chain, reach), owners).await?
            }
            how => how?,
        };
        let adopted = match how {
            RegistrationOutcome::Adopted { from } => Some(from.id().to_owned()),
            // A resource that was deleted and made again.
            RegistrationOutcome::Renewed { from } if from.id() != owner.id() => Some(from.id().to_owned()),
            _ => None,
        };
        self.pod.set_registered(&chain.generation().to_string(), adopted);
        let folder = FolderWriter::of(&index)?;
        let identity = match (identity, &folder) {
            (Some(identity), _) => WriterIdentity(identity.clone()),
            (None, Some(folder)) => folder.identity.clone(),
            (None, None) => WriterIdentity(format!("indexer-{}", entropy.nonce())),
        };
        self.pod.set_identity(&identity.0);
        Ok(IngestParts { log, root, chain, engine, identity, folder })
    }

    fn engine(&self, index: Store) -> Result<Arc<TantivyEngine>, ServiceError> {
        if let Some(engine) = self.engine.get() {
            return Ok(engine.clone());
        }
        let opened = Arc::new(TantivyEngine::open(index, &self.options.cache)?);
        Ok(self.engine.get_or_init(|| opened).clone())
    }

    async fn verify_stores(
        &self,
        root: &RootChain,
        head: Option<ChainRecord<RootState>>,
        log: &Log,
        index: &Store,
    ) -> Result<Option<ChainRecord<RootState>>, ServiceError> {
        // What failed before works now: the log's store answered.
        let probing = || {
            self.pod.clear_problem(OPENING);
            self.pod.set_phase(Some(PodPhase::Probing));
        };
        let stores: Vec<_> = log.stores().chain([index]).collect();
        let fitted = verify_contract(root, head, &stores, &self.entropy, probing).await;
        self.pod.set_phase(None);
        let head = fitted?;
        self.pod.set_probed();
        Ok(head)
    }

    fn stores(&self) -> Result<OpenStores, ServiceError> {
        if let Some(opened) = self.stores.get() {
            return Ok(opened.clone());
        }
        let opened = self.options.stores.open()?;
        Ok(self.stores.get_or_init(|| opened).clone())
    }
}

/// A name for the clock's object: one that comes back uses the same one, and it holds no character that a key must not.
pub(super) fn clock_name(identity: &WriterIdentity) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' };
    let name: String = identity.0.chars().map(safe).collect();
    format!("{:.64}-{:016x}", name, xxhash_rust::xxh3::xxh3_64(identity.0.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidemark_crds::Reason;
    use tidemark_wal::LogParameters;
    use tokio::time::sleep;

    use super::*;

    /// Options of an indexer of a log in memory, whose spec has an expiry of five minutes.
    fn options(log: &Log, cache: &tempfile::TempDir, startup: StartupMode) -> IndexOptions {
        let given = |recorded: Option<LogParameters>| {
            Some(LogParameters { expiry: Duration::from_mins(5), ..recorded.unwrap_or_else(ten_minutes) })
        };
        IndexOptions {
            stores: PodStores::already_open(Some(log.clone()), Store::memory()),
            parameters: Box::new(given),
            owner: IndexOwner::Named { name: "test".to_owned() },
            adopt: None,
            moved_from: None,
            identity: None,
            listen: None,
            search: false,
            startup,
            cache: EngineOptions { cache_folder: cache.path().to_owned(), cache_bytes: 1 << 20 },
            ingest: IngestOptions::default(),
            cold_start: None,
            control: None,
        }
    }

    fn ten_minutes() -> LogParameters {
        LogParameters::with_expiry(Duration::from_mins(10))
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_whose_parameters_differ_indexes_by_the_recorded_ones_and_says_so_until_they_agree() {
        let log = Log::over(Store::memory(), vec![Store::memory()]);
        let root = RootChain::open(&log, Entropy::seeded(1));
        root.ensure(&ten_minutes()).await.unwrap();
        // A store in memory has the machine's clock, which stands still for this test.
        let probed = [(Store::memory().url().to_string(), "passed")].into();
        root.record_probes(root.head().await.unwrap(), &probed).await.unwrap();
        let (cache, stop) = (tempfile::tempdir().unwrap(), CancellationToken::new());
        let refused = IndexService::start(options(&log, &cache, StartupMode::FailFast), stop.clone()).await;
        let refused = refused.err().unwrap().to_string();
        assert!(refused.contains("tidemark log set"), "{refused}");

        let waiting = options(&log, &cache, StartupMode::WaitForDependencies);
        let service = IndexService::start(waiting, stop.clone()).await.unwrap();
        let pod = service.pod();
        let running = tokio::spawn(service.run());
        let until = async |what: &str, wanted: &dyn Fn(&tidemark_crds::PodReport) -> bool| {
            for _ in 0..1000 {
                if wanted(&pod.report()) {
                    return;
                }
                sleep(Duration::from_secs(1)).await;
            }
            panic!("never {what}: {:#?}", pod.report());
        };
        let differ = |report: &tidemark_crds::PodReport| {
            let words = ["expiry", "600s", "300s", "tidemark log set"];
            report.problems.iter().any(|problem| {
                problem.reason == Reason::ParametersDiffer && words.iter().all(|word| problem.message.contains(word))
            })
        };
        until("writing, with the difference told", &|report| {
            report.phase == PodPhase::Writing && report.horizon.is_some() && differ(report)
        })
        .await;
        assert_eq!(root.state().await.unwrap().parameters.len(), 1, "the log's parameters were changed");

        root.set_parameters(&LogParameters::with_expiry(Duration::from_mins(5))).await.unwrap();
        until("well", &|report| report.phase == PodPhase::Writing && report.problems.is_empty()).await;
        // Changed by somebody else while the process runs.
        root.set_parameters(&ten_minutes()).await.unwrap();
        until("told again", &differ).await;
        stop.cancel();
        running.await.unwrap().unwrap();
    }
}

//! A named consumer of an index's changes, as a process: it reads the index itself, and writes below `consumers/` only.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tidemark_catalog::{
    AcquireError, CatalogError, ConsumerChain, ConsumerName, ConsumerPosition, Generation, IndexChain, IndexId, LogId,
    WriterIdentity,
};
use tidemark_crds::{Reason, SinkReport};
use tidemark_ingest::{FailureCause, ToCause};
use tidemark_search::{
    EngineOptions, FollowerOptions, IndexFollower, IndexSearcher, SearchError, SearchService, TantivyEngine,
    api::{FeedStart, QueryText},
    check_query,
};
use tidemark_store::{Entropy, StoreClock};
use tokio::{net::TcpListener, sync::watch, time::sleep};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    error::ServiceError,
    index::clock_name,
    serve::listen_on,
    startup_retry::{OPENING, StartupMode, StartupRetry},
    stores::PodStores,
};
use crate::{
    delivery::{
        ConsumerError, ConsumerRun, DeliveryEnd, DeliveryOptions, DeliveryTarget, InvalidDestination, SearchSource,
        SourceError,
    },
    http::{HttpServer, ServerOptions},
    metrics::MetricsRegistry,
    pod_status::PodStatus,
};

/// How often an index that cannot be read yet is looked at.
const OPEN_INTERVAL: Duration = Duration::from_secs(2);

/// Options of a named consumer.
#[derive(Debug)]
pub struct ConsumerOptions {
    /// The index, to be read.
    pub index: PodStores,
    /// The index, to be written below `consumers/`.
    pub consumers: PodStores,
    /// The segment cache.
    pub cache: EngineOptions,
    /// The consumer.
    pub name: ConsumerName,
    /// Who holds it; one that comes back takes over at once, so no two processes may share it. Random if left out.
    pub identity: Option<String>,
    /// Where a new consumer begins.
    pub start: FeedStart,
    /// Which records it wants.
    pub query: QueryText,
    /// How to deliver.
    pub delivery: DeliveryOptions,
    /// Where health, metrics and the state of the process are served, if at all; port 0 takes a free one.
    pub listen: Option<SocketAddr>,
    /// Whether to wait until the index can be opened.
    pub startup: StartupMode,
}

/// What a destination may need to know.
pub struct ConsumerContext {
    /// The log of the records.
    pub log: LogId,
    /// The clock of the process.
    pub clock: StoreClock,
}

/// Why a consumer's process ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumerServiceError {
    /// The stores or the index cannot be opened.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The index cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The query is none.
    #[error("\"{query}\" is no query: {why}; nothing is delivered; correct --query, or \"spec.filter\" of the WALSink")]
    Query {
        /// Its text.
        query: String,
        /// What is wrong with it.
        why: SearchError,
    },
    /// The destination cannot be used.
    #[error(transparent)]
    Destination(#[from] InvalidDestination),
    /// The consumer ended.
    #[error(transparent)]
    Consumer(#[from] ConsumerError),
}

impl ConsumerServiceError {
    /// Whether the outcome of a write is unknown: the next process reads it.
    pub(crate) fn is_unknown(&self) -> bool {
        match self {
            Self::Service(error) => error.is_unknown(),
            Self::Consumer(ConsumerError::Position(error) | ConsumerError::Acquire(AcquireError::Chain(error))) => {
                matches!(error, CatalogError::Unknown { .. })
            }
            _ => false,
        }
    }
}

impl ToCause for ConsumerServiceError {
    fn to_cause(&self) -> FailureCause {
        match self {
            Self::Service(error) => error.to_cause(),
            Self::Consumer(ConsumerError::Position(error) | ConsumerError::Acquire(AcquireError::Chain(error))) => {
                error.to_cause()
            }
            Self::Consumer(ConsumerError::Acquire(AcquireError::Clock(error))) => error.to_cause(),
            Self::Query { .. } | Self::Destination(_) => FailureCause::of(Reason::SpecInvalid),
            Self::Source(_) | Self::Consumer(_) => FailureCause::of(Reason::Internal),
        }
    }
}

/// A named consumer that listens, where it is to.
pub struct ConsumerService {
    options: ConsumerOptions,
    listener: Option<TcpListener>,
    searcher: Arc<IndexSearcher>,
    report: watch::Sender<SinkReport>,
    pod: PodStatus,
    entropy: Entropy,
}

impl ConsumerService {
    /// Listens; nothing is opened before it runs.
    pub async fn start(options: ConsumerOptions) -> Result<Self, ServiceError> {
        let listener = match options.listen {
            Some(address) => Some(listen_on(address).await?),
            None => None,
        };
        let (searcher, report) = (Arc::new(IndexSearcher::default()), watch::Sender::default());
        let pod = PodStatus::sink(report.subscribe(), Arc::clone(&searcher) as Arc<dyn SearchService>);
        pod.set_store_roles(options.index.roles());
        // Before anything is opened: the operator believes no report without it.
        if let Some(identity) = &options.identity {
            pod.set_identity(identity);
        }
        Ok(Self { options, listener, searcher, report, pod, entropy: Entropy::from_os() })
    }

    /// The address that is listened on.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Delivers until `stop`, or until everything is delivered where it does not follow. `target` makes where the records go.
    pub async fn run(
        mut self,
        target: impl FnOnce(&ConsumerContext) -> Result<DeliveryTarget<'static>, InvalidDestination>,
        stop: &CancellationToken,
    ) -> Result<DeliveryEnd, ConsumerServiceError> {
        let server = self.listener.take().map(|listener| tokio::spawn(self.server(stop).run(listener)));
        let _serving = server.map(AbortOnDropHandle::new);
        if let Err(why) = check_query(&self.options.query) {
            return self.refuse_query(why, stop).await;
        }
        let Some(follower) = self.open(stop).await? else { return Ok(DeliveryEnd::Stopped) };
        self.searcher.serve(Arc::clone(&follower));
        let Some(identity) = Box::pin(stop.run_until_cancelled(until_identity(&follower))).await else {
            return Ok(DeliveryEnd::Stopped);
        };
        let _polling =
            AbortOnDropHandle::new(tokio::spawn(async move { follower.run(CancellationToken::new()).await }));
        self.deliver(identity, target, stop).await
    }

    fn server(&self, stop: &CancellationToken) -> HttpServer {
        let metrics = MetricsRegistry::new();
        metrics.register(Box::new(self.options.index.requests()));
        HttpServer::status_only(self.pod.clone(), metrics, ServerOptions::default(), stop.clone())
    }

    /// A query that is none: the next process would find the same, so it is reported until somebody corrects it, where the process waits
    /// for what it needs.
    async fn refuse_query(
        &self,
        why: SearchError,
        stop: &CancellationToken,
    ) -> Result<DeliveryEnd, ConsumerServiceError> {
        let refused = ConsumerServiceError::Query { query: self.options.query.as_str().to_owned(), why };
        if self.options.startup == StartupMode::FailFast {
            return Err(refused);
        }
        self.pod.set_failure(OPENING, &refused);
        tracing::error!("{refused}; waiting to be stopped");
        stop.cancelled().await;
        Ok(DeliveryEnd::Stopped)
    }

    /// The follower of the index, once that can be opened; `None` if it is stopped before.
    async fn open(&self, stop: &CancellationToken) -> Result<Option<Arc<IndexFollower>>, ServiceError> {
        let (pod, entropy) = (self.pod.clone(), self.entropy.clone());
        let retry = StartupRetry { mode: self.options.startup, pod, entropy };
        let opened = OnceLock::new();
        let attempt = || async {
            let follower = open_follower(&self.options.index, &self.options.cache, &self.entropy)?;
            opened.get_or_init(|| follower);
            Ok(())
        };
        retry.until_ok(stop, attempt).await?;
        self.pod.clear_problem(OPENING);
        Ok(opened.into_inner())
    }

    async fn deliver(
        self,
        (index, log): (IndexId, LogId),
        target: impl FnOnce(&ConsumerContext) -> Result<DeliveryTarget<'static>, InvalidDestination>,
        stop: &CancellationToken,
    ) -> Result<DeliveryEnd, ConsumerServiceError> {
        let Self { options, searcher, report, entropy, .. } = self;
        // Only now: a folder would be made where there is none.
        let store = options.consumers.open().map_err(ServiceError::from)?.index;
        let chain = ConsumerChain::open(&store, &log, &index, &options.name, entropy.clone());
        let identity = WriterIdentity(options.identity.unwrap_or_else(|| entropy.nonce()));
        let clock = chain.clock(&clock_name(&identity));
        let context = ConsumerContext { log, clock };
        let target = target(&context)?;
        let source = SearchSource::new(searcher, options.query);
        // Where a consumer began may be gone since: a snapshot is dropped, and nobody needs the place any more.
        let start = async {
            match chain.latest().await.map_err(ConsumerError::from)? {
                Some(begun) => Ok(begun.state.progress().acknowledged),
                None => Ok::<_, ConsumerServiceError>(resolve(&source, options.start, options.delivery.follow).await?),
            }
        };
        let Some(start) = stop.run_until_cancelled(start).await else { return Ok(DeliveryEnd::Stopped) };
        let run = ConsumerRun {
            chain: &chain,
            identity,
            clock: &context.clock,
            source: &source,
            target: &target,
            options: options.delivery,
            entropy,
            report: &report,
        };
        Ok(run.run(&start?, stop).await?)
    }
}

/// Follows the index `index`, to read its changes.
pub(super) fn open_follower(
    index: &PodStores,
    cache: &EngineOptions,
    entropy: &Entropy,
) -> Result<Arc<IndexFollower>, ServiceError> {
    let index = index.open()?.index;
    let chain = IndexChain::open(&index, Generation::first(), entropy.clone());
    let engine = Arc::new(TantivyEngine::open(index, cache)?);
    Ok(IndexFollower::new(engine, chain, None, &FollowerOptions::default())?)
}

/// Waits until the index can be read and says which one it is, and whose records it holds.
async fn until_identity(follower: &IndexFollower) -> (IndexId, LogId) {
    loop {
        let read = follower.refresh_manifest().await;
        if let Some(identity) = follower.identity() {
            return identity;
        }
        let why = read.err().map(|error| error.to_string());
        tracing::warn!(why, "the index cannot be read yet, or does not say for which log it is; looking again");
        sleep(OPEN_INTERVAL).await;
    }
}

async fn resolve(source: &SearchSource, start: FeedStart, waits: bool) -> Result<ConsumerPosition, SourceError> {
    loop {
        match source.resolve(start.clone()).await {
            Err(SourceError::Transient(why)) if waits => {
                tracing::warn!(why, "where the consumer begins is not known yet; asking again");
                sleep(OPEN_INTERVAL).await;
            }
            resolved => return resolved,
        }
    }
}

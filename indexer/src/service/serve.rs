//! `tidemark serve`: search over an index that another process writes.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use axum::http::HeaderValue;
use tidemark_catalog::{Generation, IndexChain, RootChain};
use tidemark_store::Entropy;
use tidemark_wal::ParameterSource;
use tokio::{net::TcpListener, sync::Mutex};
use tokio_util::sync::CancellationToken;

use super::{
    error::ServiceError,
    startup_retry::{OPENING, StartupMode, StartupRetry},
    stores::{OpenStores, PodStores},
    supervise::TaskSupervisor,
};
#[cfg(feature = "archive")]
use crate::http::ServedArchive;
use crate::{
    http::{FeedLimits, HttpServer, LiveDescriptors, ServerOptions},
    metrics::MetricsRegistry,
    open_files::allow_open_files,
    pod_status::PodStatus,
};
use tidemark_search::EngineOptions;
use tidemark_search::TantivyEngine;
use tidemark_search::{FollowerOptions, IndexFollower, IndexSearcher, SearchService};

/// Options of `tidemark serve`.
#[derive(Debug)]
pub struct ServeOptions {
    /// The log, for what is not sealed yet (without one: sealed answers only), and the index.
    pub stores: PodStores,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whether to wait for dependencies that are not usable yet.
    pub startup: StartupMode,
    /// The file with the token that requests must bear; without one every request is answered.
    pub token_file: Option<PathBuf>,
    /// Origins whose pages may read answers: [`ServerOptions::cors_origins`].
    pub cors_origins: Vec<HeaderValue>,
    /// Where the log was before, if it was moved: [`RootChain::moved_from`].
    pub moved_from: Option<String>,
    /// Name of this process in its report.
    pub identity: Option<String>,
    /// The segment cache.
    pub cache: EngineOptions,
}

/// A search service that listens.
pub struct ServeService {
    listener: TcpListener,
    task: Arc<ServeTask>,
    stop: CancellationToken,
}

/// What every attempt shares.
struct ServeTask {
    options: ServeOptions,
    pod: PodStatus,
    search: Arc<IndexSearcher>,
    entropy: Entropy,
    live: LiveDescriptors,
    #[cfg(feature = "archive")]
    archive: ServedArchive,
    /// What the first attempt starts with, if it was opened before.
    ready: Mutex<Option<Arc<IndexFollower>>>,
}

impl ServeService {
    /// Opens the index and listens; if it waits for its dependencies it only listens, and opens while it runs. An index that
    /// no writer has started yet is waited for: the service is not ready until it has read a manifest.
    pub async fn start(options: ServeOptions, stop: CancellationToken) -> Result<Self, ServiceError> {
        let search = Arc::new(IndexSearcher::default());
        let pod = PodStatus::search(Arc::clone(&search) as Arc<dyn SearchService>);
        pod.set_store_roles(options.stores.roles());
        if let Some(identity) = &options.identity {
            pod.set_identity(identity);
        }
        let (entropy, live) = (Entropy::from_os(), LiveDescriptors::default());
        let task = ServeTask {
            options,
            pod,
            search,
            entropy,
            live,
            #[cfg(feature = "archive")]
            archive: ServedArchive::default(),
            ready: Mutex::default(),
        };
        if task.options.startup == StartupMode::FailFast {
            *task.ready.lock().await = Some(task.open().await?);
        }
        Ok(Self { listener: listen_on(task.options.listen).await?, task: Arc::new(task), stop })
    }

    /// The address that is listened on.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The status of this pod.
    pub fn pod(&self) -> PodStatus {
        self.task.pod.clone()
    }

    /// Serves until stopped.
    pub async fn run(self) -> Result<(), ServiceError> {
        let Self { listener, task, stop } = self;
        let mut tasks = TaskSupervisor::new(stop.clone());
        serve(&mut tasks, listener, task.server(&stop));
        tasks.start_retried("search", task.retry(), move |stop| Arc::clone(&task).attempt(stop));
        tasks.join().await
    }
}

impl ServeTask {
    /// Retries the attempts of this task.
    fn retry(&self) -> StartupRetry {
        StartupRetry { mode: self.options.startup, pod: self.pod.clone(), entropy: self.entropy.clone() }
    }

    fn server(&self, stop: &CancellationToken) -> HttpServer {
        let metrics = MetricsRegistry::new();
        metrics.register(Box::new(self.options.stores.requests()));
        let search = Arc::clone(&self.search) as Arc<dyn SearchService>;
        let pod = self.pod.clone();
        let options = ServerOptions {
            cors_origins: self.options.cors_origins.clone(),
            feeds: feed_limits(),
            ..ServerOptions::default()
        };
        let server = HttpServer::with_pod_status(pod, search, metrics, options, stop.clone())
            .with_live_descriptors(self.live.clone());
        #[cfg(feature = "archive")]
        let server = server.with_archive(self.archive.clone());
        match &self.options.token_file {
            Some(file) => server.with_bearer_token(file.clone()),
            None => server,
        }
    }

    async fn attempt(self: Arc<Self>, stop: CancellationToken) -> Result<(), ServiceError> {
        let first = self.ready.lock().await.take();
        let follower = match first {
            Some(follower) => follower,
            None => match stop.run_until_cancelled(Box::pin(self.open())).await {
                Some(follower) => follower?,
                None => return Ok(()),
            },
        };
        self.pod.clear_problem(OPENING);
        self.search.serve(Arc::clone(&follower));
        follower.run(stop).await;
        Ok(())
    }

    async fn open(&self) -> Result<Arc<IndexFollower>, ServiceError> {
        let OpenStores { log, index } = self.options.stores.open()?;
        if let Some(log) = &log {
            self.live.set_stores(&log.metadata);
        }
        let moved_from = self.options.moved_from.as_deref();
        let root = log.as_ref().map(|log| RootChain::open(log, self.entropy.clone()).moved_from(moved_from));
        let known = match &root {
            Some(root) => Some(root.state().await?),
            None => None,
        };
        let url = index.url().as_str();
        let generation = known.as_ref().map(|root| root.generation_of(url));
        if known.is_some_and(|root| root.probes.contains_key(url)) {
            self.pod.set_probed();
        }
        let chain = IndexChain::open(&index, generation.unwrap_or_else(Generation::first), self.entropy.clone());
        let chain = match &root {
            Some(root) => chain.for_log(root),
            None => chain,
        };
        #[cfg(feature = "archive")]
        self.archive.set_index(&chain, &self.entropy);
        let engine = Arc::new(TantivyEngine::open(index, &self.options.cache)?);
        let tail = log.as_ref().zip(root).map(|(log, root)| (log, Arc::new(root) as Arc<dyn ParameterSource>));
        Ok(IndexFollower::new(engine, chain, tail, &FollowerOptions::default())?)
    }
}

/// How many clients may follow the changes, as far as the limit of open files can be raised.
fn feed_limits() -> FeedLimits {
    let wanted = FeedLimits::default();
    let files = allow_open_files(wanted.open_files());
    let limits = wanted.within_open_files(files);
    if limits.clients < wanted.clients {
        let (clients, needed) = (limits.clients, wanted.open_files());
        tracing::warn!(
            files,
            clients,
            "fewer clients may follow the changes; allow {needed} open files for all of them"
        );
    }
    limits
}

pub(super) async fn listen_on(address: SocketAddr) -> Result<TcpListener, ServiceError> {
    TcpListener::bind(address).await.map_err(|source| ServiceError::Listen { address, source })
}

/// Answers requests.
pub(super) fn serve(tasks: &mut TaskSupervisor, listener: TcpListener, server: HttpServer) {
    tasks.start("server", async move {
        server.run(listener).await;
        Ok::<_, ServiceError>(())
    });
}

#[cfg(test)]
mod tests {
    use tidemark_catalog::WriterIdentity;
    use tidemark_store::{Store, StoreClock};
    use tidemark_wal::Log;

    use super::*;
    use tidemark_search::SearchError;

    #[tokio::test]
    async fn an_index_that_does_not_exist_is_waited_for_and_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("typo");
        let url = url::Url::from_directory_path(&path).unwrap();
        let options = ServeOptions {
            stores: PodStores::already_open(None, Store::open_read_only(&url).unwrap()),
            listen: "127.0.0.1:0".parse().unwrap(),
            startup: StartupMode::FailFast,
            token_file: None,
            cors_origins: Vec::new(),
            moved_from: None,
            identity: None,
            cache: EngineOptions { cache_folder: folder.path().join("cache"), cache_bytes: 1 << 20 },
        };
        let service = ServeService::start(options, CancellationToken::new()).await.unwrap();
        let follower = service.task.ready.lock().await.clone().unwrap();
        let error = follower.refresh_manifest().await.unwrap_err();
        assert!(matches!(&error, SearchError::Storage { detail, .. } if detail.contains("typo")), "{error}");
        assert!(!path.exists());
        let index = Store::open(&url).unwrap();
        let error = follower.refresh_manifest().await.unwrap_err();
        assert!(matches!(&error, SearchError::NotReady { detail } if detail.contains("holds no index yet")), "{error}");
        assert!(follower.status().is_none());
        let log = Log::over(Store::memory(), vec![Store::memory()]);
        let chain = IndexChain::open(&index, Generation::first(), Entropy::seeded(1));
        let clock = StoreClock::new(log.stores(), "test");
        chain.acquire(WriterIdentity("test".to_owned()), &clock, &log.entries, |_| {}).await.unwrap();
        assert!(follower.refresh_manifest().await.unwrap());
        assert!(follower.status().is_some());
    }
}

//! `tidemark serve`: search over an index that another process writes.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use tidemark_catalog::{Generation, IndexChain, RootChain};
use tidemark_store::Entropy;
use tidemark_wal::{ParameterSource, ReaderLimits};
use tokio::{net::TcpListener, sync::Mutex};
use tokio_util::sync::CancellationToken;

use super::{
    Opened, Patience, ServiceError, Stores,
    supervise::Tasks,
    waiting::{OPENING, patiently},
};
use crate::{
    http::{Metrics, Server, ServerOptions},
    process::Process,
};
use tidemark_search::EngineOptions;
use tidemark_search::TantivyEngine;
use tidemark_search::{FollowerOptions, IndexFollower, IndexSearcher, SearchService};

/// What `tidemark serve` is told.
#[derive(Debug)]
pub struct ServeOptions {
    /// The log, for what is not sealed yet (without one: sealed answers only), and the index.
    pub stores: Stores,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whether to wait for what is wrong to be mended.
    pub patience: Patience,
    /// The file with the token that requests must bear; `None`: everybody may ask.
    pub token_file: Option<PathBuf>,
    /// What is read of the log.
    pub limits: ReaderLimits,
    /// The segment cache.
    pub cache: EngineOptions,
}

/// A search service that listens.
pub struct ServeService {
    listener: TcpListener,
    work: Arc<Work>,
    stop: CancellationToken,
}

/// What the attempts at the work have in common.
struct Work {
    options: ServeOptions,
    process: Process,
    search: Arc<IndexSearcher>,
    entropy: Entropy,
    /// What the first attempt is to begin with.
    ready: Mutex<Option<Arc<IndexFollower>>>,
}

impl ServeService {
    /// Opens the index and listens; with patience it only listens, and opens while it runs. An index that nobody has begun
    /// to write yet is waited for: the service is not ready until it has read a manifest.
    pub async fn start(options: ServeOptions, stop: CancellationToken) -> Result<Self, ServiceError> {
        let search = Arc::new(IndexSearcher::default());
        let process = Process::searching(Arc::clone(&search) as Arc<dyn SearchService>);
        process.set_places(options.stores.places());
        let work = Work { options, process, search, entropy: Entropy::from_os(), ready: Mutex::default() };
        if work.options.patience == Patience::None {
            *work.ready.lock().await = Some(work.open().await?);
        }
        Ok(Self { listener: listen_on(work.options.listen).await?, work: Arc::new(work), stop })
    }

    /// The address that is listened on.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// What the process says about itself.
    pub fn process(&self) -> Process {
        self.work.process.clone()
    }

    /// Serves until told to stop.
    pub async fn run(self) -> Result<(), ServiceError> {
        let Self { listener, work, stop } = self;
        let mut tasks = Tasks::new(stop.clone());
        serve(&mut tasks, listener, work.server(&stop));
        tasks.start("search", async move {
            let attempt = || Box::pin(work.attempt(&stop));
            Box::pin(patiently(work.options.patience, &work.process, &work.entropy, &stop, attempt)).await
        });
        tasks.join().await
    }
}

impl Work {
    fn server(&self, stop: &CancellationToken) -> Server {
        let metrics = Metrics::new();
        metrics.register(Box::new(self.options.stores.requests()));
        let search = Arc::clone(&self.search) as Arc<dyn SearchService>;
        let process = self.process.clone();
        let server = Server::searching_in(process, search, metrics, ServerOptions::default(), stop.clone());
        match &self.options.token_file {
            Some(file) => server.wanting_token(file.clone()),
            None => server,
        }
    }

    async fn attempt(&self, stop: &CancellationToken) -> Result<(), ServiceError> {
        let first = self.ready.lock().await.take();
        let follower = match first {
            Some(follower) => follower,
            None => match stop.run_until_cancelled(Box::pin(self.open())).await {
                Some(follower) => follower?,
                None => return Ok(()),
            },
        };
        self.process.works(OPENING);
        self.search.serve(Arc::clone(&follower));
        follower.run(stop.clone()).await;
        Ok(())
    }

    async fn open(&self) -> Result<Arc<IndexFollower>, ServiceError> {
        let Opened { log, index } = self.options.stores.open()?;
        let root = log.as_ref().map(|log| RootChain::open(log, self.entropy.clone()));
        let known = match &root {
            Some(root) => Some(root.state().await?),
            None => None,
        };
        let url = index.url().as_str();
        let generation = known.as_ref().map(|root| root.generation_of(url));
        if known.is_some_and(|root| root.probes.contains_key(url)) {
            self.process.set_probed();
        }
        let chain = IndexChain::open(&index, generation.unwrap_or_else(Generation::first), self.entropy.clone());
        let chain = match &root {
            Some(root) => chain.for_log(root),
            None => chain,
        };
        let engine = Arc::new(TantivyEngine::open(index, &self.options.cache)?);
        let tail = log.as_ref().zip(root).map(|(log, root)| (log, Arc::new(root) as Arc<dyn ParameterSource>));
        let options = FollowerOptions { limits: self.options.limits, ..FollowerOptions::default() };
        Ok(IndexFollower::new(engine, chain, tail, &options)?)
    }
}

pub(super) async fn listen_on(address: SocketAddr) -> Result<TcpListener, ServiceError> {
    TcpListener::bind(address).await.map_err(|source| ServiceError::Listen { address, source })
}

/// Answers requests.
pub(super) fn serve(tasks: &mut Tasks, listener: TcpListener, server: Server) {
    let address = listener.local_addr();
    tasks.start("server", async move {
        server.run(listener).await.map_err(|error| match address {
            Ok(address) => ServiceError::Listen { address, source: error },
            Err(source) => ServiceError::Ended { task: "server", why: source.to_string() },
        })
    });
}

#[cfg(test)]
mod tests {
    use tidemark_catalog::WriterIdentity;
    use tidemark_store::{Clock, Store};
    use tidemark_wal::Log;

    use super::*;
    use tidemark_search::SearchError;

    #[tokio::test]
    async fn an_index_that_does_not_exist_is_waited_for_and_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("typo");
        let url = url::Url::from_directory_path(&path).unwrap();
        let options = ServeOptions {
            stores: Stores::opened(None, Store::open_read_only(&url).unwrap()),
            listen: "127.0.0.1:0".parse().unwrap(),
            patience: Patience::None,
            token_file: None,
            limits: ReaderLimits::default(),
            cache: EngineOptions { cache_folder: folder.path().join("cache"), cache_bytes: 1 << 20 },
        };
        let service = ServeService::start(options, CancellationToken::new()).await.unwrap();
        let follower = service.work.ready.lock().await.clone().unwrap();
        let error = follower.refresh_manifest().await.unwrap_err();
        assert!(matches!(&error, SearchError::Storage { detail, .. } if detail.contains("typo")), "{error}");
        assert!(!path.exists());
        let index = Store::open(&url).unwrap();
        let error = follower.refresh_manifest().await.unwrap_err();
        assert!(matches!(&error, SearchError::NotReady { detail } if detail.contains("holds no index yet")), "{error}");
        assert!(follower.status().is_none());
        let log = Log::over(Store::memory(), vec![Store::memory()]);
        let chain = IndexChain::open(&index, Generation::first(), Entropy::seeded(1));
        let clock = Clock::new(log.stores(), "test");
        chain.acquire(WriterIdentity("test".to_owned()), &clock, &log.entries, |_| {}).await.unwrap();
        assert!(follower.refresh_manifest().await.unwrap());
        assert!(follower.status().is_some());
    }
}

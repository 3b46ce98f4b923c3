//! `tidemark serve`: search over an index that another process writes.

use std::{net::SocketAddr, sync::Arc};

use tidemark_catalog::{Generation, IndexChain, RootChain};
use tidemark_wal::{Entropy, Log, ParameterSource, Store};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{ServiceError, supervise::Tasks};
use crate::{
    EngineOptions, TantivyEngine,
    http::{Metrics, Server, ServerOptions},
    search::{Search, Searcher, SearcherOptions},
};

/// What `tidemark serve` is told.
#[derive(Debug)]
pub struct ServeOptions {
    /// The log, for what is not sealed yet; `None`: sealed answers only.
    pub log: Option<Log>,
    /// The index.
    pub index: Store,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The segment cache.
    pub cache: EngineOptions,
}

/// A search service that listens.
pub struct ServeService {
    listener: TcpListener,
    searcher: Arc<Searcher>,
    stop: CancellationToken,
}

impl ServeService {
    /// Opens the index and listens. An index that nobody has begun to write yet is waited for: the service is not ready
    /// until it has read a manifest.
    pub async fn start(options: ServeOptions, stop: CancellationToken) -> Result<Self, ServiceError> {
        let ServeOptions { log, index, listen, cache } = options;
        let entropy = Entropy::from_os();
        let root = log.as_ref().map(|log| RootChain::open(log, entropy.clone()));
        let generation = match &root {
            Some(root) => root.state().await?.indexes.get(index.url().as_str()).map(|known| known.generation.clone()),
            None => None,
        };
        let chain = IndexChain::open(&index, generation.unwrap_or_else(Generation::first), entropy);
        let engine = Arc::new(TantivyEngine::open(index, &cache)?);
        let tail = log.as_ref().zip(root).map(|(log, root)| (log, Arc::new(root) as Arc<dyn ParameterSource>));
        let searcher = Searcher::new(engine, chain, tail, SearcherOptions::default())?;
        Ok(Self { listener: listen_on(listen).await?, searcher, stop })
    }

    /// The address that is listened on.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until told to stop.
    pub async fn run(self) -> Result<(), ServiceError> {
        let mut tasks = Tasks::new(self.stop.clone());
        serve(&mut tasks, self.listener, Arc::clone(&self.searcher) as Arc<dyn Search>, &self.stop);
        follow(&mut tasks, self.searcher, self.stop);
        tasks.join().await
    }
}

pub(super) async fn listen_on(address: SocketAddr) -> Result<TcpListener, ServiceError> {
    TcpListener::bind(address).await.map_err(|source| ServiceError::Listen { address, source })
}

/// Keeps the searcher's view current.
pub(super) fn follow(tasks: &mut Tasks, searcher: Arc<Searcher>, stop: CancellationToken) {
    tasks.start("search", async move {
        searcher.run(stop).await;
        Ok::<(), ServiceError>(())
    });
}

/// Answers requests.
pub(super) fn serve(tasks: &mut Tasks, listener: TcpListener, search: Arc<dyn Search>, stop: &CancellationToken) {
    let server = Server::searching(search, Metrics::new(), ServerOptions::default(), stop.clone());
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
    use tidemark_catalog::Identity;
    use tidemark_wal::Clock;

    use super::*;
    use crate::search::SearchError;

    #[tokio::test]
    async fn an_index_that_does_not_exist_is_waited_for_and_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("typo");
        let url = url::Url::from_directory_path(&path).unwrap();
        let options = ServeOptions {
            log: None,
            index: Store::reading(&url).unwrap(),
            listen: "127.0.0.1:0".parse().unwrap(),
            cache: EngineOptions { cache_folder: folder.path().join("cache"), cache_bytes: 1 << 20 },
        };
        let service = ServeService::start(options, CancellationToken::new()).await.unwrap();
        let searcher = Arc::clone(&service.searcher);
        let error = searcher.refresh_manifest().await.unwrap_err();
        assert!(matches!(&error, SearchError::Storage { detail } if detail.contains("typo")), "{error}");
        assert!(!path.exists());
        let index = Store::open(&url).unwrap();
        let error = searcher.refresh_manifest().await.unwrap_err();
        assert!(matches!(&error, SearchError::NotReady { detail } if detail.contains("holds no index yet")), "{error}");
        assert!(searcher.status().is_none());
        let log = Log::over(Store::memory(), vec![Store::memory()]);
        let chain = IndexChain::open(&index, Generation::first(), Entropy::seeded(1));
        let clock = Clock::new(&log, "test");
        chain.acquire(Identity("test".to_owned()), &clock, &log.entries, |_| {}).await.unwrap();
        assert!(searcher.refresh_manifest().await.unwrap());
        assert!(searcher.status().is_some());
    }
}

//! `tidemark index`: the writer of an index, with search beside it if asked for.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use tidemark_catalog::{Identity, RootChain};
use tidemark_wal::{Clock, Entropy, Log, ParameterSource, Store, Token};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use super::{
    ServiceError,
    opening::{Asked, FolderWriter, agree, fit, fit_log, register},
    serving::{follow, listen_on, serve},
    supervise::Tasks,
};
use crate::{
    EngineOptions, TantivyEngine,
    engine::Engine,
    ingest::{Ingest, IngestOptions, IngestStatus, Role},
    search::{
        Search, SearchError, Searcher, SearcherOptions,
        api::{self, EntityAnswer, EntityRequest, EntryAnswer, SearchAnswer, SearchRequest, StatusAnswer},
    },
};

/// What `tidemark index` is told.
pub struct IndexOptions {
    /// The log.
    pub log: Log,
    /// Where the index lives.
    pub index: Store,
    /// The parameters that are asked for.
    pub parameters: Asked,
    /// Who owns the index: another owner's is refused.
    pub owner: String,
    /// The owner to take over from.
    pub adopt: Option<String>,
    /// Who writes; one that comes back takes over at once, so no two processes may share it. Random if left out.
    pub identity: Option<String>,
    /// Where to serve search, if at all; port 0 takes a free one.
    pub listen: Option<SocketAddr>,
    /// The segment cache.
    pub cache: EngineOptions,
    /// How to ingest.
    pub ingest: IngestOptions,
}

/// An indexer that is ready to take the writer's role.
pub struct IndexService {
    ingest: Ingest,
    status: watch::Receiver<IngestStatus>,
    search: Option<(TcpListener, Arc<Searcher>)>,
    folder: Option<FolderWriter>,
    stop: CancellationToken,
}

impl IndexService {
    /// Proves the stores fit, agrees on the parameters, registers the index and listens.
    pub async fn start(options: IndexOptions, stop: CancellationToken) -> Result<Self, ServiceError> {
        let IndexOptions { log, index, parameters, owner, adopt, identity, listen, cache, ingest } = options;
        let entropy = Entropy::from_os();
        let root = RootChain::open(&log, entropy.clone());
        fit_log(&root, &log, &entropy).await?;
        fit(&root, &index, &entropy).await?;
        agree(&root, &log, &parameters).await?;
        let chain = register(&root, &index, &owner, adopt.as_deref(), &entropy).await?;
        let folder = FolderWriter::of(&index)?;
        let identity = match (identity, &folder) {
            (Some(identity), _) => Identity(identity),
            (None, Some(folder)) => folder.identity.clone(),
            (None, None) => Identity(format!("indexer-{}", entropy.nonce())),
        };
        let engine = Arc::new(TantivyEngine::open(index, &cache)?);
        let search = match listen {
            Some(address) => {
                let tail = (&log, Arc::new(root.clone()) as Arc<dyn ParameterSource>);
                let searcher =
                    Searcher::new(Arc::clone(&engine), chain.clone(), Some(tail), SearcherOptions::default())?;
                Some((listen_on(address).await?, searcher))
            }
            None => None,
        };
        let (sender, status) = watch::channel(IngestStatus::default());
        let clock = Clock::new(&log, &clock_name(&identity));
        let engine: Arc<dyn Engine> = engine;
        let ingest = Ingest { log, clock, root, chain, engine, identity, options: ingest, entropy, status: sender };
        Ok(Self { ingest, status, search, folder, stop })
    }

    /// The address that search is served on.
    pub fn address(&self) -> Option<SocketAddr> {
        self.search.as_ref().and_then(|(listener, _)| listener.local_addr().ok())
    }

    /// What the ingest says about itself.
    pub fn status(&self) -> watch::Receiver<IngestStatus> {
        self.status.clone()
    }

    /// Indexes until told to stop, or until another process takes over.
    pub async fn run(self) -> Result<(), ServiceError> {
        let Self { ingest, status, search, folder, stop } = self;
        let mut tasks = Tasks::new(stop.clone());
        if let Some((listener, searcher)) = search {
            let indexing = Indexing { searcher: Arc::clone(&searcher), ingest: status };
            serve(&mut tasks, listener, Arc::new(indexing), &stop);
            follow(&mut tasks, searcher, stop.clone());
        }
        tasks.start("ingest", ingest.run(stop));
        let ended = tasks.join().await;
        drop(folder);
        ended
    }
}

/// A name for the clock's object: one that comes back uses the same one, and it holds no character that a key must not.
fn clock_name(identity: &Identity) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' };
    let name: String = identity.0.chars().map(safe).collect();
    format!("{:.64}-{:016x}", name, xxhash_rust::xxh3::xxh3_64(identity.0.as_bytes()))
}

/// Search in the process that also writes: it knows more about the state of the index.
struct Indexing {
    searcher: Arc<Searcher>,
    ingest: watch::Receiver<IngestStatus>,
}

#[async_trait]
impl Search for Indexing {
    async fn search(&self, request: SearchRequest) -> Result<SearchAnswer, SearchError> {
        self.searcher.search(request).await
    }

    async fn entry(&self, token: Token) -> Result<EntryAnswer, SearchError> {
        self.searcher.entry(token).await
    }

    async fn entity(&self, request: EntityRequest) -> Result<EntityAnswer, SearchError> {
        self.searcher.entity(request).await
    }

    fn status(&self) -> Option<StatusAnswer> {
        let mut status = self.searcher.status()?;
        let ingest = self.ingest.borrow().clone();
        status.role = match ingest.role {
            Role::Writer => api::Role::Writer,
            Role::Starting | Role::Standby => api::Role::Standby,
            Role::Ended => api::Role::Reader,
        };
        if ingest.role == Role::Writer {
            status.lag_seconds = ingest.lag_seconds;
            status.horizon = Some(ingest.horizon.timestamp());
            let behind = ingest.progress.filter(|_| ingest.lag_seconds > 0);
            status.lag_reason = behind.map(|run| {
                format!("indexing what is sealed: {} entries so far, at {} of {}", run.entries, run.at, run.to)
            });
        }
        status.problems.extend(ingest.trouble.map(|trouble| format!("{}: {}", trouble.doing, trouble.message)));
        Some(status)
    }

    fn not_ready(&self) -> String {
        self.searcher.not_ready()
    }

    async fn wait_for(&self, token: Token, timeout: Duration) -> Result<(), SearchError> {
        self.searcher.wait_for(token, timeout).await
    }
}

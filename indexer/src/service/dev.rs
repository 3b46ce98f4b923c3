//! `tidemark dev`: everything in one process on a local folder.

use std::{fs::File, net::SocketAddr, path::PathBuf, time::Duration};

use tidemark_catalog::IndexOwner;
use tidemark_store::Store;
use tidemark_wal::{Log, LogParameters};
use tokio_util::sync::CancellationToken;

use super::{
    bootstrap::{cache_options, lock},
    error::ServiceError,
    index::{IndexOptions, IndexService},
    startup_retry::StartupMode,
    stores::PodStores,
};
use tidemark_ingest::IngestOptions;

/// How many bytes of segments the cache of a local folder keeps.
const CACHE_BYTES: u64 = 4 << 30;

/// Options of `tidemark dev`.
#[derive(Clone, Debug)]
pub struct DevOptions {
    /// The folder that holds log, metadata, index and cache.
    pub folder: PathBuf,
    /// `W`.
    pub expiry: Duration,
    /// Where the folder's log was before, if the folder was moved: [`tidemark_catalog::RootChain::moved_from`].
    pub moved_from: Option<String>,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
}

/// A log on a local folder with its indexer and its search service.
pub struct DevService {
    log: Log,
    index: IndexService,
    _lock: File,
}

impl DevService {
    /// Opens the folder, made if need be, and listens.
    pub async fn start(options: DevOptions, stop: CancellationToken) -> Result<Self, ServiceError> {
        let DevOptions { folder, expiry, moved_from, listen } = options;
        let lock = lock(&folder, ".tidemark-dev")?.ok_or_else(|| ServiceError::Busy { folder: folder.clone() })?;
        let log = Log::over(Store::folder(&folder.join("log"))?, vec![Store::folder(&folder.join("metadata"))?]);
        let (cache, _) = cache_options(Some(folder.join("cache")), CACHE_BYTES)?;
        let index = IndexService::start(
            IndexOptions {
                control: None,
                cold_start: None,
                stores: PodStores::already_open(Some(log.clone()), Store::folder(&folder.join("index"))?),
                parameters: Box::new(move |recorded| Some(local(recorded, expiry))),
                owner: IndexOwner::Named { name: "dev".to_owned() },
                adopt: None,
                moved_from,
                identity: None,
                listen: Some(listen),
                search: true,
                startup: StartupMode::FailFast,
                cache,
                ingest: IngestOptions::default(),
            },
            stop,
        )
        .await?;
        Ok(Self { log, index, _lock: lock })
    }

    /// The address that the page is served on.
    pub fn address(&self) -> Option<SocketAddr> {
        self.index.address()
    }

    /// The log in the folder.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Runs until stopped.
    pub async fn run(self) -> Result<(), ServiceError> {
        self.index.run().await
    }
}

/// Parameters of one machine: a local write takes no time to arrive and is visible at once.
fn local(recorded: Option<LogParameters>, expiry: Duration) -> LogParameters {
    let fresh = LogParameters {
        request_timeout: Duration::from_secs(1),
        visibility_delay: Duration::ZERO,
        ..LogParameters::with_expiry(expiry)
    };
    LogParameters { expiry, ..recorded.unwrap_or(fresh) }
}

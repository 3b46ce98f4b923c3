//! Another place than the index that it is restored from: a copy of its snapshots in a second store, or another index of the same log.

use std::sync::{Arc, OnceLock};

use futures::TryStreamExt as _;
use tidemark_catalog::{CatalogError, LogId, Manifest, RootChain};

use crate::{
    engine::{EngineError, EngineOpener, IndexEngine},
    error::IngestError,
    snapshot::SnapshotPlace,
};

/// The folders that bear the id of the log that they are of.
const FOLDERS: [&str; 2] = ["snapshots", "archive"];

/// Where the snapshots and the archive are that an index of the same log is restored from. It is only read: nothing is pinned there, and
/// what is removed there meanwhile is missed.
pub struct RestoreOrigin {
    /// The store with the log's pins and its archive.
    pub place: SnapshotPlace,
    open_engine: EngineOpener,
    /// What reads segments in that store, once any is read.
    engine: OnceLock<Arc<dyn IndexEngine>>,
}

impl RestoreOrigin {
    /// The place. What `open_engine` opens in its store reads segments there; nothing is opened before it is restored from.
    pub fn new(place: SnapshotPlace, open_engine: EngineOpener) -> Self {
        Self { place, open_engine, engine: OnceLock::new() }
    }

    /// What reads segments there.
    pub(crate) fn engine(&self) -> Result<&Arc<dyn IndexEngine>, EngineError> {
        if let Some(engine) = self.engine.get() {
            return Ok(engine);
        }
        let opened = (self.open_engine)(self.place.index.clone())?;
        Ok(self.engine.get_or_init(|| opened))
    }

    /// Its URL.
    pub(crate) fn url(&self) -> &str {
        self.place.index.url().as_str()
    }

    /// Refused if there is nothing of the log `log` there.
    pub(crate) async fn require_log(&self, log: &LogId) -> Result<(), IngestError> {
        let index = &self.place.index;
        for folder in FOLDERS {
            if index.list(&format!("{folder}/{log}"), None).try_next().await?.is_some() {
                return Ok(());
            }
        }
        for folder in FOLDERS {
            let other = index.list(folder, None).try_next().await?;
            if let Some(found) = other.as_ref().and_then(|other| other.key.split('/').nth(1)) {
                let (url, log, found) = (self.url().to_owned(), log.clone(), found.to_owned());
                return Err(IngestError::OriginOfAnotherLog { url, log, found });
            }
        }
        Err(IngestError::NothingRecorded { url: self.url().to_owned() })
    }

    /// What the snapshot `name` holds. Refused unless it is of the log of `root`, where that is.
    pub(crate) async fn read(&self, name: &str, root: &RootChain) -> Result<Manifest, IngestError> {
        let pin = self.place.pins.register().await?.pins.remove(name);
        let removed = || CatalogError::Corrupt {
            key: self.place.index.url_of("snapshots"),
            why: format!("the snapshot \"{name}\" was removed meanwhile"),
        };
        let manifest = self.place.pins.read_list(&pin.ok_or_else(removed)?).await?;
        let log = root.identity().await?;
        manifest.require_log(self.url(), &log).map_err(CatalogError::from)?;
        Ok(manifest)
    }
}

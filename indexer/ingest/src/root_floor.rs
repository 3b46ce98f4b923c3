//! The log's floor as the root has it, for the reader of the log.

use std::fmt;

use async_trait::async_trait;
use tidemark_catalog::{CatalogError, RootChain};
use tidemark_store::{StoreError, StoreSecond, error_chain};
use tidemark_wal::LogFloorSource;

/// Reads the floor from the log's root. Every call reads it again.
pub struct RootFloor(pub RootChain);

#[async_trait]
impl LogFloorSource for RootFloor {
    async fn floor(&self) -> Result<StoreSecond, StoreError> {
        let failed = |error: CatalogError| match error {
            CatalogError::Store(error) => error,
            error => StoreError::Failed {
                url: self.0.chain().store().url().to_string(),
                key: "the log's floor".to_owned(),
                why: error_chain(&error),
            },
        };
        let root = self.0.state().await.map_err(failed)?;
        Ok(root.floor.map(|floor| floor.second.second()).unwrap_or_default())
    }
}

impl fmt::Debug for RootFloor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RootFloor").field(&self.0.chain().store().url().as_str()).finish()
    }
}

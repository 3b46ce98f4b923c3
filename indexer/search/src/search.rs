//! What the HTTP layer needs of a search service.

use std::time::Duration;

use async_trait::async_trait;
use tidemark_ingest::FailureCause;
use tidemark_wal::Token;

use crate::{
    api::{EntityAnswer, EntityRequest, EntryAnswer, SearchAnswer, SearchRequest, StatusAnswer},
    error::SearchError,
};

/// What the HTTP layer needs of a search service. The one real implementation is the `IndexSearcher`; tests have a fake.
#[async_trait]
pub trait SearchService: Send + Sync + 'static {
    /// Answers a search.
    async fn search(&self, request: SearchRequest) -> Result<SearchAnswer, SearchError>;
    /// One entry with its operations.
    async fn entry(&self, token: Token) -> Result<EntryAnswer, SearchError>;
    /// The history of an entity.
    async fn entity(&self, request: EntityRequest) -> Result<EntityAnswer, SearchError>;
    /// How far the index is. Never fails and never waits: it tells what is known.
    fn status(&self) -> Option<StatusAnswer>;
    /// Why there is no status yet.
    fn not_ready(&self) -> String {
        "no manifest was read yet".to_owned()
    }
    /// What keeps the service from being current, with the words for people.
    fn failures(&self) -> Vec<(FailureCause, String)> {
        Vec::new()
    }
    /// Waits until the entry `token` is visible, sealed or in the overlay.
    async fn wait_for(&self, token: Token, timeout: Duration) -> Result<(), SearchError>;
}

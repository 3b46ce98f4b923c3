//! What the HTTP layer needs of search.

use std::time::Duration;

use async_trait::async_trait;
use tidemark_ingest::FailureCause;
use tidemark_wal::Token;

use super::{
    api::{
        ChangesAnswer, ChangesRequest, EntityAnswer, EntityRequest, EntryAnswer, FeedPosition, LineageAnswer,
        LineageRequest, SearchAnswer, SearchRequest, StatusAnswer,
    },
    error::SearchError,
    export::SearchExport,
};

/// Search as the HTTP layer uses it. [`IndexSearcher`](crate::IndexSearcher) implements it, and a fake in the HTTP tests.
#[async_trait]
pub trait SearchService: Send + Sync + 'static {
    /// Answers a search.
    async fn search(&self, request: SearchRequest) -> Result<SearchAnswer, SearchError>;
    /// One entry with its operations.
    async fn entry(&self, token: Token) -> Result<EntryAnswer, SearchError>;
    /// The history of an entity.
    async fn entity(&self, request: EntityRequest) -> Result<EntityAnswer, SearchError>;
    /// The relatives of a bundle.
    async fn lineage(&self, request: LineageRequest) -> Result<LineageAnswer, SearchError>;
    /// All hits of a search, by token, the oldest first. The sort, page and counts of the request are ignored.
    async fn export(&self, request: SearchRequest) -> Result<SearchExport, SearchError>;
    /// The next changes. Waits for one, if there is none, for as long as the request says.
    async fn changes(&self, request: ChangesRequest) -> Result<ChangesAnswer, SearchError>;
    /// Waits until something is published after the position, for so long at most. Gives whether there is something to read there, which may be
    /// that the position means nothing here. Reads from no store.
    async fn published_after(&self, position: &FeedPosition, wait: Duration) -> Result<bool, SearchError>;
    /// What the search knows about the index; `None` before it has read a manifest. Never fails and never waits.
    fn status(&self) -> Option<StatusAnswer>;
    /// Why there is no status yet.
    fn not_ready(&self) -> String {
        "no manifest was read yet".to_owned()
    }
    /// What keeps the search from being current, each with a message.
    fn failures(&self) -> Vec<(FailureCause, String)> {
        Vec::new()
    }
    /// Waits until the entry `token` is visible, sealed or in the overlay.
    async fn wait_for(&self, token: Token, timeout: Duration) -> Result<(), SearchError>;
}

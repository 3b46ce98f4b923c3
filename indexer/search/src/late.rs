//! Search that is there from the first moment and answers once the index is open.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use tidemark_wal::Token;

use super::{
    SearchError, SearchService,
    api::{EntityAnswer, EntityRequest, EntryAnswer, SearchAnswer, SearchRequest, StatusAnswer},
};
use tidemark_ingest::FailureCause;

/// What is told as long as nothing is open.
const NOT_OPEN: &str = "the index is not open yet; \"v1/process\" tells what is wrong, if anything is";

/// A search service that is put in place later.
#[derive(Default)]
pub struct LateSearch(ArcSwapOption<Arc<dyn SearchService>>);

impl LateSearch {
    /// Everything is answered by `search` from now on.
    pub fn set(&self, search: Arc<dyn SearchService>) {
        self.0.store(Some(Arc::new(search)));
    }

    fn get(&self) -> Result<Arc<dyn SearchService>, SearchError> {
        let open = self.0.load().as_deref().cloned();
        open.ok_or_else(|| SearchError::NotReady { detail: NOT_OPEN.to_owned() })
    }
}

#[async_trait]
impl SearchService for LateSearch {
    async fn search(&self, request: SearchRequest) -> Result<SearchAnswer, SearchError> {
        self.get()?.search(request).await
    }

    async fn entry(&self, token: Token) -> Result<EntryAnswer, SearchError> {
        self.get()?.entry(token).await
    }

    async fn entity(&self, request: EntityRequest) -> Result<EntityAnswer, SearchError> {
        self.get()?.entity(request).await
    }

    fn status(&self) -> Option<StatusAnswer> {
        self.get().ok()?.status()
    }

    fn not_ready(&self) -> String {
        self.get().map_or_else(|error| error.to_string(), |search| search.not_ready())
    }

    fn failures(&self) -> Vec<(FailureCause, String)> {
        self.get().map(|search| search.failures()).unwrap_or_default()
    }

    async fn wait_for(&self, token: Token, timeout: Duration) -> Result<(), SearchError> {
        self.get()?.wait_for(token, timeout).await
    }
}

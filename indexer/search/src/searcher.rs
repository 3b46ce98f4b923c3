//! The search service: admits a query, finds the view that answers it, and runs it on a thread of its own.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use tidemark_ingest::FailureCause;
use tidemark_wal::Token;
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use super::{
    api::{EntityAnswer, EntityRequest, EntryAnswer, SearchAnswer, SearchRequest, StatusAnswer},
    error::SearchError,
    follower::IndexFollower,
    limits::{QueryDeadline, QueryLimits},
    page_cursor::{PageCursor, entity_query_hash, query_hash},
    query_compiler::QueryCompiler,
    search_context::{self, SearchContext},
    service::SearchService,
    term_cache::TermCache,
};
use crate::segment::SchemaFields;

/// The answer to every request before an index is open.
const NOT_OPEN: &str =
    "the index is not open yet; nothing can be searched; \"v1/process\" reports what is wrong, if anything";

/// The search service of a process. It exists before its index is open: until [`serve`](Self::serve) every request is
/// refused with [`SearchError::NotReady`].
pub struct IndexSearcher {
    limits: QueryLimits,
    permits: Arc<Semaphore>,
    fields: Arc<SchemaFields>,
    compiler: Arc<QueryCompiler>,
    terms: Arc<TermCache>,
    follower: ArcSwapOption<IndexFollower>,
}

impl Default for IndexSearcher {
    fn default() -> Self {
        Self::new(QueryLimits::default())
    }
}

impl IndexSearcher {
    /// A service without an index.
    pub fn new(limits: QueryLimits) -> Self {
        let fields = Arc::new(SchemaFields::current());
        Self {
            limits,
            permits: Arc::new(Semaphore::new(limits.max_concurrent)),
            compiler: Arc::new(QueryCompiler::new(&fields)),
            fields,
            terms: Arc::default(),
            follower: ArcSwapOption::empty(),
        }
    }

    /// Answers from the views of `follower` from now on. Queries that run already end on the view that they began with.
    pub fn serve(&self, follower: Arc<IndexFollower>) {
        self.follower.store(Some(follower));
    }

    fn follower(&self) -> Result<Arc<IndexFollower>, SearchError> {
        self.follower.load_full().ok_or_else(|| SearchError::NotReady { detail: NOT_OPEN.to_owned() })
    }

    /// The view, and the place in it, at which the page of `cursor` starts; without a cursor the newest view.
    async fn context(&self, cursor: Option<&str>, query_hash: u64) -> Result<SearchContext, SearchError> {
        let follower = self.follower()?;
        let (view, after) = match cursor {
            None => (follower.view()?, None),
            Some(text) => {
                let cursor = PageCursor::read(text, query_hash)?;
                (follower.view_at(&cursor).await?, cursor.after)
            }
        };
        let (compiler, fields) = (self.compiler.clone(), self.fields.clone());
        let (schema, terms) = (follower.schema().clone(), self.terms.clone());
        Ok(SearchContext { view, compiler, fields, schema, terms, after, query_hash })
    }

    /// Runs a query on a thread that may block, within the limits on queries.
    async fn run<T: Send + 'static>(
        &self,
        query: impl FnOnce(QueryDeadline) -> Result<T, SearchError> + Send + 'static,
    ) -> Result<T, SearchError> {
        let QueryLimits { max_concurrent, admission_timeout, query_timeout } = self.limits;
        let permit = timeout(admission_timeout, self.permits.clone().acquire_owned()).await;
        let permit = permit.ok().and_then(Result::ok).ok_or_else(|| SearchError::Overloaded {
            detail: format!("{max_concurrent} searches are running already; try again in a moment"),
        })?;
        let deadline = QueryDeadline::after(query_timeout);
        let running = spawn_blocking(move || {
            // The permit moves into the task: a blocking thread cannot be cancelled, and a query whose
            // caller has gone keeps its place until it ends.
            let _permit = permit;
            query(deadline)
        });
        // The query checks its deadline itself; this is for one that reads from a store that hangs.
        match timeout(query_timeout + admission_timeout, running).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(panic)) => Err(SearchError::Internal { detail: format!("a search failed: {panic}") }),
            Err(_) => Err(deadline.error()),
        }
    }
}

#[async_trait]
impl SearchService for IndexSearcher {
    async fn search(&self, request: SearchRequest) -> Result<SearchAnswer, SearchError> {
        let context = self.context(request.cursor.as_deref(), query_hash(&request)).await?;
        self.run(move |deadline| context.search(&request, deadline)).await
    }

    async fn entry(&self, token: Token) -> Result<EntryAnswer, SearchError> {
        let (view, fields) = (self.follower()?.view()?, self.fields.clone());
        self.run(move |_| search_context::entry(&view, &fields, token)).await
    }

    async fn entity(&self, request: EntityRequest) -> Result<EntityAnswer, SearchError> {
        let context = self.context(request.cursor.as_deref(), entity_query_hash(&request)).await?;
        self.run(move |deadline| context.entity(&request, deadline)).await
    }

    fn status(&self) -> Option<StatusAnswer> {
        self.follower().ok()?.status()
    }

    fn not_ready(&self) -> String {
        self.follower().map_or_else(|error| error.to_string(), |follower| follower.not_ready())
    }

    fn failures(&self) -> Vec<(FailureCause, String)> {
        self.follower().map(|follower| follower.failures()).unwrap_or_default()
    }

    async fn wait_for(&self, token: Token, timeout: Duration) -> Result<(), SearchError> {
        self.follower()?.wait_for(token, timeout).await
    }
}

//! The search service: admits a query, finds the view that answers it, and runs it on a thread of its own.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use tidemark_ingest::FailureCause;
use tidemark_wal::Token;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use super::{
    api::{
        ChangesAnswer, ChangesRequest, EntityAnswer, EntityRequest, EntryAnswer, FeedStart, LineageAnswer,
        LineageRequest, SearchAnswer, SearchRequest, StatusAnswer,
    },
    change_feed,
    error::SearchError,
    export::{self, SearchExport},
    feed_checkpoints::FeedCheckpoints,
    feed_position::FeedPosition,
    feed_start,
    follower::IndexFollower,
    limits::QueryLimits,
    lineage,
    page_cursor::{PageCursor, entity_query_hash, query_hash},
    query_compiler::QueryCompiler,
    query_runner::QueryRunner,
    search_context::{self, SearchContext},
    service::SearchService,
    term_cache::TermCache,
};
use crate::segment::SchemaFields;

/// The answer to every request before an index is open.
const NOT_OPEN: &str =
    "the index is not open yet; nothing can be searched; \"v1/process\" reports what is wrong, if anything";

/// How many pages of changes are read at once, of [`QueryLimits::max_concurrent`] places.
pub(crate) const MAX_CHANGE_PAGES: usize = 4;

/// The search service of a process. It exists before its index is open: until [`serve`](Self::serve) every request is
/// refused with [`SearchError::NotReady`].
pub struct IndexSearcher {
    runner: QueryRunner,
    /// The places of exports.
    exports: Arc<Semaphore>,
    /// The places of pages of changes: those that wait for one wait here, and not before searches.
    pub(crate) change_pages: Arc<Semaphore>,
    compiler: Arc<QueryCompiler>,
    terms: Arc<TermCache>,
    follower: ArcSwapOption<IndexFollower>,
    checkpoints: FeedCheckpoints,
}

impl Default for IndexSearcher {
    fn default() -> Self {
        Self::new(QueryLimits::default())
    }
}

impl IndexSearcher {
    /// A service without an index.
    pub fn new(limits: QueryLimits) -> Self {
        Self {
            runner: QueryRunner::new(limits),
            exports: Arc::new(Semaphore::new(limits.max_exports)),
            change_pages: Arc::new(Semaphore::new(MAX_CHANGE_PAGES)),
            compiler: Arc::new(QueryCompiler::new(&Arc::new(SchemaFields::current()))),
            terms: Arc::default(),
            follower: ArcSwapOption::empty(),
            checkpoints: FeedCheckpoints::default(),
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
        let compiler = self.compiler.clone();
        let (schema, terms) = (follower.schema().clone(), self.terms.clone());
        let schedule = follower.schedule();
        Ok(SearchContext { view, compiler, schema, terms, after, query_hash, schedule })
    }

    /// The next changes that there are.
    async fn page_of_changes(
        &self,
        follower: &IndexFollower,
        request: &ChangesRequest,
    ) -> Result<ChangesAnswer, SearchError> {
        // Before the place is taken: it reads from a store.
        let served = follower.view()?.index.clone();
        let checkpoints = self.checkpoints.known(&follower.chain(), &served.manifest).await;
        let place = self.change_pages.clone().acquire_owned().await;
        let place = place.map_err(|error| SearchError::Internal { detail: error.to_string() })?;
        let context = self.context(None, 0).await?;
        let start = feed_start::page_start(&follower.chain(), &context.view.index.manifest, &request.start).await?;
        let request = request.clone();
        let page = move |deadline| {
            // Held for as long as the thread is, also where the client has gone.
            let _place = place;
            change_feed::changes(&context, &request, start, &checkpoints, deadline)
        };
        self.runner.run_in_turn(page).await
    }
}

#[async_trait]
impl SearchService for IndexSearcher {
    async fn search(&self, request: SearchRequest) -> Result<SearchAnswer, SearchError> {
        let context = self.context(request.cursor.as_deref(), query_hash(&request)).await?;
        self.runner.run(move |deadline| context.search(&request, deadline)).await
    }

    async fn entry(&self, token: Token) -> Result<EntryAnswer, SearchError> {
        let (follower, compiler) = (self.follower()?, self.compiler.clone());
        let (view, schedule) = (follower.view()?, follower.schedule());
        self.runner.run(move |_| search_context::entry(&view, compiler.fields(), schedule.as_deref(), token)).await
    }

    async fn entity(&self, request: EntityRequest) -> Result<EntityAnswer, SearchError> {
        let context = self.context(request.cursor.as_deref(), entity_query_hash(&request)).await?;
        self.runner.run(move |deadline| context.entity(&request, deadline)).await
    }

    async fn lineage(&self, request: LineageRequest) -> Result<LineageAnswer, SearchError> {
        let context = self.context(None, 0).await?;
        self.runner.run(move |deadline| lineage::lineage(&context, &request, deadline)).await
    }

    async fn export(&self, request: SearchRequest) -> Result<SearchExport, SearchError> {
        let slot = self.exports.clone().try_acquire_owned().map_err(|_| SearchError::Overloaded {
            detail: "too many exports are running already; try again when one has ended".to_owned(),
        })?;
        let context = self.context(None, 0).await?;
        export::export(context, request, self.runner.clone(), slot).await
    }

    async fn changes(&self, mut request: ChangesRequest) -> Result<ChangesAnswer, SearchError> {
        let (follower, ends) = (self.follower()?, Instant::now() + request.wait);
        loop {
            let answer = self.page_of_changes(&follower, &request).await?;
            // A page that has used up its time without a change has moved on: the client has to know how far.
            if !answer.changes.is_empty() || answer.more || Instant::now() >= ends {
                return Ok(answer);
            }
            if !self.published_after(&answer.next, ends.saturating_duration_since(Instant::now())).await? {
                return Ok(answer);
            }
            request.start = FeedStart::After(answer.next);
        }
    }

    async fn published_after(&self, position: &FeedPosition, wait: Duration) -> Result<bool, SearchError> {
        let (follower, ends) = (self.follower()?, Instant::now() + wait);
        let mut views = follower.subscribe();
        // Most views have more of what is not sealed, and no further record.
        while position.is_end_of(&follower.view()?.index.manifest) {
            if !matches!(timeout_at(ends, views.changed()).await, Ok(Ok(()))) {
                return Ok(false);
            }
        }
        Ok(true)
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

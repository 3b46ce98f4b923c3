//! The search service over one index: keeps a view current, and answers from it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use tidemark_catalog::{CatalogError, IndexChain, Manifest};
use tidemark_store::ChainRecord;
use tidemark_wal::{Log, LogReader, ParameterSource, ReaderLimits, Token};
use tokio::{
    sync::{Semaphore, watch},
    task::spawn_blocking,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    SearchError, SearchService,
    answer::{self, Question},
    api::{EntityAnswer, EntityRequest, EntryAnswer, SearchAnswer, SearchRequest, StatusAnswer},
    execute::Deadline,
    kept::{Kept, Opened},
    overlay::{Bounds, News, Overlay},
    page::{Cursor, Place, question_of, question_of_entity, refused, stamp_of},
    parts::engine_error,
    query::Language,
    status,
    tail::{Tail, any_schedule, batches, news_of},
    view::{Listed, View},
};
use crate::index::{Snapshot, TantivyEngine};
use tidemark_ingest::{FailureCause, engine::EngineError};

/// How long the waits between two looks at catalog and log are, while there is news and when there is none.
const PACE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// What a search service may take.
#[derive(Clone, Debug)]
pub struct SearcherOptions {
    /// How long one search may take.
    pub query_timeout: Duration,
    /// How many searches run at once.
    pub queries: usize,
    /// How long a search waits for one of those places.
    pub admission: Duration,
    /// Most operations in the overlay.
    pub overlay_documents: u64,
    /// Most bytes of memory of the overlay, about.
    pub overlay_bytes: u64,
    /// What is read of the log.
    pub limits: ReaderLimits,
}

impl Default for SearcherOptions {
    fn default() -> Self {
        Self {
            query_timeout: Duration::from_secs(10),
            queries: 16,
            admission: Duration::from_secs(2),
            overlay_documents: 200_000,
            overlay_bytes: 256 << 20,
            limits: ReaderLimits::default(),
        }
    }
}

/// The search service. [`IndexSearcher::run`] keeps it current; without it nothing is ever served.
pub struct IndexSearcher {
    engine: Arc<TantivyEngine>,
    chain: Mutex<IndexChain>,
    language: Arc<Language>,
    schema: tantivy::Searcher,
    options: SearcherOptions,
    view: ArcSwapOption<View>,
    /// Counts the views.
    changed: watch::Sender<u64>,
    /// Changed for a moment at a time, never while the log is read.
    state: tokio::sync::Mutex<State>,
    /// `None`: no log is read.
    tail: Option<tokio::sync::Mutex<Tail>>,
    reader: Option<LogReader>,
    kept: Kept,
    permits: Arc<Semaphore>,
    problems: Mutex<BTreeMap<&'static str, SearchError>>,
}

/// What is changed by one task at a time, each of which ends with a new view.
struct State {
    slot: Option<ChainRecord<Manifest>>,
    snapshot: Option<Arc<Snapshot>>,
    overlay: Arc<Mutex<Overlay>>,
    listed: Listed,
}

impl IndexSearcher {
    /// A service over the index of `chain`. With a `log`, entries that are not sealed are served too.
    pub fn new(
        engine: Arc<TantivyEngine>,
        chain: IndexChain,
        log: Option<(&Log, Arc<dyn ParameterSource>)>,
        options: SearcherOptions,
    ) -> Result<Arc<Self>, EngineError> {
        let fields = engine.fields().clone();
        let bounds = Bounds { documents: options.overlay_documents, bytes: options.overlay_bytes };
        let tail = log.map(|(log, parameters)| Tail::new(log, parameters, options.limits));
        let overlay = Arc::new(Mutex::new(Overlay::new(&fields, bounds)));
        let state = State { slot: None, snapshot: None, overlay, listed: Listed::default() };
        Ok(Arc::new(Self {
            language: Arc::new(Language::new(&fields)),
            schema: answer::schema_searcher().map_err(|e| answer::refused("prepare searches", &e))?,
            permits: Arc::new(Semaphore::new(options.queries)),
            engine,
            chain: Mutex::new(chain),
            options,
            view: ArcSwapOption::empty(),
            changed: watch::Sender::new(0),
            state: tokio::sync::Mutex::new(state),
            reader: tail.as_ref().map(Tail::reader),
            tail: tail.map(tokio::sync::Mutex::new),
            kept: Kept::default(),
            problems: Mutex::default(),
        }))
    }

    /// Follows the catalog and the log until `stop`. A failure of either is told by [`SearchService::status`] and tried again.
    pub async fn run(&self, stop: CancellationToken) {
        let following = async { tokio::join!(self.follow_catalog(), self.follow_log()) };
        stop.run_until_cancelled(Box::pin(following)).await;
    }

    async fn follow_catalog(&self) {
        let mut pace = PACE.0;
        loop {
            let news = self.refresh_manifest().await;
            self.report("index", news.as_ref().err());
            pace = next_pace(pace, matches!(news, Ok(true)));
            // An entry that the horizon passes is sealed a moment later: a look in time, even after a long silence.
            let quiet = self.view.load().as_ref().and_then(|view| view.quiet());
            sleep(quiet.map_or(pace, |quiet| pace.min(quiet.max(PACE.0)))).await;
        }
    }

    async fn follow_log(&self) {
        let mut pace = PACE.0;
        loop {
            if self.view.load().is_some() {
                let news = self.refresh_tail().await;
                self.report("log", news.as_ref().err());
                pace = next_pace(pace, matches!(news, Ok(true)));
            }
            sleep(pace).await;
        }
    }

    /// Looks for a newer manifest and serves it. Tells whether there was one.
    pub async fn refresh_manifest(&self) -> Result<bool, SearchError> {
        let chain = self.chain();
        let known = self.state.lock().await.slot.clone();
        let newer = match &known {
            Some(slot) => chain.poll_newer(slot).await,
            None => chain.latest().await,
        };
        let newer = newer.map_err(|e| chain_error(&e))?;
        let manifest = match (&newer, &known) {
            (None, Some(_)) => return Ok(false),
            (Some(slot), _) => slot.state.clone(),
            (None, None) if self.view.load().is_some() => return Ok(false),
            (None, None) => return Err(no_index(&chain)),
        };
        if manifest.closed.is_some() {
            return self.follow_generation(chain).await;
        }
        let snapshot = self.engine.snapshot(&manifest).await.map_err(engine_error)?;
        self.serve(newer, snapshot).await.map_err(engine_error)?;
        Ok(true)
    }

    /// The generation was closed: its successor is served from now on.
    async fn follow_generation(&self, chain: IndexChain) -> Result<bool, SearchError> {
        let next = chain.follow().await.map_err(|e| chain_error(&e))?;
        self.state.lock().await.slot = None;
        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(true)
    }

    async fn serve(&self, slot: Option<ChainRecord<Manifest>>, snapshot: Arc<Snapshot>) -> Result<(), EngineError> {
        let mut state = self.state.lock().await;
        let cursor = snapshot.manifest.cursor;
        if let Some(slot) = &slot {
            self.kept.served(Opened::new(slot, snapshot.clone()));
        }
        state.slot = slot;
        state.snapshot = Some(snapshot);
        // The tail loses what the manifest gained in the same swap.
        change(&state.overlay, move |overlay| overlay.seal(cursor)).await?;
        self.publish(&state);
        Ok(())
    }

    /// Looks for entries beyond the cursor. Tells whether there were any.
    pub async fn refresh_tail(&self) -> Result<bool, SearchError> {
        let Some(tail) = &self.tail else { return Ok(false) };
        let mut tail = tail.lock().await;
        let (sealed, overlay, mut listed) = {
            let state = self.state.lock().await;
            let Some(snapshot) = &state.snapshot else { return Ok(false) };
            ((snapshot.manifest.cursor, snapshot.manifest.horizon), state.overlay.clone(), state.listed)
        };
        let room = lock(&overlay).room();
        let known = |token: &Token| lock(&overlay).contains(token);
        let (entries, beyond) = tail.list(sealed, &mut listed, room, known).await.map_err(|e| storage(&e))?;
        for token in beyond {
            lock(&overlay).drop_entry(token);
        }
        self.state.lock().await.listed = listed;
        self.take_in(&mut tail, &entries).await
    }

    /// Reads new entries, and those again that were not complete.
    async fn take_in(&self, tail: &mut Tail, entries: &[tidemark_wal::ListedEntry]) -> Result<bool, SearchError> {
        let mut failure = None;
        let overlay = self.state.lock().await.overlay.clone();
        for batch in batches(entries) {
            let (batch, beyond) = batch.split_at(lock(&overlay).room().min(batch.len()));
            for entry in beyond {
                lock(&overlay).drop_entry(entry.token);
            }
            if batch.is_empty() {
                continue;
            }
            let (news, failed) = tail.fetch(batch).await;
            failure = failed.or(failure);
            self.add(news).await?;
        }
        let incomplete: Vec<Token> = lock(&overlay).incomplete().collect();
        let due = tail.due(incomplete.into_iter());
        let (news, failed) = tail.look_again(&due).await;
        self.add(news).await?;
        match failed.or(failure) {
            Some(error) => Err(storage(&error)),
            None => Ok(!entries.is_empty()),
        }
    }

    /// Adds entries to the tail and serves them.
    async fn add(&self, news: Vec<News>) -> Result<(), SearchError> {
        let state = self.state.lock().await;
        if !news.is_empty() {
            change(&state.overlay, move |overlay| overlay.add(news)).await.map_err(engine_error)?;
        }
        self.publish(&state);
        Ok(())
    }

    /// Makes the state what searches see.
    fn publish(&self, state: &State) {
        let Some(snapshot) = &state.snapshot else { return };
        let opened = match &state.slot {
            Some(slot) => Opened::new(slot, snapshot.clone()),
            None => Opened { number: 0, stamp: 0, snapshot: snapshot.clone() },
        };
        let overlay = lock(&state.overlay);
        let overlay = self.tail.is_some().then_some((&*overlay, &state.listed));
        let view = View::new(opened, overlay);
        self.view.store(Some(Arc::new(view)));
        self.changed.send_modify(|views| *views += 1);
    }

    fn chain(&self) -> IndexChain {
        self.chain.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn report(&self, what: &'static str, problem: Option<&SearchError>) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(problem) = problem else {
            problems.remove(what);
            return;
        };
        let known = problems.insert(what, problem.clone());
        if known.is_none_or(|known| known.to_string() != problem.to_string()) {
            tracing::warn!(what, %problem, "search serves what it has and tries again");
        }
    }

    fn served(&self) -> Result<Arc<View>, SearchError> {
        self.view.load_full().ok_or_else(|| SearchError::NotReady { detail: self.not_ready() })
    }

    /// The view that a cursor's page is read from: its own manifest without a tail.
    async fn view_of<P>(&self, cursor: &Cursor<P>) -> Result<Arc<View>, SearchError> {
        let served = self.served()?;
        let generation = &served.snapshot.manifest.generation;
        if generation.to_string() != cursor.generation {
            return Err(SearchError::Gone {
                detail: format!(
                    "the cursor belongs to generation \"{}\", \"{generation}\" is served; start again without the cursor",
                    cursor.generation
                ),
            });
        }
        let opened = self.manifest(cursor.manifest, cursor.stamp).await?;
        Ok(Arc::new(View::new(opened, None)))
    }

    async fn manifest(&self, number: u64, stamp: u64) -> Result<Opened, SearchError> {
        if let Some(opened) = self.kept.find(number, stamp) {
            return Ok(opened);
        }
        let gone = || SearchError::Gone {
            detail: format!("manifest {number} is not kept any more; start again without the cursor"),
        };
        let slot = self.chain().chain().read(number).await.map_err(|e| chain_error(&e))?;
        let slot = slot.ok_or_else(gone)?;
        if stamp_of(&slot.hash) != stamp {
            return Err(refused("belongs to another index"));
        }
        let snapshot = self.engine.snapshot(&slot.state).await.map_err(|error| match error {
            EngineError::Gone { .. } => gone(),
            error => engine_error(error),
        })?;
        let opened = Opened::new(&slot, snapshot);
        self.kept.asked(opened.clone());
        Ok(opened)
    }

    /// Runs a question on a thread of its own, within the bounds on searches.
    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(Deadline) -> Result<T, SearchError> + Send + 'static,
    ) -> Result<T, SearchError> {
        let permit = timeout(self.options.admission, self.permits.clone().acquire_owned()).await;
        let permit = permit.ok().and_then(Result::ok).ok_or_else(|| SearchError::Overloaded {
            detail: format!("{} searches are running already; try again in a moment", self.options.queries),
        })?;
        let deadline = Deadline::after(self.options.query_timeout);
        // The place is given back when the work ends, also when nobody waits for it any more.
        let running = spawn_blocking(move || {
            let _permit = permit;
            work(deadline)
        });
        match timeout(self.options.query_timeout + self.options.admission, running).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(panic)) => Err(SearchError::Internal { detail: format!("a search failed: {panic}") }),
            Err(_) => Err(deadline.error()),
        }
    }

    fn question(&self, view: Arc<View>, after: Option<Place>, stamp: u64) -> Question {
        Question { view, language: self.language.clone(), schema: self.schema.clone(), after, stamp }
    }

    /// Looks in the log for an entry that no listing showed yet, and serves it if it is there.
    async fn fetch_entry(&self, token: Token) -> Result<(), SearchError> {
        let Some(reader) = &self.reader else { return Ok(()) };
        // While the index is far behind, what lies before the tail is visible once it is indexed.
        if token.second() < self.state.lock().await.listed.start {
            return Ok(());
        }
        match reader.lookup(token, &any_schedule()).await.map_err(|e| storage(&e))? {
            Some(resolved) => self.add(vec![news_of(&resolved)]).await,
            None => Ok(()),
        }
    }

    fn shows(&self, token: &Token) -> Result<bool, SearchError> {
        match self.view.load_full() {
            Some(view) => view.shows(self.engine.fields(), token).map_err(engine_error),
            None => Ok(false),
        }
    }
}

#[async_trait]
impl SearchService for IndexSearcher {
    async fn search(&self, request: SearchRequest) -> Result<SearchAnswer, SearchError> {
        let stamp = question_of(&request);
        let (view, after) = match &request.cursor {
            None => (self.served()?, None),
            Some(text) => {
                let cursor = Cursor::read(text, stamp)?;
                (self.view_of(&cursor).await?, cursor.after)
            }
        };
        let question = self.question(view, after, stamp);
        self.ask(move |deadline| question.search(&request, deadline)).await
    }

    async fn entry(&self, token: Token) -> Result<EntryAnswer, SearchError> {
        let view = self.served()?;
        let fields = self.engine.fields().clone();
        self.ask(move |_| answer::entry(&view, &fields, token)).await
    }

    async fn entity(&self, request: EntityRequest) -> Result<EntityAnswer, SearchError> {
        let stamp = question_of_entity(&request);
        let (view, after) = match &request.cursor {
            None => (self.served()?, None),
            Some(text) => {
                let cursor = Cursor::read(text, stamp)?;
                (self.view_of(&cursor).await?, cursor.after)
            }
        };
        let question = self.question(view, after, stamp);
        self.ask(move |deadline| question.entity(&request, deadline)).await
    }

    fn status(&self) -> Option<StatusAnswer> {
        let view = self.view.load_full()?;
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        Some(status::of(&view, problems.values().map(ToString::to_string).collect()))
    }

    fn not_ready(&self) -> String {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let why = problems.get("index").map_or_else(|| "it is being opened".to_owned(), ToString::to_string);
        format!("the index is not served yet: {why}; try again in a moment")
    }

    fn failures(&self) -> Vec<(FailureCause, String)> {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems.values().filter_map(|problem| Some((problem.to_cause()?, problem.to_string()))).collect()
    }

    async fn wait_for(&self, token: Token, timeout: Duration) -> Result<(), SearchError> {
        let ends = Instant::now() + timeout;
        let mut changed = self.changed.subscribe();
        let mut pace = Duration::from_millis(50);
        loop {
            changed.borrow_and_update();
            if self.shows(&token)? {
                return Ok(());
            }
            if Instant::now() >= ends {
                return Err(SearchError::NotVisible { token, waited: timeout });
            }
            // Looking for the entry itself is quicker than the next listing.
            if let Ok(Err(error)) = timeout_at(ends, self.fetch_entry(token)).await {
                tracing::debug!(%token, %error, "an entry that is waited for cannot be looked up");
            }
            let _ = timeout_at(ends.min(Instant::now() + pace), changed.changed()).await;
            pace = (pace * 2).min(PACE.0);
        }
    }
}

/// Changes the overlay on a thread that may block. Goes through to its end even if nobody waits for it any more.
async fn change(
    overlay: &Arc<Mutex<Overlay>>,
    work: impl FnOnce(&mut Overlay) -> Result<(), EngineError> + Send + 'static,
) -> Result<(), EngineError> {
    let overlay = overlay.clone();
    let changed = spawn_blocking(move || work(&mut lock(&overlay))).await;
    changed.map_err(|e| answer::refused("change the unsealed tail", &e))?
}

fn lock(overlay: &Mutex<Overlay>) -> MutexGuard<'_, Overlay> {
    overlay.lock().unwrap_or_else(PoisonError::into_inner)
}

fn next_pace(pace: Duration, news: bool) -> Duration {
    if news { PACE.0 } else { (pace * 2).min(PACE.1) }
}

fn no_index(chain: &IndexChain) -> SearchError {
    let index = chain.index().url();
    SearchError::NotReady {
        detail: format!("\"{index}\" holds no index yet; it is served as soon as `tidemark index` has begun it"),
    }
}

fn chain_error(error: &CatalogError) -> SearchError {
    SearchError::stored(error)
}

fn storage(error: &tidemark_store::StoreError) -> SearchError {
    SearchError::stored(error)
}

//! Follows one index and its log: each newer manifest and each new entry becomes a view that queries run on.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::StreamExt as _;
use parking_lot::Mutex;
use tidemark_catalog::{CatalogError, GARBAGE_GRACE, IndexChain, IndexId, LogId, Manifest};
use tidemark_ingest::{FailureCause, engine::EngineError};
use tidemark_store::ChainRecord;
use tidemark_wal::{Log, LogReader, MemoryBudget, ParameterSchedule, ParameterSource, Token};
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    api::StatusAnswer,
    error::SearchError,
    manifest_cache::{ManifestCache, OpenManifest},
    overlay::tail_index::{TailEntry, TailIndex, TailIndexLimits},
    overlay::tail_reader::{ListedTail, TailBatch, TailFetch, TailReader, default_schedule},
    page_cursor::{PageCursor, refused_cursor, view_fingerprint},
    search_context::schema_searcher,
    search_view::{SearchView, TailListing},
    searchable_segment::engine_error,
    status,
};
use crate::segment::{ManifestView, TantivyEngine, refused};

/// How often catalog and log are polled while there is something new.
const MIN_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How often they are polled after a while without anything new.
/// With it an idle replica makes 27 requests a minute (BENCHMARKS.md, section (c)).
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(5);
const POLL_INTERVALS: ExponentialBuilder =
    ExponentialBuilder::new().with_min_delay(MIN_POLL_INTERVAL).with_max_delay(MAX_POLL_INTERVAL).without_max_times();
/// How often an entry that a request waits for is looked up.
const LOOKUP_INTERVALS: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(50))
    .with_max_delay(MIN_POLL_INTERVAL)
    .without_max_times();

/// How often segments that are read from the store are looked for on the disk: room appears there without a new manifest.
const REOPEN_INTERVAL: Duration = Duration::from_mins(1);

/// For how long objects of a manifest are read from the store after the last poll that knew it for the latest one, or made a newer one the
/// served one. What only it names is deleted a grace after its successor was recorded, which may have been at once.
const MAX_UNPOLLED: Duration = GARBAGE_GRACE.checked_div(2).unwrap();

/// The part of the overlay's memory that may be taken besides by what is read and not in the overlay yet; what requests ask
/// for by token may take as much.
const READING_SHARE: u64 = 8;

/// What a follower may hold.
#[derive(Clone, Debug)]
pub struct FollowerOptions {
    /// Most operations in the overlay.
    pub overlay_documents: u64,
    /// Most bytes of memory of the overlay, approximately.
    pub overlay_bytes: u64,
}

impl Default for FollowerOptions {
    fn default() -> Self {
        Self { overlay_documents: 200_000, overlay_bytes: 128 << 20 }
    }
}

/// Keeps the view of one index current. [`run`](Self::run) polls catalog and log; without it there is never a view.
pub struct IndexFollower {
    engine: Arc<TantivyEngine>,
    chain: Mutex<IndexChain>,
    schema: tantivy::Searcher,
    view: ArcSwapOption<SearchView>,
    /// Counts the views, so that waiting requests wake up.
    view_count: watch::Sender<u64>,
    /// Locked for a moment at a time, never while the log is read.
    state: tokio::sync::Mutex<FollowState>,
    /// `None`: no log is read.
    tail: Option<tokio::sync::Mutex<TailReader>>,
    reader: Option<LogReader>,
    /// The log's parameters as the tail read them last.
    schedule: ArcSwapOption<ParameterSchedule>,
    /// The memory for entries that requests ask for.
    request_budget: MemoryBudget,
    cache: ManifestCache,
    /// When the last poll of the catalog began that ended with its latest manifest served.
    polled: Mutex<Instant>,
    /// The last failure of what is polled, by its name.
    problems: Mutex<BTreeMap<&'static str, SearchError>>,
}

/// What the polling tasks change, one at a time; each change ends with a new view.
struct FollowState {
    slot: Option<ChainRecord<Manifest>>,
    index: Option<Arc<ManifestView>>,
    overlay: Arc<Mutex<TailIndex>>,
    listing: TailListing,
}

impl IndexFollower {
    /// Follows the index of `chain`. With a `log`, entries that are not sealed are in the views too.
    pub fn new(
        engine: Arc<TantivyEngine>,
        chain: IndexChain,
        log: Option<(&Log, Arc<dyn ParameterSource>)>,
        options: &FollowerOptions,
    ) -> Result<Arc<Self>, EngineError> {
        let limits = TailIndexLimits { documents: options.overlay_documents, bytes: options.overlay_bytes };
        let overlay = Arc::new(Mutex::new(TailIndex::new(engine.fields(), limits)));
        let reading = options.overlay_bytes / READING_SHARE;
        let tail = log.map(|(log, parameters)| TailReader::new(log, parameters, reading));
        let state = FollowState { slot: None, index: None, overlay, listing: TailListing::default() };
        Ok(Arc::new(Self {
            engine,
            chain: Mutex::new(chain),
            schema: schema_searcher().map_err(|e| refused("prepare searches", &e))?,
            view: ArcSwapOption::empty(),
            view_count: watch::Sender::new(0),
            state: tokio::sync::Mutex::new(state),
            reader: tail.as_ref().map(TailReader::reader),
            schedule: ArcSwapOption::empty(),
            tail: tail.map(tokio::sync::Mutex::new),
            request_budget: MemoryBudget::new(reading),
            cache: ManifestCache::default(),
            polled: Mutex::new(Instant::now()),
            problems: Mutex::default(),
        }))
    }

    /// Polls catalog and log until `stop`. A failure of either is in [`status`](Self::status) until a later poll succeeds.
    pub async fn run(&self, stop: CancellationToken) {
        let polling = async { tokio::join!(self.poll_catalog(), self.poll_log(), self.poll_disk()) };
        stop.run_until_cancelled(Box::pin(polling)).await;
    }

    async fn poll_catalog(&self) {
        let mut intervals = POLL_INTERVALS.build();
        loop {
            let news = self.refresh_manifest().await;
            self.report("index", news.as_ref().err());
            let interval = next_poll_interval(&mut intervals, matches!(news, Ok(true)));
            // The ingest seals an entry a moment after the horizon passed it: poll then, however long nothing was new.
            let quiet = self.view.load().as_ref().and_then(|view| view.time_until_news());
            sleep(quiet.map_or(interval, |quiet| interval.min(quiet.max(MIN_POLL_INTERVAL)))).await;
        }
    }

    async fn poll_log(&self) {
        let mut intervals = POLL_INTERVALS.build();
        let mut interval = MIN_POLL_INTERVAL;
        loop {
            // Before there is a manifest it is not known where the tail starts.
            if self.view.load().is_some() {
                let news = self.refresh_tail().await;
                self.report("log", news.as_ref().err());
                interval = next_poll_interval(&mut intervals, matches!(news, Ok(true)));
            }
            sleep(interval).await;
        }
    }

    async fn poll_disk(&self) {
        loop {
            // At once after a segment came to the disk: it is quicker there.
            let _ = timeout(REOPEN_INTERVAL, self.engine.segment_fetched()).await;
            let reopened = self.reopen_segments().await;
            self.report("disk", reopened.as_ref().err());
        }
    }

    /// Opens the served manifest again if some of its segments are read from the store: those that fit on the disk by now are fetched
    /// to it, and used from there the next time. Returns whether any is used from there now.
    async fn reopen_segments(&self) -> Result<bool, SearchError> {
        let Some(index) = self.state.lock().await.index.clone().filter(|index| !index.is_local()) else {
            return Ok(false);
        };
        let opened = self.engine.open_manifest(&index.manifest).await.map_err(engine_error)?;
        let mut state = self.state.lock().await;
        let served = state.index.as_ref().is_some_and(|served| Arc::ptr_eq(served, &index));
        if !served || opened.is_open_as(&index) {
            return Ok(false);
        }
        if let Some(slot) = &state.slot {
            self.cache.insert_served(OpenManifest::new(slot, opened.clone()));
        }
        state.index = Some(opened);
        self.publish(&state);
        Ok(true)
    }

    /// Polls the catalog for a newer manifest and serves it. Returns whether there was one.
    pub async fn refresh_manifest(&self) -> Result<bool, SearchError> {
        let begun = Instant::now();
        let news = self.poll_manifest().await?;
        *self.polled.lock() = begun;
        Ok(news)
    }

    async fn poll_manifest(&self) -> Result<bool, SearchError> {
        let chain = self.chain.lock().clone();
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
        // Searches go on meanwhile with what is served, and with the overlay.
        self.engine.fetch_if_all_is_local(&manifest).await;
        let index = self.engine.open_manifest(&manifest).await.map_err(engine_error)?;
        self.set_manifest(newer, index).await.map_err(engine_error)?;
        Ok(true)
    }

    /// The generation was closed: its successor is served from now on.
    async fn follow_generation(&self, chain: IndexChain) -> Result<bool, SearchError> {
        let next = chain.follow().await.map_err(|e| chain_error(&e))?;
        self.state.lock().await.slot = None;
        *self.chain.lock() = next;
        Ok(true)
    }

    async fn set_manifest(
        &self,
        slot: Option<ChainRecord<Manifest>>,
        index: Arc<ManifestView>,
    ) -> Result<(), EngineError> {
        let mut state = self.state.lock().await;
        let cursor = index.manifest.cursor;
        if let Some(slot) = &slot {
            self.cache.insert_served(OpenManifest::new(slot, index.clone()));
        }
        let switched =
            state.index.as_ref().is_some_and(|before| before.manifest.generation != index.manifest.generation);
        if switched {
            state.listing = TailListing::default();
        }
        state.slot = slot;
        state.index = Some(index);
        // The tail loses what the manifest gained in the same view: nothing is seen twice, and nothing is missing. The cursor
        // of another generation may lie further back than what was sealed by the one before.
        let seal = move |overlay: &mut TailIndex| {
            if switched {
                overlay.reset();
            }
            overlay.seal(cursor)
        };
        change(&state.overlay, seal).await?;
        self.publish(&state);
        Ok(())
    }

    /// Lists the log for entries beyond the cursor. Returns whether there were any.
    pub async fn refresh_tail(&self) -> Result<bool, SearchError> {
        let Some(tail) = &self.tail else { return Ok(false) };
        let mut tail = tail.lock().await;
        let (sealed, overlay, mut listing) = {
            let state = self.state.lock().await;
            let Some(index) = &state.index else { return Ok(false) };
            // What comes after the time of a restore is left out until the index is promoted.
            if index.manifest.until.is_some() {
                return Ok(false);
            }
            tail.follow(&index.manifest.generation);
            ((index.manifest.cursor, index.manifest.horizon), state.overlay.clone(), state.listing)
        };
        let room = overlay.lock().max_entries();
        let wanted = |token: &Token| overlay.lock().wants(token);
        let listed = tail.list(sealed, &mut listing, room, wanted).await.map_err(|e| SearchError::stored(&e))?;
        let ListedTail { fresh, from, counts } = listed;
        overlay.lock().set_listed(from, counts);
        self.state.lock().await.listing = listing;
        let incomplete: Vec<Token> = overlay.lock().incomplete().collect();
        let again = tail.due_retries(incomplete.into_iter()).into_iter().map(TailFetch::Again).collect();
        let news = !fresh.is_empty();
        let read = self.read_entries(&mut tail, fresh.into_iter().map(TailFetch::Listed).collect()).await;
        self.read_entries(&mut tail, again).await.and(read)?;
        Ok(news)
    }

    /// Reads entries, and makes them visible batch by batch.
    async fn read_entries(&self, tail: &mut TailReader, reads: Vec<TailFetch>) -> Result<(), SearchError> {
        let schedule = tail.schedule().await;
        self.schedule.store(tail.known_schedule().map(Arc::new));
        let (overlay, budget) = (self.state.lock().await.overlay.clone(), tail.budget());
        // The newest come first: those after one that there is no room for are older.
        let wanted = move |read: &TailFetch| match read {
            TailFetch::Listed(listed) => !overlay.lock().is_left_out(&listed.token),
            TailFetch::Again(_) => true,
        };
        let mut entries = std::pin::pin!(tail.read(&schedule, reads, wanted));
        let (mut batch, mut failure) = (TailBatch::default(), None);
        loop {
            tokio::select! {
                // Entries that are read already come first: the batch grows before it is added early.
                biased;
                next = entries.next() => match next {
                    Some(Ok(entry)) => entry.into_iter().for_each(|entry| batch.push(entry)),
                    Some(Err(error)) => failure = Some(error),
                    None => break,
                },
                // What waits for memory may wait for what this batch has.
                () = budget.contended(), if !batch.entries.is_empty() => {
                    self.add(std::mem::take(&mut batch).entries).await?;
                }
            }
            if batch.is_full() {
                self.add(std::mem::take(&mut batch).entries).await?;
            }
        }
        self.add(batch.entries).await?;
        failure.map_or(Ok(()), |error| Err(SearchError::stored(&error)))
    }

    /// Adds entries to the overlay and publishes the view.
    async fn add(&self, entries: Vec<TailEntry>) -> Result<(), SearchError> {
        let state = self.state.lock().await;
        // The index may have switched to a restored generation since they were listed.
        let is_restored = state.index.as_ref().is_some_and(|index| index.manifest.until.is_some());
        if !entries.is_empty() && !is_restored {
            change(&state.overlay, move |overlay| overlay.add(entries)).await.map_err(engine_error)?;
        }
        self.publish(&state);
        Ok(())
    }

    /// Makes the state the view that new queries run on.
    fn publish(&self, state: &FollowState) {
        let Some(index) = &state.index else { return };
        let open = match &state.slot {
            Some(slot) => OpenManifest::new(slot, index.clone()),
            None => OpenManifest { number: 0, fingerprint: 0, index: index.clone() },
        };
        let overlay = state.overlay.lock();
        let overlay = self.tail.is_some().then_some((&*overlay, &state.listing));
        self.view.store(Some(Arc::new(SearchView::new(open, overlay))));
        self.view_count.send_modify(|views| *views += 1);
    }

    fn report(&self, what: &'static str, problem: Option<&SearchError>) {
        let mut problems = self.problems.lock();
        let Some(problem) = problem else {
            problems.remove(what);
            return;
        };
        let known = problems.insert(what, problem.clone());
        if known.is_none_or(|known| known.to_string() != problem.to_string()) {
            tracing::warn!(what, %problem, "polling failed; search serves what it has and polls again");
        }
    }

    /// The newest view.
    pub(crate) fn view(&self) -> Result<Arc<SearchView>, SearchError> {
        self.served().ok_or_else(|| SearchError::NotReady { detail: self.not_ready() })
    }

    /// The newest view, unless objects of it would be read that may have been deleted.
    fn served(&self) -> Option<Arc<SearchView>> {
        self.view.load_full().filter(|view| !self.is_outdated() || view.index.is_local())
    }

    /// Whether it has not been known for long which manifest is the latest one.
    fn is_outdated(&self) -> bool {
        self.polled.lock().elapsed() >= MAX_UNPOLLED
    }

    /// Changes with each new view.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.view_count.subscribe()
    }

    /// The log's parameters, where a log is read and they are known.
    pub(crate) fn schedule(&self) -> Option<Arc<ParameterSchedule>> {
        self.schedule.load_full()
    }

    /// The chain of the generation that is followed.
    pub(crate) fn chain(&self) -> IndexChain {
        self.chain.lock().clone()
    }

    /// A searcher without documents, which knows the schema.
    pub(crate) fn schema(&self) -> &tantivy::Searcher {
        &self.schema
    }

    /// The view that a cursor's page is read from: its own manifest without a tail.
    pub(crate) async fn view_at(&self, cursor: &PageCursor) -> Result<Arc<SearchView>, SearchError> {
        let newest = self.view()?;
        let generation = &newest.index.manifest.generation;
        if generation.to_string() != cursor.generation {
            return Err(SearchError::Gone {
                detail: format!(
                    "the cursor belongs to generation \"{}\", \"{generation}\" is served; start again without the cursor",
                    cursor.generation
                ),
            });
        }
        let open = self.open_manifest(cursor.manifest, cursor.fingerprint).await?;
        Ok(Arc::new(SearchView::new(open, None)))
    }

    async fn open_manifest(&self, number: u64, fingerprint: u64) -> Result<OpenManifest, SearchError> {
        if let Some(open) = self.cache.served(number, fingerprint) {
            return Ok(open);
        }
        let gone = || SearchError::Gone {
            detail: format!("manifest {number} is not kept any more; start again without the cursor"),
        };
        let chain = self.chain.lock().clone();
        if let Some(open) = self.cache.requested(number, fingerprint) {
            // A pass trims the record before it deletes an object that only old manifests name.
            let boundary = chain.chain().boundary().await.map_err(|e| SearchError::stored(&e))?;
            return if boundary < number { Ok(open) } else { Err(gone()) };
        }
        let slot = chain.chain().read(number).await.map_err(|e| chain_error(&e))?;
        let slot = slot.ok_or_else(gone)?;
        if view_fingerprint(&slot.hash) != fingerprint {
            return Err(refused_cursor("belongs to another index"));
        }
        let index = self.engine.open_manifest(&slot.state).await.map_err(|error| match error {
            EngineError::Gone { .. } => gone(),
            error => engine_error(error),
        })?;
        let open = OpenManifest::new(&slot, index);
        self.cache.insert_requested(open.clone());
        Ok(open)
    }

    /// What the follower knows about the index; `None` while no manifest is served.
    pub fn status(&self) -> Option<StatusAnswer> {
        let view = self.served()?;
        let problems = self.problems.lock().values().map(ToString::to_string).collect();
        Some(status::of_view(&view, problems))
    }

    /// The index and the log whose records it holds; `None` while no manifest is served, and where the index does not say.
    pub fn identity(&self) -> Option<(IndexId, LogId)> {
        let view = self.view.load();
        let manifest = &view.as_ref()?.index.manifest;
        Some((manifest.id.clone()?, manifest.claim.as_ref()?.log.clone()))
    }

    pub(crate) fn not_ready(&self) -> String {
        let problems = self.problems.lock();
        let why = problems.get("index").map(ToString::to_string);
        if self.view.load().is_some() {
            let (hours, why) = (MAX_UNPOLLED.as_secs() / 3600, why.unwrap_or_else(|| "polls do not end".to_owned()));
            return format!(
                "the latest manifest has not been found for more than {hours} h: {why}; segments of the last known one may be deleted \
                 and are not read from the store; searches are answered as soon as the catalog can be read"
            );
        }
        let why = why.unwrap_or_else(|| "it is being opened".to_owned());
        format!("the index is not served yet: {why}; try again in a moment")
    }

    pub(crate) fn failures(&self) -> Vec<(FailureCause, String)> {
        let problems = self.problems.lock();
        problems.values().filter_map(|problem| Some((problem.to_cause()?, problem.to_string()))).collect()
    }

    /// Waits until the entry `token` is visible, sealed or in the overlay.
    pub(crate) async fn wait_for(&self, token: Token, timeout: Duration) -> Result<(), SearchError> {
        let ends = Instant::now() + timeout;
        let mut views = self.view_count.subscribe();
        let mut intervals = LOOKUP_INTERVALS.build();
        loop {
            views.borrow_and_update();
            if self.shows(&token)? {
                return Ok(());
            }
            if Instant::now() >= ends {
                return Err(SearchError::NotVisible { token, waited: timeout });
            }
            // A GET of the entry itself is quicker than the next listing of the log.
            if let Ok(Err(error)) = timeout_at(ends, self.fetch_entry(token)).await {
                tracing::debug!(%token, %error, "cannot look up an entry that a request waits for");
            }
            let interval = intervals.next().unwrap_or(MIN_POLL_INTERVAL);
            // A new view and the end of the wait have the same effect: look again.
            let _ = timeout_at(ends.min(Instant::now() + interval), views.changed()).await;
        }
    }

    /// Reads an entry that no listing showed yet, and adds it to the view if it is there.
    async fn fetch_entry(&self, token: Token) -> Result<(), SearchError> {
        let Some(reader) = &self.reader else { return Ok(()) };
        // While the index is far behind, entries before the tail become visible when they are indexed.
        if token.second() < self.state.lock().await.listing.start {
            return Ok(());
        }
        let memory = self.request_budget.open();
        let found = TailFetch::Again(token).read(reader, &default_schedule(), memory).await;
        let Some(entry) = found.map_err(|e| SearchError::stored(&e))? else { return Ok(()) };
        let state = self.state.lock().await;
        change(&state.overlay, move |overlay| overlay.add_requested(entry)).await.map_err(engine_error)?;
        self.publish(&state);
        Ok(())
    }

    fn shows(&self, token: &Token) -> Result<bool, SearchError> {
        match self.view.load_full() {
            Some(_) => self.view()?.shows(self.engine.fields(), token).map_err(engine_error),
            None => Ok(false),
        }
    }
}

/// Changes the overlay on a thread that may block. Runs to its end even if the caller is cancelled.
async fn change(
    overlay: &Arc<Mutex<TailIndex>>,
    work: impl FnOnce(&mut TailIndex) -> Result<(), EngineError> + Send + 'static,
) -> Result<(), EngineError> {
    let overlay = overlay.clone();
    let changed = spawn_blocking(move || work(&mut overlay.lock())).await;
    changed.map_err(|e| refused("change the unsealed tail", &e))?
}

/// The time until the next poll: the shortest one after something `new`, then longer ones.
fn next_poll_interval(intervals: &mut ExponentialBackoff, new: bool) -> Duration {
    if new {
        *intervals = POLL_INTERVALS.build();
    }
    intervals.next().unwrap_or(MAX_POLL_INTERVAL)
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

#[cfg(test)]
mod tests {
    use tidemark_catalog::{Generation, LogCursor};
    use tidemark_store::StoreSecond;
    use tidemark_wal::LogParameters;

    use super::*;
    use crate::{
        api::{QueryText, SearchRequest},
        searcher::IndexSearcher,
        segment::{
            metered_store::MeteredStore,
            testing::{BEGIN, TestIndex, cold_index, many, max_cold_bytes, plain, token},
        },
        service::SearchService as _,
    };

    const MAX_WAIT: Duration = Duration::from_secs(90);

    /// A search over an index of three segments with an empty cache, whose downloads are held back.
    async fn cold_search() -> (MeteredStore, TestIndex, Arc<IndexFollower>, IndexSearcher) {
        let (store, index) = cold_index().await;
        let engine = Arc::new(index.another_engine(64 << 20));
        let follower = IndexFollower::new(engine, index.chain.clone(), None, &FollowerOptions::default()).unwrap();
        let searcher = IndexSearcher::default();
        searcher.serve(follower.clone());
        timeout(MAX_WAIT, follower.refresh_manifest()).await.expect("it waits for no download").unwrap();
        (store, index, follower, searcher)
    }

    async fn total(searcher: &IndexSearcher) -> u64 {
        let request = SearchRequest { query: QueryText::new("message").unwrap(), ..SearchRequest::default() };
        searcher.search(request).await.unwrap().total
    }

    async fn wait_until_local(follower: &IndexFollower) {
        let mut views = follower.view_count.subscribe();
        let wait = views.wait_for(|_| follower.view().unwrap().index.is_local());
        timeout(MAX_WAIT, wait).await.expect("segments come to the disk").unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_first_answer_waits_for_no_download_of_a_cold_cache() {
        let (store, index, follower, searcher) = cold_search().await;
        assert_eq!(total(&searcher).await, 36_000);
        let read = store.take_counts();
        assert!(read.bytes <= max_cold_bytes(&index) && read.requests <= 3 * 8, "{read:?}");
        assert!(!follower.view().unwrap().index.is_local());
        store.release();
        let polling = {
            let follower = follower.clone();
            async move { follower.run(CancellationToken::new()).await }
        };
        let _polling = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(polling));
        wait_until_local(&follower).await;
        assert_eq!(total(&searcher).await, 36_000);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_lies_on_the_disk_is_served_until_a_newer_manifest_does_too() {
        let (store, mut index, follower, searcher) = cold_search().await;
        store.release();
        while !follower.view().unwrap().index.is_local() {
            timeout(MAX_WAIT, follower.engine.segment_fetched()).await.expect("they are fetched");
            follower.reopen_segments().await.unwrap();
        }
        index.publish(many(4, 12_000)).await;
        store.hold(|range| range.end - range.start >= 3 << 19);
        let refresh = tokio::spawn({
            let follower = follower.clone();
            async move { follower.refresh_manifest().await }
        });
        timeout(MAX_WAIT, store.wait_for_held(1)).await.expect("it is fetched");
        store.take_counts();
        assert_eq!(total(&searcher).await, 36_000);
        assert_eq!(store.take_counts().requests, 0);
        store.release();
        refresh.await.unwrap().unwrap();
        assert!(follower.view().unwrap().index.is_local());
        assert_eq!(total(&searcher).await, 48_000);
    }

    #[tokio::test]
    async fn a_segment_comes_to_the_disk_when_room_appears_without_a_new_manifest() {
        let mut index = TestIndex::new().await;
        for second in 1..3 {
            index.publish((0..2000).map(|n| plain(token(second, n))).collect()).await;
        }
        let before = index.manifest().clone();
        index.compact(0..2).await;
        // Room for the old segments or the new one: six of eight parts are for segments that are opened.
        let engine = Arc::new(index.another_engine(index.manifest().segments[0].size * 2));
        let old = engine.open_manifest(&before).await.unwrap();
        assert!(old.is_local());
        let options = FollowerOptions::default();
        let follower = IndexFollower::new(engine.clone(), index.chain.clone(), None, &options).unwrap();
        follower.refresh_manifest().await.unwrap();
        let is_local = || follower.view().unwrap().index.is_local();
        assert!(!is_local() && !follower.reopen_segments().await.unwrap() && !is_local());
        drop(old);
        let wait = async {
            while !follower.reopen_segments().await.unwrap() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(90), wait).await.expect("it is fetched");
        assert!(is_local() && !follower.reopen_segments().await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_manifest_without_a_known_successor_is_not_read_from_the_store_for_longer_than_half_the_grace() {
        let mut index = TestIndex::new().await;
        index.publish(vec![plain(token(1, 1))]).await;
        let (local, remote) = (index.engine.clone(), Arc::new(index.another_engine(0)));
        let follow =
            |engine| IndexFollower::new(engine, index.chain.clone(), None, &FollowerOptions::default()).unwrap();
        let (local, remote) = (follow(local), follow(remote));
        for follower in [&local, &remote] {
            follower.refresh_manifest().await.unwrap();
        }
        // Nothing new for a day, which the catalog says: it is the latest one.
        tokio::time::advance(2 * MAX_UNPOLLED).await;
        remote.refresh_manifest().await.unwrap();
        assert!(remote.view().is_ok());

        let unreadable = index.next_record_key().await;
        index.store.put(&unreadable, "no record".into()).await.unwrap();
        tokio::time::advance(MAX_UNPOLLED.saturating_sub(Duration::from_secs(1))).await;
        assert!(remote.refresh_manifest().await.is_err());
        assert!(remote.view().is_ok() && remote.status().is_some());
        tokio::time::advance(Duration::from_secs(1)).await;
        let error = remote.view().err().unwrap();
        assert!(matches!(&error, SearchError::NotReady { detail } if detail.contains("more than 12 h")), "{error}");
        assert!(remote.status().is_none() && remote.shows(&token(1, 1)).is_err());
        assert!(local.view().is_ok(), "what lies on the disk is not deleted");

        index.store.delete(&[unreadable]).await.unwrap();
        remote.refresh_manifest().await.unwrap();
        assert!(remote.view().is_ok());
    }

    #[tokio::test]
    async fn what_the_next_generation_has_not_indexed_is_pending_again() {
        let mut index = TestIndex::new().await;
        let empty = index.manifest().clone();
        let tokens = [1, 2, 3].map(|second| token(second, 1));
        for token in tokens {
            index.write_entry(token, "bundles/red/1/bundle.yaml").await;
        }
        let parameters = Arc::new(ParameterSchedule::constant(LogParameters::with_expiry(Duration::from_mins(10))));
        let options = FollowerOptions::default();
        let log = Some((&index.log, parameters as Arc<dyn ParameterSource>));
        let follower = IndexFollower::new(index.engine.clone(), index.chain.clone(), log, &options).unwrap();
        index.publish(tokens[..2].iter().map(|token| plain(*token)).collect()).await;
        follower.refresh_manifest().await.unwrap();
        follower.refresh_tail().await.unwrap();
        assert_eq!(follower.status().unwrap().entries.pending, 1);

        // As after a restore to the moment before anything was indexed.
        let cursor = LogCursor(StoreSecond::from_unix(BEGIN + 1));
        let restored = Manifest { generation: Generation::first().next().unwrap(), cursor, ..empty };
        let opened = index.engine.open_manifest(&restored).await.unwrap();
        follower.set_manifest(None, opened).await.unwrap();
        follower.refresh_tail().await.unwrap();
        let view = follower.view().unwrap();
        for token in tokens {
            assert!(view.shows(index.engine.fields(), &token).unwrap(), "{token}");
        }
        assert_eq!(follower.status().unwrap().entries.pending, 3);
    }
}

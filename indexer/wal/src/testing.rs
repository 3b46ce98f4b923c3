//! A store in memory for tests, whose clock is tokio's and whose calls can be made to fail.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;
use url::Url;

use crate::{Log, LogParameters, LogWriter, LogWriterOptions, ParameterSchedule};
use tidemark_store::{Entropy, ListVersions, ObjectVersion, Store, StoreSecond, VersionPage};

/// Store time when a lab opens.
pub(crate) const OPENED: StoreSecond = StoreSecond::from_unix(1_700_000_000);

/// Bodies up to this size come as one piece.
const PIECE_BYTES: usize = 256 * 1024;

/// What happens to the next write of a key that contains a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteFault {
    /// It lands, but the answer is lost.
    LostAnswer,
    /// It never lands, and the answer says nothing.
    LostWrite,
    /// It lands this much later; the caller waits.
    Slow(Duration),
}

#[derive(Debug)]
struct TestStoreState {
    opened: Instant,
    times: BTreeMap<Path, StoreSecond>,
    troubles: Vec<(String, WriteFault)>,
    /// What was ever put, the oldest first, where versions are kept.
    versions: BTreeMap<Path, Vec<StoredVersion>>,
    /// Parts of keys that are not given, with what is refused too.
    refused: Vec<(String, ReadFault)>,
    /// A part of keys that nobody can read any more once they were read so often.
    unreadable_later: Option<(String, usize)>,
    /// How often versions are refused from now on, of keys that contain a text.
    refused_versions: VersionFaults,
    refused_versions_of: String,
    /// The versions that are refused, by a part of their key and their numbers.
    refused_versions_by_number: Option<(String, Range<usize>)>,
    /// How many versions are on a page.
    versions_per_page: usize,
    requests: RequestCounts,
}

/// How many of the next requests for versions are refused.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct VersionFaults {
    pub(crate) lists: u32,
    pub(crate) reads: u32,
}

/// Requests since they were counted last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestCounts {
    pub(crate) gets: usize,
    pub(crate) lists: usize,
    pub(crate) version_lists: usize,
}

impl RequestCounts {
    pub(crate) fn all(self) -> usize {
        self.gets + self.lists + self.version_lists
    }
}

#[derive(Debug)]
struct StoredVersion {
    is_deleted: bool,
    time: StoreSecond,
    payload: PutPayload,
    attributes: Attributes,
}

/// What a store refuses of an object for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadFault {
    /// Its body.
    Body,
    /// Its body and its attributes; a listing shows it.
    BodyAndHead,
    /// Its body, with a failure that may pass.
    Unavailable,
    /// Any request for it, with a status that blames the request.
    BadRequest,
    /// Any request for it, since its key is longer than the store takes.
    KeyTooLong,
}

/// Two stores with one clock that stands still until a test moves it.
#[derive(Clone)]
pub(crate) struct TestStore {
    inner: Arc<InMemory>,
    state: Arc<Mutex<TestStoreState>>,
    /// How far this store's clock leads the lab's.
    lead: Duration,
    bodies: Arc<LiveBodies>,
}

/// Bytes of bodies that were handed out and are still held.
#[derive(Debug, Default)]
pub(crate) struct LiveBodies {
    now: AtomicU64,
    peak: AtomicU64,
}

impl LiveBodies {
    /// The most bytes that were held at once.
    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// A copy of `body` that is counted until it is dropped.
    fn counted(self: &Arc<Self>, body: &Bytes) -> Bytes {
        let held = self.now.fetch_add(body.len() as u64, Ordering::Relaxed) + body.len() as u64;
        self.peak.fetch_max(held, Ordering::Relaxed);
        Bytes::from_owner(CountedBody { body: body.to_vec(), live: self.clone() })
    }
}

struct CountedBody {
    body: Vec<u8>,
    live: Arc<LiveBodies>,
}

impl AsRef<[u8]> for CountedBody {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Drop for CountedBody {
    fn drop(&mut self) {
        self.live.now.fetch_sub(self.body.len() as u64, Ordering::Relaxed);
    }
}

impl TestStore {
    pub(crate) fn new() -> Self {
        let state = TestStoreState {
            opened: Instant::now(),
            times: BTreeMap::new(),
            troubles: Vec::new(),
            versions: BTreeMap::new(),
            refused: Vec::new(),
            unreadable_later: None,
            refused_versions: VersionFaults::default(),
            refused_versions_of: String::new(),
            refused_versions_by_number: None,
            versions_per_page: 1000,
            requests: RequestCounts::default(),
        };
        Self { inner: Arc::default(), state: Arc::new(Mutex::new(state)), lead: Duration::ZERO, bodies: Arc::default() }
    }

    /// A log whose metadata store's clock leads by `lead`.
    pub(crate) fn log_with_lead(&self, lead: Duration) -> Log {
        let ahead = Self { lead, ..self.clone() };
        let store = |lab: &Self, url: &str| Store::over(Arc::new(lab.clone()), Url::parse(url).unwrap());
        Log::over(
            store(self, "memory:///log"),
            vec![store(&ahead, "memory:///meta"), store(&ahead, "memory:///values")],
        )
    }

    pub(crate) fn log(&self) -> Log {
        self.log_with_lead(Duration::ZERO)
    }

    /// As [`Self::log`], with the versions of the values.
    pub(crate) fn versioned_log(&self) -> Log {
        let mut log = self.log();
        log.metadata[1] = self.versioned_store("values");
        log
    }

    /// What lies below `prefix`, with its versions.
    pub(crate) fn versioned_store(&self, prefix: &str) -> Store {
        let (store, url) = (Arc::new(self.clone()), Url::parse(&format!("memory:///{prefix}")).unwrap());
        Store::over_versioned(store.clone(), store, url)
    }

    /// As [`Self::log`], with values in a store that keeps no user metadata, as a folder.
    pub(crate) fn log_on_folder(&self) -> Log {
        let mut log = self.log();
        log.metadata[1] = Store::over(Arc::new(self.clone()), Url::parse("file:///").unwrap());
        log
    }

    /// Refuses the next requests for versions.
    pub(crate) fn refuse_versions(&self, faults: VersionFaults) {
        self.refuse_versions_of("", faults);
    }

    /// Refuses the next requests for versions of keys that contain `key`.
    pub(crate) fn refuse_versions_of(&self, key: &str, faults: VersionFaults) {
        let mut state = self.state();
        (state.refused_versions, state.refused_versions_of) = (faults, key.to_owned());
    }

    /// Refuses these versions of a key that contains `key`; they are counted from 0.
    pub(crate) fn refuse_numbered_versions(&self, key: &str, numbers: Range<usize>) {
        self.state().refused_versions_by_number = Some((key.to_owned(), numbers));
    }

    /// Lists so many versions on a page.
    pub(crate) fn limit_version_pages(&self, versions: usize) {
        self.state().versions_per_page = versions;
    }

    /// Removes the version from what the store keeps.
    pub(crate) fn delete_version(&self, key: &str, number: usize) {
        let mut state = self.state();
        let versions = state.versions.iter_mut().find(|(path, _)| path.as_ref().ends_with(key)).unwrap().1;
        versions[number].is_deleted = true;
    }

    /// The requests since this was called last.
    pub(crate) fn take_requests(&self) -> RequestCounts {
        std::mem::take(&mut self.state().requests)
    }

    pub(crate) async fn writer(&self, name: &str, parameters: LogParameters) -> LogWriter {
        let source = Arc::new(ParameterSchedule::constant(parameters));
        LogWriter::open(self.log(), source, LogWriterOptions::named(name), Entropy::seeded(7)).await.unwrap()
    }

    pub(crate) fn now(&self) -> StoreSecond {
        let passed = self.state().opened.elapsed() + self.lead;
        OPENED.after(Duration::from_secs(passed.as_secs()))
    }

    pub(crate) fn trouble(&self, key: &str, trouble: WriteFault) {
        self.state().troubles.push((key.to_owned(), trouble));
    }

    /// The bodies that readers hold.
    pub(crate) fn bodies(&self) -> &LiveBodies {
        &self.bodies
    }

    /// Refuses to give objects whose key contains `key`.
    pub(crate) fn refuse(&self, key: &str, fault: ReadFault) {
        self.state().refused.push((key.to_owned(), fault));
    }

    /// Answers no request for keys that contain `key` after so many.
    pub(crate) fn silence_after(&self, key: &str, requests: usize) {
        self.state().unreadable_later = Some((key.to_owned(), requests));
    }

    fn is_silent(&self, location: &Path) -> bool {
        let mut state = self.state();
        let of = |(key, _): &&mut (String, usize)| location.as_ref().contains(key.as_str());
        state.unreadable_later.as_mut().filter(of).is_some_and(|(_, left)| {
            let is_silent = *left == 0;
            *left = left.saturating_sub(1);
            is_silent
        })
    }

    /// Gives everything that was refused by [`Self::refuse`].
    pub(crate) fn grant_all(&self) {
        self.state().refused.clear();
    }

    fn fault(&self, location: &Path) -> Option<ReadFault> {
        let of = |(key, _): &&(String, ReadFault)| location.as_ref().contains(key.as_str());
        self.state().refused.iter().find(of).map(|(_, fault)| *fault)
    }

    fn refusal(&self, location: &Path, head: bool) -> Option<Error> {
        match self.fault(location)? {
            ReadFault::Body | ReadFault::Unavailable if head => None,
            ReadFault::Unavailable => Some(Self::silent()),
            ReadFault::Body | ReadFault::BodyAndHead => Some(Self::denied(location)),
            // The answer to HEAD has no body.
            ReadFault::BadRequest | ReadFault::KeyTooLong if head => Some(Self::refused_request("")),
            ReadFault::BadRequest => Some(Self::refused_request("InvalidRequest")),
            ReadFault::KeyTooLong => Some(Self::refused_request("KeyTooLongError")),
        }
    }

    /// Whether a version, or the list of them, is refused; counts it.
    fn is_version_refused(&self, location: &Path, version: Option<&str>) -> bool {
        let state = &mut *self.state();
        let key = location.as_ref();
        let number = version.and_then(|id| id.parse().ok());
        let is_one = |(of, numbers): &(String, Range<usize>)| {
            key.contains(of.as_str()) && number.is_some_and(|number| numbers.contains(&number))
        };
        let left =
            if version.is_some() { &mut state.refused_versions.reads } else { &mut state.refused_versions.lists };
        let is_refused = *left > 0 && key.contains(&state.refused_versions_of);
        *left -= u32::from(is_refused);
        is_refused || state.refused_versions_by_number.as_ref().is_some_and(is_one)
    }

    fn state(&self) -> MutexGuard<'_, TestStoreState> {
        self.state.lock()
    }

    fn next_trouble(&self, location: &Path) -> Option<WriteFault> {
        let mut state = self.state();
        let found = state.troubles.iter().position(|(key, _)| location.as_ref().contains(key.as_str()))?;
        Some(state.troubles.remove(found).1)
    }

    fn timed(&self, mut meta: ObjectMeta) -> ObjectMeta {
        if let Some(time) = self.state().times.get(&meta.location) {
            meta.last_modified = (SystemTime::UNIX_EPOCH + Duration::from_secs(time.unix())).into();
        }
        meta
    }

    async fn get_numbered(&self, location: &Path, number: usize) -> Result<GetResult> {
        let one = InMemory::new();
        let (time, payload, attributes) = {
            let state = self.state();
            let version = &state.versions[location][number];
            if version.is_deleted {
                return Err(Error::NotFound { path: location.to_string(), source: "no such version".into() });
            }
            (version.time, version.payload.clone(), version.attributes.clone())
        };
        one.put_opts(location, payload, attributes.into()).await?;
        let mut found = one.get_opts(location, GetOptions::default()).await?;
        found.meta.last_modified = (SystemTime::UNIX_EPOCH + Duration::from_secs(time.unix())).into();
        Ok(found)
    }

    fn denied(location: &Path) -> Error {
        let source = "<Code>AccessDenied</Code><Message>KMS key is not allowed</Message>".into();
        Error::PermissionDenied { path: location.to_string(), source }
    }

    fn silent() -> Error {
        Error::Generic { store: "lab", source: "no answer".into() }
    }

    /// As S3 refuses a request that it blames, in the transport's words.
    fn refused_request(code: &str) -> Error {
        let words = format!("Server returned non-2xx status code: 400 Bad Request: <Code>{code}</Code>");
        Error::Generic { store: "lab", source: words.into() }
    }
}

impl fmt::Display for TestStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TestStore")
    }
}

impl fmt::Debug for TestStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TestStore")
    }
}

#[async_trait]
impl ListVersions for TestStore {
    async fn list_versions(&self, path: &Path, after: Option<&str>) -> Result<Option<VersionPage>> {
        // Others go on while this one waits for the answer.
        tokio::task::yield_now().await;
        self.state().requests.version_lists += 1;
        if self.fault(path) == Some(ReadFault::KeyTooLong) {
            return Err(Self::refused_request("KeyTooLongError"));
        }
        if self.is_version_refused(path, None) {
            return Err(Self::denied(path));
        }
        let state = self.state();
        let all = state.versions.get(path).map_or(&[][..], Vec::as_slice);
        let is_there = |number: &usize| !all[*number].is_deleted;
        // As a server does that does not know the name: from the newest on.
        let end = after.and_then(|id| id.parse().ok()).filter(is_there).unwrap_or(all.len());
        let mut numbers = (0..end).rev().filter(is_there);
        let page: Vec<usize> = numbers.by_ref().take(state.versions_per_page).collect();
        let next = numbers.next().and_then(|_| page.last()).map(usize::to_string);
        let version = |number: &usize| ObjectVersion { id: Some(number.to_string()), time: all[*number].time };
        Ok(Some(VersionPage { versions: page.iter().map(version).collect(), next }))
    }
}

#[async_trait]
impl ObjectStore for TestStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let trouble = self.next_trouble(location);
        match trouble {
            Some(WriteFault::LostWrite) => return Err(Self::silent()),
            Some(WriteFault::Slow(span)) => tokio::time::sleep(span).await,
            _ => {}
        }
        let (body, attributes) = (payload.clone(), opts.attributes.clone());
        let put = self.inner.put_opts(location, payload, opts).await?;
        let now = self.now();
        let version = StoredVersion { is_deleted: false, time: now, payload: body, attributes };
        self.state().versions.entry(location.clone()).or_default().push(version);
        self.state().times.insert(location.clone(), now);
        if trouble == Some(WriteFault::LostAnswer) {
            return Err(Self::silent());
        }
        Ok(put)
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.state().requests.gets += 1;
        if self.is_silent(location) {
            return Err(Self::silent());
        }
        if let Some(refusal) = self.refusal(location, options.head) {
            return Err(refusal);
        }
        if let Some(version) = &options.version
            && self.is_version_refused(location, Some(version))
        {
            return Err(Self::denied(location));
        }
        // Others go on while this one waits for the answer.
        tokio::task::yield_now().await;
        let version = options.version.as_ref().map(|version| version.parse::<usize>().unwrap());
        let mut found = match version {
            Some(number) => self.get_numbered(location, number).await?,
            None => self.inner.get_opts(location, options).await?,
        };
        if version.is_none() {
            found.meta = self.timed(found.meta);
        }
        let empty = GetResultPayload::Stream(stream::empty().boxed());
        let GetResultPayload::Stream(body) = std::mem::replace(&mut found.payload, empty) else { return Ok(found) };
        let bodies = self.bodies.clone();
        // Large ones come in pieces, as from a network.
        let pieces = body.map_ok(move |body| {
            let (bodies, count) = (bodies.clone(), body.len().div_ceil(PIECE_BYTES).max(1));
            let piece = move |n: usize| body.slice(n * PIECE_BYTES..body.len().min((n + 1) * PIECE_BYTES));
            // Others go on between them, too.
            stream::iter((0..count).map(move |n| Ok(bodies.counted(&piece(n))))).then(async |piece| {
                tokio::task::yield_now().await;
                piece
            })
        });
        found.payload = GetResultPayload::Stream(pieces.try_flatten().boxed());
        Ok(found)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let lab = self.clone();
        self.state().requests.lists += 1;
        self.inner.list(prefix).map_ok(move |meta| lab.timed(meta)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

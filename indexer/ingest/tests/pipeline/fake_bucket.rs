//! A store whose clock is tokio's, which may be paused; with chosen store times, failures and a count of requests.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream, stream::BoxStream};
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};
use parking_lot::{Mutex, MutexGuard};
use tidemark_store::{Store, StoreSecond};
use tokio::time::Instant;
use url::Url;

/// The bucket. Clones are the same one.
#[derive(Clone)]
pub(crate) struct FakeBucket(Arc<Mutex<BucketState>>);

struct BucketState {
    begin: (StoreSecond, Instant),
    objects: BTreeMap<String, BucketObject>,
    requests: u64,
    /// Pages of listings.
    listings: u64,
    written_bytes: u64,
    /// Puts by the first part of the key, which names a store.
    puts: BTreeMap<String, u64>,
    read_bytes: u64,
    /// Keys that were read, each as often as it was.
    reads: BTreeMap<String, u64>,
    dies_at: Option<u64>,
    /// Puts and deletions.
    writes: u64,
    dies_at_write: Option<u64>,
    loses_answer_of: Option<u64>,
    held: Option<String>,
    fails: Option<String>,
    hidden: Option<String>,
    /// How reads of keys that contain the text go wrong.
    bad: Vec<(String, BadRead)>,
    /// How deletions of keys that contain the text go wrong.
    bad_deletion: Option<(String, BadDeletion)>,
    latency: Duration,
}

/// What reads of one object do for good.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BadRead {
    /// The store refuses them.
    Refused,
    /// The store answers with an error that may pass.
    Fails,
    /// They panic.
    Panics,
}

/// What deletions of one object do for good.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BadDeletion {
    /// The credentials may not.
    Denied,
    /// A retention holds it.
    Locked,
    /// It fails without an effect.
    Fails,
    /// It is done, and the answer is lost.
    Unanswered,
}

#[derive(Clone)]
struct BucketObject {
    body: Bytes,
    time: StoreSecond,
    attributes: Attributes,
}

impl FakeBucket {
    /// An empty bucket whose clock stands at `now`.
    pub(crate) fn at(now: StoreSecond) -> Self {
        Self(Arc::new(Mutex::new(BucketState {
            begin: (now, Instant::now()),
            objects: BTreeMap::new(),
            requests: 0,
            listings: 0,
            written_bytes: 0,
            puts: BTreeMap::new(),
            read_bytes: 0,
            reads: BTreeMap::new(),
            dies_at: None,
            writes: 0,
            dies_at_write: None,
            loses_answer_of: None,
            held: None,
            fails: None,
            hidden: None,
            bad: Vec::new(),
            bad_deletion: None,
            latency: Duration::ZERO,
        })))
    }

    /// A bucket with the same objects, whose clock stands at `now`.
    pub(crate) fn copied_at(&self, now: StoreSecond) -> Self {
        let copied = Self::at(now);
        copied.state().objects = self.state().objects.clone();
        copied
    }

    fn state(&self) -> MutexGuard<'_, BucketState> {
        self.0.lock()
    }

    /// The store over it, below `prefix`.
    pub(crate) fn store(&self, prefix: &str) -> Store {
        Store::over(Arc::new(self.clone()), Url::parse(&format!("test://bucket/{prefix}")).unwrap())
    }

    pub(crate) fn now(&self) -> StoreSecond {
        self.state().now()
    }

    /// Puts an object with a store time of choice.
    pub(crate) fn plant(&self, key: &str, body: impl Into<Bytes>, time: StoreSecond) {
        let (body, attributes) = (body.into(), Attributes::new());
        self.state().objects.insert(key.to_owned(), BucketObject { body, time, attributes });
    }

    /// What an object holds.
    pub(crate) fn body(&self, key: &str) -> Bytes {
        self.state().objects[key].body.clone()
    }

    /// Takes an object away, and gives its body.
    pub(crate) fn remove(&self, key: &str) -> Bytes {
        self.state().objects.remove(key).unwrap().body
    }

    /// Takes an object away if it is there.
    pub(crate) fn forget(&self, key: &str) {
        self.state().objects.remove(key);
    }

    /// Listings show the object, reads do not.
    pub(crate) fn hide(&self, key: &str) {
        self.state().hidden = Some(key.to_owned());
    }

    /// From the request with this number on, no request is answered.
    pub(crate) fn die_at(&self, request: Option<u64>) {
        self.state().dies_at = request;
    }

    /// The write with this number and all after it are neither done nor answered.
    pub(crate) fn die_at_write(&self, write: Option<u64>) {
        self.state().dies_at_write = write;
    }

    /// The write with this number is done, and its answer is lost.
    pub(crate) fn lose_answer_of_write(&self, write: Option<u64>) {
        self.state().loses_answer_of = write;
    }

    /// Requests for keys that contain `part` wait from now on; `None`: they go on.
    pub(crate) fn hold(&self, part: Option<&str>) {
        self.state().held = part.map(str::to_owned);
    }

    /// Every request takes this long from now on.
    pub(crate) fn slow(&self, latency: Duration) {
        self.state().latency = latency;
    }

    /// Reads and listings of keys that contain `part` fail.
    pub(crate) fn fail(&self, part: Option<&str>) {
        self.state().fails = part.map(str::to_owned);
    }

    /// Reads of keys that contain `part` too are bad from now on; `None`: all are good.
    pub(crate) fn spoil(&self, bad: Option<(&str, BadRead)>) {
        let mut state = self.state();
        match bad {
            Some((part, bad)) => state.bad.push((part.to_owned(), bad)),
            None => state.bad.clear(),
        }
    }

    /// Reads of keys that were bad because of `part` are good again.
    pub(crate) fn mend(&self, part: &str) {
        self.state().bad.retain(|(bad, _)| bad != part);
    }

    /// Deletions of keys that contain `part` are bad from now on; `None`: all are good.
    pub(crate) fn spoil_deletions(&self, bad: Option<(&str, BadDeletion)>) {
        self.state().bad_deletion = bad.map(|(part, bad)| (part.to_owned(), bad));
    }

    /// The key of every object.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    /// The store time of an object.
    pub(crate) fn time(&self, key: &str) -> StoreSecond {
        self.state().objects[key].time
    }

    pub(crate) fn requests(&self) -> u64 {
        self.state().requests
    }

    /// How many puts and deletions there were.
    pub(crate) fn writes(&self) -> u64 {
        self.state().writes
    }

    /// How many pages of listings were asked for.
    pub(crate) fn listings(&self) -> u64 {
        self.state().listings
    }

    /// The bytes of every object that was put.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.state().written_bytes
    }

    /// How many puts there were in `store`, those of objects that exist already included.
    pub(crate) fn puts(&self, store: &str) -> u64 {
        self.state().puts.get(store).copied().unwrap_or_default()
    }

    /// The bytes of every body that was read.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.state().read_bytes
    }

    /// How many objects there are whose keys begin with `prefix`, and their bytes.
    pub(crate) fn kept(&self, prefix: &str) -> (usize, u64) {
        let state = self.state();
        let kept = state.objects.iter().filter(|(key, _)| key.starts_with(prefix));
        kept.fold((0, 0), |(objects, bytes), (_, kept)| (objects + 1, bytes + kept.body.len() as u64))
    }

    /// How many reads of objects below `prefix` there were.
    pub(crate) fn reads(&self, prefix: &str) -> u64 {
        self.state().reads.iter().filter(|(key, _)| key.starts_with(prefix)).map(|(_, count)| count).sum()
    }

    /// Counts a write; it may be the one that is never answered.
    async fn write(&self, key: &str) -> Result<()> {
        self.request(key).await?;
        let dead = {
            let mut state = self.state();
            state.writes += 1;
            state.dies_at_write.is_some_and(|at| state.writes >= at)
        };
        if dead {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    /// Counts a request; it may be the one that is never answered.
    async fn request(&self, key: &str) -> Result<()> {
        let latency = self.state().latency;
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        while self.state().held.as_ref().is_some_and(|part| key.contains(part)) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let dead = {
            let mut state = self.state();
            state.requests += 1;
            if state.fails.as_ref().is_some_and(|part| key.contains(part)) {
                return Err(failure(key));
            }
            state.dies_at.is_some_and(|at| state.requests >= at)
        };
        if dead {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    fn listed(&self, prefix: Option<&Path>, after: &str) -> Vec<ObjectMeta> {
        let prefix = prefix.map(|prefix| format!("{prefix}/")).unwrap_or_default();
        let state = self.state();
        let from = if after > prefix.as_str() { after } else { &prefix };
        let listed = state.objects.range(from.to_owned()..).take_while(|(key, _)| key.starts_with(&prefix));
        // A page and one more.
        listed.filter(|(key, _)| key.as_str() > after).take(1001).map(|(key, kept)| meta(key, kept)).collect()
    }

    fn pages(&self, prefix: Option<&Path>, after: String) -> BoxStream<'static, Result<ObjectMeta>> {
        let (bucket, prefix) = (self.clone(), prefix.cloned());
        let pages = stream::unfold(Some(after), move |after| {
            let (bucket, prefix) = (bucket.clone(), prefix.clone());
            async move {
                let after = after?;
                bucket.state().listings += 1;
                if let Err(error) = bucket.request("list of").await {
                    return Some((vec![Err(error)], None));
                }
                let mut page = bucket.listed(prefix.as_ref(), &after);
                let more = page.len() > 1000;
                page.truncate(1000);
                let next = page.last().filter(|_| more).map(|last| last.location.to_string());
                Some((page.into_iter().map(Ok).collect(), next))
            }
        });
        pages.flat_map(stream::iter).boxed()
    }
}

impl BucketState {
    fn delete(&mut self, location: Path) -> Result<Path> {
        let key = location.to_string();
        let bad = self.bad_deletion.as_ref().filter(|(part, _)| key.contains(part.as_str())).map(|(_, bad)| *bad);
        let denied = |code: &str| Err(Error::PermissionDenied { path: key.clone(), source: code.to_owned().into() });
        match bad {
            Some(BadDeletion::Denied) => return denied("<Code>AccessDenied</Code>"),
            Some(BadDeletion::Locked) => return denied("<Code>RetentionPolicyNotMet</Code>"),
            Some(BadDeletion::Fails) => return Err(failure(&key)),
            Some(BadDeletion::Unanswered) | None => drop(self.objects.remove(&key)),
        }
        if bad.is_some() {
            return Err(failure(&key));
        }
        self.answer(&key).map(|()| location)
    }

    /// The answer to the write of `key` that was done just now, unless it is lost.
    fn answer(&self, key: &str) -> Result<()> {
        if self.loses_answer_of == Some(self.writes) { Err(failure(key)) } else { Ok(()) }
    }

    fn now(&self) -> StoreSecond {
        self.begin.0.after(Duration::from_secs(self.begin.1.elapsed().as_secs()))
    }
}

/// As a 503.
fn failure(key: &str) -> Error {
    Error::Generic { store: "test", source: format!("\"{key}\" fails").into() }
}

fn meta(key: &str, kept: &BucketObject) -> ObjectMeta {
    ObjectMeta {
        location: Path::from(key),
        last_modified: (SystemTime::UNIX_EPOCH + Duration::from_secs(kept.time.unix())).into(),
        size: kept.body.len() as u64,
        e_tag: None,
        version: None,
    }
}

#[async_trait]
impl ObjectStore for FakeBucket {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let key = location.to_string();
        self.write(&key).await?;
        let mut state = self.state();
        let store = key.split('/').next().unwrap_or_default().to_owned();
        *state.puts.entry(store).or_default() += 1;
        if opts.mode == PutMode::Create && state.objects.contains_key(&key) {
            return Err(Error::AlreadyExists { path: key, source: "exists".into() });
        }
        let kept = BucketObject { body: payload.into(), time: state.now(), attributes: opts.attributes };
        state.written_bytes += kept.body.len() as u64;
        state.objects.insert(key.clone(), kept);
        state.answer(&key)?;
        Ok(PutResult { e_tag: None, version: None, extensions: opts.extensions })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let key = location.to_string();
        self.request(&key).await?;
        let mut state = self.state();
        *state.reads.entry(key.clone()).or_default() += 1;
        let bad = state.bad.iter().find(|(part, _)| !options.head && key.contains(part.as_str()));
        match bad.map(|(_, bad)| *bad) {
            Some(BadRead::Refused) => {
                let source = "<Code>InvalidObjectState</Code><Message>it is archived</Message>".into();
                return Err(Error::PermissionDenied { path: key, source });
            }
            Some(BadRead::Fails) => return Err(failure(&key)),
            Some(BadRead::Panics) => {
                drop(state);
                panic!("reading {key}");
            }
            None => {}
        }
        let kept = state.objects.get(&key).filter(|_| state.hidden.as_ref() != Some(&key)).cloned();
        drop(state);
        let kept = kept.ok_or_else(|| Error::NotFound { path: key.clone(), source: "absent".into() })?;
        let meta = meta(&key, &kept);
        let range = match options.range {
            Some(range) => range.as_range(meta.size).unwrap(),
            None => 0..meta.size,
        };
        let body = kept.body.slice(usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap());
        if !options.head {
            self.state().read_bytes += body.len() as u64;
        }
        Ok(GetResult {
            range,
            payload: GetResultPayload::Stream(stream::once(async { Ok(body) }).boxed()),
            meta,
            attributes: kept.attributes,
            extensions: options.extensions,
        })
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.pages(prefix, String::new())
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.pages(prefix, offset.to_string())
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(unused())
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(unused())
    }

    /// In bulk: one request.
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let bucket = self.clone();
        let deleted = async move {
            if let Err(error) = bucket.write("delete").await {
                return stream::once(async { Err(error) }).boxed();
            }
            let delete = move |location: Result<Path>| {
                let location = location?;
                bucket.state().delete(location)
            };
            locations.map(delete).boxed()
        };
        stream::once(deleted).flatten().boxed()
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(unused())
    }
}

fn unused() -> Error {
    Error::NotImplemented { operation: "this".to_owned(), implementer: "test".to_owned() }
}

impl fmt::Debug for FakeBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FakeBucket")
    }
}

impl fmt::Display for FakeBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FakeBucket")
    }
}

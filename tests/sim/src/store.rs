//! One process's handle on a bucket: an `ObjectStore` whose calls are late, lost, doubled and answered wrongly.

use std::{fmt, ops::ControlFlow};

use async_trait::async_trait;
use chrono::DateTime;
use futures::{StreamExt as _, stream, stream::BoxStream};
use object_store::{
    Attribute, Attributes, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};
use tokio::{
    sync::oneshot,
    time::{Duration, sleep, timeout},
};

use crate::{
    cloud::{Cloud, Metadata, Stored, Write},
    process::Process,
};

/// A handle on `bucket` that belongs to `process`.
#[derive(Clone, Debug)]
pub struct SimStore {
    cloud: Cloud,
    bucket: String,
    process: Process,
}

/// What a store says to a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Done,
    Exists,
    Absent,
    Refused,
}

/// What befalls one write, drawn before it is sent.
struct Fate {
    network: Duration,
    landing: Duration,
    way_back: Duration,
    arrives: bool,
    heard: bool,
    /// Arrives only after the caller has given up.
    lateness: Option<Duration>,
    /// Lands again after so long; the answer may be that of the second landing.
    again: Option<(Duration, bool)>,
    conflict: bool,
    /// The process dies: with the request unsent, or sent.
    crash: Option<bool>,
    patience: Duration,
}

impl SimStore {
    /// A handle.
    pub fn new(cloud: &Cloud, bucket: impl Into<String>, process: &Process) -> Self {
        Self { cloud: cloud.clone(), bucket: bucket.into(), process: process.clone() }
    }

    /// Its bucket.
    pub(crate) fn bucket(&self) -> &str {
        &self.bucket
    }

    fn error(&self, key: &str, why: &str) -> Error {
        Error::Generic { store: "sim", source: format!("{}/{key}: {why}", self.bucket).into() }
    }

    /// The pause or the death of the process at this call.
    fn strike(&self) -> Option<bool> {
        if !self.process.mortal() {
            return None;
        }
        let mut state = self.cloud.state();
        let weather = state.weather.clone();
        if state.dice.chance(weather.pause) {
            let span = state.dice.among(&weather.pauses);
            drop(state);
            self.cloud.note(&format!("{} pauses for {span} ms", self.process.name()));
            self.process.pause(Duration::from_millis(span));
            return None;
        }
        state.dice.chance(weather.crash).then(|| state.dice.chance(500))
    }

    fn fate(&self, create: bool) -> Fate {
        let crash = self.strike();
        let mut state = self.cloud.state();
        let weather = state.weather.clone();
        let dice = &mut state.dice;
        let span = |milliseconds| Duration::from_millis(milliseconds);
        let network = span(dice.among(&weather.network));
        let landing = span(dice.among(&weather.landing));
        let way_back = span(dice.among(&weather.network));
        let lost = dice.chance(weather.lost);
        let heard = !dice.chance(weather.unheard);
        let lateness = dice.chance(weather.late).then(|| span(dice.among(&weather.lateness)));
        let again = dice.chance(weather.doubled).then(|| (span(dice.among(&weather.landing)), dice.chance(500)));
        let conflict = create && dice.chance(weather.conflict);
        Fate {
            network,
            landing,
            way_back,
            arrives: !lost,
            heard,
            lateness,
            again,
            conflict,
            crash,
            patience: span(weather.patience),
        }
    }

    async fn die(&self) -> ! {
        self.cloud.note(&format!("{} dies", self.process.name()));
        self.process.kill();
        std::future::pending().await
    }

    async fn write(&self, key: String, write: Write) -> Result<Answer> {
        self.process.running().await;
        let fate = self.fate(matches!(write, Write::Put { create: true, .. }));
        self.process.running().await;
        if fate.crash == Some(false) {
            self.die().await;
        }
        if fate.conflict {
            self.cloud.note(&format!("{} create {}/{key} answered 409", self.process.name(), self.bucket));
            sleep(fate.network + fate.way_back).await;
            self.process.running().await;
            return Ok(Answer::Exists);
        }
        let patience = fate.patience;
        let crash = fate.crash.is_some();
        let name = key.clone();
        let (heard, answer) = oneshot::channel();
        tokio::spawn(self.clone().deliver(name, write, fate, heard));
        if crash {
            self.die().await;
        }
        let answer = timeout(patience, answer).await;
        self.process.running().await;
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(self.error(&key, "the connection broke")),
            Err(_) => Err(self.error(&key, "timed out")),
        }
    }

    /// Carries a write to the store, whatever becomes of its sender.
    async fn deliver(self, key: String, write: Write, fate: Fate, heard: oneshot::Sender<Answer>) {
        if !fate.arrives {
            self.cloud.note(&format!("{} write {}/{key} lost", self.process.name(), self.bucket));
            // Half of the losses are noticed at once, the others by a time-out.
            if fate.network.as_millis().is_multiple_of(2) {
                sleep(fate.patience * 2).await;
            }
            return;
        }
        sleep(fate.network + fate.lateness.map_or(Duration::ZERO, |late| fate.patience + late)).await;
        let first = self.arrive(&key, &write, fate.landing).await;
        let answer = match fate.again {
            Some((later, true)) => {
                sleep(later).await;
                self.arrive(&key, &write, fate.landing).await
            }
            Some((later, false)) => {
                let (again, key, write) = (self.clone(), key.clone(), write.clone());
                tokio::spawn(async move {
                    sleep(later).await;
                    again.arrive(&key, &write, later).await;
                });
                first
            }
            None => first,
        };
        sleep(fate.way_back).await;
        if fate.heard {
            let _ = heard.send(answer);
        }
    }

    async fn arrive(&self, key: &str, write: &Write, landing: Duration) -> Answer {
        match write {
            Write::Put { metadata, create, .. } => {
                if !self.cloud.admits(&self.bucket, key, metadata) {
                    return Answer::Refused;
                }
                sleep(landing).await;
                let mut stamp = None;
                if let Some((given, unseen)) = create.then(|| self.cloud.straggle(&self.bucket)).flatten() {
                    stamp = Some(given);
                    sleep(unseen).await;
                }
                if self.cloud.land(self.process.name(), &self.bucket, key, write, stamp) {
                    Answer::Done
                } else {
                    Answer::Exists
                }
            }
            Write::Delete => {
                sleep(landing).await;
                if self.cloud.remove(self.process.name(), &self.bucket, key) { Answer::Done } else { Answer::Absent }
            }
        }
    }

    /// One read: `look` sees the bucket at one instant.
    async fn read<T>(&self, key: &str, look: impl FnOnce(&Cloud) -> T) -> Result<T> {
        self.process.running().await;
        let crash = self.strike();
        self.process.running().await;
        if crash.is_some() {
            self.die().await;
        }
        let (there, back, unread) = {
            let mut state = self.cloud.state();
            let weather = state.weather.clone();
            let there = state.dice.among(&weather.network);
            let back = state.dice.among(&weather.network);
            (there, back, state.dice.chance(weather.unread))
        };
        sleep(Duration::from_millis(there)).await;
        let seen = look(&self.cloud);
        sleep(Duration::from_millis(back)).await;
        self.process.running().await;
        if unread {
            return Err(self.error(key, "503 service unavailable"));
        }
        Ok(seen)
    }

    /// One page of a listing, strictly after `after`.
    async fn page(&self, prefix: &str, after: &str) -> Result<(Vec<ObjectMeta>, ControlFlow<()>)> {
        self.read(prefix, |cloud| {
            let mut state = cloud.state();
            let sizes = state.weather.page.clone();
            let size = usize::try_from(state.dice.among(&sizes)).unwrap_or(usize::MAX);
            let Some(bucket) = state.buckets.get(&self.bucket) else {
                return (Vec::new(), ControlFlow::Break(()));
            };
            let mut found = bucket
                .range::<str, _>((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded))
                .filter(|(key, _)| within(prefix, key));
            let page: Vec<_> = found.by_ref().take(size).map(|(key, object)| listed(key, object)).collect();
            let more = if found.next().is_some() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
            (page, more)
        })
        .await
    }

    fn pages(&self, prefix: String, after: String) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = self.clone();
        stream::unfold(Some(after), move |after| {
            let (store, prefix) = (store.clone(), prefix.clone());
            async move {
                let after = after?;
                match store.page(&prefix, &after).await {
                    Err(error) => Some((vec![Err(error)], None)),
                    Ok((page, more)) => {
                        let next = page.last().map(|last| last.location.to_string()).filter(|_| more.is_continue());
                        Some((page.into_iter().map(Ok).collect::<Vec<_>>(), next))
                    }
                }
            }
        })
        .flat_map(stream::iter)
        .boxed()
    }
}

fn within(prefix: &str, key: &str) -> bool {
    prefix.is_empty() || key.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
}

fn meta(key: &str, object: &Stored, milliseconds: u64) -> ObjectMeta {
    ObjectMeta {
        location: Path::from(key),
        last_modified: DateTime::from_timestamp_millis(i64::try_from(milliseconds).unwrap_or(i64::MAX))
            .unwrap_or_default(),
        size: object.body.len() as u64,
        e_tag: Some(format!("\"{}\"", object.tag)),
        version: None,
    }
}

/// A LIST answer has milliseconds.
fn listed(key: &str, object: &Stored) -> ObjectMeta {
    meta(key, object, object.stamp)
}

/// A HEAD or GET answer has whole seconds.
fn got(key: &str, object: &Stored) -> ObjectMeta {
    meta(key, object, object.stamp / 1000 * 1000)
}

fn user_metadata(attributes: &Attributes) -> Metadata {
    attributes
        .iter()
        .filter_map(|(attribute, value)| match attribute {
            Attribute::Metadata(name) => Some((name.to_string(), value.to_string())),
            _ => None,
        })
        .collect()
}

fn attributes(metadata: &Metadata) -> Attributes {
    metadata.iter().map(|(name, value)| (Attribute::Metadata(name.clone().into()), value.clone())).collect()
}

#[async_trait]
impl ObjectStore for SimStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let key = location.to_string();
        let create = match opts.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => {
                return Err(Error::NotImplemented {
                    operation: "compare-and-swap".to_owned(),
                    implementer: "sim".to_owned(),
                });
            }
        };
        let write = Write::Put { body: payload.into(), metadata: user_metadata(&opts.attributes), create };
        match self.write(key.clone(), write).await? {
            Answer::Done | Answer::Absent => Ok(PutResult { e_tag: None, version: None, extensions: opts.extensions }),
            Answer::Exists => Err(Error::AlreadyExists { path: key.clone(), source: "exists".into() }),
            Answer::Refused => Err(Error::PermissionDenied { path: key.clone(), source: "request has expired".into() }),
        }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "multipart".to_owned(), implementer: "sim".to_owned() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let key = location.to_string();
        let object = self
            .read(&key, |cloud| cloud.state().buckets.get(&self.bucket).and_then(|bucket| bucket.get(&key).cloned()))
            .await?
            .ok_or_else(|| Error::NotFound { path: key.clone(), source: "absent".into() })?;
        let meta = got(&key, &object);
        options.check_preconditions(&meta)?;
        let range = match options.range {
            Some(range) => range.as_range(meta.size).map_err(|error| self.error(&key, &error.to_string()))?,
            None => 0..meta.size,
        };
        let (from, to) = (usize::try_from(range.start).unwrap_or(0), usize::try_from(range.end).unwrap_or(0));
        let body = object.body.slice(from..to);
        Ok(GetResult {
            payload: GetResultPayload::Stream(stream::once(async { Ok(body) }).boxed()),
            meta,
            range,
            attributes: attributes(&object.metadata),
            extensions: options.extensions,
        })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .then(move |location| {
                let store = store.clone();
                async move {
                    let location = location?;
                    store.write(location.to_string(), Write::Delete).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.pages(prefix.map(ToString::to_string).unwrap_or_default(), String::new())
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.pages(prefix.map(ToString::to_string).unwrap_or_default(), offset.to_string())
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix = prefix.map(ToString::to_string).unwrap_or_default();
        let depth = if prefix.is_empty() { 0 } else { prefix.len() + 1 };
        let keys: Vec<(String, Stored)> = self
            .read(&prefix, |cloud| {
                let state = cloud.state();
                let bucket = state.buckets.get(&self.bucket).into_iter().flatten();
                bucket
                    .filter(|(key, _)| within(&prefix, key))
                    .map(|(key, object)| (key.clone(), object.clone()))
                    .collect()
            })
            .await?;
        let mut common_prefixes: Vec<Path> = Vec::new();
        let mut objects = Vec::new();
        for (key, object) in &keys {
            match key[depth..].find('/') {
                None => objects.push(listed(key, object)),
                Some(end) => {
                    let folder = Path::from(&key[..depth + end]);
                    if common_prefixes.last() != Some(&folder) {
                        common_prefixes.push(folder);
                    }
                }
            }
        }
        Ok(ListResult { common_prefixes, objects, extensions: object_store::Extensions::default() })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "copy".to_owned(), implementer: "sim".to_owned() })
    }
}

impl fmt::Display for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sim://{}", self.bucket)
    }
}

//! One process's handle on a bucket: an `ObjectStore` whose calls are delayed, lost, duplicated and answered with false errors.

use std::{
    collections::BTreeMap,
    fmt,
    ops::{Bound, ControlFlow},
};

use async_trait::async_trait;
use bytes::Bytes;
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
    process::SimProcess,
    refusals::CallVerdict,
    simulated_store::{ObjectMetadata, SimulatedStore, StoreWrite, StoredObject},
};

/// A handle on `bucket` that belongs to `process`.
#[derive(Clone, Debug)]
pub struct FaultInjectingStore {
    simulated_store: SimulatedStore,
    bucket: String,
    process: SimProcess,
}

/// The store's answer to a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteAnswer {
    Done,
    Exists,
    Absent,
    Refused,
}

/// The delays and faults of one write, drawn before it is sent.
struct WriteFaults {
    request_delay: Duration,
    write_delay: Duration,
    answer_delay: Duration,
    arrives: bool,
    answer_arrives: bool,
    /// Arrives so long after the caller's timeout.
    late_by: Option<Duration>,
    /// Arrives again after so long; `true`: the caller gets the answer of the second arrival.
    again: Option<(Duration, bool)>,
    conflict: bool,
    /// The process crashes; `true`: after the request is sent.
    crash: Option<bool>,
    call_timeout: Duration,
}

impl FaultInjectingStore {
    /// A handle.
    pub fn new(simulated_store: &SimulatedStore, bucket: impl Into<String>, process: &SimProcess) -> Self {
        Self { simulated_store: simulated_store.clone(), bucket: bucket.into(), process: process.clone() }
    }

    /// Its bucket.
    pub(crate) fn bucket(&self) -> &str {
        &self.bucket
    }

    fn error(&self, key: &str, why: &str) -> Error {
        Error::Generic { store: "sim", source: format!("{}/{key}: {why}", self.bucket).into() }
    }

    /// Pauses the process at this call, or returns its crash: `true` is one after the request is sent.
    fn draw_process_fault(&self) -> Option<bool> {
        if !self.process.crashes() {
            return None;
        }
        let mut state = self.simulated_store.state();
        let fault_schedule = state.fault_schedule.clone();
        if state.rng.chance(fault_schedule.process_pauses) {
            let span = state.rng.in_range(&fault_schedule.pause_duration);
            state.totals.faults += 1;
            drop(state);
            self.simulated_store.note(&format!("{} pauses for {span} ms", self.process.name()));
            self.process.pause(Duration::from_millis(span));
            return None;
        }
        state.rng.chance(fault_schedule.process_crashes).then(|| state.rng.chance(500))
    }

    fn draw_faults(&self, create: bool) -> WriteFaults {
        let crash = self.draw_process_fault();
        let mut state = self.simulated_store.state();
        let fault_schedule = state.fault_schedule.clone();
        let rng = &mut state.rng;
        let span = |milliseconds| Duration::from_millis(milliseconds);
        let request_delay = span(rng.in_range(&fault_schedule.network_delay));
        let write_delay = span(rng.in_range(&fault_schedule.write_delay));
        let answer_delay = span(rng.in_range(&fault_schedule.network_delay));
        let lost = rng.chance(fault_schedule.lost_writes);
        let answer_arrives = !rng.chance(fault_schedule.lost_answers);
        let late_by =
            rng.chance(fault_schedule.late_writes).then(|| span(rng.in_range(&fault_schedule.late_write_delay)));
        let again = rng
            .chance(fault_schedule.duplicated_writes)
            .then(|| (span(rng.in_range(&fault_schedule.write_delay)), rng.chance(500)));
        let conflict = create && rng.chance(fault_schedule.false_conflicts);
        let faults = [lost, !answer_arrives, late_by.is_some(), again.is_some(), conflict];
        state.totals.faults += faults.into_iter().map(u64::from).sum::<u64>();
        WriteFaults {
            request_delay,
            write_delay,
            answer_delay,
            arrives: !lost,
            answer_arrives,
            late_by,
            again,
            conflict,
            crash,
            call_timeout: span(fault_schedule.call_timeout),
        }
    }

    /// Whether the store takes calls of this process now.
    fn is_admitted(&self) -> bool {
        self.simulated_store.refusals().admits_call(self.process.name(), &self.bucket)
    }

    /// The store's answer to a read of `object` that takes effect now.
    fn verdict(&self, key: &str, object: &StoredObject, head: bool) -> CallVerdict {
        let (refusals, now) = (self.simulated_store.refusals(), self.simulated_store.now());
        let verdict = refusals.answer(self.process.name(), &self.bucket, key, head, now);
        if verdict == CallVerdict::Allowed && !head {
            refusals.record_read(self.process.name(), &self.bucket, key, object.stamp, now);
        }
        verdict
    }

    /// What a read of `key` gives: now and then a segment with another letter or digit in it.
    fn received(&self, key: &str, body: Bytes) -> Bytes {
        if !key.contains("/segment/") {
            return body;
        }
        let mut state = self.simulated_store.state();
        let rate = state.fault_schedule.damaged_segments;
        if rate == 0 || body.is_empty() || !state.rng.chance(rate) {
            return body;
        }
        let from = state.rng.index(body.len());
        drop(state);
        let Some(at) = (from..body.len()).find(|at| body[*at].is_ascii_alphanumeric()) else { return body };
        self.simulated_store.note(&format!(
            "{} reads {}/{key} with byte {at} damaged",
            self.process.name(),
            self.bucket
        ));
        self.simulated_store.mark("a damaged segment was read");
        self.simulated_store.count_faults(1);
        let mut damaged = body.to_vec();
        damaged[at] = match damaged[at] {
            b'9' => b'0',
            b'z' => b'a',
            b'Z' => b'A',
            byte => byte + 1,
        };
        damaged.into()
    }

    /// A call begins.
    async fn begin_step(&self) {
        self.process.running().await;
        self.simulated_store.state().totals.steps += 1;
    }

    async fn crash(&self) -> ! {
        self.simulated_store.note(&format!("{} crashes", self.process.name()));
        self.simulated_store.count_crash();
        self.process.kill();
        std::future::pending().await
    }

    async fn write(&self, key: String, write: StoreWrite) -> Result<WriteAnswer> {
        self.begin_step().await;
        let faults = self.draw_faults(matches!(write, StoreWrite::Put { create: true, .. }));
        self.process.running().await;
        if faults.crash == Some(false) {
            self.crash().await;
        }
        if faults.conflict {
            self.simulated_store.note(&format!("{} create {}/{key} answered 409", self.process.name(), self.bucket));
            sleep(faults.request_delay + faults.answer_delay).await;
            self.process.running().await;
            return Ok(WriteAnswer::Exists);
        }
        let call_timeout = faults.call_timeout;
        let crash = faults.crash.is_some();
        let name = key.clone();
        let (answer_sender, answer) = oneshot::channel();
        tokio::spawn(self.clone().deliver(name, write, faults, answer_sender));
        if crash {
            self.crash().await;
        }
        let answer = timeout(call_timeout, answer).await;
        self.process.running().await;
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(self.error(&key, "the connection broke")),
            Err(_) => Err(self.error(&key, "timed out")),
        }
    }

    /// Carries a write to the store, even if its sender crashes.
    async fn deliver(
        self,
        key: String,
        write: StoreWrite,
        faults: WriteFaults,
        answer_sender: oneshot::Sender<WriteAnswer>,
    ) {
        if !faults.arrives {
            self.simulated_store.note(&format!("{} write {}/{key} lost", self.process.name(), self.bucket));
            // Half of the losses break the connection at once, the others run into the timeout.
            if faults.request_delay.as_millis().is_multiple_of(2) {
                sleep(faults.call_timeout * 2).await;
            }
            return;
        }
        sleep(faults.request_delay + faults.late_by.map_or(Duration::ZERO, |late| faults.call_timeout + late)).await;
        let first = self.arrive(&key, &write, faults.write_delay).await;
        let answer = match faults.again {
            Some((later, true)) => {
                sleep(later).await;
                self.arrive(&key, &write, faults.write_delay).await
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
        sleep(faults.answer_delay).await;
        if faults.answer_arrives {
            let _ = answer_sender.send(answer);
        }
    }

    /// A catalogue may use the name of a deleted descriptor again. A delete of the first one that comes late and took the second
    /// one would undo an update before it is decided: a fault of the catalogue, with or without a log.
    fn stamp_to_delete(&self, key: &str) -> Option<u64> {
        let state = self.simulated_store.state();
        let object = state.buckets.get(&self.bucket).and_then(|objects| objects.get(key));
        object.map(|object| object.stamp).filter(|_| self.process.name().starts_with("deleter"))
    }

    async fn arrive(&self, key: &str, write: &StoreWrite, write_delay: Duration) -> WriteAnswer {
        match write {
            _ if !self.is_admitted() => WriteAnswer::Refused,
            StoreWrite::Put { metadata, create, .. } => {
                if !self.simulated_store.admits(&self.bucket, key, metadata) {
                    return WriteAnswer::Refused;
                }
                sleep(write_delay).await;
                let mut stamp = None;
                if let Some((given, slow_by)) =
                    create.then(|| self.simulated_store.slow_visibility(&self.bucket)).flatten()
                {
                    stamp = Some(given);
                    sleep(slow_by).await;
                }
                if self.simulated_store.apply_write(self.process.name(), &self.bucket, key, write, stamp) {
                    WriteAnswer::Done
                } else {
                    WriteAnswer::Exists
                }
            }
            StoreWrite::Delete { stamp } => {
                sleep(write_delay).await;
                let (refusals, now) = (self.simulated_store.refusals(), self.simulated_store.now());
                if refusals.refuses_deletion(&self.bucket, key, now) {
                    return WriteAnswer::Refused;
                }
                if self.simulated_store.apply_delete(self.process.name(), &self.bucket, key, *stamp) {
                    WriteAnswer::Done
                } else {
                    WriteAnswer::Absent
                }
            }
        }
    }

    /// One read: `look` reads the bucket at one instant.
    async fn read<T>(&self, key: &str, look: impl FnOnce(&SimulatedStore) -> T) -> Result<T> {
        self.begin_step().await;
        let crash = self.draw_process_fault();
        self.process.running().await;
        if crash.is_some() {
            self.crash().await;
        }
        let (request_delay, answer_delay, fails) = {
            let mut state = self.simulated_store.state();
            let fault_schedule = state.fault_schedule.clone();
            let request_delay = state.rng.in_range(&fault_schedule.network_delay);
            let answer_delay = state.rng.in_range(&fault_schedule.network_delay);
            let fails = state.rng.chance(fault_schedule.failed_reads);
            state.totals.faults += u64::from(fails);
            (request_delay, answer_delay, fails)
        };
        sleep(Duration::from_millis(request_delay)).await;
        let seen = look(&self.simulated_store);
        let admitted = self.is_admitted();
        sleep(Duration::from_millis(answer_delay)).await;
        self.process.running().await;
        if !admitted {
            return Err(denied(key));
        }
        if fails {
            return Err(self.error(key, "503 service unavailable"));
        }
        Ok(seen)
    }

    /// One page of a listing, strictly after `after`.
    async fn page(&self, prefix: &str, after: &str) -> Result<(Vec<ObjectMeta>, ControlFlow<()>)> {
        self.read(prefix, |simulated_store| {
            let mut state = simulated_store.state();
            let sizes = state.fault_schedule.page_size.clone();
            let size = usize::try_from(state.rng.in_range(&sizes)).unwrap_or(usize::MAX);
            let Some(bucket) = state.buckets.get(&self.bucket) else {
                return (Vec::new(), ControlFlow::Break(()));
            };
            let mut found = below(bucket, prefix, after);
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

fn denied(key: &str) -> Error {
    Error::PermissionDenied { path: key.to_owned(), source: "AccessDenied".into() }
}

/// The objects of the folder `prefix` whose keys come after `after`.
fn below<'a>(
    bucket: &'a BTreeMap<String, StoredObject>,
    prefix: &str,
    after: &str,
) -> impl Iterator<Item = (&'a String, &'a StoredObject)> + use<'a> {
    let folder = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
    let from = if after < folder.as_str() { Bound::Included(folder.as_str()) } else { Bound::Excluded(after) };
    // The keys of a folder follow one another.
    bucket.range::<str, _>((from, Bound::Unbounded)).take_while(move |(key, _)| key.starts_with(&folder))
}

fn meta(key: &str, object: &StoredObject, milliseconds: u64) -> ObjectMeta {
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
fn listed(key: &str, object: &StoredObject) -> ObjectMeta {
    meta(key, object, object.stamp)
}

/// A HEAD or GET answer has whole seconds.
fn got(key: &str, object: &StoredObject) -> ObjectMeta {
    meta(key, object, object.stamp / 1000 * 1000)
}

fn user_metadata(attributes: &Attributes) -> ObjectMetadata {
    attributes
        .iter()
        .filter_map(|(attribute, value)| match attribute {
            Attribute::Metadata(name) => Some((name.to_string(), value.to_string())),
            _ => None,
        })
        .collect()
}

fn attributes(metadata: &ObjectMetadata) -> Attributes {
    metadata.iter().map(|(name, value)| (Attribute::Metadata(name.clone().into()), value.clone())).collect()
}

#[async_trait]
impl ObjectStore for FaultInjectingStore {
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
        let write = StoreWrite::Put { body: payload.into(), metadata: user_metadata(&opts.attributes), create };
        match self.write(key.clone(), write).await? {
            WriteAnswer::Done | WriteAnswer::Absent => {
                Ok(PutResult { e_tag: None, version: None, extensions: opts.extensions })
            }
            WriteAnswer::Exists => Err(Error::AlreadyExists { path: key.clone(), source: "exists".into() }),
            WriteAnswer::Refused => {
                Err(Error::PermissionDenied { path: key.clone(), source: "request has expired".into() })
            }
        }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "multipart".to_owned(), implementer: "sim".to_owned() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let key = location.to_string();
        let (object, verdict) = self
            .read(&key, |simulated_store| {
                let state = simulated_store.state();
                let object = state.buckets.get(&self.bucket).and_then(|bucket| bucket.get(&key).cloned());
                drop(state);
                let verdict = object.as_ref().map(|object| self.verdict(&key, object, options.head));
                (object, verdict.unwrap_or(CallVerdict::Allowed))
            })
            .await?;
        match verdict {
            CallVerdict::Allowed => {}
            CallVerdict::Refused => return Err(denied(&key)),
            // Not `panic!`, which would print a message each time.
            CallVerdict::Panics => std::panic::resume_unwind(Box::new("the parser cannot take this entry")),
        }
        let object = object.ok_or_else(|| Error::NotFound { path: key.clone(), source: "absent".into() })?;
        let meta = got(&key, &object);
        options.check_preconditions(&meta)?;
        let range = match options.range {
            Some(range) => range.as_range(meta.size).map_err(|error| self.error(&key, &error.to_string()))?,
            None => 0..meta.size,
        };
        let (from, to) = (usize::try_from(range.start).unwrap_or(0), usize::try_from(range.end).unwrap_or(0));
        let body = object.body.slice(from..to);
        let body = if options.head { body } else { self.received(&key, body) };
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
                    let key = location.to_string();
                    let stamp = store.stamp_to_delete(&key);
                    match store.write(key.clone(), StoreWrite::Delete { stamp }).await? {
                        WriteAnswer::Refused => Err(denied(&key)),
                        _ => Ok(location),
                    }
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
        let keys: Vec<(String, StoredObject)> = self
            .read(&prefix, |simulated_store| {
                let state = simulated_store.state();
                let found = state.buckets.get(&self.bucket).into_iter().flat_map(|bucket| below(bucket, &prefix, ""));
                found.map(|(key, object)| (key.clone(), object.clone())).collect()
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

impl fmt::Display for FaultInjectingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sim://{}", self.bucket)
    }
}

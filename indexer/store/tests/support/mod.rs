//! A store in memory with faults, on the clock of the test's runtime.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tidemark_store::{AppendOnlyChain, ChainState, Entropy, InvariantViolation, StateExtensions, Store, StoreSecond};
use tokio::{sync::Notify, time::Instant};

/// A state for tests: numbers, in the order in which they were appended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AppendedNumbers(pub(crate) Vec<u64>);

/// Why a transaction on numbers does not apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} cannot follow; nothing was written; append another number")]
pub(crate) struct NumberRejected(pub(crate) u64);

impl ChainState for AppendedNumbers {
    type Rejection = NumberRejected;

    const FORMAT: u32 = 1;

    fn extensions(&self) -> &StateExtensions {
        static NONE: StateExtensions = StateExtensions::NONE;
        &NONE
    }

    fn apply_store_time(&mut self, _: StoreSecond) {}

    fn check_state(&self) -> Result<(), InvariantViolation> {
        Ok(())
    }

    fn check_transition(&self, _: &Self) -> Result<(), InvariantViolation> {
        Ok(())
    }
}

/// The transaction that appends `number`, whatever is there.
pub(crate) fn push(
    number: u64,
) -> impl Fn(Option<&AppendedNumbers>) -> Result<Option<AppendedNumbers>, NumberRejected> + Send + Sync {
    move |state| {
        let mut next = state.cloned().unwrap_or_default();
        next.0.push(number);
        Ok(Some(next))
    }
}

/// The transaction that appends `number` unless it is there.
pub(crate) fn push_once(
    number: u64,
) -> impl Fn(Option<&AppendedNumbers>) -> Result<Option<AppendedNumbers>, NumberRejected> + Send + Sync {
    move |state| match state {
        Some(AppendedNumbers(numbers)) if numbers.contains(&number) => Ok(None),
        _ => push(number)(state),
    }
}

pub(crate) fn key(number: u64) -> String {
    format!("{number:020}")
}

/// What happens to a call.
#[derive(Clone, Debug)]
pub(crate) enum CallFault {
    /// It is applied and its answer is lost.
    LoseAnswer,
    /// It fails and nothing is applied.
    Drop,
    /// It is refused for good.
    Forbid,
    /// It fails now and is applied after this time.
    LandLater(Duration),
    /// It waits before it is applied: the caller is paused.
    Pause(Arc<Notify>),
    /// It never comes back, and nothing is applied: the process ends here.
    EndBefore,
    /// It is applied and never comes back: the process ends here.
    EndAfter,
    /// A listing does not show the objects whose key contains this, as if they came while it went on.
    Miss(String),
}

/// A call that a rule may hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreCall {
    Put,
    Get,
    Head,
    List,
    Delete,
    /// Any of these.
    Any,
}

struct CallFaultRule {
    call: StoreCall,
    key: String,
    skip: u64,
    times: u64,
    fault: CallFault,
}

/// A store in memory whose calls a test can disturb. Clones share the objects and the rules.
#[derive(Clone)]
pub(crate) struct ScriptedStore {
    objects: Arc<InMemory>,
    times: Arc<Mutex<BTreeMap<String, DateTime<Utc>>>>,
    rules: Arc<Mutex<Vec<CallFaultRule>>>,
    calls: Arc<AtomicU64>,
    began: Instant,
}

impl ScriptedStore {
    pub(crate) fn new() -> Self {
        Self {
            objects: Arc::default(),
            times: Arc::default(),
            rules: Arc::default(),
            calls: Arc::default(),
            began: Instant::now(),
        }
    }

    /// The same objects, without rules and with counts of its own: another process's view.
    pub(crate) fn calm(&self) -> Self {
        Self { rules: Arc::default(), calls: Arc::default(), ..self.clone() }
    }

    /// From now on, after `skip` calls of that kind on keys that contain `key`, `fault` happens to `times` of them.
    pub(crate) fn disturb(&self, call: StoreCall, key: &str, skip: u64, times: u64, fault: CallFault) {
        self.rules.lock().push(CallFaultRule { call, key: key.to_owned(), skip, times, fault });
    }

    pub(crate) fn peace(&self) {
        self.rules.lock().clear();
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    pub(crate) fn store(&self) -> Store {
        Store::over(Arc::new(self.clone()), url::Url::parse("memory:///").unwrap())
    }

    pub(crate) fn chain(&self, seed: u64) -> AppendOnlyChain<AppendedNumbers> {
        AppendOnlyChain::new(self.store().below("chain"), Entropy::seeded(seed))
    }

    /// Every key.
    pub(crate) async fn keys(&self) -> Vec<String> {
        let objects = self.objects.list(None).map(|object| object.unwrap().location.to_string());
        let mut keys: Vec<_> = objects.collect().await;
        keys.sort();
        keys
    }

    fn now(&self) -> DateTime<Utc> {
        let seconds = 1_700_000_000 + i64::try_from(self.began.elapsed().as_secs()).unwrap();
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn strike(&self, call: StoreCall, key: &str) -> Option<CallFault> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut rules = self.rules.lock();
        for rule in rules.iter_mut() {
            if (rule.call != call && rule.call != StoreCall::Any) || !key.contains(&rule.key) || rule.times == 0 {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            rule.times -= 1;
            return Some(rule.fault.clone());
        }
        None
    }

    /// Acts out what comes before the call is applied; what is left comes back.
    async fn before(&self, call: StoreCall, key: &str) -> Result<Option<CallFault>> {
        match self.strike(call, key) {
            Some(CallFault::Drop) => Err(broken()),
            Some(CallFault::Forbid) => {
                Err(Error::PermissionDenied { path: key.to_owned(), source: "not yours".into() })
            }
            Some(CallFault::Pause(until)) => {
                until.notified().await;
                Ok(None)
            }
            Some(CallFault::EndBefore) => std::future::pending().await,
            fault => Ok(fault),
        }
    }

    async fn put(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let put = self.objects.put_opts(location, payload, options).await?;
        self.times.lock().insert(location.to_string(), self.now());
        Ok(put)
    }

    fn timed(&self, meta: ObjectMeta) -> ObjectMeta {
        let time = self.times.lock().get(meta.location.as_ref()).copied();
        ObjectMeta { last_modified: time.unwrap_or(meta.last_modified), ..meta }
    }
}

async fn after<T>(fault: Option<CallFault>, answer: Result<T>) -> Result<T> {
    match fault {
        Some(CallFault::LoseAnswer) => Err(broken()),
        Some(CallFault::EndAfter) => std::future::pending().await,
        _ => answer,
    }
}

fn broken() -> Error {
    Error::Generic { store: "scripted", source: "connection reset".into() }
}

impl fmt::Debug for ScriptedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScriptedStore")
    }
}

impl fmt::Display for ScriptedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScriptedStore")
    }
}

#[async_trait]
impl ObjectStore for ScriptedStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let fault = self.before(StoreCall::Put, location.as_ref()).await?;
        if let Some(CallFault::LandLater(time)) = fault {
            let (this, location) = (self.clone(), location.clone());
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                this.put(&location, payload, options).await
            });
            return Err(broken());
        }
        after(fault, self.put(location, payload, options).await).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(broken())
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let call = if options.head { StoreCall::Head } else { StoreCall::Get };
        let fault = self.before(call, location.as_ref()).await?;
        let answer = self.objects.get_opts(location, options).await;
        let answer = answer.map(|got| GetResult { meta: self.timed(got.meta.clone()), ..got });
        after(fault, answer).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let delete = move |location: Result<Path>| {
            let this = this.clone();
            async move {
                let location = location?;
                let fault = this.before(StoreCall::Delete, location.as_ref()).await?;
                after(fault, this.objects.delete(&location).await.map(|()| location)).await
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, key) = (self.clone(), prefix.map(ToString::to_string).unwrap_or_default());
        let prefix = prefix.cloned();
        futures::stream::once(async move {
            let fault = match this.before(StoreCall::List, &key).await {
                Ok(fault) => fault,
                Err(error) => return futures::stream::iter([Err(error)]).boxed(),
            };
            let missed = if let Some(CallFault::Miss(missed)) = &fault { Some(missed.clone()) } else { None };
            match after(fault, Ok(())).await {
                Ok(()) => {
                    let times = this.clone();
                    let shown = this.objects.list(prefix.as_ref()).try_filter(move |meta| {
                        let missed = missed.as_ref().is_some_and(|missed| meta.location.as_ref().contains(missed));
                        std::future::ready(!missed)
                    });
                    shown.map(move |meta| meta.map(|meta| times.timed(meta))).boxed()
                }
                Err(error) => futures::stream::iter([Err(error)]).boxed(),
            }
        })
        .flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}

/// Tries each of `faults` until one of them strikes no call any more. Gives how many calls there are, as `attempt` says then.
pub(crate) async fn strike_each_call<F>(
    faults: impl IntoIterator<Item = F>,
    mut attempt: impl AsyncFnMut(F) -> Option<u64>,
) -> u64 {
    for fault in faults {
        if let Some(calls) = Box::pin(attempt(fault)).await {
            return calls;
        }
    }
    panic!("there are more calls than were tried");
}

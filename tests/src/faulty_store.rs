//! An `object_store` decorator that counts, fails and drops preconditions: for stores that have no server to do it.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, path::Path,
};
use parking_lot::{Mutex, MutexGuard};

use crate::faults::{FaultRule, FaultRules, InjectedFault, StoreOperation, until_lifted};

/// A store with faults. Clones share the faults and the counts, so that a test keeps one and gives the other away.
#[derive(Clone)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    state: Arc<FaultyState>,
}

#[derive(Debug, Default)]
struct FaultyState {
    faults: Mutex<FaultRules>,
    counts: Mutex<BTreeMap<StoreOperation, u64>>,
    ignore_preconditions: AtomicBool,
}

impl FaultyStore {
    /// `inner` without any fault yet.
    pub fn over(inner: impl ObjectStore) -> Self {
        Self { inner: Arc::new(inner), state: Arc::default() }
    }

    /// Conditional writes succeed as if they had no condition, from now on.
    pub fn ignore_preconditions(&self) {
        self.state.ignore_preconditions.store(true, Ordering::Relaxed);
    }

    /// Adds a fault; see [`FaultRule`].
    pub fn inject(&self, rule: FaultRule) {
        self.faults().add(rule);
    }

    /// Takes every fault away.
    pub fn calm(&self) {
        self.faults().clear();
    }

    /// Calls by operation, those that failed included.
    pub fn counts(&self) -> BTreeMap<StoreOperation, u64> {
        self.counters().clone()
    }

    fn faults(&self) -> MutexGuard<'_, FaultRules> {
        self.state.faults.lock()
    }

    fn counters(&self) -> MutexGuard<'_, BTreeMap<StoreOperation, u64>> {
        self.state.counts.lock()
    }

    /// Counts the call and acts out what hits before it is applied. The fault to act out afterwards comes back.
    async fn before(&self, operation: StoreOperation, path: &str) -> Result<Option<InjectedFault>> {
        *self.counters().entry(operation).or_default() += 1;
        let struck = self.faults().strike(operation, path);
        if let Some((rule, InjectedFault::Hold)) = struck {
            until_lifted(&self.state.faults, rule).await;
            return Ok(None);
        }
        match struck.map(|(_, fault)| fault) {
            Some(InjectedFault::Drop) => Err(broken()),
            Some(InjectedFault::Unavailable) => Err(failed("503 Service Unavailable: SlowDown")),
            Some(InjectedFault::Forbidden | InjectedFault::Locked) => Err(denied(path)),
            Some(InjectedFault::Delay(time)) => {
                tokio::time::sleep(time).await;
                Ok(None)
            }
            other => Ok(other),
        }
    }

    fn mode(&self, mode: PutMode) -> PutMode {
        if self.state.ignore_preconditions.load(Ordering::Relaxed) { PutMode::Overwrite } else { mode }
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let fault = self.before(StoreOperation::Put, location.as_ref()).await?;
        let options = PutOptions { mode: self.mode(options.mode.clone()), ..options };
        if let Some(InjectedFault::LandLater(time)) = fault {
            let (inner, location) = (Arc::clone(&self.inner), location.clone());
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                inner.put_opts(&location, payload, options).await
            });
            return Err(broken());
        }
        after(fault, self.inner.put_opts(location, payload, options).await)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let fault = self.before(StoreOperation::Multipart, location.as_ref()).await?;
        after(fault, self.inner.put_multipart_opts(location, options).await)
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let operation = if options.head { StoreOperation::Head } else { StoreOperation::Get };
        let fault = self.before(operation, location.as_ref()).await?;
        after(fault, self.inner.get_opts(location, options).await)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let fault = self.before(StoreOperation::Get, location.as_ref()).await?;
        after(fault, self.inner.get_ranges(location, ranges).await)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let one = move |location: Result<Path>| {
            let this = this.clone();
            async move {
                let location = location?;
                let fault = this.before(StoreOperation::Delete, location.as_ref()).await?;
                let mut deleted = this.inner.delete_stream(futures::stream::iter([Ok(location.clone())]).boxed());
                after(fault, deleted.next().await.unwrap_or(Ok(location)))
            }
        };
        locations.then(one).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let listing = self.inner.list(prefix);
        self.listing(prefix, listing)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let listing = self.inner.list_with_offset(prefix, offset);
        self.listing(prefix, listing)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let fault = self.before(StoreOperation::List, prefix.map(AsRef::as_ref).unwrap_or_default()).await?;
        after(fault, self.inner.list_with_delimiter(prefix).await)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let fault = self.before(StoreOperation::Other, to.as_ref()).await?;
        after(fault, self.inner.copy_opts(from, to, options).await)
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let fault = self.before(StoreOperation::Other, to.as_ref()).await?;
        after(fault, self.inner.rename_opts(from, to, options).await)
    }
}

impl FaultyStore {
    fn listing(
        &self,
        prefix: Option<&Path>,
        listing: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, prefix) = (self.clone(), prefix.map(ToString::to_string).unwrap_or_default());
        futures::stream::once(async move {
            match this.before(StoreOperation::List, &prefix).await.and_then(|fault| after(fault, Ok(()))) {
                Ok(()) => listing,
                Err(error) => futures::stream::iter([Err(error)]).boxed(),
            }
        })
        .flatten()
        .boxed()
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({})", self.inner)
    }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What the caller sees of a call that was applied.
fn after<T>(fault: Option<InjectedFault>, applied: Result<T>) -> Result<T> {
    match fault {
        None => applied,
        Some(InjectedFault::FailAfter) => Err(failed("500 Internal Server Error")),
        Some(_) => Err(broken()),
    }
}

fn broken() -> object_store::Error {
    failed("a fault broke the connection")
}

fn failed(words: &str) -> object_store::Error {
    object_store::Error::Generic { store: "faulty", source: words.into() }
}

fn denied(path: &str) -> object_store::Error {
    object_store::Error::PermissionDenied { path: path.to_owned(), source: "403 Forbidden: AccessDenied".into() }
}

#[cfg(test)]
mod tests {
    use object_store::{ObjectStoreExt, memory::InMemory};

    use super::*;

    #[tokio::test]
    async fn a_write_whose_answer_is_lost_has_landed() {
        let store = FaultyStore::over(InMemory::new());
        store.inject(FaultRule::always(InjectedFault::DropAfter).on(StoreOperation::Put).times(1));
        let path = Path::from("a");
        assert!(store.put(&path, "1".into()).await.is_err());
        assert_eq!(store.get(&path).await.expect("it landed").bytes().await.expect("it reads"), "1");
        assert_eq!(store.counts()[&StoreOperation::Put], 1);
    }

    #[tokio::test]
    async fn dropped_preconditions_let_everybody_win() {
        let store = FaultyStore::over(InMemory::new());
        let create = || PutOptions::from(PutMode::Create);
        let path = Path::from("a");
        assert!(store.put_opts(&path, "1".into(), create()).await.is_ok());
        assert!(store.put_opts(&path, "2".into(), create()).await.is_err());
        store.ignore_preconditions();
        assert!(store.put_opts(&path, "3".into(), create()).await.is_ok());
    }
}

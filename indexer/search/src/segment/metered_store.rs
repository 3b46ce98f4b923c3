//! A store in memory that counts what is read, holds some reads back, and panics at others.

use std::{fmt, ops::Range, sync::Arc};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};
use tidemark_store::Store;
use tokio::sync::watch;

/// Whether a read of these bytes of an object is held back.
type HeldReads = Arc<dyn Fn(&Range<u64>) -> bool + Send + Sync>;

/// Clones share the objects and the counts.
#[derive(Clone, Default)]
pub(crate) struct MeteredStore {
    inner: Arc<InMemory>,
    state: watch::Sender<MeterState>,
}

#[derive(Clone, Default)]
struct MeterState {
    reads: ReadCounts,
    held: Option<HeldReads>,
    panics_at: Option<Path>,
}

/// What was read of the store. Reads that are held back are not in it until they go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReadCounts {
    /// GETs and HEADs.
    pub(crate) requests: u64,
    /// Bytes that GETs gave.
    pub(crate) bytes: u64,
    /// GETs that are held back now.
    pub(crate) held: u64,
}

impl MeteredStore {
    /// The store as the product sees it.
    pub(crate) fn store(&self) -> Store {
        Store::over(Arc::new(self.clone()), "memory:///".parse().unwrap())
    }

    /// What was read since the last call.
    pub(crate) fn take_counts(&self) -> ReadCounts {
        let mut reads = ReadCounts::default();
        self.state.send_modify(|state| {
            let held = state.reads.held;
            reads = std::mem::replace(&mut state.reads, ReadCounts { held, ..ReadCounts::default() });
        });
        reads
    }

    /// Holds back reads of these ranges of bytes until [`Self::release`].
    pub(crate) fn hold(&self, held: impl Fn(&Range<u64>) -> bool + Send + Sync + 'static) {
        self.state.send_modify(|state| state.held = Some(Arc::new(held)));
    }

    /// Panics at each read of this object from now on.
    pub(crate) fn panic_at(&self, key: &str) {
        self.state.send_modify(|state| state.panics_at = Some(key.into()));
    }

    /// Lets all reads go on.
    pub(crate) fn release(&self) {
        self.state.send_modify(|state| state.held = None);
    }

    /// Waits until so many reads are held back.
    pub(crate) async fn wait_for_held(&self, reads: u64) {
        self.state.subscribe().wait_for(|state| state.reads.held >= reads).await.unwrap();
    }

    async fn wait_for_release(&self, range: &Range<u64>) {
        let is_held = |state: &MeterState| state.held.as_ref().is_some_and(|held| held(range));
        if is_held(&self.state.borrow()) {
            self.state.send_modify(|state| state.reads.held += 1);
            self.state.subscribe().wait_for(|state| !is_held(state)).await.unwrap();
            self.state.send_modify(|state| state.reads.held -= 1);
        }
    }
}

impl fmt::Debug for MeteredStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MeteredStore")
    }
}

impl fmt::Display for MeteredStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[async_trait]
impl ObjectStore for MeteredStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let panics = self.state.borrow().panics_at.as_ref() == Some(location);
        if panics {
            std::panic::resume_unwind(Box::new("this object cannot be read"));
        }
        let head = options.head;
        if let Some(GetRange::Bounded(range)) = &options.range {
            self.wait_for_release(range).await;
        }
        let found = self.inner.get_opts(location, options).await;
        let bytes = found.as_ref().map_or(0, |found| if head { 0 } else { found.range.end - found.range.start });
        self.state.send_modify(|state| {
            state.reads.requests += 1;
            state.reads.bytes += bytes;
        });
        found
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

//! The mutants whose body is in a process's view of a bucket.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::TimeDelta;
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};
use parking_lot::Mutex;
use tidemark_wal::{LockEvent, LockState};

use super::Mutant;
use crate::{
    chain_record::record_state,
    fault_injecting_store::FaultInjectingStore,
    model::{LOCKS, LOG, META},
};

/// The mutants whose body is in this file.
pub const STORE_MUTANTS: [Mutant; 11] = [
    Mutant::OverwritableDescriptor,
    Mutant::CleanupOnUnknown,
    Mutant::NoBoundaryCheck,
    Mutant::SlotBelowBoundaryAccepted,
    Mutant::CandidatesFenceEachOther,
    Mutant::PurgeByPrefix,
    Mutant::PurgeDropsFence,
    Mutant::HoleTakenForEnd,
    Mutant::LargeEntrySkipped,
    Mutant::LockSlotTrimmedUnjudged,
    Mutant::TrimmedPastReader,
];

/// `store` with the active mutant, if its body is in this file; else `store` itself.
pub(crate) fn mutated(store: FaultInjectingStore) -> Arc<dyn ObjectStore> {
    match STORE_MUTANTS.into_iter().find(|mutant| mutant.is_on()) {
        Some(mutant) => Arc::new(MutantStore::new(store, mutant)),
        None => Arc::new(store),
    }
}

/// What `LargeEntrySkipped` takes for the memory for entries, bytes.
pub(crate) const ENTRY_MEMORY: u64 = 8_000;

/// Not a slot of a chain: no boundary is hidden.
const NO_SLOT: u64 = u64::MAX;

#[derive(Clone)]
struct MutantStore {
    store: FaultInjectingStore,
    mutant: Mutant,
    memory: Arc<MutantMemory>,
}

/// The state of a mutant between calls.
struct MutantMemory {
    /// The next listing hides the boundaries from this slot on.
    slot: AtomicU64,
    /// Keys that this process wrote.
    own: Mutex<BTreeSet<Path>>,
    /// The first answer on each clock object of another process.
    first_seen: Mutex<BTreeMap<Path, ObjectMeta>>,
}

impl MutantStore {
    fn new(store: FaultInjectingStore, mutant: Mutant) -> Self {
        let memory =
            MutantMemory { slot: AtomicU64::new(NO_SLOT), own: Mutex::default(), first_seen: Mutex::default() };
        Self { store, mutant, memory: Arc::new(memory) }
    }

    /// Makes the next listing hide the boundaries from the slot `key` on.
    fn hide_boundaries_from(&self, key: &Path) {
        if let Some(number) = slot_number(key) {
            self.memory.slot.store(number, Ordering::Relaxed);
        }
    }

    /// A LIST as the mutant takes it: without what it ignores.
    fn without_hidden(
        &self,
        listing: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        if self.mutant == Mutant::LargeEntrySkipped && self.store.bucket() == LOG {
            let is_read = |object: &ObjectMeta| object.size <= ENTRY_MEMORY || object.location.as_ref().contains('/');
            return listing.try_filter(move |object| std::future::ready(is_read(object))).boxed();
        }
        if self.mutant == Mutant::TrimmedPastReader {
            return listing.map_ok(aged).boxed();
        }
        let slot = self.memory.slot.swap(NO_SLOT, Ordering::Relaxed);
        let counts = move |object: &ObjectMeta| slot_number(&object.location).is_none_or(|number| number < slot);
        listing.try_filter(move |object| std::future::ready(counts(object))).boxed()
    }

    /// Deletes what the wrong purge deletes in addition to `key`.
    async fn delete_more(&self, key: &Path) {
        let text = key.to_string();
        let below = match self.mutant {
            Mutant::PurgeByPrefix => text.split('/').next().map(Path::from),
            Mutant::PurgeDropsFence => {
                text.split_once("/manifest/").map(|(index, _)| Path::from(format!("{index}/manifest")))
            }
            _ => None,
        };
        let Some(below) = below else { return };
        let listed: Vec<ObjectMeta> = self.store.list(Some(&below)).try_collect().await.unwrap_or_default();
        for object in listed {
            let _ = self.store.delete(&object.location).await;
        }
    }
}

/// A record of a chain, as if it had been there for longer than any record stays.
fn aged(mut object: ObjectMeta) -> ObjectMeta {
    if slot_number(&object.location).is_some() {
        object.last_modified -= TimeDelta::hours(2);
    }
    object
}

/// The number of a record of a chain, or of a boundary.
fn slot_number(key: &Path) -> Option<u64> {
    key.filename()?.parse().ok()
}

/// Whether it is a guarded commit in the chain of a lock.
fn is_commit_of_lock(key: &Path, payload: &PutPayload) -> bool {
    let Ok(LockState { event, .. }) = record_state(&Bytes::from(payload.clone())) else { return false };
    key.as_ref().starts_with(LOCKS) && matches!(event, LockEvent::Commit { .. })
}

/// A LIST of a chain from its record `number` on, without the records behind the first one that is missing.
fn up_to_hole(listing: BoxStream<'static, Result<ObjectMeta>>, number: u64) -> BoxStream<'static, Result<ObjectMeta>> {
    let mut next = number + 1;
    let mut is_shown = move |object: &ObjectMeta| match slot_number(&object.location) {
        Some(number) if !object.location.as_ref().contains("/boundary/") => {
            let follows = number == next;
            next += u64::from(follows);
            follows
        }
        _ => true,
    };
    listing.try_filter(move |object| std::future::ready(is_shown(object))).boxed()
}

fn is_clock(key: &Path) -> bool {
    key.as_ref().contains(".tidemark/clock/")
}

#[async_trait]
impl ObjectStore for MutantStore {
    async fn put_opts(&self, key: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        match self.mutant {
            Mutant::OverwritableDescriptor if self.store.bucket() == META && !key.as_ref().starts_with('.') => {
                options.mode = PutMode::Overwrite;
            }
            Mutant::NoBoundaryCheck => self.hide_boundaries_from(key),
            Mutant::LockSlotTrimmedUnjudged if is_commit_of_lock(key, &payload) => self.hide_boundaries_from(key),
            Mutant::CandidatesFenceEachOther => {
                self.memory.own.lock().insert(key.clone());
            }
            _ => {}
        }
        let put = self.store.put_opts(key, payload, options).await;
        let unknown = matches!(put, Err(Error::Generic { .. }));
        if self.mutant == Mutant::CleanupOnUnknown
            && unknown
            && self.store.bucket() == LOG
            && !key.as_ref().contains('/')
        {
            let _ = self.store.delete(key).await;
        }
        put
    }

    async fn put_multipart_opts(&self, key: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(key, options).await
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        let head = options.head;
        let got = self.store.get_opts(key, options).await;
        if self.mutant == Mutant::SlotBelowBoundaryAccepted && !head {
            self.hide_boundaries_from(key);
        }
        let hides_heartbeat = self.mutant == Mutant::CandidatesFenceEachOther
            && head
            && is_clock(key)
            && !self.memory.own.lock().contains(key);
        match got {
            // The holder seems to send no heartbeat.
            Ok(got) if hides_heartbeat => {
                let meta = self.memory.first_seen.lock().entry(key.clone()).or_insert(got.meta).clone();
                Ok(GetResult { meta, payload: GetResultPayload::Stream(stream::empty().boxed()), ..got })
            }
            got => got,
        }
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        self.store
            .delete_stream(keys)
            .then(move |deleted| {
                let this = this.clone();
                async move {
                    if let Ok(key) = &deleted {
                        this.delete_more(key).await;
                    }
                    deleted
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.without_hidden(self.store.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        if self.mutant == Mutant::HoleTakenForEnd
            && let Some(number) = slot_number(offset)
        {
            return up_to_hole(self.store.list_with_offset(prefix, offset), number);
        }
        self.without_hidden(self.store.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}

impl fmt::Debug for MutantStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} over {:?}", self.mutant, self.store)
    }
}

impl fmt::Display for MutantStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.store, f)
    }
}

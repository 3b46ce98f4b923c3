//! Whether descriptors are in the metadata stores at present.
//!
//! What was recorded stands: an operation stays committed when Datamon deletes or renames what it made. A person who looks at it
//! wants to know that it is gone, though. So the answer about one entry, or one entity, asks the stores, within bounds: what they
//! do not say in time is not known, and never an error. That a descriptor is there is kept for a minute, so that pages that watch an
//! entity, and clients that ask again, cost no requests. That it is gone is not kept: a label may be set again at its path.

use std::{
    num::NonZeroUsize,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use lru::LruCache;
use parking_lot::Mutex;
use tidemark_search::api::{EntityAnswer, EntryAnswer};
use tidemark_store::Store;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

/// How long an answer waits for the stores.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// Answers that ask the stores at once; others do not wait for their turn.
const MAX_CONCURRENT_CHECKS: usize = 8;
/// Descriptors of one entry that are asked for.
const MAX_DESCRIPTORS: usize = 20;
/// Of these at once.
const MAX_CONCURRENT_HEADS: usize = 4;
/// For how long a descriptor counts as present after it was found.
const MAX_AGE: Duration = Duration::from_mins(1);
/// Descriptors of which that is kept, those that were asked for last. A path has up to 1 KiB.
const MAX_KNOWN: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// The metadata stores of the log that is served, once they are open. Clones share them.
#[derive(Clone, Debug)]
pub struct LiveDescriptors(Arc<LiveStores>);

#[derive(Debug)]
struct LiveStores {
    metadata: OnceLock<Vec<Store>>,
    permits: Semaphore,
    /// By path, when it was asked for a descriptor that was there.
    present: Mutex<LruCache<String, Instant>>,
}

impl Default for LiveDescriptors {
    fn default() -> Self {
        Self(Arc::new(LiveStores {
            metadata: OnceLock::new(),
            permits: Semaphore::new(MAX_CONCURRENT_CHECKS),
            present: Mutex::new(LruCache::new(MAX_KNOWN)),
        }))
    }
}

impl LiveDescriptors {
    /// Asks these stores from now on; later ones are those of the same log, and are not needed.
    pub fn set_stores(&self, metadata: &[Store]) {
        self.0.metadata.get_or_init(|| metadata.to_vec());
    }

    /// Says of each operation whether its descriptor is there, where one was found when its outcome was decided.
    pub(super) async fn check_entry(&self, entry: &mut EntryAnswer) {
        let found = entry.ops.iter_mut().filter(|operation| !operation.observations.is_empty());
        let places = found.filter_map(|operation| Some((operation.hit.path.as_deref()?, &mut operation.present)));
        self.check(places.take(MAX_DESCRIPTORS)).await;
    }

    /// Says whether the descriptor of an entity's current operation is there.
    pub(super) async fn check_entity(&self, entity: &mut EntityAnswer) {
        let path = entity.current.as_ref().and_then(|current| current.path.as_deref());
        self.check(path.map(|path| (path, &mut entity.present)).into_iter()).await;
    }

    async fn check<'a>(&self, places: impl Iterator<Item = (&'a str, &'a mut Option<bool>)>) {
        let LiveStores { metadata, permits, .. } = &*self.0;
        let Some(stores) = metadata.get() else { return };
        let mut unknown = Vec::new();
        for (path, present) in places {
            if self.was_present(path) {
                *present = Some(true);
            } else {
                unknown.push((path, present));
            }
        }
        if unknown.is_empty() {
            return;
        }
        let Ok(_permit) = permits.try_acquire() else { return };
        let checks = stream::iter(unknown).for_each_concurrent(MAX_CONCURRENT_HEADS, |(path, present)| async move {
            let asked = Instant::now();
            *present = is_present(stores, path).await;
            if *present == Some(true) {
                self.0.present.lock().put(path.to_owned(), asked);
            }
        });
        // What was found out until then stays.
        let _ = timeout(CHECK_TIMEOUT, checks).await;
    }

    /// Whether a store said lately that it has a descriptor.
    fn was_present(&self, path: &str) -> bool {
        self.0.present.lock().get(path).is_some_and(|asked| asked.elapsed() < MAX_AGE)
    }
}

/// Whether any of the stores has the object; `None` where none has it and some do not say.
async fn is_present(stores: &[Store], key: &str) -> Option<bool> {
    let mut all_say = true;
    for store in stores {
        match store.head(key).await {
            Ok(Some(_)) => return Some(true),
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(key, %error, "a store does not say whether it has a descriptor");
                all_say = false;
            }
        }
    }
    all_say.then_some(false)
}

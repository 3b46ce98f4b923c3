//! Verified snapshots, as places in the feed of changes.
//!
//! Which there are is in the register of pins, which a search service does not follow otherwise: it is read now and then, for clients that
//! follow the changes, and what it says is late by that much.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tidemark_catalog::{CatalogError, Generation, IndexChain, IndexPin, Manifest, PinChain, SNAPSHOT_OWNER};
use tokio::time::Instant;

use super::{error::SearchError, feed_position::FeedPosition, feed_start::seq_in};

/// How often the register is read, at most.
const REFRESH_INTERVAL: Duration = Duration::from_secs(15);

/// The verified snapshots of an index. Cheap to clone; clones share what is known.
#[derive(Clone, Default)]
pub(crate) struct FeedCheckpoints(Arc<Mutex<KnownCheckpoints>>);

#[derive(Default)]
struct KnownCheckpoints {
    /// When the register was read last, for which generation.
    read: Option<(Instant, Generation)>,
    /// The seqs of the snapshots, by the objects that hold what was pinned; `None` of one that has no place in the generation.
    by_list: BTreeMap<String, Option<u64>>,
    checkpoints: Arc<[(u64, String)]>,
}

impl FeedCheckpoints {
    /// The snapshots with a place in the generation of `served`, in the order of these. What cannot be read is left out: it comes later.
    pub(crate) async fn known(&self, chain: &IndexChain, served: &Manifest) -> Arc<[(u64, String)]> {
        let is_due = {
            let mut known = self.0.lock();
            let of_served = known.read.as_ref().filter(|(_, generation)| *generation == served.generation);
            let is_due = of_served.is_none_or(|(read, _)| read.elapsed() >= REFRESH_INTERVAL);
            if is_due {
                if of_served.is_none() {
                    (known.by_list, known.checkpoints) = Default::default();
                }
                // Other requests go by what is known while this one reads.
                known.read = Some((Instant::now(), served.generation.clone()));
            }
            is_due
        };
        if is_due && let Err(error) = self.refresh(chain, served).await {
            tracing::debug!(%error, "the snapshots cannot be read; checkpoints of new ones come later");
        }
        self.0.lock().checkpoints.clone()
    }

    async fn refresh(&self, chain: &IndexChain, served: &Manifest) -> Result<(), CatalogError> {
        let Some(claim) = &served.claim else { return Ok(()) };
        let pins = PinChain::of_index(chain, &claim.log);
        let mut verified = pins.register().await?.pins;
        verified.retain(|_, pin| pin.confirmed && pin.verified.is_some() && pin.owner == SNAPSHOT_OWNER);
        let mut by_list = self.0.lock().by_list.clone();
        by_list.retain(|list, _| verified.values().any(|pin| pin.list == *list));
        for pin in verified.values().filter(|pin| !by_list.contains_key(&pin.list)).collect::<Vec<_>>() {
            match place(&pins, pin, chain, served).await {
                Ok(place) => {
                    by_list.insert(pin.list.clone(), place);
                }
                Err(error) => tracing::debug!(%error, "a snapshot cannot be read; its checkpoint comes later"),
            }
        }
        let placed = verified.into_iter().filter_map(|(name, pin)| Some(((*by_list.get(&pin.list)?)?, name)));
        let mut checkpoints: Vec<_> = placed.collect();
        checkpoints.sort();
        let mut known = self.0.lock();
        // The service may have gone on to another generation meanwhile.
        if known.read.as_ref().is_some_and(|(_, generation)| *generation == served.generation) {
            (known.by_list, known.checkpoints) = (by_list, checkpoints.into());
        }
        Ok(())
    }
}

/// The seq of the last record of a snapshot, if the snapshot has a place in the generation of `served`.
async fn place(
    pins: &PinChain,
    pin: &IndexPin,
    chain: &IndexChain,
    served: &Manifest,
) -> Result<Option<u64>, SearchError> {
    let manifest = pins.read_list(pin).await.map_err(|e| SearchError::stored(&e))?;
    match seq_in(chain, served, &FeedPosition::end(&manifest)).await {
        Ok(seq) => Ok(Some(seq)),
        Err(SearchError::GenerationChanged { .. } | SearchError::Invalid { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

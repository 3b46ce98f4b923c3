//! The readers, which follow the index.

use tidemark_catalog::{CatalogError, Generation, IndexChain, Manifest};
use tidemark_store::ChainRecord;

use crate::{process::SimProcess, supervise::ProcessEnd, world::SimWorld};

/// A reader, until it ends or crashes. It never goes back, and accepts only manifests that were published.
pub async fn follow(world: SimWorld, process: SimProcess) -> ProcessEnd {
    let open = || IndexChain::open(&world.index(&process), Generation::first(), world.entropy());
    let mut chain = open();
    let mut at: Option<ChainRecord<Manifest>> = None;
    while !world.is_fault_burst_over() {
        if world.config.record_loss.is_some() && world.simulated_store.has_lost_objects() {
            // Only a reader that begins meets what is lost.
            (chain, at) = (open(), None);
        }
        let next = match &at {
            None => chain.latest().await,
            Some(slot) => chain.poll_newer(slot).await,
        };
        match next {
            Ok(Some(slot)) => {
                accepted(&world, process.name(), at.as_ref(), &slot);
                at = Some(slot);
            }
            Ok(None) | Err(CatalogError::Store(_) | CatalogError::Conflicts { .. }) => {}
            Err(CatalogError::Corrupt { .. }) if world.simulated_store.has_lost_objects() => {
                world.simulated_store.mark("a reader refused a damaged chain");
            }
            Err(error) => {
                world.simulated_store.fail(format!("{} cannot read the index: {error}", process.name()));
                return ProcessEnd::Done;
            }
        }
        world.sleep_for(100..=5_000).await;
    }
    ProcessEnd::Done
}

/// Invariant 10: a reader accepts the manifest that was published, and none before the last one that it accepted.
fn accepted(world: &SimWorld, who: &str, before: Option<&ChainRecord<Manifest>>, slot: &ChainRecord<Manifest>) {
    if before.is_some_and(|before| before.number > slot.number || before.state.cursor > slot.state.cursor) {
        world.simulated_store.fail(format!("{who} went back to manifest {}", slot.number));
    }
    let published = world
        .checker()
        .manifest(slot.number)
        .map(|published| (published.epoch, published.cursor, published.next_seq, published.segments.clone()));
    let (manifest, number) = (&slot.state, slot.number);
    let read = (manifest.epoch, manifest.cursor, manifest.next_seq, manifest.segments.clone());
    if published.as_ref() != Some(&read) {
        world
            .simulated_store
            .fail(format!("{who} accepted a manifest {number} that is not the one that was published"));
    }
}

//! Those who follow the index.

use tidemark_catalog::{CatalogError, Generation, IndexChain, Manifest};
use tidemark_store::ChainRecord;

use crate::{process::Process, supervise::End, world::World};

/// One life of a reader: it never goes back, and what it takes for a manifest is one.
pub async fn follow(world: World, process: Process) -> End {
    let chain = IndexChain::open(&world.index(&process), Generation::first(), world.entropy());
    let mut at: Option<ChainRecord<Manifest>> = None;
    while !world.is_calm() {
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
            Err(error) => {
                world.cloud.fail(format!("{} cannot read the index: {error}", process.name()));
                return End::Done;
            }
        }
        world.rest(100..=5_000).await;
    }
    End::Done
}

/// Invariant 10.
fn accepted(world: &World, who: &str, before: Option<&ChainRecord<Manifest>>, slot: &ChainRecord<Manifest>) {
    if before.is_some_and(|before| before.number > slot.number || before.state.cursor > slot.state.cursor) {
        world.cloud.fail(format!("{who} went back to manifest {}", slot.number));
    }
    let landed = world
        .oracle()
        .manifest(slot.number)
        .map(|landed| (landed.epoch, landed.cursor, landed.next_seq, landed.segments.clone()));
    let (manifest, number) = (&slot.state, slot.number);
    let read = (manifest.epoch, manifest.cursor, manifest.next_seq, manifest.segments.clone());
    if landed.as_ref() != Some(&read) {
        world.cloud.fail(format!("{who} took something for manifest {number} that is not what was published as it"));
    }
}

//! Maintenance: an operator that changes the log's parameters, and a trimmer of the index's chain.

use tidemark_catalog::{Generation, IndexChain, RootChain};

use crate::{
    checker::INDEX, fault_injecting_store::FaultInjectingStore, process::SimProcess, simulated_store::StoreChange,
    supervise::ProcessEnd, world::SimWorld,
};

/// Changes the log's parameters at the times of the config.
pub async fn change_parameters(world: SimWorld, process: SimProcess) -> ProcessEnd {
    let root = RootChain::open(&world.log(&process), world.entropy());
    let mut at = std::time::Duration::ZERO;
    for (when, parameters) in &world.config.parameter_changes {
        tokio::time::sleep(when.saturating_sub(at)).await;
        at = *when;
        while let Err(error) = root.set_parameters(parameters).await {
            world.simulated_store.note(&format!("the operator cannot set parameters: {error}"));
            world.sleep_for(1_000..=5_000).await;
        }
        world.simulated_store.mark("parameters changed");
    }
    ProcessEnd::Done
}

/// Trims the records of the index's chain that are old enough.
pub async fn trim_index_chain(world: SimWorld, process: SimProcess) -> ProcessEnd {
    use object_store::ObjectStoreExt as _;
    let chain = IndexChain::open(&world.index(&process), Generation::first(), world.entropy());
    let store = FaultInjectingStore::new(&world.simulated_store, INDEX, &process);
    let Some(age) = world.config.trim_age else { return ProcessEnd::Done };
    let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    while !world.is_fault_burst_over() {
        world.sleep_for(5_000..=30_000).await;
        let now = world.simulated_store.now();
        let old =
            |event: &crate::simulated_store::StoreEvent| event.change == StoreChange::Created && event.at + age < now;
        let events = world.simulated_store.events();
        let numbers = events
            .iter()
            .filter(|event| event.bucket == INDEX && old(event))
            .filter_map(|event| manifest_number(&event.key));
        let Some(to) = numbers.max() else { continue };
        if chain.chain().set_boundary(to).await.is_err() {
            continue;
        }
        world.simulated_store.mark("trimmed");
        for key in world
            .simulated_store
            .objects(INDEX)
            .into_keys()
            .filter(|key| manifest_number(key).is_some_and(|number| number <= to))
        {
            let _ = store.delete(&object_store::path::Path::from(key)).await;
        }
    }
    ProcessEnd::Done
}

/// The number of a manifest, from its key.
pub(crate) fn manifest_number(key: &str) -> Option<u64> {
    let (_, name) = key.rsplit_once("/manifest/")?;
    name.parse().ok()
}

//! Those who keep the log: the operator who changes its parameters, and whoever trims the index's chain.

use tidemark_catalog::{Generation, IndexChain, RootChain};

use crate::{cloud::What, oracle::INDEX, process::Process, store::SimStore, supervise::End, world::World};

/// Sets the log's parameters at the times that the set-up says.
pub async fn operate(world: World, process: Process) -> End {
    let root = RootChain::open(&world.log(&process), world.entropy());
    let mut at = std::time::Duration::ZERO;
    for (when, parameters) in &world.knobs.changes {
        tokio::time::sleep(when.saturating_sub(at)).await;
        at = *when;
        while let Err(error) = root.set_parameters(parameters).await {
            world.cloud.note(&format!("the operator cannot set parameters: {error}"));
            world.rest(1_000..=5_000).await;
        }
        world.cloud.mark("parameters changed");
    }
    End::Done
}

/// Trims the index's chain behind records that are old enough.
pub async fn trim(world: World, process: Process) -> End {
    use object_store::ObjectStoreExt as _;
    let chain = IndexChain::open(&world.index(&process), Generation::first(), world.entropy());
    let store = SimStore::new(&world.cloud, INDEX, &process);
    let Some(age) = world.knobs.trim else { return End::Done };
    let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    while !world.is_calm() {
        world.rest(5_000..=30_000).await;
        let now = world.cloud.now();
        let old = |event: &crate::cloud::Event| event.what == What::Created && event.at + age < now;
        let events = world.cloud.events();
        let numbers = events
            .iter()
            .filter(|event| event.bucket == INDEX && old(event))
            .filter_map(|event| manifest_number(&event.key));
        let Some(to) = numbers.max() else { continue };
        if chain.chain().set_boundary(to).await.is_err() {
            continue;
        }
        world.cloud.mark("trimmed");
        for key in
            world.cloud.objects(INDEX).into_keys().filter(|key| manifest_number(key).is_some_and(|number| number <= to))
        {
            let _ = store.delete(&object_store::path::Path::from(key)).await;
        }
    }
    End::Done
}

/// The number of a manifest, from its key.
pub(crate) fn manifest_number(key: &str) -> Option<u64> {
    let (_, name) = key.rsplit_once("/manifest/")?;
    name.parse().ok()
}

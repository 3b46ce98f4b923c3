//! Maintenance: an operator that changes the log's parameters, and a trimmer of the index's chain.

use tidemark_catalog::{Generation, IndexChain, RootChain};

use crate::{process::SimProcess, supervise::ProcessEnd, world::SimWorld};

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

/// Trims the index's chain as its appender does, but keeps records for the age of the config only.
pub async fn trim_index_chain(world: SimWorld, process: SimProcess) -> ProcessEnd {
    let chain = IndexChain::open(&world.index(&process), Generation::first(), world.entropy());
    let Some(age) = world.config.trim_age else { return ProcessEnd::Done };
    while !world.is_fault_burst_over() {
        world.sleep_for(5_000..=30_000).await;
        let Ok(Some(latest)) = chain.latest().await else { continue };
        if chain.chain().trim(&latest, latest.time.before(age)).await.is_ok_and(|deleted| deleted > 0) {
            world.simulated_store.mark("trimmed");
        }
    }
    ProcessEnd::Done
}

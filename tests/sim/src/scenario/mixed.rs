//! Writers, indexers, a reader, an operator and a trimmer on one log.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tidemark_ingest::engine::EngineError;

use crate::{
    config::SimConfig,
    fault_schedule::FaultSchedule,
    process::SimProcess,
    scenario::{indexers, maintenance, outages, readers, verification, writers},
    simulated_store::SimulatedStore,
    supervise::supervise,
    world::{COPY, SimWorld},
};

/// Runs a log: a burst of faults, a recovery that is long enough for every audit, and a last check.
pub async fn run(seed: u64, config: SimConfig, echo: bool) -> SimulatedStore {
    run_world(&SimWorld::new(seed, config, echo)).await
}

/// The same, of a world that may have processes of its own.
pub(super) async fn run_world(world: &SimWorld) -> SimulatedStore {
    world.simulated_store.note(&format!("{:?}", world.config));
    start_processes(world);
    world.simulated_store.run_for(world.config.fault_burst).await;
    world.simulated_store.put_back();
    world.simulated_store.refusals().lift();
    world.set_room(u64::MAX);
    world.end_fault_burst();
    world.simulated_store.change_fault_schedule(|fault_schedule| {
        *fault_schedule = FaultSchedule {
            visibility_lag: fault_schedule.visibility_lag.clone(),
            clock_spread: fault_schedule.clock_spread,
            split_clocks: fault_schedule.split_clocks,
            ..FaultSchedule::fault_free()
        };
    });
    world.simulated_store.note("the fault burst ends");
    world.simulated_store.run_for(recovery_duration(world)).await;
    if world.config.tantivy.is_some()
        && let Err(error) = read_index(world).await
    {
        world.simulated_store.fail(format!("the index cannot be read: {error}"));
    }
    if world.simulated_store.failure().is_none() {
        let horizon = world.true_second().before(longest_delay(world));
        world.check(|checker| checker.check_final_state(horizon));
    }
    if world.simulated_store.failure().is_none() {
        verification::verify_all(world).await;
    }
    for mark in world.checker().marks.clone() {
        world.simulated_store.mark(mark);
    }
    world.simulated_store.clone()
}

/// Adds to the checker what only the real engine can read.
async fn read_index(world: &SimWorld) -> Result<(), EngineError> {
    let engine = indexers::engine(world, &SimProcess::new("auditor", false))?;
    let latest = world.checker().latest().map(|(_, manifest)| manifest.clone());
    let Some(manifest) = latest else { return Ok(()) };
    for segment in &manifest.segments {
        let records = engine.records(segment, segment.seq.clone()).await?;
        world.checker().add_segment(&segment.key, records);
    }
    for sidecar in &manifest.sidecars {
        let marks = engine.read_marks(sidecar).await?;
        world.checker().add_sidecar(&sidecar.key, &marks);
    }
    Ok(())
}

/// Starts all processes.
fn start_processes(world: &SimWorld) {
    let simulated_store = &world.simulated_store;
    for n in 0..world.config.indexers {
        let world = world.clone();
        supervise(simulated_store, &format!("indexer{n}"), true, move |process| {
            indexers::index(world.clone(), process, format!("indexer{n}"))
        });
    }
    if world.config.copied_log {
        let world = world.clone();
        let name = format!("{COPY}0");
        supervise(simulated_store, &name.clone(), true, move |process| {
            indexers::index_copy(world.clone(), process, name.clone())
        });
    }
    for n in 0..world.config.writers {
        let (world, progress, name) = (world.clone(), Arc::<Mutex<_>>::default(), format!("writer{n}"));
        let main = move |process| writers::write(world.clone(), process, name.clone(), Arc::clone(&progress));
        supervise(simulated_store, &format!("writer{n}"), true, main);
    }
    for n in 0..world.config.stray_writers {
        let world = world.clone();
        supervise(simulated_store, &format!("stray{n}"), true, move |process| {
            writers::stray(world.clone(), process, format!("stray{n}"))
        });
    }
    if world.config.key_retention.is_some() {
        let world = world.clone();
        supervise(simulated_store, "repeater", true, move |process| writers::repeat_keys(world.clone(), process));
    }
    for n in 0..world.config.label_movers {
        let world = world.clone();
        supervise(simulated_store, &format!("mover{n}"), true, move |process| {
            writers::move_labels(world.clone(), process, format!("mover{n}"))
        });
    }
    let reader = world.clone();
    supervise(simulated_store, "reader", true, move |process| readers::follow(reader.clone(), process));
    let operator = world.clone();
    supervise(simulated_store, "operator", false, move |process| {
        maintenance::change_parameters(operator.clone(), process)
    });
    let trimmer = world.clone();
    supervise(simulated_store, "trimmer", false, move |process| {
        maintenance::trim_index_chain(trimmer.clone(), process)
    });
    if world.config.verified_meanwhile {
        let verifier = world.clone();
        supervise(simulated_store, "verifier", true, move |process| {
            verification::verify_samples(verifier.clone(), process)
        });
    }
    if world.config.key_outage.is_some() {
        tokio::spawn(outages::disable_key(world.clone()));
    }
    if world.config.disk_shortage.is_some() {
        tokio::spawn(outages::fill_disks(world.clone()));
    }
    if world.config.record_loss.is_some() {
        tokio::spawn(outages::lose_records(world.clone()));
    }
    if world.config.deleter {
        let deleter = world.clone();
        supervise(simulated_store, "deleter", false, move |process| writers::delete_old(deleter.clone(), process));
    }
}

/// Long enough for the last late write, for the horizon to pass it, and for an audit to find it.
fn recovery_duration(world: &SimWorld) -> Duration {
    let longest = world.config.parameters.audit_window + longest_delay(world) * 3;
    let restart = if world.config.fault_schedule.refuses() { Duration::from_mins(2) } else { Duration::ZERO };
    let late_write = Duration::from_millis(*world.config.fault_schedule.late_write_delay.end());
    longest + late_write + restart + Duration::from_secs(150)
}

fn longest_delay(world: &SimWorld) -> Duration {
    let sets = world.config.parameter_changes.iter().map(|(_, set)| set).chain([&world.config.parameters]);
    sets.map(tidemark_wal::LogParameters::horizon_delay).max().unwrap_or_default()
}

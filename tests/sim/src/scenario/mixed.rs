//! Everybody at once on one log.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tidemark_ingest::engine::EngineError;
use tokio::time::sleep;

use crate::{
    cloud::Cloud,
    knobs::Knobs,
    process::Process,
    scenario::{indexers, keepers, readers, writers},
    supervise::supervise,
    weather::Weather,
    world::World,
};

/// Runs a log with the set-up `knobs`: a storm, a calm that is long enough for every audit, and a last look.
pub async fn run(seed: u64, knobs: Knobs, echo: bool) -> Cloud {
    let world = World::new(seed, knobs, echo);
    world.cloud.note(&format!("{:?}", world.knobs));
    settle(&world);
    sleep(world.knobs.storm).await;
    world.calm_down();
    world.cloud.weather(|weather| {
        *weather = Weather { hidden: weather.hidden.clone(), spread: weather.spread, ..Weather::calm() };
    });
    world.cloud.note("calm");
    sleep(calm(&world)).await;
    if world.knobs.tantivy.is_some()
        && let Err(error) = read_index(&world).await
    {
        world.cloud.fail(format!("the index cannot be read: {error}"));
    }
    if world.cloud.failure().is_none() {
        let horizon = world.true_second().before(longest_delay(&world));
        world.judge(|oracle| oracle.at_rest(horizon));
    }
    for mark in world.oracle().marks.clone() {
        world.cloud.mark(mark);
    }
    world.cloud.clone()
}

/// Shows the oracle what only the real engine can read.
async fn read_index(world: &World) -> Result<(), EngineError> {
    let engine = indexers::engine(world, &Process::new("auditor", false))?;
    let latest = world.oracle().latest().map(|(_, manifest)| manifest.clone());
    let Some(manifest) = latest else { return Ok(()) };
    for segment in &manifest.segments {
        let records = engine.records(segment, segment.seq.clone()).await?;
        world.oracle().read_segment(&segment.key, records);
    }
    for sidecar in &manifest.sidecars {
        let marks = engine.read_marks(sidecar).await?;
        world.oracle().read_sidecar(&sidecar.key, &marks);
    }
    Ok(())
}

/// Starts everybody.
fn settle(world: &World) {
    let cloud = &world.cloud;
    for n in 0..world.knobs.indexers {
        let world = world.clone();
        supervise(cloud, &format!("indexer{n}"), true, move |process| {
            indexers::index(world.clone(), process, format!("indexer{n}"))
        });
    }
    for n in 0..world.knobs.writers {
        let (world, desk, name) = (world.clone(), Arc::<Mutex<_>>::default(), format!("writer{n}"));
        let live = move |process| writers::write(world.clone(), process, name.clone(), Arc::clone(&desk));
        supervise(cloud, &format!("writer{n}"), true, live);
    }
    for n in 0..world.knobs.strangers {
        let world = world.clone();
        supervise(cloud, &format!("stray{n}"), true, move |process| {
            writers::stray(world.clone(), process, format!("stray{n}"))
        });
    }
    let reader = world.clone();
    supervise(cloud, "reader", true, move |process| readers::follow(reader.clone(), process));
    let operator = world.clone();
    supervise(cloud, "operator", false, move |process| keepers::operate(operator.clone(), process));
    let trimmer = world.clone();
    supervise(cloud, "trimmer", false, move |process| keepers::trim(trimmer.clone(), process));
    if world.knobs.deleter {
        let deleter = world.clone();
        supervise(cloud, "deleter", false, move |process| writers::delete_old(deleter.clone(), process));
    }
}

/// Long enough for the last straggler, for the horizon to pass it, and for an audit to find it.
fn calm(world: &World) -> Duration {
    let longest = world.knobs.parameters.audit_window + longest_delay(world) * 3;
    longest + Duration::from_millis(*world.knobs.weather.lateness.end()) + Duration::from_secs(150)
}

fn longest_delay(world: &World) -> Duration {
    let sets = world.knobs.changes.iter().map(|(_, set)| set).chain([&world.knobs.parameters]);
    sets.map(tidemark_wal::LogParameters::horizon_delay).max().unwrap_or_default()
}

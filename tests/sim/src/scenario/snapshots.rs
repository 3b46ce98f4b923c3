//! Snapshots of an index that is written, compacted, corrected and collected meanwhile, over days of store time: two at once, crashes
//! between any two calls, pauses longer than the grace, and objects that are lost for a while.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use tidemark_catalog::{CatalogError, Generation, IndexChain, PinChain, RootChain};
use tidemark_ingest::{
    model_engine::ModelEngine,
    snapshot::{SnapshotError, SnapshotMaker, SnapshotProgress, SnapshotRequest},
};
use tokio::{sync::watch, time::sleep};

use super::{
    long_run::{FAULT_BURST_DURATION, INDEX, LongRun, RECOVERY_DURATION, collect, fault_schedule},
    recorded_history::write,
    snapshot_model::SnapshotModel,
};
use crate::{
    fault_schedule::FaultSchedule,
    process::SimProcess,
    simulated_store::SimulatedStore,
    supervise::{ProcessEnd, supervise},
};

#[derive(Clone)]
struct SnapshotWorld {
    run: LongRun,
    model: Arc<Mutex<SnapshotModel>>,
}

impl SnapshotWorld {
    fn model(&self) -> MutexGuard<'_, SnapshotModel> {
        self.model.lock()
    }
}

/// Runs the scenario to its end.
pub async fn run(seed: u64, echo: bool) -> SimulatedStore {
    let simulated_store = SimulatedStore::new(seed, fault_schedule(seed), echo);
    let world = SnapshotWorld {
        run: LongRun { simulated_store: simulated_store.clone(), is_ingested: false },
        model: Arc::default(),
    };
    let model = world.model.clone();
    world.run.set_observer(move |event| model.lock().observe(event));
    for n in 0..2 {
        let (writing, collecting, snapshotting) = (world.clone(), world.clone(), world.clone());
        supervise(&simulated_store, &format!("writer{n}"), true, move |process| write(writing.run.clone(), process));
        supervise(&simulated_store, &format!("collector{n}"), true, move |process| {
            collect(collecting.run.clone(), process)
        });
        supervise(&simulated_store, &format!("snapshot{n}"), true, move |process| {
            make_snapshots(snapshotting.clone(), process)
        });
    }
    tokio::spawn(lose_objects(world.clone()));
    simulated_store.run_for(FAULT_BURST_DURATION).await;
    simulated_store.change_fault_schedule(|fault_schedule| *fault_schedule = FaultSchedule::fault_free());
    simulated_store.note("the fault burst ends");
    let before = world.model().garbage.latest.as_ref().map(|(number, _)| *number);
    simulated_store.run_for(RECOVERY_DURATION).await;
    let now = simulated_store.now();
    let long_ago = now - 36 * 3_600_000;
    let after = world.model().garbage.check_final_state(before, now);
    let after = after.and_then(|()| world.model().check_final_state(long_ago));
    if let Err(violation) = after {
        simulated_store.fail(violation);
    }
    for mark in world.model().garbage.marks.clone() {
        simulated_store.mark(mark);
    }
    simulated_store
}

/// Makes snapshots: some under names that another process uses, too.
async fn make_snapshots(world: SnapshotWorld, process: SimProcess) -> ProcessEnd {
    let log_id = world.run.log_id(&process).await;
    // One for all snapshots, as a disk cache: it has objects that are lost in the store.
    let engine = Arc::new(ModelEngine::new(world.run.store(INDEX, &process)));
    loop {
        world.run.sleep_minutes(30..=500).await;
        if !world.run.is_fault_burst_over() && world.run.number(0..=4) == 0 {
            // Longer than the grace, somewhere within the snapshot.
            let (world, process) = (world.clone(), process.clone());
            tokio::spawn(async move {
                sleep(Duration::from_millis(world.run.number(0..=20_000))).await;
                world.run.suspend(&process, 20..=60);
            });
        }
        let index = world.run.store(INDEX, &process);
        let log = world.run.log(&process);
        let root = RootChain::open(&log, world.run.entropy());
        let open = IndexChain::open(&index, Generation::first(), world.run.entropy()).for_log(&root);
        let chain = match open.follow().await {
            Ok(chain) => chain,
            Err(error) => return ProcessEnd::GaveUp(error.to_string()),
        };
        let maker = SnapshotMaker {
            log,
            root,
            chain,
            pins: PinChain::open(&index, &log_id, world.run.entropy()),
            engine: engine.clone(),
            archive: world.run.archive(&process, &log_id),
            progress: watch::Sender::new(SnapshotProgress::default()),
        };
        if let Err(end) = make_snapshot(&world, &maker).await {
            return end;
        }
    }
}

async fn make_snapshot(world: &SnapshotWorld, maker: &SnapshotMaker) -> Result<(), ProcessEnd> {
    let name = match world.run.number(0..=2) {
        0 => None,
        _ => Some(format!("daily-{}", world.run.number(0..=2)).parse().unwrap_or_else(|error| unreachable!("{error}"))),
    };
    let keep_last = NonZeroUsize::new(usize::try_from(world.run.number(0..=3)).unwrap_or_default());
    let store = &world.run.simulated_store;
    match maker.make(&SnapshotRequest { name, keep_last, without_archive: false }).await {
        Ok(report) => {
            let objects = store.objects(INDEX);
            if let Some(lost) = world.model().unread_object(&report.pin.list, &objects) {
                store.fail(format!("\"{}\" is verified, and \"{lost}\" was lost all the time", report.name));
            }
            if !report.dropped.is_empty() {
                store.mark("a snapshot was dropped");
            }
            Ok(())
        }
        Err(error) if error.is_unknown() => Err(ProcessEnd::GaveUp(error.to_string())),
        Err(SnapshotError::Chain(CatalogError::Invariant(broken))) => {
            store.fail(broken.to_string());
            Ok(())
        }
        Err(error @ SnapshotError::ArchiveDamaged { .. }) => {
            store.fail(error.to_string());
            Ok(())
        }
        Err(error) => {
            if matches!(error, SnapshotError::Damaged { .. }) {
                store.mark("a snapshot met an object that was lost");
            }
            store.note(&format!("no snapshot: {error}"));
            Ok(())
        }
    }
}

/// Objects that the index names are lost, and come back hours later.
async fn lose_objects(world: SnapshotWorld) {
    while !world.run.is_fault_burst_over() {
        world.run.sleep_minutes(300..=1_500).await;
        let named: Vec<String> = match &world.model().garbage.latest {
            Some((_, manifest)) => manifest.objects().map(str::to_owned).collect(),
            None => continue,
        };
        if named.is_empty() {
            continue;
        }
        let lost = named[world.run.simulated_store.state().rng.index(named.len())].clone();
        let since = world.run.simulated_store.now();
        world.model().lost.insert(lost.clone(), since);
        world.run.simulated_store.lose(INDEX, &[lost]);
        world.run.sleep_minutes(60..=900).await;
        world.run.simulated_store.put_back();
        world.model().lost.clear();
    }
}

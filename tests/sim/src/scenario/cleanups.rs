//! Clean-ups of a log that is indexed, archived and snapshotted meanwhile, over days of store time: two at once, crashes between any
//! two calls, lost answers, pauses of days, deletions that fail one by one, and indexes that register and leave.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use tidemark_catalog::{
    CatalogError, Generation, IndexChain, IndexOwner, IndexRegistration, LogCursor, PinChain, RootChain,
    TransactionRejected,
};
use tidemark_ingest::{
    model_engine::ModelEngine,
    snapshot::{SnapshotError, SnapshotMaker, SnapshotProgress, SnapshotRequest},
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    cleaning::{CleanupEnd, check_left, clean_up_once},
    cleanup_model::{CleanupModel, left_below},
    long_run::{
        FAULT_BURST_DURATION, INDEX, INDEX_URL, LOG, LongRun, RECOVERY_DURATION, collect, fault_schedule, parameters,
    },
    recorded_history::write,
    snapshot_model::SnapshotModel,
    verification::verify_now_and_then,
};
use crate::{
    fault_schedule::FaultSchedule,
    process::SimProcess,
    simulated_store::{START, SimulatedStore},
    supervise::{ProcessEnd, supervise},
};

/// Objects in the log that are no entries.
const FOREIGN_KEYS: [&str; 3] = ["0-note.txt", "2stranger", "backup/0ujtsYcgvSTl8PAuAdqWYSMnLOv"];
/// The names of indexes that come and go begin with it.
const NEWCOMER: &str = "sim://newcomer-";

#[derive(Clone)]
struct CleanupWorld {
    run: LongRun,
    model: Arc<Mutex<CleanupModel>>,
    snapshots: Arc<Mutex<SnapshotModel>>,
}

impl CleanupWorld {
    fn model(&self) -> MutexGuard<'_, CleanupModel> {
        self.model.lock()
    }

    /// Now and then the process sleeps for longer than a day, somewhere in what follows.
    fn pause_sometimes(&self, process: &SimProcess) {
        if self.run.is_fault_burst_over() || self.run.number(0..=3) > 0 {
            return;
        }
        let (world, process) = (self.clone(), process.clone());
        tokio::spawn(async move {
            sleep(Duration::from_millis(world.run.number(0..=30_000))).await;
            world.run.suspend(&process, 1..=40);
        });
    }
}

/// Runs the scenario to its end.
pub async fn run(seed: u64, echo: bool) -> SimulatedStore {
    let schedule = FaultSchedule {
        refused_entries: 30,
        undeletable_entries: 30,
        refusal_delay: 0..=100_000_000,
        ..fault_schedule(seed)
    };
    let simulated_store = SimulatedStore::new(seed, schedule, echo);
    let world = CleanupWorld {
        run: LongRun { simulated_store: simulated_store.clone(), is_ingested: false },
        model: Arc::default(),
        snapshots: Arc::default(),
    };
    let (model, snapshots) = (world.model.clone(), world.snapshots.clone());
    world.run.set_observer(move |event| {
        let mut snapshots = snapshots.lock();
        snapshots.observe(event)?;
        model.lock().observe(event, &snapshots.ledger)
    });
    simulated_store.plant_foreign(LOG, &FOREIGN_KEYS);
    for n in 0..2 {
        let (writing, snapshotting, cleaning) = (world.clone(), world.clone(), world.clone());
        let (collecting, keeping, verifying) = (world.clone(), world.clone(), world.clone());
        supervise(&simulated_store, &format!("writer{n}"), true, move |process| write(writing.run.clone(), process));
        supervise(&simulated_store, &format!("snapshot{n}"), true, move |process| {
            make_snapshots(snapshotting.clone(), process)
        });
        supervise(&simulated_store, &format!("cleaner{n}"), true, move |process| clean_up(cleaning.clone(), process));
        supervise(&simulated_store, &format!("collector{n}"), true, move |process| {
            collect(collecting.run.clone(), process)
        });
        supervise(&simulated_store, &format!("keeper{n}"), true, move |process| report_keeps(keeping.clone(), process));
        supervise(&simulated_store, &format!("verifier{n}"), true, move |process| {
            verify_now_and_then(verifying.run.clone(), process, |_| false)
        });
    }
    let registering = world.clone();
    supervise(&simulated_store, "newcomer", true, move |process| register_others(registering.clone(), process));
    simulated_store.run_for(FAULT_BURST_DURATION).await;
    simulated_store.change_fault_schedule(|fault_schedule| *fault_schedule = FaultSchedule::fault_free());
    simulated_store.note("the fault burst ends");
    let burst_end = simulated_store.now();
    let has_recovered = || world.model().last_end.is_some_and(|ended| ended >= burst_end);
    simulated_store.recover(RECOVERY_DURATION, has_recovered).await;
    if world.model().last_end.is_none_or(|ended| ended < burst_end) {
        simulated_store.fail("no clean-up ended after the fault burst");
    }
    for mark in world.model().marks.clone() {
        simulated_store.mark(mark);
    }
    simulated_store
}

/// Whether nothing failed any more from this true time on, milliseconds.
fn is_without_faults(since: u64) -> bool {
    let burst = u64::try_from(FAULT_BURST_DURATION.as_millis()).unwrap_or(u64::MAX);
    since >= START + burst
}

/// Cleans up by random rules.
async fn clean_up(world: CleanupWorld, process: SimProcess) -> ProcessEnd {
    let log_id = world.run.log_id(&process).await;
    loop {
        if world.run.number(0..=3) == 0 {
            // Beside another one.
            let on_plan = world.model().on_plan.clone();
            let _ = timeout(Duration::from_hours(10), on_plan.notified()).await;
        } else {
            world.run.sleep_minutes(60..=600).await;
        }
        world.pause_sometimes(&process);
        let begun = world.run.simulated_store.now();
        match clean_up_once(&world.run, &process, &log_id).await {
            CleanupEnd::Through { report, dry_run } => {
                world.model().last_end = Some(world.run.simulated_store.now());
                let objects = world.run.simulated_store.objects(LOG);
                let guards = world.model().guards_left(report.to, begun, &objects);
                // Until the faults end the deletion of one may fail; and where nothing is to be cleaned up nothing is looked for.
                let is_swept = !dry_run && report.snapshot.is_some() && report.deletion.stopped.is_none();
                if is_swept && is_without_faults(begun) && !guards.is_empty() {
                    world.run.simulated_store.fail(format!("a clean-up left the guards of {guards:?}, which are gone"));
                }
                let left = left_below(report.to, &objects, &world.snapshots.lock().ledger);
                check_left(&world.run, &report, dry_run, &left);
            }
            CleanupEnd::Refused => {}
            CleanupEnd::Unknown(why) => return ProcessEnd::GaveUp(why),
        }
    }
}

async fn make_snapshots(world: CleanupWorld, process: SimProcess) -> ProcessEnd {
    let log_id = world.run.log_id(&process).await;
    loop {
        world.run.sleep_minutes(60..=400).await;
        world.pause_sometimes(&process);
        let (log, index) = (world.run.log(&process), world.run.store(INDEX, &process));
        let root = RootChain::open(&log, world.run.entropy());
        let opened = IndexChain::open(&index, Generation::first(), world.run.entropy()).for_log(&root).follow().await;
        let Ok(chain) = opened else { continue };
        let maker = SnapshotMaker {
            log,
            root,
            chain,
            pins: PinChain::open(&index, &log_id, world.run.entropy()),
            engine: Arc::new(ModelEngine::new(index.clone())),
            archive: world.run.archive(&process, &log_id),
            progress: watch::Sender::new(SnapshotProgress::default()),
        };
        let keep_last = NonZeroUsize::new(usize::try_from(world.run.number(0..=3)).unwrap_or_default());
        match maker.make(&SnapshotRequest { name: None, keep_last, without_archive: false }).await {
            Err(error) if error.is_unknown() => return ProcessEnd::GaveUp(error.to_string()),
            Err(error @ SnapshotError::ArchiveDamaged { .. }) => world.run.simulated_store.fail(error.to_string()),
            Err(error) => world.run.simulated_store.note(&format!("no snapshot: {error}")),
            Ok(_) => {}
        }
    }
}

/// Says in the root what the index has audited.
async fn report_keeps(world: CleanupWorld, process: SimProcess) -> ProcessEnd {
    loop {
        world.run.sleep_minutes(30..=200).await;
        let root = RootChain::open(&world.run.log(&process), world.run.entropy());
        let Ok(Some(latest)) = world.run.chain(&process).latest().await else { continue };
        let audited = LogCursor(latest.state.audited);
        if let Err(error @ CatalogError::Unknown { .. }) = root.keep(INDEX_URL, &Generation::first(), audited).await {
            return ProcessEnd::GaveUp(error.to_string());
        }
    }
}

/// Indexes that register, some of which begin with the log's first entry, and that are taken off later.
async fn register_others(world: CleanupWorld, process: SimProcess) -> ProcessEnd {
    world.run.log_id(&process).await;
    loop {
        let between = world.run.number(0..=1) == 0;
        if !between {
            world.run.sleep_minutes(20..=900).await;
        }
        let ended = register_other(&world, &process, between).await;
        match ended {
            Err(error @ CatalogError::Unknown { .. }) => return ProcessEnd::GaveUp(error.to_string()),
            Err(CatalogError::Rejected(TransactionRejected::BelowFloor { .. })) => {
                world.run.simulated_store.mark("an index below the floor was refused");
            }
            Err(CatalogError::Invariant(broken)) => world.run.simulated_store.fail(broken.to_string()),
            Err(error) => world.run.simulated_store.note(&format!("not registered: {error}")),
            Ok(()) => {}
        }
    }
}

/// With `between`, as soon as a clean-up has recorded its plan: before it raises the floor.
async fn register_other(world: &CleanupWorld, process: &SimProcess, between: bool) -> Result<(), CatalogError> {
    let root = RootChain::open(&world.run.log(process), world.run.entropy());
    let known = root.state().await?;
    // What an earlier process left.
    unregister_others(&root).await?;
    if world.run.is_fault_burst_over() {
        return Ok(());
    }
    let floor = known.floor.map(|floor| floor.second).unwrap_or_default();
    let cursor = match world.run.number(0..=2) {
        _ if between => LogCursor::default(),
        0 => LogCursor::default(),
        // Perhaps below the floor by the time it registers.
        _ => LogCursor(floor.second().after(Duration::from_secs(world.run.number(0..=600)))),
    };
    let name = format!("{NEWCOMER}{}/", world.run.entropy().nonce());
    world.model().cursors.insert(name.clone(), cursor);
    let owner = IndexOwner::Named { name: name.clone() };
    let registration = IndexRegistration::new(name.clone(), owner, Generation::first());
    // The head is read now: the floor may be raised before the record lands.
    let mut head = root.head().await?;
    if between {
        let on_plan = world.model().on_plan.clone();
        for _ in 0..60 {
            if timeout(Duration::from_mins(20), on_plan.notified()).await.is_ok() {
                break;
            }
            head = root.head().await?;
        }
    }
    root.register(head, &parameters(), &name, &registration, cursor, None).await?;
    world.run.sleep_minutes(10..=300).await;
    if world.run.number(0..=1) == 0 {
        root.keep(&name, &Generation::first(), cursor).await?;
        world.run.sleep_minutes(10..=300).await;
    }
    unregister_others(&root).await
}

async fn unregister_others(root: &RootChain) -> Result<(), CatalogError> {
    let known = root.state().await?.indexes;
    for (name, seen) in known.iter().filter(|(name, _)| name.starts_with(NEWCOMER)) {
        root.unregister(name, seen).await?;
    }
    Ok(())
}

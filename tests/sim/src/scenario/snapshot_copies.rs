//! Processes that copy snapshots to a second store, and so collect there what no copy names any more.

use std::{num::NonZeroUsize, sync::Arc};

use tidemark_catalog::{CatalogError, CopyCollector, LogId, PinChain, RootChain};
use tidemark_ingest::snapshot::{
    LogArchive, SnapshotCopier, SnapshotError, SnapshotPlace, model_archive::ModelArchive,
};
use tokio::sync::watch;

use super::long_run::{COPIES, INDEX, LongRun};
use crate::{process::SimProcess, supervise::ProcessEnd};

/// Copies a snapshot now and then.
pub(super) async fn copy_now_and_then(run: LongRun, process: SimProcess) -> ProcessEnd {
    let log = run.log_id(&process).await;
    loop {
        run.sleep_minutes(200..=1_500).await;
        if !run.is_fault_burst_over() && run.number(0..=3) == 0 {
            run.suspend_soon(&process);
        }
        match copy_one(&run, &process, &log).await {
            Err(error) if error.is_unknown() => return ProcessEnd::GaveUp(error.to_string()),
            Err(SnapshotError::Chain(CatalogError::Invariant(broken))) => run.simulated_store.fail(broken.to_string()),
            Err(error @ SnapshotError::ArchiveDamaged { .. }) => run.simulated_store.fail(error.to_string()),
            Err(error) => run.simulated_store.note(&format!("no copy: {error}")),
            Ok(()) => {}
        }
    }
}

/// Copies the latest snapshot, or one of the others: a person may ask for that.
async fn copy_one(run: &LongRun, process: &SimProcess, log: &LogId) -> Result<(), SnapshotError> {
    let (from, to) = (place(run, process, log, INDEX), place(run, process, log, COPIES));
    let register = from.pins.register().await?;
    let snapshots = register.snapshots();
    let Some(last) = snapshots.len().checked_sub(1) else { return Ok(()) };
    let nth = if run.number(0..=2) == 0 { run.number(0..=last as u64) } else { 0 };
    let (name, pin, _) = snapshots[usize::try_from(nth).unwrap_or_default()];
    let keep_last = NonZeroUsize::new(usize::try_from(run.number(0..=2)).unwrap_or_default());
    let collector = CopyCollector::new(&from.index, &to.index, log, run.entropy());
    let root = RootChain::open(&run.log(process), run.entropy());
    let copier = SnapshotCopier { root, from, to, collector, progress: watch::Sender::default() };
    copier.copy(name, pin, keep_last).await.map(drop)
}

/// The index's store, or that of the copies.
pub(super) fn place(run: &LongRun, process: &SimProcess, log: &LogId, bucket: &str) -> SnapshotPlace {
    let index = run.store(bucket, process);
    let archive: Arc<dyn LogArchive> = match bucket {
        COPIES => Arc::new(ModelArchive::open(&index, log, run.entropy())),
        _ => run.archive(process, log),
    };
    SnapshotPlace { pins: PinChain::open(&index, log, run.entropy()), archive, index }
}

//! Clean-ups as the scenarios run them: by random rules, with what each says checked against the log that it leaves.

use std::{num::NonZeroUsize, time::Duration};

use tidemark_catalog::{CatalogError, CleanupChain, LogId, PinChain, RootChain, TransactionRejected};
use tidemark_ingest::{
    cleanup::{CleanupError, CleanupExecutor, CleanupReport, CleanupRequest, CleanupRules, DeletionReport},
    snapshot::SnapshotError,
};
use tidemark_store::StoreClock;
use tidemark_wal::Token;
use tokio::sync::watch;

use super::long_run::{INDEX, INDEX_URL, LongRun};
use crate::process::SimProcess;

/// How a clean-up ended, as far as the simulation goes on with it.
pub(super) enum CleanupEnd {
    /// It is through, and says what it did, or would do.
    Through { report: Box<CleanupReport>, dry_run: bool },
    /// It gave up, and may be tried again.
    Refused,
    /// The process has to end.
    Unknown(String),
}

/// Cleans up once, by random rules.
pub(super) async fn clean_up_once(run: &LongRun, process: &SimProcess, log_id: &LogId) -> CleanupEnd {
    let (log, index) = (run.log(process), run.store(INDEX, process));
    let executor = CleanupExecutor {
        root: RootChain::open(&log, run.entropy()),
        index: INDEX_URL.to_owned(),
        pins: PinChain::open(&index, log_id, run.entropy()),
        cleanups: CleanupChain::open(&index, log_id, run.entropy()),
        archive: run.archive(process, log_id),
        clock: StoreClock::new(log.stores(), process.name()),
        cleaner: process.name().to_owned(),
        progress: watch::Sender::new(DeletionReport::default()),
        log,
    };
    let rules = CleanupRules {
        min_age: Duration::from_hours(run.number(0..=48)),
        max_entries: Some(run.number(0..=60)).filter(|_| run.number(0..=3) == 0),
        max_bytes: None,
        keep_snapshots: NonZeroUsize::MIN.saturating_add(usize::from(run.number(0..=3) == 0)),
    };
    let dry_run = run.number(0..=9) == 0;
    match executor.run(&CleanupRequest { rules, dry_run }).await {
        Ok(report) => {
            if report.deletion.failed() > 0 {
                run.simulated_store.mark("an entry could not be deleted");
            }
            CleanupEnd::Through { report: Box::new(report), dry_run }
        }
        Err(error) if error.is_unknown() => CleanupEnd::Unknown(error.to_string()),
        Err(error) => {
            note(run, &error);
            CleanupEnd::Refused
        }
    }
}

fn note(run: &LongRun, error: &CleanupError) {
    let store = &run.simulated_store;
    match error {
        CleanupError::Chain(CatalogError::Invariant(broken)) => store.fail(broken.to_string()),
        CleanupError::ArchiveReplaced { .. }
        | CleanupError::OtherArchive { .. }
        | CleanupError::Archive(SnapshotError::ArchiveDamaged { .. }) => store.fail(error.to_string()),
        _ => {
            if matches!(error, CleanupError::Chain(CatalogError::Rejected(TransactionRejected::Fenced { .. }))) {
                store.mark("a clean-up was fenced");
            }
            store.note(&format!("no clean-up: {error}"));
        }
    }
}

/// A clean-up that is through has left nothing that it could have deleted.
pub(super) fn check_left(run: &LongRun, report: &CleanupReport, dry_run: bool, left: &[Token]) {
    if !dry_run && report.deletion.stopped.is_none() && left.len() as u64 > report.deletion.failed() {
        run.simulated_store.fail(format!("a clean-up says that it is through, and left {left:?}: {report:?}"));
    }
}

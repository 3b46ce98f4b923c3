//! Deletes what the index no longer names and what processes that ended left, beside the tail, as long as this process writes the
//! index.

use std::{convert::Infallible, time::Duration};

use tidemark_catalog::{CatalogError, GarbageCollector, TransactionRejected, WriterIdentity};
use tidemark_store::{Entropy, StoreClock};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::status::IngestStatusTracker;

/// How often a pass is made. An object becomes garbage after the epoch of its writer, a day at most, and goes a day later: a
/// shorter interval gains nothing. One a day lists every generation, the others leave out those that are closed and clean.
const PASS_INTERVAL: Duration = Duration::from_hours(1);

/// Makes a pass an hour until dropped. A pass that fails is logged, and nothing waits for it.
pub(crate) async fn collect_garbage(
    collector: impl Fn() -> GarbageCollector,
    identity: &WriterIdentity,
    clock: &StoreClock,
    entropy: &Entropy,
    tracker: &IngestStatusTracker,
) -> Infallible {
    let mut warned = false;
    loop {
        // Half of it or more: the writers of many indexes that were started together do not list at the same moment.
        sleep(entropy.jittered(PASS_INTERVAL)).await;
        // A collector of its own for each pass: after an unknown outcome it reads the chain as a new process would.
        match collector().collect(&identity.0).await {
            Ok(report) => {
                tracker.set_garbage(&report);
                if report.deleted > 0 {
                    let (objects, bytes) = (report.deleted, report.deleted_bytes);
                    info!(objects, bytes, "deleted objects that the index has not named for a day");
                }
            }
            Err(CatalogError::Rejected(TransactionRejected::Fenced { .. })) => {
                info!("another process collects garbage; this pass ends");
            }
            Err(error) => {
                warn!(%error, "garbage was not collected; the index takes more room; the next pass tries again");
            }
        }
        warned = delete_abandoned_clocks(clock, warned).await;
    }
}

/// Deletes the clock objects of pods that are gone. Gives whether a failure was reported: a right that is missing is one warning.
async fn delete_abandoned_clocks(clock: &StoreClock, warned: bool) -> bool {
    match clock.delete_abandoned().await {
        Ok(_) => false,
        Err(error) => {
            if !warned {
                warn!(%error, "clock objects of pods that are gone were not deleted; they take room; each pass tries again");
            }
            true
        }
    }
}

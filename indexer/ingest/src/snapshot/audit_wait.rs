//! Waits for the indexer's audit. Only what had its last look is archived, and a manifest says a little late how far the looks have come.

use std::time::Duration;

use tidemark_catalog::{CatalogError, IndexChain, Manifest, RootChain, SegmentMeta};
use tidemark_store::StoreSecond;
use tidemark_wal::ParameterSchedule;
use tokio::time::{Instant, sleep};

use crate::audit_schedule::last_look_due;

/// How often the manifest is read while the audit is late.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// How long a snapshot waits for an audit that does not come on. A writer that runs publishes at least once a minute.
const AUDIT_TIMEOUT: Duration = Duration::from_mins(2);

/// The second up to which the audit of the index should have come, where it has not and the index has operations before that: they are
/// not archived.
pub(super) fn overdue_audit(manifest: &Manifest, parameters: &ParameterSchedule) -> Option<StoreSecond> {
    let due = last_look_due(manifest.horizon, parameters).min(manifest.cursor.second());
    let waits = |segment: &SegmentMeta| segment.first.second() < due && manifest.audited <= segment.last.second();
    (manifest.audited < due && manifest.segments.iter().any(waits)).then_some(due)
}

/// Waits until the audit has come as far as it should. Not if nobody writes the index, and no longer than two minutes without progress.
/// `on_progress` gets how many seconds of the log were audited meanwhile, of how many.
pub(super) async fn wait_for_audit(
    chain: &IndexChain,
    root: &RootChain,
    on_progress: impl Fn(u64, u64),
) -> Result<(), CatalogError> {
    let Some(parameters) = root.state().await?.schedule() else { return Ok(()) };
    let Some(mut latest) = chain.latest().await? else { return Ok(()) };
    let mut give_up = Instant::now() + AUDIT_TIMEOUT;
    let oldest = latest.state.segments.iter().map(|segment| segment.first.second()).min().unwrap_or_default();
    let begin = latest.state.audited.max(oldest);
    while let Some(due) = overdue_audit(&latest.state, &parameters) {
        if latest.state.holder.is_none() || Instant::now() >= give_up {
            break;
        }
        on_progress(latest.state.audited.since(begin).as_secs(), due.since(begin).as_secs());
        sleep(POLL_INTERVAL).await;
        if let Some(newer) = chain.poll_newer(&latest).await? {
            if newer.state.audited > latest.state.audited {
                give_up = Instant::now() + AUDIT_TIMEOUT;
            }
            latest = newer;
        }
    }
    Ok(())
}

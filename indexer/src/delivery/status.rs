//! How far a delivery is, for people: log lines while something changes.

use std::{convert::Infallible, time::Duration};

use tidemark_catalog::{ConsumerPosition, ConsumerProgress};
use tokio::{sync::watch, time::sleep};

use super::circuit_breaker::BreakerState;

/// How often progress is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// How far a delivery is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeliveryStatus {
    /// What is done without a gap.
    pub(crate) progress: ConsumerProgress,
    /// The place behind everything that is published, as far as it is known.
    pub(crate) end: ConsumerPosition,
    /// Records that were read and are not acknowledged.
    pub(crate) unacknowledged: u64,
    /// Bytes that they have.
    pub(crate) unacknowledged_bytes: u64,
    /// What the breaker lets through.
    pub(crate) breaker: BreakerState,
    /// Why the record after the acknowledged position holds up all others, if one does.
    pub(crate) blocked: Option<String>,
    /// The last failure; absent once something was delivered after it.
    pub(crate) last_error: Option<String>,
}

impl DeliveryStatus {
    /// How many records are published and not acknowledged, the ones that the filter leaves out included.
    pub(crate) fn lag(&self) -> u64 {
        self.end.seq.saturating_sub(self.progress.acknowledged.seq)
    }
}

/// Logs the status of a delivery whenever it has changed, every 10 s at most. Never ends.
pub(crate) async fn report_delivery(name: &str, mut status: watch::Receiver<DeliveryStatus>) -> Infallible {
    loop {
        let changed = status.changed().await;
        log(name, &status.borrow_and_update().clone());
        if changed.is_err() {
            return std::future::pending().await;
        }
        sleep(LOG_INTERVAL).await;
    }
}

fn log(name: &str, status: &DeliveryStatus) {
    let DeliveryStatus { progress, unacknowledged, unacknowledged_bytes, breaker, blocked, last_error, .. } = status;
    let ConsumerProgress { acknowledged, delivered, dead_lettered } = progress;
    tracing::info!(
        consumer = name,
        %acknowledged,
        lag = status.lag(),
        unacknowledged,
        unacknowledged_bytes,
        delivered,
        dead_lettered,
        %breaker,
        blocked,
        last_error,
        "delivery"
    );
}

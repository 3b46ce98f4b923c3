//! How far a delivery is: log lines while something changes, and the report of the process.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use tidemark_catalog::{ConsumerPosition, ConsumerProgress};
use tidemark_crds::{BreakerPhase, FeedPlace, SinkReport};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{circuit_breaker::BreakerState, source::ChangeSource};

/// How often progress is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// How often the report is made.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);
/// How many moments of publication are remembered.
const MAX_PUBLICATIONS: usize = 512;

/// How far a delivery is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeliveryStatus {
    /// What is done without a gap.
    pub(crate) progress: ConsumerProgress,
    /// The place behind everything that is published, as far as it is known; nothing before the index was read once.
    pub(crate) end: Option<ConsumerPosition>,
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
    /// How many records are published and not acknowledged, the ones that the filter leaves out included, if that is known.
    pub(crate) fn lag(&self) -> Option<u64> {
        Some(self.end.as_ref()?.seq.saturating_sub(self.progress.acknowledged.seq))
    }
}

/// Logs the status of a delivery whenever it has changed, every 10 s at most. Never ends.
pub(crate) async fn log_delivery(name: &str, mut status: watch::Receiver<DeliveryStatus>) -> Infallible {
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

/// Keeps the report of a delivery: what is published is looked up beside it, since a sink whose destination is away reads nothing. Never
/// ends.
pub(crate) async fn report_delivery(
    source: &dyn ChangeSource,
    status: watch::Sender<DeliveryStatus>,
    report: &watch::Sender<SinkReport>,
) -> Infallible {
    let mut publications = PublicationTimes::default();
    loop {
        // While the index cannot be read the last known end stands.
        if let Ok(end) = source.end().await {
            status.send_if_modified(|known| {
                let is_later = known.end.as_ref().is_none_or(|known| end.seq > known.seq);
                if is_later {
                    known.end = Some(end);
                }
                is_later
            });
        }
        let (known, now) = (status.borrow().clone(), Instant::now());
        let lag_seconds = known.end.as_ref().map(|end| {
            publications.observe(end.seq, now);
            publications.lag_seconds(known.progress.acknowledged.seq, now)
        });
        report.send_replace(sink_report(known, lag_seconds));
        sleep(REPORT_INTERVAL).await;
    }
}

fn sink_report(status: DeliveryStatus, lag_seconds: Option<u64>) -> SinkReport {
    let lag_operations = status.lag();
    let DeliveryStatus { progress, unacknowledged, unacknowledged_bytes, breaker, blocked, last_error, .. } = status;
    let ConsumerProgress { acknowledged, delivered, dead_lettered } = progress;
    SinkReport {
        holding: true,
        acknowledged: Some(FeedPlace { generation: acknowledged.generation.to_string(), seq: acknowledged.seq }),
        lag_operations,
        lag_seconds,
        unacknowledged,
        unacknowledged_bytes,
        delivered,
        dead_lettered,
        breaker: match breaker {
            BreakerState::Closed => BreakerPhase::Closed,
            BreakerState::HalfOpen => BreakerPhase::HalfOpen,
            BreakerState::Open => BreakerPhase::Open,
        },
        blocked,
        last_error,
    }
}

/// When what is not acknowledged was published, as far as this process has seen it: what was there before counts from the first look.
#[derive(Debug, Default)]
struct PublicationTimes {
    /// Ends of what was published, each with the moment when it was seen first.
    seen: VecDeque<(u64, Instant)>,
    /// The last of them.
    end: Option<u64>,
    /// What is published within this span counts as one publication, of its begin.
    span: Duration,
}

impl PublicationTimes {
    /// Everything up to `end` is published at `now`.
    fn observe(&mut self, end: u64, now: Instant) {
        if self.end.is_some_and(|known| end <= known) {
            return;
        }
        self.end = Some(end);
        match self.seen.back_mut() {
            Some((last, begin)) if now.saturating_duration_since(*begin) < self.span => *last = end,
            _ => self.seen.push_back((end, now)),
        }
        if self.seen.len() > MAX_PUBLICATIONS {
            // Every second one goes: what it ended counts as published with the next. The last one stays.
            let mut after = self.seen.len();
            self.seen.retain(|_| {
                after -= 1;
                after.is_multiple_of(2)
            });
            self.span = (self.span * 2).max(REPORT_INTERVAL * 2);
        }
    }

    /// How long the first record after `acknowledged` has been published, and at least that where it was published before the first look.
    fn lag_seconds(&mut self, acknowledged: u64, now: Instant) -> u64 {
        while self.seen.front().is_some_and(|(end, _)| *end <= acknowledged) {
            self.seen.pop_front();
        }
        match self.seen.front() {
            None => {
                self.span = Duration::ZERO;
                0
            }
            Some((_, published)) => now.saturating_duration_since(*published).as_secs(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lag_is_counted_from_the_publication_or_from_the_first_look() {
        let (mut publications, start) = (PublicationTimes::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        publications.observe(10, at(0));
        assert_eq!(publications.lag_seconds(7, at(5)), 5, "it was there before");
        assert_eq!(publications.lag_seconds(10, at(6)), 0);
        publications.observe(12, at(10));
        publications.observe(12, at(20));
        publications.observe(15, at(30));
        assert_eq!(publications.lag_seconds(11, at(40)), 30);
        assert_eq!(publications.lag_seconds(12, at(40)), 10);
        assert_eq!(publications.lag_seconds(15, at(40)), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded_and_the_lag_stays_near() {
        let (mut publications, start) = (PublicationTimes::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for end in 0..10_000 {
            publications.observe(end, at(2 * end));
            assert!(publications.seen.len() <= MAX_PUBLICATIONS);
        }
        for (acknowledged, published) in [(999, 2_000), (4_999, 10_000), (9_998, 19_998)] {
            let lag = publications.lag_seconds(acknowledged, at(20_000));
            assert!(lag.abs_diff(20_000 - published) <= 200, "{lag} s since {published}");
        }
        assert_eq!((publications.lag_seconds(9_999, at(20_000)), publications.span), (0, Duration::ZERO));
    }
}

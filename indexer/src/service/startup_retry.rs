//! Retries the start of a service until its dependencies are usable, where that is wanted.

use std::{future::Future, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tidemark_catalog::PublishError;
use tidemark_store::Entropy;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::error::ServiceError;
use crate::pod_status::PodStatus;
use tidemark_crds::Reason;
use tidemark_ingest::{IngestError, ToCause as _};

/// The first pause; each further one is twice as long.
const MIN_BACKOFF: Duration = Duration::from_secs(1);
/// The longest pause.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// The longest pause while a file of this machine is missing.
/// Looking for a file costs no request.
const MAX_LOCAL_BACKOFF: Duration = Duration::from_secs(5);
/// How many times as long the pauses are after a promotion that was refused.
const REFUSED_PROMOTION_FACTOR: u32 = 10;
/// How long an attempt must have run for the pauses to be short again.
const RESET_AFTER: Duration = Duration::from_mins(1);
/// The operation that `/v1/process` names.
pub(super) const OPENING: &str = "opening";

/// What a process does when a dependency is not usable at its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartupMode {
    /// It exits.
    #[default]
    FailFast,
    /// It listens first, reports the problem and retries.
    WaitForDependencies,
}

/// Retries the work of a service.
pub(super) struct StartupRetry {
    pub(super) mode: StartupMode,
    /// Reports each failure.
    pub(super) pod: PodStatus,
    pub(super) entropy: Entropy,
}

impl StartupRetry {
    /// Runs `attempt` until it succeeds or `stop` is cancelled; in [`StartupMode::WaitForDependencies`] it also retries
    /// failures whose cause is outside this process.
    ///
    /// Fenced and unknown outcomes always end the process: its successor reads what became of the write.
    pub(super) async fn until_ok<F>(
        &self,
        stop: &CancellationToken,
        mut attempt: impl FnMut() -> F,
    ) -> Result<(), ServiceError>
    where
        F: Future<Output = Result<(), ServiceError>>,
    {
        let (mut pauses, mut last_cause) = (backoff(), None);
        loop {
            let started = Instant::now();
            let failure = match attempt().await {
                Ok(()) => return Ok(()),
                Err(failure) if self.mode == StartupMode::FailFast || ends_the_process(&failure) => {
                    return Err(failure);
                }
                Err(failure) => failure,
            };
            if stop.is_cancelled() {
                return Ok(());
            }
            // Another cause than before: one thing was repaired, and the next is probably being worked on.
            let cause = Some(failure.to_cause());
            let has_run = started.elapsed() > RESET_AFTER && !is_refused_promotion(&failure);
            if has_run || cause != last_cause {
                (pauses, last_cause) = (backoff(), cause);
            }
            self.pod.set_failure(OPENING, &failure);
            let pause = pauses.next().unwrap_or(MAX_BACKOFF);
            let wait = self.entropy.jittered(pause_after(&failure, pause));
            tracing::error!(reason = ?failure.to_cause().reason, ?wait, "{failure}; retrying");
            if stop.run_until_cancelled(sleep(wait)).await.is_none() {
                return Ok(());
            }
        }
    }
}

/// 1 s, doubled each time up to [`MAX_BACKOFF`].
fn backoff() -> ExponentialBackoff {
    let builder = ExponentialBuilder::default().with_min_delay(MIN_BACKOFF).with_max_delay(MAX_BACKOFF);
    builder.without_max_times().build()
}

/// The pause after a failure. A store that broke the contract is not probed again soon: that takes a thousand requests. Nor is a promotion
/// that was refused tried again soon: that reads all that is recorded, until a person puts back what is lost or does without it.
fn pause_after(failure: &ServiceError, pause: Duration) -> Duration {
    match failure.to_cause().reason {
        Reason::StoreUnsupported => MAX_BACKOFF,
        // Only a file of this machine is read: that costs nothing.
        Reason::CredentialsMissing => pause.min(MAX_LOCAL_BACKOFF),
        _ if is_refused_promotion(failure) => pause * REFUSED_PROMOTION_FACTOR,
        _ => pause,
    }
}

/// Whether an index that was restored cannot be promoted before a person does something.
fn is_refused_promotion(failure: &ServiceError) -> bool {
    matches!(failure, ServiceError::Ingest(IngestError::OutcomesLost { .. }))
}

/// Whether the process must end: another one has taken over, or the outcome of a write is unknown.
fn ends_the_process(failure: &ServiceError) -> bool {
    let fenced = matches!(failure, ServiceError::Ingest(IngestError::Publish(PublishError::Fenced { .. })));
    fenced || failure.is_unknown() || matches!(failure, ServiceError::Listen { .. })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tidemark_store::{StoreError, StoreSecond};
    use tokio::sync::watch;

    use super::*;
    use tidemark_ingest::{FailureCause, IngestStatus};

    fn denied() -> ServiceError {
        StoreError::Denied { url: "s3://b".to_owned(), key: "k".to_owned(), why: "no".to_owned() }.into()
    }

    fn retry(mode: StartupMode) -> StartupRetry {
        let pod = PodStatus::indexer(watch::channel(IngestStatus::default()).1, None);
        StartupRetry { mode, pod, entropy: Entropy::seeded(1) }
    }

    #[tokio::test(start_paused = true)]
    async fn what_somebody_can_mend_is_reported_and_retried() {
        let (retry, tries, stop) = (retry(StartupMode::WaitForDependencies), Cell::new(0), CancellationToken::new());
        let pod = retry.pod.clone();
        let ended = retry.until_ok(&stop, || {
            let problems = pod.report().problems;
            assert_eq!(problems.len(), usize::from(tries.get() > 0));
            tries.set(tries.get() + 1);
            async { if tries.get() < 9 { Err(denied()) } else { Ok(()) } }
        });
        assert!(ended.await.is_ok());
        assert_eq!((tries.get(), pod.report().problems[0].reason), (9, Reason::AccessDenied));
    }

    #[tokio::test(start_paused = true)]
    async fn a_promotion_that_is_refused_is_tried_again_ever_more_seldom() {
        let (retry, tries, stop) = (retry(StartupMode::WaitForDependencies), Cell::new(0), CancellationToken::new());
        let refused = || IngestError::OutcomesLost {
            first: StoreSecond::default(),
            last: StoreSecond::default(),
            why: "gone".to_owned(),
            cause: FailureCause::of(Reason::IndexDamaged),
            remedy: "put it back",
        };
        let attempt = || async {
            tries.set(tries.get() + 1);
            sleep(RESET_AFTER * 2).await;
            Err(refused().into())
        };
        let ended = tokio::time::timeout(Duration::from_hours(10), retry.until_ok(&stop, attempt)).await;
        assert!(ended.is_err(), "it is tried again and again");
        assert!((80..150).contains(&tries.get()), "{} times in ten hours", tries.get());
    }

    #[tokio::test(start_paused = true)]
    async fn fenced_and_unknown_end_the_process_however_patient_it_is() {
        let stop = CancellationToken::new();
        let unknown = || PublishError::Unknown { key: "k".to_owned(), why: "w".to_owned() };
        for error in [|| PublishError::Fenced { epoch: 1, by: 2 }, unknown] as [fn() -> PublishError; 2] {
            let attempt = || async { Err(IngestError::from(error()).into()) };
            assert!(retry(StartupMode::WaitForDependencies).until_ok(&stop, attempt).await.is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_patience_the_first_failure_ends_it_and_a_stop_ends_a_wait() {
        let stop = CancellationToken::new();
        let attempt = || async { Err(denied()) };
        assert!(retry(StartupMode::FailFast).until_ok(&stop, attempt).await.is_err());
        let waiting = stop.clone();
        tokio::spawn(async move {
            sleep(Duration::from_mins(5)).await;
            waiting.cancel();
        });
        assert!(retry(StartupMode::WaitForDependencies).until_ok(&stop, attempt).await.is_ok());
    }
}

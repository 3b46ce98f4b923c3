//! A process that waits for the world outside to be mended instead of ending.

use std::{future::Future, time::Duration};

use tidemark_catalog::PublishError;
use tidemark_store::Entropy;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::ServiceError;
use crate::process::Process;
use tidemark_crds::Reason;
use tidemark_ingest::{IngestError, ToCause as _};

/// The first pause; each further one is twice as long.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(30);
/// The longest pause where a file of this machine is waited for.
const LOCAL: Duration = Duration::from_secs(5);
/// How long an attempt must have worked for the pauses to be short again.
const GOOD: Duration = Duration::from_mins(1);
/// What was tried, as `/v1/process` keeps it.
pub(super) const OPENING: &str = "opening";

/// Whether a process ends with a failure, or waits until it is mended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Patience {
    /// It ends.
    #[default]
    None,
    /// It listens first, tells what is wrong and tries again.
    Waits,
}

/// Runs `attempt` until it ends well, or `stop`; with patience also after failures that somebody outside can mend.
///
/// Fenced and unknown outcomes end the process at any rate: its successor reads what became of them.
pub(super) async fn patiently<F, A>(
    patience: Patience,
    process: &Process,
    entropy: &Entropy,
    stop: &CancellationToken,
    mut attempt: A,
) -> Result<(), ServiceError>
where
    F: Future<Output = Result<(), ServiceError>>,
    A: FnMut() -> F,
{
    let (mut pause, mut told) = (SHORTEST, None);
    loop {
        let started = Instant::now();
        let failure = match attempt().await {
            Ok(()) => return Ok(()),
            Err(failure) if patience == Patience::None || ends_the_process(&failure) => return Err(failure),
            Err(failure) => failure,
        };
        if stop.is_cancelled() {
            return Ok(());
        }
        // One thing was mended and the next is wrong: whoever mends it is at work.
        let meaning = Some(failure.to_cause());
        if started.elapsed() > GOOD || meaning != told {
            (pause, told) = (SHORTEST, meaning);
        }
        process.failed(OPENING, &failure);
        let wait = jittered(pause_after(&failure, pause), entropy);
        tracing::error!(reason = ?failure.to_cause().reason, ?wait, "{failure}; trying again");
        if stop.run_until_cancelled(sleep(wait)).await.is_none() {
            return Ok(());
        }
        pause = (pause * 2).min(LONGEST);
    }
}

/// A store that was found unfit is not probed again at once: that takes a thousand requests.
fn pause_after(failure: &ServiceError, pause: Duration) -> Duration {
    match failure.to_cause().reason {
        Reason::StoreUnsupported => LONGEST,
        // It asks this machine for a file, and nobody else.
        Reason::CredentialsMissing => pause.min(LOCAL),
        _ => pause,
    }
}

/// Between half of `pause` and all of it.
fn jittered(pause: Duration, entropy: &Entropy) -> Duration {
    let share = f64::from(u16::from_be_bytes(entropy.bytes())) / f64::from(u16::MAX);
    pause.mul_f64(0.5 + share / 2.0)
}

/// Whether the process must end: another one has taken over, or nobody can say what became of a write.
fn ends_the_process(failure: &ServiceError) -> bool {
    let fenced = matches!(failure, ServiceError::Ingest(IngestError::Publish(PublishError::Fenced { .. })));
    fenced || failure.is_unknown() || matches!(failure, ServiceError::Listen { .. })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tidemark_store::StoreError;
    use tokio::sync::watch;

    use super::*;
    use tidemark_ingest::IngestStatus;

    fn denied() -> ServiceError {
        StoreError::Denied { url: "s3://b".to_owned(), key: "k".to_owned(), why: "no".to_owned() }.into()
    }

    fn process() -> Process {
        Process::indexer(watch::channel(IngestStatus::default()).1, None)
    }

    #[tokio::test(start_paused = true)]
    async fn what_somebody_can_mend_is_told_and_tried_again() {
        let (process, tries) = (process(), Cell::new(0));
        let (entropy, stop) = (Entropy::seeded(1), CancellationToken::new());
        let ended = patiently(Patience::Waits, &process, &entropy, &stop, || {
            let told = process.answer().problems;
            assert_eq!(told.len(), usize::from(tries.get() > 0));
            tries.set(tries.get() + 1);
            async { if tries.get() < 9 { Err(denied()) } else { Ok(()) } }
        });
        assert!(ended.await.is_ok());
        assert_eq!((tries.get(), process.answer().problems[0].reason), (9, Reason::AccessDenied));
    }

    #[tokio::test(start_paused = true)]
    async fn fenced_and_unknown_end_the_process_however_patient_it_is() {
        let (entropy, stop) = (Entropy::seeded(1), CancellationToken::new());
        let unknown = || PublishError::Unknown { key: "k".to_owned(), why: "w".to_owned() };
        for error in [|| PublishError::Fenced { epoch: 1, by: 2 }, unknown] as [fn() -> PublishError; 2] {
            let attempt = || async { Err(IngestError::from(error()).into()) };
            let ended = patiently(Patience::Waits, &process(), &entropy, &stop, attempt).await;
            assert!(ended.is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_patience_the_first_failure_ends_it_and_a_stop_ends_a_wait() {
        let (entropy, stop) = (Entropy::seeded(1), CancellationToken::new());
        let attempt = || async { Err(denied()) };
        assert!(patiently(Patience::None, &process(), &entropy, &stop, attempt).await.is_err());
        let waiting = stop.clone();
        tokio::spawn(async move {
            sleep(Duration::from_mins(5)).await;
            waiting.cancel();
        });
        assert!(patiently(Patience::Waits, &process(), &entropy, &stop, attempt).await.is_ok());
    }
}

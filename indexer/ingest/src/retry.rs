//! Retries without an end: an ingest skips nothing, so a call that fails is repeated until it succeeds.
//!
//! A stage does not write the status. It sends a [`RetryEvent`] for each failure and each recovery; the owner of the
//! status applies them.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder, Sleeper as _, TokioSleeper};
use tidemark_store::error_chain;
use tokio::sync::mpsc;

use crate::cause::{FailureCause, ToCause};

/// The backoff after the first failure; it doubles with each further failure in a row.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
/// The longest backoff.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// The growing pauses between attempts that fail in a row.
#[derive(Debug)]
pub(crate) struct RetryBackoff {
    first: Duration,
    longest: Duration,
    pauses: ExponentialBackoff,
}

impl RetryBackoff {
    /// From half a second to half a minute.
    pub(crate) fn new() -> Self {
        Self::between(FIRST_BACKOFF, MAX_BACKOFF)
    }

    /// From half a second to `longest`.
    pub(crate) fn up_to(longest: Duration) -> Self {
        Self::between(FIRST_BACKOFF, longest)
    }

    /// From `first`, doubled each time, to `longest`.
    pub(crate) fn between(first: Duration, longest: Duration) -> Self {
        let policy = ExponentialBuilder::new().with_min_delay(first).with_max_delay(longest).without_max_times();
        Self { first, longest, pauses: policy.build() }
    }

    /// The pause after one more failure.
    pub(crate) fn next_pause(&mut self) -> Duration {
        self.pauses.next().unwrap_or(self.longest)
    }

    /// Sleeps for the next pause.
    pub(crate) async fn sleep(&mut self) {
        TokioSleeper.sleep(self.next_pause()).await;
    }

    /// Starts again with the first pause.
    pub(crate) fn reset(&mut self) {
        *self = Self::between(self.first, self.longest);
    }
}

/// What happens to a call that is retried.
#[derive(Debug)]
pub(crate) enum RetryEvent {
    /// An attempt failed; another one follows after a backoff.
    Failed(RetryFailure),
    /// An attempt succeeded after others had failed.
    Recovered,
}

/// A failed attempt.
#[derive(Debug)]
pub(crate) struct RetryFailure {
    /// What the stage was doing.
    pub(crate) doing: &'static str,
    /// The error with its causes.
    pub(crate) message: String,
    pub(crate) cause: FailureCause,
}

impl RetryFailure {
    pub(crate) fn new(doing: &'static str, error: &impl ToCause) -> Self {
        Self { doing, message: error_chain(error), cause: error.to_cause() }
    }
}

/// Retries calls and sends events about them. Clones send to the same receiver.
#[derive(Clone, Debug)]
pub(crate) struct StageRetrier {
    // Unbounded, so that an event is never lost: a call sends one event a backoff, and the receiver only updates a status.
    events: mpsc::UnboundedSender<RetryEvent>,
}

impl StageRetrier {
    /// A retrier and the receiver of its events.
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<RetryEvent>) {
        let (events, receiver) = mpsc::unbounded_channel();
        (Self { events }, receiver)
    }

    /// Repeats `call` until it succeeds.
    pub(crate) async fn until_ok<T, E, F>(&self, doing: &'static str, mut call: impl FnMut() -> F) -> T
    where
        E: ToCause,
        F: Future<Output = Result<T, E>>,
    {
        let mut attempts = self.attempts(doing);
        loop {
            match call().await {
                Ok(value) => {
                    attempts.succeed();
                    return value;
                }
                Err(error) => attempts.fail(&error).await,
            }
        }
    }

    /// For a caller that decides itself which errors to retry.
    pub(crate) fn attempts(&self, doing: &'static str) -> RetryAttempts<'_> {
        RetryAttempts { retrier: self, doing, backoff: RetryBackoff::new(), failed: false }
    }

    fn send(&self, event: RetryEvent) {
        // Without a receiver the ingest has ended, and its status is not read any more.
        let _ = self.events.send(event);
    }
}

/// The attempts of one call.
pub(crate) struct RetryAttempts<'a> {
    retrier: &'a StageRetrier,
    doing: &'static str,
    backoff: RetryBackoff,
    failed: bool,
}

impl RetryAttempts<'_> {
    /// An attempt failed with `error`: sleeps until the next one.
    pub(crate) async fn fail(&mut self, error: &impl ToCause) {
        self.failed = true;
        self.retrier.send(RetryEvent::Failed(RetryFailure::new(self.doing, error)));
        self.backoff.sleep().await;
    }

    /// The last attempt succeeded.
    pub(crate) fn succeed(self) {
        if self.failed {
            self.retrier.send(RetryEvent::Recovered);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::future;
    use tidemark_store::StoreError;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_is_repeated_with_growing_pauses_until_it_succeeds() {
        let (retrier, mut events) = StageRetrier::new();
        let (start, mut attempts) = (Instant::now(), Vec::new());
        let value = retrier
            .until_ok("testing", || {
                attempts.push(start.elapsed().as_millis());
                let why = "503".to_owned();
                let failure = StoreError::Failed { url: "memory:///".to_owned(), key: "k".to_owned(), why };
                future::ready(if attempts.len() < 10 { Err(failure) } else { Ok(7) })
            })
            .await;
        assert_eq!(value, 7);
        assert_eq!(attempts, [0, 500, 1500, 3500, 7500, 15_500, 31_500, 61_500, 91_500, 121_500]);
        drop(retrier);
        let mut sent = Vec::new();
        while let Some(event) = events.recv().await {
            sent.push(matches!(event, RetryEvent::Failed(RetryFailure { doing: "testing", .. })));
        }
        assert_eq!(sent, [vec![true; 9], vec![false]].concat());
    }
}

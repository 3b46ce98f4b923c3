//! The one retry of the adapter, for calls that may be repeated.

use std::{future::Future, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder, Retryable as _};

use crate::errors::StoreError;

/// The pause before the first retry; each further one is twice as long, up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// How often a call is retried: 9 tries, about 16 s of pauses.
const MAX_RETRIES: usize = 8;

fn schedule() -> ExponentialBuilder {
    ExponentialBuilder::new().with_min_delay(MIN_PAUSE).with_max_delay(MAX_PAUSE).with_max_times(MAX_RETRIES)
}

/// The pauses between the tries of one call.
pub(crate) fn pauses() -> ExponentialBackoff {
    schedule().build()
}

/// Calls `call` until it succeeds, fails with an error that no retry can help, or has been retried [`MAX_RETRIES`] times.
pub(crate) async fn retried<T, F, C>(call: C) -> Result<T, StoreError>
where
    C: FnMut() -> F,
    F: Future<Output = Result<T, StoreError>>,
{
    call.retry(schedule())
        .sleep(tokio::time::sleep)
        .when(StoreError::is_retryable)
        .notify(|error, pause| tracing::debug!(%error, ?pause, "store call failed; retrying"))
        .await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn failed() -> StoreError {
        StoreError::Failed { url: "memory:///".to_owned(), key: "k".to_owned(), why: "503".to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_retried_a_bounded_number_of_times() {
        let (calls, started) = (Cell::new(0), tokio::time::Instant::now());
        let outcome: Result<(), _> = retried(|| {
            calls.set(calls.get() + 1);
            async { Err(failed()) }
        })
        .await;
        assert!(outcome.is_err());
        assert_eq!(calls.get(), 1 + MAX_RETRIES);
        assert_eq!(started.elapsed().as_secs(), 16);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_not_repeated() {
        let calls = Cell::new(0);
        let outcome: Result<(), _> = retried(|| {
            calls.set(calls.get() + 1);
            async { Err(StoreError::NoBucket { url: String::new(), why: String::new() }) }
        })
        .await;
        assert!(outcome.is_err());
        assert_eq!(calls.get(), 1);
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses: Vec<u128> = pauses().map(|pause| pause.as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }
}

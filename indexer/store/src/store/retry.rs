//! Trying again, for calls that may be repeated.

use std::{future::Future, time::Duration};

use super::StoreError;

/// Pause before the second try; each further one is twice as long, up to [`LONGEST`].
const SHORTEST: Duration = Duration::from_millis(100);
/// Longest pause between two tries.
const LONGEST: Duration = Duration::from_secs(5);
/// Tries of one call: about 16 s of pauses.
const TRIES: usize = 9;

/// The pauses between the tries of one call.
pub(crate) fn pauses() -> impl Iterator<Item = Duration> + Send {
    std::iter::successors(Some(SHORTEST), |pause| Some((*pause * 2).min(LONGEST))).take(TRIES - 1)
}

/// Calls `call` until it succeeds, fails with what will not pass, or has been tried [`TRIES`] times.
pub(crate) async fn retried<T, F, C>(mut call: C) -> Result<T, StoreError>
where
    C: FnMut() -> F,
    F: Future<Output = Result<T, StoreError>>,
{
    for pause in pauses() {
        match call().await {
            Err(error) if error.is_retryable() => {
                tracing::debug!(%error, ?pause, "a store call failed and is tried again");
                tokio::time::sleep(pause).await;
            }
            done => return done,
        }
    }
    call().await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn failed() -> StoreError {
        StoreError::Failed { url: "memory:///".to_owned(), key: "k".to_owned(), why: "503".to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_tried_a_bounded_number_of_times() {
        let calls = Cell::new(0);
        let outcome: Result<(), _> = retried(|| {
            calls.set(calls.get() + 1);
            async { Err(failed()) }
        })
        .await;
        assert!(outcome.is_err());
        assert_eq!(calls.get(), TRIES);
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
}

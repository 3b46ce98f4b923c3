//! When to retry an object: a wait per failure, longer each time, reset by a success.
//!
//! `backon` retries one future in place. Here the retry is a requeue of the controller, so what has to be kept is the number
//! of failures of each object, which no library does.

use std::{collections::HashMap, hash::Hash, time::Duration};

use parking_lot::Mutex;

/// The first wait.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// No wait is longer, jitter left out.
const MAX_WAIT: Duration = Duration::from_mins(5);
/// A wait differs from the plain one by at most this share of it.
const JITTER_SHARE: f64 = 0.2;

/// Failures in a row, by object.
#[derive(Debug)]
pub(crate) struct FailureBackoff<K> {
    failures: Mutex<HashMap<K, u32>>,
}

impl<K> Default for FailureBackoff<K> {
    fn default() -> Self {
        Self { failures: Mutex::default() }
    }
}

impl<K: Eq + Hash> FailureBackoff<K> {
    /// Counts a failure of `key` and answers how long to wait.
    pub(crate) fn failed(&self, key: K) -> Duration {
        let mut failures = self.failures.lock();
        let count = failures.entry(key).and_modify(|count| *count = count.saturating_add(1)).or_insert(1);
        jittered(wait(*count), random())
    }

    /// Forgets the failures of `key`: it succeeded, or is gone.
    pub(crate) fn reset(&self, key: &K) {
        self.failures.lock().remove(key);
    }
}

/// The wait after the `failures`th failure in a row.
fn wait(failures: u32) -> Duration {
    // 2^16 s is more than the longest wait, and the shift never overflows.
    let doublings = failures.saturating_sub(1).min(16);
    FIRST_WAIT.saturating_mul(1 << doublings).min(MAX_WAIT)
}

/// `span`, moved by up to the jitter's share; `random` lies in 0..1.
pub(crate) fn jittered(span: Duration, random: f64) -> Duration {
    span.mul_f64(1.0 + JITTER_SHARE * (2.0 * random - 1.0))
}

/// A number in 0..1 that spreads waits.
#[expect(clippy::disallowed_methods, reason = "it spreads load; no decision rests on it")]
pub(crate) fn random() -> f64 {
    rand::random()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_wait_never_shrinks_and_is_bounded(failures in 1_u32..200) {
            prop_assert!(wait(failures) <= wait(failures + 1));
            prop_assert!(wait(failures) >= FIRST_WAIT && wait(failures) <= MAX_WAIT);
        }

        #[test]
        fn jitter_stays_within_its_share(seconds in 1_u64..1000, random in 0.0_f64..1.0) {
            let span = Duration::from_secs(seconds);
            let waited = jittered(span, random);
            prop_assert!(waited >= span.mul_f64(0.8) && waited <= span.mul_f64(1.2));
        }
    }

    #[test]
    fn objects_fail_apart_and_a_success_forgets() {
        let backoff = FailureBackoff::default();
        let third = (0..3).map(|_| backoff.failed("a")).last().unwrap();
        assert!(third > backoff.failed("b"), "the third failure of one waits longer than the first of another");
        backoff.reset(&"a");
        assert!(backoff.failed("a") < Duration::from_secs(2));
    }
}

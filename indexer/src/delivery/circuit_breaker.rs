//! Whether a destination is asked at all: after some failures in a row it is left alone for a while.

use std::{fmt, time::Duration};

use tokio::time::Instant;

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerOptions {
    /// Failures in a row that open it.
    pub failures: u32,
    /// How long it stays open before one batch is tried.
    pub open_for: Duration,
}

/// What a breaker lets through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum BreakerState {
    /// Everything.
    #[default]
    Closed,
    /// Nothing.
    Open,
    /// One batch, whose answer decides.
    HalfOpen,
}

impl fmt::Display for BreakerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        })
    }
}

/// Counts the failures of a destination. Nothing is dropped for it: what was not taken is sent again.
#[derive(Debug)]
pub(crate) struct CircuitBreaker {
    options: BreakerOptions,
    failures: u32,
    open_until: Option<Instant>,
}

impl CircuitBreaker {
    pub(crate) fn new(options: BreakerOptions) -> Self {
        Self { options, failures: 0, open_until: None }
    }

    /// Until when nothing is sent, or read to be sent.
    pub(crate) fn open_until(&self, now: Instant) -> Option<Instant> {
        self.open_until.filter(|until| now < *until)
    }

    pub(crate) fn state(&self, now: Instant) -> BreakerState {
        match self.open_until {
            None => BreakerState::Closed,
            Some(until) if now < until => BreakerState::Open,
            Some(_) => BreakerState::HalfOpen,
        }
    }

    /// The destination took something.
    pub(crate) fn record_success(&mut self) {
        (self.failures, self.open_until) = (0, None);
    }

    /// The destination took nothing.
    pub(crate) fn record_failure(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= self.options.failures || self.open_until.is_some() {
            self.open_until = Some(now + self.options.open_for);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OPTIONS: BreakerOptions = BreakerOptions { failures: 3, open_for: Duration::from_secs(30) };

    #[test]
    fn it_opens_half_opens_and_closes() {
        let (mut breaker, now) = (CircuitBreaker::new(OPTIONS), Instant::now());
        breaker.record_failure(now);
        breaker.record_failure(now);
        breaker.record_success();
        breaker.record_failure(now);
        breaker.record_failure(now);
        assert_eq!(breaker.state(now), BreakerState::Closed);
        breaker.record_failure(now);
        assert_eq!((breaker.state(now), breaker.open_until(now)), (BreakerState::Open, Some(now + OPTIONS.open_for)));
        let later = now + OPTIONS.open_for;
        assert_eq!((breaker.state(later), breaker.open_until(later)), (BreakerState::HalfOpen, None));
        // One failure is enough now, and the next time too.
        breaker.record_failure(later);
        assert_eq!(breaker.state(later), BreakerState::Open);
        let last = later + OPTIONS.open_for;
        assert_eq!(breaker.state(last), BreakerState::HalfOpen);
        breaker.record_success();
        assert_eq!(breaker.state(last), BreakerState::Closed);
    }

    proptest! {
        #[test]
        fn it_is_open_for_no_longer_than_it_should_and_only_after_failures(steps in prop::collection::vec((any::<bool>(), 0u64..40), 1..80)) {
            let mut breaker = CircuitBreaker::new(OPTIONS);
            let (mut now, mut in_a_row) = (Instant::now(), 0);
            for (succeeds, seconds) in steps {
                now += Duration::from_secs(seconds);
                if let Some(until) = breaker.open_until(now) {
                    prop_assert!(in_a_row >= 3 && until - now <= OPTIONS.open_for);
                    continue;
                }
                if succeeds {
                    breaker.record_success();
                    in_a_row = 0;
                } else {
                    breaker.record_failure(now);
                    in_a_row += 1;
                }
                prop_assert_eq!(breaker.state(now) == BreakerState::Open, in_a_row >= 3);
            }
        }
    }
}

//! Time as the object store reports it.
//!
//! Everything that Tidemark decides, it decides in whole seconds of the store's clock. A HEAD answer gives a store time
//! by the second and a LIST answer by the millisecond, so every store time is floored before it is compared: the same
//! object then has the same time on every path.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// A whole second since the Unix epoch, on the object store's clock.
///
/// Serialized as an integer. Arithmetic saturates at both ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreSecond(u64);

impl StoreSecond {
    /// The first second that a token can bear (the KSUID epoch, 2014-05-13T16:53:20Z).
    pub const KSUID_EPOCH: Self = Self(1_400_000_000);
    /// The last second that a token can bear (2150-06-19T23:21:35Z).
    pub const KSUID_END: Self = Self(1_400_000_000 + u32::MAX as u64);

    /// The second that lies `unix` seconds after the Unix epoch.
    pub const fn from_unix(unix: u64) -> Self {
        Self(unix)
    }

    /// The second in which `time` lies; times before the Unix epoch become second 0.
    pub fn floor(time: jiff::Timestamp) -> Self {
        Self(u64::try_from(time.as_second()).unwrap_or(0))
    }

    /// Seconds since the Unix epoch.
    pub const fn unix(self) -> u64 {
        self.0
    }

    /// This second plus `span`, rounded up to a whole second: a bound never becomes shorter by rounding.
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(whole_seconds(span)))
    }

    /// This second minus `span`, rounded up to a whole second: a horizon never becomes later by rounding.
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(whole_seconds(span)))
    }

    /// How long after `earlier` this second lies; zero when it lies before.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }

    /// The next second.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The instant at which this second begins.
    pub fn timestamp(self) -> jiff::Timestamp {
        i64::try_from(self.0)
            .ok()
            .and_then(|unix| jiff::Timestamp::from_second(unix).ok())
            .unwrap_or(jiff::Timestamp::MAX)
    }
}

/// RFC 3339, as in `2026-11-20T10:00:00Z`.
impl fmt::Display for StoreSecond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.timestamp())
    }
}

fn whole_seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_round_up_so_that_no_bound_becomes_shorter() {
        let at = StoreSecond::from_unix(100);
        assert_eq!(at.after(Duration::from_millis(1)), StoreSecond::from_unix(101));
        assert_eq!(at.before(Duration::from_millis(1)), StoreSecond::from_unix(99));
        assert_eq!(at.after(Duration::from_secs(2)), StoreSecond::from_unix(102));
    }

    #[test]
    fn prints_rfc_3339() {
        assert_eq!(StoreSecond::from_unix(1_400_000_000).to_string(), "2014-05-13T16:53:20Z");
    }
}

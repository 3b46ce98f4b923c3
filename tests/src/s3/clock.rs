//! The clock of a store under test.

use std::time::{Duration, SystemTime};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tidemark_store::StoreSecond;

/// The machine's clock moved by as much as a test says.
///
/// Move it forward to let signed URLs expire. Do not sign URLs after moving it backward by more than a URL lasts: the
/// signature check underneath also looks at the machine's clock, and finds them expired.
#[derive(Debug, Default)]
pub struct MovableClock(Mutex<SignedDuration>);

impl MovableClock {
    /// The store's time, by the millisecond as S3 keeps it.
    #[expect(clippy::disallowed_methods, reason = "a store's clock is a wall clock; this one is the test's store")]
    pub fn now(&self) -> Timestamp {
        let machine = Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH);
        let moved = machine.checked_add(self.offset()).unwrap_or(Timestamp::MAX);
        Timestamp::from_millisecond(moved.as_millisecond()).unwrap_or(moved)
    }

    /// The store's time, floored as Tidemark reads it.
    pub fn second(&self) -> StoreSecond {
        StoreSecond::floor(self.now())
    }

    /// Lets `span` pass at once.
    pub fn advance(&self, span: Duration) {
        let span = SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX);
        let mut offset = self.0.lock();
        *offset = offset.saturating_add(span);
    }

    /// Makes it `second` now; the clock goes on from there.
    pub fn set(&self, second: StoreSecond) {
        let wanted = second.timestamp().duration_since(self.now());
        let mut offset = self.0.lock();
        *offset = offset.saturating_add(wanted);
    }

    fn offset(&self) -> SignedDuration {
        *self.0.lock()
    }
}

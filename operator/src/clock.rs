//! The operator's clock. It decides when something is done, never what: what is true of a log comes from the object
//! store's clock, through the pods.

use jiff::Timestamp;

/// The present time, in whole seconds: what Kubernetes keeps of a time.
#[expect(clippy::disallowed_methods, reason = "the operator's clock decides when, never what")]
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// The present time with all its digits, for names that must differ.
#[expect(clippy::disallowed_methods, reason = "a name, not a decision")]
pub(crate) fn now_exactly() -> Timestamp {
    Timestamp::now()
}

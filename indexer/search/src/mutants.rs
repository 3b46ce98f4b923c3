//! Faults that the tests plant in the feed, to see that they find them. In the product each hook returns what is right.

use super::api::{ChangeRecord, ChangesRequest};

/// Means what an empty query does, and plants `CorrectionSkipped` in the pages of a request for it: those are read in other threads.
#[cfg(test)]
pub(crate) const CORRECTION_SKIPPED: &str = "* OR CorrectionSkipped";

/// `CorrectionSkipped`: the feed leaves out a record that corrects an earlier one.
#[cfg(test)]
pub(crate) fn skips(request: &ChangesRequest, change: &ChangeRecord) -> bool {
    request.query.as_str() == CORRECTION_SKIPPED && change.replaces.is_some()
}

#[cfg(not(test))]
pub(crate) fn skips(_: &ChangesRequest, _: &ChangeRecord) -> bool {
    false
}

//! WALs and sinks whose children the API server fails to write, though it answers.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::cache::NamespacedName;

/// After this many reconciliations in a row a failure is reported as a problem of their owner: what fails once may be a restart.
const MAX_FAILURES: u32 = 3;

/// Counts the failures in a row of each object of a kind.
#[derive(Debug, Default)]
pub(crate) struct FailedWrites {
    counts: Mutex<HashMap<NamespacedName, u32>>,
}

impl FailedWrites {
    /// Takes note of whether the API server failed to write a child, and answers whether that has to be reported.
    pub(crate) fn note(&self, key: &NamespacedName, failed: bool) -> bool {
        let mut counts = self.counts.lock();
        if !failed {
            counts.remove(key);
            return false;
        }
        let count = counts.entry(key.clone()).or_default();
        *count = count.saturating_add(1);
        *count >= MAX_FAILURES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_failures_in_a_row_are_reported_and_a_success_ends_the_row() {
        let (failed, key) = (FailedWrites::default(), NamespacedName::new("data", "orders"));
        let notes = [true, true, false, true, true, true, true, false, true].map(|write| failed.note(&key, write));
        assert_eq!(notes, [false, false, false, false, false, true, true, false, false]);
    }
}

//! How many terms of dictionaries a query may look at, and until when: what reads words by pattern or order asks here.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tantivy::TantivyError;

use super::{error::SearchError, limits::QueryDeadline};

/// The most terms that a query may look at by pattern in all segments: 3 to 9 s of one core, see BENCHMARKS.md.
pub(crate) const MAX_SCANNED_TERMS: u64 = 10_000_000;
/// Documents that are collected between two checks of the deadline.
pub(crate) const DOCS_PER_DEADLINE_CHECK: u32 = 1 << 16;

/// What all parts of one query may look at together, in all segments.
#[derive(Debug)]
pub(crate) struct ScanBudget {
    deadline: QueryDeadline,
    scanned: AtomicU64,
    /// How many more checks find that the deadline has not passed.
    #[cfg(test)]
    checks: AtomicU64,
}

impl ScanBudget {
    /// A budget that ends at `deadline`.
    pub(crate) fn new(deadline: QueryDeadline) -> Arc<Self> {
        Arc::new(Self {
            deadline,
            scanned: AtomicU64::new(0),
            #[cfg(test)]
            checks: AtomicU64::new(u64::MAX),
        })
    }

    /// A budget whose deadline passes before the check after so many.
    #[cfg(test)]
    pub(crate) fn ending_after(checks: u64) -> Arc<Self> {
        let deadline = QueryDeadline::after(std::time::Duration::from_hours(1));
        Arc::new(Self { deadline, scanned: AtomicU64::new(0), checks: AtomicU64::new(checks) })
    }

    /// An error once the deadline has passed.
    pub(crate) fn check(&self) -> tantivy::Result<()> {
        #[cfg(test)]
        if self.checks.fetch_sub(1, Ordering::Relaxed) == 0 {
            return Err(std::io::Error::other(self.deadline.error()).into());
        }
        self.deadline.check_scan()
    }

    /// Counts terms that `typed` looked at. An error once they are too many, or the deadline has passed.
    pub(crate) fn scan(&self, terms: u64, typed: &str) -> tantivy::Result<()> {
        if self.scanned.fetch_add(terms, Ordering::Relaxed) + terms > MAX_SCANNED_TERMS {
            return Err(TantivyError::InvalidArgument(format!(
                "{typed} and what else the query has to look for read more than {MAX_SCANNED_TERMS} words; the search was not run; type more of it"
            )));
        }
        self.check()
    }

    #[cfg(test)]
    pub(crate) fn scanned(&self) -> &AtomicU64 {
        &self.scanned
    }
}

/// The error of ours that went through Tantivy, if it is one.
pub(crate) fn search_error(error: &TantivyError) -> Option<SearchError> {
    let TantivyError::IoError(error) = error else { return None };
    error.get_ref()?.downcast_ref::<SearchError>().cloned()
}

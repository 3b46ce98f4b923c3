//! What a sidecar adds up.

use tidemark_catalog::{RecordCounts, SetDigest};

/// What a sidecar says of the records that it marks as corrected.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CorrectedTotals {
    pub(crate) counts: RecordCounts,
    pub(crate) digest: SetDigest,
}

//! The index chain's state: everything that one generation of an index consists of. Its bytes are those of a chain's record, which
//! `tidemark-store` reads and writes (`chain/record.rs`).

mod invariants;
mod record_counts;
mod state;
mod succession;
#[cfg(test)]
mod tests;
mod transactions;

pub use record_counts::RecordCounts;
pub use state::{
    CompactionResult, CopyRequest, EndReason, FIRST_SEQ, GenerationEnd, IndexTotals, LeaseHolder, Manifest,
    PublishRequest, SegmentMeta, SidecarMeta,
};

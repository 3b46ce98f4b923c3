//! Snapshots: a pinned manifest, what of it is settled in the archive, and the proof that both can be read.
//!
//! | file | what is there |
//! |---|---|
//! | `maker` | the steps of one snapshot, each of which may be the last one before a crash |
//! | `audit_wait` | waits for the audit, which says what is settled |
//! | `settled_records` | the settled operations of a manifest in token order, in bounded memory |
//! | `log_archive` | what a snapshot needs of an archive |
//! | `archive_comparison` | an archive and an index, operation by operation |
//! | `archive_coverage` | whether one archive holds what another one does |
//! | `object_proof`, `archive_proof` | what is read again before a pin is marked as verified |
//! | `row_content` | all that a row of an archive says, beside what the index says |
//! | `paired_streams` | two streams in the same order, item by item |
//! | `pin_renewal` | keeps the pin of what a process works on |
//! | `descriptor_source` | the bytes of descriptors that are too large for records |
//! | `copier` | a snapshot in a second store |
//! | `error` | what can go wrong |
//! | `model_archive` | a model of an archive, for tests and the simulation |

mod archive_comparison;
mod archive_coverage;
mod archive_proof;
mod audit_wait;
mod copier;
mod descriptor_source;
mod error;
mod log_archive;
mod maker;
pub mod model_archive;
mod object_proof;
mod paired_streams;
mod pin_renewal;
mod progress;
mod row_content;
mod settled_records;

pub(crate) use archive_comparison::{ArchiveComparison, ArchiveDifference, ArchiveWindow};
pub(crate) use archive_coverage::{ArchiveCoverage, CoverageFault};
pub use copier::{SnapshotCopier, SnapshotPlace};
pub use error::SnapshotError;
pub use log_archive::{
    ArchiveFault, ArchiveObjects, ArchiveReport, ArchiveVersion, LogArchive, SettledRecord, SettledStream,
};
pub use maker::{SnapshotMaker, SnapshotReport, SnapshotRequest};
pub(crate) use paired_streams::paired;
pub use progress::{SnapshotProgress, SnapshotStep};
pub(crate) use settled_records::SettledRecords;

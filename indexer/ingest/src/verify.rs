//! Verification of an index: chains, objects, archive, outcomes, and what nothing names. It reads only, beside writers, compactions and collectors.
//!
//! | file | what is checked |
//! |---|---|
//! | `chain_check` | every record of the root, of each generation, of the pins and of the collectors: present, whole, linked |
//! | `object_check` | every object that the latest manifest and the pins name: there, its bytes, what its records are |
//! | `archive_check` | the archive: its objects, what snapshots and the log's floor know of it, its rows beside the index |
//! | `outcome_check` | outcomes that are decided again from the log, of entries that must be there |
//! | `entry_search` | entries of the log that the index lacks |
//! | `sample_draw` | what a sample looks at |
//! | `archived_outcomes` | outcomes below the log's floor, decided again from what the archive has of their entries |
//! | `expectation_comparison` | what the commits that an expectation names say of a recorded outcome: a pure function |
//! | `outcome_comparison` | what a recorded and a new decision say of each other: a pure function |
//! | `garbage_check` | objects of ours that nothing names |
//! | `finding` | what a check reports |
//! | `index_verifier` | the order of the checks |

mod archive_check;
mod archived_outcomes;
mod chain_check;
mod entry_search;
mod expectation_comparison;
mod finding;
mod garbage_check;
mod index_verifier;
mod object_check;
mod outcome_check;
mod outcome_comparison;
mod sample_draw;

pub use archive_check::ArchiveFigures;
pub use finding::{FindingSeverity, VerifyCheck, VerifyFinding, VerifyObserver, message_parts};
pub use index_verifier::{ArchiveOpener, IndexVerifier, VerifyError, VerifyOptions, VerifySummary};
pub use outcome_check::{OutcomeFigures, OutcomeSelection};

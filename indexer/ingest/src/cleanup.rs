//! Clean-ups: entries are deleted from the log that the archive has, byte for byte.
//!
//! | file | what is there |
//! |---|---|
//! | `executor` | the steps of one clean-up, each of which may be the last one before a crash |
//! | `planner` | what may go now, without a change anywhere |
//! | `retention_rules` | what users and indexes want to keep, and how far each rule lets entries go: a pure function |
//! | `log_survey` | what the log has |
//! | `entry_deleter` | the deletion, entry by entry |
//! | `left_guards` | the guards that an earlier clean-up left |
//! | `archived_entries` | the archive's rows of one entry after the other |
//! | `entry_proof` | whether an entry may go: a pure function |
//! | `hold_reason` | why one stays |
//! | `report` | what was found and done |
//! | `error` | what can go wrong |
//! | `floor_mover` | puts the log's floor on the archive of another index, once that holds what the present one does |
//! | `floor_error` | why the floor stays |

mod archived_entries;
mod entry_deleter;
mod entry_proof;
mod error;
mod executor;
mod floor_error;
mod floor_mover;
mod hold_reason;
mod left_guards;
mod log_survey;
mod planner;
mod report;
mod retention_rules;

pub use error::CleanupError;
pub use executor::{CleanupExecutor, CleanupRequest};
pub use floor_error::FloorMoveError;
pub use floor_mover::{FloorMoveReport, FloorMoveRequest, FloorMover};
pub use hold_reason::HoldReason;
pub use report::{CleanupReport, DeletionReport, HeldEntry};
pub use retention_rules::{CleanupRules, RuleVerdict};

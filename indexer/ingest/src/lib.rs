//! From a log to an index: reads the sealed entries of a log, resolves them, and publishes them as segments and manifests.
//!
//! One process is the writer; others stand by. The writer runs passes. A pass begins with one LIST from the cursor; if no
//! sealed entry waits, it ends there. Otherwise it probes the store's clock, then reads the log's parameters, computes the
//! horizon, and *then* lists the sealed seconds from the cursor up to it: the horizon rests on a probe that was made before
//! the listing. A backfill is the same with more to read.
//!
//! # Stages
//!
//! Each stage is a struct in a file of its own, and is handed what it needs. `README.md` says what each one promises.
//!
//! | file | stage |
//! |---|---|
//! | `ingest` | waits for the writer's lease, runs the pipeline, releases the lease |
//! | `pipeline` | the loop: probe, list, drain, maintenance, sleep |
//! | `entry_stream` | `EntryReader`: lists the log and fetches entries concurrently, delivered in token order |
//! | `key_neighbors` | which committed operations with one idempotency key decide whether another one is a duplicate |
//! | `record_resolver` | `RecordResolver`: duplicates, the latest commit of each entity and what is expected of it, against the index and the batch so far |
//! | `batch`, `segment_upload` | `RecordBatch`, `SegmentUploader`: records into segments, uploaded while the next one is filled |
//! | `publisher` | `IndexPublisher`: the sidecar, then one manifest that names everything and moves the cursor |
//! | `audit`, `audit_schedule` | `LogAuditor`: lists sealed seconds again, and publishes what became visible late |
//! | `compaction`, `compaction_policy` | `IndexCompactor`: compacts neighbours beside the tail |
//!
//! The pipeline, the audit and the compaction publish through the one `IndexPublisher`, which is passed to them; so there is one
//! sequence of publications, and no stage knows another one's state. Stages return errors, or send events about calls that
//! they retry (`retry`); only the `IngestStatusTracker` (`status`) writes the status.
//!
//! # Tasks
//!
//! The loop is one future. Beside it run: a task for each fetch and one that orders them, a task that packs and uploads the
//! segment before the one that is being filled, a task for a compaction, and the writer's heartbeat. Each belongs to a
//! handle that aborts it when the loop is dropped. An [`engine::IndexEngine`] moves work that keeps a core busy off these
//! threads by itself.
//!
//! # Order of writes
//!
//! Segments, then the sidecar with the marks that the batch causes, then the manifest. The sidecar comes first because the
//! manifest makes records visible: without their marks, a query would show two latest commits of one entity, or an operation
//! beside its correction. A batch ends between two seconds, so that the cursor, which counts seconds, is exact.
//!
//! No state is only in memory: a process that restarts continues from the published cursor. A crash leaves objects that no
//! manifest names. After an unknown outcome nothing is cleaned up; the process ends, and its successor reads what happened.

mod archived_operations;
mod audit;
mod audit_schedule;
mod batch;
mod cause;
pub mod cleanup;
mod cold_start;
mod compaction;
mod compaction_policy;
mod conflict_rule;
mod corrected_totals;
mod damage_facts;
mod drain_obstacle;
pub mod engine;
pub mod engine_decorator;
mod entity_name;
mod entry_stream;
mod error;
mod expectation;
mod garbage_passes;
mod generation_copy;
mod generation_task;
mod horizon;
mod ingest;
mod keep_report;
mod key_neighbors;
pub mod model_engine;
mod mutants;
mod options;
mod pipeline;
mod promote;
mod promotion_plan;
mod publisher;
mod record;
mod record_bytes;
mod record_resolver;
mod recorded_archives;
mod recorded_operations;
mod reindex;
mod restore;
mod restore_drill;
mod restore_origin;
mod restore_source;
mod retry;
mod root_floor;
mod segment_upload;
mod settled_operations;
mod settled_reach;
pub mod snapshot;
mod span_operations;
mod standing_copy;
mod status;
mod task;
mod verify;
mod whole_seconds;

pub use cause::{FailureCause, ToCause};
pub use cold_start::ColdStart;
pub use conflict_rule::{ExpectationVerdict, judge_expectation};
pub use engine::EngineOpener;
pub use entity_name::operation_entity;
pub use error::IngestError;
pub use expectation::{ConflictingCommit, RecordedExpectation};
pub use generation_task::{CopyProgress, DecideAgainReport, GenerationTask, SwitchReport, UnauditedReport};
pub use ingest::LogIngester;
pub use key_neighbors::KeyNeighbors;
#[cfg(feature = "mutants")]
pub use mutants::MUTANT_HOOKS;
pub use options::IngestOptions;
pub use promote::{LostOutcomePolicy, promote, promote_from};
pub use record::{KeyedOperation, LatestCommit, OperationPlace, OperationRecord, WriterKey, whole_payload};
pub use record_bytes::{EntryBody, ObjectBytes};
pub use reindex::reindex;
pub use restore::{RestoreRequest, restore, restore_from};
pub use restore_drill::{DrillError, DrillReport, RestoreDrill};
pub use restore_origin::RestoreOrigin;
pub use restore_source::RestoreTarget;
pub use root_floor::RootFloor;
pub use status::{IndexSize, IngestProblem, IngestProgress, IngestRole, IngestStatus};
pub use verify::{
    ArchiveFigures, ArchiveOpener, FindingSeverity, IndexVerifier, OutcomeFigures, OutcomeSelection, VerifyCheck,
    VerifyError, VerifyFinding, VerifyObserver, VerifyOptions, VerifySummary, message_parts,
};

//! From a log to an index: tail, resolve, index, publish.
//!
//! One process is the writer; others stand by. The writer turns around in rounds. A round starts with one LIST from the
//! cursor; if nothing below the horizon waits there, that was all. Otherwise it reads the store's clock and then the
//! log's parameters, computes the horizon, and *then* lists the sealed seconds from the cursor up to it: the horizon rests
//! on a probe made before the listing. Backfill is the same with more to read.
//!
//! - `tail`: the listing and the fetches, many at a time, handed on in token order. What fails is tried again until it
//!   works; nothing is skipped.
//! - `resolve`: duplicates, and which operation is its entity's newest. Both depend on what came before, so the index
//!   and the batch so far are asked, in token order.
//! - `index`: records into segments, of which a batch has as many as its size needs; uploaded while the next one fills.
//! - `publish`: the sidecar with the marks that the batch causes, then one manifest that names everything and moves the
//!   cursor. A batch ends between two seconds, so that the cursor is exact however many entries a second has.
//! - `audit`: looks again at sealed seconds, and publishes late arrivals as corrections.
//! - `compact`: merges beside the tail; only the writer adopts the result, between two batches.
//!
//! Nothing is held only in memory: a process that starts again continues from the published cursor. What a crash leaves
//! behind are objects that no manifest names. After an unknown outcome nothing is cleaned up; the process ends and its
//! successor reads what came of it.

mod audit;
mod batch;
mod cause;
mod compact;
pub mod engine;
mod error;
mod index;
mod indexer;
mod ingest;
pub mod model_engine;
mod publish;
mod record;
mod rejudge;
mod resolve;
mod status;
mod tail;
mod tiers;

pub use cause::{FailureCause, ToCause};
pub use error::IngestError;
pub use ingest::{Ingest, IngestOptions};
pub use record::{OperationRecord, whole_payload};
pub use status::{IndexTotals, IngestProblem, IngestProgress, IngestRole, IngestStatus};

//! What a process runs: the indexer, the search service, or everything on a local folder.
//!
//! Each service opens its stores, starts its tasks and supervises them: a task that ends on its own ends the process,
//! and a stop signal ends them in order.

#[cfg(all(test, feature = "archive"))]
mod archive_drill_tests;
mod bootstrap;
#[cfg(feature = "archive")]
mod cleanup;
mod cold_start;
mod consumer;
mod dev;
mod error;
mod index;
#[cfg(feature = "archive")]
mod index_of_log;
#[cfg(feature = "archive")]
mod log_size;
#[cfg(feature = "archive")]
mod origin;
mod parameter_difference;
mod purge_request;
mod serve;
mod sink_verification;
#[cfg(feature = "archive")]
mod snapshot;
#[cfg(feature = "archive")]
mod snapshot_archive;
mod startup_retry;
mod stores;
mod supervise;

pub(crate) use bootstrap::verify_log_contract;
pub use bootstrap::{ParameterChoice, cache_options};
#[cfg(feature = "archive")]
pub(crate) use cleanup::{cleanup_executor, floor_mover};
pub use cold_start::ColdStartOptions;
pub use consumer::{ConsumerContext, ConsumerOptions, ConsumerService, ConsumerServiceError};
pub use dev::{DevOptions, DevService};
pub use error::ServiceError;
pub use index::{IndexOptions, IndexService};
#[cfg(feature = "archive")]
pub(crate) use index_of_log::{IndexLookupError, IndexOfLog};
#[cfg(feature = "archive")]
pub(crate) use log_size::LogSize;
#[cfg(feature = "archive")]
pub(crate) use origin::open_origin;
pub use serve::{ServeOptions, ServeService};
pub use sink_verification::{SinkVerification, SinkVerificationError, VerifiedSink};
#[cfg(feature = "archive")]
pub(crate) use snapshot::{SnapshotService, log_archive, recovery_window};
pub use startup_retry::StartupMode;
pub use stores::{AccessMode, OpenStores, PodStores, StoreRequestCounts, StoresSettings};

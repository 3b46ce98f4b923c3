//! The operator: reconciles WALs and their tasks, and reports their state.
//!
//! [`run`] is the whole process but for its log lines. What it writes to the cluster is built by pure functions, which are
//! public, so that tests and tools can check it without a cluster.

mod api_client;
pub mod args;
mod backoff;
mod cache;
mod child_metadata;
mod clock;
mod compare;
mod condition_tally;
mod condition_value;
mod context;
mod controllers;
mod crd_check;
mod desired_object;
mod event_publisher;
#[cfg(test)]
mod fake_api_server;
mod finalizer;
mod leader_election;
mod metrics;
mod namespace;
mod object_applier;
mod object_owner;
mod observed_pod;
mod own_writes;
mod pod;
mod pod_report_client;
mod pod_report_poller;
mod problem_events;
mod reconcile_queues;
mod relisting_watcher;
mod run;
mod server;
mod status_cache;
mod status_writer;
pub mod telemetry;
mod upgrade_slots;
mod wal_figures;
mod writing_turns;

pub use controllers::wal::{
    build::{PlatformSettings, WalChildren, build, release_revision},
    validate::{
        SpecRefusal, StorePlace, ValidatedBootstrap, ValidatedCache, ValidatedCleanup, ValidatedCredentials,
        ValidatedIndexer, ValidatedJobs, ValidatedLog, ValidatedRole, ValidatedSearch, ValidatedStore, ValidatedWal,
        WalStores, validate,
    },
};
pub use run::run;

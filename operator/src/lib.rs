//! The operator: reconciles WAL resources, and tells the truth about them.
//!
//! [`run`] is the whole process but for its log lines. What it writes to the cluster is built by pure functions, which are
//! public, so that tests and tools can look at it without a cluster.

mod api;
mod apply;
pub mod args;
mod backoff;
mod cache;
mod clock;
mod compare;
mod context;
mod controllers;
mod crd_check;
mod events;
mod leader;
mod metrics;
mod process;
mod run;
mod server;
pub mod telemetry;

pub use controllers::wal::{
    build::{Children, Platform, build, release_revision},
    validate::{
        Access, Place, Refusal, Store, Stores, ValidatedIndexer, ValidatedLog, ValidatedRole, ValidatedSearch,
        ValidatedWal, validate,
    },
};
pub use run::run;

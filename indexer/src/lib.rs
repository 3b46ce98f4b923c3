//! The Tidemark indexer: tails a write-ahead log in object storage into a Tantivy index and serves search over it.
//!
//! `ARCHITECTURE.md` at the top of the repository says where things are.

pub mod cli;
pub mod delivery;
#[cfg(feature = "demo")]
mod demo;
mod draft_input;
#[cfg(feature = "demo")]
pub mod git;
pub mod http;
pub mod metrics;
mod open_files;
pub mod pod_status;
mod private_socket;
pub mod service;
pub mod telemetry;

//! The Tidemark indexer: tails a write-ahead log in object storage into a Tantivy index and serves search over it.
//!
//! `ARCHITECTURE.md` at the top of the repository says where things are.

pub mod cli;
mod demo;
pub mod engine;
pub mod git;
pub mod http;
mod index;
pub mod ingest;
pub mod model;
pub mod process;
mod record;
pub mod search;
pub mod service;
pub mod telemetry;

pub use index::{EngineOptions, TantivyEngine};
pub use record::Record;

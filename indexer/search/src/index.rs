//! The Tantivy engine: documents, segments packed one object each, and the bounded disk cache that readers open them from.

mod builder;
mod cache;
mod directory;
mod document;
mod engine;
mod filter;
mod lookup;
mod pack;
mod remote;
mod schema;
mod scratch;
mod segment;
mod sidecar;
mod snapshot;

pub(crate) use document::{order_of, second_of, term_text, to_unstored};
pub use engine::{EngineOptions, TantivyEngine};
pub(crate) use schema::{Fields, tokenizers};
pub(crate) use segment::docs_with;
pub(crate) use snapshot::{Served, Snapshot};

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

//! The Tantivy engine: documents, segments packed one object each, and the bounded disk cache that readers open them from.

mod builder;
mod cache;
mod directory;
mod document;
mod engine;
mod filter;
mod lookup;
mod pack;
mod schema;
mod scratch;
mod segment;
mod sidecar;
mod snapshot;

pub use engine::{EngineOptions, TantivyEngine};

//! Tantivy segments: documents, one object a segment in the store, and the bounded disk cache that readers open them from.
//!
//! | file | what it holds |
//! |---|---|
//! | `schema` `document` | the fields, and a record as a document |
//! | `bundle` `footer` `directory` | one object a segment: its format, and that object as Tantivy's directory |
//! | `filter` | which entities and idempotency keys a segment might contain |
//! | `marks_sidecar` | the stored form of marks |
//! | `builder` `merge` `temp_dir` `record_stats` | how a segment is written, made from several, and read again before it is uploaded |
//! | `disk_budget` `cached_segment` `disk_cache` `ranged_file` | the bytes of the cache folder; segments on the local disk, or read by ranges |
//! | `reader` `manifest_view` `lookup` | one open segment, one open manifest, and what the ingest asks of it |
//! | `engine` | the `Engine` of the ingest on all of this |

mod builder;
mod bundle;
mod cached_segment;
mod directory;
mod disk_budget;
mod disk_cache;
mod document;
mod engine;
mod engine_error;
mod filter;
mod footer;
mod lookup;
mod manifest_view;
mod marks_sidecar;
mod merge;
mod ranged_file;
mod reader;
mod record_stats;
mod schema;
mod temp_dir;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub(crate) use document::{second_of_sort_key, term_text, to_unstored, token_sort_key};
pub use engine::{EngineOptions, TantivyEngine};
pub(crate) use engine_error::refused;
pub(crate) use manifest_view::{ManifestView, SegmentReaderView};
pub(crate) use reader::docs_with;
pub(crate) use schema::{SchemaFields, tokenizers};

//! Tantivy segments: documents, one object a segment in the store, and the bounded disk cache that readers open them from.
//!
//! | file | what it holds |
//! |---|---|
//! | `schema` `document` `attributes` | the fields, a record as a document, and what of its payload is indexed |
//! | `tokenizers` `token_columns` | text as words, and tokens as columns |
//! | `bundle` `footer` `directory` | one object a segment: its format, and that object as Tantivy's directory |
//! | `term_filter` | which entities and idempotency keys a segment might contain |
//! | `marks_sidecar` | the stored form of marks |
//! | `builder` `compaction` `temp_dir` `record_stats` | how a segment is written, made from several, and read again before it is uploaded |
//! | `disk_budget` `cached_segment` `disk_cache` `ranged_file` | the bytes of the cache folder; segments on the local disk, or read by ranges |
//! | `damaged_objects` | which objects are damaged in the store, and when they are fetched again |
//! | `reader` `manifest_view` `lookup` | one open segment, one open manifest, and what the ingest asks of it |
//! | `key_commit_cache` | what committed with idempotency keys, read once a key |
//! | `engine` | the `IndexEngine` of the ingest on all of this |

mod attributes;
mod builder;
mod bundle;
mod cached_segment;
mod compaction;
mod damaged_objects;
mod directory;
mod disk_budget;
mod disk_cache;
mod document;
mod engine;
mod engine_error;
mod footer;
mod key_commit_cache;
mod lookup;
mod manifest_view;
mod marks_sidecar;
mod ranged_file;
mod reader;
mod record_stats;
mod schema;
mod temp_dir;
mod term_filter;
mod token_columns;
mod tokenizers;

#[cfg(test)]
mod foreign_query_tests;
#[cfg(test)]
pub(crate) mod metered_store;
#[cfg(test)]
mod query_tests;
#[cfg(test)]
mod schema_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub(crate) use attributes::entry_text;
pub(crate) use document::{LAST_DATE_SECOND, parents_of, term_text, to_unstored};
pub use engine::{EngineOptions, TantivyEngine};
pub(crate) use engine_error::refused;
pub(crate) use key_commit_cache::KeyCommitCache;
pub(crate) use manifest_view::{ManifestView, SegmentReaderView};
pub(crate) use reader::{OpenSegment, docs_with};
pub(crate) use schema::{DESCRIPTOR_COLUMNS, FIELD_NAMES, PAYLOAD_COLUMNS, SchemaFields};
pub(crate) use term_filter::FilterKind;
pub(crate) use token_columns::{TokenColumns, second_of_sort_key, token_sort_key};
pub(crate) use tokenizers::{
    ENGLISH, MAX_WORD_BYTES, WORDS, has_long_word, is_paired, is_word_char, is_word_mark, query_tokenizers, tokenizers,
};

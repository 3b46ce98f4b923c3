//! Search over a published index and the unsealed tail of its log, and the Tantivy segments that the index consists of.
//!
//! - [`TantivyEngine`] implements the ingest's `IndexEngine`: it builds, compacts and opens segments, and keeps whole segments in a
//!   bounded cache on the local disk.
//! - [`IndexFollower`] polls one index and its log, and makes a *view* of each newer state: one manifest with the entries
//!   beyond its cursor.
//! - [`IndexSearcher`] implements [`SearchService`]: it admits a query, compiles it and runs it on one view.
//! - [`api`] has requests, their bounds, and answers; [`QUERY_FORMS`] has the forms of the query language.
//!
//! The README of this crate specifies the segment format and describes how a query runs.

pub mod api;
mod attribute_path;
mod boolean_queries;
mod change_feed;
mod compared_values;
mod error;
mod exact_range;
mod exact_values;
mod excludable_phrase;
mod export;
mod facets;
mod feed_checkpoints;
mod feed_position;
mod feed_start;
mod field_names;
mod follower;
mod foreign_syntax;
mod highlight;
mod histogram;
mod history;
mod hits;
mod key_history;
mod limits;
mod lineage;
mod manifest_cache;
mod match_collector;
mod mutants;
mod number_range;
mod overlay;
mod page_cursor;
mod phrase_scorer;
mod query_compiler;
mod query_forms;
mod query_notes;
mod query_parser;
mod query_runner;
mod query_time;
mod query_tree;
mod scan_budget;
mod search_context;
mod search_view;
mod searchable_segment;
mod searcher;
mod segment;
mod service;
mod sort_key;
mod status;
mod term_cache;
mod term_lookup;
mod term_scan;
#[cfg(test)]
mod tests;
mod text_times;
mod token_order;
mod top_k;
mod weighted_query;
mod wildcard_pattern;
mod wildcard_query;
mod word_field;
mod word_query;
mod words_exist;

pub use error::SearchError;
pub use export::SearchExport;
pub use follower::{FollowerOptions, IndexFollower};
pub use limits::QueryLimits;
pub use query_compiler::check_query;
pub use query_forms::{QUERY_FORMS, QueryForm, query_examples_text, query_forms_list};
pub use searcher::IndexSearcher;
pub use segment::{EngineOptions, TantivyEngine};
pub use service::SearchService;

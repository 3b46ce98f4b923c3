//! Search over the published index and the unsealed tail of the log, and the Tantivy segments that it stands on.

mod answer;
pub mod api;
mod error;
mod execute;
mod facets;
mod hits;
mod index;
mod kept;
mod late;
mod overlay;
mod page;
mod parts;
mod query;
mod search;
mod searcher;
mod status;
mod tail;
#[cfg(test)]
mod tests;
mod view;

pub use error::SearchError;
pub use index::{EngineOptions, TantivyEngine};
pub use late::LateSearch;
pub use search::SearchService;
pub use searcher::{IndexSearcher, SearcherOptions};

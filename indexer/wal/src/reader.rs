//! Reading a log: entries in token order, each with its descriptors and its outcome.

mod descriptor_lookup;
mod file_lists;
mod label_index;
mod label_versions;
mod labels;
mod listing;
mod log_reader;
mod memory_budget;
mod refusals;
mod resolved_entry;
#[cfg(test)]
mod tests;
mod version_cache;

pub(crate) use descriptor_lookup::{OP_FIELD, TOKEN_FIELD, digest_of};
pub use file_lists::FileNames;
pub use listing::ListedEntry;
pub use log_reader::LogReader;
pub use memory_budget::{MemoryBudget, MemoryShare};
pub use resolved_entry::{ResolvedEntry, ResolvedOperation};

//! Reading a log: entries in token order, each with its descriptors and its outcome.

mod descriptor_lookup;
mod descriptor_object;
mod entry_resolver;
mod file_lists;
mod file_names;
mod guard_reader;
mod label_index;
mod label_resolver;
mod label_versions;
mod labels;
mod listing;
mod log_floor;
mod log_reader;
mod memory_budget;
mod object_reader;
mod refusals;
mod resolved_entry;
mod shared_horizon;
#[cfg(test)]
mod tests;
mod version_assignment;
mod version_cache;

pub(crate) use descriptor_object::{OP_FIELD, TOKEN_FIELD, digest_of};
pub use file_names::FileNames;
pub use listing::ListedEntry;
pub use log_floor::LogFloorSource;
pub use log_reader::LogReader;
pub use memory_budget::{MemoryBudget, MemoryShare};
pub use resolved_entry::{ResolvedEntry, ResolvedOperation};

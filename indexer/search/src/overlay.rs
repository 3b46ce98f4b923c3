//! What is searched beyond the manifest: entries that are not in the index yet, read from the log and held in memory.
//! `overlay_index` holds and searches them, `log_tail` feeds it.

pub(crate) mod log_tail;
pub(crate) mod overlay_index;

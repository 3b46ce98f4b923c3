//! What is searched beyond the manifest: entries that are not in the index yet, read from the log and held in memory.
//! `tail_index` holds and searches them, `tail_reader` feeds it.

pub(crate) mod tail_index;
pub(crate) mod tail_reader;

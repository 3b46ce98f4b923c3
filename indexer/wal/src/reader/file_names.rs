//! The names of the files of a bundle.

use serde::{Deserialize, Serialize};

use crate::footprint::text_bytes;

/// The most names that are kept of one bundle.
const MAX_FILE_NAMES: usize = 10_000;
/// The most bytes of names that are kept of one entry: of one bundle or, in a group, of all.
pub(super) const MAX_FILE_NAME_BYTES: usize = 256 * 1024;

/// The files of a bundle, as far as their names are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileNames {
    /// Paths within the bundle, in the order of its lists.
    pub names: Vec<String>,
    /// Why there may be more files than these, if there may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incomplete: Option<String>,
}

impl FileNames {
    /// What they take in memory, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        let names = self.names.capacity() * size_of::<String>();
        names as u64 + self.names.iter().chain(&self.incomplete).map(text_bytes).sum::<u64>()
    }

    /// Adds names while there is room for them; an error says what there is no room for.
    pub(super) fn extend(&mut self, names: Vec<String>, room: &mut usize) -> Result<(), String> {
        // No more than is charged for them.
        self.names.reserve_exact(names.len().min(MAX_FILE_NAMES - self.names.len()));
        for name in names {
            if self.names.len() == MAX_FILE_NAMES {
                return Err(format!("only the first {MAX_FILE_NAMES} names are kept"));
            }
            *room = room.checked_sub(name.len()).ok_or_else(no_room)?;
            self.names.push(name);
        }
        Ok(())
    }
}

pub(super) fn no_room() -> String {
    format!("only {MAX_FILE_NAME_BYTES} bytes of names are kept of an entry")
}

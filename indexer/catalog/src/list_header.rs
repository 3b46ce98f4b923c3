//! The first line of a list, a pin's or a collector's: it says which programs may read the rest.

use serde::{Deserialize, Serialize};

use crate::error::CatalogError;

/// Fields that a later version adds mean nothing to this one.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListHeader<'a> {
    /// Version of the list's format.
    format: u32,
    /// The least version that may read it.
    reads: u32,
    /// Makes the bytes unique, so that the process that creates the object recognizes it.
    nonce: &'a str,
}

/// What of the header every release must be able to read.
#[derive(Deserialize)]
struct ListVersion {
    reads: u32,
}

/// Why a list cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum UnreadableList {
    /// A newer release wrote it.
    Newer {
        /// The least version that reads it.
        reads: u32,
        /// The version of this release.
        known: u32,
    },
    /// It is not what the format says.
    Damaged(String),
}

impl UnreadableList {
    /// As the error of the object `key`.
    pub(crate) fn into_error(self, key: String) -> CatalogError {
        match self {
            Self::Newer { reads, known } => CatalogError::NewerFormat { key, found: reads, known },
            Self::Damaged(why) => CatalogError::Corrupt { key, why },
        }
    }
}

/// The header, with its end of line.
pub(crate) fn header_line(format: u32, reads: u32, nonce: &str) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&ListHeader { format, reads, nonce })?;
    line.push(b'\n');
    Ok(line)
}

/// What follows the header. Refused if this release, whose version of the format is `known`, may not read it.
pub(crate) fn after_header(bytes: &[u8], known: u32) -> Result<&[u8], UnreadableList> {
    let damaged = |why: String| UnreadableList::Damaged(why);
    let end = bytes.iter().position(|b| *b == b'\n').ok_or_else(|| damaged("it has no header".to_owned()))?;
    let (header, rest) = bytes.split_at(end);
    match serde_json::from_slice(header) {
        Ok(ListVersion { reads }) if reads > known => Err(UnreadableList::Newer { reads, known }),
        Ok(_) => Ok(rest.get(1..).unwrap_or_default()),
        Err(error) => Err(damaged(format!("its header is unreadable ({error})"))),
    }
}

//! The end of a segment object: the footer says where each file lies, the trailer says where the footer lies.
//!
//! The trailer has a fixed size, so that opening a segment needs the last bytes of the object and nothing else. Its hash of
//! the footer finds a torn or foreign object before anything in it is believed.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    ops::Range,
};

use serde::{Deserialize, Serialize};
use tantivy::{HasLen as _, directory::FileSlice};
use xxhash_rust::xxh3::xxh3_64;

use super::schema::SchemaFields;

const MAGIC: [u8; 4] = *b"TMK1";
const TRAILER_BYTES: usize = 32;
/// No footer of a segment that we write comes near this size.
const MAX_FOOTER_BYTES: u64 = 1 << 20;

/// Why a segment object cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    #[error("is corrupt: {0}")]
    Corrupt(String),
    #[error("has format {found}, which this version does not read")]
    OtherFormat { found: u32 },
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// The table of contents of a segment object, stored as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BundleFooter {
    /// The segment format, which the trailer holds.
    #[serde(skip)]
    pub(crate) format: u32,
    /// Number of documents.
    pub(crate) documents: u64,
    /// Where each file lies: byte offsets `[from, to)` in the object.
    files: BTreeMap<String, (u64, u64)>,
}

impl BundleFooter {
    /// A footer that names no file yet.
    pub(crate) fn new(format: u32, documents: u64) -> Self {
        Self { format, documents, files: BTreeMap::new() }
    }

    /// Adds a file that lies at these offsets.
    pub(crate) fn insert(&mut self, name: String, offsets: Range<u64>) {
        self.files.insert(name, (offsets.start, offsets.end));
    }

    /// The offsets of the file of that name, `None` if there is none.
    pub(crate) fn find(&self, name: &str) -> Option<Range<u64>> {
        self.files.get(name).map(|(from, to)| *from..*to)
    }

    /// Writes footer and trailer after `written` bytes of files.
    pub(crate) fn write(&self, out: &mut impl Write, written: u64) -> io::Result<()> {
        let footer = serde_json::to_vec(self)?;
        let size = written + footer.len() as u64 + TRAILER_BYTES as u64;
        out.write_all(&footer)?;
        out.write_all(&(footer.len() as u64).to_le_bytes())?;
        out.write_all(&xxh3_64(&footer).to_le_bytes())?;
        out.write_all(&size.to_le_bytes())?;
        out.write_all(&self.format.to_le_bytes())?;
        out.write_all(&MAGIC)
    }

    /// The footer of `object`, of a format that `fields` can read. Any bytes give an error rather than a panic.
    pub(crate) fn read(object: &FileSlice, fields: &SchemaFields) -> Result<Self, BundleError> {
        let trailer = FooterTrailer::read(object)?;
        if !fields.can_read(trailer.format) {
            return Err(BundleError::OtherFormat { found: trailer.format });
        }
        let end = trailer.object_bytes - TRAILER_BYTES as u64;
        let start = end - trailer.footer_bytes;
        let bytes = object.slice(to_range(start..end)?).read_bytes()?;
        if xxh3_64(&bytes) != trailer.footer_hash {
            return Err(BundleError::Corrupt("its footer has another hash".to_owned()));
        }
        let footer: Self =
            serde_json::from_slice(&bytes).map_err(|e| BundleError::Corrupt(format!("its footer: {e}")))?;
        for (name, (from, to)) in &footer.files {
            if from > to || *to > start {
                return Err(BundleError::Corrupt(format!("its file \"{name}\" lies outside of it")));
            }
        }
        Ok(Self { format: trailer.format, ..footer })
    }
}

/// The last 32 bytes of a segment object.
struct FooterTrailer {
    format: u32,
    footer_bytes: u64,
    footer_hash: u64,
    object_bytes: u64,
}

impl FooterTrailer {
    fn read(object: &FileSlice) -> Result<Self, BundleError> {
        let len = object.len();
        if len < TRAILER_BYTES {
            return Err(BundleError::Corrupt(format!("it has only {len} bytes")));
        }
        let bytes = object.slice_from_end(TRAILER_BYTES).read_bytes()?;
        // Little-endian: the most significant byte is the last one.
        let number = |at: usize| bytes[at..at + 8].iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
        if bytes[28..] != MAGIC {
            return Err(BundleError::Corrupt("it does not end as a segment does".to_owned()));
        }
        let format = u32::from_le_bytes([bytes[24], bytes[25], bytes[26], bytes[27]]);
        if format == 0 {
            return Err(BundleError::Corrupt("its format is 0, which no version writes".to_owned()));
        }
        let trailer = Self { format, footer_bytes: number(0), footer_hash: number(8), object_bytes: number(16) };
        let Self { footer_bytes, object_bytes, .. } = trailer;
        let largest = MAX_FOOTER_BYTES.min(object_bytes.saturating_sub(TRAILER_BYTES as u64));
        if object_bytes != len as u64 || footer_bytes > largest {
            return Err(BundleError::Corrupt(format!(
                "its last bytes name {object_bytes} bytes with a footer of {footer_bytes}, it has {len}"
            )));
        }
        Ok(trailer)
    }
}

/// Offsets in an object as offsets in memory.
pub(crate) fn to_range(range: Range<u64>) -> Result<Range<usize>, BundleError> {
    let at =
        |n: u64| usize::try_from(n).map_err(|_| BundleError::Corrupt("it is too large for this machine".to_owned()));
    Ok(at(range.start)?..at(range.end)?)
}

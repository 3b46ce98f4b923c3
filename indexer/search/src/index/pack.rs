//! One object a segment: the files of a Tantivy segment one after the other, a filter, a table of contents and a tail.
//!
//! ```text
//! file 0 | file 1 | ... | filter | table (JSON) | tail (32 bytes)
//! tail = length of the table (u64) | XXH3 of the table (u64) | length of the object (u64) | format (u32) | "TMK1"
//! ```
//! All numbers are little-endian. The tail has a fixed size, so that opening a segment needs the last bytes of the object
//! and nothing else. The object's SHA-256 is in the manifest; the hash in the tail finds a torn or foreign file before
//! anything in it is believed.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    ops::Range,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tantivy::directory::FileSlice;
use xxhash_rust::xxh3::xxh3_64;

/// The version of the segment format that this build writes, and the newest that it reads.
pub(crate) const FORMAT: u32 = 1;
const MAGIC: [u8; 4] = *b"TMK1";
const TAIL: usize = 32;
/// No table of a segment that we write comes near this size.
const LARGEST_TABLE: u64 = 1 << 20;
/// The name of the filter in the table.
const FILTER: &str = "filter";

/// Why a packed segment cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackError {
    #[error("is corrupt: {0}")]
    Corrupt(String),
    #[error("has format {found}, newer than the {FORMAT} that this version reads; upgrade tidemark")]
    NewerFormat { found: u32 },
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// The table of contents of a packed segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Table {
    /// Number of documents.
    pub(crate) documents: u64,
    /// Where each file lies: byte offsets `[from, to)` in the object.
    files: BTreeMap<String, (u64, u64)>,
}

/// What is known of a packed object once it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// Bytes in all.
    pub(crate) size: u64,
    /// SHA-256 of the object, 64 hexadecimal digits.
    pub(crate) checksum: String,
}

/// Writes a packed segment to `out`: each file by its name, then the filter.
pub(crate) fn write<R: Read>(
    out: impl Write,
    documents: u64,
    files: impl IntoIterator<Item = io::Result<(String, R)>>,
    filter: &[u8],
) -> io::Result<Written> {
    let mut out = Hashing::new(out);
    let mut table = Table { documents, files: BTreeMap::new() };
    for file in files {
        let (name, mut file) = file?;
        let from = out.written;
        copy(&mut file, &mut out)?;
        table.files.insert(name, (from, out.written));
    }
    let from = out.written;
    out.write_all(filter)?;
    table.files.insert(FILTER.to_owned(), (from, out.written));
    write_end(out, &table)
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 18];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            n => to.write_all(&buffer[..n])?,
        }
    }
}

fn write_end<W: Write>(mut out: Hashing<W>, table: &Table) -> io::Result<Written> {
    let table = serde_json::to_vec(table)?;
    out.write_all(&table)?;
    let size = out.written + TAIL as u64;
    out.write_all(&(table.len() as u64).to_le_bytes())?;
    out.write_all(&xxh3_64(&table).to_le_bytes())?;
    out.write_all(&size.to_le_bytes())?;
    out.write_all(&FORMAT.to_le_bytes())?;
    out.write_all(&MAGIC)?;
    out.finish()
}

/// A packed segment, opened for reading.
#[derive(Clone, Debug)]
pub(crate) struct Pack {
    object: FileSlice,
    table: Table,
}

impl Pack {
    /// Reads the table of contents of `object`. Any bytes give an error rather than a panic.
    pub(crate) fn open(object: FileSlice) -> Result<Self, PackError> {
        let tail = Tail::read(&object)?;
        let end = tail.size - TAIL as u64;
        let bytes = object.slice(to_range(end - tail.table..end)?).read_bytes()?;
        if xxh3_64(&bytes) != tail.hash {
            return Err(PackError::Corrupt("its table of contents has another hash".to_owned()));
        }
        let table: Table =
            serde_json::from_slice(&bytes).map_err(|e| PackError::Corrupt(format!("its table of contents: {e}")))?;
        for (name, (from, to)) in &table.files {
            if from > to || *to > end - tail.table {
                return Err(PackError::Corrupt(format!("its file \"{name}\" lies outside of it")));
            }
        }
        Ok(Self { object, table })
    }

    /// Number of documents.
    pub(crate) fn documents(&self) -> u64 {
        self.table.documents
    }

    /// The file of that name, `None` if there is none.
    pub(crate) fn file(&self, name: &str) -> Option<FileSlice> {
        let (from, to) = *self.table.files.get(name)?;
        Some(self.object.slice(to_range(from..to).ok()?))
    }

    /// The bytes of the filter, empty if the segment has none.
    pub(crate) fn filter(&self) -> FileSlice {
        self.file(FILTER).unwrap_or_else(FileSlice::empty)
    }
}

struct Tail {
    table: u64,
    hash: u64,
    size: u64,
}

impl Tail {
    fn read(object: &FileSlice) -> Result<Self, PackError> {
        use tantivy::HasLen as _;
        let len = object.len();
        if len < TAIL {
            return Err(PackError::Corrupt(format!("it has only {len} bytes")));
        }
        let bytes = object.slice_from_end(TAIL).read_bytes()?;
        let number = |at: usize| bytes[at..at + 8].iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
        if bytes[28..] != MAGIC {
            return Err(PackError::Corrupt("it does not end as a segment does".to_owned()));
        }
        let found = u32::from_le_bytes([bytes[24], bytes[25], bytes[26], bytes[27]]);
        if found > FORMAT {
            return Err(PackError::NewerFormat { found });
        }
        let tail = Self { table: number(0), hash: number(8), size: number(16) };
        if tail.size != len as u64 || tail.table > LARGEST_TABLE || tail.table > tail.size - TAIL as u64 {
            return Err(PackError::Corrupt(format!(
                "its last bytes speak of {} bytes with a table of {}, it has {len}",
                tail.size, tail.table
            )));
        }
        Ok(tail)
    }
}

fn to_range(range: Range<u64>) -> Result<Range<usize>, PackError> {
    let at = |n: u64| usize::try_from(n).map_err(|_| PackError::Corrupt("it is too large for this machine".to_owned()));
    Ok(at(range.start)?..at(range.end)?)
}

/// Counts and hashes what passes.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    written: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), written: 0 }
    }

    fn finish(mut self) -> io::Result<Written> {
        self.inner.flush()?;
        Ok(Written { size: self.written, checksum: hex::encode(self.hash.finalize()) })
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn pack(files: &[(&str, Vec<u8>)], filter: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let slices = files.iter().map(|(name, body)| Ok(((*name).to_owned(), body.as_slice())));
        let written = write(&mut out, 3, slices, filter).unwrap();
        assert_eq!(written.size, out.len() as u64);
        assert_eq!(written.checksum, hex::encode(Sha256::digest(&out)));
        out
    }

    #[test]
    fn a_newer_format_is_refused_by_number() {
        let mut bytes = pack(&[("a", vec![1])], b"");
        let at = bytes.len() - 8;
        bytes[at..at + 4].copy_from_slice(&(FORMAT + 1).to_le_bytes());
        assert!(matches!(Pack::open(bytes.into()), Err(PackError::NewerFormat { found }) if found == FORMAT + 1));
    }

    proptest! {
        #[test]
        fn files_come_out_as_they_went_in(a in vec(any::<u8>(), 0..200), b in vec(any::<u8>(), 0..200), filter in vec(any::<u8>(), 0..50)) {
            let packed = Pack::open(pack(&[("a", a.clone()), ("b.x", b.clone())], &filter).into()).unwrap();
            prop_assert_eq!(packed.documents(), 3);
            let body = |name: &str| packed.file(name).unwrap().read_bytes().unwrap().as_slice().to_vec();
            prop_assert_eq!(body("a"), a);
            prop_assert_eq!(body("b.x"), b);
            prop_assert_eq!(body(FILTER), filter);
            prop_assert!(packed.file("c").is_none());
        }

        #[test]
        fn any_bytes_and_any_damage_give_an_error_and_no_panic(noise in vec(any::<u8>(), 0..200), at: prop::sample::Index, flip in 1u8.., cut: prop::sample::Index) {
            let _ = Pack::open(noise.into());
            let whole = pack(&[("a", vec![7; 40])], b"f");
            let mut damaged = whole.clone();
            let at = at.index(whole.len());
            damaged[at] ^= flip;
            if at > 40 {
                prop_assert!(Pack::open(damaged.into()).is_err());
            }
            let cut = cut.index(whole.len());
            prop_assert!(Pack::open(whole[..cut].to_vec().into()).is_err());
        }
    }
}

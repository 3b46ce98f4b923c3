//! One object a segment: the files of a Tantivy segment one after the other, a filter, a footer and a trailer.
//!
//! ```text
//! file 0 | file 1 | ... | filter | footer (JSON) | trailer (32 bytes)
//! trailer = footer length (u64) | XXH3 of the footer (u64) | object length (u64) | format (u32) | "TMK1"
//! ```
//! All numbers are little-endian. The object's SHA-256 is in the manifest. The format is specified in this crate's README.

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};
use tantivy::directory::FileSlice;

use super::{
    footer::{BundleError, BundleFooter, to_range},
    schema::SchemaFields,
};

/// The name of the filter in the footer.
const FILTER_FILE: &str = "filter";
/// Bytes that are copied at a time.
const COPY_BUFFER_BYTES: usize = 1 << 18;

/// Size and checksum of a segment object that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BundleSummary {
    /// Bytes in all.
    pub(crate) size: u64,
    /// SHA-256 of the object, 64 hexadecimal digits.
    pub(crate) checksum: String,
}

/// Writes a segment object: files by their names, the filter, the footer.
pub(crate) struct BundleWriter<W> {
    out: HashingWriter<W>,
    footer: BundleFooter,
}

impl<W: Write> BundleWriter<W> {
    /// An object of `format` with `documents` documents, to be written to `out`.
    pub(crate) fn new(out: W, format: u32, documents: u64) -> Self {
        Self { out: HashingWriter::new(out), footer: BundleFooter::new(format, documents) }
    }

    /// The first file lies in `out` already; `content` reads it.
    pub(crate) fn adopt(&mut self, name: String, content: &mut impl Read) -> io::Result<()> {
        let mut hash = HashingWriter::new(io::sink());
        copy(content, &mut hash)?;
        (self.out.hash, self.out.written) = (hash.hash, hash.written);
        self.footer.insert(name, 0..self.out.written);
        Ok(())
    }

    /// Appends a file.
    pub(crate) fn append(&mut self, name: String, content: &mut impl Read) -> io::Result<()> {
        let from = self.out.written;
        copy(content, &mut self.out)?;
        self.footer.insert(name, from..self.out.written);
        Ok(())
    }

    /// Appends the filter, the footer and the trailer.
    pub(crate) fn finish(mut self, filter: &[u8]) -> io::Result<BundleSummary> {
        self.append(FILTER_FILE.to_owned(), &mut &*filter)?;
        let written = self.out.written;
        self.footer.write(&mut self.out, written)?;
        self.out.finish()
    }
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            n => to.write_all(&buffer[..n])?,
        }
    }
}

/// A segment object, opened for reading.
#[derive(Clone, Debug)]
pub(crate) struct SegmentBundle {
    object: FileSlice,
    footer: BundleFooter,
}

impl SegmentBundle {
    /// Reads the footer of `object`, of a format that `fields` can read. Any bytes give an error rather than a panic.
    pub(crate) fn open(object: FileSlice, fields: &SchemaFields) -> Result<Self, BundleError> {
        let footer = BundleFooter::read(&object, fields)?;
        Ok(Self { object, footer })
    }

    /// The segment format.
    pub(crate) fn format(&self) -> u32 {
        self.footer.format
    }

    /// Number of documents.
    pub(crate) fn documents(&self) -> u64 {
        self.footer.documents
    }

    /// The file of that name, `None` if there is none.
    pub(crate) fn file(&self, name: &str) -> Option<FileSlice> {
        let offsets = self.footer.find(name)?;
        Some(self.object.slice(to_range(offsets).ok()?))
    }

    /// The bytes of the filter, empty if the segment has none.
    pub(crate) fn filter(&self) -> FileSlice {
        self.file(FILTER_FILE).unwrap_or_else(FileSlice::empty)
    }
}

/// Counts and hashes the bytes that are written through it.
struct HashingWriter<W> {
    inner: W,
    hash: Sha256,
    written: u64,
}

impl<W: Write> HashingWriter<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), written: 0 }
    }

    fn finish(mut self) -> io::Result<BundleSummary> {
        self.inner.flush()?;
        Ok(BundleSummary { size: self.written, checksum: hex::encode(self.hash.finalize()) })
    }
}

impl<W: Write> Write for HashingWriter<W> {
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
    use std::path::PathBuf;

    use proptest::{collection::vec, prelude::*};

    use super::{super::schema::FORMAT, *};

    fn bundle(files: &[(&str, Vec<u8>)], filter: &[u8]) -> Vec<u8> {
        let (first, rest) = files.split_first().unwrap();
        let mut out = first.1.clone();
        let mut writer = BundleWriter::new(&mut out, FORMAT, 3);
        writer.adopt(first.0.to_owned(), &mut first.1.as_slice()).unwrap();
        for (name, body) in rest {
            writer.append((*name).to_owned(), &mut body.as_slice()).unwrap();
        }
        let written = writer.finish(filter).unwrap();
        assert_eq!(written.size, out.len() as u64);
        assert_eq!(written.checksum, hex::encode(Sha256::digest(&out)));
        out
    }

    fn open(bytes: Vec<u8>) -> Result<SegmentBundle, BundleError> {
        SegmentBundle::open(bytes.into(), &SchemaFields::current())
    }

    #[test]
    fn a_newer_format_is_refused_by_number() {
        let mut bytes = bundle(&[("a", vec![1])], b"");
        let at = bytes.len() - 8;
        bytes[at..at + 4].copy_from_slice(&(FORMAT + 1).to_le_bytes());
        assert!(matches!(open(bytes), Err(BundleError::OtherFormat { found }) if found == FORMAT + 1));
    }

    /// Found by a random run: one bit makes it of the only format there is.
    #[test]
    fn an_object_of_format_zero_is_damaged() {
        let mut bytes = bundle(&[("a", vec![1])], b"");
        let at = bytes.len() - 8;
        assert_eq!(std::mem::take(&mut bytes[at]), 1);
        assert!(matches!(open(bytes), Err(BundleError::Corrupt(_))));
    }

    const KEPT_FILES: [(&str, &[u8]); 3] = [("a.idx", b"postings"), ("b.store", &[0, 1, 254, 255]), ("c.empty", b"")];
    const KEPT_FILTER: &[u8] = b"filter bytes";

    /// The object of `format` that stays readable.
    fn format_file(format: u32) -> PathBuf {
        format!("{}/tests/formats/bundle-{format}.bin", env!("CARGO_MANIFEST_DIR")).into()
    }

    fn kept_bundle() -> Vec<u8> {
        bundle(&KEPT_FILES.map(|(name, body)| (name, body.to_vec())), KEPT_FILTER)
    }

    #[test]
    fn an_object_of_format_1_is_read() {
        let bytes = std::fs::read(format_file(1)).unwrap();
        let kept = open(bytes.clone()).unwrap();
        assert_eq!((kept.format(), kept.documents()), (1, 3));
        let body = |file: FileSlice| file.read_bytes().unwrap().as_slice().to_vec();
        for (name, content) in KEPT_FILES {
            assert_eq!(body(kept.file(name).unwrap()), content, "{name}");
        }
        assert_eq!(body(kept.filter()), KEPT_FILTER);
        // And is what this version writes, while that is the format that it writes.
        if FORMAT == 1 {
            assert_eq!(kept_bundle(), bytes);
        }
    }

    /// CONTRIBUTING.md says when it is run.
    #[test]
    #[ignore = "writes a file of the repository; CONTRIBUTING.md says when"]
    fn format_files_are_written() {
        std::fs::write(format_file(FORMAT), kept_bundle()).unwrap();
    }

    proptest! {
        #[test]
        fn files_come_out_as_they_went_in(a in vec(any::<u8>(), 0..200), b in vec(any::<u8>(), 0..200), filter in vec(any::<u8>(), 0..50)) {
            let bundled = open(bundle(&[("a", a.clone()), ("b.x", b.clone())], &filter)).unwrap();
            prop_assert_eq!(bundled.documents(), 3);
            let body = |name: &str| bundled.file(name).unwrap().read_bytes().unwrap().as_slice().to_vec();
            prop_assert_eq!(body("a"), a);
            prop_assert_eq!(body("b.x"), b);
            prop_assert_eq!(body(FILTER_FILE), filter);
            prop_assert!(bundled.file("c").is_none());
        }

        #[test]
        fn any_bytes_and_any_damage_give_an_error_and_no_panic(noise in vec(any::<u8>(), 0..200), at: prop::sample::Index, flip in 1u8.., cut: prop::sample::Index) {
            let _ = open(noise);
            let whole = bundle(&[("a", vec![7; 40])], b"f");
            let mut damaged = whole.clone();
            let at = at.index(whole.len());
            damaged[at] ^= flip;
            if at > 40 {
                prop_assert!(open(damaged).is_err());
            }
            let cut = cut.index(whole.len());
            prop_assert!(open(whole[..cut].to_vec()).is_err());
        }
    }
}

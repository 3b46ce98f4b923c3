//! The stored form of marks: two Roaring bitmaps over seqs.
//!
//! ```text
//! "TMS1" | format (u32) | length of the first bitmap (u64) | corrected | outdated
//! ```
//! Numbers are little-endian, bitmaps in Roaring's portable 64-bit form. The object's SHA-256 is in the manifest.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use roaring::RoaringTreemap;

use tidemark_ingest::engine::RecordMarks;

pub(crate) const FORMAT: u32 = 1;
const MAGIC: [u8; 4] = *b"TMS1";
const HEADER_BYTES: usize = 16;

/// Why stored marks cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SidecarError {
    #[error("it is not a sidecar")]
    NotASidecar,
    #[error("its format is {found}, newer than the {FORMAT} that this version reads")]
    OtherFormat { found: u32 },
    #[error("a bitmap in it is damaged: {0}")]
    Damaged(#[from] io::Error),
}

/// The bytes of `marks`.
pub(crate) fn encode(marks: &RecordMarks) -> io::Result<Bytes> {
    let first = marks.corrected.serialized_size();
    let mut out = BytesMut::with_capacity(HEADER_BYTES + first + marks.outdated.serialized_size());
    out.put_slice(&MAGIC);
    out.put_u32_le(FORMAT);
    out.put_u64_le(first as u64);
    let mut out = out.writer();
    marks.corrected.serialize_into(&mut out)?;
    marks.outdated.serialize_into(&mut out)?;
    Ok(out.into_inner().freeze())
}

/// The marks of `bytes`. Any bytes give an error rather than a panic.
pub(crate) fn decode(bytes: &[u8]) -> Result<RecordMarks, SidecarError> {
    let (head, rest) = bytes.split_at_checked(HEADER_BYTES).ok_or(SidecarError::NotASidecar)?;
    let format = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    // No version writes format 0.
    if head[..4] != MAGIC || format == 0 {
        return Err(SidecarError::NotASidecar);
    }
    if format > FORMAT {
        return Err(SidecarError::OtherFormat { found: format });
    }
    let first = head[8..].iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
    let (corrected, outdated) =
        usize::try_from(first).ok().and_then(|first| rest.split_at_checked(first)).ok_or(SidecarError::NotASidecar)?;
    Ok(RecordMarks {
        corrected: RoaringTreemap::deserialize_from(corrected)?,
        outdated: RoaringTreemap::deserialize_from(outdated)?,
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::{
        collection::{btree_set, vec},
        prelude::*,
    };

    use super::*;

    #[test]
    fn a_newer_format_is_refused() {
        let mut bytes = encode(&RecordMarks::default()).unwrap().to_vec();
        bytes[4] = 2;
        assert!(matches!(decode(&bytes), Err(SidecarError::OtherFormat { found: 2 })));
    }

    /// The object of `format` that stays readable.
    fn format_file(format: u32) -> PathBuf {
        format!("{}/tests/formats/sidecar-{format}.bin", env!("CARGO_MANIFEST_DIR")).into()
    }

    /// Marks that take every kind of container: few, many, a run, and seqs of more than 32 bits.
    fn kept_marks() -> RecordMarks {
        let corrected = [1, 5, 1 << 40].into_iter().chain((0..20_000).step_by(3)).collect();
        RecordMarks { corrected, outdated: (70_000..80_000).collect() }
    }

    #[test]
    fn a_sidecar_of_format_1_is_read() {
        let bytes = std::fs::read(format_file(1)).unwrap();
        assert_eq!(decode(&bytes).unwrap(), kept_marks());
        // And is what this version writes, while that is the format that it writes.
        if FORMAT == 1 {
            assert_eq!(encode(&kept_marks()).unwrap(), bytes);
        }
    }

    /// CONTRIBUTING.md says when it is run.
    #[test]
    #[ignore = "writes a file of the repository; CONTRIBUTING.md says when"]
    fn format_files_are_written() {
        std::fs::write(format_file(FORMAT), encode(&kept_marks()).unwrap()).unwrap();
    }

    proptest! {
        #[test]
        fn marks_round_trip(a in btree_set(any::<u64>(), 0..50), b in btree_set(0u64..300, 0..50)) {
            let marks = RecordMarks { corrected: a.into_iter().collect(), outdated: b.into_iter().collect() };
            prop_assert_eq!(decode(&encode(&marks).unwrap()).unwrap(), marks);
        }

        #[test]
        fn any_bytes_and_any_damage_are_read_without_a_panic(noise in vec(any::<u8>(), 0..100), seqs in btree_set(0u64..300, 0..50), at: prop::sample::Index, flip in 1u8..) {
            let _ = decode(&noise);
            let marks = RecordMarks { corrected: seqs.into_iter().collect(), outdated: RoaringTreemap::default() };
            let mut bytes = encode(&marks).unwrap().to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let _ = decode(&bytes);
            let _ = decode(&bytes[..at]);
        }
    }
}

//! The bytes of a chain's record: a header line that every release can read, and the state.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    error::ChainError,
    extensions::MAX_EXTENSION_BYTES,
    state::{ChainState, InvariantViolation, RecordVersions},
};

/// The first line of a record. Fields that a later version adds mean nothing to this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RecordHeader {
    /// Version of the record's format.
    format: u32,
    /// The least version that may read it.
    reads: u32,
    /// The least version that may append after it.
    writes: u32,
    /// The record's number.
    number: u64,
    /// SHA-256 of the bytes of the record before; 64 zeros in the first one.
    previous: String,
    /// Makes the bytes unique, so that an appender recognizes its own record.
    nonce: String,
    /// SHA-256 of the state's bytes.
    checksum: String,
}

/// What of the header every release must be able to read.
#[derive(Deserialize)]
struct HeaderVersion {
    reads: u32,
}

/// A record as it was read.
#[derive(Clone, Debug)]
pub(super) struct DecodedRecord<S> {
    /// The least version that may append after it.
    pub(super) writes: u32,
    pub(super) previous: String,
    /// SHA-256 of the whole object.
    pub(super) hash: String,
    pub(super) state: S,
}

/// What stands for the hash of the record before the first one.
pub(super) fn no_hash() -> String {
    "0".repeat(64)
}

pub(super) fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// The bytes of record `number`: header line, state line.
pub(super) fn encode<S: ChainState>(
    number: u64,
    previous: &str,
    nonce: String,
    state: &S,
) -> serde_json::Result<Bytes> {
    let RecordVersions { format, reads, writes } = state.versions();
    let state = serde_json::to_vec(state)?;
    let header =
        RecordHeader { format, reads, writes, number, previous: previous.to_owned(), nonce, checksum: hash(&state) };
    let mut bytes = serde_json::to_vec(&header)?;
    bytes.push(b'\n');
    bytes.extend_from_slice(&state);
    bytes.push(b'\n');
    Ok(bytes.into())
}

/// Reads record `number` from the object `key`. Never panics, whatever the bytes.
pub(super) fn decode<S: ChainState>(
    key: &str,
    number: u64,
    bytes: &[u8],
) -> Result<DecodedRecord<S>, ChainError<S::Rejection>> {
    let corrupt = |why: String| ChainError::Corrupt { key: key.to_owned(), why };
    let (header, state) = split(bytes).ok_or_else(|| corrupt("it is not two lines of JSON".to_owned()))?;
    refuse_newer::<S>(key, header)?;
    let header: RecordHeader =
        serde_json::from_slice(header).map_err(|e| corrupt(format!("its header is unreadable ({e})")))?;
    if header.number != number {
        return Err(corrupt(format!("it says that it is record {}", header.number)));
    }
    if hash(state) != header.checksum {
        return Err(corrupt("its state does not have the checksum that its header names".to_owned()));
    }
    let state: S = serde_json::from_slice(state).map_err(|e| corrupt(format!("its state is unreadable ({e})")))?;
    check(&state).map_err(|violation| corrupt(violation.to_string()))?;
    Ok(DecodedRecord { writes: header.writes, previous: header.previous, hash: hash(bytes), state })
}

/// The versions that the header of a record names; `None` if it has no readable header.
pub(super) fn versions(bytes: &[u8]) -> Option<RecordVersions> {
    let RecordHeader { format, reads, writes, .. } = serde_json::from_slice(split(bytes)?.0).ok()?;
    Some(RecordVersions { format, reads, writes })
}

/// What must hold of every state.
pub(super) fn check<S: ChainState>(state: &S) -> Result<(), InvariantViolation> {
    let bytes = state.extensions().bytes();
    InvariantViolation::unless(bytes <= MAX_EXTENSION_BYTES, "the size of the extensions is bounded", || {
        format!("{bytes} bytes, more than {MAX_EXTENSION_BYTES}")
    })?;
    state.check_state()
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|b| *b == b'\n')?;
    let (header, rest) = bytes.split_at(end);
    Some((header, rest.get(1..)?.strip_suffix(b"\n")?))
}

fn refuse_newer<S: ChainState>(key: &str, header: &[u8]) -> Result<(), ChainError<S::Rejection>> {
    match serde_json::from_slice::<HeaderVersion>(header) {
        Ok(HeaderVersion { reads }) if reads > S::FORMAT => {
            Err(ChainError::NewerFormat { key: key.to_owned(), found: reads, known: S::FORMAT })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chain::testing::AscendingNumbers;

    fn bytes() -> Bytes {
        encode(7, &no_hash(), "n".repeat(32), &AscendingNumbers(vec![1, 2])).unwrap()
    }

    fn read(bytes: &[u8]) -> Result<DecodedRecord<AscendingNumbers>, ChainError<std::convert::Infallible>> {
        decode("chain/7", 7, bytes)
    }

    #[test]
    fn a_record_reads_as_it_was_written() {
        let bytes = bytes();
        let record = read(&bytes).unwrap();
        assert_eq!(record.state, AscendingNumbers(vec![1, 2]));
        assert_eq!(record.previous, no_hash());
        assert_eq!(record.hash, hash(&bytes));
    }

    #[test]
    fn a_record_of_a_newer_release_is_refused_by_name_even_if_its_header_says_more() {
        let error = read(b"{\"format\":3,\"reads\":2,\"new\":true}\n{}\n").unwrap_err();
        assert!(matches!(&error, ChainError::NewerFormat { found: 2, known: 1, .. }), "{error}");
        assert!(error.to_string().contains("\"chain/7\""), "{error}");
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let whole = bytes();
        let record = read(&whole).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.to_vec();
            damaged[at] ^= 1;
            match read(&damaged) {
                Err(ChainError::Corrupt { key, .. } | ChainError::NewerFormat { key, .. }) => {
                    assert_eq!(key, "chain/7");
                }
                Err(other) => panic!("{other}"),
                // Only what the header alone says may change unnoticed here: the next record's link notices it.
                Ok(changed) => assert!(changed.state == record.state && changed.hash != record.hash),
            }
        }
    }

    #[test]
    fn a_cut_or_swapped_record_is_corrupt() {
        let whole = bytes();
        for cut in 0..whole.len() {
            assert!(matches!(read(&whole[..cut]), Err(ChainError::Corrupt { .. })), "{cut}");
        }
        let error = decode::<AscendingNumbers>("chain/8", 8, &whole).unwrap_err();
        assert!(error.to_string().contains("it says that it is record 7"), "{error}");
    }

    #[test]
    fn a_state_that_violates_an_invariant_is_corrupt() {
        let bytes = encode(7, &no_hash(), String::new(), &AscendingNumbers(vec![2, 1])).unwrap();
        let error = read(&bytes).unwrap_err();
        assert!(error.to_string().contains("ascend"), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>, state: String) {
            let _ = read(&bytes);
            let header = RecordHeader {
                format: 1, reads: 1, writes: 1, number: 7, previous: no_hash(), nonce: String::new(), checksum: hash(state.as_bytes()),
            };
            let _ = read(format!("{}\n{state}\n", serde_json::to_string(&header).unwrap()).as_bytes());
        }
    }
}

//! The bytes of a chain's record: a header line that every release can read, and the state.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{ChainError, State};

/// The version of the header. The state has its own.
const HEADER: u32 = 1;

/// The first line of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Header {
    /// Version of the header's and the record's layout.
    layout: u32,
    /// Version of the state.
    format: u32,
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
struct Versions {
    layout: u32,
    format: u32,
}

/// A record as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Record<S> {
    pub(crate) previous: String,
    /// SHA-256 of the whole object.
    pub(crate) hash: String,
    pub(crate) state: S,
}

/// What stands for the hash of the record before the first one.
pub(crate) fn no_hash() -> String {
    "0".repeat(64)
}

pub(crate) fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// The bytes of record `number`: header line, state line.
pub(crate) fn encode<S: State>(number: u64, previous: &str, nonce: String, state: &S) -> serde_json::Result<Bytes> {
    let state = serde_json::to_vec(state)?;
    let header = Header {
        layout: HEADER,
        format: S::FORMAT,
        number,
        previous: previous.to_owned(),
        nonce,
        checksum: hash(&state),
    };
    let mut bytes = serde_json::to_vec(&header)?;
    bytes.push(b'\n');
    bytes.extend_from_slice(&state);
    bytes.push(b'\n');
    Ok(bytes.into())
}

/// Reads record `number` from the object `key`. Never panics, whatever the bytes.
pub(crate) fn decode<S: State>(key: &str, number: u64, bytes: &[u8]) -> Result<Record<S>, ChainError> {
    let corrupt = |why: String| ChainError::Corrupt { key: key.to_owned(), why };
    let (header, state) = split(bytes).ok_or_else(|| corrupt("it is not two lines of JSON".to_owned()))?;
    refuse_newer::<S>(key, header)?;
    let header: Header =
        serde_json::from_slice(header).map_err(|e| corrupt(format!("its header is unreadable ({e})")))?;
    if header.number != number {
        return Err(corrupt(format!("it says that it is record {}", header.number)));
    }
    if hash(state) != header.checksum {
        return Err(corrupt("its state does not have the checksum that its header names".to_owned()));
    }
    let state: S = serde_json::from_slice(state).map_err(|e| corrupt(format!("its state is unreadable ({e})")))?;
    state.sound().map_err(|broken| corrupt(broken.to_string()))?;
    Ok(Record { previous: header.previous, hash: hash(bytes), state })
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|b| *b == b'\n')?;
    let (header, rest) = bytes.split_at(end);
    Some((header, rest.get(1..)?.strip_suffix(b"\n")?))
}

fn refuse_newer<S: State>(key: &str, header: &[u8]) -> Result<(), ChainError> {
    let newer = |found, known| ChainError::NewerFormat { key: key.to_owned(), found, known };
    match serde_json::from_slice::<Versions>(header) {
        Ok(Versions { layout, .. }) if layout > HEADER => Err(newer(layout, HEADER)),
        Ok(Versions { format, .. }) if format > S::FORMAT => Err(newer(format, S::FORMAT)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidemark_store::StoreSecond;

    use super::*;
    use crate::{Generation, Manifest};

    fn bytes() -> Bytes {
        encode(7, &no_hash(), "n".repeat(32), &Manifest::new(Generation::first())).unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Record<Manifest>, ChainError> {
        decode("chain/7", 7, bytes)
    }

    #[test]
    fn a_record_reads_as_it_was_written() {
        let bytes = bytes();
        let record = read(&bytes).unwrap();
        assert_eq!(record.state, Manifest::new(Generation::first()));
        assert_eq!(record.previous, no_hash());
        assert_eq!(record.hash, hash(&bytes));
    }

    #[test]
    fn a_record_of_a_newer_release_is_refused_by_name_even_if_its_header_says_more() {
        for header in [r#"{"layout":1,"format":2,"new":true}"#, r#"{"layout":2,"format":1,"number":7}"#] {
            let error = read(format!("{header}\n{{}}\n").as_bytes()).unwrap_err();
            assert!(matches!(&error, ChainError::NewerFormat { found: 2, known: 1, .. }), "{error}");
            assert!(error.to_string().contains("\"chain/7\""), "{error}");
        }
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
        let error = decode::<Manifest>("chain/8", 8, &whole).unwrap_err();
        assert!(error.to_string().contains("it says that it is record 7"), "{error}");
    }

    #[test]
    fn an_unsound_state_is_corrupt() {
        let mut state = Manifest::new(Generation::first());
        state.cursor = crate::Cursor(StoreSecond::from_unix(5));
        let bytes = encode(7, &no_hash(), String::new(), &state).unwrap();
        let error = read(&bytes).unwrap_err();
        assert!(error.to_string().contains("cursor"), "{error}");
    }

    /// A manifest in which everything is in use.
    const FULL: &str = include_str!("../tests/formats/manifest-1.json");

    #[test]
    fn the_sample_is_sound() {
        assert_eq!(serde_json::from_str::<Manifest>(FULL).unwrap().sound(), Ok(()));
    }

    proptest! {
        /// Damage that bears a right checksum, as a hostile writer's would: read or refused, never a panic.
        #[test]
        fn a_damaged_manifest_is_read_or_refused(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
            let mut state: Vec<u8> = FULL.bytes().filter(|b| *b != b'\n').collect();
            for (at, byte) in edits {
                let at = at.index(state.len());
                // Digits become digits, so that numbers and dates are damaged more often than the syntax.
                state[at] = if state[at].is_ascii_digit() { b'0' + byte % 10 } else { byte };
            }
            let header = Header {
                layout: 1, format: 1, number: 7, previous: no_hash(), nonce: String::new(), checksum: hash(&state),
            };
            let header = serde_json::to_vec(&header).unwrap();
            if let Ok(record) = read(&[&header[..], b"\n", &state, b"\n"].concat()) {
                let _ = record.state.pin("p", "me").map(|next| next.follows(&record.state));
                let _ = record.state.totals.standing();
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>, state: String) {
            let _ = read(&bytes);
            let header = Header {
                layout: 1, format: 1, number: 7, previous: no_hash(), nonce: String::new(), checksum: hash(state.as_bytes()),
            };
            let _ = read(format!("{}\n{state}\n", serde_json::to_string(&header).unwrap()).as_bytes());
        }
    }
}

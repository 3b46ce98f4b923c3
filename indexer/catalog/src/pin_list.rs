//! The object of a pin: the manifest as it was.

use bytes::Bytes;
use tidemark_store::{ChainState as _, RecordVersions};

use crate::{
    list_header::{UnreadableList, after_header, header_line},
    manifest::Manifest,
};

/// The bytes of a pin's list: a header, then the manifest as one line.
pub(crate) fn encode_list(nonce: &str, manifest: &Manifest) -> serde_json::Result<Bytes> {
    let RecordVersions { format, reads, .. } = manifest.versions();
    let mut bytes = header_line(format, reads, nonce)?;
    serde_json::to_writer(&mut bytes, manifest)?;
    bytes.push(b'\n');
    Ok(bytes.into())
}

pub(crate) fn decode_list(bytes: &[u8]) -> Result<Manifest, UnreadableList> {
    let manifest = after_header(bytes, Manifest::FORMAT)?;
    serde_json::from_slice(manifest).map_err(|error| UnreadableList::Damaged(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of format 1.
    #[test]
    fn list_1() {
        let manifest: Manifest = serde_json::from_str(include_str!("../tests/formats/manifest-1.json")).unwrap();
        let manifest = Manifest { closed: None, ..manifest };
        let bytes = encode_list(&"a".repeat(32), &manifest).unwrap();
        let file = include_bytes!("../tests/formats/pin-list-1.jsonl");
        assert_eq!(bytes, file.as_slice(), "lists are written differently: a new layout is due");
        assert_eq!(decode_list(file).unwrap(), manifest);
    }

    #[test]
    fn a_list_of_a_newer_release_is_refused_whatever_else_it_says() {
        let newer = decode_list(b"{\"format\":3,\"reads\":2,\"new\":true}\nnew\n").unwrap_err();
        assert_eq!(newer, UnreadableList::Newer { reads: 2, known: 1 });
        for damaged in [&b""[..], b"{}", b"{}\n{}\n", b"{\"format\":1,\"reads\":1,\"nonce\":\"\"}\n", b"\n"] {
            assert!(matches!(decode_list(damaged), Err(UnreadableList::Damaged(_))), "{damaged:?}");
        }
    }
}

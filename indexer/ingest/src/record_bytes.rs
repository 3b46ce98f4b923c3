//! The bytes that records keep, as they were judged.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use tidemark_catalog::BodyDigest;

/// The body of an entry as it was judged. It stands once, in the record of the entry's first operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum EntryBody {
    /// It was not read: it is too large, or the store refuses it.
    #[default]
    Unread,
    /// The whole body. Its digest is made when it is asked for: most readers never do.
    Whole(ObjectBytes),
    /// Its digest: the entry's first record has the bytes.
    Digest(BodyDigest),
}

impl EntryBody {
    /// The body of these bytes.
    pub fn of(bytes: Bytes) -> Self {
        Self::Whole(ObjectBytes(bytes))
    }

    /// The body as the records of further operations have it.
    pub(crate) fn to_digest(&self) -> Self {
        self.digest().map_or(Self::Unread, Self::Digest)
    }

    /// The SHA-256 of the body, if it was read. Hashes the bytes that stand here.
    pub fn digest(&self) -> Option<BodyDigest> {
        match self {
            Self::Unread => None,
            Self::Whole(bytes) => Some(BodyDigest::of(&bytes.0)),
            Self::Digest(digest) => Some(*digest),
        }
    }

    /// The bytes, if they stand here.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Whole(bytes) => Some(&bytes.0),
            Self::Unread | Self::Digest(_) => None,
        }
    }

    pub(crate) fn is_unread(&self) -> bool {
        *self == Self::Unread
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        self.bytes().map_or(0, |bytes| bytes.len() as u64)
    }
}

impl Serialize for EntryBody {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Unread => serializer.serialize_unit(),
            Self::Whole(bytes) => bytes.serialize(serializer),
            Self::Digest(sha256) => StoredDigest { sha256: *sha256 }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for EntryBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match StoredBody::deserialize(deserializer)? {
            StoredBody::Bytes(bytes) => Self::of(bytes.0),
            StoredBody::Digest(StoredDigest { sha256 }) => Self::Digest(sha256),
        })
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum StoredBody {
    Digest(StoredDigest),
    Bytes(ObjectBytes),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredDigest {
    sha256: BodyDigest,
}

/// The bytes of an object. Written as text if they are UTF-8, else in base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectBytes(pub Bytes);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum StoredBytes<T> {
    Text(T),
    Binary { base64: String },
}

impl Serialize for ObjectBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let stored = match std::str::from_utf8(&self.0) {
            Ok(text) => StoredBytes::Text(text),
            Err(_) => StoredBytes::Binary { base64: STANDARD.encode(&self.0) },
        };
        stored.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ObjectBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match StoredBytes::<String>::deserialize(deserializer)? {
            StoredBytes::Text(text) => text.into(),
            StoredBytes::Binary { base64 } => STANDARD.decode(base64).map_err(D::Error::custom)?.into(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_is_stored_as_text_and_all_else_in_base64() {
        let stored = |bytes: &'static [u8]| serde_json::to_string(&EntryBody::of(bytes.into())).unwrap();
        assert_eq!(stored(b"a \"b\"\n"), r#""a \"b\"\n""#);
        assert_eq!(stored(b"\xff\x00"), r#"{"base64":"/wA="}"#);
        assert_eq!(stored(b""), r#""""#);
        let digest = EntryBody::of(Bytes::new()).to_digest();
        let sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(serde_json::to_string(&digest).unwrap(), format!(r#"{{"sha256":"{sha256}"}}"#));
        for damaged in [r#"{"base64":"?"}"#, r#"{"sha256":"ab"}"#, "7", "{}"] {
            assert!(serde_json::from_str::<EntryBody>(damaged).is_err(), "{damaged}");
        }
    }

    proptest! {
        #[test]
        fn any_body_survives_storing(bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..40), ".{0,40}".prop_map(String::into_bytes)]) {
            let body = EntryBody::of(bytes.into());
            for body in [body.to_digest(), body] {
                let stored = serde_json::to_vec(&body).unwrap();
                prop_assert_eq!(serde_json::from_slice::<EntryBody>(&stored).unwrap(), body);
            }
        }
    }
}

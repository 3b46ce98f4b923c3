//! A descriptor as the store has it, and what binds it to its operation.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::object_reader::ReadObject;
use crate::malformed::MalformedInput;
use tidemark_store::{StoredObject, UserMetadata};

/// The user metadata that binds a descriptor to its operation.
pub(crate) const TOKEN_FIELD: &str = "tidemarktoken";
pub(crate) const OP_FIELD: &str = "tidemarkop";

/// A descriptor that the store has.
pub(super) struct DescriptorObject {
    /// Its body, unless only the digest is kept.
    pub(super) object: StoredObject,
    /// SHA-256 of its body, where that was read.
    pub(super) digest: Option<String>,
    /// Why the store does not give it.
    pub(super) refused: Option<MalformedInput>,
    /// What is charged for the body.
    pub(super) charged: u64,
}

impl DescriptorObject {
    /// What was read; `None` if there is nothing. `digest` is that of a body which was not kept.
    pub(super) fn of(read: ReadObject, digest: Option<String>, charged: u64) -> Option<Self> {
        match read {
            ReadObject::Absent => None,
            ReadObject::Read(object) => {
                let digest = digest.or_else(|| object.body.as_ref().map(digest_of));
                Some(Self { object, digest, refused: None, charged })
            }
            // Existence decides, so that it counts by its attributes.
            ReadObject::Refused { info, why } => {
                let object = StoredObject { info, metadata: UserMetadata::new(), body: None, answered: None };
                Some(Self { object, digest: None, refused: Some(why), charged })
            }
        }
    }
}

/// SHA-256 as 64 hexadecimal digits.
pub(crate) fn digest_of(body: &Bytes) -> String {
    hex::encode(Sha256::digest(body))
}

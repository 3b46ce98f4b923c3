//! Objects of a store, and the outcome of creating one.

use std::collections::BTreeMap;

use bytes::Bytes;
use object_store::{Attribute, Attributes, ObjectMeta};

use crate::{errors::StoreError, time::StoreSecond};

/// The outcome of a conditional write.
#[derive(Debug)]
#[must_use]
pub enum Create {
    /// The object is ours.
    Committed,
    /// Another object has the key.
    Lost,
    /// The write may or may not have landed, now or later. Nothing may be cleaned up.
    Unknown(StoreError),
}

/// User metadata of an object.
///
/// Names are lower-case ASCII letters and digits, the intersection of what S3, Google and Azure accept. Values are
/// printable ASCII.
pub type UserMetadata = BTreeMap<String, String>;

/// An object's name and attributes. `key` is relative to the store's root, without a leading slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// The key below the store's root.
    pub key: String,
    /// Store time, floored to the second.
    pub time: StoreSecond,
    /// Size in bytes.
    pub size: u64,
    /// The store's entity tag, if it gives one.
    pub etag: Option<String>,
}

/// An object with its body.
#[derive(Clone, Debug)]
pub struct StoredObject {
    /// Name and attributes.
    pub info: ObjectInfo,
    /// User metadata; empty where the store keeps none.
    pub metadata: UserMetadata,
    /// The body; `None` when it is larger than the caller's limit.
    pub body: Option<Bytes>,
    /// The store's clock when it answered, where the answer has an HTTP `Date`.
    pub answered: Option<StoreSecond>,
}

impl ObjectInfo {
    /// The attributes of the transport's `meta`, under `key`.
    pub(crate) fn new(key: String, meta: &ObjectMeta) -> Self {
        Self {
            key,
            time: StoreSecond::from_unix(u64::try_from(meta.last_modified.timestamp()).unwrap_or(0)),
            size: meta.size,
            etag: meta.e_tag.clone(),
        }
    }
}

/// The user metadata among the transport's `attributes`. S3 folds the case of names, so it is folded everywhere.
pub(crate) fn user_metadata(attributes: &Attributes) -> UserMetadata {
    let user = attributes.iter().filter_map(|(name, value)| match name {
        Attribute::Metadata(name) => Some((name.to_ascii_lowercase(), value.to_string())),
        _ => None,
    });
    user.collect()
}

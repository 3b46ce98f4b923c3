//! An object as it should be, from its builder to the patch.

use serde::Serialize;
use serde_json::Value;

use crate::cache::ChildKind;

/// An object as it should be.
#[derive(Clone, Debug)]
pub(crate) struct DesiredObject {
    pub(crate) kind: ChildKind,
    pub(crate) name: String,
    /// The whole object as it is sent, with kind, labels and owner.
    pub(crate) object: Value,
}

impl DesiredObject {
    /// The object that a builder made.
    pub(crate) fn new<K: kube::Resource + Serialize>(kind: ChildKind, object: &K) -> serde_json::Result<Self> {
        let name = object.meta().name.clone().unwrap_or_default();
        Ok(Self { kind, name, object: serde_json::to_value(object)? })
    }
}

//! Whose objects are written.

use kube::core::ApiResource;

use crate::cache::NamespacedName;

/// The object in whose name others are written: their owner reference, and the field manager.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ObjectOwner<'a> {
    /// `kind` of the owner.
    pub(crate) kind: &'static str,
    /// Its group, version and names.
    pub(crate) resource: fn() -> ApiResource,
    pub(crate) key: &'a NamespacedName,
    pub(crate) uid: &'a str,
    /// Whether it is known to be going.
    pub(crate) deleting: bool,
    /// Who writes in its name.
    pub(crate) field_manager: &'static str,
}

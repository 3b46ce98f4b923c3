//! Whose objects are written.

use crate::cache::NamespacedName;

/// The object in whose name others are written: their owner reference, and the field manager.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ObjectOwner<'a> {
    /// `kind` of the owner.
    pub(crate) kind: &'static str,
    pub(crate) key: &'a NamespacedName,
    pub(crate) uid: &'a str,
    /// Who writes in its name.
    pub(crate) field_manager: &'static str,
}

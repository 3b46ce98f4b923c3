//! What later versions add to a state without changing its format.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Most bytes of the extensions of one state, names included.
pub(super) const MAX_EXTENSION_BYTES: usize = 64 * 1024;

/// Named members of a state that a program may keep without knowing what they mean.
///
/// Whatever appends to the chain copies the value of each as it was read, byte for byte. A state has them as its member
/// `ext`, left out where there are none.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StateExtensions(BTreeMap<String, Box<RawValue>>);

impl StateExtensions {
    /// Of a state that has none.
    pub const NONE: Self = Self(BTreeMap::new());

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes of names and values.
    pub(super) fn bytes(&self) -> usize {
        self.members().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// Names and values, in the order of the names.
    fn members(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.get()))
    }
}

/// Equal to the byte.
impl PartialEq for StateExtensions {
    fn eq(&self, other: &Self) -> bool {
        self.members().eq(other.members())
    }
}

impl Eq for StateExtensions {}

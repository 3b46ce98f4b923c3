//! Names of an index's objects: generation, kind and epoch are readable from the name alone.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use tidemark_store::Entropy;

/// One index under its own prefix, from its first manifest to its last: `g1`, `g2`, and so on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Generation(u64);

/// Why a text names no generation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" names no generation: \"g\" and a number from 1 on are wanted, as in \"g1\"")]
pub struct InvalidGeneration(String);

impl Generation {
    /// The first generation of an index.
    pub fn first() -> Self {
        Self(1)
    }

    /// Generation `number` of an index: `g1`, `g2`, ...
    pub(crate) fn numbered(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub fn number(&self) -> u64 {
        self.0
    }

    /// The one that comes after it where nothing else is said; `None` after the last number.
    pub fn next(&self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl FromStr for Generation {
    type Err = InvalidGeneration;

    fn from_str(text: &str) -> Result<Self, InvalidGeneration> {
        let number = text.strip_prefix('g').and_then(|number| number.parse().ok());
        let named = number.map(Self).filter(|named| named.0 > 0 && named.to_string() == text);
        named.ok_or_else(|| InvalidGeneration(text.chars().take(80).collect()))
    }
}

impl TryFrom<String> for Generation {
    type Error = InvalidGeneration;

    fn try_from(text: String) -> Result<Self, InvalidGeneration> {
        text.parse()
    }
}

impl From<Generation> for String {
    fn from(generation: Generation) -> Self {
        generation.to_string()
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}

/// What an object of an index holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// Records.
    Segment,
    /// Marks on records of segments.
    Sidecar,
}

impl ObjectKind {
    /// The folder of the kind. Part of the format.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Segment => "segment",
            Self::Sidecar => "sidecar",
        }
    }
}

/// The name of an object below the index's URL: `{generation}/{kind}/{epoch, 20 digits}-{32 hexadecimal digits}`.
///
/// The epoch is the writer's. A manifest takes in no object of a lower epoch than its own, so that what a fenced writer
/// left behind can never become part of the index afterwards. The random part makes every name unique: an object is
/// written once, and never again under the same name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The generation that it was written for.
    pub generation: Generation,
    /// What it holds.
    pub kind: ObjectKind,
    /// The epoch of its writer.
    pub epoch: u64,
    /// 32 random hexadecimal digits.
    pub nonce: String,
}

/// Why a key is not the name of an index's object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not the name of an index's object: \"<generation>/<kind>/<epoch>-<nonce>\" is wanted")]
pub struct InvalidObjectName(String);

impl ObjectName {
    /// A name that nothing bears yet.
    pub fn new(generation: &Generation, kind: ObjectKind, epoch: u64, entropy: &Entropy) -> Self {
        Self { generation: generation.clone(), kind, epoch, nonce: entropy.nonce() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { generation, kind, epoch, nonce } = self;
        write!(f, "{generation}/{}/{epoch:020}-{nonce}", kind.as_str())
    }
}

impl FromStr for ObjectName {
    type Err = InvalidObjectName;

    fn from_str(key: &str) -> Result<Self, InvalidObjectName> {
        read(key)
            .filter(|name| name.to_string() == key)
            .ok_or_else(|| InvalidObjectName(key.chars().take(160).collect()))
    }
}

fn read(key: &str) -> Option<ObjectName> {
    let (generation, rest) = key.split_once('/')?;
    let (kind, rest) = rest.split_once('/')?;
    let (epoch, nonce) = rest.split_once('-')?;
    let kind = [ObjectKind::Segment, ObjectKind::Sidecar].into_iter().find(|known| known.as_str() == kind)?;
    is_nonce(nonce).then_some(())?;
    Some(ObjectName { generation: generation.parse().ok()?, kind, epoch: epoch.parse().ok()?, nonce: nonce.to_owned() })
}

/// The generation that a list is of, a pin's or a collector's, from the list's name: `{generation}/{32 hexadecimal digits}`.
pub(crate) fn generation_of_list(name: &str) -> Option<Generation> {
    let (generation, nonce) = name.split_once('/')?;
    is_nonce(nonce).then(|| generation.parse().ok())?
}

/// Whether it is what a name ends with: 32 hexadecimal digits, in lower case.
pub(crate) fn is_nonce(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_tells_generation_kind_and_epoch() {
        let name = ObjectName::new(&Generation::first(), ObjectKind::Sidecar, 12, &Entropy::seeded(1));
        let key = name.to_string();
        assert!(key.starts_with("g1/sidecar/00000000000000000012-"), "{key}");
        assert_eq!(key.parse::<ObjectName>().unwrap(), name);
    }

    #[test]
    fn generations_are_counted() {
        assert_eq!(Generation::first().next(), "g2".parse().ok());
        assert!(Generation::numbered(9) < Generation::numbered(10));
        for unnumbered in ["g", "g0", "g01", "g+1", "g-1", "restored", "g1-a", "1", "g99999999999999999999"] {
            assert!(unnumbered.parse::<Generation>().is_err(), "{unnumbered}");
        }
        assert_eq!(Generation::numbered(u64::MAX).next(), None);
    }

    #[test]
    fn what_only_looks_like_a_name_is_refused() {
        let name = ObjectName::new(&Generation::first(), ObjectKind::Segment, 1, &Entropy::seeded(1)).to_string();
        for bad in [
            name.replace("segment", "plan"),
            name.replace("g1", "../g1"),
            name.replace("g1", "G1"),
            name.replace("00000000000000000001", "1"),
            name.replace("00000000000000000001", "+0000000000000000001"),
            name.to_uppercase(),
            format!("{name}0"),
            String::new(),
        ] {
            assert!(bad.parse::<ObjectName>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_key_is_read_without_a_panic(key: String) {
            let _ = key.parse::<ObjectName>();
            let _ = key.parse::<Generation>();
        }
    }
}

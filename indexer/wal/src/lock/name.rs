//! Names of locks: each is a folder of the log.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The most characters of a name.
const MAX_NAME_CHARS: usize = 100;

/// The name of a lock: at most 100 letters, digits, `.`, `_` and `-`, the first a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LockName(String);

/// Why a text is not the name of a lock.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" cannot name a lock; nothing was done; choose up to {MAX_NAME_CHARS} letters, digits, \".\", \"_\" and \"-\", the first a \
     letter or digit"
)]
pub struct InvalidLockName(String);

impl LockName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LockName {
    type Err = InvalidLockName;

    fn from_str(text: &str) -> Result<Self, InvalidLockName> {
        let is_inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let sound = text.len() <= MAX_NAME_CHARS
            && text.bytes().all(is_inner)
            && text.starts_with(|first: char| first.is_ascii_alphanumeric());
        if sound { Ok(Self(text.to_owned())) } else { Err(InvalidLockName(text.chars().take(80).collect())) }
    }
}

impl TryFrom<String> for LockName {
    type Error = InvalidLockName;

    fn try_from(text: String) -> Result<Self, InvalidLockName> {
        text.parse()
    }
}

impl From<LockName> for String {
    fn from(name: LockName) -> Self {
        name.0
    }
}

impl fmt::Display for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_folders_that_every_store_holds() {
        for text in ["a", "models", "Team-A.models_v2", "0", &"x".repeat(100)] {
            assert_eq!(text.parse::<LockName>().unwrap().as_str(), text);
        }
        for text in ["", ".", "..", ".a", "-a", "a/b", "a b", "ä", "a\n", &"x".repeat(101)] {
            assert!(text.parse::<LockName>().is_err(), "{text:?}");
            assert!(serde_json::from_value::<LockName>(text.into()).is_err(), "{text:?}");
        }
    }
}

//! Names of snapshots: such that Kubernetes can name an object by them, and made from store time where nobody chooses one.

use std::{fmt, str::FromStr};

use tidemark_store::StoreSecond;

use crate::names::Generation;

/// The most characters of a name: a label of DNS.
const MAX_NAME_CHARS: usize = 63;
/// What the names of pins of closing manifests begin with: `before-g2`.
const CLOSING_PREFIX: &str = "before-";

/// The name of a snapshot: at most 63 lower-case letters, digits and hyphens, that begins and ends with a letter or digit. Those of the
/// form `before-g2` are the catalog's own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotName(String);

/// Why a text is not the name of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" cannot name a snapshot; nothing was made; choose up to 63 lower-case letters, digits and hyphens, that begin and end \
     with a letter or digit and are not of the form \"before-g2\""
)]
pub struct InvalidSnapshotName(String);

impl SnapshotName {
    /// The name of the `nth` snapshot, from 1 on, that was made in the second `at`. Names sort as times do.
    pub(crate) fn dated(at: StoreSecond, nth: u32) -> Self {
        let time = at.to_string().to_ascii_lowercase().replace(':', "-");
        Self(if nth > 1 { format!("snapshot-{time}-{nth}") } else { format!("snapshot-{time}") })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SnapshotName {
    type Err = InvalidSnapshotName;

    fn from_str(text: &str) -> Result<Self, InvalidSnapshotName> {
        let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let sound = (1..=MAX_NAME_CHARS).contains(&text.len())
            && text.bytes().all(is_inner)
            && !text.starts_with('-')
            && !text.ends_with('-')
            && successor_of_closing(text).is_none();
        if sound { Ok(Self(text.to_owned())) } else { Err(InvalidSnapshotName(text.chars().take(80).collect())) }
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of the pin of the manifest that closes a generation in favour of `successor`.
pub(crate) fn closing_name(successor: &Generation) -> String {
    format!("{CLOSING_PREFIX}{successor}")
}

/// The generation that follows, if `name` is that of the pin of a closing manifest.
pub(crate) fn successor_of_closing(name: &str) -> Option<Generation> {
    name.strip_prefix(CLOSING_PREFIX)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_kubernetes_or_the_catalog_would_refuse_are_refused() {
        for name in ["daily", "a", "7", "before-upgrade", "before-g2b", &"x".repeat(63)] {
            assert_eq!(name.parse::<SnapshotName>().unwrap().as_str(), name);
        }
        for name in ["", "-a", "a-", "A", "a.b", "a/b", "a b", "ä", "before-g2", &"x".repeat(64)] {
            let refused = name.parse::<SnapshotName>().unwrap_err().to_string();
            assert_eq!(refused.split("; ").count(), 3, "{refused}");
        }
        assert_eq!(successor_of_closing(&closing_name(&Generation::first())), Some(Generation::first()));
    }

    proptest! {
        #[test]
        fn a_name_that_is_made_is_valid_and_sorts_as_the_time_does(
            one in 1_400_000_000..5_000_000_000_u64,
            other in 1_400_000_000..5_000_000_000_u64,
            nth in 1..9_u32,
        ) {
            let named = |at, nth| SnapshotName::dated(StoreSecond::from_unix(at), nth);
            prop_assert_eq!(named(one, nth).as_str().parse::<SnapshotName>(), Ok(named(one, nth)));
            prop_assert_eq!(named(one, 1).cmp(&named(other, 1)), one.cmp(&other));
            prop_assert!(named(one, nth) < named(one, nth + 1));
        }
    }
}

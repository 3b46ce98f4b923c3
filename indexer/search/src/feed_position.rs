//! Positions in the feed of changes: up to which record of which generation a client has read.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use tidemark_catalog::{FIRST_SEQ, Generation, IndexId, LogId, Manifest};
use xxhash_rust::xxh3::xxh3_64;

/// The most digits of a generation's number, and of a seq: what they write fits into 64 bits.
const MAX_DIGITS: usize = 18;
/// Digits of a [`FeedOrigin`].
const ORIGIN_DIGITS: usize = 16;

/// The texts that are positions, as a regular expression.
pub const FEED_POSITION_PATTERN: &str = "g[1-9][0-9]{0,17}:(0|[1-9][0-9]{0,17})(:[0-9a-f]{16})?";

/// A place in the feed of changes: after the record `seq` of a generation. As text `g3:1234:5f2a91c07be0d4a3`; the last part tells the
/// index and its log from others, and may be left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FeedPosition {
    /// The generation of the index.
    pub generation: Generation,
    /// The seq of the last record that was read; 0 before the first one.
    pub seq: u64,
    /// The index and its log; absent where the index names none, or the client left it out.
    pub origin: Option<FeedOrigin>,
}

/// Tells an index and its log from most others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedOrigin {
    log: u32,
    index: u32,
}

/// Where a position comes from, other than the index that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ForeignOrigin {
    /// An index of another log.
    Log,
    /// Another index of the same log, or one that had the same name before it was purged or lost.
    Index,
}

/// Why a text is no position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a position in the feed of changes; expected one as \"g1:1234\"")]
pub struct InvalidPosition(String);

impl FeedPosition {
    /// After record `seq` of the generation that `manifest` is of.
    pub(crate) fn of(manifest: &Manifest, seq: u64) -> Self {
        Self { generation: manifest.generation.clone(), seq, origin: FeedOrigin::of(manifest) }
    }

    /// Before the first record of the generation that `manifest` is of.
    pub(crate) fn first(manifest: &Manifest) -> Self {
        Self::of(manifest, FIRST_SEQ - 1)
    }

    /// After the last record of `manifest`.
    pub(crate) fn end(manifest: &Manifest) -> Self {
        Self::of(manifest, last_seq(manifest))
    }

    /// Whether it is one in the generation that `manifest` is of, with no record after it. It may be one of a replica that is further ahead.
    pub(crate) fn is_end_of(&self, manifest: &Manifest) -> bool {
        self.generation == manifest.generation
            && self.foreign_origin(manifest).is_none()
            && self.seq >= last_seq(manifest)
    }

    /// Where the position comes from, if that is another index than the one that `manifest` is of.
    pub(crate) fn foreign_origin(&self, manifest: &Manifest) -> Option<ForeignOrigin> {
        let (own, served) = self.origin.zip(FeedOrigin::of(manifest))?;
        if own.log != served.log {
            return Some(ForeignOrigin::Log);
        }
        (own.index != served.index).then_some(ForeignOrigin::Index)
    }
}

/// The seq of the last record; 0 where there is none.
pub(crate) fn last_seq(manifest: &Manifest) -> u64 {
    manifest.next_seq.saturating_sub(1)
}

impl FeedOrigin {
    fn of(manifest: &Manifest) -> Option<Self> {
        let (LogId(log), IndexId(index)) = (&manifest.claim.as_ref()?.log, manifest.id.as_ref()?);
        Some(Self { log: short_hash(log), index: short_hash(index) })
    }

    fn read(text: &str) -> Option<Self> {
        let is_origin =
            text.len() == ORIGIN_DIGITS && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let (log, index) = text.split_at_checked(ORIGIN_DIGITS / 2).filter(|_| is_origin)?;
        let number = |digits| u32::from_str_radix(digits, 16).ok();
        Some(Self { log: number(log)?, index: number(index)? })
    }
}

fn short_hash(id: &str) -> u32 {
    u32::try_from(xxh3_64(id.as_bytes()) >> 32).unwrap_or_default()
}

impl FromStr for FeedPosition {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        read(text).ok_or_else(|| InvalidPosition(text.chars().take(80).collect()))
    }
}

fn read(text: &str) -> Option<FeedPosition> {
    let mut parts = text.split(':');
    let (generation, seq, origin) = (parts.next()?, parts.next()?, parts.next());
    // "g" and the digits.
    let is_short = generation.len() <= 1 + MAX_DIGITS && seq.len() <= MAX_DIGITS;
    let is_plain = seq == "0" || !seq.starts_with('0') && seq.bytes().all(|digit| digit.is_ascii_digit());
    (is_short && is_plain && parts.next().is_none()).then_some(())?;
    let origin = match origin {
        Some(origin) => Some(FeedOrigin::read(origin)?),
        None => None,
    };
    Some(FeedPosition { generation: generation.parse().ok()?, seq: seq.parse().ok()?, origin })
}

impl fmt::Display for FeedPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { generation, seq, origin } = self;
        write!(f, "{generation}:{seq}")?;
        origin.map_or(Ok(()), |FeedOrigin { log, index }| write!(f, ":{log:08x}{index:08x}"))
    }
}

impl TryFrom<String> for FeedPosition {
    type Error = InvalidPosition;

    fn try_from(text: String) -> Result<Self, InvalidPosition> {
        text.parse()
    }
}

impl From<FeedPosition> for String {
    fn from(position: FeedPosition) -> Self {
        position.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{option, prelude::*};
    use tidemark_catalog::{IndexOwner, LogClaim};

    use super::*;

    fn manifest(log: &str, index: &str) -> Manifest {
        let owner = IndexOwner::Named { name: "test".to_owned() };
        let claim = LogClaim { log: LogId(log.to_owned()), url: "memory:///".to_owned(), owner };
        let first = Manifest::new(Generation::first()).of_index(IndexId(index.to_owned()));
        Manifest { claim: Some(claim), next_seq: 8, ..first }
    }

    #[test]
    fn a_position_names_generation_seq_log_and_index() {
        let ours = manifest("a", "1");
        let end = FeedPosition::end(&ours);
        assert!(
            end.to_string().starts_with("g1:7:") && end.to_string().len() == "g1:7:".len() + ORIGIN_DIGITS,
            "{end}"
        );
        assert_eq!(end.to_string().parse(), Ok(end.clone()));
        let origins = [("a", "1"), ("b", "1"), ("a", "2"), ("b", "2")].map(|(log, index)| manifest(log, index));
        assert_eq!(
            origins.each_ref().map(|other| end.foreign_origin(other)),
            [None, Some(ForeignOrigin::Log), Some(ForeignOrigin::Index), Some(ForeignOrigin::Log)]
        );
        let short: FeedPosition = "g1:7".parse().unwrap();
        assert_eq!(short.foreign_origin(&origins[1]), None, "it names none");
        assert_eq!(FeedPosition::first(&ours).seq, 0);
    }

    #[test]
    fn a_text_that_is_almost_a_position_is_refused() {
        for text in [
            "",
            "g1",
            "g1:",
            ":1",
            "g0:1",
            "g01:1",
            "G1:1",
            "g1:01",
            "g1:+1",
            "g1:-1",
            "g1:1 ",
            "g1:1:",
            "g1:1:5f2a91c07be0d4a",
            "g1:1:5f2a91c0",
            "g1:1:5F2A91C07BE0D4A3",
            "g1:1:5f2a91c07be0d4a3:",
            "g1:1:5f2a91c07be0d4\u{e9}",
            "g1:1234567890123456789",
            "g1234567890123456789:1",
            "now",
        ] {
            assert!(text.parse::<FeedPosition>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_position_is_read_again(generation in 1u64..1_000_000, seq in 0u64..1_000_000_000_000, origin in option::of(any::<(u32, u32)>())) {
            let generation = format!("g{generation}").parse().unwrap();
            let origin = origin.map(|(log, index)| FeedOrigin { log, index });
            let position = FeedPosition { generation, seq, origin };
            prop_assert_eq!(position.to_string().parse(), Ok(position));
        }

        #[test]
        fn any_text_is_read_without_a_panic_and_writes_itself(text in "g?[0-9:a-f+]{0,32}|g1:[0-9]{1,3}:[0-9a-f]{15,17}|\\PC{0,12}") {
            if let Ok(position) = text.parse::<FeedPosition>() {
                prop_assert_eq!(position.to_string(), text);
            }
        }
    }
}

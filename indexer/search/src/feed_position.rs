//! Positions in the feed of changes: up to which record of which generation a client has read.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use tidemark_catalog::{FIRST_SEQ, Generation, LogId, Manifest};
use xxhash_rust::xxh3::xxh3_64;

/// The most digits of a generation's number, and of a seq: what they write fits into 64 bits.
const MAX_DIGITS: usize = 18;
/// Digits of a [`LogTag`].
const TAG_DIGITS: usize = 8;

/// The texts that are positions, as a regular expression.
pub const FEED_POSITION_PATTERN: &str = "g[1-9][0-9]{0,17}:(0|[1-9][0-9]{0,17})(:[0-9a-f]{8})?";

/// A place in the feed of changes: after the record `seq` of a generation. As text `g3:1234:5f2a91c0`; the last part tells the log from
/// others, and may be left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FeedPosition {
    /// The generation of the index.
    pub generation: Generation,
    /// The seq of the last record that was read; 0 before the first one.
    pub seq: u64,
    /// The log; absent where the index names none, or the client left it out.
    pub log: Option<LogTag>,
}

/// Tells a log from most others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogTag(u32);

/// Why a text is no position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a position in the feed of changes; expected one as \"g1:1234\"")]
pub struct InvalidPosition(String);

impl FeedPosition {
    /// After record `seq` of the generation that `manifest` is of.
    pub(crate) fn of(manifest: &Manifest, seq: u64) -> Self {
        Self { generation: manifest.generation.clone(), seq, log: log_tag(manifest) }
    }

    /// Before the first record of the generation that `manifest` is of.
    pub(crate) fn first(manifest: &Manifest) -> Self {
        Self::of(manifest, FIRST_SEQ - 1)
    }

    /// After the last record of `manifest`.
    pub(crate) fn end(manifest: &Manifest) -> Self {
        Self::of(manifest, last_seq(manifest))
    }

    /// Whether the position and `manifest` name different logs.
    pub(crate) fn is_of_another_log(&self, manifest: &Manifest) -> bool {
        self.log.zip(log_tag(manifest)).is_some_and(|(own, served)| own != served)
    }
}

/// The seq of the last record; 0 where there is none.
pub(crate) fn last_seq(manifest: &Manifest) -> u64 {
    manifest.next_seq.saturating_sub(1)
}

fn log_tag(manifest: &Manifest) -> Option<LogTag> {
    manifest.claim.as_ref().map(|claim| LogTag::of(&claim.log))
}

impl LogTag {
    fn of(LogId(id): &LogId) -> Self {
        Self(u32::try_from(xxh3_64(id.as_bytes()) >> 32).unwrap_or_default())
    }
}

impl FromStr for FeedPosition {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        read(text).ok_or_else(|| InvalidPosition(text.chars().take(80).collect()))
    }
}

fn read(text: &str) -> Option<FeedPosition> {
    let mut parts = text.split(':');
    let (generation, seq, tag) = (parts.next()?, parts.next()?, parts.next());
    // "g" and the digits.
    let is_short = generation.len() <= 1 + MAX_DIGITS && seq.len() <= MAX_DIGITS;
    let is_plain = seq == "0" || !seq.starts_with('0') && seq.bytes().all(|digit| digit.is_ascii_digit());
    (is_short && is_plain && parts.next().is_none()).then_some(())?;
    let log = match tag {
        Some(tag) => Some(read_tag(tag)?),
        None => None,
    };
    Some(FeedPosition { generation: generation.parse().ok()?, seq: seq.parse().ok()?, log })
}

fn read_tag(text: &str) -> Option<LogTag> {
    let is_tag = text.len() == TAG_DIGITS && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    is_tag.then(|| u32::from_str_radix(text, 16).ok().map(LogTag))?
}

impl fmt::Display for FeedPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { generation, seq, log } = self;
        write!(f, "{generation}:{seq}")?;
        log.map_or(Ok(()), |LogTag(tag)| write!(f, ":{tag:08x}"))
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

    fn manifest(log: &str) -> Manifest {
        let owner = IndexOwner::Named { name: "test".to_owned() };
        let claim = LogClaim { log: LogId(log.to_owned()), url: "memory:///".to_owned(), owner };
        Manifest { claim: Some(claim), next_seq: 8, ..Manifest::new(Generation::first()) }
    }

    #[test]
    fn a_position_names_generation_seq_and_log() {
        let (ours, other) = (manifest("a"), manifest("b"));
        let end = FeedPosition::end(&ours);
        assert!(end.to_string().starts_with("g1:7:") && end.to_string().len() == "g1:7:".len() + TAG_DIGITS, "{end}");
        assert_eq!(end.to_string().parse(), Ok(end.clone()));
        assert!(end.is_of_another_log(&other) && !end.is_of_another_log(&ours));
        let short: FeedPosition = "g1:7".parse().unwrap();
        assert!(!short.is_of_another_log(&other), "it names none");
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
            "g1:1:5f2a91c",
            "g1:1:5F2A91C0",
            "g1:1:5f2a91c0:",
            "g1:1234567890123456789",
            "g1234567890123456789:1",
            "now",
        ] {
            assert!(text.parse::<FeedPosition>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_position_is_read_again(generation in 1u64..1_000_000, seq in 0u64..1_000_000_000_000, tag in option::of(any::<u32>())) {
            let generation = format!("g{generation}").parse().unwrap();
            let position = FeedPosition { generation, seq, log: tag.map(LogTag) };
            prop_assert_eq!(position.to_string().parse(), Ok(position));
        }

        #[test]
        fn any_text_is_read_without_a_panic_and_writes_itself(text in "g?[0-9:a-f+]{0,24}|\\PC{0,12}") {
            if let Ok(position) = text.parse::<FeedPosition>() {
                prop_assert_eq!(position.to_string(), text);
            }
        }
    }
}

//! Tokens: KSUIDs whose second is store time.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use svix_ksuid::{Ksuid, KsuidLike as _};

use tidemark_store::{Entropy, StoreSecond};

/// The name of one log entry: a KSUID, 32 bits of seconds since 2014-05-13T16:53:20Z and 128 random bits.
///
/// Tokens sort by time, as bytes and as text alike. The order of two tokens of the same second is random and means
/// nothing. Text and binary forms are those of segmentio's KSUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token([u8; Token::BYTES]);

/// Why a text is not a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a token: expected a KSUID of 27 base62 digits, at most \"aWgEPTl1tmebfsQzFP4bxwgy80V\"")]
pub struct ParseTokenError {
    text: String,
}

impl Token {
    /// Length of the binary form.
    pub const BYTES: usize = 20;
    /// Length of the text form.
    pub const DIGITS: usize = 27;

    /// A new token of second `at`. Seconds outside the range of KSUIDs are moved to its nearest end.
    pub fn new(at: StoreSecond, entropy: &Entropy) -> Self {
        Self::from_parts(at, entropy.bytes())
    }

    /// A new token of second `at`, or of the second of `last` if that is later, that sorts after `last`.
    ///
    /// It is a random 64-bit step above a token of the same second. (Another random token above it would use up the rest of the
    /// second after some hundred appends.)
    pub fn after(last: Self, at: StoreSecond, entropy: &Entropy) -> Self {
        if last.second() < at {
            return Self::new(at, entropy);
        }
        let [_, _, _, _, random @ ..] = last.0;
        let step = u128::from(u64::from_be_bytes(entropy.bytes())) + 1;
        match u128::from_be_bytes(random).checked_add(step) {
            Some(random) => Self::from_parts(last.second(), random.to_be_bytes()),
            None => Self::new(last.second().next(), entropy),
        }
    }

    /// The token of second `at` with the given random part.
    pub fn from_parts(at: StoreSecond, random: [u8; 16]) -> Self {
        let at = at.clamp(StoreSecond::KSUID_EPOCH, StoreSecond::KSUID_END);
        let offset = u32::try_from(at.unix() - StoreSecond::KSUID_EPOCH.unix()).unwrap_or(u32::MAX);
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&offset.to_be_bytes());
        bytes[4..].copy_from_slice(&random);
        Self(bytes)
    }

    /// The smallest token of second `at`: where a listing of that second starts.
    pub fn first_of(at: StoreSecond) -> Self {
        Self::from_parts(at, [0; 16])
    }

    /// The second that the token bears.
    pub fn second(&self) -> StoreSecond {
        let [a, b, c, d, ..] = self.0;
        StoreSecond::from_unix(StoreSecond::KSUID_EPOCH.unix() + u64::from(u32::from_be_bytes([a, b, c, d])))
    }

    /// The binary form.
    pub fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// The token with this binary form: every 20 bytes are one.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }
}

impl FromStr for Token {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, ParseTokenError> {
        let refused = || ParseTokenError { text: text.chars().take(64).collect() };
        if text.len() != Self::DIGITS || !text.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(refused());
        }
        let token = Self(*Ksuid::from_base62(text).map_err(|_| refused())?.bytes());
        // A value beyond 160 bits would wrap to another token: what is printed must be what was read.
        if token.to_string() == text { Ok(token) } else { Err(refused()) }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Ksuid::from_bytes(self.0).to_base62())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Token {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tokens_of_one_writer_ascend_within_a_second_too() {
        let (entropy, at) = (Entropy::seeded(1), StoreSecond::from_unix(1_700_000_000));
        let mut last = Token::new(at, &entropy);
        for _ in 0..10_000 {
            let next = Token::after(last, at, &entropy);
            assert!(next > last && next.second() == at);
            last = next;
        }
        assert!(Token::after(last, at.before(std::time::Duration::from_secs(5)), &entropy) > last);
        assert_eq!(Token::after(last, at.next(), &entropy).second(), at.next());
        let end = Token::from_parts(at, [0xFF; 16]);
        assert!(Token::after(end, at, &entropy) > end);
    }

    /// The examples that segmentio/ksuid publishes in its README and tests.
    #[test]
    fn reads_segmentios_published_examples() {
        let token: Token = "0ujtsYcgvSTl8PAuAdqWYSMnLOv".parse().unwrap();
        assert_eq!(hex::encode_upper(token.as_bytes()), "0669F7EFB5A1CD34B5F99D1154FB6853345C9735");
        assert_eq!(token.second(), StoreSecond::from_unix(1_400_000_000 + 107_608_047));
        assert_eq!(token.to_string(), "0ujtsYcgvSTl8PAuAdqWYSMnLOv");
        assert_eq!(Token::from_bytes([0; 20]).to_string(), "000000000000000000000000000");
        assert_eq!(Token::from_bytes([255; 20]).to_string(), "aWgEPTl1tmebfsQzFP4bxwgy80V");
    }

    #[test]
    fn refuses_what_is_no_token() {
        for text in [
            "",
            "x",
            "aWgEPTl1tmebfsQzFP4bxwgy80W",
            "zzzzzzzzzzzzzzzzzzzzzzzzzzz",
            "0ujtsYcgvSTl8PAuAdqWYSMnLO-",
            "0ujtsYcgvSTl8PAuAdqWYSMnLOvv",
        ] {
            assert!(text.parse::<Token>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_and_bytes_round_trip_and_sort_alike(a: [u8; 20], b: [u8; 20]) {
            let (a, b) = (Token::from_bytes(a), Token::from_bytes(b));
            prop_assert_eq!(a.to_string().parse::<Token>().unwrap(), a);
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text: String) {
            let _ = text.parse::<Token>();
        }

        #[test]
        fn the_second_survives(unix in 1_400_000_000u64..=1_400_000_000 + u64::from(u32::MAX), random: [u8; 16]) {
            let at = StoreSecond::from_unix(unix);
            let token = Token::from_parts(at, random);
            prop_assert_eq!(token.second(), at);
            prop_assert!(Token::first_of(at) <= token);
        }
    }
}

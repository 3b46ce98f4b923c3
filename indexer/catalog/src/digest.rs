//! A digest of a set of records that does not depend on their order.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest as _, Sha256};
use tidemark_wal::{Evidence, Outcome, Token};

/// SHA-256 of the body of an entry as it was judged. Written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BodyDigest([u8; 32]);

impl BodyDigest {
    /// The digest of `body`.
    pub fn of(body: &[u8]) -> Self {
        Self(Sha256::digest(body).into())
    }
}

/// What a set digest says of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetElement {
    /// The entry.
    pub token: Token,
    /// The operation's place within the entry.
    pub op: u32,
    /// What was decided.
    pub outcome: Outcome,
    /// What the outcome rests on.
    pub evidence: Option<Evidence>,
    /// The entry's body as it was judged; `None` if it was not read.
    pub body: Option<BodyDigest>,
}

/// The sum modulo 2^256 of one SHA-256 an element, an element being (token, op, outcome, evidence, digest of the body).
///
/// Commutative, so a program may recompute a range from the bucket in any order, and digests of parts merge
/// into the digest of the whole. A multiset: an element that is inserted twice counts twice. It guards against mistakes
/// and damage, not against an attacker who chooses tokens to make it collide. Written as 64 hexadecimal digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct SetDigest([u8; 32]);

/// Separates these hashes from every other use of SHA-256.
const DOMAIN: &[u8] = b"tidemark set digest 1\0";
/// What stands for the digest of a body that was not read.
const UNREAD_BODY: [u8; 32] = [0; 32];

impl SetDigest {
    /// The digest of the set of one record.
    pub fn of(element: &SetElement) -> Self {
        let SetElement { token, op, outcome, evidence, body } = *element;
        let mut hasher = Sha256::new();
        hasher.update(DOMAIN);
        hasher.update(token.as_bytes());
        hasher.update(op.to_be_bytes());
        hasher.update([outcome_code(outcome), evidence_code(evidence)]);
        hasher.update(body.map_or(UNREAD_BODY, |body| body.0));
        Self(hasher.finalize().into())
    }

    /// Adds a record to the set.
    pub fn insert(&mut self, element: &SetElement) {
        self.merge(&Self::of(element));
    }

    /// Adds all records of another set.
    pub fn merge(&mut self, other: &Self) {
        let mut carry = 0u16;
        for (mine, theirs) in self.0.iter_mut().zip(other.0).rev() {
            let sum = u16::from(*mine) + u16::from(theirs) + carry;
            *mine = sum.to_be_bytes()[1];
            carry = sum >> 8;
        }
    }

    /// The digest of this set without the records of `part`, a part of it.
    #[must_use]
    pub fn without(&self, part: &Self) -> Self {
        let mut rest = *self;
        let mut borrow = 0u16;
        for (mine, theirs) in rest.0.iter_mut().zip(part.0).rev() {
            let difference = 0x100 + u16::from(*mine) - u16::from(theirs) - borrow;
            *mine = difference.to_be_bytes()[1];
            borrow = u16::from(difference < 0x100);
        }
        rest
    }
}

impl std::iter::Sum for SetDigest {
    fn sum<I: Iterator<Item = Self>>(digests: I) -> Self {
        digests.fold(Self::default(), |mut sum, digest| {
            sum.merge(&digest);
            sum
        })
    }
}

/// The byte that stands for an outcome. Part of the format: never changed, only added to.
fn outcome_code(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Pending => 0,
        Outcome::Committed => 1,
        Outcome::Late => 2,
        Outcome::Aborted => 3,
        Outcome::Malformed => 4,
        Outcome::Duplicate => 5,
        Outcome::Fenced => 6,
        Outcome::Expired => 7,
        Outcome::Unreadable => 8,
        Outcome::Unknown => 9,
        Outcome::Conflicted => 10,
    }
}

/// The byte that stands for the evidence. Part of the format: never changed, only added to.
fn evidence_code(evidence: Option<Evidence>) -> u8 {
    match evidence {
        None => 0,
        Some(Evidence::Bound) => 1,
        Some(Evidence::Timed) => 2,
        Some(Evidence::Inferred) => 3,
    }
}

impl fmt::Display for BodyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for BodyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for BodyDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BodyDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        digits(deserializer, "SHA-256").map(Self)
    }
}

impl fmt::Display for SetDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for SetDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for SetDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SetDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        digits(deserializer, "set digest").map(Self)
    }
}

/// The bytes of a digest, which an error calls `what`.
fn digits<'de, D: Deserializer<'de>>(deserializer: D, what: &str) -> Result<[u8; 32], D::Error> {
    let text = String::deserialize(deserializer)?;
    let mut bytes = [0; 32];
    hex::decode_to_slice(&text, &mut bytes).map_err(|_| {
        let text: String = text.chars().take(80).collect();
        D::Error::custom(format!("\"{text}\" is not a {what} of 64 hexadecimal digits"))
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn element() -> impl Strategy<Value = SetDigest> {
        (any::<[u8; 20]>(), any::<u32>())
            .prop_map(|(token, op)| SetDigest::of(&SetElement { token: Token::from_bytes(token), op, ..committed() }))
    }

    fn committed() -> SetElement {
        let (outcome, evidence) = (Outcome::Committed, Some(Evidence::Bound));
        SetElement { token: Token::from_bytes([7; 20]), op: 1, outcome, evidence, body: Some(BodyDigest::of(b"body")) }
    }

    #[test]
    fn the_bytes_of_an_element_are_part_of_the_format() {
        let late = SetElement { outcome: Outcome::Late, evidence: Some(Evidence::Timed), ..committed() };
        let digest = |element: &SetElement| SetDigest::of(element).to_string();
        let bytes = [b"tidemark set digest 1\0".as_slice(), &[7; 20], &[0, 0, 0, 1], &[2, 2]].concat();
        let with_body = [&bytes[..], &Sha256::digest(b"body")].concat();
        assert_eq!(digest(&late), hex::encode(Sha256::digest(with_body)));
        let unread = SetElement { body: None, ..late };
        assert_eq!(digest(&unread), hex::encode(Sha256::digest([&bytes[..], &[0; 32]].concat())));
    }

    #[test]
    fn carries_wrap_around() {
        let mut most = SetDigest([255; 32]);
        let mut one = SetDigest::default();
        one.0[31] = 1;
        most.merge(&one);
        assert_eq!(most, SetDigest::default());
        assert_eq!(SetDigest::default().without(&one), SetDigest([255; 32]));
    }

    #[test]
    fn tells_outcome_evidence_and_body_apart() {
        let others = [
            SetElement { outcome: Outcome::Late, ..committed() },
            SetElement { evidence: Some(Evidence::Timed), ..committed() },
            SetElement { body: Some(BodyDigest::of(b"other")), ..committed() },
            SetElement { body: None, ..committed() },
        ];
        for other in others {
            assert_ne!(SetDigest::of(&other), SetDigest::of(&committed()), "{other:?}");
        }
    }

    #[test]
    fn the_text_of_a_body_digest_round_trips() {
        let digest = BodyDigest::of(b"body");
        let text = serde_json::to_string(&digest).unwrap();
        assert_eq!(text, format!("\"{digest}\""));
        assert_eq!(serde_json::from_str::<BodyDigest>(&text).unwrap(), digest);
        assert!(serde_json::from_str::<BodyDigest>("\"ab\"").is_err());
    }

    proptest! {
        #[test]
        fn order_does_not_matter(elements in prop::collection::vec(element(), 0..20), split in 0usize..20) {
            let whole: SetDigest = elements.iter().copied().sum();
            let backwards: SetDigest = elements.iter().rev().copied().sum();
            prop_assert_eq!(whole, backwards);
            let (left, right) = elements.split_at(split.min(elements.len()));
            let (left, right): (SetDigest, SetDigest) = (left.iter().copied().sum(), right.iter().copied().sum());
            let mut merged = left;
            merged.merge(&right);
            prop_assert_eq!(whole, merged);
            prop_assert_eq!(whole.without(&right), left);
        }

        #[test]
        fn text_round_trips(digest in element()) {
            let text = serde_json::to_string(&digest).unwrap();
            prop_assert_eq!(serde_json::from_str::<SetDigest>(&text).unwrap(), digest);
        }
    }
}

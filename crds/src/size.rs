//! Sizes in bytes as people write them in a resource.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// What a [`ByteSize`] may look like.
pub(crate) const PATTERN: &str = "^[0-9]{1,10}(Ki|Mi|Gi)?$";

/// A number of bytes: a whole number, or one of `Ki`, `Mi` or `Gi` (powers of 1024), such as `1Mi`.
///
/// It is kept as it was written; [`ByteSize::bytes`] reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(String);

/// A text that does not write a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid size \"{0}\"; write bytes as a whole number, or with Ki, Mi or Gi, such as 1Mi")]
pub struct ByteSizeError(String);

/// What one unit stands for: powers of 1024 first, then those of 1000.
const UNITS: [(&str, u64); 6] =
    [("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30), ("k", 1000), ("M", 1_000_000), ("G", 1_000_000_000)];
/// How many of them a [`ByteSize`] may have.
const BINARY_UNITS: usize = 3;

impl ByteSize {
    /// The size that `text` writes; it is read only by [`ByteSize::bytes`].
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The size in bytes.
    pub fn bytes(&self) -> Result<u64, ByteSizeError> {
        parse(&self.0, &UNITS[..BINARY_UNITS])
    }
}

/// The size that `text` writes in bytes: a whole number, or one of `Ki`, `Mi`, `Gi`, `k`, `M` or `G`, as Kubernetes writes
/// quantities.
pub fn parse_byte_size(text: &str) -> Result<u64, ByteSizeError> {
    parse(text, &UNITS)
}

fn parse(text: &str, units: &[(&str, u64)]) -> Result<u64, ByteSizeError> {
    let wrong = || ByteSizeError(text.to_owned());
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let bytes = match unit {
        "" => 1,
        unit => units.iter().find(|(name, _)| *name == unit).map(|(_, bytes)| *bytes).ok_or_else(wrong)?,
    };
    // Ten digits of the largest unit fit.
    let number: u64 = number.parse().ok().filter(|_| number.len() <= 10).ok_or_else(wrong)?;
    Ok(number * bytes)
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JsonSchema for ByteSize {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ByteSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 12, "pattern": PATTERN})
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        let read = |text| ByteSize::new(text).bytes().ok();
        assert_eq!(read("1Mi"), Some(1 << 20));
        assert_eq!(read("4096"), Some(4096));
        assert_eq!(read("64Ki"), Some(65_536));
        assert_eq!(read("2Gi"), Some(2 << 30));
        for wrong in ["", "Mi", "1M", "1.5Mi", "-1", "1 Mi", "1mi", "12345678901"] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
        assert_eq!(parse_byte_size("2k"), Ok(2000));
        assert_eq!(parse_byte_size("9999999999Gi"), Ok(9_999_999_999 << 30));
        assert!(parse_byte_size("1Ti").is_err());
    }

    proptest! {
        #[test]
        fn what_matches_the_pattern_is_read(text in "[0-9]{0,11}(K|M|G)?i?") {
            let pattern = regex::Regex::new(PATTERN).unwrap();
            prop_assert_eq!(ByteSize::new(text.as_str()).bytes().is_ok(), pattern.is_match(&text), "{}", text);
        }
    }
}

//! Sizes in bytes as people write them in a resource, and the quantities of Kubernetes.
//!
//! Read here because a size must be exactly what the definition's pattern lets pass, where parsers of sizes for people take more
//! (`1.5 MB`), and because a quantity of `k8s-openapi` is only its text.

use std::fmt;

use serde::{Deserialize, Serialize};

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

/// What one unit stands for, in thousandths because `m` is a unit of Kubernetes' quantities. The units of a [`ByteSize`] come first,
/// then those of other sizes in bytes.
const UNITS: [(&str, i128); 9] = [
    ("Ki", 1000 << 10),
    ("Mi", 1000 << 20),
    ("Gi", 1000 << 30),
    ("k", 1_000_000),
    ("M", 1_000_000_000),
    ("G", 1_000_000_000_000),
    ("Ti", 1000 << 40),
    ("T", 1_000_000_000_000_000),
    ("m", 1),
];
/// How many of them a [`ByteSize`] may have.
const BINARY_UNITS: usize = 3;
/// How many of them another size in bytes may have.
const BYTE_UNITS: usize = 6;

impl ByteSize {
    /// The size that `text` writes; it is read only by [`ByteSize::bytes`].
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The size in bytes.
    pub fn bytes(&self) -> Result<u64, ByteSizeError> {
        bytes(&self.0, &UNITS[..BINARY_UNITS])
    }
}

/// The size that `text` writes in bytes: a whole number, or one of `Ki`, `Mi`, `Gi`, `k`, `M` or `G`, as Kubernetes writes
/// quantities.
pub fn parse_byte_size(text: &str) -> Result<u64, ByteSizeError> {
    bytes(text, &UNITS[..BYTE_UNITS])
}

/// What a quantity of Kubernetes (`500m`, `1Gi`, `0.5`) says in thousandths, rounded up as the API server does.
pub fn parse_quantity_millis(text: &str) -> Option<i128> {
    millis(text, &UNITS)
}

fn bytes(text: &str, units: &[(&str, i128)]) -> Result<u64, ByteSizeError> {
    // Ten digits of the largest unit fit.
    let whole = !text.contains('.') && text.chars().filter(char::is_ascii_digit).count() <= 10;
    let millis = millis(text, units).filter(|_| whole);
    millis.and_then(|millis| u64::try_from(millis / 1000).ok()).ok_or_else(|| ByteSizeError(text.to_owned()))
}

fn millis(text: &str, units: &[(&str, i128)]) -> Option<i128> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit {
        "" => 1000,
        unit => units.iter().find(|(name, _)| *name == unit).map(|(_, millis)| *millis)?,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || whole.len() > 15 || fraction.len() > 9 || fraction.contains('.') {
        return None;
    }
    let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    // 24 digits of the largest unit do not fit.
    Some((digits.checked_mul(factor)?.checked_add(scale - 1)?) / scale)
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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

    #[test]
    fn quantities_are_compared_by_what_they_say() {
        let quantity = parse_quantity_millis;
        assert_eq!(quantity("1Gi"), quantity("1024Mi"));
        assert_eq!(quantity("0.5"), quantity("500m"));
        assert_eq!(quantity("1"), quantity("1000m"));
        assert_ne!(quantity("1G"), quantity("1Gi"));
        assert_eq!((quantity("one"), quantity(""), quantity("10s")), (None, None, None));
        assert_eq!(quantity("0.0001"), Some(1), "it is rounded up");
        assert_eq!(quantity("999999999999999.999999999Ti"), None, "it does not fit");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[0-9]{0,20}([.][0-9]{0,12})?(k|M|G|T)?i?|\\PC*") {
            let _ = parse_quantity_millis(&text);
        }
    }
}

//! Keys between the adapter and the transport.
//!
//! `object_store` refuses keys such as `log//x`, `log/../x` or `log/\u{1}`, and one of them would fail the whole page of
//! a listing that contains it. Listings therefore pass such an invalid key on in an escaped form, which the adapter turns
//! back into the key itself. An invalid key can be listed, but it cannot be read or written.

use object_store::path::Path;

/// What an escaped key starts with: a private-use character that no valid key starts with.
const ESCAPE_MARK: char = '\u{10fffd}';

/// The transport's path of `key` below `base`, or the rule that the key breaks.
pub(crate) fn path(base: &str, key: &str) -> Result<Path, String> {
    let full = below(base, key);
    let path = Path::parse(&full).map_err(|error| error.to_string())?;
    if path.as_ref() == full && !key.is_empty() && !full.starts_with(ESCAPE_MARK) {
        Ok(path)
    } else {
        Err("a key is not empty and neither starts nor ends with \"/\"".to_owned())
    }
}

/// `key` below the prefix `base`; either may be empty.
pub(crate) fn below(base: &str, key: &str) -> String {
    match (base, key) {
        ("", key) => key.to_owned(),
        (base, "") => base.to_owned(),
        (base, key) => format!("{base}/{key}"),
    }
}

/// The listed path of `key`: the key itself where that is a path, else its escaped form.
pub(crate) fn listed(key: &str) -> Path {
    match Path::parse(key) {
        Ok(path) if path.as_ref() == key && !key.starts_with(ESCAPE_MARK) => path,
        // The mark and hexadecimal digits are a path.
        _ => Path::parse(escaped(key)).unwrap_or_default(),
    }
}

/// Whether a listing must escape `key`.
pub(crate) fn is_invalid(key: &str) -> bool {
    key.starts_with(ESCAPE_MARK) || !matches!(Path::parse(key), Ok(path) if path.as_ref() == key)
}

/// The form in which an invalid key passes through the transport.
pub(crate) fn escaped(key: &str) -> String {
    format!("{ESCAPE_MARK}{}", hex::encode(key))
}

/// The key that a listing means by `path`.
pub(crate) fn unescaped(path: &str) -> String {
    path.strip_prefix(ESCAPE_MARK)
        .and_then(|digits| hex::decode(digits).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn invalid_keys_pass_escaped_and_valid_ones_as_they_are() {
        for key in ["log//x", "log/../x", "log/\u{1}", "/log", "log/", "\u{10fffd}61", "."] {
            assert!(is_invalid(key), "{key:?}");
            assert_eq!(unescaped(listed(key).as_ref()), key);
            assert!(path("", key).is_err(), "{key:?}");
        }
        for key in ["log/x", "a b", "ü", "100%", "x#1", "a\\b", ".tidemark/root/1"] {
            assert!(!is_invalid(key), "{key:?}");
            assert_eq!(listed(key).as_ref(), key);
            assert_eq!(path("base", key).unwrap().as_ref(), format!("base/{key}"));
        }
    }

    proptest! {
        #[test]
        fn every_key_survives_a_listing(key: String) {
            prop_assert_eq!(unescaped(listed(&key).as_ref()), key);
        }
    }
}

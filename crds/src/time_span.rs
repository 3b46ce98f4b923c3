//! Spans of time as people write them in a resource.
//!
//! `jiff` reads them. The shape is ours: what CEL's `duration()` reads as well, so that the rules in the definition, which the API
//! server evaluates, and the program never differ; `jiff` alone takes more (`1 hour`).

use std::{fmt, sync::LazyLock, time::Duration};

use jiff::SignedDuration;
use regex::Regex;
use serde::{Deserialize, Serialize};

/// What a [`TimeSpan`] may look like. CEL's `duration()` reads everything that matches, and nothing that matches overflows it.
pub(crate) const PATTERN: &str = "^([0-9]{1,6}h)?([0-9]{1,7}m)?([0-9]{1,9}s)?([0-9]{1,12}ms)?$";

static SHAPE: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(PATTERN).ok());

/// A span of time: numbers with `h`, `m`, `s` and `ms`, each unit once and in this order, such as `1h30m` or `500ms`.
///
/// It is kept as it was written, so that one bad value does not make a whole list of resources unreadable;
/// [`TimeSpan::duration`] reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimeSpan(String);

/// A text that does not write a span of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid time span \"{0}\"; write a number with h, m, s or ms, such as 1h30m or 500ms")]
pub struct TimeSpanError(String);

impl TimeSpan {
    /// The span that `text` writes; it is read only by [`TimeSpan::duration`].
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The span as a duration.
    pub fn duration(&self) -> Result<Duration, TimeSpanError> {
        if SHAPE.as_ref().is_some_and(|shape| shape.is_match(&self.0)) {
            parse_span(&self.0)
        } else {
            Err(TimeSpanError(self.0.clone()))
        }
    }
}

/// The span that `text` writes, in any form that `jiff` reads, such as `1h30m` or `1h 30m`; never a negative one.
pub fn parse_span(text: &str) -> Result<Duration, TimeSpanError> {
    let span = text.parse::<SignedDuration>().ok().and_then(|span| Duration::try_from(span).ok());
    span.ok_or_else(|| TimeSpanError(text.to_owned()))
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Option<Duration> {
        TimeSpan::new(text).duration().ok()
    }

    #[test]
    fn spans_read_as_people_write_them() {
        assert_eq!(read("1h30m"), Some(Duration::from_mins(90)));
        assert_eq!(read("10s"), Some(Duration::from_secs(10)));
        assert_eq!(read("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(read("1h2m3s4ms"), Some(Duration::from_millis(3_723_004)));
        assert_eq!(read("0s"), Some(Duration::ZERO));
        for wrong in ["", "10", "s", "-5s", "1.5h", "1m1h", "1s1s", "1d", "1 h", "soon", "1h ", "9999999h"] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }

    proptest! {
        /// What the API server's pattern lets in can be read, and nothing else can.
        #[test]
        fn what_matches_the_pattern_is_read(text in "([0-9]{0,7}(h|m|s|ms)?){0,4}") {
            let pattern = regex::Regex::new(PATTERN).unwrap();
            prop_assert_eq!(read(&text).is_some(), text.len() >= 2 && pattern.is_match(&text), "{}", text);
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*") {
            let _ = read(&text);
        }
    }
}

//! What a grant may say: a holder that others can read, and spans that no other holder waits for without end.

use std::time::Duration;

/// The most characters of a holder.
const MAX_HOLDER_CHARS: usize = 200;
/// The most characters of a purpose.
const MAX_PURPOSE_CHARS: usize = 1000;
/// The longest time to live, in seconds: a week.
const MAX_TTL_SECONDS: u64 = 7 * 24 * 3600;
/// The longest time in which a guarded commit may be completed, in seconds: an hour.
const MAX_COMPLETE_WITHIN_SECONDS: u64 = 3600;
/// The longest time from a slot until what completes its commit is visible, in seconds: an expiry of a week, the longest of a log, and a
/// week for its other spans.
pub(super) const MAX_COMMIT_SECONDS: u64 = 14 * 24 * 3600;

/// Why a grant cannot say what it was asked to say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidGrant {
    /// The holder is empty, too long, or no text for people.
    #[error(
        "a holder has 1 to {MAX_HOLDER_CHARS} characters, none of them a control character, and this one has {chars}; name another"
    )]
    Holder {
        /// Its characters.
        chars: usize,
    },
    /// The purpose is too long, or no text for people.
    #[error(
        "a purpose has at most {MAX_PURPOSE_CHARS} characters, none of them a control character, and this one has {chars}; shorten it"
    )]
    Purpose {
        /// Its characters.
        chars: usize,
    },
    /// Others could contend at once, or hardly ever.
    #[error("a time to live is 1 to {MAX_TTL_SECONDS} s, and this one is {seconds} s; choose a span of that range")]
    TimeToLive {
        /// What was asked for.
        seconds: u64,
    },
    /// Nothing could be completed, or the next holder would wait for too long.
    #[error(
        "a guarded commit may be completed within 1 to {MAX_COMPLETE_WITHIN_SECONDS} s, and not {seconds} s; choose a span of that range"
    )]
    CompleteWithin {
        /// What was asked for.
        seconds: u64,
    },
}

/// What a grant says.
#[derive(Clone, Copy)]
pub(super) struct GrantTerms<'a> {
    pub(super) holder: &'a str,
    pub(super) purpose: Option<&'a str>,
    pub(super) ttl_seconds: u64,
    pub(super) complete_within_seconds: u64,
}

impl GrantTerms<'_> {
    /// Refused where one of them is beyond its limit.
    pub(super) fn check(self) -> Result<(), InvalidGrant> {
        let Self { holder, purpose, ttl_seconds, complete_within_seconds } = self;
        let purpose = purpose.unwrap_or_default();
        if holder.is_empty() || !is_readable(holder, MAX_HOLDER_CHARS) {
            return Err(InvalidGrant::Holder { chars: holder.chars().count() });
        }
        if !is_readable(purpose, MAX_PURPOSE_CHARS) {
            return Err(InvalidGrant::Purpose { chars: purpose.chars().count() });
        }
        if !(1..=MAX_TTL_SECONDS).contains(&ttl_seconds) {
            return Err(InvalidGrant::TimeToLive { seconds: ttl_seconds });
        }
        if !(1..=MAX_COMPLETE_WITHIN_SECONDS).contains(&complete_within_seconds) {
            return Err(InvalidGrant::CompleteWithin { seconds: complete_within_seconds });
        }
        Ok(())
    }
}

/// Whole seconds of a span, rounded up.
pub(super) fn whole_seconds(span: Duration) -> u64 {
    span.as_secs().saturating_add(u64::from(span.subsec_nanos() > 0))
}

fn is_readable(text: &str, max_chars: usize) -> bool {
    text.chars().count() <= max_chars && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_a_limit_is_refused_and_the_limit_is_not() {
        let (longest, too_long) = ("ä".repeat(200), "ä".repeat(201));
        let (purpose, too_much) = ("p".repeat(1000), "p".repeat(1001));
        let terms = |holder, purpose, ttl_seconds, complete_within_seconds| {
            GrantTerms { holder, purpose, ttl_seconds, complete_within_seconds }.check()
        };
        for (holder, purpose) in [("a", None), (longest.as_str(), Some(purpose.as_str())), ("a b", Some(""))] {
            for (ttl, within) in [(1, 1), (604_800, 3600)] {
                assert_eq!(terms(holder, purpose, ttl, within), Ok(()));
            }
        }
        for holder in ["", &too_long, "a\nb", "\u{1b}[2J"] {
            assert!(matches!(terms(holder, None, 1, 1), Err(InvalidGrant::Holder { .. })), "{holder:?}");
        }
        for purpose in [&too_much, "a\u{0}"] {
            assert!(matches!(terms("a", Some(purpose), 1, 1), Err(InvalidGrant::Purpose { .. })));
        }
        for seconds in [0, 604_801, u64::MAX] {
            assert_eq!(terms("a", None, seconds, 1), Err(InvalidGrant::TimeToLive { seconds }));
        }
        for seconds in [0, 3601, u64::MAX] {
            assert_eq!(terms("a", None, 1, seconds), Err(InvalidGrant::CompleteWithin { seconds }));
        }
        assert_eq!((whole_seconds(Duration::from_millis(1)), whole_seconds(Duration::MAX)), (1, u64::MAX));
    }
}

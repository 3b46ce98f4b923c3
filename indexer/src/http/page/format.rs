//! How numbers, times and outcomes are shown.
//!
//! Numbers and spans are formatted here, since what indicatif offers for them groups digits by commas, and rounds spans or spells
//! them out; the page groups by thin spaces, and its spans and sizes have one short unit.

use jiff::{Timestamp, tz::TimeZone};
use maud::{Markup, html};
use tidemark_wal::{ClientTime, Evidence, Outcome};

/// A time for people; the script adds how long ago it was.
pub(crate) fn time(at: Timestamp) -> Markup {
    html! { time datetime=(at) { (absolute(at)) } }
}

/// As `2026-11-20 10:00:00 UTC`.
pub(crate) fn absolute(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// As [`time`], for the time that a client gave.
pub(crate) fn client_time(at: ClientTime) -> Markup {
    html! { time datetime=(at) { (at.civil().strftime("%Y-%m-%d %H:%M:%S UTC")) } }
}

/// A number with its digits in groups of three.
pub(crate) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

/// A number of bytes in the unit that suits it.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut name = "B";
    for unit in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        name = unit;
    }
    format!("{value:.1} {name}")
}

/// A span in the unit that suits it.
pub(crate) fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// `one` or `many` of them, with the number.
pub(crate) fn count(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", number(n), if n == 1 { one } else { many })
}

/// What the outcome means.
pub(crate) const fn meaning(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Pending => "not decided yet: it may still be completed through its signed URL",
        Outcome::Committed => "the entry and every descriptor that it names were stored in time",
        Outcome::Late => "everything was stored, but some of it too late",
        Outcome::Aborted => "a descriptor that it names was never stored",
        Outcome::Malformed => "the payload is not valid; it is kept and can be searched as text",
        Outcome::Duplicate => "an earlier operation of the same writer has the same idempotency key",
        Outcome::Fenced => {
            "the grant of its lock had been overtaken or released, so that nothing it announced was stored; to apply its payload after all, \
             append it again under a grant that holds"
        }
        Outcome::Conflicted => {
            "the newest commit of the entity that it expects something of was another one, or there was none; to apply its payload after all, \
             read what was committed meanwhile and append it again with that"
        }
        Outcome::Expired => "it arrived after the audit window",
        Outcome::Unreadable => "the store refuses to return the entry; it is decided once it can be read",
        Outcome::Unknown => {
            "the label was moved again, and its bucket keeps no versions that tell whether this move was made"
        }
    }
}

/// How the outcome is supported.
pub(crate) const fn support(evidence: Evidence) -> &'static str {
    match evidence {
        Evidence::Bound => "the descriptor names this operation, or the entry names its digest",
        Evidence::Timed => "only the store times agree",
        Evidence::Inferred => "another entry may have written the label, or has overwritten it since",
    }
}

/// An outcome as a badge.
pub(crate) fn badge(of: Outcome) -> Markup {
    let name = of.as_str();
    html! { span class=(format!("badge outcome-{name}")) title=(meaning(of)) { (name) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(number(0), "0");
        assert_eq!(number(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1_572_864), "1.5 MiB");
        assert_eq!(span(7_200), "2 h");
        assert_eq!(count(1, "match", "matches"), "1 match");
    }
}

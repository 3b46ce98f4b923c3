//! Times as people write them in queries: a year, a month, a day, an hour, a minute, a second, or a distance from now.

use jiff::{
    SignedDuration,
    civil::{self, DateTime},
};

const SECONDS_PER_DAY: i64 = 86_400;
/// Where Unix time begins.
const UNIX_EPOCH: DateTime = civil::datetime(1970, 1, 1, 0, 0, 0, 0);
/// What a text has to be, for messages.
pub(crate) const EXPECTED_TIME: &str =
    "use 2026, 2026-11, 2026-11-20, 2026-11-20T10:00:00Z or now-7d, from the year 1 to 9999, and [2026-11 TO 2026-12]";

/// A span of whole seconds of Unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeSpan {
    /// Its first second.
    pub(crate) start: i64,
    /// The first second after it.
    pub(crate) end: i64,
    /// The first second that begins in it, or after it: columns hold seconds rounded down, so that a bound within a second
    /// lets in no other second.
    pub(crate) first_whole: i64,
}

impl TimeSpan {
    fn new(start: i64, seconds: i64) -> Self {
        Self { start, end: start + seconds, first_whole: start }
    }
}

/// The span that `text` names; without an offset it is UTC. `now` is the present second.
pub(crate) fn read_time(text: &str, now: i64) -> Option<TimeSpan> {
    if let Some(distance) = text.strip_prefix("now") {
        return read_distance(distance, now);
    }
    // Quotes hold a blank together.
    match text.split_once(['T', 't', ' ']) {
        None => read_date(text),
        Some((date, time)) => read_time_of_day(date, time),
    }
}

/// Whether a text means a time by its distance from now, in whatever form.
pub(crate) fn is_relative_time(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["today", "yesterday", "tomorrow", "now"].contains(&text.as_str())
        || text.strip_prefix("now").is_some_and(|rest| rest.starts_with(['-', '+', '/', ' ']))
}

/// The span of all times whose text in UTC begins so: `202` is a decade, `2026-1` three months.
pub(crate) fn read_time_prefix(text: &str) -> Option<TimeSpan> {
    let text = text.trim_end_matches(['-', 'T', 't', ':', ' ']);
    let has_offset = text.get(10..).is_some_and(|time| time.contains(['+', '-']));
    let digits = text.bytes().rev().take_while(u8::is_ascii_digit).count();
    let wanted = if digits == text.len() { 4 } else { 2 };
    if has_offset || digits == 0 || digits >= wanted {
        return read_time(text, 0).filter(|_| text.starts_with(|first: char| first.is_ascii_digit()));
    }
    let longer = ('0'..='9').filter_map(|digit| read_time_prefix(&format!("{text}{digit}")));
    longer.reduce(|first, last| TimeSpan { end: last.end, ..first })
}

/// `-7d`, `+90m`, several of them, or nothing.
fn read_distance(text: &str, now: i64) -> Option<TimeSpan> {
    let (mut rest, mut at) = (text, now);
    while !rest.is_empty() {
        let sign = match rest.as_bytes()[0] {
            b'-' => -1,
            b'+' => 1,
            _ => return None,
        };
        let digits = rest[1..].bytes().take_while(u8::is_ascii_digit).count();
        let number: i64 = rest[1..=digits].parse().ok()?;
        let unit = rest[1 + digits..].chars().next()?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => SECONDS_PER_DAY,
            'w' => 7 * SECONDS_PER_DAY,
            'M' => 30 * SECONDS_PER_DAY,
            'y' => 365 * SECONDS_PER_DAY,
            _ => return None,
        };
        at = number.checked_mul(sign * seconds).and_then(|distance| at.checked_add(distance))?;
        rest = &rest[2 + digits..];
    }
    let years = second_of(civil::date(1, 1, 1))..second_of(civil::date(9999, 12, 31)) + SECONDS_PER_DAY;
    years.contains(&at).then(|| TimeSpan::new(at, 1))
}

fn read_date(text: &str) -> Option<TimeSpan> {
    let mut parts = text.split('-');
    let year = i16::try_from(number(parts.next()?, 4)?).ok().filter(|year| *year > 0)?;
    let Some(month) = parts.next() else {
        let first = civil::Date::new(year, 1, 1).ok()?;
        return Some(days(first, first.days_in_year().into()));
    };
    let month = i8::try_from(number(month, 2)?).ok()?;
    let Some(day) = parts.next() else {
        let first = civil::Date::new(year, month, 1).ok()?;
        return Some(days(first, first.days_in_month().into()));
    };
    let day = i8::try_from(number(day, 2)?).ok()?;
    let date = civil::Date::new(year, month, day).ok()?;
    parts.next().is_none().then(|| days(date, 1))
}

/// An hour, a minute or a second, with or without an offset.
fn read_time_of_day(date: &str, time: &str) -> Option<TimeSpan> {
    let date = read_date(date).filter(|span| span.end - span.start == SECONDS_PER_DAY)?;
    let (time, offset) = split_offset(time)?;
    let mut parts = time.split(':');
    let hour = number(parts.next()?, 2).filter(|hour| *hour < 24)?;
    let minute = parts.next().map(|text| number(text, 2).filter(|minute| *minute < 60));
    let second = parts.next();
    if parts.next().is_some() {
        return None;
    }
    let start = date.start + hour * 3600 - offset;
    let Some(minute) = minute else { return Some(TimeSpan::new(start, 3600)) };
    let start = start + minute? * 60;
    let Some(second) = second else { return Some(TimeSpan::new(start, 60)) };
    let (second, fraction) = second.split_once('.').unwrap_or((second, "0"));
    // A leap second counts as the one before it.
    let second = number(second, 2).filter(|second| *second <= 60)?.min(59);
    let is_number = !fraction.is_empty() && fraction.len() <= 9 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let first_whole = start + second + i64::from(fraction.bytes().any(|digit| digit != b'0'));
    is_number.then(|| TimeSpan { first_whole, ..TimeSpan::new(start + second, 1) })
}

/// A time of day and the seconds of the offset after it.
fn split_offset(time: &str) -> Option<(&str, i64)> {
    if let Some(time) = time.strip_suffix(['Z', 'z']) {
        return Some((time, 0));
    }
    let Some(at) = time.find(['+', '-']) else { return Some((time, 0)) };
    let sign = if time.as_bytes()[at] == b'-' { -1 } else { 1 };
    let offset = &time[at + 1..];
    let (hours, minutes) = match offset.len() {
        2 => (offset, "00"),
        4 => offset.split_at_checked(2)?,
        _ => offset.split_once(':')?,
    };
    let (hours, minutes) =
        (number(hours, 2).filter(|hour| *hour < 24)?, number(minutes, 2).filter(|minute| *minute < 60)?);
    Some((&time[..at], sign * (hours * 3600 + minutes * 60)))
}

/// A second as attributes write a day, or a time in it, so that texts have the order of times.
pub(crate) fn civil_text(second: i64) -> String {
    match UNIX_EPOCH.checked_add(SignedDuration::from_secs(second)) {
        Ok(time) if time.year() > 0 && time.time() == civil::Time::midnight() => time.strftime("%Y-%m-%d").to_string(),
        Ok(time) if time.year() > 0 => time.strftime("%Y-%m-%dT%H:%M:%S").to_string(),
        _ if second < 0 => "0001".to_owned(),
        _ => "9999-12-31T24".to_owned(),
    }
}

fn number(text: &str, digits: usize) -> Option<i64> {
    (text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

fn days(first: civil::Date, days: i64) -> TimeSpan {
    TimeSpan::new(second_of(first), days * SECONDS_PER_DAY)
}

fn second_of(date: civil::Date) -> i64 {
    date.at(0, 0, 0, 0).duration_since(UNIX_EPOCH).as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_the_whole_of_what_it_names() {
        let day = 1_795_132_800; // 2026-11-20
        for (text, start, len) in [
            ("2026", 1_767_225_600, 365 * 86_400),
            ("2024", 1_704_067_200, 366 * 86_400),
            ("2026-11", day - 19 * 86_400, 30 * 86_400),
            ("2026-11-20", day, 86_400),
            ("2026-11-20T10", day + 36_000, 3600),
            ("2026-11-20T10Z", day + 36_000, 3600),
            ("2026-11-20T10:00", day + 36_000, 60),
            ("2026-11-20T10:00:00", day + 36_000, 1),
            ("2026-11-20T10:00:00Z", day + 36_000, 1),
            ("2026-11-20T11:00:00+01:00", day + 36_000, 1),
            ("2026-11-20T11:00:00+0100", day + 36_000, 1),
            ("2026-11-20t11:00:00.0+01", day + 36_000, 1),
            ("2026-11-20T08:30-01:30", day + 36_000, 60),
            ("2026-11-20 10:00", day + 36_000, 60),
            ("2026-11-20 11:00:00+01:00", day + 36_000, 1),
            ("now", 5_000_000, 1),
            ("now-7d", 5_000_000 - 7 * 86_400, 1),
            ("now-1h+5m", 5_000_000 - 3300, 1),
            ("9999", 253_370_764_800, 365 * 86_400),
        ] {
            assert_eq!(read_time(text, 5_000_000), Some(TimeSpan::new(start, len)), "{text}");
        }
        let half = read_time("2026-11-20T10:00:00.5Z", 0).unwrap();
        assert_eq!((half.start, half.first_whole, half.end), (day + 36_000, day + 36_001, day + 36_001));
        assert_eq!(read_time("2026-11-20T10:00:00.5", 0), Some(half));
    }

    #[test]
    fn the_beginning_of_a_time_is_all_that_begins_so() {
        for (text, first, last) in [
            ("2026", "2026", "2026"),
            ("2026-", "2026", "2026"),
            ("2026-1", "2026-10", "2026-12"),
            ("2026-0", "2026-01", "2026-09"),
            ("2026-11-2", "2026-11-20", "2026-11-29"),
            ("2026-11-3", "2026-11-30", "2026-11-30"),
            ("202", "2020", "2029"),
            ("0", "0001", "0999"),
            ("2026-11-20T", "2026-11-20", "2026-11-20"),
            ("2026-11-20T2", "2026-11-20T20", "2026-11-20T23"),
            ("2026-11-20T10:3", "2026-11-20T10:30", "2026-11-20T10:39"),
            ("2026-11-20T10:00:00Z", "2026-11-20T10:00:00", "2026-11-20T10:00:00"),
        ] {
            let span = |text| read_time(text, 0).unwrap();
            let wanted = TimeSpan { end: span(last).end, ..span(first) };
            assert_eq!(read_time_prefix(text), Some(wanted), "{text}");
        }
        for text in ["", "-", "now", "20260", "2026-4", "2026-13", "7x", "a", "2026-11-20T10:00+0", "日"] {
            assert_eq!(read_time_prefix(text), None, "{text}");
        }
    }

    #[test]
    fn texts_of_times_have_their_order() {
        let texts = [i64::MIN, -62_135_596_800, 0, 1, 86_400, 253_402_300_799, 253_402_300_800].map(civil_text);
        assert_eq!(texts[2..4], ["1970-01-01", "1970-01-01T00:00:01"]);
        assert!(texts.is_sorted(), "{texts:?}");
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "yesterday",
            "26",
            "2026-13",
            "2026-02-29",
            "2026-1-1",
            "2026-11-20-1",
            "2026-11T10",
            "2026-11-20T24:00",
            "10000",
            "0000",
            "2026-11-20T10:00:00.",
            "2026-11-20 ",
            "2026-11-20  10:00",
            "now-",
            "now-7",
            "now-7x",
            "now/d",
            "nowadays",
            "now-99999999999999999999d",
            "now-9999y",
            "+2026",
            "2026-11-20T10:00:00+99",
            "２０２６",
        ] {
            assert_eq!(read_time(text, 0), None, "{text}");
        }
    }
}

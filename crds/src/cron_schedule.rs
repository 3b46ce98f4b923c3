//! Times that repeat: a cron expression, read in a time zone.
//!
//! `cronexpr` parses an expression and finds its next time, here always on a calendar without a time zone. What a change of the
//! clock makes of that time is decided here, because libraries differ: a time that the clock skips is the moment of the jump, and
//! one that the clock shows twice is the first of the two. So each time of the calendar is one instant, and a later time is
//! never an earlier instant.
//!
//! Time zones come from the copy of the IANA database in the program: the image has no other one, and `lint` and the operator agree
//! on every machine.

use std::sync::LazyLock;

use cronexpr::{Crontab, FallbackTimezoneOption, ParseOptions, parse_crontab_with};
use jiff::{
    Timestamp,
    civil::DateTime,
    tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase},
};

static TIME_ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// How many fields an expression has.
const FIELDS: usize = 5;
/// An instant before every slot that anybody asks for: `cronexpr` looks four years ahead, which has to include a 29 February.
const ANY_INSTANT: Timestamp = Timestamp::constant(1_709_251_200, 0);

/// A cron expression of five fields (minute, hour, day of month, month, day of week) in a time zone.
///
/// As in cron, a time matches if one of the two kinds of days does, unless one of these fields starts with `*`. `L` and `W` are
/// understood, names such as `@daily` are not.
#[derive(Clone, Debug)]
pub struct CronSchedule {
    times: Crontab,
    zone: TimeZone,
    /// As it was written.
    expression: String,
}

/// Why there is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CronScheduleError {
    /// The expression cannot be read.
    #[error(
        "invalid cron expression \"{expression}\": {why}; write minute, hour, day of month, month and day of week, such as \"0 3 * * *\""
    )]
    Expression {
        /// As it was written.
        expression: String,
        /// What is wrong with it.
        why: String,
    },
    /// No day of the calendar matches.
    #[error("cron expression \"{0}\" matches no day of the calendar: nothing would ever run; correct day and month")]
    NoTime(String),
    /// The time zone does not exist.
    #[error("unknown time zone \"{0}\"; write a name of the IANA database, such as \"Etc/UTC\" or \"Europe/Berlin\"")]
    TimeZone(String),
}

impl CronScheduleError {
    /// The field of a schedule that is to be corrected.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Expression { .. } | Self::NoTime(_) => "schedule",
            Self::TimeZone(_) => "timeZone",
        }
    }
}

impl CronSchedule {
    /// The schedule that the two texts write.
    pub fn parse(expression: &str, time_zone: &str) -> Result<Self, CronScheduleError> {
        let zone = TIME_ZONES.get(time_zone).map_err(|_| CronScheduleError::TimeZone(time_zone.to_owned()))?;
        let refused =
            |why: &str| CronScheduleError::Expression { expression: expression.to_owned(), why: why.to_owned() };
        let fields = expression.split_ascii_whitespace().count();
        // A sixth one would be read as a time zone.
        if fields != FIELDS {
            return Err(refused(&format!("it has {fields} fields, not {FIELDS}")));
        }
        let mut options = ParseOptions::default();
        options.fallback_timezone_option = FallbackTimezoneOption::UTC;
        let times = parse_crontab_with(expression, options).map_err(|error| {
            // The expression with a mark below it, on two lines, then the reason.
            let error = error.to_string();
            refused(error.rsplit("^ ").next().unwrap_or(&error).trim())
        })?;
        let schedule = Self { times, zone, expression: expression.to_owned() };
        if schedule.next_after(ANY_INSTANT).is_none() {
            return Err(CronScheduleError::NoTime(expression.to_owned()));
        }
        Ok(schedule)
    }

    /// The first slot after `instant`; `None` if there is none within four years.
    pub fn next_after(&self, instant: Timestamp) -> Option<Timestamp> {
        let mut shown = self.zone.to_datetime(instant);
        loop {
            shown = self.next_shown(shown)?;
            // While the clock shows an hour for the second time, the slots of that hour are over.
            let slot = self.instant(shown)?;
            if slot > instant {
                return Some(slot);
            }
        }
    }

    /// The last slot after `after` that is not later than `until`: what several missed slots collapse into.
    pub fn last_between(&self, after: Timestamp, until: Timestamp) -> Option<Timestamp> {
        let next = |instant| self.next_after(instant).filter(|slot| *slot <= until);
        let mut last = next(after)?;
        let mut end = until;
        // Halves the span that may hold a later one.
        while last < end {
            let middle = Timestamp::from_second(last.as_second().midpoint(end.as_second())).ok()?;
            match next(middle) {
                Some(later) => last = later,
                None => end = middle,
            }
        }
        Some(last)
    }

    /// The next time of the calendar, as if its clock never changed.
    fn next_shown(&self, shown: DateTime) -> Option<DateTime> {
        let as_if = TimeZone::UTC.to_timestamp(shown).ok()?;
        Some(self.times.find_next(as_if).ok()?.datetime())
    }

    /// When the clock shows a time, or jumps over it.
    fn instant(&self, shown: DateTime) -> Option<Timestamp> {
        match self.zone.to_ambiguous_timestamp(shown).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(shown).ok(),
            AmbiguousOffset::Fold { before, .. } => before.to_timestamp(shown).ok(),
            AmbiguousOffset::Gap { after, .. } => {
                let before_jump = after.to_timestamp(shown).ok()?;
                Some(self.zone.following(before_jump).next()?.timestamp())
            }
        }
    }
}

impl PartialEq for CronSchedule {
    fn eq(&self, other: &Self) -> bool {
        self.expression == other.expression && self.zone == other.zone
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn schedule(expression: &str, zone: &str) -> CronSchedule {
        CronSchedule::parse(expression, zone).unwrap()
    }

    fn slots(schedule: &CronSchedule, from: &str, count: usize) -> Vec<String> {
        let slots = std::iter::successors(schedule.next_after(at(from)), |slot| schedule.next_after(*slot));
        slots.take(count).map(|slot| slot.to_string()).collect()
    }

    /// The image has no other database: what is read here is in the program.
    #[test]
    fn time_zones_are_in_the_program() {
        assert_eq!(
            slots(&schedule("0 3 * * *", "Europe/Berlin"), "2026-07-01T00:00:00Z", 2),
            ["2026-07-01T01:00:00Z", "2026-07-02T01:00:00Z"]
        );
        assert_eq!(
            slots(&schedule("30 0 * * 1", "Asia/Kolkata"), "2026-11-29T00:00:00Z", 1),
            ["2026-11-29T19:00:00Z"],
            "the Monday of that time zone"
        );
        assert!(TIME_ZONES.available().count() > 500);
    }

    #[test]
    fn a_skipped_time_is_the_moment_of_the_jump_and_a_repeated_one_the_first() {
        let berlin = |expression| schedule(expression, "Europe/Berlin");
        assert_eq!(
            slots(&berlin("30 2 * * *"), "2026-03-28T02:00:00Z", 2),
            ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
        );
        assert_eq!(
            slots(&berlin("30 2 * * *"), "2026-10-24T12:00:00Z", 2),
            ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
        );
        assert_eq!(
            slots(&berlin("0 * * * *"), "2026-03-28T23:30:00Z", 3),
            ["2026-03-29T00:00:00Z", "2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"],
            "2 and 3 o'clock are one slot"
        );
        assert_eq!(
            slots(&berlin("0 * * * *"), "2026-10-24T23:30:00Z", 3),
            ["2026-10-25T00:00:00Z", "2026-10-25T02:00:00Z", "2026-10-25T03:00:00Z"]
        );
        // A whole day that Samoa never had.
        assert_eq!(
            slots(&schedule("0 12 30 12 *", "Pacific/Apia"), "2011-12-01T00:00:00Z", 1),
            ["2011-12-30T10:00:00Z"]
        );
    }

    #[test]
    fn missed_slots_collapse_into_the_last() {
        let daily = schedule("0 3 * * *", "Etc/UTC");
        let last = |after, until| daily.last_between(at(after), at(until)).map(|slot| slot.to_string());
        assert_eq!(last("2026-11-20T03:00:00Z", "2026-11-29T02:59:59Z").as_deref(), Some("2026-11-28T03:00:00Z"));
        assert_eq!(last("2026-11-28T03:00:00Z", "2026-11-29T03:00:00Z").as_deref(), Some("2026-11-29T03:00:00Z"));
        assert_eq!(last("2026-11-29T03:00:00Z", "2026-11-30T02:59:59Z"), None);
        assert_eq!(last("2026-11-30T03:00:00Z", "2026-11-29T03:00:00Z"), None, "the clock was set back");
        let each_minute = schedule("* * * * *", "Etc/UTC");
        let slot = each_minute.last_between(at("2020-01-01T00:00:00Z"), at("2026-11-29T12:34:56Z"));
        assert_eq!(slot, Some(at("2026-11-29T12:34:00Z")));
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_a_remedy() {
        let refused = |expression, zone| CronSchedule::parse(expression, zone).unwrap_err().to_string();
        for (expression, why) in [
            ("61 * * * *", "must be in range 0..=59; found 61"),
            ("0 3 * *", "it has 4 fields, not 5"),
            ("0 3 * * * Europe/Berlin", "it has 6 fields, not 5"),
            ("@daily", "it has 1 fields, not 5"),
            ("", "it has 0 fields, not 5"),
            ("a b c d e", "malformed expression"),
        ] {
            let message = refused(expression, "Etc/UTC");
            assert!(message.contains(why) && message.contains("such as"), "{expression}: {message}");
            assert_eq!(message.lines().count(), 1, "{message}");
        }
        assert!(refused("0 3 30 2 *", "Etc/UTC").contains("matches no day of the calendar"));
        CronSchedule::parse("0 3 29 2 *", "Etc/UTC").unwrap();
        for zone in ["Europe/Atlantis", "", "CEST-7", "../etc/passwd"] {
            assert!(refused("0 3 * * *", zone).contains("unknown time zone"), "{zone}");
        }
    }

    /// The slots of a window by looking at each of its minutes: what the clock shows then for the first time, and what it jumped over.
    fn scan(times: &Crontab, zone: &TimeZone, from: Timestamp, minutes: i64) -> BTreeSet<Timestamp> {
        let minute = jiff::SignedDuration::from_mins(1);
        let matches = |shown: DateTime| times.matches(TimeZone::UTC.to_timestamp(shown).unwrap()).unwrap();
        let mut slots = BTreeSet::new();
        // What was shown up to here; the hour before the window may be shown again within it.
        let mut newest = zone.to_datetime(from - jiff::SignedDuration::from_hours(3));
        for number in -179..=minutes {
            let instant = from + minute * i32::try_from(number).unwrap();
            let shown = zone.to_datetime(instant);
            while newest < shown {
                newest += minute;
                if matches(newest) && number >= 1 {
                    slots.insert(instant);
                }
            }
        }
        slots
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Around the changes of the clock, and elsewhere.
        #[test]
        fn the_slots_are_those_of_a_scan_minute_by_minute(
            minute in prop_oneof!["\\*", "\\*/7", "[0-5]?[0-9]", "[0-9],5[0-9]", "1[0-9]-4[0-9]"],
            hour in prop_oneof!["\\*", "\\*/5", "[0-3]", "2[0-3]", "0-4"],
            day in prop_oneof!["\\*", "\\*/2", "2[0-9]"],
            weekday in prop_oneof!["\\*", "[0-7]", "1-5"],
            zone in prop::sample::select(vec![
                "Etc/UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/St_Johns",
                "Africa/Casablanca", "America/Sao_Paulo", "Pacific/Apia",
            ]),
            near in 0_usize..40,
            offset in -2000_i64..1000,
        ) {
            let schedule = schedule(&format!("{minute} {hour} {day} * {weekday}"), zone);
            let begin = at("2015-01-01T00:00:00Z");
            let transition = schedule.zone.following(begin).nth(near).map_or(begin, |change| change.timestamp());
            let from = transition + jiff::SignedDuration::from_mins(offset);
            let minutes = 3000;
            let until = from + jiff::SignedDuration::from_mins(minutes);
            let expected = scan(&schedule.times, &schedule.zone, from, minutes);
            let next = std::iter::successors(schedule.next_after(from), |slot| schedule.next_after(*slot));
            let found: BTreeSet<_> = next.take_while(|slot| *slot <= until).collect();
            prop_assert_eq!(&found, &expected);
            prop_assert_eq!(schedule.last_between(from, until), expected.last().copied());
        }

        #[test]
        fn no_text_makes_it_panic(expression in "\\PC*|[-0-9*/,LW#A-Za-z ]{0,30}", zone in "\\PC*|[A-Za-z/]{0,20}") {
            let _ = CronSchedule::parse(&expression, &zone);
        }
    }
}

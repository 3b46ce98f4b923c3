//! The time that a client wrote into a descriptor.

use std::{fmt, str::FromStr};

use jiff::{
    SignedDuration,
    civil::{DateTime, date},
    fmt::temporal::DateTimeParser,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The civil time of second 0 of Unix time.
const UNIX_EPOCH: DateTime = date(1970, 1, 1).at(0, 0, 0, 0);

/// The time that a client gives, in UTC: any in the years 1 to 9999, as RFC 3339 has them. It is not checked and decides nothing.
///
/// It is no [`jiff::Timestamp`], which ends a day before the year 9999 does: the last day of that year is what many programs
/// write for "never".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientTime(DateTime);

/// A text that is no time in the years 1 to 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a time of the years 1 to 9999 in RFC 3339, such as 2026-01-31T12:00:00Z")]
pub struct ParseClientTimeError;

impl ClientTime {
    /// Seconds since the beginning of 1970, rounded down; negative before it.
    pub fn as_second(self) -> i64 {
        let since = self.0.duration_since(UNIX_EPOCH);
        since.as_secs() - i64::from(since.subsec_nanos() < 0)
    }

    /// Nanoseconds since its second began.
    pub fn subsec_nanos(self) -> i32 {
        self.0.subsec_nanosecond()
    }

    /// The same time without its zone, which is UTC.
    pub fn civil(self) -> DateTime {
        self.0
    }
}

impl FromStr for ClientTime {
    type Err = ParseClientTimeError;

    fn from_str(text: &str) -> Result<Self, ParseClientTimeError> {
        let pieces = DateTimeParser::new().parse_pieces(text).map_err(|_| ParseClientTimeError)?;
        let (Some(time), Some(offset)) = (pieces.time(), pieces.to_numeric_offset()) else {
            return Err(ParseClientTimeError);
        };
        let local = pieces.date().to_datetime(time);
        let utc = local.checked_sub(SignedDuration::from_secs(i64::from(offset.seconds())));
        let utc = utc.map_err(|_| ParseClientTimeError)?;
        if utc.year() >= 1 { Ok(Self(utc)) } else { Err(ParseClientTimeError) }
    }
}

impl fmt::Display for ClientTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}Z", self.0)
    }
}

impl Serialize for ClientTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ClientTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;

    fn second(text: &str) -> Option<i64> {
        text.parse::<ClientTime>().ok().map(ClientTime::as_second)
    }

    #[test]
    fn the_years_1_to_9999_are_times() {
        assert_eq!(second("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(second("1969-12-31T23:59:59.5Z"), Some(-1));
        assert_eq!(second("0001-01-01T00:00:00Z"), Some(-62_135_596_800));
        assert_eq!(second("1600-01-01T00:00:00Z"), Some(-11_676_096_000));
        assert_eq!(second("2262-04-12T00:00:00Z"), Some(9_223_372_800));
        assert_eq!(second("9999-12-31T23:59:59.999999999Z"), Some(253_402_300_799));
        assert_eq!(second("9999-12-31T23:59:59+00:30"), Some(253_402_298_999));
    }

    #[test]
    fn what_is_absurd_is_no_time() {
        for text in [
            "",
            "never",
            "2026-01-01",
            "2026-01-01T00:00:00",
            "0000-12-31T23:59:59Z",
            "0001-01-01T00:00:00+00:01",
            "-000001-01-01T00:00:00Z",
            "9999-12-31T23:59:59-00:01",
            "10000-01-01T00:00:00Z",
            "+010000-01-01T00:00:00Z",
            "99999-12-31T00:00:00Z",
            "2026-02-30T00:00:00Z",
            "1.7e9",
        ] {
            assert_eq!(second(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_time_is_written_as_it_is_read(seconds in -62_135_596_800i64..253_402_207_200, nanos in 0i32..1_000_000_000) {
            let timestamp = Timestamp::new(seconds, nanos).unwrap();
            let time: ClientTime = timestamp.to_string().parse().unwrap();
            prop_assert_eq!(time.as_second(), seconds);
            prop_assert_eq!(time.subsec_nanos(), nanos);
            prop_assert_eq!(serde_json::to_value(time).unwrap(), serde_json::to_value(timestamp).unwrap());
            prop_assert_eq!(serde_json::from_value::<ClientTime>(serde_json::to_value(time).unwrap()).unwrap(), time);
        }

        #[test]
        fn any_text_is_a_time_or_refused(text in "\\PC{0,40}") {
            let _ = text.parse::<ClientTime>();
        }
    }
}

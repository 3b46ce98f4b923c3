//! The query string of a request: read once, strictly. An unknown, repeated or unreadable parameter is refused by name.

use std::{str::FromStr, time::Duration};

use jiff::{Timestamp, civil, tz::TimeZone};
use serde::de::{DeserializeOwned, IntoDeserializer, value::StrDeserializer};
use tidemark_search::api::{MAX_PAGE_SIZE, PageSize};
use tidemark_store::StoreSecond;
use tidemark_wal::Token;
use url::form_urlencoded;

use super::problem::Problem;

/// The longest query string that is read, in bytes.
const MAX_QUERY_STRING: usize = 16 * 1024;
/// How long `min_token` waits when `wait` is not given.
const DEFAULT_WAIT: Duration = Duration::from_secs(5);
/// The longest wait that may be asked for, in seconds.
const MAX_WAIT: u64 = 20;

/// The parameters of one request, in their order; those without a value are left out (a form sends its empty fields).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parameters {
    pairs: Vec<(String, String)>,
    emptied: Vec<String>,
}

impl Parameters {
    /// Reads a query string of which only the `known` names are accepted.
    pub(crate) fn read(query: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let query = query.unwrap_or_default();
        if query.len() > MAX_QUERY_STRING {
            return Err(Problem::too_long(MAX_QUERY_STRING));
        }
        let mut parameters = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if !known.contains(&name.as_ref()) {
                return Err(Problem::unknown_parameter(&shortened(&name), known));
            }
            if value.is_empty() {
                parameters.emptied.push(name.into_owned());
            } else {
                parameters.pairs.push((name.into_owned(), value.into_owned()));
            }
        }
        Ok(parameters)
    }

    /// Every name with its value.
    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }

    /// Whether the parameter is there without a value.
    pub(crate) fn is_emptied(&self, name: &str) -> bool {
        self.emptied.iter().any(|emptied| emptied == name)
    }

    /// The values of a parameter that may be repeated.
    pub(crate) fn all<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        self.pairs.iter().filter(move |(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that may occur once.
    pub(crate) fn one(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut values = self.all(name);
        let first = values.next();
        if values.next().is_some() {
            return Err(Problem::invalid(name, format!("parameter \"{name}\" is given more than once")));
        }
        Ok(first)
    }

    /// The value of a parameter that has to be there.
    pub(crate) fn required(&self, name: &str) -> Result<&str, Problem> {
        self.one(name)?.ok_or_else(|| Problem::invalid(name, format!("parameter \"{name}\" is missing")))
    }

    /// The value of a parameter, parsed; `wanted` tells what it has to be.
    pub(crate) fn parsed<T: FromStr>(&self, name: &str, wanted: &str) -> Result<Option<T>, Problem> {
        let parse = |value: &str| value.parse().map_err(|_| refused(name, value, wanted));
        self.one(name)?.map(parse).transpose()
    }

    /// The values of a parameter that takes names of `T`, repeated or separated by commas.
    pub(crate) fn names<T: DeserializeOwned>(&self, name: &str, wanted: &str) -> Result<Vec<T>, Problem> {
        self.all(name)
            .flat_map(|values| values.split(','))
            .map(str::trim)
            .filter(|value| !value.is_empty())
            .map(|value| named(value).ok_or_else(|| refused(name, value, wanted)))
            .collect()
    }

    /// The value of a parameter that takes one name of `T`.
    pub(crate) fn name<T: DeserializeOwned>(&self, name: &str, wanted: &str) -> Result<Option<T>, Problem> {
        let parse = |value: &str| named(value).ok_or_else(|| refused(name, value, wanted));
        self.one(name)?.map(parse).transpose()
    }

    /// The number of results of a page.
    pub(crate) fn size<const MIN: usize>(&self) -> Result<PageSize<MIN>, Problem> {
        let wanted = format!("a number from {MIN} to {MAX_PAGE_SIZE}");
        let size = self.parsed::<usize>("size", &wanted)?;
        Ok(size.map(PageSize::new).transpose()?.unwrap_or_default())
    }

    /// A place in the log: a token, or a time, which stands for the first token of its second.
    pub(crate) fn place(&self, name: &str) -> Result<Option<Token>, Problem> {
        let wanted = "a token or an RFC 3339 time, as \"2026-11-20T10:00:00Z\" or \"2026-11-20\"";
        let parse = |value: &str| place(value).ok_or_else(|| refused(name, value, wanted));
        self.one(name)?.map(parse).transpose()
    }

    /// The token that has to be visible first, with the longest wait for it.
    pub(crate) fn min_token(&self) -> Result<Option<(Token, Duration)>, Problem> {
        let wanted = format!("a number of seconds from 0 to {MAX_WAIT}");
        let wait = match self.parsed::<u64>("wait", &wanted)? {
            None => DEFAULT_WAIT,
            Some(seconds) if seconds <= MAX_WAIT => Duration::from_secs(seconds),
            Some(seconds) => return Err(refused("wait", &seconds.to_string(), &wanted)),
        };
        let token = self.parsed::<Token>("min_token", "a token: 27 letters and digits")?;
        Ok(token.map(|token| (token, wait)))
    }

    /// The query string without the parameters named.
    pub(crate) fn without(&self, names: &[&str]) -> String {
        encode(self.pairs.iter().filter(|(name, _)| !names.contains(&name.as_str())))
    }
}

/// A query string of these pairs, starting with `?`; of none, `?` alone, which a URL can be resolved from.
pub(crate) fn encode<'a>(pairs: impl Iterator<Item = &'a (String, String)>) -> String {
    let mut query = form_urlencoded::Serializer::for_suffix(String::from("?"), 1);
    pairs.for_each(|(name, value)| {
        query.append_pair(name, value);
    });
    query.finish()
}

fn named<T: DeserializeOwned>(value: &str) -> Option<T> {
    let deserializer: StrDeserializer<'_, serde::de::value::Error> = value.into_deserializer();
    T::deserialize(deserializer).ok()
}

fn place(value: &str) -> Option<Token> {
    if let Ok(token) = value.parse() {
        return Some(token);
    }
    let time = instant(value)?;
    // The first whole second at or after the instant: no entry of an earlier second is meant.
    let at = StoreSecond::floor(time);
    let at = if time.subsec_nanosecond() > 0 { at.next() } else { at };
    Some(Token::first_of(at))
}

fn instant(value: &str) -> Option<Timestamp> {
    if let Ok(time) = value.parse::<Timestamp>() {
        return Some(time);
    }
    let utc = |time: civil::DateTime| TimeZone::UTC.to_timestamp(time).ok();
    value.parse::<civil::DateTime>().ok().and_then(utc)
}

fn refused(name: &str, value: &str, wanted: &str) -> Problem {
    let value = shortened(value);
    Problem::invalid(name, format!("\"{value}\" is no value for \"{name}\"; wanted is {wanted}"))
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidemark_wal::Outcome;

    use super::*;

    fn read(query: &str) -> Parameters {
        Parameters::read(Some(query), &["q", "from", "outcome", "size", "wait", "min_token"]).unwrap()
    }

    #[test]
    fn refuses_an_unknown_name_and_a_repeated_one() {
        let problem = Parameters::read(Some("q=a&sise=3"), &["q", "size"]).unwrap_err();
        assert_eq!(problem.parameter.as_deref(), Some("sise"));
        assert_eq!(read("q=a&q=b").one("q").unwrap_err().parameter.as_deref(), Some("q"));
    }

    #[test]
    fn names_may_be_repeated_or_separated_by_commas() {
        let outcomes: Vec<Outcome> = read("outcome=late,aborted&outcome=expired").names("outcome", "").unwrap();
        assert_eq!(outcomes, [Outcome::Late, Outcome::Aborted, Outcome::Expired]);
        assert!(read("outcome=lost").names::<Outcome>("outcome", "").is_err());
    }

    #[test]
    fn a_place_is_a_token_a_time_or_a_day() {
        let first = |unix| Some(Token::first_of(StoreSecond::from_unix(unix)));
        for (text, unix) in [
            ("2026-11-20T10:00:00Z", 1_795_168_800),
            ("2026-11-20T10:00:00", 1_795_168_800),
            ("2026-11-20T09:59:59.5Z", 1_795_168_800),
            ("2026-11-20T11:00:00+01:00", 1_795_168_800),
            ("2026-11-20", 1_795_132_800),
        ] {
            let query = encode([("from".to_owned(), text.to_owned())].iter());
            assert_eq!(read(&query[1..]).place("from").unwrap(), first(unix), "{text}");
        }
        let token = "0ujtsYcgvSTl8PAuAdqWYSMnLOv";
        assert_eq!(read(&format!("from={token}")).place("from").unwrap(), token.parse().ok());
        assert!(read("from=yesterday").place("from").is_err());
    }

    #[test]
    fn a_wait_is_bounded() {
        assert!(read("wait=21").min_token().is_err());
        assert_eq!(read("wait=3").min_token().unwrap(), None);
    }

    proptest! {
        #[test]
        fn any_query_string_is_read_or_refused(query: String) {
            if let Ok(parameters) = Parameters::read(Some(&query), &["q", "from"]) {
                let _ = parameters.place("from");
                let again = parameters.without(&[]);
                prop_assert_eq!(Parameters::read(Some(&again[1..]), &["q", "from"]).unwrap().pairs, parameters.pairs);
            }
        }
    }
}

//! The query string of a request, read strictly into typed structs: an unknown, repeated or unreadable parameter is refused by
//! name.
//!
//! The OpenAPI document is made of the same structs, so that it lists what is accepted and nothing else.

use std::{collections::BTreeMap, fmt};

use axum::{extract::FromRequestParts, http::request::Parts};
use percent_encoding::percent_decode_str;
use serde::{
    Deserialize,
    de::{
        DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Visitor,
        value::{MapDeserializer, SeqDeserializer},
    },
    forward_to_deserialize_any,
};
use url::form_urlencoded;
use utoipa::IntoParams;

use super::problem::HttpProblem;

/// The longest query string that is read, in bytes: the longest query, escaped, and room for filters. The HTTP library itself
/// refuses a URL of 64 KiB.
const MAX_QUERY_STRING: usize = 56 * 1024;
/// How many characters of a refused text a message repeats.
const MAX_QUOTED: usize = 80;

/// The parameters of one request, in their order. Those without a value count as left out: a form sends its empty fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueryString {
    pairs: Vec<(String, String)>,
    emptied: Vec<String>,
}

/// The parameters of a request, read into `A`; `W` takes those that have nothing to do with the resource.
#[derive(Clone, Debug)]
pub(crate) struct QueryArgs<A, W = NoArgs> {
    pub(crate) args: A,
    pub(crate) wait: W,
    pub(crate) query: QueryString,
}

/// No parameters.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct NoArgs {}

impl<A, W, S> FromRequestParts<S> for QueryArgs<A, W>
where
    A: DeserializeOwned + IntoParams,
    W: DeserializeOwned + IntoParams,
    S: Send + Sync,
{
    type Rejection = HttpProblem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, HttpProblem> {
        let query = QueryString::read(parts.uri.query())?;
        let (args, wait) = query.parse()?;
        Ok(Self { args, wait, query })
    }
}

/// The names of the parameters that `T` has.
pub(crate) fn names_of<T: IntoParams>() -> Vec<String> {
    T::into_params(|| None).into_iter().map(|parameter| parameter.name).collect()
}

impl QueryString {
    /// Reads a query string.
    pub(crate) fn read(query: Option<&str>) -> Result<Self, HttpProblem> {
        let query = query.unwrap_or_default();
        if query.len() > MAX_QUERY_STRING {
            return Err(HttpProblem::too_long(MAX_QUERY_STRING));
        }
        let mut read = Self::default();
        for pair in query.split('&') {
            if let Some(why) = decoding_error(pair) {
                let name = form_urlencoded::parse(pair.as_bytes()).next().map(|(name, _)| quoted(&name));
                let name = name.unwrap_or_default();
                return Err(HttpProblem::invalid(&*name, format!("parameter \"{name}\" {why}")));
            }
        }
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if value.is_empty() {
                read.emptied.push(name.into_owned());
            } else {
                read.pairs.push((name.into_owned(), value.into_owned()));
            }
        }
        Ok(read)
    }

    /// Every name with its value.
    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }

    /// The query string without the parameters named.
    pub(crate) fn without(&self, names: &[&str]) -> String {
        encode(self.pairs.iter().filter(|(name, _)| !names.contains(&name.as_str())))
    }

    /// The parameters with one value of `name` in place of all others.
    pub(crate) fn replaced(&self, name: &str, value: &str) -> Self {
        let others = |given: &&String| *given != name;
        let mut pairs: Vec<_> = self.pairs.iter().filter(|(given, _)| others(&given)).cloned().collect();
        pairs.push((name.to_owned(), value.to_owned()));
        Self { pairs, emptied: self.emptied.iter().filter(others).cloned().collect() }
    }

    /// The parameters as the structs that describe them. A parameter that neither has is refused.
    pub(crate) fn parse<A, W>(&self) -> Result<(A, W), HttpProblem>
    where
        A: DeserializeOwned + IntoParams,
        W: DeserializeOwned + IntoParams,
    {
        let known: Vec<String> = names_of::<A>().into_iter().chain(names_of::<W>()).collect();
        let given = self.pairs.iter().map(|(name, _)| name).chain(&self.emptied);
        if let Some(unknown) = given.into_iter().find(|name| !known.contains(name)) {
            return Err(HttpProblem::unknown_parameter(&quoted(unknown), &known));
        }
        Ok((self.deserialize()?, self.deserialize()?))
    }

    fn deserialize<T: DeserializeOwned>(&self) -> Result<T, HttpProblem> {
        let mut values = BTreeMap::<&str, ParameterValues<'_>>::new();
        for (name, value) in &self.pairs {
            values.entry(name).or_default().0.push(value);
        }
        for name in &self.emptied {
            values.entry(name).or_default().0.push("");
        }
        serde_path_to_error::deserialize(MapDeserializer::new(values.into_iter())).map_err(|error| {
            let at = error.path().iter().next().map(ToString::to_string).unwrap_or_default();
            match error.into_inner() {
                ArgumentError::Missing(name) => HttpProblem::invalid(name, format!("parameter \"{name}\" is missing")),
                ArgumentError::Unusable(why) => HttpProblem::invalid(&*at, format!("parameter \"{at}\": {why}")),
            }
        })
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

/// Why a part of a URL cannot be decoded, if it cannot.
pub(crate) fn decoding_error(escaped: &str) -> Option<&'static str> {
    let is_escape = |after: &str| after.as_bytes().get(..2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit));
    if !escaped.split('%').skip(1).all(is_escape) {
        return Some("has a percent sign that two hexadecimal digits do not follow; write the sign itself as \"%25\"");
    }
    let is_text = percent_decode_str(escaped).decode_utf8().is_ok();
    (!is_text).then_some("has escapes that are not UTF-8; encode text as UTF-8 before it is escaped")
}

/// The beginning of a text, for a message.
pub(crate) fn quoted(text: &str) -> String {
    text.chars().take(MAX_QUOTED).collect()
}

/// Why a query string does not become a struct.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum ArgumentError {
    #[error("it is missing")]
    Missing(&'static str),
    #[error("{0}")]
    Unusable(String),
}

impl serde::de::Error for ArgumentError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Unusable(message.to_string())
    }

    fn missing_field(field: &'static str) -> Self {
        Self::Missing(field)
    }
}

/// The values of one parameter. Those without text are there for lists alone, which count them.
#[derive(Clone, Debug, Default)]
struct ParameterValues<'de>(Vec<&'de str>);

impl<'de> ParameterValues<'de> {
    /// The value of a parameter that is given once.
    fn single(&self) -> Result<&'de str, ArgumentError> {
        let mut given = self.0.iter().filter(|value| !value.is_empty());
        match (given.next(), given.next()) {
            (Some(value), None) => Ok(value),
            (None, _) => Err(ArgumentError::custom("it has no value")),
            (Some(_), Some(_)) => Err(ArgumentError::custom("it is given more than once")),
        }
    }
}

impl<'de> IntoDeserializer<'de, ArgumentError> for ParameterValues<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for ParameterValues<'de> {
    type Error = ArgumentError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentError> {
        visitor.visit_borrowed_str(self.single()?)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentError> {
        match self.single()? {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            other => Err(ArgumentError::custom(format_args!(
                "\"{}\" is not valid; expected \"true\" or \"false\"",
                quoted(other)
            ))),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentError> {
        if self.0.iter().all(|value| value.is_empty()) { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentError> {
        visitor.visit_seq(SeqDeserializer::new(self.0.into_iter()))
    }

    // A parameter of the other struct.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct newtype_struct
        tuple tuple_struct map struct enum identifier
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::arguments::BoundedList;

    type ThreeTexts = BoundedList<String, 3>;

    #[derive(Debug, Deserialize, IntoParams)]
    struct TestArgs {
        q: Option<String>,
        #[serde(default)]
        #[param(inline)]
        repo: ThreeTexts,
        sealed: Option<bool>,
    }

    fn read(query: &str) -> Result<TestArgs, HttpProblem> {
        QueryString::read(Some(query))?.parse::<TestArgs, NoArgs>().map(|(args, _)| args)
    }

    #[test]
    fn refuses_an_unknown_name_and_a_repeated_one() {
        assert_eq!(read("q=a&sise=3").unwrap_err().parameter.as_deref(), Some("sise"));
        assert_eq!(read("sise=").unwrap_err().parameter.as_deref(), Some("sise"));
        assert_eq!(read("q=a&q=b").unwrap_err().parameter.as_deref(), Some("q"));
        assert_eq!(read("sealed=yes").unwrap_err().parameter.as_deref(), Some("sealed"));
    }

    #[test]
    fn an_empty_value_counts_as_left_out_and_a_list_may_be_repeated() {
        let args = read("q=&repo=a&repo=b,c&repo=&sealed=true").unwrap();
        assert_eq!((args.q, args.repo.0, args.sealed), (None, vec!["a".to_owned(), "b,c".to_owned()], Some(true)));
    }

    #[test]
    fn a_list_is_bounded_with_its_empty_values() {
        assert_eq!(read("repo=a&repo=&repo=").unwrap().repo.0, ["a"]);
        assert_eq!(read("repo=a&repo=&repo=&repo=").unwrap_err().parameter.as_deref(), Some("repo"));
    }

    #[test]
    fn what_cannot_be_decoded_is_refused_by_name() {
        for (query, parameter) in [
            ("q=a%ff", "q"),
            ("q=%c3", "q"),
            ("q=%ed%a0%80", "q"),
            ("repo=a&q=100%", "q"),
            ("q=%2", "q"),
            ("q=%zz", "q"),
            ("q=%u00e9", "q"),
            ("q%ff=a", "q\u{fffd}"),
        ] {
            assert_eq!(read(query).unwrap_err().parameter.as_deref(), Some(parameter), "{query}");
        }
        assert_eq!(read("q=100%25+%C3%A9&&").unwrap().q.as_deref(), Some("100% \u{e9}"));
    }

    proptest! {
        #[test]
        fn any_query_string_is_read_or_refused(query: String) {
            if let Ok(read) = QueryString::read(Some(&query)) {
                let again = read.without(&[]);
                prop_assert_eq!(QueryString::read(Some(&again[1..])).unwrap().pairs, read.pairs);
            }
        }
    }
}

//! Values that are compared: what lies between two numbers or two times.

use std::ops::Bound;

use tantivy::{
    DateTime, Term,
    query::{EmptyQuery, ExistsQuery, Query, RangeQuery},
    schema::Field,
};

use super::{
    boolean_queries::union,
    number_range::{TypedNumber, read_number, whole_between},
    query_time::{EXPECTED_TIME, TimeSpan, read_time},
    query_tree::{LeafValue, QueryLeaf, QueryRefusal, text_of},
};
use crate::segment::LAST_DATE_SECOND;

/// The first second, and the first one after the last; `None`: there is no bound.
pub(crate) type SecondSpan = (Option<i64>, Option<i64>);

pub(crate) fn seconds(lower: Bound<TimeSpan>, upper: Bound<TimeSpan>) -> SecondSpan {
    let from = match lower {
        Bound::Included(span) => Some(span.first_whole),
        Bound::Excluded(span) => Some(span.end),
        Bound::Unbounded => None,
    };
    let to = match upper {
        Bound::Included(span) => Some(span.end),
        Bound::Excluded(span) => Some(span.first_whole),
        Bound::Unbounded => None,
    };
    (from, to)
}

/// A leaf in the field `name`, whose values have an order. `read` reads a value, `equal` and `between` find what is compared with
/// it, and `no_patterns` says why the field has no wildcards.
fn compared<T>(
    leaf: &QueryLeaf,
    name: &str,
    read: impl Fn(&str) -> Result<T, QueryRefusal>,
    equal: impl Fn(T) -> Box<dyn Query>,
    between: impl Fn(Bound<T>, Bound<T>) -> Box<dyn Query>,
    no_patterns: &str,
) -> Result<Box<dyn Query>, QueryRefusal> {
    let equal = |text: &str| read(text).map(&equal);
    match &leaf.value {
        LeafValue::Anything | LeafValue::Range { lower: Bound::Unbounded, upper: Bound::Unbounded } => {
            Ok(Box::new(ExistsQuery::new(name.to_owned(), false)))
        }
        LeafValue::Word(word) if let Some(text) = text_of(word) => equal(&text),
        LeafValue::Phrase { text, slop: 0, is_prefix: false } => equal(text),
        LeafValue::Set(elements) => Ok(union(elements.iter().map(|text| equal(text)).collect::<Result<_, _>>()?)),
        LeafValue::Range { lower, upper } => Ok(between(try_bound(lower, &read)?, try_bound(upper, &read)?)),
        LeafValue::Word(_) | LeafValue::Fuzzy { .. } | LeafValue::Phrase { .. } => {
            Err(leaf.refusal(format!("\"{name}\" holds {no_patterns}")))
        }
    }
}

/// A leaf in a field of times; `now` is the present second.
pub(crate) fn timed(
    leaf: &QueryLeaf,
    name: &str,
    now: i64,
    make: &dyn Fn(SecondSpan) -> Box<dyn Query>,
) -> Result<Box<dyn Query>, QueryRefusal> {
    let read = |text: &str| {
        let why = || format!("\"{name}\" is compared with \"{text}\", which is not a time; {EXPECTED_TIME}");
        read_time(text, now).ok_or_else(|| leaf.refusal(why()))
    };
    let equal = |span: TimeSpan| make((Some(span.start), Some(span.end)));
    let between = |lower, upper| make(seconds(lower, upper));
    compared(leaf, name, read, equal, between, &format!("times, which have no wildcards and no \"~\"; {EXPECTED_TIME}"))
}

/// A leaf in a field of whole numbers.
pub(crate) fn numbers(leaf: &QueryLeaf, name: &str, field: Field) -> Result<Box<dyn Query>, QueryRefusal> {
    let read = |text: &str| {
        let why = || {
            format!(
                "\"{name}\" is compared with \"{text}\", which is not a number; write it in full, as in 1000000, and a range as [1 TO 5]"
            )
        };
        read_number(text).ok_or_else(|| leaf.refusal(why()))
    };
    let between = |lower: Bound<TypedNumber>, upper: Bound<TypedNumber>| -> Box<dyn Query> {
        let Some(range) = whole_between(lower, upper, 0, u64::MAX.into()) else { return Box::new(EmptyQuery) };
        let term = |number: i128| Term::from_field_u64(field, u64::try_from(number).unwrap_or(u64::MAX));
        Box::new(RangeQuery::new(Bound::Included(term(*range.start())), Bound::Included(term(*range.end()))))
    };
    let equal = |number| between(Bound::Included(number), Bound::Included(number));
    let no_patterns =
        format!("numbers, which have no wildcards, no prefixes and no \"~\"; compare them, as in {name}:>=7");
    compared(leaf, name, read, equal, between, &no_patterns)
}

/// A range of dates. The first and the last one that Tantivy reaches stand for all before and after them.
pub(crate) fn date_range((from, to): SecondSpan, term: &dyn Fn(DateTime) -> Term) -> Box<dyn Query> {
    let date = |second: i64| DateTime::from_timestamp_secs(second.clamp(-LAST_DATE_SECOND, LAST_DATE_SECOND));
    let lower = Bound::Included(term(from.map_or(DateTime::MIN, date)));
    let upper = match to {
        Some(second) if second <= LAST_DATE_SECOND => Bound::Excluded(term(date(second))),
        _ => Bound::Included(term(DateTime::MAX)),
    };
    Box::new(RangeQuery::new(lower, upper))
}

/// Refuses `1..5`, a range as GitHub writes it.
pub(crate) fn check_dots(leaf: &QueryLeaf, text: &str) -> Result<(), QueryRefusal> {
    let is_bound = |text: &str| read_number(text).is_some() || read_time(text, 0).is_some();
    match text.split_once("..") {
        Some((from, to)) if [from, to].iter().all(|text| text.is_empty() || is_bound(text)) && from != to => {
            Err(leaf
                .refusal(format!("\"{text}\" is no range; a range is written [1 TO 5], and text with signs in quotes")))
        }
        _ => Ok(()),
    }
}

/// What a bound was typed as.
pub(crate) fn bound_text(bound: &Bound<String>) -> Option<&String> {
    match bound {
        Bound::Included(text) | Bound::Excluded(text) => Some(text),
        Bound::Unbounded => None,
    }
}

/// A bound whose text `read` reads.
pub(crate) fn try_bound<T, E>(bound: &Bound<String>, read: impl Fn(&str) -> Result<T, E>) -> Result<Bound<T>, E> {
    Ok(match bound {
        Bound::Included(text) => Bound::Included(read(text)?),
        Bound::Excluded(text) => Bound::Excluded(read(text)?),
        Bound::Unbounded => Bound::Unbounded,
    })
}

/// Two bounds, where both can be read.
pub(crate) fn read_bounds<T>(
    lower: &Bound<String>,
    upper: &Bound<String>,
    read: impl Fn(&str) -> Option<T>,
) -> Option<(Bound<T>, Bound<T>)> {
    let read = |text: &str| read(text).ok_or(());
    try_bound(lower, read).ok().zip(try_bound(upper, read).ok())
}

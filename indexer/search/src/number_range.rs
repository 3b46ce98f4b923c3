//! Numbers as queries write them, and what lies between two of them.
//!
//! A column of an attribute has one type of number in a segment: whole ones with or without a sign where all values are, else
//! floating ones. Tantivy takes bounds of one type only and loses some that the column's type cannot hold, so bounds are compared
//! here, as the numbers that they are, with what each column can hold.

use std::ops::{Bound, RangeInclusive};

use tantivy::{
    DocId, Score, SegmentReader, TantivyError, Term,
    columnar::ColumnType,
    query::{BoundsRange, EmptyScorer, EnableScoring, Explanation, FastFieldRangeWeight, Query, Scorer, Weight},
};

/// A number as it was typed: whole ones are exact.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum TypedNumber {
    Whole(i128),
    /// One with a fraction or an exponent, or beyond all whole ones. Perhaps infinite, never NaN.
    Float(f64),
}

/// `text` as a number; `inf` and `nan` are words.
pub(crate) fn read_number(text: &str) -> Option<TypedNumber> {
    if !text.trim_start_matches(['+', '-', '.']).starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let whole = text.parse().map(TypedNumber::Whole);
    whole.or_else(|_| text.parse().map(TypedNumber::Float)).ok()
}

/// The whole numbers between two bounds, of those from `min` to `max`; `None` if there are none.
#[expect(clippy::cast_possible_truncation, reason = "it saturates, beyond all columns")]
pub(crate) fn whole_between(
    lower: Bound<TypedNumber>,
    upper: Bound<TypedNumber>,
    min: i128,
    max: i128,
) -> Option<RangeInclusive<i128>> {
    use TypedNumber::{Float, Whole};
    let first = match lower {
        Bound::Unbounded => min,
        Bound::Included(Whole(number)) => number,
        Bound::Excluded(Whole(number)) => number.saturating_add(1),
        Bound::Included(Float(number)) => number.ceil() as i128,
        Bound::Excluded(Float(number)) => (number.floor() as i128).saturating_add(1),
    };
    let last = match upper {
        Bound::Unbounded => max,
        Bound::Included(Whole(number)) => number,
        Bound::Excluded(Whole(number)) => number.saturating_sub(1),
        Bound::Included(Float(number)) => number.floor() as i128,
        Bound::Excluded(Float(number)) => (number.ceil() as i128).saturating_sub(1),
    };
    let range = first.max(min)..=last.min(max);
    (!range.is_empty()).then_some(range)
}

/// A bound as a floating number. Tantivy orders -0 before 0; `zero` is the one of them with which a bound of zero means both.
fn floating(bound: Bound<TypedNumber>, zero: f64) -> Bound<f64> {
    bound.map(|number| {
        let number = match number {
            TypedNumber::Whole(number) => number as f64,
            TypedNumber::Float(number) => number,
        };
        if number == 0.0 { zero } else { number }
    })
}

/// A query for the documents with a number between two bounds in a column of attributes.
#[derive(Clone, Debug)]
pub(crate) struct NumberRangeQuery {
    /// The path of the attribute: a term without a value.
    path: Term,
    lower: Bound<TypedNumber>,
    upper: Bound<TypedNumber>,
}

impl NumberRangeQuery {
    /// The numbers at `path` from `lower` to `upper`. One of the two is a bound.
    pub(crate) fn new(path: Term, lower: Bound<TypedNumber>, upper: Bound<TypedNumber>) -> Self {
        Self { path, lower, upper }
    }

    /// The bounds in the type of a column; `None` if nothing of that type lies between them.
    fn bounds_in(&self, column: ColumnType) -> Option<(Bound<Term>, Bound<Term>)> {
        let whole = |min: i128, max: i128| whole_between(self.lower, self.upper, min, max);
        match column {
            ColumnType::I64 => {
                let range = whole(i64::MIN.into(), i64::MAX.into())?;
                let term = |number: i128| i64::try_from(number).ok().map(|number| self.term(number));
                Some((Bound::Included(term(*range.start())?), Bound::Included(term(*range.end())?)))
            }
            ColumnType::U64 => {
                let range = whole(0, u64::MAX.into())?;
                let term = |number: i128| u64::try_from(number).ok().map(|number| self.term(number));
                Some((Bound::Included(term(*range.start())?), Bound::Included(term(*range.end())?)))
            }
            _ => {
                let term = |number: f64| self.term(number);
                let lower_zero = if matches!(self.lower, Bound::Excluded(_)) { 0.0 } else { -0.0 };
                let upper_zero = if matches!(self.upper, Bound::Excluded(_)) { -0.0 } else { 0.0 };
                Some((floating(self.lower, lower_zero).map(term), floating(self.upper, upper_zero).map(term)))
            }
        }
    }

    fn term<T: tantivy::fastfield::FastValue>(&self, number: T) -> Term {
        let mut term = self.path.clone();
        term.append_type_and_fast_value(number);
        term
    }
}

impl Query for NumberRangeQuery {
    fn weight(&self, _: EnableScoring<'_>) -> tantivy::Result<Box<dyn Weight>> {
        Ok(Box::new(self.clone()))
    }
}

impl Weight for NumberRangeQuery {
    fn scorer(&self, reader: &SegmentReader, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
        let name = self.path.get_full_path(reader.schema());
        let types = [ColumnType::F64, ColumnType::I64, ColumnType::U64];
        // There is one column of numbers at most.
        let column = reader.fast_fields().u64_lenient_for_type(Some(&types), &name)?;
        match column.and_then(|(_, column)| self.bounds_in(column)) {
            Some((lower, upper)) => FastFieldRangeWeight::new(BoundsRange::new(lower, upper)).scorer(reader, boost),
            None => Ok(Box::new(EmptyScorer)),
        }
    }

    fn explain(&self, _: &SegmentReader, doc: DocId) -> tantivy::Result<Explanation> {
        Err(TantivyError::InvalidArgument(format!("the score of document {doc} is not explained")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::select};

    use super::*;

    #[test]
    fn numbers_are_read_and_words_are_not() {
        use TypedNumber::{Float, Whole};
        for (text, wanted) in [
            ("7", Some(Whole(7))),
            ("-3", Some(Whole(-3))),
            ("+3", Some(Whole(3))),
            ("18446744073709551616", Some(Whole(1 << 64))),
            ("0.5", Some(Float(0.5))),
            (".5", Some(Float(0.5))),
            ("1e3", Some(Float(1000.0))),
            ("1e999", Some(Float(f64::INFINITY))),
            ("inf", None),
            ("-nan", None),
            ("+-5", None),
            ("7x", None),
            ("", None),
            ("1_000", None),
            ("２０", None),
        ] {
            assert_eq!(read_number(text), wanted, "{text}");
        }
        assert!(matches!(read_number(&"9".repeat(50)), Some(Float(number)) if number > 1e49));
    }

    fn number() -> impl Strategy<Value = TypedNumber> {
        prop_oneof![
            (-4i128..4).prop_map(TypedNumber::Whole),
            (-8i32..8).prop_map(|half| TypedNumber::Float(f64::from(half) / 2.0)),
            select(vec![i128::MIN, i128::MAX, 1 << 64, -(1 << 64)]).prop_map(TypedNumber::Whole),
            select(vec![f64::INFINITY, f64::NEG_INFINITY, 1e300]).prop_map(TypedNumber::Float),
        ]
    }

    fn bound() -> impl Strategy<Value = Bound<TypedNumber>> {
        prop_oneof![number().prop_map(Bound::Included), number().prop_map(Bound::Excluded), Just(Bound::Unbounded)]
    }

    fn value(number: TypedNumber) -> f64 {
        match number {
            TypedNumber::Whole(number) => number as f64,
            TypedNumber::Float(number) => number,
        }
    }

    proptest! {
        #[test]
        fn whole_numbers_between_bounds_are_those_that_compare_so(lower in bound(), upper in bound()) {
            let found = whole_between(lower, upper, -3, 3);
            let is_between = |number: i128| {
                use std::ops::RangeBounds as _;
                (lower.map(value), upper.map(value)).contains(&(number as f64))
            };
            for number in -3..=3 {
                prop_assert_eq!(found.as_ref().is_some_and(|range| range.contains(&number)), is_between(number), "{}", number);
            }
        }
    }
}

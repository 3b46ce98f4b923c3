//! An attribute of a payload or descriptor: the terms of its words, and those of its columns.

use std::ops::Bound;

use tantivy::{
    DateTime, Term,
    query::{Query, RangeQuery, TermQuery},
    schema::{Field, IndexRecordOption},
};

use super::compared_values::{SecondSpan, date_range};
use crate::segment::SchemaFields;

/// Where an attribute is searched.
pub(crate) struct AttributePath {
    pub(crate) words: Field,
    pub(crate) columns: Field,
    pub(crate) columns_name: &'static str,
    pub(crate) path: String,
}

impl AttributePath {
    /// Whether it is what has the attributes, and none of them.
    pub(crate) fn has_all(&self, fields: &SchemaFields) -> bool {
        self.path.is_empty() || (self.words == fields.payload && self.path == "attributes")
    }

    /// A term of its columns without a value.
    pub(crate) fn term(&self) -> Term {
        Term::from_field_json_path(self.columns, &self.path, true)
    }

    /// A term of its words without a value.
    pub(crate) fn words_term(&self) -> Term {
        Term::from_field_json_path(self.words, &self.path, true)
    }

    /// Its dates in a span of seconds.
    pub(crate) fn dates(&self, span: SecondSpan) -> Box<dyn Query> {
        let term = |date: DateTime| {
            let mut term = self.term();
            term.append_type_and_fast_value(date);
            term
        };
        date_range(span, &term)
    }

    /// The whole value `text`, as facets write it, where it is a text or a truth value.
    pub(crate) fn whole(&self, text: &str) -> Vec<Box<dyn Query>> {
        let whole = Bound::Included(self.text(text));
        let mut queries: Vec<Box<dyn Query>> = vec![Box::new(RangeQuery::new(whole.clone(), whole))];
        if let Ok(truth) = text.parse::<bool>() {
            let mut term = self.words_term();
            term.append_type_and_fast_value(truth);
            queries.push(Box::new(TermQuery::new(term, IndexRecordOption::Basic)));
        }
        queries
    }

    /// A text in its columns.
    pub(crate) fn text(&self, text: &str) -> Term {
        let mut term = self.term();
        term.append_type_and_str(text);
        term
    }
}

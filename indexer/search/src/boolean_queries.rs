//! Queries joined: all of some, any of some, and exact terms.

use tantivy::{
    Term,
    query::{AllQuery, BooleanQuery, ConstScoreQuery, EmptyQuery, Occur, Query, TermQuery},
    schema::{Field, IndexRecordOption},
};

use super::query_tree::QueryRefusal;
use crate::segment::term_text;

/// What a leaf compiles to; `None` for one that has nothing to search for, as a dash between words.
pub(crate) type LeafQuery = Result<Option<Box<dyn Query>>, QueryRefusal>;

/// The documents with any of these exact terms. Adds nothing to the score.
pub(crate) fn any_term<'a>(terms: impl IntoIterator<Item = (Field, &'a str)>) -> Box<dyn Query> {
    let queries = terms.into_iter().map(|(field, text)| exact_term(field, text));
    Box::new(ConstScoreQuery::new(union(queries.collect()), 0.0))
}

pub(crate) fn exact_term(field: Field, text: &str) -> Box<dyn Query> {
    Box::new(TermQuery::new(Term::from_field_text(field, &term_text(text)), IndexRecordOption::WithFreqs))
}

/// What any of `queries` finds; nothing if there are none.
pub(crate) fn union(queries: Vec<Box<dyn Query>>) -> Box<dyn Query> {
    any_query(queries).unwrap_or_else(|| Box::new(EmptyQuery))
}

/// What any of `queries` finds; `None` if there are none.
pub(crate) fn any_query(mut queries: Vec<Box<dyn Query>>) -> Option<Box<dyn Query>> {
    match queries.len() {
        0 => None,
        1 => Some(queries.remove(0)),
        _ => Some(Box::new(BooleanQuery::union(queries))),
    }
}

/// What has all of `wanted` and none of `unwanted`.
pub(crate) fn all_of(mut wanted: Vec<Box<dyn Query>>, unwanted: Vec<Box<dyn Query>>) -> Option<Box<dyn Query>> {
    // Everything and a word is the word.
    if wanted.iter().any(|query| !query.is::<AllQuery>()) {
        wanted.retain(|query| !query.is::<AllQuery>());
    }
    match (wanted.len(), unwanted.len()) {
        (0, 0) => return None,
        (1, 0) => return wanted.pop(),
        (0, _) => wanted.push(Box::new(AllQuery)),
        _ => {}
    }
    let wanted = wanted.into_iter().map(|query| (Occur::Must, query));
    let unwanted = unwanted.into_iter().map(|query| (Occur::MustNot, query));
    Some(Box::new(BooleanQuery::new(wanted.chain(unwanted).collect())))
}

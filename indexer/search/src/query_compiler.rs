//! Compiles the query language and the filters to a Tantivy query.

use std::sync::Arc;

use tantivy::{
    TantivyError, Term,
    query::{
        AllQuery, BooleanQuery, ConstScoreQuery, EmptyQuery, Occur, Query, QueryParser, QueryParserError, TermQuery,
    },
    query_grammar,
    schema::{Field, IndexRecordOption},
};

use super::{
    api::{FilterField, MAX_FILTER_VALUES, SearchRequest},
    error::SearchError,
};
use crate::segment::{SchemaFields, term_text, tokenizers};

/// How deep parentheses may be nested.
const MAX_NESTING: usize = 20;
/// How many words, phrases, ranges and groups a query may have.
const MAX_CLAUSES: usize = 200;

/// Compiles the query language and filters of a request to a Tantivy query. Cheap to share.
pub(crate) struct QueryCompiler {
    parser: QueryParser,
    fields: Arc<SchemaFields>,
}

impl QueryCompiler {
    pub(crate) fn new(fields: &Arc<SchemaFields>) -> Self {
        let (schema, _) = SchemaFields::schema();
        let mut parser = QueryParser::new(schema, fields.default_search(), tokenizers());
        parser.set_conjunction_by_default();
        Self { parser, fields: fields.clone() }
    }

    /// The query of a request: its text and its filters, without the range of tokens.
    pub(crate) fn compile(&self, request: &SearchRequest) -> Result<Box<dyn Query>, SearchError> {
        let mut clauses = vec![(Occur::Must, self.parse(request.query.as_str())?)];
        for (filter, values) in &request.filters {
            if values.len() > MAX_FILTER_VALUES {
                return Err(SearchError::Invalid {
                    parameter: filter.name(),
                    detail: format!("{} values are too many, at most {MAX_FILTER_VALUES} are taken", values.len()),
                });
            }
            clauses.extend(self.any_of(*filter, values));
        }
        if !request.outcomes.is_empty() {
            let names = request.outcomes.iter().map(|outcome| outcome.as_str());
            clauses.push((Occur::Must, any(names.map(|name| (self.fields.outcome, name)))));
        }
        Ok(conjunction(clauses))
    }

    /// The query of an entity's history.
    pub(crate) fn entity(&self, key: &str) -> Box<dyn Query> {
        any([(self.fields.entity, key)])
    }

    fn parse(&self, text: &str) -> Result<Box<dyn Query>, SearchError> {
        if text.trim().is_empty() {
            return Ok(Box::new(AllQuery));
        }
        check_complexity(text)?;
        self.parser.parse_query(text).map_err(|error| parse_error(text, &error))
    }

    fn any_of(&self, filter: FilterField, values: &[String]) -> Option<(Occur, Box<dyn Query>)> {
        let fields = self.fields_of(filter);
        let terms = values.iter().flat_map(|value| fields.iter().map(move |field| (*field, value.as_str())));
        (!values.is_empty()).then(|| (Occur::Must, any(terms)))
    }

    fn fields_of(&self, filter: FilterField) -> Vec<Field> {
        let fields = &self.fields;
        match filter {
            FilterField::Kind => vec![fields.kind],
            FilterField::Repo => vec![fields.repo],
            FilterField::Bundle => vec![fields.bundle],
            FilterField::Label => vec![fields.label],
            FilterField::Context => vec![fields.context],
            FilterField::Contributor => vec![fields.contributor, fields.email],
            FilterField::Entity => vec![fields.entity],
            FilterField::Writer => vec![fields.writer],
        }
    }
}

/// The documents with any of these exact terms. Adds nothing to the score.
fn any<'a>(terms: impl IntoIterator<Item = (Field, &'a str)>) -> Box<dyn Query> {
    let queries = terms.into_iter().map(|(field, text)| {
        let term = Term::from_field_text(field, &term_text(text));
        let query: Box<dyn Query> = Box::new(TermQuery::new(term, IndexRecordOption::Basic));
        query
    });
    let mut queries: Vec<Box<dyn Query>> = queries.collect();
    let query = match queries.len() {
        1 => queries.remove(0),
        _ => Box::new(BooleanQuery::union(queries)),
    };
    Box::new(ConstScoreQuery::new(query, 0.0))
}

fn conjunction(mut clauses: Vec<(Occur, Box<dyn Query>)>) -> Box<dyn Query> {
    // Everything and a filter is the filter.
    if clauses.len() > 1 && clauses[0].1.is::<AllQuery>() {
        clauses.remove(0);
    }
    match clauses.len() {
        0 => Box::new(EmptyQuery),
        1 => clauses.remove(0).1,
        _ => Box::new(BooleanQuery::new(clauses)),
    }
}

/// Refuses a query that would cost the parser or the search too much, before it is parsed.
fn check_complexity(text: &str) -> Result<(), SearchError> {
    let (mut depth, mut clauses) = (0usize, 1usize);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b'+' | b'-' | b' ' | b'\t' | b'\n' | b'\r' | b':' | b'"' | b'[' | b'{' => clauses += 1,
            _ => {}
        }
        if depth > MAX_NESTING {
            return Err(invalid(format!(
                "position {at}: parentheses are nested more than {MAX_NESTING} deep; simplify the query"
            )));
        }
    }
    if clauses > 2 * MAX_CLAUSES {
        return Err(invalid(format!(
            "the query has too many parts, about {MAX_CLAUSES} are taken; use filters for exact values"
        )));
    }
    Ok(())
}

fn parse_error(text: &str, error: &QueryParserError) -> SearchError {
    let detail = match error {
        QueryParserError::SyntaxError(_) => {
            let (_, errors) = query_grammar::parse_query_lenient(text);
            match errors.first() {
                Some(first) => format!("position {}: {}", first.pos, first.message),
                None => "the query cannot be parsed; quote text that has special characters".to_owned(),
            }
        }
        QueryParserError::FieldDoesNotExist(name) => format!(
            "there is no field \"{name}\"; attributes of payloads are searched as \"payload.{name}\", of descriptors as \
             \"descriptor.{name}\", and a colon in text needs quotes"
        ),
        other => other.to_string(),
    };
    invalid(detail)
}

/// A query that parses but cannot be run, as a range over an attribute that has no order.
pub(crate) fn unusable(error: &TantivyError) -> SearchError {
    match error {
        TantivyError::InvalidArgument(why) | TantivyError::SchemaError(why) => invalid(why.clone()),
        TantivyError::FieldNotFound(name) => invalid(format!("there is no field \"{name}\"")),
        other => SearchError::Internal { detail: other.to_string() },
    }
}

fn invalid(detail: String) -> SearchError {
    SearchError::Invalid { parameter: "q", detail }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::QueryText;

    fn compiler() -> QueryCompiler {
        QueryCompiler::new(&Arc::new(SchemaFields::schema().1))
    }

    fn refusal(text: &str) -> String {
        match compiler().parse(text).unwrap_err() {
            SearchError::Invalid { parameter: "q", detail } => detail,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn compiles_the_query_language() {
        let compiler = compiler();
        for text in [
            "",
            "  ",
            "*",
            "fix bug",
            "fix OR bug",
            "\"fix the bug\"~2",
            "repo:models kind:bundle",
            "payload.build.number:7 -descriptor.message:wip",
            "time:[2026-01-01T00:00:00Z TO *]",
            "size:>100",
            "+a -(b c) d^2.0",
            "label: IN [a b]",
        ] {
            assert!(compiler.parse(text).is_ok(), "{text}: {:?}", compiler.parse(text).err());
        }
    }

    #[test]
    fn a_query_that_does_not_parse_names_the_position() {
        assert!(refusal("repo:(a").starts_with("position "), "{}", refusal("repo:(a"));
        assert!(refusal("nosuch:a").contains("\"nosuch\""));
        assert!(refusal(&"(".repeat(500)).contains("nested"));
        assert!(QueryText::new("a".repeat(5000)).unwrap_err().to_string().contains("4096"));
        assert!(refusal(&"a ".repeat(1000)).contains("too many"));
    }

    #[test]
    fn nesting_costs_no_more_than_it_is_long() {
        for (open, close) in
            [("(", ")"), ("+(", ")"), ("-(", ")"), ("(a OR (b AND ", "))"), ("NOT (", ")"), ("a:(", ")")]
        {
            let deep = 20 / open.matches('(').count();
            let _ = compiler().parse(&format!("{}a{}", open.repeat(deep), close.repeat(deep)));
            let _ = compiler().parse(&open.repeat(deep));
        }
        for part in ["NOT ", "+-", "a OR ", "[", "\"", "a^", "*:", "a:b:"] {
            let _ = compiler().parse(&part.repeat(90));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,80}") {
            let _ = compiler().parse(&text);
        }

        #[test]
        fn anything_made_of_syntax_is_parsed_or_refused(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "(", ")", "[", "]", "{", "}", "\"", "'", "+", "-", ":", "a", "repo", "payload.", "time", "IN", "TO", "AND",
                    "OR", "NOT", " ", "*", "?", "~", "^", "\\", "/", "<", ">", "=", "1", ".", "\u{e9}",
                ]),
                0..40,
            ),
        ) {
            let _ = compiler().parse(&parts.concat());
        }
    }
}

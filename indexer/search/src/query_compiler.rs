//! Compiles queries and filters to a Tantivy query: what each leaf of a query finds in each kind of field.

use std::{ops::Bound, sync::Arc};

use tantivy::{
    DateTime, TantivyError, Term,
    json_utils::convert_to_fast_value_and_append_to_json_term,
    query::{
        AllQuery, BooleanQuery, BoostQuery, ConstScoreQuery, EmptyQuery, ExistsQuery, Occur, PhraseQuery, Query,
        RangeQuery, TermQuery,
    },
    schema::{Field, FieldType, IndexRecordOption, Type},
    tokenizer::{TextAnalyzer, TokenizerManager},
};

use unicode_normalization::char::is_combining_mark;

use super::{
    api::{FilterField, MAX_FILTER_VALUES, SearchRequest},
    error::SearchError,
    pattern_query::{PatternQuery, PhraseStart},
    query_syntax::{FieldNames, LeafValue, QueryLeaf, QueryNode, QueryRefusal, WordChar, read_query, text_of},
    query_time::{EXPECTED_TIME, TimeSpan, civil_text, read_time},
    term_pattern::{TermPattern, WildcardPart},
};
use crate::segment::{DESCRIPTOR_COLUMNS, ENGLISH, PAYLOAD_COLUMNS, SchemaFields, WORDS, query_tokenizers, term_text};

/// The last second of Tantivy's dates, in the year 2262; the first one is its negative.
const LAST_DATE_SECOND: i64 = i64::MAX / 1_000_000_000;

/// Compiles the query language and filters of a request to a Tantivy query. Cheap to share.
pub(crate) struct QueryCompiler {
    fields: Arc<SchemaFields>,
    names: FieldNames,
    tokenizers: TokenizerManager,
}

/// What a leaf compiles to; `None` for one that has nothing to search for, as a dash between words.
type LeafQuery = Result<Option<Box<dyn Query>>, QueryRefusal>;

/// A kind of field, by how it is searched.
enum SearchedField {
    /// By words. Patterns look up `exact` words; the words of `field` may be stems.
    Words {
        field: Field,
        tokenizer: &'static str,
        exact: Field,
    },
    /// By whole values, in any of these fields.
    Exact(Vec<Field>),
    Number(Field),
    Date(Field),
    /// By seconds.
    Second(Field),
    /// An attribute of a payload or descriptor: by words, and by typed values.
    Attribute(AttributePath),
}

struct AttributePath {
    words: Field,
    columns: Field,
    columns_name: &'static str,
    path: String,
}

impl QueryCompiler {
    pub(crate) fn new(fields: &Arc<SchemaFields>) -> Self {
        let names = fields.searched_names().into_iter().map(str::to_owned).collect();
        let names = FieldNames::new(names, &["payload", "descriptor"]);
        Self { fields: fields.clone(), names, tokenizers: query_tokenizers() }
    }

    /// The query of a request: its text and its filters, without the range of tokens.
    pub(crate) fn compile(&self, request: &SearchRequest) -> Result<Box<dyn Query>, SearchError> {
        let mut wanted = vec![self.parse(request.query.as_str(), present_second())?];
        for (filter, values) in &request.filters {
            if values.len() > MAX_FILTER_VALUES {
                return Err(SearchError::Invalid {
                    parameter: filter.name(),
                    detail: format!("{} values are too many, at most {MAX_FILTER_VALUES} are taken", values.len()),
                });
            }
            wanted.extend(self.any_of(*filter, values));
        }
        if !request.outcomes.is_empty() {
            let names = request.outcomes.iter().map(|outcome| outcome.as_str());
            wanted.push(any(names.map(|name| (self.fields.outcome, name))));
        }
        Ok(all_of(wanted, Vec::new()).unwrap_or_else(|| Box::new(AllQuery)))
    }

    /// The query of an entity's history.
    pub(crate) fn entity(&self, key: &str) -> Box<dyn Query> {
        any([(self.fields.entity, key)])
    }

    /// The query of the bundles that name `bundle` of the same repository as a parent.
    pub(crate) fn children(&self, repo: &str, bundle: &str) -> Box<dyn Query> {
        let terms = [(self.fields.parents, bundle), (self.fields.repo, repo), (self.fields.kind, "bundle")];
        let terms = terms.map(|(field, text)| (Occur::Must, exact_term(field, text)));
        Box::new(BooleanQuery::new(terms.into()))
    }

    /// The query of a text; `now` is the present second.
    pub(crate) fn parse(&self, text: &str, now: i64) -> Result<Box<dyn Query>, SearchError> {
        let Some(tree) = read_query(text, &self.names).map_err(refused)? else { return Ok(Box::new(AllQuery)) };
        let query = self.node(&tree, now).map_err(refused)?;
        query
            .ok_or_else(|| invalid("position 1: the query has no letter or digit to search for; add a word".to_owned()))
    }

    fn node(&self, node: &QueryNode, now: i64) -> LeafQuery {
        Ok(match node {
            QueryNode::AllOf(parts) => {
                let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
                for part in parts {
                    match part {
                        QueryNode::Not(part) => unwanted.extend(self.node(part, now)?),
                        part => wanted.extend(self.node(part, now)?),
                    }
                }
                all_of(wanted, unwanted)
            }
            QueryNode::AnyOf(parts) => {
                let parts = parts.iter().map(|part| self.node(part, now)).collect::<Result<Vec<_>, _>>()?;
                any_query(parts.into_iter().flatten().collect())
            }
            QueryNode::Not(part) => all_of(Vec::new(), self.node(part, now)?.into_iter().collect()),
            QueryNode::Boosted(part, boost) => self.node(part, now)?.map(|query| {
                let query: Box<dyn Query> = Box::new(BoostQuery::new(query, *boost));
                query
            }),
            QueryNode::Leaf(leaf) => self.leaf(leaf, now)?,
        })
    }

    fn leaf(&self, leaf: &QueryLeaf, now: i64) -> LeafQuery {
        let Some(name) = &leaf.field else { return self.bare(leaf) };
        match self.searched(name).ok_or_else(|| refusal(leaf, format!("there is no field \"{name}\"")))? {
            SearchedField::Words { field, tokenizer, exact } => {
                self.words(leaf, field, tokenizer, exact).map(needed(leaf))?
            }
            SearchedField::Exact(fields) => exact(leaf, name, &fields, &self.fields),
            SearchedField::Number(field) => numbers(leaf, name, field),
            SearchedField::Date(field) => timed(leaf, name, now, &|lower, upper| dates(field, lower, upper)),
            SearchedField::Second(field) => {
                timed(leaf, name, now, &|from, to| between(from, to, |second| Term::from_field_i64(field, second)))
            }
            SearchedField::Attribute(path) => self.attribute(leaf, &path, now).map(needed(leaf))?,
        }
    }

    /// A leaf without a field: words of any of the fields that bare words search.
    fn bare(&self, leaf: &QueryLeaf) -> LeafQuery {
        if leaf.value == LeafValue::Anything {
            return Ok(Some(Box::new(AllQuery)));
        }
        let mut queries = Vec::new();
        for field in self.fields.default_search() {
            let (tokenizer, exact) = self.analysis_of(field);
            queries.extend(self.words(leaf, field, tokenizer, exact)?);
        }
        if queries.is_empty() && is_quoted(leaf) {
            return Err(nothing_to_search(leaf));
        }
        Ok(any_query(queries))
    }

    /// How a field of words is analysed, and which field has its words as they are.
    fn analysis_of(&self, field: Field) -> (&'static str, Field) {
        if field == self.fields.message { (ENGLISH, self.fields.message_words) } else { (WORDS, field) }
    }

    fn searched(&self, name: &str) -> Option<SearchedField> {
        let fields = &self.fields;
        for (known, words, columns, columns_name) in [
            ("payload", fields.payload, fields.payload_columns, PAYLOAD_COLUMNS),
            ("descriptor", fields.descriptor, fields.descriptor_columns, DESCRIPTOR_COLUMNS),
        ] {
            let path = name.strip_prefix(known).filter(|rest| rest.is_empty() || rest.starts_with('.'));
            if let Some(path) = path {
                let path = path.trim_start_matches('.').to_owned();
                return Some(SearchedField::Attribute(AttributePath { words, columns, columns_name, path }));
            }
        }
        let field = fields.schema.get_field(name).ok()?;
        Some(match fields.schema.get_field_entry(field).field_type() {
            FieldType::Str(options)
                if options.get_indexing_options().is_some_and(|options| options.tokenizer() == "raw") =>
            {
                // A person has two names, as in the filter.
                SearchedField::Exact(if field == fields.contributor { vec![field, fields.email] } else { vec![field] })
            }
            FieldType::Str(_) => {
                let (tokenizer, exact) = self.analysis_of(field);
                SearchedField::Words { field, tokenizer, exact }
            }
            FieldType::U64(_) => SearchedField::Number(field),
            FieldType::I64(_) => SearchedField::Second(field),
            FieldType::Date(_) => SearchedField::Date(field),
            _ => return None,
        })
    }

    /// A leaf in one field of words.
    fn words(&self, leaf: &QueryLeaf, field: Field, tokenizer: &str, exact: Field) -> LeafQuery {
        let place = WordPlace {
            tokens: self.analyzer(tokenizer),
            exact_tokens: self.analyzer(WORDS),
            head: Term::from_field_text(field, ""),
            exact: Term::from_field_text(exact, ""),
        };
        match &leaf.value {
            LeafValue::Anything => Ok(Some(Box::new(PatternQuery::any_term(exact)))),
            LeafValue::Set(elements) => {
                let phrases = elements.iter().map(|text| place.phrase(leaf, text, 0)).collect::<Result<Vec<_>, _>>()?;
                Ok(any_query(phrases.into_iter().flatten().collect()))
            }
            LeafValue::Range { .. } => Err(refusal(leaf, "a field of words has no order to compare by; search for its words, or compare a number, a time or an exact field".to_owned())),
            _ => place.words(leaf),
        }
    }

    fn analyzer(&self, tokenizer: &str) -> TextAnalyzer {
        self.tokenizers.get(tokenizer).unwrap_or_default()
    }

    /// A leaf in an attribute: by its words, and by what is a number, a date or a truth value.
    fn attribute(&self, leaf: &QueryLeaf, path: &AttributePath, now: i64) -> LeafQuery {
        // Tantivy ends a path with a zero byte.
        if (path.path.is_empty() && leaf.value != LeafValue::Anything) || path.path.contains('\0') {
            let why = "a value is asked of one attribute, as in payload.attributes.team:core; bare words search all of an entry's payload";
            return Err(refusal(leaf, why.to_owned()));
        }
        let head = || Term::from_field_json_path(path.words, &path.path, true);
        let mut words = head();
        words.append_type_and_str("");
        let place = WordPlace {
            tokens: self.analyzer(WORDS),
            exact_tokens: self.analyzer(WORDS),
            head: words.clone(),
            exact: words,
        };
        let value = |text: &str| -> LeafQuery {
            let mut queries: Vec<Box<dyn Query>> = Vec::new();
            if let Some(typed) = convert_to_fast_value_and_append_to_json_term(&head(), text, true) {
                queries.push(Box::new(TermQuery::new(typed, IndexRecordOption::Basic)));
            }
            if let Some(span) = read_time(text, now).filter(|span| span.end - span.start > 1) {
                queries.extend(path.dates(Some(span.start), Some(span.end)));
            }
            queries.extend(place.phrase(leaf, text, 0)?);
            Ok(any_query(queries))
        };
        match &leaf.value {
            LeafValue::Anything | LeafValue::Range { lower: Bound::Unbounded, upper: Bound::Unbounded } => {
                let name = if path.path.is_empty() {
                    path.columns_name.to_owned()
                } else {
                    format!("{}.{}", path.columns_name, path.path)
                };
                Ok(Some(Box::new(ExistsQuery::new(name, true))))
            }
            LeafValue::Word(word) => match text_of(word) {
                Some(text) => value(&text),
                None => place.words(leaf),
            },
            LeafValue::Phrase { text, slop: 0, is_prefix: false } => value(text),
            LeafValue::Phrase { .. } | LeafValue::Fuzzy { .. } => place.words(leaf),
            LeafValue::Set(elements) => {
                let values = elements.iter().map(|text| value(text)).collect::<Result<Vec<_>, _>>()?;
                Ok(any_query(values.into_iter().flatten().collect()))
            }
            LeafValue::Range { lower, upper } => Ok(any_query(path.between(lower, upper, now))),
        }
    }

    fn any_of(&self, filter: FilterField, values: &[String]) -> Option<Box<dyn Query>> {
        let fields = self.fields_of(filter);
        let terms = values.iter().flat_map(|value| fields.iter().map(move |field| (*field, value.as_str())));
        (!values.is_empty()).then(|| any(terms))
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
    let query = any_query(queries.collect()).unwrap_or_else(|| Box::new(EmptyQuery));
    Box::new(ConstScoreQuery::new(query, 0.0))
}

/// Where the words of a leaf are looked up.
struct WordPlace {
    /// Makes the words of the place.
    tokens: TextAnalyzer,
    /// Makes words as they are.
    exact_tokens: TextAnalyzer,
    /// A term of the place without its text.
    head: Term,
    /// The same of the words as they are.
    exact: Term,
}

impl WordPlace {
    fn words(&self, leaf: &QueryLeaf) -> LeafQuery {
        match &leaf.value {
            LeafValue::Word(word) => match text_of(word) {
                Some(text) => self.phrase(leaf, &text, 0),
                None => self.pattern(leaf, word),
            },
            LeafValue::Fuzzy { word, edits } => {
                let tokens = tokens_of(&self.exact_tokens, word);
                let [(_, only)] = tokens.as_slice() else {
                    return Err(refusal(
                        leaf,
                        format!(
                            "\"~\" needs one word before it, and \"{word}\" is {}; put quotes around it",
                            tokens.len()
                        ),
                    ));
                };
                let pattern = TermPattern::Fuzzy { word: only.chars().collect(), edits: *edits };
                Ok(Some(Box::new(PatternQuery::new(
                    self.exact.field(),
                    key_of(&self.exact),
                    pattern,
                    None,
                    typed(leaf, word),
                ))))
            }
            LeafValue::Phrase { text, slop, is_prefix: false } => self.phrase(leaf, text, *slop),
            LeafValue::Phrase { text, .. } => {
                let word: Vec<WordChar> = text.chars().map(WordChar::Text).chain([WordChar::AnyText]).collect();
                self.pattern(leaf, &word)
            }
            LeafValue::Anything | LeafValue::Range { .. } | LeafValue::Set(_) => Ok(None),
        }
    }

    /// The words of `text` side by side.
    fn phrase(&self, leaf: &QueryLeaf, text: &str, slop: u32) -> LeafQuery {
        let tokens = tokens_of(&self.tokens, text);
        if tokens.is_empty() && text.chars().any(char::is_alphanumeric) {
            return Err(refusal(
                leaf,
                "the word is longer than 128 bytes, and such words are not indexed; search for another part".to_owned(),
            ));
        }
        Ok(phrase_of(
            tokens.into_iter().map(|(position, text)| (position, with_text(&self.head, &text))).collect(),
            slop,
        ))
    }

    /// A word or phrase that ends with a pattern.
    fn pattern(&self, leaf: &QueryLeaf, word: &[WordChar]) -> LeafQuery {
        let shown = shown(word);
        let mut word = word.to_vec();
        // A question mark after what is no letter, and signs at the end, are signs.
        for at in 0..word.len() {
            let after_word = at > 0 && is_of_word(word[at - 1]);
            if word[at] == WordChar::AnyChar && !after_word {
                word[at] = WordChar::Text('?');
            }
        }
        while word.last().is_some_and(|last| !is_of_word(*last)) {
            word.pop();
        }
        let first = word.iter().position(|part| !matches!(part, WordChar::Text(_))).unwrap_or(word.len());
        let (text, pattern) = word.split_at(first);
        let text = text_of(text).unwrap_or_default();
        if pattern.is_empty() {
            return self.phrase(leaf, &text, 0);
        }
        let touches = text.chars().next_back().is_some_and(|last| is_of_word(WordChar::Text(last)));
        let mut exact = tokens_of(&self.exact_tokens, &text);
        if !touches && pattern == [WordChar::AnyText] && !exact.is_empty() {
            return self.phrase(leaf, &text, 0);
        }
        let Some((position, start)) = exact.pop().filter(|_| touches) else {
            let why = format!(
                "\"{shown}\" begins with a wildcard, which would read every word; put letters before it, or quotes around text"
            );
            return Err(refusal(leaf, why));
        };
        let pattern = if pattern == [WordChar::AnyText] {
            TermPattern::Prefix(start)
        } else {
            let parts = self.parts(pattern).ok_or_else(|| {
                refusal(leaf, format!("\"{shown}\" has signs after a wildcard, so that it is several words; put quotes around text, and blanks between words"))
            })?;
            TermPattern::Wildcard { start, parts }
        };
        let mut before = tokens_of(&self.tokens, &text);
        before.retain(|(at, _)| *at < position);
        let phrase = (!before.is_empty()).then(|| PhraseStart {
            words: before.into_iter().map(|(at, text)| (at, with_text(&self.head, &text))).collect(),
            position,
            last: self.head.clone(),
            stems: (self.head.field() != self.exact.field()).then(|| self.tokens.clone()),
        });
        let query = PatternQuery::new(self.exact.field(), key_of(&self.exact), pattern, phrase, typed(leaf, &shown));
        Ok(Some(Box::new(query)))
    }

    /// The parts of a pattern, folded as words are; `None` if it is more than one word.
    fn parts(&self, pattern: &[WordChar]) -> Option<Vec<WildcardPart>> {
        let mut parts = Vec::new();
        for (at, part) in pattern.iter().enumerate() {
            match part {
                WordChar::AnyText | WordChar::AnyChar => parts.push(wildcard_part(pattern, at)),
                WordChar::Text(char) if is_of_word(*part) => {
                    // A mark belongs to the character before it, and its fold has none.
                    let folded = tokens_of(&self.exact_tokens, &char.to_string());
                    parts.extend(folded.iter().flat_map(|(_, text)| text.chars()).map(WildcardPart::Char));
                }
                WordChar::Text(_) => return None,
            }
        }
        Some(parts)
    }
}

/// What the character at `at` of a pattern stands for.
fn wildcard_part(pattern: &[WordChar], at: usize) -> WildcardPart {
    match pattern[at] {
        WordChar::Text(char) => WildcardPart::Char(char),
        WordChar::AnyText => WildcardPart::Many,
        WordChar::AnyChar if pattern[at..].iter().all(|part| *part == WordChar::AnyChar) => WildcardPart::OneOrNone,
        WordChar::AnyChar => WildcardPart::One,
    }
}

/// Whether a character is part of a word, or a wildcard.
fn is_of_word(part: WordChar) -> bool {
    match part {
        WordChar::Text(char) => char.is_alphanumeric() || is_combining_mark(char),
        WordChar::AnyText | WordChar::AnyChar => true,
    }
}

impl AttributePath {
    fn term(&self) -> Term {
        Term::from_field_json_path(self.columns, &self.path, true)
    }

    /// Dates from the second `lower` to before `upper`.
    fn dates(&self, lower: Option<i64>, upper: Option<i64>) -> Option<Box<dyn Query>> {
        let term = |second: i64| {
            let mut term = self.term();
            term.append_type_and_fast_value(DateTime::from_timestamp_secs(second));
            term
        };
        date_range(lower, upper, &term)
    }

    /// What lies between two bounds: numbers where they are numbers, dates where they are times, else texts.
    fn between(&self, lower: &Bound<String>, upper: &Bound<String>, now: i64) -> Vec<Box<dyn Query>> {
        let mut queries = Vec::new();
        let all = |can: &dyn Fn(&str) -> bool| [lower, upper].iter().all(|bound| bound_text(bound).is_none_or(can));
        let is_number = |text: &str| typed_number(&self.term(), text).is_some();
        let is_time = |text: &str| read_time(text, now).is_some();
        if all(&is_number) {
            let term = |text: &String| typed_number(&self.term(), text).unwrap_or_else(|| self.term());
            queries.extend(range(lower.as_ref().map(term), upper.as_ref().map(term)));
        }
        if all(&is_time) {
            let (from, to) = seconds(
                lower.as_ref().map(|text| read_time(text, now)),
                upper.as_ref().map(|text| read_time(text, now)),
            );
            queries.extend(self.dates(from, to));
            // A day without a time is text, and so is a time that no date holds; both are written in their order.
            let text = |second: i64| self.text(&civil_text(second));
            queries.extend(range(
                Bound::Included(text(from.unwrap_or(i64::MIN))),
                Bound::Excluded(text(to.unwrap_or(i64::MAX))),
            ));
        }
        if let (Bound::Included(from), Bound::Included(to)) = (lower, upper)
            && from == to
        {
            queries.extend(self.whole(from));
        } else if !all(&is_number) && !all(&is_time) {
            queries
                .extend(range(lower.as_ref().map(|text| self.text(text)), upper.as_ref().map(|text| self.text(text))));
        }
        queries
    }

    /// The whole value `text`, as facets write it, where it looks like a number or a time and is a text, or is a truth value.
    fn whole(&self, text: &str) -> Vec<Box<dyn Query>> {
        let truth = text.parse::<bool>().ok().map(|truth| {
            let mut term = Term::from_field_json_path(self.words, &self.path, true);
            term.append_type_and_fast_value(truth);
            let query: Box<dyn Query> = Box::new(TermQuery::new(term, IndexRecordOption::Basic));
            query
        });
        range(Bound::Included(self.text(text)), Bound::Included(self.text(text))).into_iter().chain(truth).collect()
    }

    fn text(&self, text: &str) -> Term {
        let mut term = self.term();
        term.append_type_and_str(text);
        term
    }
}

fn bound_text(bound: &Bound<String>) -> Option<&str> {
    match bound {
        Bound::Included(text) | Bound::Excluded(text) => Some(text),
        Bound::Unbounded => None,
    }
}

/// `text` as a number at the end of the path `head`.
fn typed_number(head: &Term, text: &str) -> Option<Term> {
    // "inf" and "nan" are words.
    if !text.trim_start_matches(['+', '-', '.']).starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let term = convert_to_fast_value_and_append_to_json_term(head, text, true)?;
    let is_number = matches!(term.value().json_path_type(), Some(Type::I64 | Type::U64 | Type::F64));
    is_number.then_some(term)
}

/// A leaf in exact fields.
fn exact(leaf: &QueryLeaf, name: &str, fields: &[Field], schema: &SchemaFields) -> LeafQuery {
    let value = |text: &str| any_query(fields.iter().map(|field| exact_term(*field, text)).collect());
    let pattern = |pattern: TermPattern, shown: &str| {
        let query = |field: &Field| -> Box<dyn Query> {
            Box::new(PatternQuery::new(*field, Vec::new(), pattern.clone(), None, typed(leaf, shown)))
        };
        any_query(fields.iter().map(query).collect())
    };
    Ok(match &leaf.value {
        LeafValue::Anything | LeafValue::Range { lower: Bound::Unbounded, upper: Bound::Unbounded } => {
            any_query(fields.iter().map(|field| exists(*field, schema)).collect())
        }
        LeafValue::Word(word) => match text_of(word) {
            Some(text) => value(&text),
            None => pattern(exact_pattern(leaf, word)?, &shown(word)),
        },
        LeafValue::Fuzzy { word, edits } => {
            pattern(TermPattern::Fuzzy { word: word.chars().collect(), edits: *edits }, word)
        }
        LeafValue::Phrase { text, is_prefix: true, .. } if !text.is_empty() => {
            pattern(TermPattern::Prefix(text.clone()), text)
        }
        LeafValue::Phrase { slop: 1.., .. } => {
            return Err(refusal(
                leaf,
                format!("the field \"{name}\" has whole values, so that \"~\" after quotes has no meaning"),
            ));
        }
        LeafValue::Phrase { text, .. } => value(text),
        LeafValue::Set(elements) => any_query(elements.iter().filter_map(|text| value(text)).collect()),
        LeafValue::Range { lower, upper } => {
            let bounds = |field: &Field| {
                let term = |text: &String| Term::from_field_text(*field, &term_text(text));
                range(lower.as_ref().map(term), upper.as_ref().map(term))
            };
            any_query(fields.iter().filter_map(bounds).collect())
        }
    })
}

/// A pattern of whole values: case and signs count.
fn exact_pattern(leaf: &QueryLeaf, word: &[WordChar]) -> Result<TermPattern, QueryRefusal> {
    let first = word.iter().position(|part| !matches!(part, WordChar::Text(_))).unwrap_or(word.len());
    let (start, pattern) = word.split_at(first);
    let start = text_of(start).unwrap_or_default();
    if start.is_empty() {
        let why = format!(
            "\"{}\" begins with a wildcard, which would read every value; put text before it, or quotes around it",
            shown(word)
        );
        return Err(refusal(leaf, why));
    }
    if pattern == [WordChar::AnyText] {
        return Ok(TermPattern::Prefix(start));
    }
    let parts = (0..pattern.len()).map(|at| wildcard_part(pattern, at)).collect();
    Ok(TermPattern::Wildcard { start, parts })
}

fn exists(field: Field, schema: &SchemaFields) -> Box<dyn Query> {
    let entry = schema.schema.get_field_entry(field);
    if entry.is_fast() {
        Box::new(ExistsQuery::new(entry.name().to_owned(), false))
    } else {
        Box::new(PatternQuery::any_term(field))
    }
}

/// The seconds of two bounds: the first one, and the first one after the last.
fn seconds(lower: Bound<Option<TimeSpan>>, upper: Bound<Option<TimeSpan>>) -> (Option<i64>, Option<i64>) {
    let from = match lower {
        Bound::Included(span) => span.map(|span| span.first_whole),
        Bound::Excluded(span) => span.map(|span| span.end),
        Bound::Unbounded => None,
    };
    let to = match upper {
        Bound::Included(span) => span.map(|span| span.end),
        Bound::Excluded(span) => span.map(|span| span.first_whole),
        Bound::Unbounded => None,
    };
    (from, to)
}

/// Makes a query of the first second and of the first one after the last.
type SecondsQuery<'a> = &'a dyn Fn(Option<i64>, Option<i64>) -> Option<Box<dyn Query>>;

/// A leaf in a field of times.
fn timed(leaf: &QueryLeaf, name: &str, now: i64, make: SecondsQuery<'_>) -> LeafQuery {
    let span = |text: &str| {
        let why = || format!("\"{name}\" is compared with \"{text}\", which is not a time; {EXPECTED_TIME}");
        read_time(text, now).ok_or_else(|| refusal(leaf, why()))
    };
    let within = |text: &str| span(text).map(|span| make(Some(span.start), Some(span.end)));
    Ok(match &leaf.value {
        LeafValue::Anything | LeafValue::Range { lower: Bound::Unbounded, upper: Bound::Unbounded } => {
            Some(Box::new(ExistsQuery::new(name.to_owned(), false)))
        }
        LeafValue::Word(word) if text_of(word).is_some() => within(&text_of(word).unwrap_or_default())?,
        LeafValue::Phrase { text, slop: 0, is_prefix: false } => within(text)?,
        LeafValue::Set(elements) => {
            let spans = elements.iter().map(|text| within(text)).collect::<Result<Vec<_>, _>>()?;
            any_query(spans.into_iter().flatten().collect())
        }
        LeafValue::Range { lower, upper } => {
            let read = |text: &str| span(text).map(Some);
            let (from, to) = seconds(read_bound(lower, read)?, read_bound(upper, read)?);
            make(from, to)
        }
        LeafValue::Word(_) | LeafValue::Fuzzy { .. } | LeafValue::Phrase { .. } => {
            return Err(refusal(
                leaf,
                format!("\"{name}\" holds times, which have no wildcards and no \"~\"; {EXPECTED_TIME}"),
            ));
        }
    })
}

fn dates(field: Field, lower: Option<i64>, upper: Option<i64>) -> Option<Box<dyn Query>> {
    date_range(lower, upper, &|second| Term::from_field_date(field, DateTime::from_timestamp_secs(second)))
}

/// A range of dates. Those that Tantivy does not reach are its last and its first.
fn date_range(lower: Option<i64>, upper: Option<i64>, term: &dyn Fn(i64) -> Term) -> Option<Box<dyn Query>> {
    let term = |second: i64| term(second.clamp(-LAST_DATE_SECOND, LAST_DATE_SECOND));
    let upper = upper.filter(|upper| *upper <= LAST_DATE_SECOND);
    between(lower, upper, term)
}

/// What lies from the second `lower` to before `upper`; `None` where there are no bounds.
fn between(lower: Option<i64>, upper: Option<i64>, term: impl Fn(i64) -> Term) -> Option<Box<dyn Query>> {
    let lower = lower.map_or(Bound::Unbounded, |second| Bound::Included(term(second)));
    range(lower, upper.map_or(Bound::Unbounded, |second| Bound::Excluded(term(second))))
}

/// A leaf in a field of whole numbers.
fn numbers(leaf: &QueryLeaf, name: &str, field: Field) -> LeafQuery {
    let term = |text: &str| number(leaf, name, text).map(|number| Term::from_field_u64(field, number));
    let equal = |text: &str| term(text).map(|term| range(Bound::Included(term.clone()), Bound::Included(term)));
    Ok(match &leaf.value {
        LeafValue::Anything | LeafValue::Range { lower: Bound::Unbounded, upper: Bound::Unbounded } => {
            Some(Box::new(ExistsQuery::new(name.to_owned(), false)))
        }
        LeafValue::Word(word) => equal(&shown(word))?,
        LeafValue::Phrase { text, slop: 0, is_prefix: false } => equal(text)?,
        LeafValue::Set(elements) => {
            let values = elements.iter().map(|text| equal(text)).collect::<Result<Vec<_>, _>>()?;
            any_query(values.into_iter().flatten().collect())
        }
        LeafValue::Range { lower, upper } => range(read_bound(lower, term)?, read_bound(upper, term)?),
        LeafValue::Fuzzy { .. } | LeafValue::Phrase { .. } => {
            return Err(refusal(leaf, format!("\"{name}\" holds numbers, which have no \"~\" and no prefix")));
        }
    })
}

fn read_bound<T>(
    bound: &Bound<String>,
    read: impl Fn(&str) -> Result<T, QueryRefusal>,
) -> Result<Bound<T>, QueryRefusal> {
    Ok(match bound {
        Bound::Included(text) => Bound::Included(read(text)?),
        Bound::Excluded(text) => Bound::Excluded(read(text)?),
        Bound::Unbounded => Bound::Unbounded,
    })
}

fn number(leaf: &QueryLeaf, name: &str, text: &str) -> Result<u64, QueryRefusal> {
    text.parse().map_err(|_| {
        refusal(leaf, format!("\"{name}\" is compared with \"{text}\", which is not a whole number from 0 on"))
    })
}

/// `None` where there are no bounds.
fn range(lower: Bound<Term>, upper: Bound<Term>) -> Option<Box<dyn Query>> {
    if matches!((&lower, &upper), (Bound::Unbounded, Bound::Unbounded)) {
        return None;
    }
    Some(Box::new(RangeQuery::new(lower, upper)))
}

fn exact_term(field: Field, text: &str) -> Box<dyn Query> {
    Box::new(TermQuery::new(Term::from_field_text(field, &term_text(text)), IndexRecordOption::WithFreqs))
}

fn phrase_of(mut terms: Vec<(usize, Term)>, slop: u32) -> Option<Box<dyn Query>> {
    match terms.len() {
        0 => None,
        1 => Some(Box::new(TermQuery::new(terms.remove(0).1, IndexRecordOption::WithFreqs))),
        _ => Some(Box::new(PhraseQuery::new_with_offset_and_slop(terms, slop))),
    }
}

fn any_query(mut queries: Vec<Box<dyn Query>>) -> Option<Box<dyn Query>> {
    match queries.len() {
        0 => None,
        1 => Some(queries.remove(0)),
        _ => Some(Box::new(BooleanQuery::union(queries))),
    }
}

/// What has all of `wanted` and none of `unwanted`.
fn all_of(mut wanted: Vec<Box<dyn Query>>, unwanted: Vec<Box<dyn Query>>) -> Option<Box<dyn Query>> {
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

/// The words of a text with their positions.
fn tokens_of(analyzer: &TextAnalyzer, text: &str) -> Vec<(usize, String)> {
    let mut analyzer = analyzer.clone();
    let mut tokens = Vec::new();
    analyzer.token_stream(text).process(&mut |token| tokens.push((token.position, token.text.clone())));
    tokens
}

fn with_text(head: &Term, text: &str) -> Term {
    let mut term = head.clone();
    term.append_bytes(text.as_bytes());
    term
}

/// What the keys of a place's terms begin with.
fn key_of(head: &Term) -> Vec<u8> {
    head.serialized_value_bytes().to_vec()
}

fn shown(word: &[WordChar]) -> String {
    let char = |part: &WordChar| match part {
        WordChar::Text(char) => *char,
        WordChar::AnyText => '*',
        WordChar::AnyChar => '?',
    };
    word.iter().map(char).collect()
}

/// What was typed, as messages name it.
fn typed(leaf: &QueryLeaf, text: &str) -> String {
    format!("position {}: \"{text}\"", leaf.position)
}

fn is_quoted(leaf: &QueryLeaf) -> bool {
    matches!(leaf.value, LeafValue::Phrase { .. })
}

/// Refuses a leaf of a field that has nothing to search for.
fn needed(leaf: &QueryLeaf) -> impl Fn(Option<Box<dyn Query>>) -> LeafQuery {
    |query| query.map(Some).ok_or_else(|| nothing_to_search(leaf))
}

fn nothing_to_search(leaf: &QueryLeaf) -> QueryRefusal {
    refusal(leaf, "there is no letter or digit to search for".to_owned())
}

fn refusal(leaf: &QueryLeaf, why: String) -> QueryRefusal {
    QueryRefusal { position: leaf.position, why }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` is given")]
fn refused(refusal: QueryRefusal) -> SearchError {
    invalid(refusal.to_string())
}

/// The second that `now` means in a query.
#[expect(clippy::disallowed_methods, reason = "what a person calls now; no decision rests on it")]
fn present_second() -> i64 {
    jiff::Timestamp::now().as_second()
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

    const NOW: i64 = 1_795_132_800;

    fn compiler() -> QueryCompiler {
        QueryCompiler::new(&Arc::new(SchemaFields::current()))
    }

    fn parse(text: &str) -> Result<Box<dyn Query>, SearchError> {
        compiler().parse(text, NOW)
    }

    fn refusal(text: &str) -> String {
        match parse(text).unwrap_err() {
            SearchError::Invalid { parameter: "q", detail } => detail,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn compiles_the_query_language() {
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
            "payload.attributes.size:>100",
            "descriptor.count:[1 TO 5} payload.attributes.day:<2300-01-01T00:00:00Z payload.attributes.name:*",
            "clientTime:[0001-01-02T00:00:00Z TO 9999-12-31T23:59:59Z]",
            "clientTime:>=2026-01-01T00:00:00.5+01:00 OR clientTime:\"2026-01-01T00:00:00Z\"",
            "clientTime: IN [\"2026-01-01T00:00:00Z\" \"2026-01-02T00:00:00Z\"] clientTime:*",
            "+a -(b c) d^2.0",
            "label: IN [a b]",
        ] {
            assert!(parse(text).is_ok(), "{text}: {:?}", parse(text).err());
        }
    }

    #[test]
    fn a_query_that_does_not_parse_names_the_position() {
        assert!(refusal("repo:(a").starts_with("position "), "{}", refusal("repo:(a"));
        assert!(refusal("nosuch OR reop:a").starts_with("position 11: there is no field \"reop\""));
        assert!(refusal("clientTime:>yesterday").contains("\"yesterday\", which is not a time"));
        assert!(refusal("clientTime:[* TO 10000-01-01T00:00:00Z]").contains("9999"));
        assert!(refusal(&"(".repeat(500)).contains("nested"));
        assert!(QueryText::new("a".repeat(5000)).unwrap_err().to_string().contains("4096"));
        assert!(refusal(&"a ".repeat(1000)).contains("too many"));
    }

    #[test]
    fn what_a_field_cannot_answer_is_refused_with_its_position() {
        for (text, position, part) in [
            ("a size:many", 3, "not a whole number"),
            ("a size:1*", 3, "not a whole number"),
            ("size:5~", 1, "no \"~\""),
            ("time:2026-1*", 1, "no wildcards"),
            ("time:now/d", 1, "not a time"),
            ("a message:[a TO b]", 3, "no order"),
            ("*ing", 1, "begins with a wildcard"),
            ("x **bold**", 3, "begins with a wildcard"),
            ("repo:*s", 1, "begins with a wildcard"),
            ("fi?.x", 1, "signs after a wildcard"),
            ("foo-bar~1", 1, "one word"),
            ("\"--\"", 1, "no letter"),
            ("message:-- x", 1, "no letter"),
            ("& -", 1, "no letter"),
            ("repo:\"a\"~2", 1, "whole values"),
            ("payload:x", 1, "one attribute"),
            ("payload.a\0b:x", 1, "one attribute"),
            ("payload.a:*x", 1, "begins with a wildcard"),
        ] {
            let detail = refusal(text);
            assert!(detail.starts_with(&format!("position {position}: ")) && detail.contains(part), "{text}: {detail}");
        }
        assert!(refusal(&format!("a {}", "x".repeat(200))).starts_with("position 3: the word is longer"));
    }

    #[test]
    fn signs_between_words_are_left_out() {
        assert_eq!(format!("{:?}", parse("a & b").unwrap()), format!("{:?}", parse("a b").unwrap()));
        assert_eq!(format!("{:?}", parse("a -- b").unwrap()), format!("{:?}", parse("a b").unwrap()));
    }

    #[test]
    fn queries_of_words_keep_the_form_that_is_scored_by_blocks() {
        use crate::word_query::WordQuery;
        let fields = SchemaFields::current();
        for text in [
            "horizon",
            "genome OR maps",
            "clock AND (invoices OR prices) -archive",
            "fix bug repo:models",
            "kind:bundle OR kind:label",
            "label: IN [a b] x",
        ] {
            assert!(WordQuery::of(parse(text).unwrap().as_ref(), &fields.schema).is_some(), "{text}");
        }
    }

    #[test]
    fn nesting_costs_no_more_than_it_is_long() {
        for (open, close) in
            [("(", ")"), ("+(", ")"), ("-(", ")"), ("(a OR (b AND ", "))"), ("NOT (", ")"), ("a:(", ")")]
        {
            let deep = 20 / open.matches('(').count();
            let _ = parse(&format!("{}a{}", open.repeat(deep), close.repeat(deep)));
            let _ = parse(&open.repeat(deep));
        }
        for part in ["NOT ", "+-", "a OR ", "[", "\"", "a^", "*:", "a:b:"] {
            let _ = parse(&part.repeat(90));
        }
    }

    fn is_answered(text: &str) -> bool {
        match parse(text) {
            Ok(_) => true,
            Err(SearchError::Invalid { parameter: "q", detail }) => detail.starts_with("position "),
            Err(_) => false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn any_text_is_compiled_or_refused_with_a_position(text in "\\PC{0,80}") {
            prop_assert!(is_answered(&text));
        }

        #[test]
        fn anything_made_of_syntax_is_compiled_or_refused_with_a_position(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "(", ")", "[", "]", "{", "}", "\"", "'", "+", "-", ":", "a", "repo", "payload.", "time", "IN", "TO", "AND",
                    "OR", "NOT", " ", "*", "?", "~", "^", "\\", "/", "<", ">", "=", "1", ".", "\u{e9}", "\0", "size:", "message:",
                    "payload.a:", "2026-11", "clientTime:",
                ]),
                0..40,
            ),
        ) {
            prop_assert!(is_answered(&parts.concat()));
        }
    }
}

//! Compiles queries and filters to a Tantivy query: what each leaf of a query finds in each kind of field.

use std::{ops::Bound, sync::Arc};

use tantivy::{
    DateTime, SegmentReader, TantivyError, Term,
    json_utils::convert_to_fast_value_and_append_to_json_term,
    query::{
        AllQuery, BooleanQuery, BoostQuery, ConstScoreQuery, EmptyQuery, ExistsQuery, Occur, PhraseQuery, Query,
        RangeQuery, TermQuery,
    },
    schema::{Field, FieldType, IndexRecordOption},
    tokenizer::{TextAnalyzer, TokenizerManager},
};

use unicode_normalization::char::is_combining_mark;

use super::{
    api::{FilterField, MAX_FILTER_VALUES, SearchRequest},
    error::SearchError,
    excludable_phrase::ExcludablePhraseQuery,
    limits::QueryDeadline,
    number_range::{NumberRangeQuery, TypedNumber, read_number, whole_between},
    pattern_query::{PatternAttribute, PatternPlace, PatternQuery, PhraseStart},
    query_syntax::{FieldNames, LeafValue, QueryLeaf, QueryNode, QueryRefusal, WordChar, read_query, text_of},
    query_time::{EXPECTED_TIME, TimeSpan, read_time},
    scan_budget::{ScanBudget, search_error},
    term_pattern::{TermPattern, WildcardPart},
    text_times::TextTimeQuery,
    words_exist::WordsExistQuery,
};
use crate::segment::{
    DESCRIPTOR_COLUMNS, ENGLISH, MAX_WORD_BYTES, PAYLOAD_COLUMNS, SchemaFields, WORDS, has_long_word, is_paired,
    query_tokenizers, term_text,
};

/// The last second of Tantivy's dates, in the year 2262; the first one is its negative.
const LAST_DATE_SECOND: i64 = i64::MAX / 1_000_000_000;
/// How many patterns a query may have: each reads a part of the dictionaries of all segments.
const MAX_PATTERNS: usize = 20;
/// How many letters and wildcards the part of a pattern may have that is compared with terms.
const MAX_PATTERN_CHARS: usize = 128;

/// Compiles the query language and filters of a request to a Tantivy query. Cheap to share.
pub(crate) struct QueryCompiler {
    fields: Arc<SchemaFields>,
    names: FieldNames,
    tokenizers: TokenizerManager,
}

/// A query that can be run.
pub(crate) struct CompiledQuery {
    pub(crate) query: Box<dyn Query>,
    attributes: Vec<PatternAttribute>,
}

impl CompiledQuery {
    /// Refuses a pattern of words that is compared with numbers in `segments`.
    pub(crate) fn check(&self, segments: &[&SegmentReader]) -> Result<(), SearchError> {
        for attribute in &self.attributes {
            if let Some(refusal) = attribute.check(segments).map_err(|e| unusable(&e))? {
                return Err(refused(refusal.clone()));
            }
        }
        Ok(())
    }
}

/// What a leaf compiles to; `None` for one that has nothing to search for, as a dash between words.
type LeafQuery = Result<Option<Box<dyn Query>>, QueryRefusal>;

/// What a leaf finds in one field of words.
enum WordMatch {
    /// Nothing to search for.
    Nothing,
    Query(Box<dyn Query>),
    Pattern(PatternPlace),
}

impl WordMatch {
    fn of(query: Option<Box<dyn Query>>) -> Self {
        query.map_or(Self::Nothing, Self::Query)
    }
}

/// The compilation of one query.
struct Compilation<'a> {
    compiler: &'a QueryCompiler,
    /// The present second.
    now: i64,
    budget: Arc<ScanBudget>,
    patterns: usize,
    attributes: Vec<PatternAttribute>,
}

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

    /// The query of a request: its text and its filters, without the range of tokens. Its patterns end at `deadline`.
    pub(crate) fn compile(
        &self,
        request: &SearchRequest,
        deadline: QueryDeadline,
    ) -> Result<CompiledQuery, SearchError> {
        self.compile_at(request, present_second(), deadline)
    }

    /// As [`Self::compile`], with the second that `now` means in it.
    pub(crate) fn compile_at(
        &self,
        request: &SearchRequest,
        now: i64,
        deadline: QueryDeadline,
    ) -> Result<CompiledQuery, SearchError> {
        let CompiledQuery { query, attributes } = self.parse(request.query.as_str(), now, deadline)?;
        let mut wanted = vec![query];
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
        let query = all_of(wanted, Vec::new()).unwrap_or_else(|| Box::new(AllQuery));
        Ok(CompiledQuery { query, attributes })
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
    pub(crate) fn parse(&self, text: &str, now: i64, deadline: QueryDeadline) -> Result<CompiledQuery, SearchError> {
        let Some(tree) = read_query(text, &self.names).map_err(refused)? else {
            return Ok(CompiledQuery { query: Box::new(AllQuery), attributes: Vec::new() });
        };
        let budget = ScanBudget::new(deadline);
        let mut compilation = Compilation { compiler: self, now, budget, patterns: 0, attributes: Vec::new() };
        let query = compilation.node(&tree).map_err(refused)?.ok_or_else(|| {
            invalid("position 1: the query has no letter or digit to search for; add a word".to_owned())
        })?;
        Ok(CompiledQuery { query, attributes: compilation.attributes })
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

    fn analyzer(&self, tokenizer: &str) -> TextAnalyzer {
        self.tokenizers.get(tokenizer).unwrap_or_default()
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

impl Compilation<'_> {
    fn node(&mut self, node: &QueryNode) -> LeafQuery {
        Ok(match node {
            QueryNode::AllOf(parts) => {
                let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
                for part in parts {
                    match part {
                        QueryNode::Not(part) => unwanted.extend(self.node(part)?),
                        part => wanted.extend(self.node(part)?),
                    }
                }
                all_of(wanted, unwanted)
            }
            QueryNode::AnyOf(parts) => {
                let parts = parts.iter().map(|part| self.node(part)).collect::<Result<Vec<_>, _>>()?;
                any_query(parts.into_iter().flatten().collect())
            }
            QueryNode::Not(part) => all_of(Vec::new(), self.node(part)?.into_iter().collect()),
            QueryNode::Boosted(part, boost) => self.node(part)?.map(|query| {
                let query: Box<dyn Query> = Box::new(BoostQuery::new(query, *boost));
                query
            }),
            QueryNode::Leaf(leaf) => self.leaf(leaf)?,
        })
    }

    fn leaf(&mut self, leaf: &QueryLeaf) -> LeafQuery {
        let Some(name) = &leaf.field else { return self.bare(leaf) };
        let now = self.now;
        let searched = self.compiler.searched(name);
        Ok(Some(match searched.ok_or_else(|| refusal(leaf, format!("there is no field \"{name}\"")))? {
            SearchedField::Words { field, tokenizer, exact } => {
                let found = self.words(leaf, field, tokenizer, exact)?;
                self.union(leaf, vec![found])?.ok_or_else(|| nothing_to_search(leaf))?
            }
            SearchedField::Exact(fields) => self.exact(leaf, name, &fields)?,
            SearchedField::Number(field) => numbers(leaf, name, field)?,
            SearchedField::Date(field) => {
                timed(leaf, name, now, &|span| date_range(span, &|date| Term::from_field_date(field, date)))?
            }
            SearchedField::Second(field) => timed(leaf, name, now, &|(from, to)| {
                let term = |second: i64| Term::from_field_i64(field, second);
                let from = Bound::Included(term(from.unwrap_or(i64::MIN)));
                Box::new(RangeQuery::new(
                    from,
                    to.map_or(Bound::Included(term(i64::MAX)), |to| Bound::Excluded(term(to))),
                ))
            })?,
            SearchedField::Attribute(path) => self.attribute(leaf, &path)?.ok_or_else(|| nothing_to_search(leaf))?,
        }))
    }

    /// A leaf without a field: words of any of the fields that bare words search.
    fn bare(&mut self, leaf: &QueryLeaf) -> LeafQuery {
        if leaf.value == LeafValue::Anything {
            return Ok(Some(Box::new(AllQuery)));
        }
        let mut found = Vec::new();
        for field in self.compiler.fields.default_search() {
            let (tokenizer, exact) = self.compiler.analysis_of(field);
            found.push(self.words(leaf, field, tokenizer, exact)?);
        }
        let query = self.union(leaf, found)?;
        if query.is_none() && is_quoted(leaf) {
            return Err(nothing_to_search(leaf));
        }
        Ok(query)
    }

    /// What is found in any of several fields; their patterns are one query.
    fn union(&mut self, leaf: &QueryLeaf, found: Vec<WordMatch>) -> LeafQuery {
        let (mut queries, mut places) = (Vec::new(), Vec::new());
        for found in found {
            match found {
                WordMatch::Nothing => {}
                WordMatch::Query(query) => queries.push(query),
                WordMatch::Pattern(place) => places.push(place),
            }
        }
        if !places.is_empty() {
            queries.push(self.pattern(leaf, places)?);
        }
        Ok(any_query(queries))
    }

    fn pattern(&mut self, leaf: &QueryLeaf, places: Vec<PatternPlace>) -> Result<Box<dyn Query>, QueryRefusal> {
        self.patterns += 1;
        if self.patterns > MAX_PATTERNS {
            let why = format!(
                "the query has more than {MAX_PATTERNS} prefixes, wildcards, fuzzy words and ranges of exact values; write words in full, or put quotes around text"
            );
            return Err(refusal(leaf, why));
        }
        Ok(Box::new(PatternQuery::new(places, typed(leaf), self.budget.clone())))
    }

    /// A leaf in one field of words.
    fn words(&self, leaf: &QueryLeaf, field: Field, tokenizer: &str, exact: Field) -> Result<WordMatch, QueryRefusal> {
        let place = WordPlace {
            tokens: self.compiler.analyzer(tokenizer),
            exact_tokens: self.compiler.analyzer(WORDS),
            head: Term::from_field_text(field, ""),
            exact: Term::from_field_text(exact, ""),
        };
        match &leaf.value {
            LeafValue::Anything => Ok(WordMatch::Query(Box::new(WordsExistQuery::new(field)))),
            LeafValue::Set(elements) => {
                let phrases = elements.iter().map(|text| place.phrase(leaf, text, 0)).collect::<Result<Vec<_>, _>>()?;
                Ok(WordMatch::of(any_query(phrases.into_iter().flatten().collect())))
            }
            LeafValue::Range { .. } => Err(refusal(leaf, "a field of words has no order to compare by; search for its words, or compare a number, a time or an exact field".to_owned())),
            _ => place.words(leaf),
        }
    }

    /// A leaf in an attribute: by its words, and by what is a number, a date or a truth value.
    fn attribute(&mut self, leaf: &QueryLeaf, path: &AttributePath) -> LeafQuery {
        // Tantivy ends a path with a zero byte.
        if (path.path.is_empty() && leaf.value != LeafValue::Anything) || path.path.contains('\0') {
            let why = "a value is asked of one attribute, as in payload.attributes.team:core; bare words search all of an entry's payload";
            return Err(refusal(leaf, why.to_owned()));
        }
        let now = self.now;
        let head = || Term::from_field_json_path(path.words, &path.path, true);
        let mut words = head();
        words.append_type_and_str("");
        let place = WordPlace {
            tokens: self.compiler.analyzer(WORDS),
            exact_tokens: self.compiler.analyzer(WORDS),
            head: words.clone(),
            exact: words,
        };
        let value = |text: &str| -> LeafQuery {
            let mut queries: Vec<Box<dyn Query>> = Vec::new();
            if let Some(typed) = convert_to_fast_value_and_append_to_json_term(&head(), text, true) {
                queries.push(Box::new(TermQuery::new(typed, IndexRecordOption::Basic)));
            }
            if let Some(span) = read_time(text, now) {
                queries.extend(self.times(leaf, path, (Some(span.start), Some(span.end))));
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
            LeafValue::Word(word) if let Some(text) = text_of(word) => value(&text),
            LeafValue::Phrase { text, slop: 0, is_prefix: false } => value(text),
            LeafValue::Word(_) | LeafValue::Phrase { .. } | LeafValue::Fuzzy { .. } => {
                let found = place.words(leaf)?;
                if matches!(found, WordMatch::Pattern(_)) {
                    let why = format!(
                        "\"{}\" holds numbers or times, which have no prefixes, no wildcards and no \"~\"; compare them, as in {}:>=7",
                        leaf.field.as_deref().unwrap_or_default(),
                        leaf.field.as_deref().unwrap_or_default(),
                    );
                    self.attributes.push(PatternAttribute { path: head(), refusal: refusal(leaf, why) });
                }
                self.union(leaf, vec![found])
            }
            LeafValue::Set(elements) => {
                let values = elements.iter().map(|text| value(text)).collect::<Result<Vec<_>, _>>()?;
                Ok(any_query(values.into_iter().flatten().collect()))
            }
            LeafValue::Range { lower, upper } => Ok(Some(self.between(leaf, path, lower, upper))),
        }
    }

    /// Times from the first second of `span` to before its last one: dates, and texts that are times.
    fn times(&self, leaf: &QueryLeaf, path: &AttributePath, span: SecondSpan) -> Vec<Box<dyn Query>> {
        let texts = TextTimeQuery::new(path.term(), span, typed(leaf), self.budget.clone());
        vec![path.dates(span), Box::new(texts)]
    }

    /// What lies between two bounds: numbers where they are numbers, times where they are times, else texts.
    fn between(
        &self,
        leaf: &QueryLeaf,
        path: &AttributePath,
        lower: &Bound<String>,
        upper: &Bound<String>,
    ) -> Box<dyn Query> {
        let mut queries: Vec<Box<dyn Query>> = Vec::new();
        if let Some((lower, upper)) = read_bound(lower, read_number).zip(read_bound(upper, read_number)) {
            queries.push(Box::new(NumberRangeQuery::new(path.term(), lower, upper)));
        }
        let time = |text: &str| read_time(text, self.now);
        if let Some((lower, upper)) = read_bound(lower, time).zip(read_bound(upper, time)) {
            queries.extend(self.times(leaf, path, seconds(lower, upper)));
        }
        if let (Bound::Included(from), Bound::Included(to)) = (lower, upper)
            && from == to
        {
            queries.extend(path.whole(from));
        }
        if queries.is_empty() {
            let text = |bound: &Bound<String>| bound.as_ref().map(|text| path.text(text));
            queries.push(Box::new(RangeQuery::new(text(lower), text(upper))));
        }
        union(queries)
    }

    /// A leaf in exact fields.
    fn exact(&mut self, leaf: &QueryLeaf, name: &str, fields: &[Field]) -> Result<Box<dyn Query>, QueryRefusal> {
        let value = |text: &str| union(fields.iter().map(|field| exact_term(*field, text)).collect());
        let places = |pattern: &TermPattern| {
            let place = |field: &Field| PatternPlace {
                field: *field,
                path: Vec::new(),
                pattern: pattern.clone(),
                phrase: None,
            };
            fields.iter().map(place).collect()
        };
        match &leaf.value {
            LeafValue::Anything | LeafValue::Range { lower: Bound::Unbounded, upper: Bound::Unbounded } => {
                self.exists(leaf, fields)
            }
            LeafValue::Word(word) => match text_of(word) {
                Some(text) => Ok(value(&text)),
                None => self.pattern(leaf, places(&exact_pattern(leaf, word)?)),
            },
            LeafValue::Fuzzy { word, edits } => {
                let pattern = TermPattern::Fuzzy { word: word.chars().collect(), edits: *edits };
                check_length(leaf, word.chars().count())?;
                self.pattern(leaf, places(&pattern))
            }
            LeafValue::Phrase { text, is_prefix: true, .. } if !text.is_empty() => {
                self.pattern(leaf, places(&TermPattern::Prefix(text.clone())))
            }
            LeafValue::Phrase { slop: 1.., .. } => Err(refusal(
                leaf,
                format!("the field \"{name}\" has whole values, so that \"~\" after quotes has no meaning"),
            )),
            LeafValue::Phrase { is_prefix: true, .. } => self.exists(leaf, fields),
            LeafValue::Phrase { text, .. } => Ok(value(text)),
            LeafValue::Set(elements) => Ok(union(elements.iter().map(|text| value(text)).collect())),
            LeafValue::Range { lower, upper } => self.exact_range(leaf, fields, lower, upper),
        }
    }

    /// Whatever has a value of any of `fields`.
    fn exists(&mut self, leaf: &QueryLeaf, fields: &[Field]) -> Result<Box<dyn Query>, QueryRefusal> {
        let known = &self.compiler.fields;
        // Each contributor has a name and a mail address, so the column of the one answers for the other.
        let with_column = |field: Field| if field == known.email { known.contributor } else { field };
        let entry = known.schema.get_field_entry(with_column(fields[0]));
        if fields[0] == known.token {
            return Ok(Box::new(AllQuery));
        }
        if entry.is_fast() {
            return Ok(Box::new(ExistsQuery::new(entry.name().to_owned(), false)));
        }
        let place =
            |field: &Field| PatternPlace { field: *field, path: Vec::new(), pattern: TermPattern::Any, phrase: None };
        self.pattern(leaf, fields.iter().map(place).collect())
    }

    /// What lies between two values in any of `fields`: by their columns, else by their terms.
    fn exact_range(
        &mut self,
        leaf: &QueryLeaf,
        fields: &[Field],
        lower: &Bound<String>,
        upper: &Bound<String>,
    ) -> Result<Box<dyn Query>, QueryRefusal> {
        let known = &self.compiler.fields;
        let text = |bound: &Bound<String>| bound.as_ref().map(|text| term_text(text).into_owned());
        let (lower, upper) = (text(lower), text(upper));
        if bound_text(&lower).zip(bound_text(&upper)).is_some_and(|(lower, upper)| lower > upper) {
            return Ok(Box::new(EmptyQuery));
        }
        let (mut queries, mut places) = (Vec::new(), Vec::new());
        for field in fields {
            if known.schema.get_field_entry(*field).is_fast() {
                let term = |text: &String| Term::from_field_text(*field, text);
                let query = RangeQuery::new(lower.as_ref().map(term), upper.as_ref().map(term));
                queries.push(WordMatch::Query(Box::new(query)));
            } else {
                let pattern = TermPattern::Between { lower: lower.clone(), upper: upper.clone() };
                places.push(WordMatch::Pattern(PatternPlace {
                    field: *field,
                    path: Vec::new(),
                    pattern,
                    phrase: None,
                }));
            }
        }
        queries.extend(places);
        Ok(self.union(leaf, queries)?.unwrap_or_else(|| Box::new(EmptyQuery)))
    }
}

/// The documents with any of these exact terms. Adds nothing to the score.
fn any<'a>(terms: impl IntoIterator<Item = (Field, &'a str)>) -> Box<dyn Query> {
    let queries = terms.into_iter().map(|(field, text)| {
        let term = Term::from_field_text(field, &term_text(text));
        let query: Box<dyn Query> = Box::new(TermQuery::new(term, IndexRecordOption::Basic));
        query
    });
    Box::new(ConstScoreQuery::new(union(queries.collect()), 0.0))
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
    fn words(&self, leaf: &QueryLeaf) -> Result<WordMatch, QueryRefusal> {
        match &leaf.value {
            LeafValue::Word(word) => match text_of(word) {
                Some(text) => self.phrase(leaf, &text, 0).map(WordMatch::of),
                None => self.pattern(leaf, word),
            },
            LeafValue::Fuzzy { word, edits } => {
                check_words(leaf, word)?;
                let tokens = tokens_of(&self.exact_tokens, word);
                if tokens.iter().any(|(_, word)| word.contains(is_paired)) {
                    return Err(refusal(leaf, format!("\"{word}\" has \"~\", and {IN_PAIRS}; leave \"~\" out")));
                }
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
                Ok(WordMatch::Pattern(self.pattern_place(pattern, None)))
            }
            LeafValue::Phrase { text, slop, is_prefix: false } => self.phrase(leaf, text, *slop).map(WordMatch::of),
            LeafValue::Phrase { text, .. } => {
                let word: Vec<WordChar> = text.chars().map(WordChar::Text).chain([WordChar::AnyText]).collect();
                self.pattern(leaf, &word)
            }
            LeafValue::Anything | LeafValue::Range { .. } | LeafValue::Set(_) => Ok(WordMatch::Nothing),
        }
    }

    fn pattern_place(&self, pattern: TermPattern, phrase: Option<PhraseStart>) -> PatternPlace {
        PatternPlace { field: self.exact.field(), path: key_of(&self.exact), pattern, phrase }
    }

    /// The words of `text` side by side.
    fn phrase(&self, leaf: &QueryLeaf, text: &str, slop: u32) -> LeafQuery {
        check_words(leaf, text)?;
        let tokens = tokens_of(&self.tokens, text);
        Ok(phrase_of(
            tokens.into_iter().map(|(position, text)| (position, with_text(&self.head, &text))).collect(),
            slop,
        ))
    }

    /// A word or phrase that ends with a pattern.
    fn pattern(&self, leaf: &QueryLeaf, word: &[WordChar]) -> Result<WordMatch, QueryRefusal> {
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
            return self.phrase(leaf, &text, 0).map(WordMatch::of);
        }
        check_words(leaf, &text)?;
        let is_prefix = pattern == [WordChar::AnyText];
        let touches = text.chars().next_back().is_some_and(|last| is_of_word(WordChar::Text(last)));
        let mut exact = tokens_of(&self.exact_tokens, &text);
        let is_paired_end = touches && exact.last().is_some_and(|(_, word)| word.ends_with(is_paired));
        // A character more or none, of text that is found by its parts.
        let is_question = is_paired_end && pattern.iter().all(|part| *part == WordChar::AnyChar);
        if is_question || (!touches && is_prefix && !exact.is_empty()) {
            return self.phrase(leaf, &text, 0).map(WordMatch::of);
        }
        let in_pairs = || {
            let why = format!("\"{shown}\" has a wildcard, and {IN_PAIRS}; leave the wildcard out, or end with \"*\"");
            refusal(leaf, why)
        };
        if is_paired_end && !is_prefix {
            return Err(in_pairs());
        }
        let Some((position, start)) = exact.pop().filter(|_| touches) else {
            let why = format!(
                "\"{shown}\" begins with a wildcard, which would read every word; put letters before it, or quotes around text"
            );
            return Err(refusal(leaf, why));
        };
        let pattern = if is_prefix {
            TermPattern::Prefix(start)
        } else {
            let parts = self.parts(pattern).ok_or_else(|| {
                refusal(leaf, format!("\"{shown}\" has signs after a wildcard, so that it is several words; put quotes around text, and blanks between words"))
            })?;
            if parts.iter().any(|part| matches!(part, WildcardPart::Char(char) if is_paired(*char))) {
                return Err(in_pairs());
            }
            check_length(leaf, start.chars().count() + parts.len())?;
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
        Ok(WordMatch::Pattern(self.pattern_place(pattern, phrase)))
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

/// Why there are no wildcards in some scripts.
const IN_PAIRS: &str = "Chinese, Japanese and Korean are found by any part of the text";

/// Refuses text with a word that no index has.
fn check_words(leaf: &QueryLeaf, text: &str) -> Result<(), QueryRefusal> {
    if !has_long_word(text) {
        return Ok(());
    }
    let why = format!(
        "the word is longer than {MAX_WORD_BYTES} bytes, and such words are not indexed; search for another part"
    );
    Err(refusal(leaf, why))
}

fn check_length(leaf: &QueryLeaf, chars: usize) -> Result<(), QueryRefusal> {
    if chars <= MAX_PATTERN_CHARS {
        return Ok(());
    }
    let why = format!(
        "a word with wildcards or \"~\" has at most {MAX_PATTERN_CHARS} characters; type its beginning and \"*\""
    );
    Err(refusal(leaf, why))
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

    fn dates(&self, span: SecondSpan) -> Box<dyn Query> {
        let term = |date: DateTime| {
            let mut term = self.term();
            term.append_type_and_fast_value(date);
            term
        };
        date_range(span, &term)
    }

    /// The whole value `text`, as facets write it, where it is a text or a truth value.
    fn whole(&self, text: &str) -> Vec<Box<dyn Query>> {
        let whole = Bound::Included(self.text(text));
        let mut queries: Vec<Box<dyn Query>> = vec![Box::new(RangeQuery::new(whole.clone(), whole))];
        if let Ok(truth) = text.parse::<bool>() {
            let mut term = Term::from_field_json_path(self.words, &self.path, true);
            term.append_type_and_fast_value(truth);
            queries.push(Box::new(TermQuery::new(term, IndexRecordOption::Basic)));
        }
        queries
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
    check_length(leaf, word.len())?;
    let parts = (0..pattern.len()).map(|at| wildcard_part(pattern, at)).collect();
    Ok(TermPattern::Wildcard { start, parts })
}

/// The first second, and the first one after the last; `None`: there is no bound.
type SecondSpan = (Option<i64>, Option<i64>);

fn seconds(lower: Bound<TimeSpan>, upper: Bound<TimeSpan>) -> SecondSpan {
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

/// A leaf in a field of times.
fn timed(
    leaf: &QueryLeaf,
    name: &str,
    now: i64,
    make: &dyn Fn(SecondSpan) -> Box<dyn Query>,
) -> Result<Box<dyn Query>, QueryRefusal> {
    let span = |text: &str| {
        let why = || format!("\"{name}\" is compared with \"{text}\", which is not a time; {EXPECTED_TIME}");
        read_time(text, now).ok_or_else(|| refusal(leaf, why()))
    };
    let within = |text: &str| span(text).map(|span| make((Some(span.start), Some(span.end))));
    match &leaf.value {
        LeafValue::Anything | LeafValue::Range { lower: Bound::Unbounded, upper: Bound::Unbounded } => {
            Ok(Box::new(ExistsQuery::new(name.to_owned(), false)))
        }
        LeafValue::Word(word) if let Some(text) = text_of(word) => within(&text),
        LeafValue::Phrase { text, slop: 0, is_prefix: false } => within(text),
        LeafValue::Set(elements) => Ok(union(elements.iter().map(|text| within(text)).collect::<Result<Vec<_>, _>>()?)),
        LeafValue::Range { lower, upper } => Ok(make(seconds(try_bound(lower, span)?, try_bound(upper, span)?))),
        LeafValue::Word(_) | LeafValue::Fuzzy { .. } | LeafValue::Phrase { .. } => {
            Err(refusal(leaf, format!("\"{name}\" holds times, which have no wildcards and no \"~\"; {EXPECTED_TIME}")))
        }
    }
}

/// A range of dates. The first and the last one that Tantivy reaches stand for all before and after them.
fn date_range((from, to): SecondSpan, term: &dyn Fn(DateTime) -> Term) -> Box<dyn Query> {
    let date = |second: i64| DateTime::from_timestamp_secs(second.clamp(-LAST_DATE_SECOND, LAST_DATE_SECOND));
    let lower = Bound::Included(term(from.map_or(DateTime::MIN, date)));
    let upper = match to {
        Some(second) if second <= LAST_DATE_SECOND => Bound::Excluded(term(date(second))),
        _ => Bound::Included(term(DateTime::MAX)),
    };
    Box::new(RangeQuery::new(lower, upper))
}

/// A leaf in a field of whole numbers.
fn numbers(leaf: &QueryLeaf, name: &str, field: Field) -> Result<Box<dyn Query>, QueryRefusal> {
    let number = |text: &str| {
        let why = || format!("\"{name}\" is compared with \"{text}\", which is not a number");
        read_number(text).ok_or_else(|| refusal(leaf, why()))
    };
    let between = |lower: Bound<TypedNumber>, upper: Bound<TypedNumber>| -> Box<dyn Query> {
        let Some(range) = whole_between(lower, upper, 0, u64::MAX.into()) else { return Box::new(EmptyQuery) };
        let term = |number: i128| Term::from_field_u64(field, u64::try_from(number).unwrap_or(u64::MAX));
        Box::new(RangeQuery::new(Bound::Included(term(*range.start())), Bound::Included(term(*range.end()))))
    };
    let equal = |text: &str| number(text).map(|number| between(Bound::Included(number), Bound::Included(number)));
    match &leaf.value {
        LeafValue::Anything | LeafValue::Range { lower: Bound::Unbounded, upper: Bound::Unbounded } => {
            Ok(Box::new(ExistsQuery::new(name.to_owned(), false)))
        }
        LeafValue::Word(word) if let Some(text) = text_of(word) => equal(&text),
        LeafValue::Phrase { text, slop: 0, is_prefix: false } => equal(text),
        LeafValue::Set(elements) => Ok(union(elements.iter().map(|text| equal(text)).collect::<Result<Vec<_>, _>>()?)),
        LeafValue::Range { lower, upper } => Ok(between(try_bound(lower, number)?, try_bound(upper, number)?)),
        LeafValue::Word(_) | LeafValue::Fuzzy { .. } | LeafValue::Phrase { .. } => {
            let why = format!(
                "\"{name}\" holds numbers, which have no wildcards, no prefixes and no \"~\"; compare them, as in {name}:>=7"
            );
            Err(refusal(leaf, why))
        }
    }
}

fn try_bound<T>(
    bound: &Bound<String>,
    read: impl Fn(&str) -> Result<T, QueryRefusal>,
) -> Result<Bound<T>, QueryRefusal> {
    Ok(match bound {
        Bound::Included(text) => Bound::Included(read(text)?),
        Bound::Excluded(text) => Bound::Excluded(read(text)?),
        Bound::Unbounded => Bound::Unbounded,
    })
}

/// A bound, where it can be read.
fn read_bound<T>(bound: &Bound<String>, read: impl Fn(&str) -> Option<T>) -> Option<Bound<T>> {
    Some(match bound {
        Bound::Included(text) => Bound::Included(read(text)?),
        Bound::Excluded(text) => Bound::Excluded(read(text)?),
        Bound::Unbounded => Bound::Unbounded,
    })
}

fn exact_term(field: Field, text: &str) -> Box<dyn Query> {
    Box::new(TermQuery::new(Term::from_field_text(field, &term_text(text)), IndexRecordOption::WithFreqs))
}

fn phrase_of(mut terms: Vec<(usize, Term)>, slop: u32) -> Option<Box<dyn Query>> {
    match terms.len() {
        0 => None,
        1 => Some(Box::new(TermQuery::new(terms.remove(0).1, IndexRecordOption::WithFreqs))),
        _ => Some(Box::new(ExcludablePhraseQuery::new(PhraseQuery::new_with_offset_and_slop(terms, slop)))),
    }
}

/// What any of `queries` finds.
fn union(queries: Vec<Box<dyn Query>>) -> Box<dyn Query> {
    any_query(queries).unwrap_or_else(|| Box::new(EmptyQuery))
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
fn typed(leaf: &QueryLeaf) -> String {
    let text = match &leaf.value {
        LeafValue::Word(word) => shown(word),
        LeafValue::Fuzzy { word, edits } => format!("{word}~{edits}"),
        LeafValue::Phrase { text, .. } => text.clone(),
        LeafValue::Anything => "*".to_owned(),
        LeafValue::Range { .. } => "the range".to_owned(),
        LeafValue::Set(_) => "the set".to_owned(),
    };
    format!("position {}: \"{text}\"", leaf.position)
}

fn is_quoted(leaf: &QueryLeaf) -> bool {
    matches!(leaf.value, LeafValue::Phrase { .. })
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
pub(crate) fn present_second() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// A query that parses but cannot be run, as a range over an attribute that has no order.
pub(crate) fn unusable(error: &TantivyError) -> SearchError {
    if let Some(error) = search_error(error) {
        return error;
    }
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
        let compiled = compiler().parse(text, NOW, QueryDeadline::after(std::time::Duration::from_hours(1)));
        compiled.map(|compiled| compiled.query)
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
            ("a size:many", 3, "not a number"),
            ("a size:1*", 3, "no wildcards"),
            ("size:\"1\"*", 1, "no wildcards"),
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
    fn patterns_are_few_and_short() {
        let patterns = |count: usize| (0..count).map(|n| format!("a{n}*")).collect::<Vec<_>>().join(" ");
        assert!(parse(&patterns(20)).is_ok());
        for text in [patterns(21), patterns(20) + " a~1", patterns(20) + " bundle:*", patterns(20) + " token:>a"] {
            let (position, why) = (text.rfind(' ').unwrap() + 2, refusal(&text));
            assert!(why.starts_with(&format!("position {position}: ")) && why.contains("more than 20"), "{why}");
        }
        assert!(parse(&format!("{} repo:* text:* time:* token:*", patterns(20))).is_ok(), "these read no terms");
        for text in ["a*{}", "a{}~1", "repo:a*{}", "repo:a{}~2", "message:a?{}"] {
            assert!(parse(&text.replace("{}", &"b".repeat(100))).is_ok());
            let why = refusal(&text.replace("{}", &"b".repeat(150)));
            assert!(why.starts_with("position 1: ") && why.contains("128"), "{why}");
        }
        assert!(parse("**").unwrap().is::<AllQuery>());
    }

    #[test]
    fn a_pattern_is_one_query_over_all_fields() {
        for text in ["a*", "contributor:a*", "\"a b\"*"] {
            let query = parse(text).unwrap();
            assert!(query.is::<PatternQuery>(), "{text}: {query:?}");
        }
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

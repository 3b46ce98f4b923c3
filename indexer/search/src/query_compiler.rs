//! Compiles queries and filters to a Tantivy query: what each leaf of a query finds in each kind of field.

use std::{ops::Bound, sync::Arc, time::Duration};

use tantivy::{
    SegmentReader, TantivyError, Term,
    json_utils::convert_to_fast_value_and_append_to_json_term,
    query::{AllQuery, ConstScoreQuery, EmptyQuery, ExistsQuery, Query, RangeQuery, TermQuery},
    schema::{Field, FieldType, IndexRecordOption},
    tokenizer::{TextAnalyzer, TokenizerManager},
};

use super::{
    api::{FilterField, MAX_FILTER_VALUES, QueryText, SearchRequest},
    attribute_path::AttributePath,
    boolean_queries::{LeafQuery, all_of, any_query, any_term, exact_term, union},
    compared_values::{SecondSpan, bound_text, check_dots, date_range, numbers, read_bounds, seconds, timed},
    error::SearchError,
    exact_range::ExactRangeQuery,
    exact_values::{check_possible, check_single, check_unquoted, is_ksuid, pattern_spellings, spellings},
    field_names::FieldNames,
    limits::QueryDeadline,
    number_range::{NumberRangeQuery, TypedNumber, read_number},
    query_notes::query_notes,
    query_parser::parse_query,
    query_time::{EXPECTED_TIME, is_relative_time, read_time, read_time_prefix},
    query_tree::{LeafValue, QueryLeaf, QueryNode, QueryRefusal, text_of, typed_word},
    scan_budget::{ScanBudget, search_error},
    text_times::TextTimeQuery,
    weighted_query::WeightedQuery,
    wildcard_pattern::WildcardPattern,
    wildcard_query::{TypedAttribute, WildcardPlace, WildcardQuery},
    word_field::{WordMatch, WordPlace, check_length, exact_pattern},
    words_exist::WordsExistQuery,
};
use crate::segment::{DESCRIPTOR_COLUMNS, ENGLISH, PAYLOAD_COLUMNS, SchemaFields, WORDS, query_tokenizers, term_text};

/// How long a query may take to be read where it is not run.
const CHECK_TIME: Duration = Duration::from_secs(10);
/// How many patterns a query may have: each reads a part of the dictionaries of all segments.
const MAX_WILDCARDS: usize = 20;

/// Compiles the query language and filters of a request to a Tantivy query. Cheap to share.
pub(crate) struct QueryCompiler {
    fields: Arc<SchemaFields>,
    names: FieldNames,
    tokenizers: TokenizerManager,
}

/// A query that can be run.
pub(crate) struct CompiledQuery {
    pub(crate) query: Box<dyn Query>,
    /// What may have been meant instead, if it finds nothing.
    pub(crate) notes: Vec<String>,
    attributes: Vec<TypedAttribute>,
}

impl CompiledQuery {
    /// Refuses a pattern or text that is compared with numbers or times in `segments`.
    pub(crate) fn check(&self, segments: &[&SegmentReader]) -> Result<(), SearchError> {
        for attribute in &self.attributes {
            if let Some(refusal) = attribute.check(segments).map_err(|e| unusable(&e))? {
                return Err(refused(refusal.clone()));
            }
        }
        Ok(())
    }
}

/// Refuses a query that no index can run. What depends on what an index holds is found only there.
pub fn check_query(query: &QueryText) -> Result<(), SearchError> {
    let compiler = QueryCompiler::new(&Arc::new(SchemaFields::current()));
    compiler.parse(query.as_str(), present_second(), QueryDeadline::after(CHECK_TIME)).map(drop)
}

/// The compilation of one query.
struct QueryCompilation<'a> {
    compiler: &'a QueryCompiler,
    /// The present second.
    now: i64,
    budget: Arc<ScanBudget>,
    patterns: usize,
    attributes: Vec<TypedAttribute>,
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

impl QueryCompiler {
    pub(crate) fn new(fields: &Arc<SchemaFields>) -> Self {
        let names = fields.searched_names().into_iter().map(str::to_owned).collect();
        let names = FieldNames::new(names, &["payload", "descriptor"]);
        Self { fields: fields.clone(), names, tokenizers: query_tokenizers() }
    }

    /// The query of a request: its text, in which `now` is the present second, and its filters, without the range of tokens. Its
    /// patterns end at `deadline`.
    pub(crate) fn compile(
        &self,
        request: &SearchRequest,
        now: i64,
        deadline: QueryDeadline,
    ) -> Result<CompiledQuery, SearchError> {
        let CompiledQuery { query, notes, attributes } = self.parse(request.query.as_str(), now, deadline)?;
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
            wanted.push(any_term(names.map(|name| (self.fields.outcome, name))));
        }
        let query = all_of(wanted, Vec::new()).unwrap_or_else(|| Box::new(AllQuery));
        Ok(CompiledQuery { query, notes, attributes })
    }

    /// The query of an entity's history.
    pub(crate) fn entity(&self, key: &str) -> Box<dyn Query> {
        any_term([(self.fields.entity, key)])
    }

    /// The query of the bundles of a repository that name one of `parents` as a parent, without those of the keys `besides`.
    pub(crate) fn children(&self, repo: &str, parents: &[&str], besides: &[String]) -> Box<dyn Query> {
        let fields = &self.fields;
        let parents = union(parents.iter().map(|parent| exact_term(fields.parents, parent)).collect());
        let wanted = vec![parents, exact_term(fields.repo, repo), exact_term(fields.kind, "bundle")];
        let besides = besides.iter().map(|key| exact_term(fields.entity, key)).collect();
        all_of(wanted, besides).unwrap_or_else(|| Box::new(EmptyQuery))
    }

    /// The query of a text; `now` is the present second.
    pub(crate) fn parse(&self, text: &str, now: i64, deadline: QueryDeadline) -> Result<CompiledQuery, SearchError> {
        let Some(tree) = parse_query(text, &self.names).map_err(refused)? else {
            return Ok(CompiledQuery { query: Box::new(AllQuery), notes: Vec::new(), attributes: Vec::new() });
        };
        let budget = ScanBudget::new(deadline);
        let mut compilation = QueryCompilation { compiler: self, now, budget, patterns: 0, attributes: Vec::new() };
        let query = compilation.node(&tree).map_err(refused)?.ok_or_else(|| {
            invalid("position 1: the query has no letter or digit to search for; add a word".to_owned())
        })?;
        let notes = query_notes(&tree, &self.names);
        Ok(CompiledQuery { query, notes, attributes: compilation.attributes })
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

    pub(crate) fn fields(&self) -> &SchemaFields {
        &self.fields
    }

    /// The analyzer of a name, as it reads queries.
    pub(crate) fn analyzer(&self, tokenizer: &str) -> TextAnalyzer {
        self.tokenizers.get(tokenizer).unwrap_or_default()
    }

    fn any_of(&self, filter: FilterField, values: &[String]) -> Option<Box<dyn Query>> {
        let fields = self.fields_of(filter);
        let terms = values.iter().flat_map(|value| fields.iter().map(move |field| (*field, value.as_str())));
        (!values.is_empty()).then(|| any_term(terms))
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

impl QueryCompilation<'_> {
    fn node(&mut self, node: &QueryNode) -> LeafQuery {
        Ok(match node {
            QueryNode::AllOf(parts) => {
                let leaves =
                    parts.iter().filter_map(|part| if let QueryNode::Leaf(leaf) = part { Some(leaf) } else { None });
                check_single(leaves, |name, one, other| self.differ(name, one, other))?;
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
                let query: Box<dyn Query> = Box::new(WeightedQuery::new(query, *boost));
                query
            }),
            QueryNode::Leaf(leaf) => self.leaf(leaf)?,
        })
    }

    /// Whether two values of a field are not one, nor times of which one is in the other.
    fn differ(&self, name: &str, one: &str, other: &str) -> bool {
        match self.compiler.searched(name) {
            Some(SearchedField::Exact(_)) => one != other,
            // `5` and `5.0` are one number.
            Some(SearchedField::Number(_)) => match (read_number(one), read_number(other)) {
                (Some(TypedNumber::Whole(one)), Some(TypedNumber::Whole(other))) => one != other,
                _ => false,
            },
            Some(SearchedField::Date(_) | SearchedField::Second(_)) => {
                let spans = read_time(one, self.now).zip(read_time(other, self.now));
                spans.is_some_and(|(one, other)| one.end <= other.start || other.end <= one.start)
            }
            _ => false,
        }
    }

    fn leaf(&mut self, leaf: &QueryLeaf) -> LeafQuery {
        let Some(name) = &leaf.field else { return self.bare(leaf) };
        let now = self.now;
        let searched = self.compiler.searched(name);
        Ok(Some(match searched.ok_or_else(|| leaf.refusal(format!("there is no field \"{name}\"")))? {
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
        found.extend(self.ids(leaf).into_iter().map(WordMatch::Query));
        let query = self.union(leaf, found)?;
        if query.is_none() && is_quoted(leaf) {
            return Err(nothing_to_search(leaf));
        }
        Ok(query)
    }

    /// What bears the id that a bare word is, if it is one.
    fn ids(&self, leaf: &QueryLeaf) -> Vec<Box<dyn Query>> {
        let fields = &self.compiler.fields;
        let id = leaf.plain_text().filter(|text| is_ksuid(text));
        let of = |id: String| {
            [fields.token, fields.bundle, fields.diamond, fields.split].map(|field| exact_term(field, &id))
        };
        id.map(of).into_iter().flatten().collect()
    }

    /// What is found in any of several fields; their patterns are one query.
    fn union(&mut self, leaf: &QueryLeaf, found: Vec<WordMatch>) -> LeafQuery {
        let (mut queries, mut places) = (Vec::new(), Vec::new());
        for found in found {
            match found {
                WordMatch::Nothing => {}
                WordMatch::Query(query) => queries.push(query),
                WordMatch::Wildcard(place) => places.push(place),
            }
        }
        if !places.is_empty() {
            queries.push(self.pattern(leaf, places)?);
        }
        Ok(any_query(queries))
    }

    fn pattern(&mut self, leaf: &QueryLeaf, places: Vec<WildcardPlace>) -> Result<Box<dyn Query>, QueryRefusal> {
        self.count_pattern(leaf)?;
        Ok(Box::new(WildcardQuery::new(places, leaf.typed(), self.budget.clone())))
    }

    fn count_pattern(&mut self, leaf: &QueryLeaf) -> Result<(), QueryRefusal> {
        self.patterns += 1;
        if self.patterns > MAX_WILDCARDS {
            let why = format!(
                "the query has more than {MAX_WILDCARDS} prefixes, wildcards, fuzzy words and ranges of exact values; write words in full, or put quotes around text"
            );
            return Err(leaf.refusal(why));
        }
        Ok(())
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
            LeafValue::Range { .. } => Err(leaf.refusal("a field of words has no order to compare by; search for its words, or compare a number, a time or an exact field".to_owned())),
            _ => place.words(leaf),
        }
    }

    /// A leaf in an attribute: by its words, and by what is a number, a date or a truth value.
    fn attribute(&mut self, leaf: &QueryLeaf, path: &AttributePath) -> LeafQuery {
        // Tantivy ends a path with a zero byte.
        let is_no_path = path.path.contains('\0') || path.path.ends_with('.');
        if (path.has_all(&self.compiler.fields) && leaf.value != LeafValue::Anything) || is_no_path {
            let why = "a value is asked of one attribute, as in payload.attributes.team:core; bare words search all of an entry's payload";
            return Err(leaf.refusal(why.to_owned()));
        }
        let now = self.now;
        let is_neither = |text: &String| read_number(text).is_none() && read_time(text, now).is_none();
        if let Some(text) = leaf.plain_text().filter(is_neither)
            && text.trim_start_matches(['$', '€', '#']).starts_with(|first: char| first.is_ascii_digit())
        {
            self.compare_as_text(leaf, path, &text);
        }
        let mut words = path.words_term();
        words.append_type_and_str("");
        let place = WordPlace {
            tokens: self.compiler.analyzer(WORDS),
            exact_tokens: self.compiler.analyzer(WORDS),
            head: words.clone(),
            exact: words,
        };
        let value = |text: &str| -> LeafQuery {
            let mut queries: Vec<Box<dyn Query>> = Vec::new();
            let is_truth = ["true", "false"].iter().any(|truth| text.eq_ignore_ascii_case(truth));
            let typed = if is_truth { &text.to_ascii_lowercase() } else { text };
            if let Some(typed) = convert_to_fast_value_and_append_to_json_term(&path.words_term(), typed, true) {
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
            LeafValue::Word(word) if let Some(text) = text_of(word) => {
                check_dots(leaf, &text)?;
                value(&text)
            }
            LeafValue::Phrase { text, slop: 0, is_prefix: false } => value(text),
            LeafValue::Word(_) | LeafValue::Phrase { .. } | LeafValue::Fuzzy { .. } => {
                let found = place.words(leaf)?;
                self.pattern_of_attribute(leaf, path, found)
            }
            LeafValue::Set(elements) => {
                let values = elements.iter().map(|text| value(text)).collect::<Result<Vec<_>, _>>()?;
                Ok(any_query(values.into_iter().flatten().collect()))
            }
            LeafValue::Range { lower, upper } => self.between(leaf, path, lower, upper).map(Some),
        }
    }

    /// Words of an attribute by a pattern, and dates by the beginning of their text. What it does not find is refused once the
    /// attribute has it: numbers, and dates that are not asked for by their beginning.
    fn pattern_of_attribute(&mut self, leaf: &QueryLeaf, path: &AttributePath, found: WordMatch) -> LeafQuery {
        let name = leaf.field.as_deref().unwrap_or_default();
        let typed = leaf.pattern_text();
        let dates = typed.as_ref().and_then(|text| text.strip_suffix('*')).and_then(read_time_prefix);
        if let Some(typed) = typed {
            let why = format!(
                "\"{name}\" holds numbers or times, which have no prefixes, no wildcards and no \"~\"; compare them, as in {name}:>=7"
            );
            let mut attribute = TypedAttribute::new(path.words_term(), leaf.refusal(why));
            attribute.may_be_number = is_like_number(&typed);
            attribute.finds_dates = dates.is_some();
            self.attributes.push(attribute);
        }
        let dates = dates.map(|span| path.dates((Some(span.start), Some(span.end))));
        let found = [found].into_iter().chain(dates.map(WordMatch::Query));
        self.union(leaf, found.collect())
    }

    /// Times from the first second of `span` to before its last one: dates, and texts that are times.
    fn times(&self, leaf: &QueryLeaf, path: &AttributePath, span: SecondSpan) -> Vec<Box<dyn Query>> {
        let texts = TextTimeQuery::new(path.term(), span, leaf.typed(), self.budget.clone());
        vec![path.dates(span), Box::new(texts)]
    }

    /// Refuses the query where the attribute has numbers or times and no texts: `text` is neither.
    fn compare_as_text(&mut self, leaf: &QueryLeaf, path: &AttributePath, text: &str) {
        let name = leaf.field.as_deref().unwrap_or_default();
        let why = format!(
            "\"{name}\" holds numbers or times, and \"{text}\" is neither; {EXPECTED_TIME}, or a number in full"
        );
        self.attributes.push(TypedAttribute::new(path.words_term(), leaf.refusal(why)));
    }

    /// What lies between two bounds: numbers where they are numbers, times where they are times, else texts.
    fn between(
        &mut self,
        leaf: &QueryLeaf,
        path: &AttributePath,
        lower: &Bound<String>,
        upper: &Bound<String>,
    ) -> Result<Box<dyn Query>, QueryRefusal> {
        let is_no_time = |text: &&String| is_relative_time(text) && read_time(text, self.now).is_none();
        // A range of one value is that value, whatever it is.
        if lower != upper
            && let Some(text) = [lower, upper].into_iter().filter_map(bound_text).find(is_no_time)
        {
            return Err(leaf.refusal(format!("\"{text}\" is not a time; {EXPECTED_TIME}")));
        }
        let mut queries: Vec<Box<dyn Query>> = Vec::new();
        if let Some((lower, upper)) = read_bounds(lower, upper, read_number) {
            queries.push(Box::new(NumberRangeQuery::new(path.term(), lower, upper)));
        }
        if let Some((lower, upper)) = read_bounds(lower, upper, |text| read_time(text, self.now)) {
            queries.extend(self.times(leaf, path, seconds(lower, upper)));
        }
        if let (Bound::Included(from), Bound::Included(to)) = (lower, upper)
            && from == to
        {
            queries.extend(path.whole(from));
        }
        if queries.is_empty() {
            if let Some(text) = [lower, upper].into_iter().find_map(bound_text) {
                self.compare_as_text(leaf, path, text);
            }
            let text = |bound: &Bound<String>| bound.as_ref().map(|text| path.text(text));
            queries.push(Box::new(RangeQuery::new(text(lower), text(upper))));
        }
        Ok(union(queries))
    }

    /// A leaf in exact fields.
    fn exact(&mut self, leaf: &QueryLeaf, name: &str, fields: &[Field]) -> Result<Box<dyn Query>, QueryRefusal> {
        let value = |text: &str| -> Result<Box<dyn Query>, QueryRefusal> {
            check_possible(leaf, name, text)?;
            let terms =
                spellings(text).into_iter().flat_map(|text| fields.iter().map(move |field| exact_term(*field, &text)));
            Ok(union(terms.collect()))
        };
        let places = |patterns: Vec<WildcardPattern>| {
            let place = |pattern: &WildcardPattern| {
                fields.iter().map(|field| WildcardPlace::of_field(*field, pattern.clone())).collect::<Vec<_>>()
            };
            patterns.iter().flat_map(place).collect()
        };
        match &leaf.value {
            LeafValue::Anything | LeafValue::Range { lower: Bound::Unbounded, upper: Bound::Unbounded } => {
                Ok(self.exists(fields))
            }
            LeafValue::Word(word) => {
                check_unquoted(leaf, name, &typed_word(word))?;
                if let Some(text) = text_of(word) {
                    return value(&text);
                }
                let spelled = pattern_spellings(word);
                let patterns = spelled.iter().map(|word| exact_pattern(leaf, word)).collect::<Result<_, _>>()?;
                self.pattern(leaf, places(patterns))
            }
            LeafValue::Fuzzy { word, edits } => {
                check_length(leaf, word.chars().count())?;
                let fuzzy = |word: String| WildcardPattern::Fuzzy { word: word.chars().collect(), edits: *edits };
                self.pattern(leaf, places(spellings(word).into_iter().map(fuzzy).collect()))
            }
            LeafValue::Phrase { text, is_prefix: true, .. } if !text.is_empty() => {
                self.pattern(leaf, places(spellings(text).into_iter().map(WildcardPattern::Prefix).collect()))
            }
            LeafValue::Phrase { slop: 1.., .. } => Err(leaf
                .refusal(format!("the field \"{name}\" has whole values, so that \"~\" after quotes has no meaning"))),
            LeafValue::Phrase { is_prefix: true, .. } => Ok(self.exists(fields)),
            LeafValue::Phrase { text, .. } => value(text),
            LeafValue::Set(elements) => Ok(union(elements.iter().map(|text| value(text)).collect::<Result<_, _>>()?)),
            LeafValue::Range { lower, upper } => self.exact_range(leaf, fields, lower, upper),
        }
    }

    /// Whatever has a value of any of `fields`.
    fn exists(&self, fields: &[Field]) -> Box<dyn Query> {
        let known = &self.compiler.fields;
        // Each contributor has a name and a mail address, so the column of the one answers for the other.
        let entry = known.schema.get_field_entry(fields[0]);
        if entry.is_fast() {
            return Box::new(ExistsQuery::new(entry.name().to_owned(), false));
        }
        let names = fields.iter().map(|field| exact_term(known.field_names, known.schema.get_field_name(*field)));
        Box::new(ConstScoreQuery::new(union(names.collect()), 1.0))
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
        if let (Some(first), Some(last)) = (bound_text(&lower), bound_text(&upper))
            && first > last
        {
            return Ok(Box::new(EmptyQuery));
        }
        let has_column = |field: &Field| known.schema.get_field_entry(*field).is_fast();
        if !fields.iter().all(has_column) {
            self.count_pattern(leaf)?;
        }
        let found = fields.iter().map(|field| -> Box<dyn Query> {
            if has_column(field) {
                let term = |text: &String| Term::from_field_text(*field, text);
                return Box::new(RangeQuery::new(lower.as_ref().map(term), upper.as_ref().map(term)));
            }
            Box::new(ExactRangeQuery::new(*field, lower.clone(), upper.clone(), &self.budget))
        });
        Ok(union(found.collect()))
    }
}

/// Whether a pattern has nothing but what numbers and times are written with.
fn is_like_number(pattern: &str) -> bool {
    pattern.contains(|char: char| char.is_ascii_digit())
        && pattern.chars().all(|char| char.is_ascii_digit() || "+-.:?*eETZ".contains(char))
}

fn is_quoted(leaf: &QueryLeaf) -> bool {
    matches!(leaf.value, LeafValue::Phrase { .. })
}

fn nothing_to_search(leaf: &QueryLeaf) -> QueryRefusal {
    leaf.refusal("there is no letter or digit to search for".to_owned())
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
            "2^2048 *:* “a b” C:\\Users\\ada",
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
            ("payload.attributes:x", 1, "one attribute"),
            ("payload.attributes:>1", 1, "one attribute"),
            ("a payload.attributes.*:x", 22, "no wildcards"),
            ("payload.attributes.\"a b\":x", 20, "backslash"),
            ("payload.attributes.tags[0]:x", 24, "backslash"),
            ("payload.attributes.tags[0].name:x", 24, "backslash"),
            ("label: in [a b]", 8, "IN [a b]"),
            ("a x^0", 4, "above 0"),
            ("x^1001", 2, "above 0"),
            ("\"x\"^0", 4, "above 0"),
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
        for text in [patterns(21), patterns(20) + " a~1", patterns(20) + " bundle:>=a", patterns(20) + " token:>a"] {
            let (position, why) = (text.rfind(' ').unwrap() + 2, refusal(&text));
            assert!(why.starts_with(&format!("position {position}: ")) && why.contains("more than 20"), "{why}");
        }
        assert!(
            parse(&format!("{} repo:* bundle:* text:* time:* token:*", patterns(20))).is_ok(),
            "these read no terms"
        );
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
            assert!(query.is::<WildcardQuery>(), "{text}: {query:?}");
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
                    "payload.a:", "2026-11", "clientTime:", "kind", "label: IN", " = ", " != ", "!", "|", " | ", ",", ";", "%", "..", " and ", " or ",
                    " not ", "\u{201c}", "\u{201d}", "\u{2014}", "\u{2212}", "\u{ff1a}", "\u{2019}", "\u{200b}", "\u{feff}", " 09:00", "now", "-1h", "TO 5", " MB",
                    "*:*", "author:", "_exists_:", "@", "2^2048", "1INzQ5TV4vAAfU2PbRFgPfnzEwR", "null", " LIKE ", " BETWEEN ", " IS NULL",
                ]),
                0..40,
            ),
        ) {
            prop_assert!(is_answered(&parts.concat()));
        }
    }
}

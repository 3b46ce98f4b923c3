//! Documents with any term that a pattern stands for, perhaps after other words.
//!
//! The terms are looked up in each segment's dictionary, sealed segments and the overlay alike. A pattern that stands for too many
//! terms of a segment is refused, and so is a query whose patterns look at too many terms in all; nothing is ever cut.
//! Whatever fields a pattern is looked up in, its matches are one set with one score.

use std::{collections::BTreeSet, fmt, sync::Arc};

use tantivy::{
    BitSet, DocId, DocSet, Score, SegmentReader, TERMINATED, TantivyError, Term,
    index::InvertedIndexReader,
    postings::TermInfo,
    query::{BitSetDocSet, ConstScorer, EnableScoring, Explanation, PhraseQuery, Query, Scorer, Weight},
    schema::{Field, Type},
    tokenizer::TextAnalyzer,
};

use super::{
    query_tree::QueryRefusal,
    scan_budget::{DOCS_PER_DEADLINE_CHECK, ScanBudget},
    term_scan::{KeyRange, for_each_doc, for_each_term, terms_in},
    wildcard_pattern::WildcardPattern,
};

/// The most terms of a segment that a pattern may stand for.
pub(crate) const MAX_WILDCARD_TERMS: usize = 100_000;
/// The most terms that may follow the words of a phrase.
pub(crate) const MAX_PHRASE_TERMS: usize = 1_000;

/// A query for the documents with a term that a pattern stands for.
#[derive(Clone, Debug)]
pub(crate) struct WildcardQuery(Arc<WildcardLeaf>);

#[derive(Debug)]
struct WildcardLeaf {
    places: Vec<WildcardPlace>,
    /// What was typed, and where.
    typed: String,
    budget: Arc<ScanBudget>,
}

/// A field that a pattern is looked up in, or an attribute.
#[derive(Debug)]
pub(crate) struct WildcardPlace {
    pub(crate) field: Field,
    /// What the keys of the terms begin with in the dictionary: the path of an attribute, else nothing.
    pub(crate) path: Vec<u8>,
    pub(crate) pattern: WildcardPattern,
    pub(crate) phrase: Option<PhraseStart>,
}

/// The words before the pattern.
pub(crate) struct PhraseStart {
    /// With their positions; at least one.
    pub(crate) words: Vec<(usize, Term)>,
    /// The position of what the pattern stands for.
    pub(crate) position: usize,
    /// The term of the last word begins so.
    pub(crate) last: Term,
    /// Makes stems of the last word, where the phrase is one of stems.
    pub(crate) stems: Option<TextAnalyzer>,
}

impl fmt::Debug for PhraseStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PhraseStart").field("words", &self.words).field("last", &self.last).finish_non_exhaustive()
    }
}

impl WildcardQuery {
    /// What is found in any of `places`; `typed` is for messages.
    pub(crate) fn new(places: Vec<WildcardPlace>, typed: String, budget: Arc<ScanBudget>) -> Self {
        Self(Arc::new(WildcardLeaf { places, typed, budget }))
    }

    /// Where it looks, and for what.
    pub(crate) fn places(&self) -> &[WildcardPlace] {
        &self.0.places
    }
}

impl Query for WildcardQuery {
    fn weight(&self, _: EnableScoring<'_>) -> tantivy::Result<Box<dyn Weight>> {
        Ok(Box::new(WildcardWeight(self.0.clone())))
    }
}

struct WildcardWeight(Arc<WildcardLeaf>);

impl Weight for WildcardWeight {
    fn scorer(&self, reader: &SegmentReader, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
        let mut docs = BitSet::with_max_value(reader.max_doc());
        for place in &self.0.places {
            match &place.phrase {
                None => self.0.add_docs(place, reader, &mut docs)?,
                Some(phrase) => self.0.add_phrases(place, phrase, reader, &mut docs)?,
            }
        }
        Ok(Box::new(ConstScorer::new(BitSetDocSet::from(docs), boost)))
    }

    fn explain(&self, _: &SegmentReader, doc: DocId) -> tantivy::Result<Explanation> {
        Err(TantivyError::InvalidArgument(format!("the score of document {doc} is not explained")))
    }
}

impl WildcardLeaf {
    /// Adds the documents with a term that the pattern stands for.
    fn add_docs(&self, place: &WildcardPlace, reader: &SegmentReader, docs: &mut BitSet) -> tantivy::Result<()> {
        let index = reader.inverted_index(place.field)?;
        self.for_each_term(place, &index, |_, found| self.add_docs_of(&index, found, docs))
    }

    /// Adds the documents with the words of `phrase` and then a term that the pattern stands for.
    fn add_phrases(
        &self,
        place: &WildcardPlace,
        phrase: &PhraseStart,
        reader: &SegmentReader,
        docs: &mut BitSet,
    ) -> tantivy::Result<()> {
        let index = reader.inverted_index(place.field)?;
        let mut followers = BTreeSet::new();
        // A stem may stand for words that do not begin as the pattern says, so both have to be there.
        let mut with_term = BitSet::with_max_value(reader.max_doc());
        self.for_each_term(place, &index, |term, found| {
            followers.insert(term.to_owned());
            self.add_docs_of(&index, found, &mut with_term)
        })?;
        for query in phrase.followed_by(&followers) {
            self.budget.check()?;
            let mut found = query.weight(EnableScoring::disabled_from_schema(reader.schema()))?.scorer(reader, 1.0)?;
            let mut unchecked = 0;
            while found.doc() != TERMINATED {
                if with_term.contains(found.doc()) {
                    docs.insert(found.doc());
                }
                found.advance();
                unchecked += 1;
                if unchecked == DOCS_PER_DEADLINE_CHECK {
                    self.budget.check()?;
                    unchecked = 0;
                }
            }
        }
        Ok(())
    }

    fn add_docs_of(&self, index: &InvertedIndexReader, found: &TermInfo, docs: &mut BitSet) -> tantivy::Result<()> {
        for_each_doc(index, found, &self.budget, |doc| {
            docs.insert(doc);
        })
    }

    /// Calls `each` with every term that the pattern stands for.
    fn for_each_term(
        &self,
        place: &WildcardPlace,
        index: &InvertedIndexReader,
        mut each: impl FnMut(&str, &TermInfo) -> tantivy::Result<()>,
    ) -> tantivy::Result<()> {
        let (max, mut count) = (place.max_terms(), 0);
        let matching = |key: &[u8], found: &TermInfo| {
            let term = key.get(place.path.len()..).and_then(|term| std::str::from_utf8(term).ok());
            let Some(term) = term.filter(|term| place.pattern.matches(term)) else { return Ok(()) };
            count += 1;
            if count > max {
                return Err(TantivyError::InvalidArgument(format!(
                    "{} stands for more than {max} words; the search was not run; type more of it",
                    self.typed
                )));
            }
            each(term, found)
        };
        let charge = |read| self.budget.scan(read, &self.typed);
        for_each_term(index, place.pattern.keys(&place.path), &self.budget, matching, charge)
    }
}

impl WildcardPlace {
    /// The whole values of a field.
    pub(crate) fn of_field(field: Field, pattern: WildcardPattern) -> Self {
        Self { field, path: Vec::new(), pattern, phrase: None }
    }

    fn max_terms(&self) -> usize {
        if self.phrase.is_some() { MAX_PHRASE_TERMS } else { MAX_WILDCARD_TERMS }
    }
}

impl PhraseStart {
    /// The phrases that end with one of `followers`.
    fn followed_by(&self, followers: &BTreeSet<String>) -> impl Iterator<Item = PhraseQuery> {
        let mut stems = self.stems.clone();
        let stem = |word: &String| match &mut stems {
            None => word.clone(),
            Some(stems) => {
                let mut stream = stems.token_stream(word);
                if stream.advance() { stream.token().text.clone() } else { word.clone() }
            }
        };
        let last: BTreeSet<String> = followers.iter().map(stem).collect();
        last.into_iter().map(|word| {
            let mut terms = self.words.clone();
            let mut term = self.last.clone();
            term.append_bytes(word.as_bytes());
            terms.push((self.position, term));
            PhraseQuery::new_with_offset(terms)
        })
    }
}

/// An attribute that a query compares as text: by a pattern of words, or with a bound that is neither number nor time.
#[derive(Debug)]
pub(crate) struct TypedAttribute {
    /// A term of its path without a value.
    path: Term,
    /// Why the query is refused if numbers or times would be missed.
    refusal: QueryRefusal,
    /// Whether numbers and times are missed even where the attribute has texts too: the pattern is one of digits.
    pub(crate) may_be_number: bool,
    /// Whether the query looks for dates too.
    pub(crate) finds_dates: bool,
}

impl TypedAttribute {
    pub(crate) fn new(path: Term, refusal: QueryRefusal) -> Self {
        Self { path, refusal, may_be_number: false, finds_dates: false }
    }

    /// Refuses an attribute whose numbers or times in `segments` would be missed.
    pub(crate) fn check(&self, segments: &[&SegmentReader]) -> tantivy::Result<Option<&QueryRefusal>> {
        let mut is_missed = false;
        for reader in segments {
            let index = reader.inverted_index(self.path.field())?;
            if !self.may_be_number && self.has_terms(&index, Type::Str)? {
                return Ok(None);
            }
            for typ in [Type::I64, Type::U64, Type::F64, Type::Date] {
                let is_found = typ == Type::Date && self.finds_dates;
                is_missed = is_missed || (!is_found && self.has_terms(&index, typ)?);
            }
        }
        Ok(is_missed.then_some(&self.refusal))
    }

    fn has_terms(&self, index: &InvertedIndexReader, typ: Type) -> tantivy::Result<bool> {
        let mut key = self.path.serialized_value_bytes().to_vec();
        key.push(typ.to_code());
        Ok(terms_in(index, &KeyRange::beginning_with(key), 1)?.advance())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::Ordering, time::Duration};

    use tantivy::TantivyDocument;

    use super::*;
    use crate::{
        error::SearchError,
        limits::QueryDeadline,
        query_compiler::unusable,
        scan_budget::MAX_SCANNED_TERMS,
        segment::{SchemaFields, testing::searcher_of},
        wildcard_pattern::WildcardPart,
    };

    /// A segment of `documents`, each with the words `a{n}` of some hundreds in its message.
    fn segment(documents: u32) -> (SchemaFields, SegmentReader) {
        let fields = SchemaFields::current();
        let documents = (0..documents).map(|doc| {
            let words: Vec<String> = (0..300).map(|n| format!("a{}", doc * 300 + n)).collect();
            let mut document = TantivyDocument::default();
            document.add_text(fields.names, words.join(" "));
            document.add_text(fields.text, "tide tables");
            document
        });
        let reader = searcher_of(&fields, documents).segment_reader(0).clone();
        (fields, reader)
    }

    fn prefix(field: Field, start: &str) -> WildcardPlace {
        WildcardPlace::of_field(field, WildcardPattern::Prefix(start.to_owned()))
    }

    fn run(query: &WildcardQuery, reader: &SegmentReader) -> tantivy::Result<Vec<(DocId, Score)>> {
        let weight = query.weight(EnableScoring::disabled_from_schema(reader.schema()))?;
        let mut scorer = weight.scorer(reader, 1.0)?;
        let mut found = Vec::new();
        while scorer.doc() != TERMINATED {
            found.push((scorer.doc(), scorer.score()));
            scorer.advance();
        }
        Ok(found)
    }

    #[test]
    fn a_pattern_ends_at_the_deadline_inside_of_a_segment() {
        let (fields, reader) = segment(10);
        let late = ScanBudget::new(QueryDeadline::after(Duration::ZERO));
        let error =
            run(&WildcardQuery::new(vec![prefix(fields.names, "a")], "a*".to_owned(), late), &reader).unwrap_err();
        assert!(matches!(unusable(&error), SearchError::Overloaded { .. }), "{error}");
    }

    #[test]
    fn the_patterns_of_a_query_look_at_a_bounded_number_of_terms_together() {
        let (fields, reader) = segment(10);
        let budget = ScanBudget::new(QueryDeadline::after(Duration::from_hours(1)));
        let query =
            || WildcardQuery::new(vec![prefix(fields.names, "a")], "position 1: \"a*\"".to_owned(), budget.clone());
        assert_eq!(run(&query(), &reader).unwrap().len(), 10);
        assert_eq!(budget.scanned().load(Ordering::Relaxed), 3000);
        budget.scanned().store(MAX_SCANNED_TERMS - 3000, Ordering::Relaxed);
        assert!(run(&query(), &reader).is_ok());
        let error = run(&query(), &reader).unwrap_err().to_string();
        assert!(
            error.contains("position 1: \"a*\" and what else the query has to look for read more than 10000000 words"),
            "{error}"
        );
    }

    #[test]
    fn terms_are_read_in_chunks_and_none_is_missed() {
        let (fields, reader) = segment(30);
        let budget = ScanBudget::new(QueryDeadline::after(Duration::from_hours(1)));
        for (start, wanted) in [("a", 9000), ("a1", 1111), ("a89", 111), ("a8999", 1), ("a9000", 0), ("b", 0)] {
            let leaf = WildcardLeaf { places: Vec::new(), typed: String::new(), budget: budget.clone() };
            let mut found = BTreeSet::new();
            let index = reader.inverted_index(fields.names).unwrap();
            let place = prefix(fields.names, start);
            let collect = |term: &str, _: &TermInfo| {
                assert!(found.insert(term.to_owned()), "{term} twice");
                Ok(())
            };
            leaf.for_each_term(&place, &index, collect).unwrap();
            assert_eq!(found.len(), wanted, "{start}");
        }
    }

    /// What a million terms cost, the base of [`MAX_SCANNED_TERMS`]:
    /// `cargo test --release -p tidemark-search --lib the_time_of_a_million_terms -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement; 'make long' runs it"]
    fn the_time_of_a_million_terms() {
        const TERMS: u32 = 1_000_000;
        let fields = SchemaFields::current();
        let documents = (0..TERMS).map(|number| {
            // As ids lie: none has much in common with its neighbours.
            let id = format!("x{:026x}", u128::from(number) * 0x9e37_79b9_7f4a_7c15_f39c_c060);
            let mut document = TantivyDocument::default();
            document.add_text(fields.names, &id);
            document
        });
        let searcher = searcher_of(&fields, documents);
        let fuzzy: Vec<char> = format!("x{}", "f".repeat(26)).chars().collect();
        let wildcard = |parts: &str| {
            let part = |char| if char == '*' { WildcardPart::Many } else { WildcardPart::Char(char) };
            WildcardPattern::Wildcard { start: "x".to_owned(), parts: parts.chars().map(part).collect() }
        };
        for (name, field, pattern) in [
            ("x*zz", fields.names, wildcard("*zz")),
            ("x*a*b*c*d*zz", fields.names, wildcard("*a*b*c*d*zz")),
            ("xfff…~2", fields.names, WildcardPattern::Fuzzy { word: fuzzy, edits: 2 }),
        ] {
            let query = WildcardQuery::new(
                vec![WildcardPlace::of_field(field, pattern)],
                name.to_owned(),
                ScanBudget::new(QueryDeadline::after(Duration::from_hours(1))),
            );
            let times = (0..5).map(|_| {
                let began = tokio::time::Instant::now();
                let found: usize =
                    searcher.segment_readers().iter().map(|reader| run(&query, reader).unwrap().len()).sum();
                (began.elapsed(), found)
            });
            let (time, found) = times.min().unwrap();
            println!("{name}: {} ms for {TERMS} terms, {found} documents", time.as_millis());
        }
    }

    #[test]
    fn a_document_scores_once_for_all_fields_of_a_pattern() {
        let (fields, reader) = segment(2);
        let budget = ScanBudget::new(QueryDeadline::after(Duration::from_hours(1)));
        let places = vec![prefix(fields.names, "a"), prefix(fields.text, "t"), prefix(fields.text, "ti")];
        let query = WildcardQuery::new(places, "t*".to_owned(), budget);
        assert_eq!(run(&query, &reader).unwrap(), [(0, 1.0), (1, 1.0)]);
    }
}

//! Which segments have a query's terms.
//!
//! A look-up in a segment's dictionary decompresses a block of it. A query has four terms for each bare word, most segments
//! have one or two of them, and Tantivy looks each up twice, for its frequency and for its documents. So what a filter rules
//! out is not looked up, what was found once is kept in a [`TermCache`], and where a term is not, nothing of its clause is read.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tantivy::{
    DocId, DocSet as _, Score, SegmentReader, TantivyError, Term,
    index::SegmentId,
    postings::TermInfo,
    query::{
        Bm25StatisticsProvider, Bm25Weight, BooleanQuery, EmptyScorer, EnableScoring, Explanation, Query, Scorer,
        TermQuery, Weight,
    },
    schema::Field,
};

use super::{
    excludable_phrase::ExcludablePhraseQuery,
    limits::QueryDeadline,
    overlay::tail_index::OverlaySegment,
    phrase_scorer::{PhraseBounds, PhraseScorer},
    term_cache::TermCache,
};
use crate::segment::{ManifestView, OpenSegment};

/// Looks up the terms of one query.
pub(crate) struct TermLookup {
    sealed: HashMap<SegmentId, Arc<OpenSegment>>,
    cache: Arc<TermCache>,
    deadline: QueryDeadline,
    bounds: Arc<PhraseBounds>,
}

impl std::fmt::Debug for TermLookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TermLookup").field("segments", &self.sealed.len()).finish_non_exhaustive()
    }
}

impl TermLookup {
    /// Look-ups in `index` for a query that ends at `deadline`.
    pub(crate) fn new(index: &ManifestView, cache: &Arc<TermCache>, deadline: QueryDeadline) -> Arc<Self> {
        let sealed = index.segments.iter().map(|view| (view.reader.segment_id(), view.segment.clone()));
        Arc::new(Self { sealed: sealed.collect(), cache: cache.clone(), deadline, bounds: Arc::default() })
    }

    /// What the phrases of the query read of the segment that is searched.
    pub(crate) fn phrase_bounds(&self) -> &Arc<PhraseBounds> {
        &self.bounds
    }

    /// What a segment has of the term, the documents that a correction replaced included.
    pub(crate) fn term_info(&self, reader: &SegmentReader, term: &Term) -> tantivy::Result<Option<TermInfo>> {
        let sealed = self.sealed.get(&reader.segment_id());
        if sealed.is_some_and(|segment| !segment.might_contain_term(term)) {
            return Ok(None);
        }
        self.cache.term_info(reader, term)
    }

    /// An error once the deadline has passed: of many phrases each reads postings until its first match. None for a reader that comes
    /// again: it moves only if every part of its query reads something, and a phrase reads little once it is late.
    fn check_begin(&self) -> tantivy::Result<()> {
        if self.bounds.goes_on() { Ok(()) } else { self.deadline.check_scan() }
    }

    fn doc_freq(&self, reader: &SegmentReader, term: &Term) -> tantivy::Result<u64> {
        Ok(self.term_info(reader, term)?.map_or(0, |found| u64::from(found.doc_freq)))
    }

    /// The phrase of these terms with their positions; `None` if the segment lacks one. An error once [`Self::check_begin`] is one.
    pub(crate) fn phrase(
        &self,
        reader: &SegmentReader,
        terms: &[(usize, Term)],
        weight: Option<Bm25Weight>,
    ) -> tantivy::Result<Option<PhraseScorer>> {
        self.check_begin()?;
        let mut words = Vec::new();
        for (at, term) in terms {
            let Some(found) = self.term_info(reader, term)? else { return Ok(None) };
            words.push((*at, term, found));
        }
        PhraseScorer::open(reader, words, weight, self.deadline, self.bounds.clone()).map(Some)
    }

    /// The query with its terms looked up here first. It matches and scores as before.
    pub(crate) fn wrap(self: &Arc<Self>, query: &dyn Query) -> Box<dyn Query> {
        if let Some(terms) = query.downcast_ref().and_then(ExcludablePhraseQuery::exact_terms) {
            return Box::new(LookedUpPhraseQuery { terms: terms.into(), lookup: self.clone() });
        }
        if query.is::<TermQuery>() || query.is::<ExcludablePhraseQuery>() {
            return Box::new(LookedUpQuery { query: Arc::from(query.box_clone()), lookup: self.clone() });
        }
        let Some(boolean) = query.downcast_ref::<BooleanQuery>() else { return query.box_clone() };
        let clauses = boolean.clauses().iter().map(|(occur, clause)| (*occur, self.wrap(clause.as_ref())));
        let least = boolean.get_minimum_number_should_match();
        Box::new(BooleanQuery::with_minimum_required_clauses(clauses.collect(), least))
    }
}

/// Frequencies over all sealed segments, so that a score does not depend on how records lie in segments, nor change from
/// page to page with the overlay.
pub(crate) struct TermStatistics<'a> {
    readers: Vec<&'a SegmentReader>,
    lookup: Arc<TermLookup>,
    docs: u64,
    tokens: Mutex<HashMap<Field, u64>>,
}

impl<'a> TermStatistics<'a> {
    pub(crate) fn new(index: &'a ManifestView, pending: &'a [Arc<OverlaySegment>], lookup: &Arc<TermLookup>) -> Self {
        // Those that the query runs on: each reader keeps the dictionaries that it has opened.
        let mut readers: Vec<_> = index.segments.iter().map(|view| &view.reader).collect();
        if readers.is_empty() {
            readers = pending.iter().map(|segment| &segment.reader).collect();
        }
        let docs = readers.iter().map(|reader| u64::from(reader.max_doc())).sum();
        Self { readers, lookup: lookup.clone(), docs, tokens: Mutex::default() }
    }
}

impl Bm25StatisticsProvider for TermStatistics<'_> {
    fn total_num_tokens(&self, field: Field) -> tantivy::Result<u64> {
        if let Some(tokens) = self.tokens.lock().get(&field) {
            return Ok(*tokens);
        }
        let counts = self.readers.iter().map(|reader| Ok(reader.inverted_index(field)?.total_num_tokens()));
        let tokens = counts.sum::<tantivy::Result<u64>>()?;
        self.tokens.lock().insert(field, tokens);
        Ok(tokens)
    }

    fn total_num_docs(&self) -> tantivy::Result<u64> {
        Ok(self.docs)
    }

    fn doc_freq(&self, term: &Term) -> tantivy::Result<u64> {
        // A term that only the overlay has counts as rare, not as impossible.
        self.readers.iter().map(|reader| self.lookup.doc_freq(reader, term)).sum()
    }
}

/// A query for documents with all of its terms, which asks a [`TermLookup`] before it opens a dictionary.
#[derive(Clone, Debug)]
struct LookedUpQuery {
    query: Arc<dyn Query>,
    lookup: Arc<TermLookup>,
}

impl Query for LookedUpQuery {
    fn weight(&self, scoring: EnableScoring<'_>) -> tantivy::Result<Box<dyn Weight>> {
        let weight = self.query.weight(scoring)?;
        let mut terms = Vec::new();
        self.query.query_terms(&mut |term, _| terms.push(term.clone()));
        // A number that is a column only is compared, not looked up.
        if terms.iter().any(|term| !scoring.schema().get_field_entry(term.field()).is_indexed()) {
            return Ok(weight);
        }
        Ok(Box::new(LookedUpWeight { weight, terms, lookup: self.lookup.clone() }))
    }

    fn query_terms<'a>(&'a self, visitor: &mut dyn FnMut(&'a Term, bool)) {
        self.query.query_terms(visitor);
    }
}

struct LookedUpWeight {
    weight: Box<dyn Weight>,
    terms: Vec<Term>,
    lookup: Arc<TermLookup>,
}

impl LookedUpWeight {
    /// Whether the segment lacks a term, so that nothing in it matches.
    fn lacks_one(&self, reader: &SegmentReader) -> tantivy::Result<bool> {
        // Tantivy's scorer of a phrase with a distance reads postings until its first match when it is made.
        self.lookup.check_begin()?;
        for term in &self.terms {
            if self.lookup.term_info(reader, term)?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Weight for LookedUpWeight {
    /// Tantivy's own scorer, by whose type unions and intersections choose how they run.
    fn scorer(&self, reader: &SegmentReader, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
        if self.lacks_one(reader)? {
            return Ok(Box::new(EmptyScorer));
        }
        self.weight.scorer(reader, boost)
    }

    fn explain(&self, reader: &SegmentReader, doc: DocId) -> tantivy::Result<Explanation> {
        self.weight.explain(reader, doc)
    }

    fn count(&self, reader: &SegmentReader) -> tantivy::Result<u32> {
        if self.lacks_one(reader)? {
            return Ok(0);
        }
        self.weight.count(reader)
    }
}

/// A phrase whose words a [`TermLookup`] finds.
#[derive(Clone, Debug)]
struct LookedUpPhraseQuery {
    terms: Arc<[(usize, Term)]>,
    lookup: Arc<TermLookup>,
}

impl Query for LookedUpPhraseQuery {
    fn weight(&self, scoring: EnableScoring<'_>) -> tantivy::Result<Box<dyn Weight>> {
        let weight = match scoring {
            EnableScoring::Enabled { statistics_provider, .. } => {
                let terms: Vec<Term> = self.terms.iter().map(|(_, term)| term.clone()).collect();
                Some(Bm25Weight::for_terms(statistics_provider, &terms)?)
            }
            EnableScoring::Disabled { .. } => None,
        };
        Ok(Box::new(LookedUpPhraseWeight { phrase: self.clone(), weight }))
    }

    fn query_terms<'a>(&'a self, visitor: &mut dyn FnMut(&'a Term, bool)) {
        self.terms.iter().for_each(|(_, term)| visitor(term, true));
    }
}

struct LookedUpPhraseWeight {
    phrase: LookedUpPhraseQuery,
    weight: Option<Bm25Weight>,
}

impl Weight for LookedUpPhraseWeight {
    fn scorer(&self, reader: &SegmentReader, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
        let LookedUpPhraseQuery { terms, lookup } = &self.phrase;
        let weight = self.weight.as_ref().map(|weight| weight.boost_by(boost));
        let Some(mut phrase) = lookup.phrase(reader, terms, weight)? else { return Ok(Box::new(EmptyScorer)) };
        phrase.seek(lookup.bounds.from());
        Ok(Box::new(phrase))
    }

    fn explain(&self, _: &SegmentReader, doc: DocId) -> tantivy::Result<Explanation> {
        Err(TantivyError::InvalidArgument(format!("the score of document {doc} is not explained")))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::{collection::vec, prelude::*};
    use tantivy::{Searcher, SeekDangerResult, TERMINATED, TantivyDocument};
    use tidemark_catalog::{Generation, Manifest};

    use super::*;
    use crate::segment::{SchemaFields, testing::searcher_of};

    /// One segment of documents with these texts, and the field that has them.
    fn segment<'a>(texts: impl IntoIterator<Item = &'a str>) -> (Field, Searcher) {
        let fields = SchemaFields::current();
        let documents = texts.into_iter().map(|text| {
            let mut document = TantivyDocument::default();
            document.add_text(fields.text, text);
            document
        });
        (fields.text, searcher_of(&fields, documents))
    }

    fn empty_index() -> ManifestView {
        ManifestView { manifest: Manifest::new(Generation::first()), segments: Vec::new(), marks: Arc::default() }
    }

    /// Of an index without segments, so that everything is looked up by the cache.
    fn lookup(cache: &Arc<TermCache>) -> Arc<TermLookup> {
        TermLookup::new(&empty_index(), cache, QueryDeadline::after(Duration::from_hours(1)))
    }

    fn terms(field: Field, words: &[(usize, &str)]) -> Vec<(usize, Term)> {
        words.iter().map(|(at, word)| (*at, Term::from_field_text(field, word))).collect()
    }

    fn scored(query: &dyn Query, searcher: &Searcher) -> Vec<(DocId, Score)> {
        let weight = query.weight(EnableScoring::enabled_from_searcher(searcher)).unwrap();
        let mut scorer = weight.scorer(searcher.segment_reader(0), 1.5).unwrap();
        let mut found = Vec::new();
        while scorer.doc() != TERMINATED {
            found.push((scorer.doc(), scorer.score()));
            scorer.advance();
        }
        found
    }

    #[test]
    fn the_words_of_a_phrase_are_looked_up_in_the_cache() {
        let (field, searcher) = segment(["daily prices", "daily news"]);
        let (reader, cache) = (searcher.segment_reader(0), Arc::default());
        let words = terms(field, &[(0, "daily"), (1, "prices")]);
        let query = lookup(&cache).wrap(&ExcludablePhraseQuery::new(words.clone(), 0));
        let docs = || scored(query.as_ref(), &searcher).into_iter().map(|(doc, _)| doc).collect::<Vec<_>>();
        assert_eq!(docs(), [0]);
        // No dictionary says so: the one word lies where the other does.
        let news = Term::from_field_text(field, "news");
        let found = reader.inverted_index(field).unwrap().get_term_info(&news).unwrap();
        cache.keep(reader, &words[1].1, found);
        assert_eq!(docs(), [1]);
    }

    #[test]
    fn a_phrase_of_frequent_words_ends_soon_after_the_deadline() {
        let (field, searcher) = segment(std::iter::repeat_n("tide x gauge", 9000));
        let reader = searcher.segment_reader(0);
        let words = terms(field, &[(0, "tide"), (1, "gauge")]);
        let late = QueryDeadline::after(Duration::ZERO);
        let found = words.iter().map(|(at, term)| {
            let found = reader.inverted_index(field).unwrap().get_term_info(term).unwrap().unwrap();
            (*at, term, found)
        });
        let bounds = Arc::<PhraseBounds>::default();
        let mut phrase = PhraseScorer::open(reader, found.collect(), None, late, bounds.clone()).unwrap();
        assert_eq!(phrase.seek(0), TERMINATED);
        assert!((1..9000).contains(&bounds.unread()), "{}", bounds.unread());
        assert!(phrase.compared() < 9000, "{}", phrase.compared());
        assert_eq!(phrase.seek_danger(8999), SeekDangerResult::SeekLowerBound(TERMINATED));
        // Further ones are not begun.
        let (index, cache) = (empty_index(), Arc::default());
        let lookup = TermLookup::new(&index, &cache, late);
        assert!(lookup.phrase(reader, &words, None).is_err());
        let distant = ExcludablePhraseQuery::new(words, 1);
        let weight = lookup.wrap(&distant).weight(EnableScoring::disabled_from_searcher(&searcher)).unwrap();
        assert!(weight.scorer(reader, 1.0).is_err());
    }

    proptest! {
        #[test]
        fn a_phrase_is_found_and_scored_as_tantivy_does(
            texts in vec("[ab]( [abc]){0,7}", 1..60), words in vec(("[ab]", 1usize..3), 2..4), targets in vec(0u32..60, 0..20), begun: bool,
        ) {
            let (field, searcher) = segment(texts.iter().map(String::as_str));
            let mut at = 0;
            let words: Vec<(usize, &str)> = words.iter().map(|(word, step)| { at += step; (at, word.as_str()) }).collect();
            let (words, lookup) = (terms(field, &words), lookup(&Arc::default()));
            let query = ExcludablePhraseQuery::new(words.clone(), 0);
            let found = scored(lookup.wrap(&query).as_ref(), &searcher);
            prop_assert_eq!(&found, &scored(&query, &searcher));
            // Documents that it has passed, too.
            let targets: std::collections::BTreeSet<DocId> = targets.into_iter().collect();
            if let Some(mut phrase) = lookup.phrase(searcher.segment_reader(0), &words, None).unwrap() {
                if begun {
                    phrase.seek(0);
                }
                for target in targets {
                    let is_found = phrase.seek_danger(target) == SeekDangerResult::Found;
                    prop_assert_eq!(is_found, found.iter().any(|(doc, _)| *doc == target), "{}", target);
                }
            }
        }
    }
}

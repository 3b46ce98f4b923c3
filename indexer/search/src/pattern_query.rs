//! Documents with any term that a pattern stands for, perhaps after other words.
//!
//! The terms are looked up in each segment's dictionary, sealed segments and the overlay alike: what lies between two keys is
//! read in one piece, also from a store. A pattern that stands for too many terms of a segment is refused; it is never cut.
//! Every match has the same score.

use std::{collections::BTreeSet, fmt, sync::Arc};

use tantivy::{
    BitSet, DocId, Score, SegmentReader, TantivyError, Term,
    index::InvertedIndexReader,
    postings::TermInfo,
    query::{
        BitSetDocSet, BooleanQuery, ConstScorer, EmptyScorer, EnableScoring, Explanation, PhraseQuery, Query, Scorer,
        Weight, intersect_scorers,
    },
    schema::{Field, IndexRecordOption},
    tokenizer::TextAnalyzer,
};

use super::term_pattern::TermPattern;

/// The most terms of a segment that a pattern may stand for.
pub(crate) const MAX_PATTERN_TERMS: usize = 100_000;
/// The most terms that may follow the words of a phrase.
pub(crate) const MAX_PHRASE_TERMS: usize = 1_000;

/// A query for the documents with a term that a pattern stands for.
#[derive(Clone, Debug)]
pub(crate) struct PatternQuery(Arc<PatternTerms>);

#[derive(Debug)]
struct PatternTerms {
    field: Field,
    /// What the keys of the terms begin with in the dictionary: the path of an attribute, else nothing.
    path: Vec<u8>,
    pattern: TermPattern,
    /// `None`: any number.
    max_terms: Option<usize>,
    phrase: Option<PhraseStart>,
    /// What was typed, and where.
    typed: String,
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

/// What a pattern looks for.
pub(crate) struct SoughtPattern<'a> {
    pub(crate) field: Field,
    /// What the keys of the terms begin with: the path of an attribute and its type, else nothing.
    pub(crate) path: &'a [u8],
    pub(crate) pattern: &'a TermPattern,
    /// The words before it, with their positions.
    pub(crate) words: &'a [(usize, Term)],
}

impl PatternQuery {
    /// What it looks for.
    pub(crate) fn sought(&self) -> SoughtPattern<'_> {
        let PatternTerms { field, path, pattern, phrase, .. } = self.0.as_ref();
        let words = phrase.as_ref().map_or(&[][..], |phrase| phrase.words.as_slice());
        SoughtPattern { field: *field, path, pattern, words }
    }

    /// The terms of `field` that `pattern` stands for, after other words if there is a `phrase`. The keys of the terms begin
    /// with `path`; `typed` is for messages.
    pub(crate) fn new(
        field: Field,
        path: Vec<u8>,
        pattern: TermPattern,
        phrase: Option<PhraseStart>,
        typed: String,
    ) -> Self {
        let max_terms = Some(if phrase.is_some() { MAX_PHRASE_TERMS } else { MAX_PATTERN_TERMS });
        Self(Arc::new(PatternTerms { field, path, pattern, max_terms, phrase, typed }))
    }

    /// All documents that have a term of `field`.
    pub(crate) fn any_term(field: Field) -> Self {
        let pattern = TermPattern::Prefix(String::new());
        let typed = "*".to_owned();
        Self(Arc::new(PatternTerms { field, path: Vec::new(), pattern, max_terms: None, phrase: None, typed }))
    }
}

impl Query for PatternQuery {
    fn weight(&self, _: EnableScoring<'_>) -> tantivy::Result<Box<dyn Weight>> {
        Ok(Box::new(PatternWeight(self.0.clone())))
    }
}

struct PatternWeight(Arc<PatternTerms>);

impl Weight for PatternWeight {
    fn scorer(&self, reader: &SegmentReader, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
        let terms = self.0.as_ref();
        let index = reader.inverted_index(terms.field)?;
        let mut docs = BitSet::with_max_value(reader.max_doc());
        let mut followers = BTreeSet::new();
        terms.for_each(&index, |term, found| {
            if terms.phrase.is_some() {
                followers.insert(term.to_owned());
            }
            add_docs(&index, found, &mut docs)
        })?;
        let docs = BitSetDocSet::from(docs);
        match &terms.phrase {
            None => Ok(Box::new(ConstScorer::new(docs, boost))),
            Some(_) if followers.is_empty() => Ok(Box::new(EmptyScorer)),
            Some(start) => {
                let scoring = EnableScoring::disabled_from_schema(reader.schema());
                let phrases = start.followed_by(&followers).weight(scoring)?.scorer(reader, 1.0)?;
                // A stem may stand for words that do not begin as the pattern says.
                let both: Box<dyn Scorer> =
                    intersect_scorers(vec![phrases, Box::new(ConstScorer::new(docs, 1.0))], reader.max_doc());
                Ok(Box::new(ConstScorer::new(both, boost)))
            }
        }
    }

    fn explain(&self, _: &SegmentReader, doc: DocId) -> tantivy::Result<Explanation> {
        Err(TantivyError::InvalidArgument(format!("the score of document {doc} is not explained")))
    }
}

impl PatternTerms {
    /// Calls `each` with every term that the pattern stands for.
    fn for_each(
        &self,
        index: &InvertedIndexReader,
        mut each: impl FnMut(&str, &TermInfo) -> tantivy::Result<()>,
    ) -> tantivy::Result<()> {
        let mut first = self.path.clone();
        first.extend_from_slice(self.pattern.literal().as_bytes());
        let mut range = index.terms().range().ge(&first);
        if let Some(end) = key_after(first) {
            range = range.lt(end);
        }
        let mut stream = range.into_stream()?;
        let mut count = 0;
        while stream.advance() {
            let term = stream.key().get(self.path.len()..).and_then(|term| std::str::from_utf8(term).ok());
            let Some(term) = term.filter(|term| self.pattern.matches(term)) else { continue };
            count += 1;
            if let Some(max) = self.max_terms.filter(|max| count > *max) {
                return Err(TantivyError::InvalidArgument(format!(
                    "{} stands for more than {max} words; the search was not run; type more of it",
                    self.typed
                )));
            }
            each(term, stream.value())?;
        }
        Ok(())
    }
}

impl PhraseStart {
    /// The phrases that end with one of `followers`.
    fn followed_by(&self, followers: &BTreeSet<String>) -> BooleanQuery {
        let stem = |word: &String| match self.stems.clone() {
            None => word.clone(),
            Some(mut stems) => {
                let mut stream = stems.token_stream(word);
                if stream.advance() { stream.token().text.clone() } else { word.clone() }
            }
        };
        let last: BTreeSet<String> = followers.iter().map(stem).collect();
        let phrases = last.into_iter().map(|word| {
            let mut terms = self.words.clone();
            let mut term = self.last.clone();
            term.append_bytes(word.as_bytes());
            terms.push((self.position, term));
            let phrase: Box<dyn Query> = Box::new(PhraseQuery::new_with_offset(terms));
            phrase
        });
        BooleanQuery::union(phrases.collect())
    }
}

/// The first key after all that begin with `start`; `None` if all others do.
fn key_after(mut start: Vec<u8>) -> Option<Vec<u8>> {
    while let Some(last) = start.pop() {
        if last < u8::MAX {
            start.push(last + 1);
            return Some(start);
        }
    }
    None
}

fn add_docs(index: &InvertedIndexReader, found: &TermInfo, docs: &mut BitSet) -> tantivy::Result<()> {
    let mut blocks = index.read_block_postings_from_terminfo(found, IndexRecordOption::Basic)?;
    while !blocks.docs().is_empty() {
        for doc in blocks.docs() {
            docs.insert(*doc);
        }
        blocks.advance();
    }
    Ok(())
}

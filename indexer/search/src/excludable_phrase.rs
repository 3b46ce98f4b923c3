//! Phrases that may be excluded. An exclusion asks for documents that the phrase has passed, and Tantivy's own scorer of phrases
//! panics at that in a debug build.

use tantivy::{
    DocId, DocSet, Score, SeekDangerResult, SegmentReader, Term,
    query::{EnableScoring, Explanation, PhraseQuery, Query, Scorer, Weight},
};

/// A query of a phrase, with a scorer that may be asked for any document.
#[derive(Clone, Debug)]
pub(crate) struct ExcludablePhraseQuery {
    terms: Vec<(usize, Term)>,
    slop: u32,
}

impl ExcludablePhraseQuery {
    /// At least two terms of one field with their positions, which `slop` edits may change.
    pub(crate) fn new(terms: Vec<(usize, Term)>, slop: u32) -> Self {
        Self { terms, slop }
    }

    /// The terms with their positions, where these must be exactly so.
    pub(crate) fn exact_terms(&self) -> Option<&[(usize, Term)]> {
        (self.slop == 0).then_some(self.terms.as_slice())
    }
}

impl Query for ExcludablePhraseQuery {
    fn weight(&self, scoring: EnableScoring<'_>) -> tantivy::Result<Box<dyn Weight>> {
        let phrase = PhraseQuery::new_with_offset_and_slop(self.terms.clone(), self.slop);
        Ok(Box::new(PhraseMatchWeight(phrase.weight(scoring)?)))
    }

    fn query_terms<'a>(&'a self, visitor: &mut dyn FnMut(&'a Term, bool)) {
        self.terms.iter().for_each(|(_, term)| visitor(term, true));
    }
}

struct PhraseMatchWeight(Box<dyn Weight>);

impl Weight for PhraseMatchWeight {
    fn scorer(&self, reader: &SegmentReader, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
        Ok(Box::new(PhraseMatches(self.0.scorer(reader, boost)?)))
    }

    fn explain(&self, reader: &SegmentReader, doc: DocId) -> tantivy::Result<Explanation> {
        self.0.explain(reader, doc)
    }
}

/// The matches of a phrase.
struct PhraseMatches(Box<dyn Scorer>);

impl DocSet for PhraseMatches {
    fn advance(&mut self) -> DocId {
        self.0.advance()
    }

    fn seek(&mut self, target: DocId) -> DocId {
        self.0.seek(target)
    }

    fn seek_danger(&mut self, target: DocId) -> SeekDangerResult {
        let doc = self.0.doc();
        if doc > target { SeekDangerResult::SeekLowerBound(doc) } else { self.0.seek_danger(target) }
    }

    fn doc(&self) -> DocId {
        self.0.doc()
    }

    fn size_hint(&self) -> u32 {
        self.0.size_hint()
    }

    fn cost(&self) -> u64 {
        self.0.cost()
    }
}

impl Scorer for PhraseMatches {
    fn score(&mut self) -> Score {
        self.0.score()
    }
}

//! Queries of words and phrases alone, `horizon`, `genome OR maps`, `"daily prices" AND (clock OR invoices) -archive`: every match with
//! its score, words by blocks of postings.
//!
//! Tantivy skips blocks whose best score is below the worst of a page, and calls a scorer for each document. Here no score is
//! skipped: the total needs every match, among documents of one score the newest are the best and come last in a segment, and a
//! block's best score was recorded under the mean length of its segment, while scores use that of the whole index. Instead a
//! document costs little: no call, no look-up, no place on a heap. A score is the sum of the terms' parts in one order for all
//! segments, since the last bit of a score decides where the next page starts.

use std::sync::Arc;

use tantivy::{
    DocId, DocSet as _, Score, SeekDangerResult, SegmentReader, TERMINATED, Term,
    fieldnorm::FieldNormReader,
    postings::{BlockSegmentPostings, TermInfo},
    query::{Bm25StatisticsProvider as _, Bm25Weight, BooleanQuery, Occur, Query, Scorer as _, TermQuery},
    schema::{FieldType, IndexRecordOption, Schema},
};

use super::{
    error::SearchError,
    excludable_phrase::ExcludablePhraseQuery,
    phrase_scorer::{PhraseScorer, field_lengths},
    query_compiler::unusable,
    term_lookup::{TermLookup, TermStatistics},
};

/// Documents of a block of postings.
const BLOCK_DOCS: usize = 128;
/// Documents, by their numbers, that are looked at together.
const WINDOW_DOCS: usize = 4096;
/// Documents of a term that are added in the time in which one is searched for.
const DOCS_PER_SEEK: usize = 16;

/// Takes documents in ascending order with their scores.
pub(crate) trait ScoredDocs {
    /// Announces how many documents are looked at next. An error ends the search.
    fn check(&mut self, docs: usize) -> Result<(), SearchError>;

    /// Takes matches.
    fn take(&mut self, docs: &[DocId], scores: &[Score]);
}

/// A query that matches what has a leaf of each group, and none of the leaves that are excluded.
#[derive(Default)]
pub(crate) struct WordQuery {
    groups: Vec<Vec<WordLeaf>>,
    excluded: Vec<WordLeaf>,
}

/// A word, or several side by side.
enum WordLeaf {
    Word(Term),
    /// With their positions.
    Phrase(Vec<(usize, Term)>),
}

impl WordLeaf {
    fn terms(&self) -> Vec<Term> {
        match self {
            Self::Word(term) => vec![term.clone()],
            Self::Phrase(terms) => terms.iter().map(|(_, term)| term.clone()).collect(),
        }
    }
}

impl WordQuery {
    /// `None` if `query` is anything else.
    pub(crate) fn of(query: &dyn Query, schema: &Schema) -> Option<Self> {
        let mut words = Self::default();
        (words.require(query, schema) && !words.groups.is_empty()).then_some(words)
    }

    /// Adds what `query` requires, if that is terms.
    fn require(&mut self, query: &dyn Query, schema: &Schema) -> bool {
        let mut group = Vec::new();
        if add_any_of(query, schema, &mut group) {
            self.groups.push(group);
            return true;
        }
        let Some(query) = query.downcast_ref::<BooleanQuery>() else { return false };
        let has_required = query.clauses().iter().any(|(occur, _)| *occur == Occur::Must);
        has_required
            && query.clauses().iter().all(|(occur, clause)| match occur {
                Occur::Must => self.require(clause.as_ref(), schema),
                Occur::MustNot => add_any_of(clause.as_ref(), schema, &mut self.excluded),
                Occur::Should => false,
            })
    }
}

/// Whether `query` matches exactly what has one of its leaves; they are added to `leaves`.
fn add_any_of(query: &dyn Query, schema: &Schema, leaves: &mut Vec<WordLeaf>) -> bool {
    let is_text = |term: &Term| {
        let field_type = schema.get_field_entry(term.field()).field_type();
        matches!(field_type, FieldType::Str(options) if options.get_indexing_options().is_some())
    };
    if let Some(query) = query.downcast_ref::<TermQuery>() {
        leaves.push(WordLeaf::Word(query.term().clone()));
        return is_text(query.term());
    }
    if let Some(terms) = query.downcast_ref().and_then(ExcludablePhraseQuery::exact_terms) {
        leaves.push(WordLeaf::Phrase(terms.to_vec()));
        return terms.iter().all(|(_, term)| is_text(term));
    }
    let Some(query) = query.downcast_ref::<BooleanQuery>() else { return false };
    let clauses = query.clauses();
    let any_of =
        clauses.iter().all(|(occur, _)| *occur == Occur::Should) && query.get_minimum_number_should_match() <= 1;
    let only_one = clauses.len() == 1 && clauses[0].0 == Occur::Must;
    (any_of || only_one)
        && !clauses.is_empty()
        && clauses.iter().all(|(_, clause)| add_any_of(clause.as_ref(), schema, leaves))
}

/// A query of words, ready to be scored.
pub(crate) struct WeightedWords {
    lookup: Arc<TermLookup>,
    /// The rarest first.
    groups: Vec<Vec<(WordLeaf, Bm25Weight)>>,
    excluded: Vec<(WordLeaf, Bm25Weight)>,
}

impl WeightedWords {
    pub(crate) fn new(
        WordQuery { groups, excluded }: WordQuery,
        lookup: &Arc<TermLookup>,
        statistics: &TermStatistics<'_>,
    ) -> tantivy::Result<Self> {
        let weigh = |leaves: Vec<WordLeaf>| {
            let weighted = leaves.into_iter().map(|leaf| {
                let weight = Bm25Weight::for_terms(statistics, &leaf.terms())?;
                Ok((leaf, weight))
            });
            weighted.collect::<tantivy::Result<Vec<_>>>()
        };
        // A phrase is as frequent as its rarest word, at most.
        let frequency = |leaf: &WordLeaf| -> tantivy::Result<u64> {
            let terms = leaf.terms();
            let of_terms = terms.iter().map(|term| statistics.doc_freq(term)).collect::<tantivy::Result<Vec<_>>>()?;
            Ok(of_terms.into_iter().min().unwrap_or_default())
        };
        let mut by_frequency = Vec::new();
        for group in groups {
            let frequency = group.iter().map(frequency).sum::<tantivy::Result<u64>>()?;
            by_frequency.push((frequency, weigh(group)?));
        }
        // One order for all segments.
        by_frequency.sort_by_key(|(frequency, _)| *frequency);
        let groups = by_frequency.into_iter().map(|(_, group)| group).collect();
        Ok(Self { lookup: lookup.clone(), groups, excluded: weigh(excluded)? })
    }

    /// Gives `taker` all matches in a segment, those too that a correction replaced.
    pub(crate) fn score(&self, reader: &SegmentReader, taker: &mut impl ScoredDocs) -> Result<(), SearchError> {
        let Some(mut groups) = self.postings(reader).map_err(|e| unusable(&e))? else { return Ok(()) };
        let mut excluded = self.postings_of(reader, &self.excluded).map_err(|e| unusable(&e))?;
        if let [group] = groups.as_mut_slice()
            && let [LeafPostings::Word(word)] = group.as_mut_slice()
            && excluded.is_empty()
        {
            return word.score(taker);
        }
        ScoreWindow::new().score(&mut groups, &mut excluded, taker)
    }

    /// The postings of each group; `None` if the segment lacks one.
    fn postings(&self, reader: &SegmentReader) -> tantivy::Result<Option<Vec<Vec<LeafPostings>>>> {
        let mut groups = Vec::new();
        for group in &self.groups {
            let postings = self.postings_of(reader, group)?;
            if postings.is_empty() {
                return Ok(None);
            }
            groups.push(postings);
        }
        Ok(Some(groups))
    }

    /// The postings of the leaves that a segment may have.
    fn postings_of(
        &self,
        reader: &SegmentReader,
        leaves: &[(WordLeaf, Bm25Weight)],
    ) -> tantivy::Result<Vec<LeafPostings>> {
        let mut postings = Vec::new();
        for (leaf, weight) in leaves {
            match leaf {
                WordLeaf::Word(term) => {
                    if let Some(found) = self.lookup.term_info(reader, term)? {
                        let word = TermPostings::open(reader, term, &found, weight)?;
                        postings.push(LeafPostings::Word(Box::new(word)));
                    }
                }
                WordLeaf::Phrase(terms) => {
                    let phrase = self.lookup.phrase(reader, terms, Some(weight.clone()))?;
                    postings.extend(phrase.map(Box::new).map(LeafPostings::Phrase));
                }
            }
        }
        Ok(postings)
    }
}

/// The documents of one leaf in one segment.
enum LeafPostings {
    Word(Box<TermPostings>),
    Phrase(Box<PhraseScorer>),
}

impl LeafPostings {
    /// The next document; `None` after the last one.
    fn next(&mut self) -> Option<DocId> {
        match self {
            Self::Word(word) => word.next(),
            Self::Phrase(phrase) => Some(phrase.seek(0)).filter(|doc| *doc != TERMINATED),
        }
    }

    /// Adds the documents that lie in the window.
    fn add_to(&mut self, window: &mut ScoreWindow, found: &mut DocBits) {
        match self {
            Self::Word(word) => word.add_to(window, found),
            Self::Phrase(phrase) => {
                while phrase.doc() < window.end() {
                    window.add(phrase.doc(), phrase.score(), found);
                    phrase.advance();
                }
            }
        }
    }

    /// Adds what it has of `wanted`, and perhaps more.
    fn add_wanted(&mut self, window: &mut ScoreWindow, wanted: &DocBits, found: &mut DocBits) {
        match self {
            Self::Word(word) => word.add_wanted(window, wanted, found),
            Self::Phrase(phrase) => {
                let start = window.start;
                wanted.for_each(|at| {
                    if phrase.seek_danger(start + at) == SeekDangerResult::Found {
                        window.add(start + at, phrase.score(), found);
                    }
                });
            }
        }
    }
}

/// The documents of one term in one segment.
struct TermPostings {
    blocks: BlockSegmentPostings,
    /// How much of the present block was read.
    read: usize,
    /// How many documents of a window have the term, on average.
    in_window: usize,
    lengths: FieldNormReader,
    weight: Bm25Weight,
}

impl TermPostings {
    fn open(reader: &SegmentReader, term: &Term, found: &TermInfo, weight: &Bm25Weight) -> tantivy::Result<Self> {
        let index = reader.inverted_index(term.field())?;
        let blocks = index.read_block_postings_from_terminfo(found, IndexRecordOption::WithFreqs)?;
        let lengths = field_lengths(reader, term.field())?;
        let in_window = found.doc_freq as usize * WINDOW_DOCS / (reader.max_doc() as usize).max(1);
        Ok(Self { blocks, read: 0, in_window, lengths, weight: weight.clone() })
    }

    /// The next document; `None` after the last one.
    fn next(&self) -> Option<DocId> {
        self.blocks.docs().get(self.read).copied()
    }

    /// Goes on to `target`, or to what comes after it, and says which document that is.
    fn seek(&mut self, target: DocId) -> Option<DocId> {
        self.read = self.blocks.seek(target);
        self.next()
    }

    /// The part of a score of the document at `at` of the present block. Terms without frequencies count once.
    fn part(&self, doc: DocId, at: usize) -> Score {
        self.weight.score(self.lengths.fieldnorm_id(doc), self.blocks.freq(at))
    }

    /// All documents of the term alone.
    fn score(&mut self, taker: &mut impl ScoredDocs) -> Result<(), SearchError> {
        let mut scores = [0.0; BLOCK_DOCS];
        while !self.blocks.docs().is_empty() {
            let docs = self.blocks.docs();
            let scores = &mut scores[..docs.len()];
            taker.check(docs.len())?;
            for (at, (doc, score)) in docs.iter().zip(scores.iter_mut()).enumerate() {
                *score = self.part(*doc, at);
            }
            taker.take(docs, scores);
            self.blocks.advance();
        }
        Ok(())
    }

    /// Adds the documents that lie in the window.
    fn add_to(&mut self, window: &mut ScoreWindow, found: &mut DocBits) {
        let end = window.end();
        loop {
            let docs = &self.blocks.docs()[self.read..];
            let inside = match docs.last() {
                None => return,
                Some(last) if *last < end => docs.len(),
                Some(_) => docs.partition_point(|doc| *doc < end),
            };
            for (at, doc) in (self.read..).zip(&docs[..inside]) {
                window.add(*doc, self.part(*doc, at), found);
            }
            if inside < docs.len() {
                self.read += inside;
                return;
            }
            self.blocks.advance();
            self.read = 0;
        }
    }

    /// Adds what it has of `wanted`, and perhaps more.
    fn add_wanted(&mut self, window: &mut ScoreWindow, wanted: &DocBits, found: &mut DocBits) {
        if wanted.count() * DOCS_PER_SEEK >= self.in_window {
            self.seek(window.start);
            self.add_to(window, found);
            return;
        }
        let start = window.start;
        wanted.for_each(|at| {
            let doc = start + at;
            if self.seek(doc) == Some(doc) {
                window.add(doc, self.part(doc, self.read), found);
            }
        });
    }
}

/// Documents of a window, a bit each.
struct DocBits([u64; WINDOW_DOCS / 64]);

impl DocBits {
    fn none() -> Self {
        Self([0; WINDOW_DOCS / 64])
    }

    fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Keeps those that are in `others` or, if not `present`, those that are not.
    fn retain(&mut self, others: &Self, present: bool) {
        let flip = if present { 0 } else { u64::MAX };
        for (word, other) in self.0.iter_mut().zip(&others.0) {
            *word &= other ^ flip;
        }
    }

    fn for_each(&self, mut each: impl FnMut(u32)) {
        for (first, word) in (0..).step_by(64).zip(&self.0) {
            let mut bits = *word;
            while bits != 0 {
                each(first + bits.trailing_zeros());
                bits &= bits - 1;
            }
        }
    }
}

/// The scores of the documents from `start` on, while terms are added.
struct ScoreWindow {
    start: DocId,
    sums: [Score; WINDOW_DOCS],
    /// Which parts of the sums are not zero, a bit for each 64.
    touched: u64,
    /// What is given on.
    docs: [DocId; WINDOW_DOCS],
    scores: [Score; WINDOW_DOCS],
}

impl ScoreWindow {
    fn new() -> Box<Self> {
        Box::new(Self {
            start: 0,
            sums: [0.0; WINDOW_DOCS],
            touched: 0,
            docs: [0; WINDOW_DOCS],
            scores: [0.0; WINDOW_DOCS],
        })
    }

    #[expect(clippy::cast_possible_truncation, reason = "a small constant")]
    fn end(&self) -> DocId {
        self.start + WINDOW_DOCS as DocId
    }

    fn score(
        &mut self,
        groups: &mut [Vec<LeafPostings>],
        excluded: &mut [LeafPostings],
        taker: &mut impl ScoredDocs,
    ) -> Result<(), SearchError> {
        let Some((rarest, others)) = groups.split_first_mut() else { return Ok(()) };
        while let Some(start) = rarest.iter_mut().filter_map(LeafPostings::next).min() {
            taker.check(WINDOW_DOCS)?;
            self.start = start;
            let mut matches = DocBits::none();
            for term in &mut *rarest {
                term.add_to(self, &mut matches);
            }
            for group in &mut *others {
                self.require(group, &mut matches);
            }
            let mut unwanted = DocBits::none();
            for term in &mut *excluded {
                // What it adds to their scores does not matter.
                term.add_wanted(self, &matches, &mut unwanted);
            }
            matches.retain(&unwanted, false);
            let filled = self.drain(&matches);
            taker.take(&self.docs[..filled], &self.scores[..filled]);
        }
        Ok(())
    }

    /// Keeps the matches that have one of the terms.
    fn require(&mut self, group: &mut [LeafPostings], matches: &mut DocBits) {
        let mut found = DocBits::none();
        for term in group {
            term.add_wanted(self, matches, &mut found);
        }
        matches.retain(&found, true);
    }

    fn add(&mut self, doc: DocId, part: Score, found: &mut DocBits) {
        // The remainder is itself; it spares the check of the bounds.
        let at = (doc - self.start) as usize % WINDOW_DOCS;
        self.sums[at] += part;
        found.0[at / 64] |= 1 << (at % 64);
        self.touched |= 1 << (at / 64);
    }

    /// Moves the matches and their scores to the front of `docs` and `scores`, and returns how many they are.
    fn drain(&mut self, matches: &DocBits) -> usize {
        let mut filled = 0;
        let (start, sums) = (self.start, &self.sums);
        let (docs, scores) = (&mut self.docs, &mut self.scores);
        matches.for_each(|at| {
            docs[filled] = start + at;
            scores[filled] = sums[at as usize % WINDOW_DOCS];
            filled += 1;
        });
        while self.touched != 0 {
            let first = self.touched.trailing_zeros() as usize * 64;
            self.sums[first..first + 64].fill(0.0);
            self.touched &= self.touched - 1;
        }
        filled
    }
}

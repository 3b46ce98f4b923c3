//! The documents of one segment in which words stand side by side. Tantivy's own scorer looks the words up in the dictionary of
//! each segment again, and must not be asked for a document that it has passed.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use tantivy::{
    DocId, DocSet, Score, SeekDangerResult, SegmentReader, TERMINATED, Term,
    fieldnorm::FieldNormReader,
    postings::{Postings as _, SegmentPostings, TermInfo},
    query::{Bm25Weight, Scorer},
    schema::{Field, IndexRecordOption},
};

use super::limits::QueryDeadline;

/// Documents that are compared between two checks of the deadline.
const DOCS_PER_DEADLINE_CHECK: u32 = 1024;

/// From which document on the phrases of a query are read in a segment, and from which one on they were not read because the time was over.
#[derive(Debug)]
pub(crate) struct PhraseBounds {
    /// Whether what was not read in time is read later.
    goes_on: AtomicBool,
    from: AtomicU32,
    unread: AtomicU32,
}

impl Default for PhraseBounds {
    fn default() -> Self {
        Self { goes_on: AtomicBool::new(false), from: AtomicU32::new(0), unread: AtomicU32::new(TERMINATED) }
    }
}

impl PhraseBounds {
    /// The next segment is read from this document on, by a reader that comes again for what was not read in time.
    pub(crate) fn begin(&self, from: DocId) {
        self.goes_on.store(true, Ordering::Relaxed);
        self.from.store(from, Ordering::Relaxed);
        self.unread.store(TERMINATED, Ordering::Relaxed);
    }

    /// Whether the reader comes again for what was not read in time.
    pub(crate) fn goes_on(&self) -> bool {
        self.goes_on.load(Ordering::Relaxed)
    }

    /// Where the scorers of the segment begin.
    pub(crate) fn from(&self) -> DocId {
        self.from.load(Ordering::Relaxed)
    }

    /// The first document that a phrase did not read: what a query finds from it on may be wrong, what it finds before it is not.
    /// [`TERMINATED`] where every phrase was read to its end.
    pub(crate) fn unread(&self) -> DocId {
        self.unread.load(Ordering::Relaxed)
    }

    fn stop_at(&self, doc: DocId) {
        self.unread.fetch_min(doc, Ordering::Relaxed);
    }
}

/// The documents of a phrase, with the scores that Tantivy gives them.
pub(crate) struct PhraseScorer {
    /// The postings of each word, with how far it stands before the end of the phrase; the rarest first.
    words: Vec<(u32, SegmentPostings)>,
    /// The present document; `None` before the first one, and after a seek that did not find its target.
    doc: Option<DocId>,
    /// Where the phrase ends in it.
    ends: Vec<u32>,
    /// The same of one word.
    word_ends: Vec<u32>,
    /// How it is scored, and the lengths of its field; `None`: every score is 1.
    weight: Option<(Bm25Weight, FieldNormReader)>,
    /// Once it has passed, there is no further document: the search has to check it before it answers.
    deadline: QueryDeadline,
    bounds: Arc<PhraseBounds>,
    /// Documents since the deadline was checked.
    unchecked: u32,
}

impl PhraseScorer {
    /// The phrase of `words`, each with its position and what the segment has of it. Nothing is read before the first seek.
    pub(crate) fn open(
        reader: &SegmentReader,
        mut words: Vec<(usize, &Term, TermInfo)>,
        weight: Option<Bm25Weight>,
        deadline: QueryDeadline,
        bounds: Arc<PhraseBounds>,
    ) -> tantivy::Result<Self> {
        words.sort_by_key(|(.., found)| found.doc_freq);
        let end = words.iter().map(|(at, ..)| *at).max().unwrap_or_default();
        let weight = match (weight, words.first()) {
            (Some(weight), Some((_, term, _))) => Some((weight, field_lengths(reader, term.field())?)),
            _ => None,
        };
        let mut postings = Vec::new();
        for (at, term, found) in words {
            let index = reader.inverted_index(term.field())?;
            let distance = u32::try_from(end - at).unwrap_or(u32::MAX);
            postings
                .push((distance, index.read_postings_from_terminfo(&found, IndexRecordOption::WithFreqsAndPositions)?));
        }
        let (ends, word_ends) = (Vec::new(), Vec::new());
        Ok(Self { words: postings, doc: None, ends, word_ends, weight, deadline, bounds, unchecked: 0 })
    }

    /// The last document that was compared.
    #[cfg(test)]
    pub(crate) fn compared(&self) -> DocId {
        self.words.iter().map(|(_, postings)| postings.doc()).max().unwrap_or_default()
    }

    /// Whether the deadline has passed, asked for each document that is compared.
    fn is_late(&mut self) -> bool {
        self.unchecked += 1;
        if self.unchecked < DOCS_PER_DEADLINE_CHECK {
            return false;
        }
        // Once late, late at each call.
        let is_late = self.deadline.check().is_err();
        self.unchecked = if is_late { DOCS_PER_DEADLINE_CHECK } else { 0 };
        is_late
    }

    /// The first document from `target` on that has all words.
    fn align(&mut self, mut target: DocId) -> DocId {
        loop {
            if self.is_late() {
                self.bounds.stop_at(target);
                return TERMINATED;
            }
            let mut farthest = target;
            for (_, postings) in &mut self.words {
                let doc = postings.doc();
                farthest = if doc < target { postings.seek(target) } else { doc };
                if farthest > target {
                    break;
                }
            }
            if farthest == target || farthest == TERMINATED {
                return farthest;
            }
            target = farthest;
        }
    }

    /// Whether the words stand side by side in the document that all postings are at.
    fn has_phrase(&mut self) -> bool {
        let Some(((distance, rarest), others)) = self.words.split_first_mut() else { return false };
        rarest.positions_with_offset(*distance, &mut self.ends);
        for (distance, postings) in others {
            postings.positions_with_offset(*distance, &mut self.word_ends);
            keep_common(&mut self.ends, &self.word_ends);
            if self.ends.is_empty() {
                return false;
            }
        }
        !self.ends.is_empty()
    }
}

/// Keeps of `numbers` what is in `others`, too. Both ascend.
fn keep_common(numbers: &mut Vec<u32>, others: &[u32]) {
    let mut others = others.iter().peekable();
    numbers.retain(|number| {
        while others.next_if(|other| *other < number).is_some() {}
        others.next_if_eq(&number).is_some()
    });
}

/// The lengths of a field in the documents of a segment; all the same where it keeps none.
pub(crate) fn field_lengths(reader: &SegmentReader, field: Field) -> tantivy::Result<FieldNormReader> {
    let lengths = reader.fieldnorms_readers().get_field(field)?;
    Ok(lengths.unwrap_or_else(|| FieldNormReader::constant(reader.max_doc(), 1)))
}

impl DocSet for PhraseScorer {
    fn advance(&mut self) -> DocId {
        match self.doc() {
            TERMINATED => TERMINATED,
            doc => self.seek(doc + 1),
        }
    }

    fn seek(&mut self, mut target: DocId) -> DocId {
        if let Some(doc) = self.doc.filter(|doc| *doc >= target) {
            return doc;
        }
        loop {
            target = self.align(target);
            if target == TERMINATED || self.has_phrase() {
                self.doc = Some(target);
                return target;
            }
            target += 1;
        }
    }

    /// Looks at no other document than `target`.
    fn seek_danger(&mut self, target: DocId) -> SeekDangerResult {
        let aligned = match self.doc {
            Some(doc) if doc == target && doc != TERMINATED => return SeekDangerResult::Found,
            Some(doc) if doc >= target => return SeekDangerResult::SeekLowerBound(doc),
            _ => self.align(target),
        };
        if aligned == target && target != TERMINATED && self.has_phrase() {
            self.doc = Some(target);
            return SeekDangerResult::Found;
        }
        self.doc = None;
        SeekDangerResult::SeekLowerBound(aligned.max(target.saturating_add(1)).min(TERMINATED))
    }

    fn doc(&self) -> DocId {
        self.doc.unwrap_or(TERMINATED)
    }

    fn size_hint(&self) -> u32 {
        // As Tantivy estimates it.
        self.words.first().map_or(0, |(_, rarest)| rarest.size_hint() / 10)
    }

    fn cost(&self) -> u64 {
        // Positions are read for each document that has all words.
        self.words.first().map_or(0, |(_, rarest)| u64::from(rarest.size_hint())) * 10 * self.words.len() as u64
    }
}

impl Scorer for PhraseScorer {
    fn score(&mut self) -> Score {
        let Some((weight, lengths)) = &self.weight else { return 1.0 };
        let count = u32::try_from(self.ends.len()).unwrap_or(u32::MAX);
        weight.score(lengths.fieldnorm_id(self.doc()), count)
    }
}

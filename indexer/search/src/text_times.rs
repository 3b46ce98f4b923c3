//! Texts of attributes that are times, which Tantivy does not take for dates: a day without a time, a time without an offset, one
//! that no date holds. They are compared as times; other texts between them in a column are none.

use std::sync::Arc;

use tantivy::{
    BitSet, DocId, Score, SegmentReader, TantivyError, Term,
    query::{BitSetDocSet, ConstScorer, EmptyScorer, EnableScoring, Explanation, Query, Scorer, Weight},
};

use super::{
    query_time::{civil_text, read_time},
    scan_budget::{DOCS_PER_DEADLINE_CHECK, ScanBudget},
};

/// Texts that are looked at between two checks of the deadline.
const TEXTS_PER_DEADLINE_CHECK: u64 = 1024;
/// How far an offset moves a time, at most, and how far before its place a text with a blank for its `T` lies.
const MAX_OFFSET_SECONDS: i64 = 2 * 86_400;

/// A query for the documents with a text that is a time between two seconds in a column of attributes.
#[derive(Clone, Debug)]
pub(crate) struct TextTimeQuery {
    /// The path of the attribute: a term without a value.
    path: Term,
    /// The first second.
    from: i64,
    /// The first second after the last.
    to: i64,
    /// What was typed, for messages.
    typed: String,
    budget: Arc<ScanBudget>,
}

impl TextTimeQuery {
    /// Times at `path` from the second `from` to before `to`; `None`: there is no bound.
    pub(crate) fn new(
        path: Term,
        (from, to): (Option<i64>, Option<i64>),
        typed: String,
        budget: Arc<ScanBudget>,
    ) -> Self {
        Self { path, from: from.unwrap_or(i64::MIN), to: to.unwrap_or(i64::MAX), typed, budget }
    }

    fn is_between(&self, text: &[u8]) -> bool {
        // A year alone is a number.
        let text = std::str::from_utf8(text).ok().filter(|text| text.contains('-'));
        text.and_then(|text| read_time(text, 0)).is_some_and(|span| (self.from..self.to).contains(&span.start))
    }
}

impl Query for TextTimeQuery {
    fn weight(&self, _: EnableScoring<'_>) -> tantivy::Result<Box<dyn Weight>> {
        Ok(Box::new(self.clone()))
    }
}

impl Weight for TextTimeQuery {
    fn scorer(&self, reader: &SegmentReader, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
        self.budget.check()?;
        let name = self.path.get_full_path(reader.schema());
        let Some(column) = reader.fast_fields().str(&name)? else { return Ok(Box::new(EmptyScorer)) };
        // A column is read as a whole when it is opened, on the disk or charged to it: its texts take no memory of their own.
        let texts = column.dictionary();
        // Texts of times are in the order of times, but for their offsets and for blanks, which lie before all letters.
        let first = civil_text(self.from.saturating_sub(MAX_OFFSET_SECONDS));
        let end = civil_text(self.to.saturating_add(MAX_OFFSET_SECONDS));
        let mut found = BitSet::with_max_value(u32::try_from(texts.num_terms()).unwrap_or(u32::MAX));
        let mut unchecked = 0;
        if first < end {
            let mut range = texts.range().ge(first).lt(end).into_stream()?;
            while range.advance() {
                if self.is_between(range.key())
                    && let Ok(number) = u32::try_from(range.term_ord())
                {
                    found.insert(number);
                }
                unchecked += 1;
                if unchecked == TEXTS_PER_DEADLINE_CHECK {
                    self.budget.scan(unchecked, &self.typed)?;
                    unchecked = 0;
                }
            }
        }
        self.budget.scan(unchecked, &self.typed)?;
        if found.len() == 0 {
            return Ok(Box::new(EmptyScorer));
        }
        let mut docs = BitSet::with_max_value(reader.max_doc());
        for doc in 0..reader.max_doc() {
            if column.term_ords(doc).any(|number| u32::try_from(number).is_ok_and(|number| found.contains(number))) {
                docs.insert(doc);
            }
            if doc % DOCS_PER_DEADLINE_CHECK == 0 {
                self.budget.check()?;
            }
        }
        Ok(Box::new(ConstScorer::new(BitSetDocSet::from(docs), boost)))
    }

    fn explain(&self, _: &SegmentReader, doc: DocId) -> tantivy::Result<Explanation> {
        Err(TantivyError::InvalidArgument(format!("the score of document {doc} is not explained")))
    }
}

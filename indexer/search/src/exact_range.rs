//! Documents with a value between two others in an exact field without a column.
//!
//! The dictionary of a segment says how many of its terms lie in the range. Where all do, which is so for most segments when values
//! ascend as ids do, the answer is what has the field; where most do and no document has two values, the terms outside of the range are
//! read and their documents left out. So at most half of the terms of a segment are read, unless documents have several values.

use std::{io, ops::Bound, sync::Arc};

use tantivy::{
    BitSet, DocId, Score, SegmentReader, TantivyError, Term,
    index::InvertedIndexReader,
    postings::TermInfo,
    query::{BitSetDocSet, ConstScorer, EnableScoring, Explanation, Query, Scorer, Weight},
    schema::Field,
};

use super::{
    scan_budget::ScanBudget,
    term_scan::{KeyRange, for_each_doc, for_each_term, terms_in},
};
use crate::segment::FIELD_NAMES;

/// A query for the documents with a value of an exact field between two others. Bounded by the deadline alone.
#[derive(Clone, Debug)]
pub(crate) struct ExactRangeQuery {
    field: Field,
    keys: KeyRange,
    budget: Arc<ScanBudget>,
}

impl ExactRangeQuery {
    /// The values of `field` between two terms.
    pub(crate) fn new(field: Field, lower: Bound<String>, upper: Bound<String>, budget: &Arc<ScanBudget>) -> Self {
        let keys = KeyRange { lower: lower.map(String::into_bytes), upper: upper.map(String::into_bytes) };
        Self { field, keys, budget: budget.clone() }
    }

    fn find(&self, reader: &SegmentReader) -> tantivy::Result<BitSet> {
        let index = reader.inverted_index(self.field)?;
        let terms = index.terms().num_terms() as u64;
        let before = terms_before(&index, &self.keys.lower)?;
        let end = match &self.keys.upper {
            Bound::Unbounded => terms,
            upper => terms_before(&index, &flipped(upper))?,
        };
        let within = end.saturating_sub(before);
        let outside = terms - within;
        let mut docs = BitSet::with_max_value(reader.max_doc());
        let mostly_within = outside < within && self.add_present(reader, &index, outside > 0, &mut docs)?;
        if !mostly_within {
            if within > 0 {
                self.read(&index, self.keys.clone(), |doc| {
                    docs.insert(doc);
                })?;
            }
            return Ok(docs);
        }
        if before > 0 {
            let keys = KeyRange { lower: Bound::Unbounded, upper: flipped(&self.keys.lower) };
            self.read(&index, keys, |doc| docs.remove(doc))?;
        }
        if end < terms {
            let keys = KeyRange { lower: flipped(&self.keys.upper), upper: Bound::Unbounded };
            self.read(&index, keys, |doc| docs.remove(doc))?;
        }
        Ok(docs)
    }

    /// Adds the documents that have the field. Returns whether that was done: it is not if one has several values and `single` is
    /// asked for.
    fn add_present(
        &self,
        reader: &SegmentReader,
        index: &InvertedIndexReader,
        single: bool,
        docs: &mut BitSet,
    ) -> tantivy::Result<bool> {
        let names = reader.schema().get_field(FIELD_NAMES)?;
        let term = Term::from_field_text(names, reader.schema().get_field_name(self.field));
        let names = reader.inverted_index(names)?;
        // As many values as documents with one: none has two.
        let present = names.get_term_info(&term)?;
        let present = present.filter(|present| !single || u64::from(present.doc_freq) == index.total_num_tokens());
        let Some(present) = present else { return Ok(false) };
        for_each_doc(&names, &present, &self.budget, |doc| {
            docs.insert(doc);
        })?;
        Ok(true)
    }

    fn read(&self, index: &InvertedIndexReader, keys: KeyRange, mut each: impl FnMut(DocId)) -> tantivy::Result<()> {
        let docs = |_: &[u8], found: &TermInfo| for_each_doc(index, found, &self.budget, &mut each);
        for_each_term(index, keys, &self.budget, docs, |_| Ok(()))
    }
}

/// The bound at the same place for what lies on the other side of it.
fn flipped(bound: &Bound<Vec<u8>>) -> Bound<Vec<u8>> {
    match bound {
        Bound::Included(key) => Bound::Excluded(key.clone()),
        Bound::Excluded(key) => Bound::Included(key.clone()),
        Bound::Unbounded => Bound::Unbounded,
    }
}

/// How many terms lie before those from `lower` on. Reads a block of the dictionary.
fn terms_before(index: &InvertedIndexReader, lower: &Bound<Vec<u8>>) -> io::Result<u64> {
    if *lower == Bound::Unbounded {
        return Ok(0);
    }
    let mut rest = terms_in(index, &KeyRange { lower: lower.clone(), upper: Bound::Unbounded }, 1)?;
    Ok(if rest.advance() { rest.term_ord() } else { index.terms().num_terms() as u64 })
}

impl Query for ExactRangeQuery {
    fn weight(&self, _: EnableScoring<'_>) -> tantivy::Result<Box<dyn Weight>> {
        Ok(Box::new(self.clone()))
    }
}

impl Weight for ExactRangeQuery {
    fn scorer(&self, reader: &SegmentReader, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
        self.budget.check()?;
        Ok(Box::new(ConstScorer::new(BitSetDocSet::from(self.find(reader)?), boost)))
    }

    fn explain(&self, _: &SegmentReader, doc: DocId) -> tantivy::Result<Explanation> {
        Err(TantivyError::InvalidArgument(format!("the score of document {doc} is not explained")))
    }
}

#[cfg(test)]
mod tests {
    use std::{ops::RangeBounds as _, time::Duration};

    use proptest::{collection::vec, prelude::*, sample::select};
    use serde_json::json;
    use tantivy::{DocSet, TERMINATED};
    use tidemark_ingest::OperationRecord;

    use super::*;
    use crate::{
        error::SearchError,
        limits::QueryDeadline,
        query_compiler::{QueryCompiler, unusable},
        segment::{
            SchemaFields,
            testing::{plain, searcher_of, token},
            to_unstored,
        },
        term_scan::terms_read,
    };

    /// A segment of these records.
    fn segment(records: impl IntoIterator<Item = OperationRecord>) -> (Arc<SchemaFields>, SegmentReader) {
        let fields = Arc::new(SchemaFields::current());
        let documents = records.into_iter().map(|record| to_unstored(&fields, &record));
        let reader = searcher_of(&fields, documents).segment_reader(0).clone();
        (fields, reader)
    }

    /// Every second record has a bundle; all bundles of a repository have the same two parents, and one of their own.
    fn numbered(number: u32) -> OperationRecord {
        OperationRecord {
            bundle: number.is_multiple_of(2).then(|| format!("b{number:05}")),
            descriptor: json!({ "parents": ["a", "z", format!("p{number:05}")] }),
            ..plain(token(1, number))
        }
    }

    fn later() -> QueryDeadline {
        QueryDeadline::after(Duration::from_hours(1))
    }

    fn run(query: &dyn Query, reader: &SegmentReader) -> tantivy::Result<Vec<DocId>> {
        let weight = query.weight(EnableScoring::disabled_from_schema(reader.schema()))?;
        let mut scorer = weight.scorer(reader, 1.0)?;
        let mut found = Vec::new();
        while scorer.doc() != TERMINATED {
            found.push(scorer.doc());
            scorer.advance();
        }
        Ok(found)
    }

    #[test]
    fn what_exists_or_lies_in_a_range_reads_few_terms() {
        let (fields, reader) = segment((0..6000).map(numbered));
        let compiler = QueryCompiler::new(&fields);
        for (text, documents, terms) in [
            ("bundle:*", 3000, 0),
            ("parents:*", 6000, 0),
            ("diamond:*", 0, 0),
            ("token:*", 6000, 0),
            ("token:>=0", 6000, 0),
            ("bundle:>=b", 3000, 0),
            ("bundle:<c", 3000, 0),
            ("bundle:>=c", 0, 0),
            ("bundle:>b05000", 499, 499),
            ("bundle:>=b01000", 2500, 500),
            ("bundle:[b00010 TO b05990]", 2991, 9),
            ("bundle:{b00010 TO b05990}", 2989, 11),
            // All documents have a term outside of it, which says nothing of those inside.
            ("parents:>=p00001", 6000, 6000),
            ("parents:>=a", 6000, 0),
        ] {
            let before = terms_read();
            let query = compiler.parse(text, 0, later()).unwrap().query;
            assert_eq!(run(query.as_ref(), &reader).unwrap().len(), documents, "{text}");
            assert_eq!(terms_read() - before, terms, "{text}");
        }
    }

    #[test]
    fn a_range_ends_at_the_deadline() {
        let (fields, reader) = segment((0..10).map(numbered));
        let late = ScanBudget::new(QueryDeadline::after(Duration::ZERO));
        let query = ExactRangeQuery::new(fields.bundle, Bound::Included("b".to_owned()), Bound::Unbounded, &late);
        let error = run(&query, &reader).unwrap_err();
        assert!(matches!(unusable(&error), SearchError::Overloaded { .. }), "{error}");
    }

    #[test]
    fn a_range_of_many_terms_ends_in_the_middle_of_them_when_the_deadline_passes() {
        let (fields, reader) = segment((0..6000).map(numbered));
        // One check before anything is read, then one with each part: 1024 terms, and the others of the last one's block.
        for (checks, terms) in [(1, 0..1), (2, 1024..5000)] {
            let (before, budget) = (terms_read(), ScanBudget::ending_after(checks));
            let query =
                ExactRangeQuery::new(fields.parents, Bound::Included("p".to_owned()), Bound::Unbounded, &budget);
            let error = run(&query, &reader).unwrap_err();
            assert!(matches!(unusable(&error), SearchError::Overloaded { .. }), "{error}");
            let read = terms_read() - before;
            assert!(terms.contains(&read), "{read}");
        }
    }

    fn bound() -> impl Strategy<Value = Bound<String>> {
        let text = || "[abc]{0,3}";
        prop_oneof![text().prop_map(Bound::Included), text().prop_map(Bound::Excluded), Just(Bound::Unbounded)]
    }

    proptest! {
        #[test]
        fn a_range_finds_what_a_naive_comparison_finds(
            documents in vec(vec(select(vec!["a", "ab", "b", "bc", "c", "ca"]), 0..3), 1..20), single: bool, lower in bound(), upper in bound(),
        ) {
            let of = |parents: &Vec<&str>| {
                let bundle = parents.first().filter(|_| single).map(|first| (*first).to_owned());
                OperationRecord { bundle, descriptor: json!({ "parents": parents }), ..plain(token(1, 1)) }
            };
            let (fields, reader) = segment(documents.iter().map(of));
            let field = if single { fields.bundle } else { fields.parents };
            let lies_within = |value: &&str| (lower.clone(), upper.clone()).contains(&(*value).to_owned());
            let found = |values: &Vec<&str>| values.iter().take(if single { 1 } else { 3 }).any(lies_within);
            let wanted: Vec<DocId> = (0..).zip(&documents).filter(|(_, values)| found(values)).map(|(doc, _)| doc).collect();
            let query = ExactRangeQuery::new(field, lower.clone(), upper.clone(), &ScanBudget::new(later()));
            prop_assert_eq!(run(&query, &reader).unwrap(), wanted);
        }
    }
}

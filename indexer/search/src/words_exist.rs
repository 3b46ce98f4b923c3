//! Documents with any word of a field, by the lengths that a segment keeps for scores: no term is read.

use tantivy::{
    BitSet, DocId, Score, SegmentReader, TantivyError,
    query::{BitSetDocSet, ConstScorer, EmptyScorer, EnableScoring, Explanation, Query, Scorer, Weight},
    schema::Field,
};

/// A query for the documents with a word of a field that keeps lengths.
#[derive(Clone, Debug)]
pub(crate) struct WordsExistQuery(Field);

impl WordsExistQuery {
    pub(crate) fn new(field: Field) -> Self {
        Self(field)
    }
}

impl Query for WordsExistQuery {
    fn weight(&self, _: EnableScoring<'_>) -> tantivy::Result<Box<dyn Weight>> {
        Ok(Box::new(self.clone()))
    }
}

impl Weight for WordsExistQuery {
    fn scorer(&self, reader: &SegmentReader, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
        // A segment of an older format may lack the field.
        let Some(lengths) = reader.fieldnorms_readers().get_field(self.0)? else { return Ok(Box::new(EmptyScorer)) };
        let mut docs = BitSet::with_max_value(reader.max_doc());
        for doc in (0..reader.max_doc()).filter(|doc| lengths.fieldnorm_id(*doc) > 0) {
            docs.insert(doc);
        }
        Ok(Box::new(ConstScorer::new(BitSetDocSet::from(docs), boost)))
    }

    fn explain(&self, _: &SegmentReader, doc: DocId) -> tantivy::Result<Explanation> {
        Err(TantivyError::InvalidArgument(format!("the score of document {doc} is not explained")))
    }
}

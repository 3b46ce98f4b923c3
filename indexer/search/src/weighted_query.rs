//! Queries whose score counts several times. Tantivy's own query of this kind does not give out what it weighs, which the
//! highlighter has to see.

use std::sync::Arc;

use tantivy::{
    Score, Term,
    query::{BoostQuery, EnableScoring, Query, Weight},
};

/// A query with a factor for its score.
#[derive(Clone, Debug)]
pub(crate) struct WeightedQuery {
    query: Arc<dyn Query>,
    factor: Score,
}

impl WeightedQuery {
    pub(crate) fn new(query: Box<dyn Query>, factor: Score) -> Self {
        Self { query: Arc::from(query), factor }
    }

    /// What is weighted.
    pub(crate) fn query(&self) -> &dyn Query {
        self.query.as_ref()
    }
}

impl Query for WeightedQuery {
    fn weight(&self, scoring: EnableScoring<'_>) -> tantivy::Result<Box<dyn Weight>> {
        BoostQuery::new(self.query.box_clone(), self.factor).weight(scoring)
    }

    fn query_terms<'a>(&'a self, visitor: &mut dyn FnMut(&'a Term, bool)) {
        self.query.query_terms(visitor);
    }
}

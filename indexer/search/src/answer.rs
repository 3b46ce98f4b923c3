//! Answers a question from one view. Everything here blocks and runs on a thread of its own.

use std::sync::Arc;

use tantivy::Index;
use tidemark_wal::Token;

use super::{
    SearchError,
    api::{EntityAnswer, EntityRequest, EntryAnswer, MAX_PAGE_SIZE, SearchAnswer, SearchHit, SearchRequest, SortOrder},
    execute::{Candidate, Deadline, Found, run},
    facets::{FacetCounter, Histogram},
    hits,
    page::{Cursor, Place},
    parts::{Part, Statistics, engine_error},
    query::Language,
    view::View,
};
use crate::index::{Fields, tokenizers};
use tidemark_ingest::engine::EngineError;

/// A question with the view that answers it.
pub(crate) struct Question {
    pub(crate) view: Arc<View>,
    pub(crate) language: Arc<Language>,
    /// Knows the fields and nothing else: what a query is made ready with.
    pub(crate) schema: tantivy::Searcher,
    /// Where the page starts.
    pub(crate) after: Option<Place>,
    /// What cursors of this question bear.
    pub(crate) stamp: u64,
}

impl Question {
    pub(crate) fn search(&self, request: &SearchRequest, deadline: Deadline) -> Result<SearchAnswer, SearchError> {
        if request.size > MAX_PAGE_SIZE {
            let detail = format!("{} hits are too many, a page has at most {MAX_PAGE_SIZE}", request.size);
            return Err(SearchError::Invalid { parameter: "size", detail });
        }
        let query = self.language.understand(request)?;
        let found = self.run(query.as_ref(), request, deadline)?;
        let next = self.next(&found);
        Ok(SearchAnswer {
            total: found.total,
            hits: hits_of(&found.best)?,
            facets: found.facets.map(FacetCounter::finish).transpose()?.unwrap_or_default(),
            histogram: found.histogram.map(Histogram::finish).unwrap_or_default(),
            position: self.view.position(),
            next,
        })
    }

    pub(crate) fn entity(&self, request: &EntityRequest, deadline: Deadline) -> Result<EntityAnswer, SearchError> {
        let search = SearchRequest {
            size: request.size.clamp(1, MAX_PAGE_SIZE),
            sort: SortOrder::Newest,
            facets: Vec::new(),
            histogram: false,
            ..SearchRequest::default()
        };
        let query = self.language.entity(&request.key);
        let found = self.run(query.as_ref(), &search, deadline)?;
        if found.total == 0 {
            return Err(SearchError::NotFound { what: format!("entity \"{}\"", request.key) });
        }
        Ok(EntityAnswer {
            entity: request.key.clone(),
            current: self.current(&request.key)?,
            total: found.total,
            history: hits_of(&found.best)?,
            position: self.view.position(),
            next: self.next(&found),
        })
    }

    fn run(
        &self,
        query: &dyn tantivy::query::Query,
        request: &SearchRequest,
        deadline: Deadline,
    ) -> Result<Found<'_>, SearchError> {
        let View { snapshot, parts: overlay, .. } = self.view.as_ref();
        let parts = Part::all(snapshot, overlay, request);
        let statistics = Statistics::new(snapshot, overlay);
        run(query, &parts, &statistics, &self.schema, request, self.after, deadline)
    }

    /// The cursor of the next page. The tail is on the first page only: pages stay on the manifest.
    fn next(&self, found: &Found<'_>) -> Option<String> {
        if !found.more {
            return None;
        }
        let last = found.best.iter().rfind(|candidate| candidate.part.is_sealed());
        let after = last.map(|candidate| candidate.place).or(self.after);
        let position = self.view.position();
        let manifest = (position.manifest, self.view.stamp);
        Some(Cursor::new(position.generation, manifest, self.stamp, after).text())
    }

    fn current(&self, entity: &str) -> Result<Option<SearchHit>, SearchError> {
        let snapshot = self.view.snapshot.as_ref();
        let Some(current) = snapshot.latest_commit(entity).map_err(engine_error)? else { return Ok(None) };
        for served in &snapshot.segments {
            if let Some(doc) = served.segment.doc(current.seq) {
                let record = served.segment.record(doc).map_err(engine_error)?;
                return Ok(Some(hits::of_record(record, Part::Sealed(snapshot, served), doc)));
            }
        }
        Ok(None)
    }
}

fn hits_of(best: &[Candidate<'_>]) -> Result<Vec<SearchHit>, SearchError> {
    best.iter().map(|candidate| hits::hit(candidate).map_err(engine_error)).collect()
}

/// One entry with all its records.
pub(crate) fn entry(view: &View, fields: &Fields, token: Token) -> Result<EntryAnswer, SearchError> {
    let mut found = Vec::new();
    collect_sealed(view, &token, &mut found).map_err(engine_error)?;
    for part in &view.parts {
        for doc in part.docs_of(fields, &token).map_err(engine_error)? {
            let record = part.record(doc).map_err(engine_error)?;
            found.push(hits::Found { record, part: Part::Pending(part), doc, corrected: false });
        }
    }
    let answer = hits::entry(found, view.position());
    answer.ok_or_else(|| SearchError::NotFound { what: format!("entry \"{token}\"") })
}

fn collect_sealed<'a>(view: &'a View, token: &Token, found: &mut Vec<hits::Found<'a>>) -> Result<(), EngineError> {
    let snapshot = view.snapshot.as_ref();
    for served in &snapshot.segments {
        let segment = &served.segment;
        if *token < segment.of.first || *token > segment.of.last {
            continue;
        }
        for doc in segment.docs_with(segment.fields.token, &token.to_string())? {
            let corrected = snapshot.marks.corrected.contains(segment.seq(doc));
            let part = Part::Sealed(snapshot, served);
            found.push(hits::Found { record: segment.record(doc)?, part, doc, corrected });
        }
    }
    Ok(())
}

/// A searcher over an index without documents.
pub(crate) fn schema_searcher() -> tantivy::Result<tantivy::Searcher> {
    let builder = Index::builder().schema(Fields::schema().0).tokenizers(tokenizers());
    let index = builder.create_in_ram()?;
    let reader = index.reader_builder().reload_policy(tantivy::ReloadPolicy::Manual).try_into()?;
    Ok(tantivy::IndexReader::searcher(&reader))
}

pub(crate) fn refused(what: &str, why: &impl ToString) -> EngineError {
    EngineError::Refused { what: what.to_owned(), why: why.to_string() }
}

//! Answers a query from one view. Everything here blocks and runs on a thread of its own.

use std::sync::Arc;

use tantivy::{
    Index,
    query::{EnableScoring, Query, Weight},
};
use tidemark_ingest::engine::EngineError;
use tidemark_wal::{ParameterSchedule, Token};

use super::{
    api::{EntityAnswer, EntityRequest, EntryAnswer, PageSize, SearchAnswer, SearchHit, SearchRequest, SortOrder},
    error::SearchError,
    facets::FacetCounter,
    highlight::HitHighlighter,
    histogram::MatchHistogram,
    history,
    hits::{self, EntryRecord},
    key_history::KeyHistory,
    limits::QueryDeadline,
    match_collector::{MatchSource, QueryMatches, collect, is_scored},
    page_cursor::PageCursor,
    query_compiler::{CompiledQuery, QueryCompiler, present_second, unusable},
    search_view::SearchView,
    searchable_segment::{SearchableSegment, engine_error},
    sort_key::SortKey,
    term_cache::TermCache,
    term_lookup::{TermLookup, TermStatistics},
    top_k::HitCandidate,
    word_query::{WeightedWords, WordQuery},
};
use crate::segment::{SchemaFields, tokenizers};

/// What a query needs: the view that answers it, and what compiles it.
pub(crate) struct SearchContext {
    pub(crate) view: Arc<SearchView>,
    pub(crate) compiler: Arc<QueryCompiler>,
    /// Knows the schema and holds no document.
    pub(crate) schema: tantivy::Searcher,
    /// What other queries found in the dictionaries of segments.
    pub(crate) terms: Arc<TermCache>,
    /// Where the page starts.
    pub(crate) after: Option<SortKey>,
    /// What the cursors of this query carry.
    pub(crate) query_hash: u64,
    /// The log's parameters, where they are known.
    pub(crate) schedule: Option<Arc<ParameterSchedule>>,
}

impl SearchContext {
    pub(crate) fn search(&self, request: &SearchRequest, deadline: QueryDeadline) -> Result<SearchAnswer, SearchError> {
        let compiled = self.compile(request, present_second(), deadline)?;
        let matches = self.run(compiled.query.as_ref(), request, deadline)?;
        let next = self.next(&matches);
        let highlighter = request.highlight.then(|| HitHighlighter::new(compiled.query.as_ref(), &self.compiler));
        Ok(SearchAnswer {
            total: matches.total,
            hits: hits_of(&matches.best, highlighter.as_ref(), deadline)?,
            facets: matches.facets.map(FacetCounter::finish).transpose()?.unwrap_or_default(),
            histogram: matches.histogram.map(MatchHistogram::finish).unwrap_or_default(),
            index_version: self.view.index_version(),
            left_out: self.view.overlay.as_ref().map_or(0, |overlay| overlay.left_out),
            notes: if matches.total == 0 { compiled.notes } else { Vec::new() },
            next,
        })
    }

    /// The query of a request, in which `now` is the present second. Refused if it cannot find anything in the view.
    pub(crate) fn compile(
        &self,
        request: &SearchRequest,
        now: i64,
        deadline: QueryDeadline,
    ) -> Result<CompiledQuery, SearchError> {
        let compiled = self.compiler.compile(request, now, deadline)?;
        let segments = SearchableSegment::all(&self.view, request);
        compiled.check(&segments.iter().map(SearchableSegment::reader).collect::<Vec<_>>())?;
        Ok(compiled)
    }

    pub(crate) fn entity(&self, request: &EntityRequest, deadline: QueryDeadline) -> Result<EntityAnswer, SearchError> {
        let page = request.size.get();
        let search = SearchRequest {
            // One more: the last duration of the page begins with it.
            size: PageSize::new(page + 1).unwrap_or(request.size.into()),
            sort: SortOrder::Newest,
            facets: Vec::new(),
            histogram: false,
            ..SearchRequest::default()
        };
        let query = self.compiler.entity(&request.key);
        let mut matches = self.run(query.as_ref(), &search, deadline)?;
        if matches.total == 0 {
            return Err(SearchError::NotFound { what: format!("entity \"{}\"", request.key) });
        }
        let keys = KeyHistory::new(&self.view.index, self.schedule.as_deref());
        let mut history = history::steps_of(&matches.best, keys)?;
        history.truncate(page);
        let behind = matches.best.drain(page.min(matches.best.len())..);
        matches.more |= behind.filter(|candidate| candidate.segment.is_sealed()).count() > 0;
        Ok(EntityAnswer {
            entity: request.key.clone(),
            current: self.current(&request.key)?,
            present: None,
            total: matches.total,
            history,
            index_version: self.view.index_version(),
            next: self.next(&matches),
        })
    }

    pub(crate) fn run(
        &self,
        query: &dyn Query,
        request: &SearchRequest,
        deadline: QueryDeadline,
    ) -> Result<QueryMatches<'_>, SearchError> {
        let source = if is_scored(request) {
            self.scored(query, deadline)?
        } else {
            MatchSource::Each(self.unscored(query, deadline)?)
        };
        collect(&source, SearchableSegment::all(&self.view, request), request, self.after, deadline)
    }

    /// What finds the matches of a query, with their scores.
    fn scored(&self, query: &dyn Query, deadline: QueryDeadline) -> Result<MatchSource, SearchError> {
        let SearchView { index, pending, .. } = self.view.as_ref();
        let lookup = TermLookup::new(index, &self.terms, deadline);
        let statistics = TermStatistics::new(index, pending, &lookup);
        if let Some(words) = WordQuery::of(query, self.schema.schema()) {
            let words = WeightedWords::new(words, &lookup, &statistics);
            return Ok(MatchSource::Words(words.map_err(|e| unusable(&e))?));
        }
        let scoring = EnableScoring::enabled_from_statistics_provider(&statistics, &self.schema);
        Ok(MatchSource::Each(lookup.wrap(query).weight(scoring).map_err(|e| unusable(&e))?))
    }

    /// What finds the matches of a query, without scores.
    pub(crate) fn unscored(&self, query: &dyn Query, deadline: QueryDeadline) -> Result<Box<dyn Weight>, SearchError> {
        self.unscored_by(query, &self.lookup(deadline))
    }

    /// The look-ups of a query that ends at `deadline`.
    pub(crate) fn lookup(&self, deadline: QueryDeadline) -> Arc<TermLookup> {
        TermLookup::new(&self.view.index, &self.terms, deadline)
    }

    /// As [`Self::unscored`], with these look-ups.
    pub(crate) fn unscored_by(
        &self,
        query: &dyn Query,
        lookup: &Arc<TermLookup>,
    ) -> Result<Box<dyn Weight>, SearchError> {
        let scoring = EnableScoring::disabled_from_searcher(&self.schema);
        lookup.wrap(query).weight(scoring).map_err(|e| unusable(&e))
    }

    /// The cursor of the next page. The tail is on the first page only: pages stay on the manifest.
    fn next(&self, matches: &QueryMatches<'_>) -> Option<String> {
        if !matches.more {
            return None;
        }
        let last = matches.best.iter().rfind(|candidate| candidate.segment.is_sealed());
        let after = last.map(|candidate| candidate.key).or(self.after);
        let index_version = self.view.index_version();
        let manifest = (index_version.manifest, self.view.fingerprint);
        Some(PageCursor::new(index_version.generation, manifest, self.query_hash, after).text())
    }

    fn current(&self, entity: &str) -> Result<Option<SearchHit>, SearchError> {
        let index = self.view.index.as_ref();
        let Some(current) = index.latest_commit(entity).map_err(engine_error)? else { return Ok(None) };
        for view in &index.segments {
            if let Some(doc) = view.segment.doc(current.seq) {
                let record = view.segment.record(doc).map_err(engine_error)?;
                return Ok(Some(hits::of_record(record, SearchableSegment::Sealed(index, view), doc)));
            }
        }
        Ok(None)
    }
}

fn hits_of(
    best: &[HitCandidate<'_>],
    highlighter: Option<&HitHighlighter<'_>>,
    deadline: QueryDeadline,
) -> Result<Vec<SearchHit>, SearchError> {
    best.iter().map(|candidate| hits::hit(candidate, highlighter, deadline)).collect()
}

/// One entry with all its records.
pub(crate) fn entry(
    view: &SearchView,
    fields: &SchemaFields,
    schedule: Option<&ParameterSchedule>,
    token: Token,
) -> Result<EntryAnswer, SearchError> {
    let mut records = sealed_records(view, &token).map_err(engine_error)?;
    for segment in &view.pending {
        for doc in segment.docs_of(fields, &token).map_err(engine_error)? {
            let record = segment.record(doc).map_err(engine_error)?;
            records.push(EntryRecord { record, segment: SearchableSegment::Pending(segment), doc, corrected: false });
        }
    }
    let answer = hits::entry(records, view.index_version(), KeyHistory::new(&view.index, schedule));
    answer.map_err(engine_error)?.ok_or_else(|| SearchError::NotFound { what: format!("entry \"{token}\"") })
}

fn sealed_records<'a>(view: &'a SearchView, token: &Token) -> Result<Vec<EntryRecord<'a>>, EngineError> {
    let index = view.index.as_ref();
    let mut records = Vec::new();
    for shown in &index.segments {
        let segment = &shown.segment;
        if *token < segment.of.first || *token > segment.of.last {
            continue;
        }
        for doc in segment.docs_with(segment.fields.token, &token.to_string())? {
            let corrected = index.marks.corrected.contains(segment.seq(doc));
            let (record, segment) = (segment.record(doc)?, SearchableSegment::Sealed(index, shown));
            records.push(EntryRecord { record, segment, doc, corrected });
        }
    }
    Ok(records)
}

/// A searcher over an index without documents.
pub(crate) fn schema_searcher() -> tantivy::Result<tantivy::Searcher> {
    let builder = Index::builder().schema(SchemaFields::current().schema).tokenizers(tokenizers());
    let index = builder.create_in_ram()?;
    let reader = index.reader_builder().reload_policy(tantivy::ReloadPolicy::Manual).try_into()?;
    Ok(tantivy::IndexReader::searcher(&reader))
}

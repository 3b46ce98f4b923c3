//! A whole result, the oldest token first, in constant memory and on one view.
//!
//! A *scan* finds the next hits after the last one, as places of documents; *pages* of them are read and given on, one at a time.
//! Each scan and each page is a query of its own: nothing holds a thread or a place while the client is slow.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tantivy::DocId;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::{
    api::{IndexVersion, PageSize, SearchHit, SearchRequest, SortOrder},
    error::SearchError,
    hits,
    limits::QueryDeadline,
    match_collector::CountedMatches,
    query_compiler::{CompiledQuery, present_second},
    query_runner::QueryRunner,
    search_context::SearchContext,
    search_view::SearchView,
    searchable_segment::{SearchableSegment, engine_error},
};

/// The hits of a scan. A scan walks over the matches of the segments around them, so few scans make a long export fast.
const SCAN_HITS: usize = 10_000;
/// The most hits of a page.
const PAGE_HITS: usize = 200;
/// A page ends with the hit whose message reaches this.
const PAGE_MESSAGE_BYTES: usize = 1 << 20;
/// How long an export may take: it keeps its view, and the files of its segments, on the disk.
const MAX_EXPORT_TIME: Duration = Duration::from_hours(1);

/// A whole result, page by page.
pub struct SearchExport {
    /// What is searched. All pages are of this state, with what was not sealed when the export began.
    pub index_version: IndexVersion,
    /// The hits, the oldest token first. The stream ends with the last hit or with an error.
    pub pages: BoxStream<'static, Result<Vec<SearchHit>, SearchError>>,
}

/// The result of `request` on the view of `context`. `slot` is held until the export ends.
pub(crate) async fn export(
    context: SearchContext,
    request: SearchRequest,
    runner: QueryRunner,
    slot: OwnedSemaphorePermit,
) -> Result<SearchExport, SearchError> {
    let index_version = context.view.index_version();
    let scan = runner.run(move |deadline| ResultScan::new(context, request, deadline)).await?;
    let ends = Instant::now() + MAX_EXPORT_TIME;
    let pages = stream::try_unfold((scan, slot), move |(scan, slot)| {
        let runner = runner.clone();
        async move {
            if Instant::now() >= ends {
                return Err(too_long());
            }
            let (page, scan) = runner.run_in_turn(move |deadline| scan.next_page(deadline)).await?;
            Ok((!page.is_empty()).then_some((page, (scan, slot))))
        }
    });
    Ok(SearchExport { index_version, pages: pages.boxed() })
}

fn too_long() -> SearchError {
    let minutes = MAX_EXPORT_TIME.as_secs() / 60;
    SearchError::Overloaded {
        detail: format!(
            "the export took longer than {minutes} min; go on with \"from\" set to the token of its last line"
        ),
    }
}

/// Where an export stands.
struct ResultScan {
    /// Its `after` is the last hit that a scan found.
    context: SearchContext,
    request: SearchRequest,
    /// The present second, when it began.
    now: i64,
    /// What the last scan found and no page had yet: the number of the segment, and the document.
    found: VecDeque<(usize, DocId)>,
    is_complete: bool,
}

impl ResultScan {
    fn new(context: SearchContext, request: SearchRequest, deadline: QueryDeadline) -> Result<Self, SearchError> {
        let request = SearchRequest {
            sort: SortOrder::Oldest,
            size: PageSize::of_scan(SCAN_HITS),
            cursor: None,
            facets: Vec::new(),
            attribute_facets: Vec::new(),
            histogram: false,
            ..request
        };
        let scan = Self { context, request, now: present_second(), found: VecDeque::new(), is_complete: false };
        // Refused before the first page, if it is.
        scan.query(deadline)?;
        Ok(scan)
    }

    /// The query of one scan: its patterns end with that.
    fn query(&self, deadline: QueryDeadline) -> Result<CompiledQuery, SearchError> {
        let SearchView { index, pending, .. } = self.context.view.as_ref();
        let compiled = self.context.compiler.compile_at(&self.request, self.now, deadline)?;
        let segments = SearchableSegment::all(index, pending, &self.request);
        compiled.check(&segments.iter().map(SearchableSegment::reader).collect::<Vec<_>>())?;
        Ok(compiled)
    }

    /// The next page, empty after the last one. Blocks.
    fn next_page(mut self, deadline: QueryDeadline) -> Result<(Vec<SearchHit>, Self), SearchError> {
        if self.found.is_empty() && !self.is_complete {
            self.scan(deadline)?;
        }
        let view = self.context.view.clone();
        let segments = SearchableSegment::all(&view.index, &view.pending, &self.request);
        let (mut page, mut message_bytes) = (Vec::new(), 0);
        while page.len() < PAGE_HITS
            && message_bytes < PAGE_MESSAGE_BYTES
            && let Some((segment, doc)) = self.found.pop_front()
        {
            deadline.check()?;
            let record = segments[segment].record(doc).map_err(engine_error)?;
            message_bytes += record.message.as_ref().map_or(0, String::len);
            page.push(hits::of_record(record, segments[segment], doc));
        }
        Ok((page, self))
    }

    fn scan(&mut self, deadline: QueryDeadline) -> Result<(), SearchError> {
        let view = self.context.view.clone();
        let segments = SearchableSegment::all(&view.index, &view.pending, &self.request);
        let places: HashMap<u64, usize> = segments.iter().map(|segment| segment.number(0)).zip(0..).collect();
        let query = self.query(deadline)?.query;
        let best = self.context.matches(query.as_ref(), &self.request, CountedMatches::Page, deadline)?.best;
        let place = |segment: SearchableSegment<'_>| places.get(&segment.number(0)).copied();
        let found = best.iter().filter_map(|candidate| Some((place(candidate.segment)?, candidate.doc)));
        let (found, last) = (found.collect(), best.last().map(|candidate| candidate.key));
        self.is_complete = best.len() < SCAN_HITS;
        drop(best);
        self.found = found;
        self.context.after = last.or(self.context.after);
        Ok(())
    }
}

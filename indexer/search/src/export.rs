//! A whole result, the oldest token first, in constant memory and on one view.
//!
//! A *scan* finds the next hits after the last one, as places of documents, and searches each segment once; *pages* of them are
//! read and given on, one at a time.
//! Each scan and each page is a query of its own: nothing holds a thread or a place while the client is slow.

use std::{collections::VecDeque, time::Duration};

use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tantivy::DocId;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::{
    api::{IndexVersion, SearchHit, SearchRequest},
    error::SearchError,
    feed_position::FeedPosition,
    hits,
    limits::QueryDeadline,
    query_compiler::present_second,
    query_runner::QueryRunner,
    search_context::SearchContext,
    searchable_segment::{SearchableSegment, engine_error},
    token_order::OldestMatches,
};

/// The hits of a scan.
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
    /// The position in the feed of changes after every sealed record of that state.
    pub position: FeedPosition,
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
    let (index_version, position) = (context.view.index_version(), FeedPosition::end(&context.view.index.manifest));
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
    Ok(SearchExport { index_version, position, pages: pages.boxed() })
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
    context: SearchContext,
    request: SearchRequest,
    /// The present second, when it began.
    now: i64,
    /// What no scan found yet.
    matches: OldestMatches,
    /// What the last scan found and no page had yet: the number of the segment, and the document.
    found: VecDeque<(usize, DocId)>,
}

impl ResultScan {
    fn new(context: SearchContext, request: SearchRequest, deadline: QueryDeadline) -> Result<Self, SearchError> {
        let now = present_second();
        // Refused before the first page, if it is.
        context.compile(&request, now, deadline)?;
        let matches = OldestMatches::new(&SearchableSegment::all(&context.view, &request));
        Ok(Self { context, request, now, matches, found: VecDeque::new() })
    }

    /// The next page, empty after the last one. Blocks.
    fn next_page(mut self, deadline: QueryDeadline) -> Result<(Vec<SearchHit>, Self), SearchError> {
        if self.found.is_empty() && !self.matches.is_empty() {
            self.scan(deadline)?;
        }
        let view = self.context.view.clone();
        let segments = SearchableSegment::all(&view, &self.request);
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
        let Self { context, request, now, .. } = self;
        let segments = SearchableSegment::all(&context.view, request);
        // Its patterns end with the scan.
        let query = context.compiler.compile(request, *now, deadline)?.query;
        let weight = context.unscored(query.as_ref(), deadline)?;
        self.found = self.matches.take(SCAN_HITS, &segments, weight.as_ref(), request, deadline)?.into();
        Ok(())
    }
}

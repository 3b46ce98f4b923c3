//! A page of the feed of changes: the records of one view by seq, those that a correction replaced included.
//!
//! A record never changes, and neither does what is answered of it: it says nothing of what came after it. So a feed may be read in
//! pages of any size, from any replica and after any compaction, and gives the same.

use std::sync::Arc;

use serde_json::Value;
use tantivy::{DocId, TERMINATED, query::Weight};
use tidemark_ingest::{EntryBody, OperationRecord, engine::EngineError};
use tidemark_wal::Token;

use super::{
    api::{
        ChangeRecord, ChangesAnswer, ChangesRequest, FeedStart, MAX_CHANGES_BYTES, SearchHit, SearchRequest, instant,
    },
    error::SearchError,
    feed_position::{FeedPosition, last_seq},
    hits,
    limits::QueryDeadline,
    query_compiler::{present_second, unusable},
    search_context::SearchContext,
    searchable_segment::{SearchableSegment, engine_error},
};
use crate::segment::{ManifestView, OpenSegment, SegmentReaderView, token_sort_key};

/// How many documents are looked at between two looks at the clock.
const CHECK_INTERVAL_DOCS: u32 = 1024;

/// Where a page starts in the generation that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageStart {
    /// After the record of this seq.
    After(u64),
    /// Before the first record whose token is not below this one.
    Token(Token),
}

/// The next changes from `start` on. Blocks.
///
/// Ends at the deadline with what it has, if it has come further than `start`.
pub(crate) fn changes(
    context: &SearchContext,
    request: &ChangesRequest,
    start: PageStart,
    deadline: QueryDeadline,
) -> Result<ChangesAnswer, SearchError> {
    let search = SearchRequest { query: request.query.clone(), sealed: Some(true), ..SearchRequest::default() };
    let (compiler, now) = (&context.compiler, present_second());
    // A client that goes on is not refused because an attribute has numbers by now that its pattern cannot find.
    let goes_on = matches!(request.start, FeedStart::After(_));
    let compiled =
        if goes_on { compiler.compile(&search, now, deadline) } else { context.compile(&search, now, deadline) };
    let query = compiled?.query;
    let index = context.view.index.as_ref();
    let after = match start {
        PageStart::After(seq) => seq,
        PageStart::Token(token) => seq_before(index, &token, deadline)?,
    };
    let mut page = ChangePage { index, request, deadline, last: after, changes: Vec::new(), bytes: 0 };
    // A client may come from a replica that is further ahead: it waits where it stands.
    if after < last_seq(&index.manifest) {
        page.read(context.unscored(query.as_ref(), deadline)?.as_ref())?;
    }
    let ChangePage { last, changes, .. } = page;
    Ok(ChangesAnswer {
        changes,
        next: FeedPosition::of(&index.manifest, last),
        more: last < last_seq(&index.manifest),
        end: FeedPosition::end(&index.manifest),
        index_version: context.view.index_version(),
    })
}

/// The seq before the first record whose token is not below `token`.
fn seq_before(index: &ManifestView, token: &Token, deadline: QueryDeadline) -> Result<u64, SearchError> {
    let cursor = index.manifest.cursor.second();
    if token.second() > cursor {
        let detail = format!(
            "\"from\" lies after {cursor}, and nothing is recorded from there on yet; use \"now\" to wait for what comes next"
        );
        return Err(SearchError::Invalid { parameter: "from", detail });
    }
    let sort_key = token_sort_key(token);
    for shown in &index.segments {
        let segment = shown.segment.as_ref();
        if segment.of.last < *token {
            continue;
        }
        for doc in 0..segment.reader.max_doc() {
            if doc % CHECK_INTERVAL_DOCS == 0 {
                deadline.check()?;
            }
            if segment.tokens.sort_key(doc) >= sort_key && segment.tokens.token(doc) >= *token {
                return Ok(segment.seq(doc).saturating_sub(1));
            }
        }
    }
    Ok(last_seq(&index.manifest))
}

/// A page that is being filled.
struct ChangePage<'a> {
    index: &'a ManifestView,
    request: &'a ChangesRequest,
    deadline: QueryDeadline,
    /// The seq of the last record that was looked at.
    last: u64,
    changes: Vec<ChangeRecord>,
    bytes: u64,
}

impl ChangePage<'_> {
    /// Reads what follows `last` until the page is full.
    fn read(&mut self, weight: &dyn Weight) -> Result<(), SearchError> {
        let start = self.last;
        let index = self.index;
        for shown in &index.segments {
            if shown.segment.of.seq.end <= self.last.saturating_add(1) {
                continue;
            }
            match self.read_segment(shown, weight) {
                Ok(()) if self.is_full() => break,
                Ok(()) => self.last = shown.segment.of.seq.end - 1,
                // The next page begins where this one ends.
                Err(SearchError::Overloaded { .. }) if self.last > start => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read_segment(&mut self, shown: &Arc<SegmentReaderView>, weight: &dyn Weight) -> Result<(), SearchError> {
        self.deadline.check()?;
        let segment = shown.segment.as_ref();
        // The reader of all documents: those too that are corrected by now.
        let mut found = weight.scorer(&segment.reader, 1.0).map_err(|e| unusable(&e))?;
        let first = segment.doc(self.last.saturating_add(1)).unwrap_or_default();
        let mut doc = if found.doc() < first { found.seek(first) } else { found.doc() };
        while doc != TERMINATED && !self.is_full() {
            self.deadline.check()?;
            let change = self.change(shown, doc)?;
            self.last = change.seq;
            self.changes.push(change);
            doc = found.advance();
        }
        // A phrase that met the deadline has ended early: the segment is not read.
        self.deadline.check()
    }

    fn is_full(&self) -> bool {
        self.changes.len() >= self.request.limit.get() || self.bytes >= MAX_CHANGES_BYTES
    }

    fn change(&mut self, shown: &Arc<SegmentReaderView>, doc: DocId) -> Result<ChangeRecord, SearchError> {
        let segment = shown.segment.as_ref();
        let mut record = segment.record(doc).map_err(engine_error)?;
        (record.body, record.descriptor_body, record.files, record.text) = (EntryBody::Unread, None, None, None);
        if !self.request.payload {
            (record.payload, record.descriptor) = (Value::Null, Value::Null);
        }
        self.bytes = self.bytes.saturating_add(record.memory_bytes());
        let replaces = replaced(self.index, segment, doc).map_err(engine_error)?;
        let position = FeedPosition::of(&self.index.manifest, record.seq);
        Ok(change_record(record, position, replaces, SearchableSegment::Sealed(self.index, shown), doc))
    }
}

/// The seq of the record that this document corrects, if it is a correction.
///
/// The record that a correction replaces is marked in the same publication, and a mark stays.
fn replaced(index: &ManifestView, segment: &OpenSegment, doc: DocId) -> Result<Option<u64>, EngineError> {
    let (seq, op, corrected) = (segment.seq(doc), segment.op(doc), &index.marks.corrected);
    let earlier = index.segments.iter().filter(|shown| shown.hidden > 0).map(|shown| shown.segment.as_ref());
    let mut replaced = None;
    for other in earlier.take_while(|other| other.of.seq.start < seq) {
        let token = segment.tokens.token(doc);
        let may_hold = other.of.first <= token
            && token <= other.of.last
            && corrected.range_cardinality(other.of.seq.start..other.of.seq.end.min(seq)) > 0;
        if !may_hold {
            continue;
        }
        for found in other.docs_with(other.fields.token, &token.to_string())? {
            let before = other.seq(found);
            if before < seq && other.op(found) == op && corrected.contains(before) {
                replaced = replaced.max(Some(before));
            }
        }
    }
    Ok(replaced)
}

/// The change that a record is. What a later record may change of it is left out.
fn change_record(
    mut record: OperationRecord,
    position: FeedPosition,
    replaces: Option<u64>,
    segment: SearchableSegment<'_>,
    doc: DocId,
) -> ChangeRecord {
    let (payload, descriptor) = (std::mem::take(&mut record.payload), std::mem::take(&mut record.descriptor));
    let completed = record.decision.completed.map(instant);
    let SearchHit {
        token,
        time,
        kind,
        op,
        outcome,
        evidence,
        sealed: _,
        current: _,
        seq: _,
        entity,
        repo,
        bundle,
        label,
        context,
        diamond,
        split,
        path,
        message,
        contributors,
        client_time,
        writer,
        idempotency_key,
        reason,
        score: _,
        highlights: _,
    } = hits::of_record(record, segment, doc);
    ChangeRecord {
        seq: position.seq,
        position,
        replaces,
        token,
        time,
        kind,
        op,
        outcome,
        evidence,
        completed,
        entity,
        repo,
        bundle,
        label,
        context,
        diamond,
        split,
        path,
        message,
        contributors,
        client_time,
        writer,
        idempotency_key,
        reason,
        payload,
        descriptor,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt as _;
    use tantivy::{
        DocSet, Score, SegmentReader,
        query::{EnableScoring, Explanation, Scorer},
    };

    use super::*;
    use crate::{
        api::{PageSize, QueryText},
        query_compiler::QueryCompiler,
        search_context::schema_searcher,
        segment::{
            SchemaFields,
            testing::{TestIndex, plain, token},
        },
        term_lookup::TermLookup,
    };

    const TIME: Duration = Duration::from_secs(10);

    /// The time of the query is over once it goes on from the first document that it finds in a segment.
    struct LateWeight(Box<dyn Weight>);

    struct LateScorer(Box<dyn Scorer>);

    impl Weight for LateWeight {
        fn scorer(&self, reader: &SegmentReader, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
            Ok(Box::new(LateScorer(self.0.scorer(reader, boost)?)))
        }

        fn explain(&self, reader: &SegmentReader, doc: DocId) -> tantivy::Result<Explanation> {
            self.0.explain(reader, doc)
        }
    }

    impl DocSet for LateScorer {
        fn advance(&mut self) -> DocId {
            // The clock moves when it is asked to for the first time.
            let _ = tokio::time::advance(TIME).now_or_never();
            self.0.advance()
        }

        fn doc(&self) -> DocId {
            self.0.doc()
        }

        fn size_hint(&self) -> u32 {
            self.0.size_hint()
        }
    }

    impl Scorer for LateScorer {
        fn score(&mut self) -> Score {
            self.0.score()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_segment_in_which_the_time_is_over_is_not_passed_over() {
        let mut index = TestIndex::new().await;
        let said = |n, message: &str| OperationRecord { message: Some(message.to_owned()), ..plain(token(1, n)) };
        // More than a phrase compares between two looks at the clock.
        let mut records: Vec<_> = (0..3000).map(|n| said(n, "tide x gauge")).collect();
        records[0] = said(0, "tide gauge");
        records.push(said(3000, "tide gauge"));
        index.publish(records).await;
        let view = index.engine.open_manifest(index.manifest()).await.unwrap();
        let request = ChangesRequest {
            start: FeedStart::Earliest,
            query: QueryText::new("message:\"tide gauge\"").unwrap(),
            limit: PageSize::new(10).unwrap(),
            payload: false,
            wait: Duration::ZERO,
        };
        let compiler = QueryCompiler::new(&Arc::new(SchemaFields::current()));
        let schema = schema_searcher().unwrap();
        let weight = |deadline| {
            let query = compiler.parse(request.query.as_str(), 0, deadline).unwrap().query;
            let lookup = TermLookup::new(&view, &Arc::default(), deadline);
            lookup.wrap(query.as_ref()).weight(EnableScoring::disabled_from_searcher(&schema)).unwrap()
        };
        let page =
            |deadline| ChangePage { index: &view, request: &request, deadline, last: 0, changes: Vec::new(), bytes: 0 };
        let deadline = QueryDeadline::after(TIME);
        let mut late = page(deadline);
        late.read(&LateWeight(weight(deadline))).unwrap();
        assert_eq!((late.last, late.changes.len()), (1, 1), "the next page goes on after what was found");
        let deadline = QueryDeadline::after(TIME);
        let mut whole = page(deadline);
        whole.read(weight(deadline).as_ref()).unwrap();
        assert_eq!((whole.last, whole.changes.len(), whole.changes[1].seq), (3001, 2, 3001));
    }
}

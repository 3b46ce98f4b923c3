//! A page of the feed of changes: the records of one view by seq, those that a correction replaced included.
//!
//! A record never changes, and neither does what is answered of it: it says nothing of what came after it. So a feed may be read in
//! pages of any size, from any replica and after any compaction, and gives the same.

use std::{ops::RangeInclusive, sync::Arc};

use serde_json::Value;
use tantivy::{DocId, TERMINATED, query::Weight};
use tidemark_catalog::Manifest;
use tidemark_ingest::{EntryBody, OperationRecord, engine::EngineError};
use tidemark_wal::Token;

use super::{
    api::{
        ChangeRecord, ChangesAnswer, ChangesRequest, FeedCheckpoint, FeedStart, MAX_CHANGES_BYTES, SearchRequest,
        instant,
    },
    error::SearchError,
    feed_position::{FeedPosition, last_seq},
    hits::operation_fields,
    limits::QueryDeadline,
    mutants,
    phrase_scorer::PhraseBounds,
    query_compiler::{present_second, unusable},
    search_context::SearchContext,
    searchable_segment::engine_error,
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

/// The next changes from `start` on, with those of the `checkpoints` that go with them. Blocks.
///
/// Ends at the deadline with what it has, if it has come further than `start`.
pub(crate) fn changes(
    context: &SearchContext,
    request: &ChangesRequest,
    start: PageStart,
    checkpoints: &[(u64, String)],
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
    let lookup = context.lookup(deadline);
    let bounds = lookup.phrase_bounds();
    let mut page = ChangePage { index, request, deadline, bounds, last: after, changes: Vec::new(), bytes: 0 };
    // A client may come from a replica that is further ahead: it waits where it stands.
    if after < last_seq(&index.manifest) {
        page.read(context.unscored_by(query.as_ref(), &lookup)?.as_ref())?;
    }
    let ChangePage { last, changes, .. } = page;
    Ok(ChangesAnswer {
        changes,
        next: FeedPosition::of(&index.manifest, last),
        more: last < last_seq(&index.manifest),
        end: FeedPosition::end(&index.manifest),
        checkpoints: checkpoints_at(checkpoints, &(after + 1..=last), &index.manifest),
        index_version: context.view.index_version(),
    })
}

/// The checkpoints of an answer whose records are those of `seqs`: those within it, and the newest one that lies before: it may have been
/// verified after the client had passed it.
fn checkpoints_at(checkpoints: &[(u64, String)], seqs: &RangeInclusive<u64>, served: &Manifest) -> Vec<FeedCheckpoint> {
    let before = checkpoints.partition_point(|(seq, _)| seq < seqs.start());
    let until = checkpoints.partition_point(|(seq, _)| seq <= seqs.end());
    let shown = checkpoints.get(before.saturating_sub(1)..until.max(before)).unwrap_or_default();
    let checkpoint = |(seq, name): &(u64, String)| FeedCheckpoint {
        checkpoint: name.clone(),
        position: FeedPosition::of(served, *seq),
    };
    shown.iter().map(checkpoint).collect()
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
    bounds: &'a PhraseBounds,
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
        let first = segment.doc(self.last.saturating_add(1)).unwrap_or_default();
        self.bounds.begin(first);
        // The reader of all documents: those too that are corrected by now.
        let mut found = weight.scorer(&segment.reader, 1.0).map_err(|e| unusable(&e))?;
        let mut doc = if found.doc() < first { found.seek(first) } else { found.doc() };
        // A phrase that met the deadline has ended early: what is found from there on may be wrong.
        while doc < self.bounds.unread() && !self.is_full() {
            let change = self.change(shown, doc)?;
            self.last = change.seq;
            if !mutants::skips(self.request, &change) {
                self.changes.push(change);
            }
            doc = found.advance();
            self.go_on(segment, doc)?;
        }
        self.go_on(segment, doc)
    }

    /// An error once the time is over, unless the segment is read to its end. `doc` is the next one that the query finds: what lies before
    /// it is read, up to where a phrase ended early, and the next page does not read it again. So each page moves, however rare matches are.
    fn go_on(&mut self, segment: &OpenSegment, doc: DocId) -> Result<(), SearchError> {
        let Err(late) = self.deadline.check() else { return Ok(()) };
        let unread = doc.min(self.bounds.unread());
        if unread == TERMINATED {
            return Ok(());
        }
        self.last = self.last.max(segment.seq(unread).saturating_sub(1));
        Err(late)
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
        Ok(change_record(record, position, replaces))
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
fn change_record(mut record: OperationRecord, position: FeedPosition, replaces: Option<u64>) -> ChangeRecord {
    let (payload, descriptor) = (std::mem::take(&mut record.payload), std::mem::take(&mut record.descriptor));
    let completed = record.decision.completed.map(instant);
    let operation = operation_fields(record);
    ChangeRecord { seq: position.seq, position, replaces, operation, completed, payload, descriptor }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tantivy::query::EnableScoring;

    use tidemark_catalog::Generation;

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

    #[tokio::test(start_paused = true)]
    async fn a_segment_in_which_the_time_is_over_is_gone_on_with_by_the_next_page() {
        let mut index = TestIndex::new().await;
        let said = |n: u32| {
            let message = if n.is_multiple_of(1500) { "tide gauge" } else { "tide x gauge" };
            let message = if n.is_multiple_of(1700) { format!("{message} buoy") } else { message.to_owned() };
            OperationRecord { message: Some(message), ..plain(token(1, n)) }
        };
        index.publish((0..5000).map(said).collect()).await;
        let view = index.engine.open_manifest(index.manifest()).await.unwrap();
        let compiler = QueryCompiler::new(&Arc::new(SchemaFields::current()));
        let schema = schema_searcher().unwrap();
        // What a page after this seq reads with this deadline: its last seq, the seqs of its changes, and where it begins to read.
        let read = |query: &str, after, deadline| {
            let request = ChangesRequest {
                start: FeedStart::Earliest,
                query: QueryText::new(query).unwrap(),
                limit: PageSize::new(1000).unwrap(),
                payload: false,
                wait: Duration::ZERO,
            };
            let query = compiler.parse(request.query.as_str(), 0, deadline).unwrap().query;
            let lookup = TermLookup::new(&view, &Arc::default(), deadline);
            let weight = lookup.wrap(query.as_ref()).weight(EnableScoring::disabled_from_searcher(&schema)).unwrap();
            let (bounds, changes) = (lookup.phrase_bounds(), Vec::new());
            let mut page =
                ChangePage { index: &view, request: &request, deadline, bounds, last: after, changes, bytes: 0 };
            page.read(weight.as_ref()).unwrap();
            (page.last, page.changes.iter().map(|change| change.seq).collect::<Vec<_>>(), bounds.from())
        };
        let (phrase, both) = ([1, 1501, 3001, 4501], [1, 1501, 1701, 3001, 3401, 4501]);
        for (query, expected) in [
            ("message:\"tide gauge\"", &phrase[..]),
            ("message:\"tide gauge\" OR message:buoy", &both),
            ("message:buoy -message:\"tide gauge\"", &[1701, 3401]),
            ("message:buoy message:\"tide gauge\"", &[1]),
            ("message:\"tide gauge\" OR message:\"gauge buoy\"", &both),
            ("message:\"x tide\"", &[]),
        ] {
            assert_eq!(read(query, 0, QueryDeadline::after(TIME)).1, expected, "{query}");
            // So many looks at this clock and the time is over. The first is that at the segment, the others are those after each 1024
            // documents that a phrase compared, and after each change.
            for looks in [2, 4] {
                let (mut last, mut seqs, mut pages) = (0, Vec::new(), 0);
                while last < 5000 {
                    let (next, found, from) = read(query, last, QueryDeadline::ticking(TIME, TIME / looks));
                    assert!(next > last, "{query}: no progress after {last} with {looks} looks");
                    assert_eq!(u64::from(from), last, "{query}: what was read is read again");
                    (last, pages) = (next, pages + 1);
                    seqs.extend(found);
                }
                assert_eq!(seqs, expected, "{query} with {looks} looks");
                assert!(pages < 20, "{query}: {pages} pages with {looks} looks");
            }
        }
    }

    #[test]
    fn an_answer_has_the_snapshots_within_it_and_the_newest_one_before() {
        let known: Vec<_> = [(3, "a"), (5, "b"), (5, "c"), (9, "d")].map(|(seq, name)| (seq, name.to_owned())).into();
        let served = Manifest::new(Generation::first());
        let at = |seqs: RangeInclusive<u64>| {
            let shown = checkpoints_at(&known, &seqs, &served);
            shown
                .iter()
                .map(|shown| format!("{}{}", shown.checkpoint, shown.position.seq))
                .collect::<Vec<_>>()
                .join(" ")
        };
        // Nothing comes before the first record.
        for (seqs, shown) in [
            (1..=2, ""),
            (1..=3, "a3"),
            (1..=9, "a3 b5 c5 d9"),
            (4..=4, "a3"),
            (4..=5, "a3 b5 c5"),
            (6..=8, "c5"),
            (RangeInclusive::new(6, 5), "c5"),
            (10..=99, "d9"),
        ] {
            assert_eq!(at(seqs.clone()), shown, "{seqs:?}");
        }
        assert!(checkpoints_at(&[], &(1..=9), &served).is_empty());
    }
}

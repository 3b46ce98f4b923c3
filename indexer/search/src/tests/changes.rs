//! The feed of changes against the history that was published: each record once, in order, the same whenever it is read.

use std::{collections::BTreeMap, time::Duration};

use proptest::{
    collection::vec,
    prelude::*,
    sample::Index,
    test_runner::{TestError, TestRunner},
};
use tidemark_wal::{Outcome, Token};
use tokio::time::timeout;

use super::{QueryWords, SearchCase, TestSearcher, block_on, page, query, searcher};
use crate::{
    api::{
        ChangeRecord, ChangesAnswer, ChangesRequest, FeedStart, MAX_CHANGES_BYTES, OperationFields, SearchRequest,
        instant,
    },
    error::SearchError,
    mutants::CORRECTION_SKIPPED,
    searcher::MAX_CHANGE_PAGES,
    segment::testing::{BEGIN, TestIndex, history, plain, token},
    service::SearchService as _,
};
use tidemark_ingest::OperationRecord;
use tidemark_store::StoreSecond;

/// Seq, the seq that it replaces, token, op, outcome, message and payload.
type SeenChange = (u64, Option<u64>, Token, u32, Outcome, Option<String>, serde_json::Value);

const MAX_WAIT: Duration = Duration::from_secs(90);

fn request(start: FeedStart, limit: usize) -> ChangesRequest {
    ChangesRequest { start, query: query(""), limit: page(limit), payload: true, wait: Duration::ZERO }
}

/// After the position of this text, as a client sends it.
fn after(text: &str) -> FeedStart {
    FeedStart::After(text.parse().unwrap())
}

/// The changes that the records of `index` are, from first principles.
fn naive(index: &TestIndex) -> Vec<SeenChange> {
    let mut earlier = BTreeMap::new();
    let change = |record: &OperationRecord| {
        let replaces = earlier.insert((record.token, record.op), record.seq);
        let OperationRecord { seq, token, op, message, payload, .. } = record.clone();
        (seq, replaces, token, op, record.decision.outcome, message, payload)
    };
    index.records.iter().map(change).collect()
}

fn seen(changes: &[ChangeRecord]) -> Vec<SeenChange> {
    let seen = |change: &ChangeRecord| {
        let ChangeRecord { seq, replaces, operation, payload, .. } = change.clone();
        let OperationFields { token, op, outcome, message, .. } = operation;
        (seq, replaces, token, op, outcome, message, payload)
    };
    changes.iter().map(seen).collect()
}

/// All changes from `start` on, page by page.
async fn all(searcher: &TestSearcher, start: FeedStart, limit: usize, text: &str) -> Vec<ChangeRecord> {
    let (mut changes, mut start) = (Vec::new(), start);
    loop {
        let answer = searcher.changes(ChangesRequest { query: query(text), ..request(start, limit) }).await.unwrap();
        assert!(answer.changes.len() <= limit);
        let ChangesAnswer { changes: found, next, more, end, .. } = answer;
        changes.extend(found);
        if !more {
            assert_eq!(next, end);
            return changes;
        }
        start = after(&next.to_string());
    }
}

async fn refused(searcher: &TestSearcher, start: FeedStart) -> String {
    match searcher.changes(request(start, 10)).await.unwrap_err() {
        SearchError::Invalid { parameter: "from", detail } => detail,
        other => panic!("{other}"),
    }
}

/// What happens after one publication: a compaction perhaps, and polls, each of a number of changes, after which the client perhaps
/// forgets what came after one of them and goes on from there.
type FeedStep = (Option<(Index, Index)>, Vec<(usize, Option<Index>)>);

fn step() -> impl Strategy<Value = FeedStep> {
    (
        proptest::option::of((any::<Index>(), any::<Index>())),
        vec((1usize..6, proptest::option::weighted(0.3, any::<Index>())), 0..5),
    )
}

async fn compact(index: &mut TestIndex, (one, other): (Index, Index)) {
    let segments = index.manifest().segments.len();
    let (one, other) = (one.index(segments), other.index(segments));
    if one != other {
        index.compact(one.min(other)..one.max(other) + 1).await;
    }
}

/// How many histories a property is tried with.
const CASES: u32 = 24;

/// A client that follows with a query that means everything gets each record once and in order, whatever happens between its polls.
async fn follow(batches: Vec<Vec<OperationRecord>>, steps: Vec<FeedStep>, text: &str) -> Result<(), TestCaseError> {
    let mut index = TestIndex::new().await;
    let searcher = searcher(&index, false);
    let (mut client, mut start) = (Vec::new(), FeedStart::Earliest);
    for (batch, (compaction, polls)) in batches.into_iter().zip(steps) {
        index.publish(batch).await;
        if let Some(places) = compaction {
            compact(&mut index, places).await;
        }
        searcher.refresh_manifest().await.unwrap();
        for (limit, kept) in polls {
            let asked = ChangesRequest { query: query(text), ..request(start.clone(), limit) };
            let answer = searcher.changes(asked).await.unwrap();
            start = after(&answer.next.to_string());
            client.extend(answer.changes);
            if let Some(kept) = kept.filter(|_| !client.is_empty()) {
                client.truncate(kept.index(client.len()) + 1);
                start = after(&client[client.len() - 1].position.to_string());
            }
        }
    }
    client.extend(all(&searcher, start, 7, text).await);
    let (got, published) = (seen(&client), naive(&index));
    let missing = published.iter().find(|change| !got.iter().any(|came| came.0 == change.0));
    let missing = missing.map(|change| format!("record {} that replaces {:?} never came", change.0, change.1));
    prop_assert_eq!(missing, None);
    prop_assert_eq!(got, published);
    // Read at once it is the same, to the last bit, although records were corrected and compacted since.
    prop_assert_eq!(all(&searcher, FeedStart::Earliest, 1000, text).await, client);
    Ok(())
}

#[test]
fn a_feed_that_skips_a_correction_is_found() {
    let config = ProptestConfig { failure_persistence: None, max_shrink_iters: 0, ..ProptestConfig::with_cases(CASES) };
    let histories = (history(), vec(step(), 6));
    let planted = |(batches, steps)| block_on(follow(batches, steps, CORRECTION_SKIPPED));
    let found = TestRunner::new(config).run(&histories, planted);
    let Err(TestError::Fail(reason, _)) = found else { panic!("{found:?}") };
    let words = reason.message();
    assert!(words.contains("that replaces Some(") && words.contains("never came"), "{words}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn every_record_comes_once_and_in_order_whatever_happens_between_polls(
        batches in history(), steps in vec(step(), 6),
    ) {
        block_on(follow(batches, steps, ""))?;
    }

    #[test]
    fn a_feed_starts_at_any_position_and_any_time_and_a_filter_leaves_no_match_out(
        batches in history(), places in proptest::option::of((any::<Index>(), any::<Index>())), second in 0u64..320,
    ) {
        block_on(async {
            let mut index = TestIndex::new().await;
            for batch in batches {
                index.publish(batch).await;
            }
            if let Some(places) = places {
                compact(&mut index, places).await;
            }
            let searcher = searcher(&index, false);
            searcher.refresh_manifest().await.unwrap();
            let naive = naive(&index);
            for seq in 0..=naive.len() {
                let answer = searcher.changes(request(after(&format!("g1:{seq}")), 2)).await.unwrap();
                let expected: Vec<_> = naive.iter().skip(seq).take(2).cloned().collect();
                prop_assert_eq!(seen(&answer.changes), expected);
                prop_assert_eq!(answer.more, seq + 2 < naive.len());
            }
            let first = Token::first_of(StoreSecond::from_unix(BEGIN + second));
            let found = searcher.changes(request(FeedStart::Token(first), 1000)).await;
            if first.second() > index.manifest().cursor.second() {
                prop_assert!(found.is_err());
            } else {
                let expected: Vec<_> = naive.iter().skip_while(|change| change.2 < first).cloned().collect();
                prop_assert_eq!(seen(&found.unwrap().changes), expected);
            }
            for words in [QueryWords::Word, QueryWords::Phrase, QueryWords::Repo, QueryWords::Number, QueryWords::NotBug] {
                let case = SearchCase { request: SearchRequest::default(), words };
                let expected: Vec<_> =
                    index.records.iter().filter(|record| case.matches(&index, record)).map(|record| record.seq).collect();
                let found = all(&searcher, FeedStart::Earliest, 3, SearchCase::text(words)).await;
                prop_assert_eq!(found.iter().map(|change| change.seq).collect::<Vec<_>>(), expected, "{:?}", words);
            }
            Ok(())
        })?;
    }
}

fn outcome(record: OperationRecord, outcome: Outcome) -> OperationRecord {
    let mut record = record;
    record.decision.outcome = outcome;
    record
}

#[tokio::test]
async fn a_corrected_record_still_comes_as_it_was_and_its_correction_names_it() {
    let mut index = TestIndex::new().await;
    let searcher = searcher(&index, false);
    index.publish(vec![outcome(plain(token(1, 1)), Outcome::Aborted), plain(token(1, 2))]).await;
    searcher.refresh_manifest().await.unwrap();
    let before = all(&searcher, FeedStart::Earliest, 10, "").await;
    index.publish(vec![plain(token(1, 1)), plain(token(2, 1))]).await;
    for compacted in [false, true] {
        if compacted {
            index.compact(0..2).await;
        }
        searcher.refresh_manifest().await.unwrap();
        let after = all(&searcher, FeedStart::Earliest, 10, "").await;
        assert_eq!(after[..2], before);
        let replaces: Vec<_> = after.iter().map(|change| change.replaces).collect();
        assert_eq!(replaces, [None, None, Some(1), None], "compacted: {compacted}");
        // A search shows what stands; the feed shows what happened.
        let found =
            searcher.search(SearchRequest { query: query("outcome:aborted"), ..SearchRequest::default() }).await;
        assert_eq!(found.unwrap().total, 0);
        let aborted = all(&searcher, FeedStart::Earliest, 10, "outcome:aborted").await;
        assert_eq!(aborted.iter().map(|change| change.seq).collect::<Vec<_>>(), [1]);
    }
}

#[tokio::test]
async fn a_request_waits_for_a_change_that_it_asks_for() {
    let mut index = TestIndex::new().await;
    let searcher = std::sync::Arc::new(searcher(&index, false));
    index.publish(vec![plain(token(1, 1))]).await;
    searcher.refresh_manifest().await.unwrap();
    let said = |second, message: &str| OperationRecord { message: Some(message.to_owned()), ..plain(token(second, 1)) };
    let wait = ChangesRequest { query: query("tide"), wait: MAX_WAIT, ..request(FeedStart::Latest, 10) };
    let waiting = tokio::spawn({
        let searcher = searcher.clone();
        async move { searcher.changes(wait).await }
    });
    for (second, message) in [(2, "bug"), (3, "bug"), (4, "tide")] {
        assert!(!waiting.is_finished(), "before second {second}");
        index.publish(vec![said(second, message)]).await;
        searcher.refresh_manifest().await.unwrap();
        tokio::task::yield_now().await;
    }
    let answer = timeout(MAX_WAIT, waiting).await.expect("it ends").unwrap().unwrap();
    assert_eq!(answer.changes.iter().map(|change| change.seq).collect::<Vec<_>>(), [4]);
    // Without a wait there is an answer at once, which has moved past what the filter leaves out.
    let none = ChangesRequest { query: query("nosuchword"), ..request(FeedStart::Earliest, 10) };
    let answer = searcher.changes(none).await.unwrap();
    assert_eq!((answer.changes.len(), answer.next.seq, answer.more), (0, 4, false));
}

#[tokio::test(start_paused = true)]
async fn pages_leave_places_to_searches_and_no_page_is_read_where_there_is_no_further_record() {
    let mut index = TestIndex::new().await;
    let searcher = std::sync::Arc::new(searcher(&index, true));
    index.publish(vec![plain(token(1, 1))]).await;
    searcher.refresh_manifest().await.unwrap();
    let wait = ChangesRequest { wait: Duration::from_secs(20), ..request(FeedStart::Latest, 10) };
    let mut waiting = searcher.changes(wait);
    // It has read its page.
    assert!(timeout(Duration::from_secs(1), &mut waiting).await.is_err());
    let all_places = u32::try_from(MAX_CHANGE_PAGES).unwrap();
    let places = searcher.change_pages.clone().acquire_many_owned(all_places).await.unwrap();
    let mut second = searcher.changes(request(FeedStart::Earliest, 10));
    assert!(timeout(Duration::from_secs(1), &mut second).await.is_err());
    assert_eq!(searcher.search(SearchRequest::default()).await.unwrap().total, 1);
    // A view that has more of the log alone: the one that waits needs no place, and ends with its time.
    index.write_entry(token(5, 1), "{}").await;
    assert!(searcher.refresh_tail().await.unwrap());
    let answer = timeout(MAX_WAIT, waiting).await.expect("it ends").unwrap();
    assert_eq!((answer.changes.len(), answer.next.seq), (0, 1));
    drop(places);
    assert_eq!(second.await.unwrap().changes.len(), 1);
}

#[tokio::test]
async fn an_answer_is_bounded_in_bytes() {
    let mut index = TestIndex::new().await;
    let searcher = searcher(&index, false);
    let bytes = usize::try_from(MAX_CHANGES_BYTES).unwrap();
    let long = |n| OperationRecord { message: Some("m".repeat(bytes * 2 / 3)), ..plain(token(1, n)) };
    index.publish((0..5).map(long).collect()).await;
    searcher.refresh_manifest().await.unwrap();
    let answer = searcher.changes(request(FeedStart::Earliest, 1000)).await.unwrap();
    assert_eq!((answer.changes.len(), answer.next.seq, answer.more), (2, 2, true));
    assert_eq!(all(&searcher, FeedStart::Earliest, 1000, "").await.len(), 5);
    // What is not sent does not count.
    let large = |n| OperationRecord { payload: "p".repeat(bytes).into(), ..plain(token(2, n)) };
    index.publish((0..5).map(large).collect()).await;
    searcher.refresh_manifest().await.unwrap();
    for (payload, count) in [(true, 1), (false, 5)] {
        let answer = searcher.changes(ChangesRequest { payload, ..request(after("g1:5"), 1000) }).await.unwrap();
        assert_eq!(answer.changes.len(), count);
        assert_eq!(answer.changes[0].payload.is_null(), !payload);
    }
}

#[tokio::test]
async fn a_query_that_was_accepted_is_good_whatever_is_recorded_later() {
    let mut index = TestIndex::new().await;
    let searcher = searcher(&index, false);
    let built = |second, build: serde_json::Value| OperationRecord {
        payload: serde_json::json!({ "build": build }),
        ..plain(token(second, 1))
    };
    index.publish(vec![built(1, "10a".into())]).await;
    searcher.refresh_manifest().await.unwrap();
    let asked = |start| ChangesRequest { query: query("payload.build:1*"), ..request(start, 10) };
    let first = searcher.changes(asked(FeedStart::Earliest)).await.unwrap();
    assert_eq!(first.changes.len(), 1);
    index.publish(vec![built(2, 10.into()), built(3, "11b".into())]).await;
    searcher.refresh_manifest().await.unwrap();
    let rest = searcher.changes(asked(after(&first.next.to_string()))).await.unwrap();
    assert_eq!(rest.changes.iter().map(|change| change.seq).collect::<Vec<_>>(), [3]);
    // A client that begins learns that numbers are not found.
    let refused = searcher.changes(asked(FeedStart::Earliest)).await.unwrap_err();
    assert!(matches!(refused, SearchError::Invalid { parameter: "q", .. }), "{refused}");
}

#[tokio::test]
async fn what_is_no_place_in_this_feed_is_refused() {
    let mut index = TestIndex::new().await;
    let searcher = searcher(&index, false);
    let unread = searcher.changes(request(FeedStart::Earliest, 1)).await.unwrap_err();
    assert!(matches!(unread, SearchError::NotReady { .. }), "{unread}");
    index.publish(vec![plain(token(1, 1))]).await;
    searcher.refresh_manifest().await.unwrap();
    let cursor = index.manifest().cursor.second();
    assert_eq!(cursor, StoreSecond::from_unix(BEGIN + 2));
    let future = refused(&searcher, FeedStart::Token(Token::first_of(cursor.next()))).await;
    assert!(future.contains(&instant(cursor).to_string()) && future.contains("\"now\""), "{future}");
    let at_cursor = searcher.changes(request(FeedStart::Token(Token::first_of(cursor)), 1)).await.unwrap();
    assert_eq!(at_cursor.next.seq, 1);
    assert!(refused(&searcher, after("g2:0")).await.contains("no generation \"g2\""));
    assert!(refused(&searcher, FeedStart::Snapshot("none".to_owned())).await.contains("no snapshot \"none\""));
    let wrong = ChangesRequest { query: query("kind = bundle"), ..request(FeedStart::Earliest, 1) };
    let wrong = searcher.changes(wrong).await.unwrap_err();
    assert!(matches!(wrong, SearchError::Invalid { parameter: "q", .. }), "{wrong}");
    // Another replica may be further ahead: the client stays where it is.
    let ahead = searcher.changes(request(after("g1:7"), 1)).await.unwrap();
    assert_eq!((ahead.changes.len(), ahead.next.seq, ahead.end.seq, ahead.more), (0, 7, 1, false));
}

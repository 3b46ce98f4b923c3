//! Search against a naive filter over the same records, and what a reader sees while the index moves.

mod changes;

use std::{collections::BTreeMap, ops::Deref, sync::Arc, time::Duration};

use futures::TryStreamExt as _;
use proptest::{prelude::*, sample::select};
use tidemark_store::StoreSecond;
use tidemark_wal::{ClientTime, LogParameters, OperationKind, Outcome, ParameterSchedule, Token};

use super::{
    api::{
        AttributeName, EntityRequest, FacetCount, FacetField, FilterField, HistogramTime, LineageAnswer, LineageDepth,
        LineageRequest, PageSize, QueryText, SearchAnswer, SearchHit, SearchRequest, SortOrder, instant,
    },
    error::SearchError,
    follower::{FollowerOptions, IndexFollower},
    limits::QueryLimits,
    searcher::IndexSearcher,
    service::SearchService,
};
use crate::segment::{
    metered_store::MeteredStore,
    testing::{BEGIN, TestIndex, client_time, history, plain, token},
};
use tidemark_ingest::OperationRecord;

/// A search service and what keeps its view current, which the tests do step by step.
struct TestSearcher {
    searcher: IndexSearcher,
    follower: Arc<IndexFollower>,
}

impl TestSearcher {
    async fn refresh_manifest(&self) -> Result<bool, SearchError> {
        self.follower.refresh_manifest().await
    }

    async fn refresh_tail(&self) -> Result<bool, SearchError> {
        self.follower.refresh_tail().await
    }
}

impl Deref for TestSearcher {
    type Target = IndexSearcher;

    fn deref(&self) -> &IndexSearcher {
        &self.searcher
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn searcher(index: &TestIndex, with_log: bool) -> TestSearcher {
    searcher_with(index, with_log, &FollowerOptions::default())
}

fn searcher_with(index: &TestIndex, with_log: bool, options: &FollowerOptions) -> TestSearcher {
    let parameters = Arc::new(ParameterSchedule::constant(LogParameters::with_expiry(Duration::from_mins(10))));
    let log = with_log.then_some((&index.log, parameters as Arc<dyn tidemark_wal::ParameterSource>));
    let searcher = IndexSearcher::default();
    let follower = IndexFollower::new(index.engine.clone(), index.chain.clone(), log, options).unwrap();
    searcher.serve(follower.clone());
    TestSearcher { searcher, follower }
}

fn query(text: &str) -> QueryText {
    QueryText::new(text).unwrap()
}

fn page<const MIN: usize>(size: usize) -> PageSize<MIN> {
    PageSize::new(size).unwrap()
}

/// A request with its meaning.
#[derive(Clone, Debug)]
struct SearchCase {
    request: SearchRequest,
    words: QueryWords,
}

#[derive(Clone, Copy, Debug)]
enum QueryWords {
    All,
    Word,
    Either,
    Phrase,
    Repo,
    Number,
    NotBug,
}

impl SearchCase {
    fn text(words: QueryWords) -> &'static str {
        match words {
            QueryWords::All => "",
            QueryWords::Word => "fixes",
            QueryWords::Either => "fixes OR bug OR nosuchword",
            QueryWords::Phrase => "\"the bug\"",
            QueryWords::Repo => "repo:red",
            QueryWords::Number => "payload.build.number:7",
            QueryWords::NotBug => "* -bug",
        }
    }

    fn matches(&self, index: &TestIndex, record: &OperationRecord) -> bool {
        let message = record.message.clone().unwrap_or_default();
        let words: Vec<&str> = message.split(' ').collect();
        let request = &self.request;
        let text = match self.words {
            QueryWords::All => true,
            QueryWords::Word => words.contains(&"fix") || words.contains(&"fixing"),
            QueryWords::Either => ["fix", "fixing", "bug"].iter().any(|word| words.contains(word)),
            QueryWords::Phrase => words.windows(2).any(|pair| pair == ["the", "bug"]),
            QueryWords::Repo => record.repo.as_deref() == Some("red"),
            QueryWords::Number => record.payload["build"]["number"] == 7,
            QueryWords::NotBug => !words.contains(&"bug"),
        };
        let outcome = request.outcomes.is_empty() || request.outcomes.contains(&record.decision.outcome);
        let current = record.is_committed() && !index.marks.outdated.contains(record.seq);
        text && outcome
            && request.current.is_none_or(|wanted| wanted == current)
            && request.from.is_none_or(|from| from <= record.token)
            && request.to.is_none_or(|to| record.token < to)
            && request.filters.iter().all(|(filter, values)| has(record, *filter, values))
    }
}

fn has(record: &OperationRecord, filter: FilterField, values: &[String]) -> bool {
    let any = |found: &str| values.iter().any(|value| value == found);
    match filter {
        FilterField::Kind => any(record.kind.as_str()),
        FilterField::Repo => record.repo.as_deref().is_some_and(any),
        FilterField::Contributor => record.contributors.iter().any(|c| any(&c.name) || any(&c.email)),
        _ => unreachable!("the cases have no such filter"),
    }
}

const SORTS: [SortOrder; 5] =
    [SortOrder::Newest, SortOrder::Oldest, SortOrder::Relevance, SortOrder::ClientTime, SortOrder::ClientTimeOldest];

fn case() -> impl Strategy<Value = SearchCase> {
    let words = select(vec![
        QueryWords::All,
        QueryWords::Word,
        QueryWords::Either,
        QueryWords::Phrase,
        QueryWords::Repo,
        QueryWords::Number,
        QueryWords::NotBug,
    ]);
    let filters = prop::collection::btree_map(
        select(vec![
            (FilterField::Kind, "bundle"),
            (FilterField::Kind, "label"),
            (FilterField::Repo, "green"),
            (FilterField::Contributor, "Ada"),
            (FilterField::Contributor, "c@x.org"),
        ]),
        Just(()),
        0..3,
    );
    let outcomes = prop::collection::vec(select(vec![Outcome::Committed, Outcome::Aborted]), 0..2);
    let bounds = (prop::option::of(0u64..200), prop::option::of(0u64..200));
    let sort = select(SORTS.to_vec());
    let current = prop::option::weighted(0.2, any::<bool>());
    (words, filters, outcomes, bounds, sort, 1usize..6, current).prop_map(
        |(words, chosen, outcomes, (from, to), sort, size, current)| {
            let mut filters: BTreeMap<FilterField, Vec<String>> = BTreeMap::new();
            for ((filter, value), ()) in chosen {
                filters.entry(filter).or_default().push(value.to_owned());
            }
            let bound = |second: u64| Token::first_of(StoreSecond::from_unix(BEGIN + second));
            let (from, to, query) = (from.map(bound), to.map(bound), query(SearchCase::text(words)));
            let size = page(size);
            let request =
                SearchRequest { query, filters, outcomes, current, from, to, sort, size, ..SearchRequest::default() };
            SearchCase { request, words }
        },
    )
}

fn place(hit: &SearchHit) -> (Token, u32, Option<u64>) {
    (hit.token, hit.op, hit.seq)
}

fn counted(answer: &SearchAnswer, facet: &str) -> BTreeMap<String, u64> {
    answer.facets[facet].iter().map(|count| (count.value.clone(), count.count)).collect()
}

fn in_order(hits: &[SearchHit], sort: SortOrder) -> bool {
    let client_second = |hit: &SearchHit| hit.client_time.map(ClientTime::as_second);
    hits.windows(2).all(|pair| match sort {
        SortOrder::Newest => pair[0].token >= pair[1].token,
        SortOrder::Oldest => pair[0].token <= pair[1].token,
        SortOrder::Relevance => pair[0].score >= pair[1].score,
        SortOrder::ClientTime => (client_second(&pair[0]), pair[0].token) >= (client_second(&pair[1]), pair[1].token),
        SortOrder::ClientTimeOldest => {
            let key = |hit: &SearchHit| (hit.client_time.is_none(), client_second(hit), hit.token);
            key(&pair[0]) <= key(&pair[1])
        }
    })
}

/// The whole answer, page by page. `between` runs after each page.
async fn pages(searcher: &TestSearcher, request: &SearchRequest, mut between: impl AsyncFnMut()) -> Vec<SearchHit> {
    let mut request = request.clone();
    let mut hits = Vec::new();
    loop {
        let answer = searcher.search(request.clone()).await.unwrap();
        hits.extend(answer.hits);
        between().await;
        match answer.next {
            Some(next) => request.cursor = Some(next),
            None => return hits,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn answers_equal_a_naive_filter(history in history(), cases in prop::collection::vec(case(), 1..12)) {
        block_on(async {
            let mut index = TestIndex::new().await;
            let searcher = searcher(&index, false);
            for batch in history {
                index.publish(batch).await;
                searcher.refresh_manifest().await.unwrap();
            }
            for case in cases {
                let wanted: Vec<&OperationRecord> = index.standing().filter(|record| case.matches(&index, record)).collect();
                let answer = searcher.search(case.request.clone()).await.unwrap();
                prop_assert_eq!(answer.total, wanted.len() as u64, "{:?}", case);
                let hits = pages(&searcher, &case.request, async || ()).await;
                let mut found: Vec<_> = hits.iter().map(place).collect();
                found.sort();
                let mut places: Vec<_> = wanted.iter().map(|r| (r.token, r.op, Some(r.seq))).collect();
                places.sort();
                prop_assert_eq!(found, places, "{:?}", case);
                prop_assert!(in_order(&hits, case.request.sort));
                let mut outcomes = BTreeMap::new();
                for record in &wanted {
                    *outcomes.entry(format!("{:?}", record.decision.outcome).to_lowercase()).or_insert(0) += 1;
                }
                if !wanted.is_empty() {
                    prop_assert_eq!(counted(&answer, FacetField::Outcome.name()), outcomes);
                }
                prop_assert_eq!(answer.histogram.iter().map(|bucket| bucket.count).sum::<u64>(), answer.total);
                let by_client = SearchRequest { histogram_by: HistogramTime::ClientTime, ..case.request.clone() };
                for bucket in searcher.search(by_client).await.unwrap().histogram {
                    let span = bucket.from.as_second()..bucket.to.as_second();
                    let inside = |record: &&&OperationRecord| {
                        record.client_time.is_some_and(|time| span.contains(&time.as_second()))
                    };
                    prop_assert_eq!(bucket.count, wanted.iter().filter(inside).count() as u64, "{:?}", case);
                }
            }
            Ok(())
        })?;
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn pages_cover_their_manifest_exactly_once_while_the_index_moves(
        history in history(),
        sort in select(SORTS.to_vec()),
        text in select(vec!["", "fix", "the OR bug OR release OR ada"]),
        size in 1usize..4,
    ) {
        block_on(async {
            let mut index = TestIndex::new().await;
            let searcher = searcher(&index, false);
            let mut batches = history.into_iter();
            index.publish(batches.next().unwrap()).await;
            index.publish(batches.next().unwrap_or_else(|| vec![plain(token(900, 1))])).await;
            searcher.refresh_manifest().await.unwrap();
            let request = SearchRequest { query: query(text), sort, size: page(size), ..SearchRequest::default() };
            let all = SearchRequest { size: page(1000), ..request.clone() };
            let whole = searcher.search(all).await.unwrap().hits;
            let paged = pages(&searcher, &request, async || {
                let next = batches.next().unwrap_or_else(|| vec![plain(token(1000 + index.records.len() as u64, 1))]);
                index.publish(next).await;
                if index.manifest().segments.len() % 3 == 0 {
                    index.compact(0..2).await;
                }
                searcher.refresh_manifest().await.unwrap();
            })
            .await;
            let places = |hits: &[SearchHit]| hits.iter().map(place).collect::<Vec<_>>();
            prop_assert_eq!(places(&paged), places(&whole));
            Ok(())
        })?;
    }
}

fn ranks(hits: &[SearchHit]) -> Vec<(Option<f32>, Option<u64>)> {
    hits.iter().map(|hit| (hit.score, hit.seq)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    // Short messages of few words: most scores are those of many records, in several segments.
    #[test]
    fn pages_by_score_have_each_match_once_and_of_one_score_the_newest_first(
        history in history(),
        text in select(vec![
            "fix", "tide", "the OR bug", "fix OR ada OR fixing OR release", "tide OR nosuchword OR bob OR bug",
            "fix bug", "(fix OR tide) AND ada AND (bug OR the OR release)", "fix -bug", "the -(tide OR bob) (ada OR bug)",
            "repo:red fix", "kind:label AND repo:green", "fix AND (bug AND -ada)",
            "\"fix bug\"", "\"the bug\" OR tide", "the \"fix bug\" -ada", "(bug OR \"tide the\") -\"the fix\"",
        ]),
        size in 1usize..6,
        from in prop::option::of(0u64..120),
        compacted in any::<bool>(),
    ) {
        block_on(async {
            let mut index = TestIndex::new().await;
            let searcher = searcher(&index, false);
            for batch in history {
                index.publish(batch).await;
            }
            if compacted && index.manifest().segments.len() > 1 {
                index.compact(0..2).await;
            }
            searcher.refresh_manifest().await.unwrap();
            let request = SearchRequest {
                query: query(text),
                sort: SortOrder::Relevance,
                size: page(size),
                from: from.map(|second| token(second, 0)),
                ..SearchRequest::default()
            };
            let whole = searcher.search(SearchRequest { size: page(1000), ..request.clone() }).await.unwrap();
            let all = ranks(&whole.hits);
            prop_assert_eq!(all.len() as u64, whole.total);
            prop_assert!(all.windows(2).all(|pair| pair[0] > pair[1]), "{:?}", all);
            prop_assert_eq!(&ranks(&pages(&searcher, &request, async || {}).await), &all);
            let bare = SearchRequest { facets: Vec::new(), histogram: false, ..request.clone() };
            prop_assert_eq!(&ranks(&pages(&searcher, &bare, async || {}).await), &all);
            // The same matches and scores, found one after the other; the last bits of a sum may differ.
            let text = format!("({text}) OR \"no such phrase\"~1");
            let scan = SearchRequest { query: query(&text), size: page(1000), ..request };
            let by_seq = |hits: &[SearchHit]| hits.iter().map(|hit| (hit.seq, hit.score)).collect::<BTreeMap<_, _>>();
            let (found, scanned) = (by_seq(&whole.hits), by_seq(&searcher.search(scan).await.unwrap().hits));
            prop_assert!(found.keys().eq(scanned.keys()));
            for (score, other) in found.values().flatten().zip(scanned.values().flatten()) {
                prop_assert!((score - other).abs() < 1e-5, "{} {}", score, other);
            }
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn an_entry_is_seen_once_whether_pending_or_sealed() {
    let mut index = TestIndex::new().await;
    let searcher = searcher(&index, true);
    let tokens: Vec<Token> = (0..20).map(|n| token(n / 4, u32::try_from(n).unwrap())).collect();
    for token in &tokens {
        index.write_entry(*token, "bundles/red/1/bundle.yaml").await;
    }
    searcher.refresh_manifest().await.unwrap();
    assert_eq!(searcher.search(SearchRequest::default()).await.unwrap().total, 0);
    searcher.refresh_tail().await.unwrap();
    for sealed in [0, 4, 12, 20] {
        if sealed > 0 {
            let done = index.records.len();
            index.publish(tokens[done..sealed].iter().map(|token| plain(*token)).collect()).await;
            searcher.refresh_manifest().await.unwrap();
        }
        let answer = searcher.search(SearchRequest::default()).await.unwrap();
        let found: Vec<Token> = answer.hits.iter().rev().map(|hit| hit.token).collect();
        assert_eq!(found, tokens, "{sealed} sealed");
        assert_eq!(answer.hits.iter().filter(|hit| hit.sealed).count(), sealed);
        assert_eq!(answer.facets["outcome"].iter().map(|count| count.count).sum::<u64>(), 20);
        let pending = searcher.status().unwrap().entries.pending;
        assert_eq!(pending, 20 - sealed as u64);
        for token in &tokens {
            assert_eq!(searcher.entry(*token).await.unwrap().ops.len(), 1);
        }
    }
}

#[tokio::test]
async fn pages_leave_the_tail_out_and_say_where_the_sealed_hits_go_on() {
    let mut index = TestIndex::new().await;
    let searcher = searcher(&index, true);
    index.publish((0..5).map(|n| plain(token(1, n))).collect()).await;
    for n in 0..3 {
        index.write_entry(token(5, n), "bundles/red/1/bundle.yaml").await;
    }
    searcher.refresh_manifest().await.unwrap();
    searcher.refresh_tail().await.unwrap();
    let request = SearchRequest { size: page(2), ..SearchRequest::default() };
    let hits = pages(&searcher, &request, async || ()).await;
    let sealed: Vec<bool> = hits.iter().map(|hit| hit.sealed).collect();
    assert_eq!(sealed, [false, false, true, true, true, true, true]);
    let pending = SearchRequest { sealed: Some(false), ..SearchRequest::default() };
    assert_eq!(searcher.search(pending).await.unwrap().total, 3);
}

#[tokio::test]
async fn hits_are_highlighted_when_asked_sealed_or_not() {
    let mut index = TestIndex::new().await;
    let searcher = searcher(&index, true);
    let message = Some("Fix a <race>".to_owned());
    index.publish(vec![OperationRecord { message, ..plain(token(1, 1)) }]).await;
    index.write_entry(token(5, 0), "one more race, {not malformed").await;
    searcher.refresh_manifest().await.unwrap();
    searcher.refresh_tail().await.unwrap();
    let request = SearchRequest { query: query("rac*"), highlight: true, ..SearchRequest::default() };
    let hits = searcher.search(request.clone()).await.unwrap().hits;
    let found: Vec<(&str, &str)> = hits
        .iter()
        .flat_map(|hit| &hit.highlights)
        .map(|(field, snippets)| (field.as_str(), snippets[0].as_str()))
        .collect();
    assert_eq!(
        found,
        [("text", "one more <mark>race</mark>, {not malformed"), ("message", "Fix a &lt;<mark>race</mark>&gt;")]
    );
    let plain = searcher.search(SearchRequest { highlight: false, ..request }).await.unwrap().hits;
    assert!(plain.iter().all(|hit| hit.highlights.is_empty()));
}

#[tokio::test]
async fn what_was_written_can_be_waited_for() {
    let index = TestIndex::new().await;
    let searcher = searcher(&index, true);
    searcher.refresh_manifest().await.unwrap();
    let written = token(7, 7);
    let missing = searcher.wait_for(written, Duration::from_millis(20)).await.unwrap_err();
    assert!(matches!(missing, SearchError::NotVisible { .. }), "{missing}");
    index.write_entry(written, "no payload that anybody knows: {").await;
    searcher.wait_for(written, Duration::from_secs(90)).await.unwrap();
    let entry = searcher.entry(written).await.unwrap();
    assert!(!entry.sealed);
    assert_eq!(entry.ops[0].hit.outcome, Outcome::Pending);
}

#[tokio::test]
async fn a_correction_replaces_what_it_corrects() {
    let mut index = TestIndex::new().await;
    let searcher = searcher(&index, false);
    let mut aborted =
        OperationRecord { kind: OperationKind::Label, entity: Some("label/a/b".to_owned()), ..plain(token(1, 1)) };
    aborted.decision.outcome = Outcome::Aborted;
    let mut committed = aborted.clone();
    committed.decision.outcome = Outcome::Committed;
    index.publish(vec![aborted.clone(), plain(token(2, 1))]).await;
    searcher.refresh_manifest().await.unwrap();
    let request = EntityRequest { key: "label/a/b".to_owned(), size: page(10), cursor: None };
    assert_eq!(searcher.entity(request.clone()).await.unwrap().current, None);
    index.publish(vec![committed]).await;
    searcher.refresh_manifest().await.unwrap();
    let entity = searcher.entity(request).await.unwrap();
    assert_eq!((entity.total, entity.history.len()), (1, 1));
    assert_eq!(entity.current.as_ref(), entity.history.first().map(|step| &step.hit));
    assert!(entity.history[0].hit.current);
    let entry = searcher.entry(aborted.token).await.unwrap();
    assert_eq!(entry.ops.len(), 1);
    assert_eq!(entry.ops[0].corrected[0].outcome, Outcome::Aborted);
    assert_eq!(searcher.status().unwrap().entries.aborted, 0);
}

#[tokio::test]
async fn a_history_says_what_each_operation_did_and_how_long_after_the_one_before() {
    let mut index = TestIndex::new().await;
    let searcher = searcher(&index, false);
    let step = |second: u64, action: &str, outcome| {
        let payload = serde_json::json!({ "attributes": { "action": action } });
        let mut record = OperationRecord { entity: Some("entry/job/7".to_owned()), payload, ..plain(token(second, 1)) };
        record.decision.outcome = outcome;
        record
    };
    let life = [
        step(1, "received", Outcome::Committed),
        step(5, "started", Outcome::Committed),
        step(7, "failed", Outcome::Aborted),
        step(65, "completed", Outcome::Committed),
    ];
    index.publish(life.to_vec()).await;
    searcher.refresh_manifest().await.unwrap();
    let expected = [("completed", Some(60)), ("failed", None), ("started", Some(4)), ("received", None)];
    for size in 1..=5 {
        let (mut cursor, mut found, mut pages) = (None, Vec::new(), 0);
        loop {
            let request = EntityRequest { key: "entry/job/7".to_owned(), size: page(size), cursor };
            let answer = searcher.entity(request).await.unwrap();
            assert!(answer.total == 4 && answer.history.len() <= size);
            let steps = answer.history.iter();
            found.extend(steps.map(|step| (step.action.clone().unwrap(), step.seconds_since_previous)));
            (cursor, pages) = (answer.next, pages + 1);
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(pages, 4_usize.div_ceil(size), "pages of {size}");
        // On pages of one the step before the last committed one is aborted, and what lies behind it is not looked for.
        let known = |(action, seconds): (&'static str, Option<u64>)| {
            (action.to_owned(), seconds.filter(|_| size > 1 || action != "completed"))
        };
        assert_eq!(found, expected.map(known), "pages of {size}");
    }
}

/// Tokens that differ in their last bytes only.
fn alike(end: u8) -> Token {
    let mut bytes = *token(1, 1).as_bytes();
    bytes[19] = end;
    Token::from_bytes(bytes)
}

#[tokio::test]
async fn pages_are_in_the_order_of_whole_tokens() {
    let mut index = TestIndex::new().await;
    for ends in [[3, 1], [2, 9], [0, 5]] {
        index.publish(ends.map(|end| plain(alike(end))).to_vec()).await;
    }
    let searcher = searcher(&index, false);
    searcher.refresh_manifest().await.unwrap();
    for (sort, wanted) in [(SortOrder::Oldest, [0, 1, 2, 3, 5, 9]), (SortOrder::Newest, [9, 5, 3, 2, 1, 0])] {
        let request = SearchRequest { sort, size: page(2), ..SearchRequest::default() };
        let hits = pages(&searcher, &request, async || {}).await;
        let ends: Vec<u8> = hits.iter().map(|hit| hit.token.as_bytes()[19]).collect();
        assert_eq!(ends, wanted);
    }
    let between = SearchRequest { from: Some(alike(2)), to: Some(alike(5)), ..SearchRequest::default() };
    assert_eq!(searcher.search(between).await.unwrap().total, 2);
}

#[tokio::test]
async fn a_cursor_of_a_manifest_that_is_gone_says_so() {
    let mut index = TestIndex::new().await;
    index.publish((0..5).map(|n| plain(token(1, n))).collect()).await;
    let before = searcher(&index, false);
    before.refresh_manifest().await.unwrap();
    let request = SearchRequest { size: page(2), ..SearchRequest::default() };
    let next = before.search(request.clone()).await.unwrap().next;
    index.publish(vec![plain(token(2, 1))]).await;
    let page = SearchRequest { cursor: next, ..request.clone() };
    // Another replica never opened that manifest: it reads it from the catalog.
    let replica = searcher(&index, false);
    replica.refresh_manifest().await.unwrap();
    let answer = replica.search(page.clone()).await.unwrap();
    assert_eq!((answer.total, answer.hits.len()), (5, 2));
    let manifest = answer.index_version.manifest;
    let newest = index.writer_lease.manifest().number;
    index.chain.chain().set_boundary(newest - 1).await.unwrap();
    let late = searcher(&index, false);
    late.refresh_manifest().await.unwrap();
    // So does the replica that has it open still: what only that manifest names may be deleted next.
    for replica in [late, replica] {
        let error = replica.search(page.clone()).await.unwrap_err();
        assert!(matches!(&error, SearchError::Gone { detail } if detail.contains(&manifest.to_string())), "{error}");
    }
}

#[tokio::test]
async fn before_its_index_is_open_a_search_refuses_every_request() {
    let searcher = IndexSearcher::default();
    let refused = [
        searcher.search(SearchRequest::default()).await.unwrap_err(),
        searcher.entry(token(1, 1)).await.unwrap_err(),
        searcher.entity(EntityRequest { key: "label/x/y".to_owned(), size: page(1), cursor: None }).await.unwrap_err(),
        searcher.wait_for(token(1, 1), Duration::from_secs(9)).await.unwrap_err(),
    ];
    for error in refused {
        assert!(matches!(&error, SearchError::NotReady { detail } if *detail == searcher.not_ready()), "{error}");
    }
    assert!(searcher.status().is_none() && searcher.failures().is_empty());
}

#[tokio::test]
async fn only_a_search_that_finds_nothing_has_notes() {
    let mut index = TestIndex::new().await;
    index.publish(vec![OperationRecord { message: Some("team:core".to_owned()), ..plain(token(1, 1)) }]).await;
    let searcher = searcher(&index, false);
    searcher.refresh_manifest().await.unwrap();
    for (text, total, notes) in [("team:core", 1, 0), ("team:data", 0, 1), ("nothing", 0, 0)] {
        for sort in [SortOrder::Newest, SortOrder::Relevance] {
            let request = SearchRequest { query: query(text), sort, ..SearchRequest::default() };
            let answer = searcher.search(request).await.unwrap();
            assert_eq!((answer.total, answer.notes.len()), (total, notes), "{text}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_with_a_reason() {
    let mut index = TestIndex::new().await;
    let searcher = searcher(&index, false);
    let early = searcher.search(SearchRequest::default()).await.unwrap_err();
    assert!(matches!(early, SearchError::NotReady { .. }), "{early}");
    index.publish(vec![plain(token(1, 1))]).await;
    searcher.refresh_manifest().await.unwrap();
    for text in ["clientTime:>5", "payload.a:x]", "reop:x", "(", "size:x", "message:[a TO b]^", "repo:/x.*/"] {
        let request = SearchRequest { query: query(text), ..SearchRequest::default() };
        match searcher.search(request).await {
            Err(SearchError::Invalid { parameter: "q", .. }) => {}
            other => panic!("{text}: {other:?}"),
        }
    }
    let request = SearchRequest { cursor: Some("x".to_owned()), ..SearchRequest::default() };
    let error = searcher.search(request).await.unwrap_err();
    assert!(matches!(error, SearchError::Invalid { parameter: "cursor", .. }), "{error}");
    assert!(matches!(searcher.entry(token(9, 9)).await.unwrap_err(), SearchError::NotFound { .. }));
    let request = EntityRequest { key: "label/x/y".to_owned(), size: page(1), cursor: None };
    assert!(matches!(searcher.entity(request).await.unwrap_err(), SearchError::NotFound { .. }));
    assert_eq!(instant(StoreSecond::from_unix(BEGIN + 2)), searcher.status().unwrap().index_version.watermark);
}

#[tokio::test]
async fn the_tail_takes_no_more_memory_than_it_may() {
    let index = TestIndex::new().await;
    let bytes = 40 << 10;
    let options = FollowerOptions { overlay_bytes: bytes, ..FollowerOptions::default() };
    let searcher = searcher_with(&index, true, &options);
    for n in 0..600 {
        index.write_entry(token(5, n), "bundles/red/1/bundle.yaml").await;
    }
    searcher.refresh_manifest().await.unwrap();
    for _ in 0..2 {
        searcher.refresh_tail().await.unwrap();
        let overlay = searcher.status().unwrap().overlay.unwrap();
        assert!(overlay.bytes <= bytes && overlay.documents > 0, "{overlay:?}");
        assert_eq!(overlay.documents + overlay.left_out, 600);
    }
}

#[tokio::test]
async fn what_the_tail_has_no_room_for_is_the_oldest_and_answers_count_it() {
    let mut index = TestIndex::new().await;
    let options = FollowerOptions { overlay_documents: 10, ..FollowerOptions::default() };
    let searcher = searcher_with(&index, true, &options);
    for second in (2..=30).step_by(2) {
        index.write_entry(token(second, 1), "bundles/red/1/bundle.yaml").await;
    }
    searcher.refresh_manifest().await.unwrap();
    searcher.refresh_tail().await.unwrap();
    let found = async || {
        let answer = searcher.search(SearchRequest { size: page(100), ..SearchRequest::default() }).await.unwrap();
        let pending = answer.hits.iter().filter(|hit| !hit.sealed);
        (pending.map(|hit| hit.token).collect::<Vec<_>>(), answer.left_out)
    };
    let newest =
        |from: u64, step: usize| (from..=30).rev().step_by(step).map(|second| token(second, 1)).collect::<Vec<_>>();
    assert_eq!(found().await, (newest(12, 2), 5));
    // Those that a listing of the last seconds shows.
    for second in (17..=29).step_by(2) {
        index.write_entry(token(second, 1), "bundles/red/1/bundle.yaml").await;
    }
    searcher.refresh_tail().await.unwrap();
    assert_eq!(found().await, (newest(21, 1), 12));
    index.publish((1..=25).map(|second| plain(token(second, 1))).collect()).await;
    searcher.refresh_manifest().await.unwrap();
    assert_eq!(found().await, (newest(26, 1), 0));
}

#[tokio::test]
async fn an_entry_that_the_tail_has_left_out_shows_when_a_request_names_it() {
    let index = TestIndex::new().await;
    let options = FollowerOptions { overlay_documents: 3, ..FollowerOptions::default() };
    let searcher = searcher_with(&index, true, &options);
    for second in 1..=10 {
        index.write_entry(token(second, 1), "bundles/red/1/bundle.yaml").await;
    }
    searcher.refresh_manifest().await.unwrap();
    searcher.refresh_tail().await.unwrap();
    let oldest = token(1, 1);
    assert!(searcher.entry(oldest).await.is_err());
    searcher.wait_for(oldest, Duration::from_secs(90)).await.unwrap();
    for second in 11..=20 {
        index.write_entry(token(second, 1), "bundles/red/1/bundle.yaml").await;
        searcher.refresh_tail().await.unwrap();
        assert!(!searcher.entry(oldest).await.unwrap().sealed);
    }
    let answer = searcher.search(SearchRequest::default()).await.unwrap();
    let shown: Vec<Token> = answer.hits.iter().map(|hit| hit.token).collect();
    assert_eq!((shown, answer.left_out), (vec![token(20, 1), token(19, 1), oldest], 17));
}

#[tokio::test]
async fn the_tail_reads_no_more_than_it_has_room_for() {
    let mut index = TestIndex::new().await;
    let (store, mut read) = (MeteredStore::default(), 0);
    index.log.entries = store.store();
    let options = FollowerOptions { overlay_bytes: 8 << 20, ..FollowerOptions::default() };
    let searcher = searcher_with(&index, true, &options);
    let operations = format!("{{\"tidemark\":1,\"ops\":[{}{{}}]}}", "{},".repeat(999)).leak();
    for second in 1..=60 {
        index.write_entry(token(second, 1), operations).await;
    }
    searcher.refresh_manifest().await.unwrap();
    for _ in 0..3 {
        searcher.refresh_tail().await.unwrap();
        let overlay = searcher.status().unwrap().overlay.unwrap();
        assert!((1000..8000).contains(&overlay.documents), "{overlay:?}");
        // Those that fit, and those whose reading begins while the first ones are read.
        read += store.take_counts().requests;
        assert!(read <= 8 + 2 * 16, "{read} entries were read for {overlay:?}");
    }
}

/// The rule of design section 2: a panic while one entry is read is that entry's fault alone.
#[tokio::test]
async fn an_entry_whose_reading_panics_hides_no_other_and_ends_nothing() {
    let mut index = TestIndex::new().await;
    let tokens = [1, 2, 3].map(|second| token(second, 1));
    let store = MeteredStore::default();
    store.panic_at(&tokens[1].to_string());
    index.log.entries = store.store();
    let searcher = searcher(&index, true);
    for token in tokens {
        index.write_entry(token, "bundles/red/1/bundle.yaml").await;
    }
    searcher.refresh_manifest().await.unwrap();
    for _ in 0..3 {
        let _failure_of_one_entry = searcher.refresh_tail().await;
        let request = SearchRequest { sort: SortOrder::Oldest, ..SearchRequest::default() };
        let hits = searcher.search(request).await.unwrap().hits;
        assert_eq!(hits.iter().map(|hit| hit.token).collect::<Vec<_>>(), [tokens[0], tokens[2]]);
        let missing = searcher.wait_for(tokens[1], Duration::from_millis(20)).await.unwrap_err();
        assert!(matches!(missing, SearchError::NotVisible { .. }), "{missing}");
    }
}

#[tokio::test]
async fn while_the_index_is_far_behind_the_tail_leaves_the_gap_to_it() {
    let mut index = TestIndex::new().await;
    let searcher = searcher(&index, true);
    let tokens = [1, 10, 98_000, 98_990, 100_000].map(|second| token(second, 1));
    for token in tokens {
        index.write_entry(token, "bundles/red/1/bundle.yaml").await;
    }
    let found = async || {
        searcher.refresh_manifest().await.unwrap();
        searcher.refresh_tail().await.unwrap();
        let request = SearchRequest { sort: SortOrder::Oldest, ..SearchRequest::default() };
        let hits = searcher.search(request).await.unwrap().hits;
        hits.iter().map(|hit| (hit.token, hit.sealed)).collect::<Vec<_>>()
    };
    index.publish(vec![plain(tokens[0])]).await;
    assert_eq!(found().await, [(tokens[0], true), (tokens[4], false)]);
    let status = searcher.status().unwrap();
    assert!(status.problems.iter().any(|problem| problem.contains("are indexed")), "{:?}", status.problems);
    assert!(status.lag_seconds > 90_000);
    let missing = searcher.wait_for(tokens[1], Duration::from_millis(20)).await.unwrap_err();
    assert!(matches!(missing, SearchError::NotVisible { .. }), "{missing}");
    index.publish(vec![plain(tokens[1])]).await;
    assert_eq!(found().await, [(tokens[0], true), (tokens[1], true), (tokens[4], false)]);
    searcher.wait_for(tokens[1], Duration::from_secs(90)).await.unwrap();
    index.publish(vec![plain(tokens[2])]).await;
    assert_eq!(found().await.len(), 4);
    index.publish(vec![plain(token(98_900, 7))]).await;
    let all: Vec<Token> = found().await.into_iter().map(|(token, _)| token).collect();
    assert_eq!(all, [tokens[0], tokens[1], tokens[2], token(98_900, 7), tokens[3], tokens[4]]);
    assert_eq!(searcher.status().unwrap().problems, Vec::<String>::new());
}

#[tokio::test]
async fn a_cursor_of_another_index_is_refused() {
    let (mut one, mut other) = (TestIndex::new().await, TestIndex::new().await);
    one.publish((0..5).map(|n| plain(token(1, n))).collect()).await;
    other.publish((0..5).map(|n| plain(token(2, n))).collect()).await;
    let (first, second) = (searcher(&one, false), searcher(&other, false));
    first.refresh_manifest().await.unwrap();
    second.refresh_manifest().await.unwrap();
    let request = SearchRequest { size: page(2), ..SearchRequest::default() };
    let next = first.search(request.clone()).await.unwrap().next;
    let page = SearchRequest { cursor: next, ..request };
    assert_eq!(first.search(page.clone()).await.unwrap().hits.len(), 2);
    let error = second.search(page).await.unwrap_err();
    assert!(matches!(&error, SearchError::Invalid { parameter: "cursor", detail } if detail.contains("another index")));
}

#[tokio::test]
async fn a_missing_segment_is_the_stores_fault_and_named() {
    let mut index = TestIndex::new().await;
    index.publish(vec![plain(token(1, 1))]).await;
    let key = index.manifest().segments[0].key.clone();
    index.store.delete(std::slice::from_ref(&key)).await.unwrap();
    let engine = Arc::new(index.another_engine(1 << 20));
    let follower = IndexFollower::new(engine, index.chain.clone(), None, &FollowerOptions::default()).unwrap();
    let error = follower.refresh_manifest().await.unwrap_err();
    assert!(matches!(&error, SearchError::Storage { detail, .. } if detail.contains(&key)), "{error}");
}

/// `count` records from `second` on whose messages have `shortest..longest` words, the same for the same numbers.
fn worded(second: u64, count: u32, shortest: u64, longest: u64) -> Vec<OperationRecord> {
    const WORDS: [&str; 12] =
        ["horizon", "map", "map", "genome", "clock", "ledger", "ledger", "ledger", "price", "x", "y", "z"];
    let mut state = second + 1;
    let mut next = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let records = (0..count).map(|n| {
        let mut record = plain(token(second + u64::from(n) / 100, n));
        let length = shortest + next(longest - shortest);
        let words: Vec<&str> = (0..length).map(|_| WORDS[usize::try_from(next(12)).unwrap()]).collect();
        let rare = if n % 500 == 7 { " rare" } else { "" };
        record.message = Some(words.join(" ") + rare);
        record
    });
    records.collect()
}

#[tokio::test]
async fn pages_of_any_size_are_the_same_order_in_segments_of_any_kind() {
    let mut index = TestIndex::new().await;
    let searcher = searcher(&index, false);
    // Segments whose fields have other mean lengths than the index has, and one of more documents than are summed at once.
    for (second, count, shortest, longest) in [(0, 9000, 1, 4), (90, 1500, 30, 60), (110, 1500, 1, 60), (130, 40, 2, 9)]
    {
        index.publish(worded(second, count, shortest, longest)).await;
    }
    searcher.refresh_manifest().await.unwrap();
    let request = |text: &str, size: usize| SearchRequest {
        query: query(text),
        sort: SortOrder::Relevance,
        size: page(size),
        facets: Vec::new(),
        histogram: false,
        ..SearchRequest::default()
    };
    // Dense and dense, dense and sparse, and without what is sparse or dense.
    // A phrase with room for edits is Tantivy's, and so is what is beside it.
    let scanned = |text: &str| request(&format!("({text}) OR \"no such phrase\"~1"), 1000);
    for text in [
        "horizon map",
        "ledger rare",
        "rare OR clock rare",
        "clock -rare",
        "rare -ledger",
        "price -(rare OR map)",
        "\"clock price\"",
        "\"clock price\" OR rare",
        "\"horizon map\" AND ledger",
        "genome AND \"ledger map\"",
        "ledger -\"clock price\"",
        "\"map ledger\" -\"clock price\"",
    ] {
        let words = searcher.search(request(text, 1000)).await.unwrap();
        let scanned = searcher.search(scanned(text)).await.unwrap();
        assert!(words.total > 5, "{text}: {}", words.total);
        assert_eq!(words.total, scanned.total, "{text}");
        for (hit, other) in words.hits.iter().zip(&scanned.hits) {
            let (score, other) = (hit.score.unwrap(), other.score.unwrap());
            assert!((score - other).abs() < 1e-4, "{text}: {score} {other}");
        }
    }
    for text in ["horizon", "genome OR map OR price", "ledger OR (x OR nosuchword)", "plain OR clock"] {
        let whole = searcher.search(request(text, 1000)).await.unwrap();
        let words: Vec<&str> = text.split([' ', '(', ')']).filter(|word| !["OR", ""].contains(word)).collect();
        let has = |record: &&OperationRecord| {
            let message = record.message.clone().unwrap_or_default();
            message.split(' ').any(|word| words.contains(&word))
        };
        assert_eq!(whole.total, index.standing().filter(has).count() as u64, "{text}");
        assert!(whole.total > 1000 && whole.next.is_some(), "{text}: {}", whole.total);
        let ranks = whole.hits.windows(2).all(|pair| (pair[0].score, pair[0].seq) > (pair[1].score, pair[1].seq));
        assert!(ranks, "{text}");
        let mut small = request(text, 7);
        let mut paged = Vec::new();
        while paged.len() < 210 {
            let answer = searcher.search(small.clone()).await.unwrap();
            assert_eq!(answer.total, whole.total, "{text}");
            paged.extend(answer.hits);
            small.cursor = Some(answer.next.unwrap());
        }
        let keys = |hits: &[SearchHit]| hits.iter().map(|hit| (hit.seq, hit.score)).collect::<Vec<_>>();
        assert_eq!(keys(&paged), keys(&whole.hits[..210]), "{text}");
        let counted = SearchRequest { facets: vec![FacetField::Kind], histogram: true, ..request(text, 50) };
        let counted = searcher.search(counted).await.unwrap();
        assert_eq!(keys(&counted.hits), keys(&whole.hits[..50]), "{text}");
        assert_eq!(counted.histogram.iter().map(|bucket| bucket.count).sum::<u64>(), whole.total);
        // The page has what one scan of everything has; the last bits of a sum may differ.
        let scanned = searcher.search(scanned(text)).await.unwrap();
        for (hit, other) in whole.hits.iter().zip(&scanned.hits) {
            let (score, other) = (hit.score.unwrap(), other.score.unwrap());
            assert!((score - other).abs() < 1e-4, "{text}: {score} {other}");
        }
        assert_eq!(scanned.total, whole.total, "{text}");
    }
}

#[tokio::test]
async fn prefixes_are_found_in_segments_on_the_disk_in_segments_read_by_ranges_and_in_the_tail() {
    let mut index = TestIndex::new().await;
    for second in 1..4 {
        let record = |n: u32| OperationRecord {
            message: Some(format!(
                "migrating x{second}y{n} and {}",
                if n.is_multiple_of(2) { "roll back" } else { "nothing" }
            )),
            ..plain(token(second, n))
        };
        index.publish((0..300).map(record).collect()).await;
    }
    for n in 0..2 {
        index.write_entry(token(9, n), "bundles/migrants/1/bundle.yaml").await;
    }
    for remote in [false, true] {
        if remote {
            index.engine = Arc::new(index.another_engine(1));
        }
        let searcher = searcher(&index, true);
        searcher.refresh_manifest().await.unwrap();
        searcher.refresh_tail().await.unwrap();
        for (text, wanted) in [
            ("migrati*", 900),
            ("migra*", 902),
            ("repo:mig*", 2),
            ("x2y1*", 111),
            ("x?y29?", 33),
            ("x3y299~1", 24),
            ("\"roll ba\"*", 450),
            ("x1y29* AND back", 5),
        ] {
            for sort in [SortOrder::Newest, SortOrder::Relevance] {
                let request = SearchRequest { query: query(text), sort, size: page(7), ..SearchRequest::default() };
                let answer = searcher.search(request).await.unwrap();
                assert_eq!(
                    (answer.total, answer.hits.len()),
                    (wanted, 7.min(usize::try_from(wanted).unwrap())),
                    "{text} {remote}"
                );
            }
        }
    }
}

#[tokio::test]
async fn hits_go_by_the_clients_time_and_those_without_one_come_last() {
    let mut index = TestIndex::new().await;
    let at =
        |n: u32, second: Option<u64>| OperationRecord { client_time: second.map(client_time), ..plain(token(1, n)) };
    let absurd = OperationRecord { client_time: "0001-01-02T00:00:00Z".parse().ok(), ..plain(token(1, 8)) };
    index.publish(vec![at(0, Some(500)), at(1, None), at(2, Some(900)), at(3, Some(500))]).await;
    index.publish(vec![at(4, None), at(5, Some(901)), at(6, Some(0)), absurd]).await;
    let searcher = searcher(&index, true);
    searcher.refresh_manifest().await.unwrap();
    let found = async |sort: SortOrder, size: usize| {
        let request = SearchRequest { sort, size: page(size), ..SearchRequest::default() };
        let hits = pages(&searcher, &request, async || {}).await;
        hits.iter().map(|hit| u32::from(hit.token.as_bytes()[7])).collect::<Vec<u32>>()
    };
    for size in [1, 3, 100] {
        assert_eq!(found(SortOrder::ClientTime, size).await, [5, 2, 3, 0, 6, 8, 4, 1]);
        assert_eq!(found(SortOrder::ClientTimeOldest, size).await, [8, 6, 0, 3, 2, 5, 1, 4]);
    }
    let request = SearchRequest { histogram_by: HistogramTime::ClientTime, ..SearchRequest::default() };
    let answer = searcher.search(SearchRequest { query: query("clientTime:>1960"), ..request.clone() }).await.unwrap();
    let counts: Vec<u64> = answer.histogram.iter().map(|bucket| bucket.count).filter(|count| *count > 0).collect();
    assert_eq!((answer.total, counts), (5, vec![1, 2, 2]));
    assert_eq!(searcher.search(request).await.unwrap().histogram.iter().map(|bucket| bucket.count).sum::<u64>(), 6);
}

#[tokio::test]
async fn any_attribute_is_counted_by_its_whole_values_and_a_value_narrows_to_as_many() {
    let mut index = TestIndex::new().await;
    let of = |n: u32, attributes: serde_json::Value| OperationRecord {
        payload: serde_json::json!({ "attributes": attributes }),
        descriptor: serde_json::json!({ "stage": format!("s{}", n % 2) }),
        ..plain(token(1, n))
    };
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    index
        .publish(vec![
            of(0, json(r#"{"team": "core", "n": 7, "ok": true, "at": "2026-11-20T10:00:00Z", "a\\b": "x"}"#)),
            of(1, json(r#"{"team": "the core", "n": "7", "ok": false, "build number": 3}"#)),
            of(2, json(r#"{"team": "core", "n": 7.5, "ok": "true"}"#)),
        ])
        .await;
    // A segment where the attribute has other types.
    index.publish(vec![of(3, json(r#"{"team": 7, "n": -1}"#)), of(4, json(r#"{"team": ["core", "Core"]}"#))]).await;
    let searcher = searcher(&index, true);
    index.write_entry(token(9, 1), r#"{"tidemark": 1, "attributes": {"team": "core"}, "ops": [{}]}"#).await;
    searcher.refresh_manifest().await.unwrap();
    searcher.refresh_tail().await.unwrap();
    let names = [
        "payload.attributes.team",
        "payload.attributes.n",
        "payload.attributes.ok",
        "payload.attributes.at",
        "payload.attributes.build number",
        "payload.attributes.a\\b",
        "payload.nosuch.attribute",
        "payload.attributes",
        "descriptor.stage",
    ];
    let attribute_facets = names.iter().map(|name| AttributeName::new(name).unwrap()).collect::<Vec<_>>();
    for sort in SORTS {
        let request = SearchRequest { sort, attribute_facets: attribute_facets.clone(), ..SearchRequest::default() };
        let answer = searcher.search(request).await.unwrap();
        let counts = |name: &str| {
            let found = answer.facets[name].iter().map(|count| (count.value.as_str(), count.count));
            found.collect::<Vec<_>>()
        };
        assert_eq!(counts(names[0]), [("core", 4), ("7", 1), ("Core", 1), ("the core", 1)]);
        assert_eq!(counts(names[1]), [("7", 2), ("-1", 1), ("7.5", 1)]);
        assert_eq!(counts(names[2]), [("true", 2), ("false", 1)]);
        assert_eq!(counts(names[3]), [("2026-11-20T10:00:00Z", 1)]);
        assert_eq!((counts(names[4]), counts(names[5])), (vec![("3", 1)], vec![("x", 1)]));
        assert_eq!((counts(names[6]), counts(names[7])), (vec![], vec![]));
        assert_eq!(counts(names[8]), [("s0", 3), ("s1", 2)]);
        assert_eq!(answer.facets["outcome"].len(), 2);
    }
    let request = SearchRequest { attribute_facets, ..SearchRequest::default() };
    let answer = searcher.search(request).await.unwrap();
    // Comparisons do not reach names with a backslash, which Tantivy takes for an escape.
    for (name, counts) in answer.facets.iter().filter(|(name, _)| name.contains('.') && !name.contains('\\')) {
        for FacetCount { value, count } in counts {
            let name = name.replace(' ', "\\ ");
            let narrow = query(&format!("{name}:[\"{value}\" TO \"{value}\"]"));
            let narrowed = searcher.search(SearchRequest { query: narrow.clone(), ..SearchRequest::default() }).await;
            assert_eq!(narrowed.unwrap().total, *count, "{narrow:?}");
        }
    }
    let none = SearchRequest { query: query("nosuchword"), ..SearchRequest::default() };
    let attribute_facets = vec![AttributeName::new("payload.a").unwrap()];
    let answer = searcher.search(SearchRequest { attribute_facets, ..none }).await.unwrap();
    assert_eq!(answer.facets["payload.a"], []);
}

#[tokio::test]
async fn an_attribute_of_very_many_values_is_counted_by_its_most_frequent_ones() {
    let mut index = TestIndex::new().await;
    let of = |n: u32, id: u32| OperationRecord {
        payload: serde_json::json!({ "id": format!("i{id}") }),
        ..plain(token(1, n))
    };
    index.publish((0..3000).map(|n| of(n, n)).chain((3000..3100).map(|n| of(n, n % 20))).collect()).await;
    let searcher = searcher(&index, false);
    searcher.refresh_manifest().await.unwrap();
    let attribute = |n: usize| AttributeName::new(&format!("payload.id{}", "x".repeat(n))).unwrap();
    let request =
        SearchRequest { facets: Vec::new(), attribute_facets: vec![attribute(0)], ..SearchRequest::default() };
    let counts = searcher.search(request.clone()).await.unwrap().facets.remove("payload.id").unwrap();
    assert_eq!(counts.len(), 50);
    assert!(counts[..20].iter().all(|count| count.count == 6) && counts[20..].iter().all(|count| count.count == 1));
    let request = SearchRequest { attribute_facets: (0..11).map(attribute).collect(), ..request };
    let error = searcher.search(request).await.unwrap_err();
    assert!(matches!(error, SearchError::Invalid { parameter: "facets", .. }), "{error}");
}

fn bundle(n: u32, id: &str, parents: &[&str]) -> OperationRecord {
    OperationRecord {
        kind: OperationKind::Bundle,
        repo: Some("red".to_owned()),
        bundle: Some(id.to_owned()),
        entity: Some(format!("bundle/red/{id}")),
        message: Some(format!("made {id}")),
        descriptor: serde_json::json!({ "parents": parents }),
        ..plain(token(1, n))
    }
}

async fn lineage(searcher: &TestSearcher, id: &str, depth: u8) -> Result<LineageAnswer, SearchError> {
    let depth = LineageDepth::new(depth).unwrap();
    searcher.lineage(LineageRequest { repo: "red".to_owned(), bundle: id.to_owned(), depth }).await
}

/// Ids with their levels, and edges as `parent>child`, both sorted.
fn drawn(answer: &LineageAnswer) -> (Vec<String>, Vec<String>) {
    let id = |key: &str| key.strip_prefix("bundle/red/").unwrap().to_owned();
    let nodes = answer.nodes.iter().map(|node| {
        let mark = if node.known { "" } else { "?" };
        format!("{}{mark}{:+}", id(&node.key), node.level)
    });
    let (mut nodes, mut edges): (Vec<_>, Vec<_>) = (
        nodes.collect(),
        answer.edges.iter().map(|edge| format!("{}>{}", id(&edge.parent), id(&edge.child))).collect(),
    );
    assert_eq!(answer.entity, answer.nodes[0].key);
    nodes.sort();
    edges.sort();
    (nodes, edges)
}

#[tokio::test]
async fn a_lineage_goes_up_to_the_parents_and_down_to_the_children() {
    let mut index = TestIndex::new().await;
    let mut aborted = bundle(9, "d", &[]);
    aborted.decision.outcome = Outcome::Aborted;
    let elsewhere = OperationRecord { repo: Some("green".to_owned()), ..bundle(5, "x", &["c"]) };
    index.publish(vec![bundle(0, "a", &["lost"]), bundle(1, "b", &["a"])]).await;
    index
        .publish(vec![
            bundle(2, "c", &["a", "b"]),
            bundle(3, "d", &["c"]),
            bundle(4, "e", &["d", "a"]),
            elsewhere,
            aborted,
        ])
        .await;
    let searcher = searcher(&index, false);
    searcher.refresh_manifest().await.unwrap();
    let answer = lineage(&searcher, "c", 3).await.unwrap();
    let (nodes, edges) = drawn(&answer);
    assert_eq!(nodes, ["a-1", "b-1", "c+0", "d+1", "e+2", "lost?-2"]);
    assert_eq!(edges, ["a>b", "a>c", "a>e", "b>c", "c>d", "d>e", "lost>a"]);
    assert!(!answer.truncated);
    let first = &answer.nodes[0];
    assert_eq!((first.token, first.message.as_deref()), (Some(token(1, 2)), Some("made c")));
    assert_eq!((first.outcome, first.current), (Some(Outcome::Committed), true));
    // The aborted operation is newer, and is not what the bundle is.
    let d = answer.nodes.iter().find(|node| node.key.ends_with("/d")).unwrap();
    assert_eq!((d.token, d.outcome), (Some(token(1, 3)), Some(Outcome::Committed)));
    let near = lineage(&searcher, "c", 1).await.unwrap();
    assert_eq!(
        (drawn(&near).0, near.truncated),
        (vec!["a-1".to_owned(), "b-1".to_owned(), "c+0".to_owned(), "d+1".to_owned()], true)
    );
    // What others name is a node, though it is not in the index; what nothing knows is none.
    assert_eq!(drawn(&lineage(&searcher, "lost", 1).await.unwrap()).0, ["a+1", "lost?+0"]);
    assert!(matches!(lineage(&searcher, "nowhere", 3).await.unwrap_err(), SearchError::NotFound { .. }));
    assert!(LineageDepth::new(0).is_err() && LineageDepth::new(11).is_err());
}

#[tokio::test]
async fn a_lineage_with_cycles_ends_and_shows_them() {
    let mut index = TestIndex::new().await;
    index
        .publish(vec![
            bundle(0, "a", &["c"]),
            bundle(1, "b", &["a"]),
            bundle(2, "c", &["b"]),
            bundle(3, "d", &["d", "c"]),
        ])
        .await;
    let searcher = searcher(&index, false);
    searcher.refresh_manifest().await.unwrap();
    let answer = lineage(&searcher, "a", 10).await.unwrap();
    assert_eq!(drawn(&answer).1, ["a>b", "b>c", "c>a", "c>d", "d>d"]);
    assert_eq!((answer.nodes.len(), answer.truncated), (4, false));
}

#[tokio::test]
async fn a_lineage_has_a_bounded_number_of_bundles_the_near_ones_first() {
    let mut index = TestIndex::new().await;
    let ids: Vec<String> = (0..300).map(|n| format!("n{n}")).collect();
    let far = bundle(400, "far", &["n299"]);
    let near = ids.iter().zip(0..).map(|(id, n)| bundle(n, id, &["root"]));
    index
        .publish([bundle(401, "root", &["top"]), bundle(402, "top", &[]), far].into_iter().chain(near).collect())
        .await;
    let searcher = searcher(&index, false);
    searcher.refresh_manifest().await.unwrap();
    let answer = lineage(&searcher, "root", 10).await.unwrap();
    assert_eq!((answer.nodes.len(), answer.truncated), (200, true));
    assert_eq!((answer.nodes[1].level, answer.edges.len()), (-1, 199));
    assert!(answer.nodes[2..].iter().all(|node| node.level == 1));
    let one = lineage(&searcher, "top", 1).await.unwrap();
    assert_eq!((drawn(&one).0, one.truncated), (vec!["root+1".to_owned(), "top+0".to_owned()], true));
}

#[tokio::test]
async fn every_child_is_found_however_often_others_were_appended() {
    let mut index = TestIndex::new().await;
    let often = (2..252).map(|n| bundle(n, "often", &["root"]));
    index.publish([bundle(0, "root", &[]), bundle(1, "once", &["root"])].into_iter().chain(often).collect()).await;
    let searcher = searcher(&index, false);
    searcher.refresh_manifest().await.unwrap();
    let answer = lineage(&searcher, "root", 1).await.unwrap();
    assert_eq!(
        (drawn(&answer).0.as_slice(), answer.truncated),
        (&["often+1", "once+1", "root+0"].map(str::to_owned)[..], false)
    );
    let ids: Vec<_> = answer.nodes.iter().map(|node| node.key.as_str()).collect();
    assert_eq!(ids, ["bundle/red/root", "bundle/red/often", "bundle/red/once"], "the newest first");
}

#[tokio::test]
async fn a_lineage_is_cut_off_where_a_bundle_at_its_end_has_another_child() {
    let mut index = TestIndex::new().await;
    let ends = [bundle(0, "a", &[]), bundle(1, "b", &["a"]), bundle(2, "c", &["a"])];
    let back = bundle(3, "a", &["c"]);
    index.publish(ends.into_iter().chain([back]).collect()).await;
    let searcher = searcher(&index, false);
    searcher.refresh_manifest().await.unwrap();
    assert!(!lineage(&searcher, "a", 1).await.unwrap().truncated, "the only child of b and c is shown");
    index.publish(vec![bundle(4, "d", &["b"])]).await;
    searcher.refresh_manifest().await.unwrap();
    assert!(lineage(&searcher, "a", 1).await.unwrap().truncated);
    assert!(!lineage(&searcher, "a", 2).await.unwrap().truncated);
}

#[tokio::test]
async fn a_lineage_shows_what_is_not_sealed_yet() {
    let mut index = TestIndex::new().await;
    index.publish(vec![bundle(0, "1", &[])]).await;
    index.write_entry(token(9, 1), "bundles/red/2/bundle.yaml").await;
    let searcher = searcher(&index, true);
    searcher.refresh_manifest().await.unwrap();
    searcher.refresh_tail().await.unwrap();
    let answer = lineage(&searcher, "2", 1).await.unwrap();
    assert_eq!((answer.nodes[0].outcome, answer.nodes[0].current), (Some(Outcome::Pending), false));
}

async fn exported(searcher: &TestSearcher, request: SearchRequest) -> Vec<SearchHit> {
    let pages: Vec<_> = searcher.export(request).await.unwrap().pages.try_collect().await.unwrap();
    assert!(pages.iter().all(|page| !page.is_empty() && page.len() <= 200));
    pages.concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn an_export_has_every_hit_of_a_search_the_oldest_token_first(history in history(), case in case()) {
        block_on(async {
            let mut index = TestIndex::new().await;
            for batch in history {
                index.publish(batch).await;
            }
            let searcher = searcher(&index, false);
            searcher.refresh_manifest().await.unwrap();
            let whole = SearchRequest { sort: SortOrder::Oldest, size: page(1000), ..case.request.clone() };
            let wanted = searcher.search(whole).await.unwrap().hits;
            prop_assert_eq!(exported(&searcher, case.request).await, wanted);
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn an_export_of_many_scans_stays_on_its_view_and_includes_the_tail() {
    let mut index = TestIndex::new().await;
    for second in 0..3 {
        index.publish((0..4100).map(|n| plain(token(second, n))).collect()).await;
    }
    for n in 0..3 {
        index.write_entry(token(9, n), "bundles/red/1/bundle.yaml").await;
    }
    let searcher = searcher(&index, true);
    searcher.refresh_manifest().await.unwrap();
    searcher.refresh_tail().await.unwrap();
    let mut pages = searcher.export(SearchRequest::default()).await.unwrap().pages;
    let mut hits = pages.try_next().await.unwrap().unwrap();
    // What is published meanwhile, and what is compacted, is of another view.
    index.compact(0..2).await;
    index.publish((0..10).map(|n| plain(token(5, n))).collect()).await;
    searcher.refresh_manifest().await.unwrap();
    while let Some(page) = pages.try_next().await.unwrap() {
        hits.extend(page);
    }
    let wanted = (0..3).flat_map(|second| (0..4100).map(move |n| token(second, n))).chain((0..3).map(|n| token(9, n)));
    assert!(hits.iter().map(|hit| hit.token).eq(wanted));
    assert_eq!(hits.iter().filter(|hit| !hit.sealed).count(), 3);
}

#[tokio::test]
async fn an_export_holds_no_place_of_a_query_between_its_pages_and_few_run_at_once() {
    let mut index = TestIndex::new().await;
    index.publish((0..500).map(|n| plain(token(1, n))).collect()).await;
    let parts = searcher(&index, false);
    let limits = QueryLimits { max_concurrent: 1, admission_timeout: Duration::ZERO, ..QueryLimits::default() };
    let searcher = TestSearcher { searcher: IndexSearcher::new(limits), follower: parts.follower };
    searcher.serve(searcher.follower.clone());
    searcher.refresh_manifest().await.unwrap();
    let mut exports = Vec::new();
    for _ in 0..limits.max_exports {
        let mut pages = searcher.export(SearchRequest::default()).await.unwrap().pages;
        assert_eq!(pages.try_next().await.unwrap().map(|page| page.len()), Some(200));
        exports.push(pages);
    }
    assert_eq!(searcher.search(SearchRequest::default()).await.unwrap().total, 500);
    assert!(matches!(searcher.export(SearchRequest::default()).await, Err(SearchError::Overloaded { .. })));
    exports.pop();
    let refused = SearchRequest { query: query("("), ..SearchRequest::default() };
    assert!(matches!(searcher.export(refused).await, Err(SearchError::Invalid { parameter: "q", .. })));
    assert_eq!(exported(&searcher, SearchRequest::default()).await.len(), 500);
}

//! Changes as answers and as events, and their clients: those that connect again, that are many, or that read nothing.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, BodyDataStream},
    http::{Request, StatusCode, header},
};
use futures::{StreamExt as _, future::join_all};
use regex::Regex;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::{fake::FakeSearch, get, router, send, with_options};
use crate::{
    http::{
        connections::{ConnectionActivity, ConnectionLimits, serve_connection},
        feed_admission::FeedLimits,
        openapi_document,
        server::{HttpServer, ServerOptions},
    },
    metrics::MetricsRegistry,
};
use tidemark_search::SearchError;

/// A stream of events and its client.
struct EventClient {
    body: BodyDataStream,
    text: String,
}

impl EventClient {
    async fn open(router: &Router, uri: &str, last: Option<&str>) -> (StatusCode, Self) {
        let mut request = Request::builder().uri(uri).header(header::ACCEPT, "text/event-stream");
        request = request.header(header::ACCEPT_ENCODING, "gzip");
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status();
        if status == StatusCode::OK {
            assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
            assert_eq!(response.headers().get(header::CONTENT_ENCODING), None, "what is compressed waits for more");
        }
        (status, Self { body: response.into_body().into_data_stream(), text: String::new() })
    }

    /// The next event that is not empty, `None` at the end.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let event = event.to_owned();
                self.text = rest.to_owned();
                return Some(event);
            }
            let part = self.body.next().await?.unwrap();
            self.text.push_str(std::str::from_utf8(&part).unwrap());
        }
    }
}

/// The status and the problem with which events after `last` are refused.
async fn refusal(router: &Router, uri: &str, last: &str) -> (StatusCode, Value) {
    let request = Request::builder().uri(uri).header(header::ACCEPT, "text/event-stream");
    let request = request.header("Last-Event-ID", last).body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let (status, parts) = (response.status(), response.into_body().into_data_stream());
    let parts: Vec<_> = parts.map(Result::unwrap).collect().await;
    (status, serde_json::from_slice(&parts.concat()).unwrap())
}

fn id(event: &str) -> Option<&str> {
    event.lines().find_map(|line| line.strip_prefix("id: "))
}

#[tokio::test]
async fn an_answer_has_changes_and_where_to_go_on() {
    let router = router(FakeSearch::with_entries());
    let first = get(&router, "/v1/changes?limit=4").await.json();
    assert_eq!((first["next"].as_str(), first["more"].as_bool()), (Some("g1:4"), Some(true)));
    assert_eq!(first["changes"][0]["position"], "g1:1");
    assert!(first["changes"][0].get("current").is_none() && first["changes"][0].get("payload").is_none());
    let rest = get(&router, "/v1/changes?from=g1:4&payload=true").await.json();
    assert_eq!((rest["changes"].as_array().unwrap().len(), rest["more"].as_bool()), (5, Some(false)));
    assert_eq!(rest["changes"][0]["payload"]["ok"], true);
}

#[tokio::test]
async fn a_position_of_a_generation_that_was_replaced_says_where_to_start() {
    let router = router(FakeSearch::with_entries());
    let gone = get(&router, "/v1/changes?from=g2:4&q=tide").await;
    assert_eq!((gone.status, gone.header(header::CONTENT_TYPE)), (StatusCode::GONE, "application/problem+json"));
    let problem = gone.json();
    assert_eq!(problem["type"], "urn:tidemark:problem:generation-changed");
    let restart = problem["restart"].as_str().unwrap();
    assert_eq!(restart, "?q=tide&from=g1%3A0");
    assert_eq!(get(&router, &format!("/v1/changes{restart}")).await.status, StatusCode::OK);
    assert_eq!(problem["parameter"], "from");
    let (status, problem) = refusal(&router, "/v1/changes?from=now", "g2:4").await;
    assert_eq!(status, StatusCode::GONE, "an event source does not ask again");
    assert_eq!(problem["parameter"], "Last-Event-ID");
    assert!(problem["detail"].as_str().unwrap().ends_with("start again without it"), "{problem}");
}

#[tokio::test(start_paused = true)]
async fn events_carry_their_positions_and_a_client_connects_again_at_any() {
    let router = router(FakeSearch::with_entries());
    let (_, mut client) = EventClient::open(&router, "/v1/changes", None).await;
    assert_eq!(client.next().await.as_deref(), Some("retry: 2000"));
    for seq in 1..=9 {
        let event = client.next().await.unwrap();
        assert_eq!(id(&event), Some(format!("g1:{seq}").as_str()));
        let data = event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        assert_eq!(serde_json::from_str::<Value>(data).unwrap()["seq"], seq);
    }
    // Where nothing happens there is a sign of life, without data.
    assert_eq!(client.next().await.as_deref(), Some(":\nid: g1:9"));
    for last in 0..9 {
        let (_, mut again) = EventClient::open(&router, "/v1/changes?from=now", Some(&format!("g1:{last}"))).await;
        again.next().await;
        assert_eq!(id(&again.next().await.unwrap()), Some(format!("g1:{}", last + 1).as_str()));
    }
    let (status, problem) = refusal(&router, "/v1/changes", "17").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(problem["parameter"], "Last-Event-ID");
    assert!(problem["detail"].as_str().unwrap().ends_with("start again without it"), "{problem}");
    assert_eq!(send(&router, "HEAD", "/v1/changes").await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_id_of_the_last_event_is_what_the_document_allows() {
    let document = openapi_document();
    let parameters = document["paths"]["/v1/changes"]["get"]["parameters"].as_array().unwrap();
    let header = parameters.iter().find(|parameter| parameter["name"] == "Last-Event-ID").unwrap();
    assert_eq!((&header["in"], &header["required"]), (&"header".into(), &false.into()));
    let pattern = Regex::new(header["schema"]["pattern"].as_str().unwrap()).unwrap();
    let router = router(FakeSearch::with_entries());
    let mut refused = 0;
    for text in ["", "g1:4", "g1:4:0123abcd4567ef89", "g1:04", "g1:4:0123abcd", "g1:4 5", "17", "now", "2026-11-20"] {
        // Also where it means nothing: an answer that is no stream.
        let request = Request::builder().uri("/v1/changes").header("Last-Event-ID", text);
        let answer = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(answer.status() == StatusCode::OK, pattern.is_match(text), "{text:?}");
        refused += u32::from(answer.status() == StatusCode::BAD_REQUEST);
    }
    assert_eq!(refused, 6);
}

#[tokio::test]
async fn what_fails_at_once_is_an_answer_with_a_status() {
    let fails = FakeSearch::failing(SearchError::NotReady { detail: "planted".to_owned() });
    let (status, _) = EventClient::open(&router(fails), "/v1/changes", None).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let bad = get(&router(FakeSearch::with_entries()), "/v1/changes?from=yesterday").await;
    assert_eq!((bad.status.as_u16(), bad.json()["parameter"].as_str()), (400, Some("from")));
}

#[tokio::test(start_paused = true)]
async fn verified_snapshots_are_checkpoints_which_have_no_id() {
    let snapshots = vec![("daily", 2), ("last", 9)];
    let router = router(FakeSearch { snapshots, ..FakeSearch::with_entries() });
    let (daily, last) = (r#"{"checkpoint":"daily","position":"g1:2"}"#, r#"{"checkpoint":"last","position":"g1:9"}"#);
    let answer = get(&router, "/v1/changes?limit=4").await.json();
    assert_eq!(answer["checkpoints"], serde_json::from_str::<Value>(&format!("[{daily}]")).unwrap());
    let (_, mut client) = EventClient::open(&router, "/v1/changes", None).await;
    client.next().await;
    let mut events = Vec::new();
    for _ in 0..11 {
        let event = client.next().await.unwrap();
        events.push(id(&event).map_or(event.clone(), |id| id["g1:".len()..].to_owned()));
    }
    let checkpoint = |data: &str| format!("event: checkpoint\ndata: {data}");
    let mut expected: Vec<_> = (1..=9).map(|seq| seq.to_string()).collect();
    expected.insert(2, checkpoint(daily));
    expected.push(checkpoint(last));
    assert_eq!(events, expected);
    // Once on a connection, although each answer has them.
    for _ in 0..3 {
        assert_eq!(client.next().await.as_deref(), Some(":\nid: g1:9"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_loses_its_stream() {
    let router = router(FakeSearch { export_repeats: 1000, ..FakeSearch::with_entries() });
    let (_, mut reads) = EventClient::open(&router, "/v1/changes", None).await;
    let (_, mut stalls) = EventClient::open(&router, "/v1/changes", None).await;
    // Its third page is the one that it does not take.
    stalls.next().await;
    stalls.next().await;
    for _ in 0..61 {
        // Each part that is taken makes room for the next one.
        reads.body.next().await.unwrap().unwrap();
        sleep(Duration::from_secs(1)).await;
    }
    let mut last = 0;
    while let Some(event) = stalls.next().await {
        last = id(&event).map_or(last, |id| id["g1:".len()..].parse().unwrap());
    }
    assert!(last > 0 && last < 9009, "{last}: what was waiting comes, and then the end");
    // It goes on where it was.
    let (_, mut again) = EventClient::open(&router, "/v1/changes", Some(&format!("g1:{last}"))).await;
    again.next().await;
    assert_eq!(id(&again.next().await.unwrap()), Some(format!("g1:{}", last + 1).as_str()));
}

#[tokio::test(start_paused = true)]
async fn so_many_clients_follow_at_once_and_one_that_leaves_makes_room() {
    let feeds = FeedLimits { clients: 8, ..FeedLimits::default() };
    let router = with_options(FakeSearch::with_entries(), ServerOptions { feeds, ..ServerOptions::default() });
    let mut clients = Vec::new();
    for _ in 0..8 {
        let (status, client) = EventClient::open(&router, "/v1/changes", None).await;
        assert_eq!(status, StatusCode::OK);
        clients.push(client);
    }
    let refused = get(&router, "/v1/changes").await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.text.contains("8 clients follow the changes already"), "{}", refused.text);
    assert_eq!(get(&router, "/v1/search").await.status, StatusCode::OK, "searches have places of their own");
    clients.pop();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(get(&router, "/v1/changes").await.status, StatusCode::OK);
}

/// A service with memory for one answer.
fn with_little_memory(fake: FakeSearch) -> Router {
    let feeds = FeedLimits { answer_bytes: 0, ..FeedLimits::default() };
    with_options(fake, ServerOptions { feeds, ..ServerOptions::default() })
}

/// A client that has sent a request over a connection of its own, and reads nothing.
async fn stalling_client(router: &Router, head: &str) -> DuplexStream {
    let (mut ours, theirs) = duplex(4 * 1024);
    let router = router.clone();
    tokio::spawn(async move {
        let activity = Arc::new(ConnectionActivity::new(CancellationToken::new()));
        serve_connection(theirs, router, &activity, ConnectionLimits::default(), &CancellationToken::new()).await
    });
    ours.write_all(head.as_bytes()).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    ours
}

#[tokio::test(start_paused = true)]
async fn a_thousand_clients_that_wait_hold_no_memory_and_no_place_of_a_search() {
    let router = with_little_memory(FakeSearch::with_entries());
    let mut streams = Vec::new();
    for _ in 0..500 {
        streams.push(EventClient::open(&router, "/v1/changes?from=now", None).await.1);
    }
    let waits: Vec<_> = (0..500)
        .map(|_| {
            let router = router.clone();
            tokio::spawn(async move { get(&router, "/v1/changes?from=g1:9&wait=20").await })
        })
        .collect();
    sleep(Duration::from_secs(1)).await;
    for uri in ["/v1/search", "/v1/changes?from=g1:3"] {
        assert_eq!(get(&router, uri).await.status, StatusCode::OK);
    }
    // Each gets its sign of life, although there is memory for one answer.
    join_all(streams.iter_mut().map(async |stream| {
        assert_eq!(stream.next().await.as_deref(), Some("retry: 2000"));
        for _ in 0..3 {
            assert_eq!(stream.next().await.as_deref(), Some(":\nid: g1:9"));
        }
    }))
    .await;
    for wait in waits {
        let answer = wait.await.unwrap();
        assert_eq!((answer.status, answer.json()["next"].as_str()), (StatusCode::OK, Some("g1:9")));
    }
}

/// An answer that is not taken, over each kind of connection that has one, with the request for it.
#[tokio::test(start_paused = true)]
async fn what_a_client_does_not_take_is_given_back_to_those_who_wait_for_it() {
    for accept in ["text/event-stream", "application/json"] {
        let many = FakeSearch { export_repeats: 1000, ..FakeSearch::with_entries() };
        let router = with_little_memory(many);
        let (_, mut follows) = EventClient::open(&router, "/v1/changes?from=g1:9009", None).await;
        assert_eq!(follows.next().await.as_deref(), Some("retry: 2000"));
        assert_eq!(follows.next().await.as_deref(), Some(":\nid: g1:9009"));
        let began = Instant::now();
        let head = format!("GET /v1/changes?limit=1000 HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n");
        let mut stalls = stalling_client(&router, &head).await;
        // It names what there is not enough of.
        let refused = get(&router, "/v1/changes?limit=1").await;
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused.text.contains("MiB of changes are on their way"), "{}", refused.text);
        assert_eq!(get(&router, "/v1/search").await.status, StatusCode::OK);
        // A little now and then is not enough to keep it.
        let mut taken = vec![0; 1024];
        for _ in 0..4 {
            stalls.read_exact(&mut taken).await.unwrap();
            sleep(Duration::from_secs(10)).await;
        }
        // Who waits for memory is told that it is served, and goes on where it is.
        let mut signs = 0;
        while follows.next().await.unwrap() == ":" {
            signs += 1;
        }
        let waited = began.elapsed().as_secs();
        assert!(signs > 0 && (60..75).contains(&waited), "{accept}: {signs} signs, {waited} s");
        let mut rest = Vec::new();
        stalls.read_to_end(&mut rest).await.unwrap();
        assert!(rest.len() < 128 * 1024, "{accept}: {} bytes came at the end", rest.len());
        assert_eq!(get(&router, "/v1/changes?limit=1").await.status, StatusCode::OK);
    }
}

/// Another client has come meanwhile, and takes nothing.
#[tokio::test(start_paused = true)]
async fn a_request_that_has_waited_for_changes_waits_no_longer_for_memory_than_others() {
    let many = FakeSearch { export_repeats: 1000, ..FakeSearch::with_entries() };
    let router = with_little_memory(many);
    let began = Instant::now();
    let waiting = tokio::spawn({
        let router = router.clone();
        async move { get(&router, "/v1/changes?from=g1:9009&wait=3").await }
    });
    sleep(Duration::from_secs(1)).await;
    let head = "GET /v1/changes?limit=1000 HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\n\r\n";
    let stalls = stalling_client(&router, head).await;
    let refused = waiting.await.unwrap();
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.text.contains("MiB of changes are on their way"), "{}", refused.text);
    let waited = began.elapsed().as_secs();
    assert!((8..10).contains(&waited), "{waited} s");
    drop(stalls);
}

#[tokio::test(start_paused = true)]
async fn streams_and_waits_end_when_the_process_stops() {
    let stop = CancellationToken::new();
    let fake = Arc::new(FakeSearch::with_entries());
    let server = HttpServer::new(fake, MetricsRegistry::new(), ServerOptions::default(), stop.clone()).router();
    let (_, mut client) = EventClient::open(&server, "/v1/changes?from=now", None).await;
    assert_eq!(client.next().await.as_deref(), Some("retry: 2000"));
    assert_eq!(client.next().await.as_deref(), Some(":\nid: g1:9"));
    let began = Instant::now();
    let wait = tokio::spawn({
        let server = server.clone();
        async move { get(&server, "/v1/changes?from=now&wait=20").await }
    });
    sleep(Duration::from_secs(1)).await;
    stop.cancel();
    assert_eq!(client.next().await, None);
    let answer = wait.await.unwrap();
    assert_eq!((answer.status, answer.json()["next"].as_str()), (StatusCode::OK, Some("g1:9")));
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_stream_lasts_an_hour() {
    let (_, mut client) = EventClient::open(&router(FakeSearch::with_entries()), "/v1/changes?from=now", None).await;
    let began = Instant::now();
    while client.next().await.is_some() {}
    let lasted = began.elapsed();
    assert!(lasted >= Duration::from_hours(1) && lasted < Duration::from_secs(3_601), "{lasted:?}");
}

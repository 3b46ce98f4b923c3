//! An export arrives whole or is seen to be broken.

use std::time::Duration;

use axum::{
    body::{Body, to_bytes},
    http::{Request, StatusCode, header},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::{fake::FakeSearch, get, router, send};
use tidemark_search::SearchError;

fn overloaded() -> SearchError {
    SearchError::Overloaded { detail: "planted".to_owned() }
}

fn values(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn an_export_has_a_line_for_each_hit_and_names_what_was_searched() {
    let router = router(FakeSearch::with_entries());
    let answer = get(&router, "/v1/search/export?q=spring&kind=bundle,label&from=2026-01-01").await;
    assert_eq!((answer.status, answer.header(header::CONTENT_TYPE)), (StatusCode::OK, "application/x-ndjson"));
    for (name, value) in
        [("generation", "g1"), ("manifest", "7"), ("position", "g1:9"), ("watermark", "2026-11-20T11:00:00Z")]
    {
        assert_eq!(answer.headers[format!("tidemark-{name}")], value);
    }
    let search = get(&router, "/v1/search?size=100").await.json();
    assert_eq!(Value::from(values(&answer.text)), search["hits"]);
    let empty = get(&super::router(FakeSearch::default()), "/v1/search/export").await;
    assert_eq!((empty.status, empty.text.as_str()), (StatusCode::OK, ""));
    assert_eq!(send(&router, "HEAD", "/v1/search/export").await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_export_takes_filters_and_nothing_of_pages() {
    let router = router(FakeSearch::with_entries());
    for name in ["sort", "size", "cursor", "facets", "histogram_by", "color"] {
        let answer = get(&router, &format!("/v1/search/export?{name}=1")).await;
        assert_eq!((answer.status.as_u16(), answer.json()["parameter"].as_str()), (400, Some(name)));
    }
}

#[tokio::test]
async fn an_export_of_nothing_is_whole_and_empty() {
    let answer = get(&router(FakeSearch::default()), "/v1/search/export").await;
    assert_eq!((answer.status, answer.text.as_str()), (StatusCode::OK, ""));
}

#[tokio::test]
async fn an_export_is_whole_when_it_is_compressed() {
    let request = Request::builder().uri("/v1/search/export").header(header::ACCEPT_ENCODING, "gzip");
    let response = router(FakeSearch::with_entries()).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
    assert!(!to_bytes(response.into_body(), usize::MAX).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_fails_before_the_first_line_is_an_answer_with_a_status() {
    for fails in [
        FakeSearch::failing(overloaded()),
        FakeSearch { export_fails: Some((0, overloaded())), ..FakeSearch::with_entries() },
    ] {
        let answer = get(&router(fails), "/v1/search/export").await;
        assert_eq!((answer.status.as_u16(), answer.json()["detail"].as_str()), (503, Some("planted")));
    }
}

#[tokio::test]
async fn an_export_that_fails_in_the_middle_says_so_and_is_aborted() {
    let fake = FakeSearch { export_fails: Some((2, overloaded())), ..FakeSearch::with_entries() };
    let request = Request::builder().uri("/v1/search/export").body(Body::empty()).unwrap();
    let mut body = router(fake.clone()).oneshot(request).await.unwrap().into_body().into_data_stream();
    let (mut text, mut failed) = (Vec::new(), false);
    while let Some(part) = futures::StreamExt::next(&mut body).await {
        match part {
            Ok(part) => text.extend(part),
            Err(_) => failed = true,
        }
    }
    let lines = values(&String::from_utf8(text).unwrap());
    assert!(failed && lines.len() == 5, "{lines:?}");
    assert_eq!((&lines[4]["error"]["status"], &lines[4]["error"]["detail"]), (&503.into(), &"planted".into()));
    let compressed = Request::builder().uri("/v1/search/export").header(header::ACCEPT_ENCODING, "gzip");
    let answer = router(fake.clone()).oneshot(compressed.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(answer.headers()[header::CONTENT_ENCODING], "gzip");
    assert!(to_bytes(answer.into_body(), usize::MAX).await.is_err());
    // On the wire: no last chunk, unlike in a whole export.
    for (fake, is_whole) in [(fake, false), (FakeSearch::with_entries(), true)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let stop = CancellationToken::new();
        let server = axum::serve(listener, router(fake)).with_graceful_shutdown(stop.clone().cancelled_owned());
        let server = tokio::spawn(server.into_future());
        client.write_all(b"GET /v1/search/export HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        // An abort may be an end or a reset of the connection.
        let _ = client.read_to_end(&mut answer).await;
        assert_eq!(answer.ends_with(b"\r\n0\r\n\r\n"), is_whole, "{}", String::from_utf8_lossy(&answer));
        stop.cancel();
        server.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_export_whose_client_reads_nothing_is_given_up() {
    let fake = FakeSearch { export_repeats: 100, ..FakeSearch::with_entries() };
    let request = || Request::builder().uri("/v1/search/export").body(Body::empty()).unwrap();
    let router = router(fake);
    let slow = router.clone().oneshot(request()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(59)).await;
    let stalled = router.clone().oneshot(request()).await.unwrap();
    assert!(to_bytes(slow.into_body(), usize::MAX).await.is_ok());
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert!(to_bytes(stalled.into_body(), usize::MAX).await.is_err());
}

/// The compressor asks for more after the end.
#[tokio::test]
async fn a_compressed_export_is_whole() {
    for export_repeats in [0, 1, 300] {
        let fake = FakeSearch { export_repeats, ..FakeSearch::with_entries() };
        let request = Request::builder().uri("/v1/search/export").header(header::ACCEPT_ENCODING, "gzip");
        let answer = router(fake).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(answer.headers()[header::CONTENT_ENCODING], "gzip");
        let bytes = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        // The last four bytes of gzip are the length of what was compressed.
        let length = bytes.last_chunk().map(|end| u32::from_le_bytes(*end));
        let plain =
            get(&router(FakeSearch { export_repeats, ..FakeSearch::with_entries() }), "/v1/search/export").await;
        assert_eq!(length, u32::try_from(plain.text.len()).ok());
    }
}

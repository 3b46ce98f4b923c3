//! The service as a client sees it, on a log in memory.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{Request, StatusCode, header},
};
use serde_json::{Value, json};
use tidemark_store::{Entropy, Store};
use tidemark_wal::{Log, LogParameters, LogWriter, LogWriterOptions, ParameterSchedule};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::{AppendLimits, AppendServer};

const LIMITS: AppendLimits = AppendLimits { entries: 4, bytes: 1000 };
const BUNDLE: &str = r#"{"ops": [{"path": "bundles/r/b/bundle.yaml", "body": {"id": "b"}}]}"#;

/// As a client of an address asks for it.
const HOST: &str = "127.0.0.1:7285";

fn get(uri: &str) -> Request<Body> {
    Request::get(uri).header(header::HOST, HOST).body(Body::empty()).unwrap()
}

async fn service(limits: AppendLimits) -> Router {
    let log = Log::over(Store::memory(), vec![Store::memory()]);
    let parameters = Arc::new(ParameterSchedule::constant(LogParameters::with_expiry(Duration::from_mins(10))));
    let options = LogWriterOptions::named("w");
    let writer = LogWriter::open(log, parameters, options, Entropy::seeded(1)).await.unwrap();
    AppendServer::new(writer, true, None, limits, CancellationToken::new()).router(true)
}

fn request(uri: &str, body: impl Into<String>) -> Request<Body> {
    let body = body.into();
    let request = Request::post(uri).header(header::CONTENT_TYPE, "application/json").header(header::HOST, HOST);
    request.header(header::CONTENT_LENGTH, body.len()).body(Body::from(body)).unwrap()
}

/// Status, media type, seconds to wait, and the answer.
async fn send(router: &Router, request: Request<Body>) -> (u16, String, Option<String>, Value) {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let text = |name| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let answer = serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into());
    (parts.status.as_u16(), text(header::CONTENT_TYPE).unwrap_or_default(), text(header::RETRY_AFTER), answer)
}

async fn append(router: &Router, body: &str) -> (u16, Value) {
    let (status, _, _, answer) = send(router, request("/v1/append", body)).await;
    (status, answer)
}

#[tokio::test]
async fn a_draft_is_committed_and_another_of_its_name_is_not() {
    let router = service(LIMITS).await;
    let (status, first) = append(&router, BUNDLE).await;
    assert_eq!((status, &first["outcome"], &first["op"]), (200, &json!("committed"), &json!(0)));
    let (status, media_type, retry, second) = send(&router, request("/v1/append", BUNDLE)).await;
    assert_eq!((status, media_type.as_str(), retry), (409, "application/problem+json", None));
    assert_eq!((&second["type"], &second["outcome"]), (&json!("urn:tidemark:problem:occupied"), &json!("aborted")));
    assert!(second["token"].is_string() && second["detail"].as_str().unwrap().contains("another update"), "{second}");
    // The same draft under the same key is the same update.
    let keyed = BUNDLE.replace("{\"ops\"", "{\"idempotencyKey\": \"k\", \"ops\"").replace("/b/", "/c/");
    let (status, first) = append(&router, &keyed).await;
    assert_eq!((status, append(&router, &keyed).await.1["token"].clone()), (200, first["token"].clone()));
}

#[tokio::test]
async fn a_batch_has_an_answer_for_each_and_ends_at_a_failure() {
    let router = service(LIMITS).await;
    let (status, answers) = append(&router, &format!("[{BUNDLE}, {{\"free\": true}}]")).await;
    assert_eq!((status, answers.as_array().unwrap().len()), (200, 2), "{answers}");
    // The name is taken; the label of that bundle, which names it too, is not moved.
    let label = r#"{"ops": [{"repo": "r", "label": "l", "bundle": "b"}]}"#;
    let (status, answers) = append(&router, &format!("[{{\"free\": true}}, {BUNDLE}, {label}]")).await;
    assert_eq!(status, 409, "{answers}");
    assert_eq!(answers[0]["outcome"], "committed");
    assert_eq!((&answers[1]["outcome"], &answers[1]["status"]), (&json!("aborted"), &json!(409)));
    assert_eq!((&answers[2]["status"], &answers[2]["type"]), (&json!(424), &json!("urn:tidemark:problem:not-begun")));
}

#[tokio::test]
async fn drafts_that_ask_for_it_share_an_entry() {
    let router = service(LIMITS).await;
    let body = r#"[{"a": 1}, {"b": 2}, {"c": 3}]"#;
    let (status, _, _, answers) = send(&router, request("/v1/append?share=true", body)).await;
    assert_eq!(status, 200, "{answers}");
    let tokens: Vec<&Value> = answers.as_array().unwrap().iter().map(|answer| &answer["token"]).collect();
    assert!(tokens.iter().all(|token| *token == tokens[0]), "{answers}");
    let ops: Vec<_> = answers.as_array().unwrap().iter().map(|answer| answer["op"].as_u64().unwrap()).collect();
    assert_eq!(ops, [0, 1, 2]);
    let (status, ..) = send(&router, request("/v1/append?share=true&complete=false", body)).await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn what_cannot_be_appended_is_refused_before_anything_is_written() {
    let router = service(LIMITS).await;
    let post = |name: header::HeaderName, value: &str| {
        let mut request = request("/v1/append", BUNDLE);
        request.headers_mut().insert(name, value.parse().unwrap());
        request
    };
    let without_length = Request::post("/v1/append").header(header::CONTENT_TYPE, "application/json");
    let without_length = without_length.header(header::HOST, HOST);
    let cases = [
        (post(header::ORIGIN, "https://example.org"), 403, "forbidden-origin"),
        (post(header::HOST, "example.org:7285"), 403, "forbidden-host"),
        (post(header::HOST, "127.0.0.1.example.org"), 403, "forbidden-host"),
        (post(header::HOST, "10.0.0.1:7285"), 403, "forbidden-host"),
        (post(header::HOST, ""), 403, "forbidden-host"),
        (Request::get("/metrics").body(Body::empty()).unwrap(), 403, "forbidden-host"),
        (post(header::CONTENT_TYPE, "text/plain"), 415, "unsupported-media-type"),
        (without_length.body(Body::from(BUNDLE)).unwrap(), 411, "length-required"),
        (request("/v1/append", "x".repeat(1001)), 413, "too-large"),
        (request("/v1/append", "[{}, {}, {}, {}, {}]"), 413, "too-large"),
        (request("/v1/append", "[{}, 7]"), 400, "invalid-draft"),
        (request("/v1/append", r#"{"ops": [{"path": "../x", "body": ""}]}"#), 400, "invalid-draft"),
        (request("/v1/append?complete=false", BUNDLE), 400, "invalid-parameter"),
        (request("/v1/append?sync=1", BUNDLE), 400, "unknown-parameter"),
        (request("/v1/append/x/confirm", ""), 400, "invalid-parameter"),
        (request(&format!("/v1/append/{}/confirm", "0".repeat(27)), ""), 404, "no-such-entry"),
        (request("/v1/appends", BUNDLE), 404, "no-such-route"),
        (get("/v1/append"), 405, "method-not-allowed"),
    ];
    for (request, wanted, kind) in cases {
        let (status, media_type, _, problem) = send(&router, request).await;
        assert_eq!((status, media_type.as_str()), (wanted, "application/problem+json"), "{problem}");
        assert_eq!(problem["type"], format!("urn:tidemark:problem:{kind}"));
    }
    // Nobody has the name.
    assert_eq!(append(&router, BUNDLE).await.0, 200);
    for host in ["localhost", "LocalHost:7285", "[::1]:7285", "127.0.0.1"] {
        let mut asked = get("/readyz");
        asked.headers_mut().insert(header::HOST, host.parse().unwrap());
        assert_eq!(send(&router, asked).await.0, 200, "{host}");
    }
}

#[tokio::test]
async fn requests_beyond_the_bytes_in_flight_wait_elsewhere() {
    let router = service(AppendLimits { bytes: 20, ..LIMITS }).await;
    let (sender, chunks) = futures::channel::mpsc::unbounded::<Result<Bytes, std::io::Error>>();
    let slow = Request::post("/v1/append").header(header::CONTENT_TYPE, "application/json");
    let slow =
        slow.header(header::HOST, HOST).header(header::CONTENT_LENGTH, 19).body(Body::from_stream(chunks)).unwrap();
    let reading = tokio::spawn(router.clone().oneshot(slow));
    tokio::task::yield_now().await;
    // Whoever has announced a body and sent none of it keeps nobody out.
    assert_eq!(append(&router, "{}").await.0, 200);
    sender.unbounded_send(Ok(Bytes::from_static(b"nineteen bytes long"))).unwrap();
    let in_flight = async || {
        let (_, _, _, text) = send(&router, get("/metrics")).await;
        text.as_str().unwrap().contains("tidemark_append_in_flight_bytes 19")
    };
    while !in_flight().await {
        tokio::task::yield_now().await;
    }
    let (status, _, retry, problem) = send(&router, request("/v1/append", "{}")).await;
    assert_eq!((status, retry.as_deref()), (429, Some("1")), "{problem}");
    drop(sender);
    assert_eq!(reading.await.unwrap().unwrap().status(), StatusCode::BAD_REQUEST);
    assert_eq!(append(&router, "{}").await.0, 200);
}

#[tokio::test]
async fn the_document_names_every_address_and_figures_are_counted() {
    let router = service(LIMITS).await;
    append(&router, "{}").await;
    append(&router, r#"{"ops": [{"path": "../x", "body": ""}]}"#).await;
    let get = async |uri: &str| send(&router, get(uri)).await;
    let (_, _, _, document) = get("/openapi.json").await;
    let paths: Vec<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let wanted = ["/healthz", "/metrics", "/openapi.json", "/readyz", "/v1/append", "/v1/append/{token}/confirm"];
    assert_eq!(paths, wanted);
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(path).await.0, 200);
    }
    let (_, _, _, figures) = get("/metrics").await;
    let figures = figures.as_str().unwrap();
    for line in [
        "tidemark_append_entries_total{result=\"committed\"} 1",
        "tidemark_append_entries_total{result=\"refused\"} 1",
        "tidemark_append_entries_in_flight 0",
        "tidemark_append_duration_seconds_count 2",
    ] {
        assert!(figures.contains(line), "{figures}");
    }
}

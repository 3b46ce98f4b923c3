//! The server as a client sees it, over a search service that is made up.

mod api;
mod changes;
mod connections;
mod cors;
mod counting_store;
mod document;
mod export;
mod fake;
mod hostile;
#[cfg(feature = "archive")]
mod iceberg;
mod live;
mod pages;
mod socket;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode, header},
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::server::{HttpServer, ServerOptions};
use crate::metrics::MetricsRegistry;
use fake::FakeSearch;

/// A whole answer.
struct TestResponse {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl TestResponse {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

fn router(fake: FakeSearch) -> Router {
    with_options(fake, ServerOptions::default())
}

fn with_options(fake: FakeSearch, options: ServerOptions) -> Router {
    HttpServer::new(Arc::new(fake), MetricsRegistry::new(), options, CancellationToken::new()).router()
}

/// A router that requires a token, with the folder of its file.
fn with_token(fake: FakeSearch, options: ServerOptions, token: &str) -> (Router, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, token).unwrap();
    let server = HttpServer::new(Arc::new(fake), MetricsRegistry::new(), options, CancellationToken::new());
    (server.with_bearer_token(file).router(), folder)
}

async fn send(router: &Router, method: &str, uri: &str) -> TestResponse {
    let request = Request::builder().method(method).uri(uri).body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    TestResponse { status: parts.status, headers: parts.headers, text: String::from_utf8(body.to_vec()).unwrap() }
}

async fn get(router: &Router, uri: &str) -> TestResponse {
    send(router, "GET", uri).await
}

/// Serves the page over made-up entries, for a person to look at.
#[tokio::test]
#[ignore = "serves the page for ten minutes; 'cargo test -p tidemark-indexer look_at_the_page -- --ignored --nocapture' prints its address"]
async fn look_at_the_page() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    eprintln!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let server = HttpServer::new(
        Arc::new(FakeSearch::with_entries()),
        MetricsRegistry::new(),
        ServerOptions::default(),
        stop.clone(),
    );
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_mins(10)).await;
        stop.cancel();
    });
    server.run(listener).await;
}

//! What a browser lets a page of another origin read.

use std::collections::BTreeSet;

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header},
};
use tidemark_search::SearchError;
use tower::ServiceExt as _;

use super::{super::ServerOptions, fake::FakeSearch, with_token};

const TOKEN: &str = "0123456789abcdef";
const PORTAL: &str = "https://portal.example.org";

async fn send(
    router: &Router,
    method: &str,
    uri: &str,
    headers: &[(header::HeaderName, &str)],
) -> (StatusCode, HeaderMap) {
    let mut request = Request::builder().method(method).uri(uri).header(header::ORIGIN, PORTAL);
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    (response.status(), response.headers().clone())
}

/// What a browser asks before it sends a token.
async fn preflight(router: &Router, uri: &str) -> (StatusCode, HeaderMap) {
    let headers =
        [(header::ACCESS_CONTROL_REQUEST_METHOD, "GET"), (header::ACCESS_CONTROL_REQUEST_HEADERS, "authorization")];
    send(router, "OPTIONS", uri, &headers).await
}

fn allowed(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN).and_then(|origin| origin.to_str().ok())
}

#[tokio::test]
async fn a_page_with_the_token_reads_answers_from_anywhere() {
    let (router, _folder) = with_token(FakeSearch::with_entries(), ServerOptions::default(), TOKEN);
    for uri in ["/v1/search?q=a", "/v1/status", "/v1/entities/label/a/b", "/openapi.json"] {
        let (status, headers) = preflight(&router, uri).await;
        assert_eq!((status, allowed(&headers)), (StatusCode::NO_CONTENT, Some("*")), "{uri}");
        assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_HEADERS], "authorization, last-event-id", "{uri}");
        assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_METHODS], "GET, HEAD", "{uri}");
        assert_eq!(headers[header::ACCESS_CONTROL_MAX_AGE], "7200", "{uri}");
        let bearer = format!("Bearer {TOKEN}");
        let (status, headers) = send(&router, "GET", uri, &[(header::AUTHORIZATION, &bearer)]).await;
        assert_eq!((status, allowed(&headers)), (StatusCode::OK, Some("*")), "{uri}");
        assert!(!headers.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS), "stored credentials open nothing");
        let (status, headers) = send(&router, "GET", uri, &[]).await;
        assert_eq!((status, allowed(&headers)), (StatusCode::UNAUTHORIZED, Some("*")), "a page sees why: {uri}");
    }
}

#[tokio::test]
async fn what_needs_no_token_is_not_shared() {
    let (router, _folder) = with_token(FakeSearch::with_entries(), ServerOptions::default(), TOKEN);
    for uri in ["/v1/process", "/healthz", "/readyz", "/metrics", "/", "/entry"] {
        let (status, headers) = preflight(&router, uri).await;
        assert!(status.is_client_error() && allowed(&headers).is_none(), "{uri}: {status}");
        assert_eq!(allowed(&send(&router, "GET", uri, &[]).await.1), None, "{uri}");
    }
    let (status, headers) = send(&router, "OPTIONS", "/v1/search", &[]).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "no preflight");
    assert_eq!(allowed(&headers), Some("*"));
}

#[tokio::test]
async fn without_a_token_nothing_is_shared_unless_the_origin_is_named() {
    let router = super::router(FakeSearch::with_entries());
    let (status, headers) = preflight(&router, "/v1/search").await;
    assert_eq!((status, allowed(&headers)), (StatusCode::METHOD_NOT_ALLOWED, None));
    assert_eq!(allowed(&send(&router, "GET", "/v1/search", &[]).await.1), None);

    for (named, wanted) in [(PORTAL, Some(PORTAL)), ("https://other.example.org", None)] {
        let options = ServerOptions { cors_origins: vec![HeaderValue::from_static(named)], ..ServerOptions::default() };
        let router = super::with_options(FakeSearch::with_entries(), options);
        let (status, headers) = preflight(&router, "/v1/search").await;
        assert_eq!((status == StatusCode::NO_CONTENT, allowed(&headers)), (wanted.is_some(), wanted));
        let (status, headers) = send(&router, "GET", "/v1/search", &[]).await;
        assert_eq!((status, allowed(&headers)), (StatusCode::OK, wanted));
        let vary = headers.get_all(header::VARY).iter().any(|vary| vary == "origin");
        assert!(vary, "a cache keeps the answers of two origins apart: {headers:?}");
    }
}

#[tokio::test]
async fn named_origins_are_the_only_ones_also_with_a_token() {
    let cors_origins = vec![HeaderValue::from_static("https://other.example.org")];
    let options = ServerOptions { cors_origins, ..ServerOptions::default() };
    let (router, _folder) = with_token(FakeSearch::with_entries(), options, TOKEN);
    let (status, headers) = preflight(&router, "/v1/search").await;
    assert_eq!((status, allowed(&headers)), (StatusCode::UNAUTHORIZED, None));
}

#[tokio::test]
async fn a_page_reads_the_headers_that_only_tidemark_has() {
    let options = ServerOptions { cors_origins: vec![HeaderValue::from_static(PORTAL)], ..ServerOptions::default() };
    let mut own = BTreeSet::new();
    for fake in [FakeSearch::with_entries(), FakeSearch { not_ready: true, ..FakeSearch::failing(overloaded()) }] {
        let router = super::with_options(fake, options.clone());
        for uri in ["/v1/search", "/v1/search/export", "/v1/entities/label/a/b", "/v1/status", "/openapi.json"] {
            let (_, headers) = send(&router, "GET", uri, &[]).await;
            let exposed: Vec<_> =
                headers[header::ACCESS_CONTROL_EXPOSE_HEADERS].to_str().unwrap().split(", ").collect();
            for name in headers.keys().map(HeaderName::as_str) {
                if name.starts_with("tidemark-") || name == "retry-after" {
                    assert!(exposed.contains(&name), "{uri}: {name} is hidden from pages");
                    own.insert(name.to_owned());
                }
            }
        }
    }
    let wanted = ["retry-after", "tidemark-generation", "tidemark-manifest", "tidemark-position", "tidemark-watermark"];
    assert_eq!(own, wanted.map(str::to_owned).into(), "each was in an answer");
}

fn overloaded() -> SearchError {
    SearchError::Overloaded { detail: "busy".to_owned() }
}

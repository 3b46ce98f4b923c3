//! Which pages of other origins may read answers in a browser.
//!
//! Where a token is required, all of them may: a page has to have the token to get any answer, and a browser never sends one by
//! itself, since answers to a request with stored credentials are not shared (there is no `Access-Control-Allow-Credentials`).
//! Where none is required, no page may, unless its origin is named: a person's browser often reaches what the page's author
//! does not. What is answered without a token is never shared.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{auth::OPEN_PATHS, problem::HttpProblem};

/// How long a browser need not ask again, in seconds: what Chromium takes at most.
const MAX_AGE: u64 = 7_200;
/// The headers of requests that a page may send, beside those that every page may.
const ALLOWED_HEADERS: &str = "authorization, last-event-id";
/// The headers of answers that a page may read, beside those that every page may.
const EXPOSED_HEADERS: &str =
    "retry-after, tidemark-generation, tidemark-manifest, tidemark-position, tidemark-watermark";

/// Whose pages may read answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CorsPolicy {
    /// Those of the service itself.
    SameOrigin,
    /// Those of these origins.
    Origins(Vec<HeaderValue>),
    /// Every page.
    AnyOrigin,
}

impl CorsPolicy {
    /// The policy for these origins; of none it depends on whether a token is required.
    pub(super) fn new(origins: &[HeaderValue], needs_token: bool) -> Self {
        match origins {
            [] if needs_token => Self::AnyOrigin,
            [] => Self::SameOrigin,
            origins => Self::Origins(origins.to_vec()),
        }
    }

    /// The value of `Access-Control-Allow-Origin` for a request that a page of another origin makes.
    fn allowed_origin(&self, request: &Request) -> Option<HeaderValue> {
        let origin = request.headers().get(header::ORIGIN)?;
        let path = request.uri().path();
        let is_shared = path == "/openapi.json" || (path.starts_with("/v1/") && !OPEN_PATHS.contains(&path));
        if !is_shared {
            return None;
        }
        match self {
            Self::SameOrigin => None,
            Self::Origins(origins) => origins.contains(origin).then(|| origin.clone()),
            Self::AnyOrigin => Some(HeaderValue::from_static("*")),
        }
    }
}

/// Whether a page may open this WebSocket, if it is one that a page opens. A browser lets any page open one, reads what comes whatever the
/// headers say, and sends stored credentials with it: so only pages of the service itself and of named origins may.
fn may_open_socket(policy: &CorsPolicy, headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN).filter(|_| headers.contains_key(header::UPGRADE)) else {
        return true;
    };
    let host = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host.as_bytes());
    let is_own = host.is_some() && host == headers.get(header::HOST).map(HeaderValue::as_bytes);
    is_own || matches!(policy, CorsPolicy::Origins(origins) if origins.contains(origin))
}

/// Answers preflights, which bear no token, and marks the answers that a page may read.
pub(super) async fn share_answers(State(policy): State<CorsPolicy>, request: Request, next: Next) -> Response {
    if !may_open_socket(&policy, request.headers()) {
        return HttpProblem::forbidden_origin().into_response();
    }
    let Some(origin) = policy.allowed_origin(&request) else {
        let mut response = next.run(request).await;
        vary(&policy, response.headers_mut());
        return response;
    };
    let mut response = if is_preflight(&request) {
        let headers = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD")),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(ALLOWED_HEADERS)),
            (header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(MAX_AGE)),
        ];
        (StatusCode::NO_CONTENT, headers).into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED_HEADERS));
    vary(&policy, headers);
    response
}

/// An answer that depends on the origin says so, for caches.
fn vary(policy: &CorsPolicy, headers: &mut HeaderMap) {
    if matches!(policy, CorsPolicy::Origins(_)) {
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
}

fn is_preflight(request: &Request) -> bool {
    request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

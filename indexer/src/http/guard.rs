//! What every request passes through: a permit, a time-out, security headers, metrics, and a handler of panics.

use std::{any::Any, sync::Arc, time::Duration};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::{sync::Semaphore, time::timeout};

use super::{extract::decoding_error, problem::HttpProblem};
use crate::metrics::MetricsRegistry;

/// The page loads nothing from elsewhere and runs no inline script or style.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const SECURITY_HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Bounds on the work that requests make.
#[derive(Clone)]
pub(crate) struct RequestLimits {
    permits: Arc<Semaphore>,
    timeout: Duration,
}

impl RequestLimits {
    /// At most `concurrency` requests at once, each of at most `timeout`.
    pub(crate) fn new(concurrency: usize, timeout: Duration) -> Self {
        Self { permits: Arc::new(Semaphore::new(concurrency)), timeout }
    }
}

/// Lets a request through if there is room for it, and gives it up after the time-out.
pub(crate) async fn limit_requests(State(guard): State<RequestLimits>, request: Request, next: Next) -> Response {
    let Ok(_permit) = guard.permits.try_acquire() else {
        return HttpProblem::overloaded("too many requests at once; try again in a second").into_response();
    };
    limit_time(State(guard.clone()), request, next).await
}

/// Gives a request up after the time-out.
pub(crate) async fn limit_time(State(guard): State<RequestLimits>, request: Request, next: Next) -> Response {
    if let Ok(response) = timeout(guard.timeout, next.run(request)).await {
        return response;
    }
    let detail = format!("no answer within {} s; ask for less, or try again", guard.timeout.as_secs());
    HttpProblem::overloaded(detail).into_response()
}

/// Refuses a path that cannot be decoded, in the form of all errors.
pub(crate) async fn require_readable_path(request: Request, next: Next) -> Response {
    match decoding_error(request.uri().path()) {
        Some(why) => HttpProblem::unreadable_path(why).into_response(),
        None => next.run(request).await,
    }
}

/// Adds the headers that keep a browser from doing anything unexpected with an answer.
pub(crate) async fn add_security_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in SECURITY_HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    no_store_by_default(headers);
    response
}

/// Answers change with every manifest: they are not cached unless a handler allows it.
fn no_store_by_default(headers: &mut HeaderMap) {
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
}

/// Counts a request and logs it: failures of ours as warnings, the others for those who look closely.
pub(crate) async fn record_request(State(metrics): State<MetricsRegistry>, request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let started = tokio::time::Instant::now();
    let response = next.run(request).await;
    let (status, millis) = (response.status(), started.elapsed().as_millis());
    metrics.requested(&route, status.as_u16());
    if status == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::warn!(%method, route, status = status.as_u16(), millis, "request failed");
    } else {
        tracing::debug!(%method, route, status = status.as_u16(), millis, "request answered");
    }
    response
}

/// What a client gets when the code that served it panicked.
#[expect(clippy::needless_pass_by_value, reason = "the layer hands the panic over")]
pub(crate) fn panic_response(panic: Box<dyn Any + Send>) -> Response {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("of unknown kind");
    tracing::error!(panic = message, "a request panicked");
    HttpProblem::internal().into_response()
}

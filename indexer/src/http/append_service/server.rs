//! The server: the routes with what all of them share, and an end that finishes what was begun.

use std::net::IpAddr;

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, Uri, header, uri::Authority},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
};
use tidemark_wal::{LockRef, LogWriter};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

use super::{
    admission::AppendLimits,
    app::AppendApp,
    endpoint::{AppendListener, BoundListener},
    openapi::append_routes,
};
use crate::http::{
    connections::{ConnectionLimits, serve_connections, without_delay},
    guard,
    problem::HttpProblem,
};

/// The methods of its addresses.
const METHODS: &str = "POST to append and to confirm, GET or HEAD elsewhere";

/// The service of appends of one process.
pub struct AppendServer {
    app: AppendApp,
}

impl AppendServer {
    /// A service on `writer`. `has_writer_name`: the writer's name is one that other processes know, so that idempotency keys count for it.
    /// `lock` guards the drafts that name no lock themselves.
    pub fn new(
        writer: LogWriter,
        has_writer_name: bool,
        lock: Option<LockRef>,
        limits: AppendLimits,
        stop: CancellationToken,
    ) -> Self {
        Self { app: AppendApp::new(writer, has_writer_name, lock, limits, stop) }
    }

    /// Serves until stopped, and then finishes what was begun.
    pub async fn run(self, listener: AppendListener) {
        let (bound, _socket) = listener.into_parts();
        let by_address = matches!(bound, BoundListener::Loopback(_));
        let (router, limits) = (self.router(by_address), ConnectionLimits::default());
        let AppendApp { metrics, stop, appends, .. } = self.app;
        match bound {
            BoundListener::Loopback(tcp) => {
                serve_connections(without_delay(tcp), router, limits, metrics, stop).await;
            }
            BoundListener::Socket(unix) => serve_connections(unix, router, limits, metrics, stop).await,
        }
        // Those of clients that went away.
        appends.close();
        appends.wait().await;
    }

    /// All routes with all that they share. `by_address`: it is reached at an address, and not at a socket.
    pub(super) fn router(&self, by_address: bool) -> Router {
        Router::from(append_routes())
            .fallback(no_such_route)
            .method_not_allowed_fallback(method_not_allowed)
            .layer(from_fn_with_state(by_address, refuse_pages))
            .layer(from_fn(guard::require_readable_path))
            .layer(CatchPanicLayer::custom(guard::panic_response))
            .layer(from_fn(guard::add_security_headers))
            .layer(from_fn_with_state(self.app.metrics.clone(), guard::record_request))
            .with_state(self.app.clone())
    }
}

/// Refuses what a page in a browser sends, for any page that a person of this machine looks at could write to the log: every browser names
/// the page's origin, unless it takes the service for the page's own server. Then it asks for a name, which was made to lead here.
async fn refuse_pages(State(by_address): State<bool>, request: Request, next: Next) -> Response {
    let (kind, title, detail) = if request.headers().contains_key(header::ORIGIN) {
        let detail = "a page in a browser may not use this service; nothing was appended; append from a program";
        ("forbidden-origin", "the request comes from a page", detail)
    } else if by_address && !names_loopback(&request) {
        let detail =
            "this service is asked for as 127.0.0.1, [::1] or localhost; nothing was appended; send that as \"Host\"";
        ("forbidden-host", "the request is for another host", detail)
    } else {
        return next.run(request).await;
    };
    HttpProblem::new(StatusCode::FORBIDDEN, kind, title, detail).into_response()
}

/// Whether the host that is asked for is an address of loopback or `localhost`, with any port.
fn names_loopback(request: &Request) -> bool {
    let named = request.headers().get(header::HOST).map(HeaderValue::as_bytes);
    let authority = match named {
        Some(named) => Authority::try_from(named).ok(),
        None => request.uri().authority().cloned(),
    };
    authority.is_some_and(|authority| {
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}

async fn no_such_route(uri: Uri) -> HttpProblem {
    HttpProblem::no_such_route(&uri)
}

async fn method_not_allowed(method: Method) -> HttpProblem {
    HttpProblem::method_not_allowed(&method, METHODS)
}

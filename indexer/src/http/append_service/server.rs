//! The server: the routes with what all of them share, and an end that finishes what was begun.

use axum::{
    Router,
    extract::Request,
    http::{Method, StatusCode, Uri, header},
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
        let (router, limits) = (self.router(), ConnectionLimits::default());
        let AppendApp { metrics, stop, appends, .. } = self.app;
        let (bound, _socket) = listener.into_parts();
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

    /// All routes with all that they share.
    pub(super) fn router(&self) -> Router {
        Router::from(append_routes())
            .fallback(no_such_route)
            .method_not_allowed_fallback(method_not_allowed)
            .layer(from_fn(refuse_pages))
            .layer(from_fn(guard::require_readable_path))
            .layer(CatchPanicLayer::custom(guard::panic_response))
            .layer(from_fn(guard::add_security_headers))
            .layer(from_fn_with_state(self.app.metrics.clone(), guard::record_request))
            .with_state(self.app.clone())
    }
}

/// Refuses what a page in a browser sends: every browser names the page's origin, and any page that a person of this machine looks at could
/// write to the log.
async fn refuse_pages(request: Request, next: Next) -> Response {
    if !request.headers().contains_key(header::ORIGIN) {
        return next.run(request).await;
    }
    let detail = "a page in a browser may not use this service; nothing was appended; append from a program";
    HttpProblem::new(StatusCode::FORBIDDEN, "forbidden-origin", "the request comes from a page", detail).into_response()
}

async fn no_such_route(uri: Uri) -> HttpProblem {
    HttpProblem::no_such_route(&uri)
}

async fn method_not_allowed(method: Method) -> HttpProblem {
    HttpProblem::method_not_allowed(&method, METHODS)
}

//! The server: the routes with what all of them share, and a graceful end.

use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{HeaderValue, Method, Uri},
    middleware::{from_fn, from_fn_with_state},
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::{catch_panic::CatchPanicLayer, compression::CompressionLayer, limit::RequestBodyLimitLayer};

use super::{
    app::{AppState, ServerMode},
    auth::{self, TokenAuth},
    connections::{ConnectionLimits, serve_connections, without_delay},
    cors::{self, CorsPolicy},
    feed_admission::FeedLimits,
    guard::{self, RequestLimits},
    live_descriptors::LiveDescriptors,
    openapi, page,
    problem::HttpProblem,
    routes,
};
#[cfg(feature = "archive")]
use super::{iceberg, served_archive::ServedArchive};
use crate::{metrics::MetricsRegistry, pod_status::PodStatus};
use tidemark_search::{IndexSearcher, SearchService};

/// How the server behaves.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Requests that are worked on at once; more are answered 503. Health, metrics and changes do not count.
    pub concurrency: usize,
    /// The longest that a request may take, waits for `min_token` included.
    pub timeout: Duration,
    /// How long open requests may go on after the server was stopped.
    pub drain: Duration,
    /// Origins whose pages may read the API in a browser. None: those of any origin if a token is required, else only the
    /// service's own.
    pub cors_origins: Vec<HeaderValue>,
    /// How many connections are open at once, and for how long.
    pub connections: ConnectionLimits,
    /// How many clients follow the changes, and what is on its way to them.
    pub feeds: FeedLimits,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            concurrency: 256,
            timeout: Duration::from_secs(30),
            drain: Duration::from_secs(10),
            cors_origins: Vec::new(),
            connections: ConnectionLimits::default(),
            feeds: FeedLimits::default(),
        }
    }
}

/// The largest body that is accepted, in bytes: no request has any.
const MAX_BODY: usize = 16 * 1024;

/// The HTTP server of one process.
pub struct HttpServer {
    app: AppState,
    options: ServerOptions,
    auth: Option<TokenAuth>,
}

impl HttpServer {
    /// A server over this search service, in the process `process`. It is ready once the service has a status, that is,
    /// once a manifest was read.
    pub fn new(
        search: Arc<dyn SearchService>,
        metrics: MetricsRegistry,
        options: ServerOptions,
        stop: CancellationToken,
    ) -> Self {
        let pod = PodStatus::search(Arc::clone(&search));
        Self::with_pod_status(pod, search, metrics, options, stop)
    }

    /// As [`Self::new`], with the status of the pod that serves.
    pub fn with_pod_status(
        pod: PodStatus,
        search: Arc<dyn SearchService>,
        metrics: MetricsRegistry,
        options: ServerOptions,
        stop: CancellationToken,
    ) -> Self {
        Self::build(pod, search, metrics, options, stop, ServerMode::Search)
    }

    /// A server of health, metrics and status alone. It is ready as long as it lives.
    pub fn status_only(
        pod: PodStatus,
        metrics: MetricsRegistry,
        options: ServerOptions,
        stop: CancellationToken,
    ) -> Self {
        Self::build(pod, Arc::new(IndexSearcher::default()), metrics, options, stop, ServerMode::StatusOnly)
    }

    fn build(
        pod: PodStatus,
        search: Arc<dyn SearchService>,
        metrics: MetricsRegistry,
        options: ServerOptions,
        stop: CancellationToken,
        mode: ServerMode,
    ) -> Self {
        metrics.register_pod(pod.clone());
        let app = AppState::new(search, metrics, stop, pod, mode, openapi::document_json(), options.feeds);
        let source = app.clone();
        app.metrics().register_status(move || source.status());
        Self { app, options, auth: None }
    }

    /// Requires the token in `file` with every request except health, metrics and the pod's report.
    pub fn with_bearer_token(self, file: PathBuf) -> Self {
        let auth = TokenAuth::new(file, self.app.pod().clone());
        Self { auth: Some(auth), ..self }
    }

    /// Answers about entries and entities say whether their descriptors are in these stores.
    pub fn with_live_descriptors(self, live: LiveDescriptors) -> Self {
        Self { app: self.app.with_live_descriptors(live), ..self }
    }

    /// The catalog of tables has this archive.
    #[cfg(feature = "archive")]
    pub fn with_archive(self, archive: ServedArchive) -> Self {
        Self { app: self.app.with_archive(archive), ..self }
    }

    /// All routes with all that they share.
    pub fn router(&self) -> Router {
        let guard = RequestLimits::new(self.options.concurrency, self.options.timeout);
        let routes = match self.app.mode() {
            ServerMode::Search => Router::from(routes::search_routes())
                .merge(page::routes())
                .route_layer(from_fn_with_state(guard.clone(), guard::limit_requests))
                .merge(Router::from(routes::feed_routes()).route_layer(from_fn_with_state(guard, guard::limit_time)))
                .merge(Router::from(routes::status_routes()))
                .merge(Router::from(routes::document_routes()))
                .route("/assets/{name}", get(page::asset)),
            ServerMode::StatusOnly => Router::from(routes::status_routes()),
        };
        let routes = routes
            .fallback(no_such_route)
            .method_not_allowed_fallback(method_not_allowed)
            .layer(from_fn(guard::require_readable_path));
        let routes = match &self.auth {
            Some(auth) => routes.layer(from_fn_with_state(auth.clone(), auth::require_token)),
            None => routes,
        };
        let cors = CorsPolicy::new(&self.options.cors_origins, self.auth.is_some());
        let routes = routes
            .layer(from_fn_with_state(cors, cors::share_answers))
            .layer(CatchPanicLayer::custom(guard::panic_response));
        #[cfg(feature = "archive")]
        let routes = routes.layer(from_fn(iceberg::use_iceberg_form));
        routes
            .layer(from_fn(guard::add_security_headers))
            .layer(from_fn_with_state(self.app.metrics().clone(), guard::record_request))
            .layer(CompressionLayer::new())
            .layer(RequestBodyLimitLayer::new(MAX_BODY))
            .with_state(self.app.clone())
    }

    /// Serves until stopped, then drains open requests for as long as the options allow.
    pub async fn run(self, listener: TcpListener) {
        let (stop, drain) = (self.app.stop().clone(), self.options.drain);
        let limits = ConnectionLimits { max_following: self.options.feeds.clients, ..self.options.connections };
        let metrics = self.app.metrics().clone();
        let streams = self.app.streams().clone();
        let serve = async {
            serve_connections(without_delay(listener), self.router(), limits, metrics, stop.clone()).await;
            streams.close();
            streams.wait().await;
        };
        let drained = async {
            stop.cancelled().await;
            tokio::time::sleep(drain).await;
        };
        tokio::select! {
            biased;
            () = serve => {}
            () = drained => {
                tracing::warn!(drain = ?drain, "cut off the requests that were still open at the end of the drain");
            }
        }
    }
}

async fn no_such_route(uri: Uri) -> HttpProblem {
    HttpProblem::no_such_route(&uri)
}

async fn method_not_allowed(method: Method) -> HttpProblem {
    HttpProblem::method_not_allowed(&method, "GET or HEAD")
}

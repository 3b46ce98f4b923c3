//! The server: routes, what they share, and a graceful end.

use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{HeaderValue, Method, Uri},
    middleware::{from_fn, from_fn_with_state},
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::{
    catch_panic::CatchPanicLayer, compression::CompressionLayer, cors::CorsLayer, limit::RequestBodyLimitLayer,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    app::{App, Serves},
    auth::{self, Auth},
    entities, entries,
    guard::{self, Guard},
    health,
    metrics::{self, Metrics},
    openapi, page,
    problem::Problem,
    process, search, status,
};
use crate::process::Process;
use tidemark_search::{IndexSearcher, SearchService};

/// How the server behaves.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Requests that are worked on at once; more are answered 503. Health and metrics do not count.
    pub concurrency: usize,
    /// The longest that a request may take, waits for `min_token` included.
    pub timeout: Duration,
    /// How long open requests may go on after the server was told to stop.
    pub drain: Duration,
    /// Origins whose pages may read the API; none by default.
    pub cors_origins: Vec<HeaderValue>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            concurrency: 256,
            timeout: Duration::from_secs(30),
            drain: Duration::from_secs(10),
            cors_origins: Vec::new(),
        }
    }
}

/// The largest body that is accepted, in bytes: no request has any.
const MAX_BODY: usize = 16 * 1024;

/// The HTTP server of one process.
pub struct Server {
    app: App,
    options: ServerOptions,
    auth: Option<Auth>,
}

impl Server {
    /// A server over this search service, in the process `process`. It is ready once the service has a status, that is,
    /// once a manifest was read.
    pub fn searching(
        search: Arc<dyn SearchService>,
        metrics: Metrics,
        options: ServerOptions,
        stop: CancellationToken,
    ) -> Self {
        let process = Process::searching(Arc::clone(&search));
        Self::searching_in(process, search, metrics, options, stop)
    }

    /// As [`Self::searching`], in a process that tells about itself.
    pub fn searching_in(
        process: Process,
        search: Arc<dyn SearchService>,
        metrics: Metrics,
        options: ServerOptions,
        stop: CancellationToken,
    ) -> Self {
        Self::new(process, search, metrics, options, stop, Serves::Search)
    }

    /// A server that tells how its process is, and no more: health, metrics, status. It is ready as long as it lives.
    pub fn telling(process: Process, metrics: Metrics, options: ServerOptions, stop: CancellationToken) -> Self {
        Self::new(process, Arc::new(IndexSearcher::default()), metrics, options, stop, Serves::Process)
    }

    fn new(
        process: Process,
        search: Arc<dyn SearchService>,
        metrics: Metrics,
        options: ServerOptions,
        stop: CancellationToken,
        serves: Serves,
    ) -> Self {
        metrics.register_process(process.clone());
        let app = App::new(search, metrics, stop, process, serves);
        let source = app.clone();
        app.metrics().register_status(move || source.status());
        Self { app, options, auth: None }
    }

    /// Wants the token in `file` with every request, all but health, metrics and the state of the process.
    pub fn wanting_token(self, file: PathBuf) -> Self {
        let auth = Auth::new(file, self.app.process().clone());
        Self { auth: Some(auth), ..self }
    }

    /// All routes with all that they share.
    pub fn router(&self) -> Router {
        let guard = Guard::new(self.options.concurrency, self.options.timeout);
        let routes = match self.app.serves() {
            Serves::Search => Router::from(guarded_routes())
                .merge(page::routes())
                .route_layer(from_fn_with_state(guard, guard::bound))
                .merge(Router::from(open_routes()))
                .route("/assets/{name}", get(page::asset)),
            Serves::Process => Router::from(process_routes()),
        };
        let routes = routes.fallback(no_such_route).method_not_allowed_fallback(method_not_allowed);
        let routes = match &self.auth {
            Some(auth) => routes.layer(from_fn_with_state(auth.clone(), auth::require)),
            None => routes,
        };
        routes
            .layer(CatchPanicLayer::custom(guard::panicked))
            .layer(from_fn(guard::secure))
            .layer(from_fn_with_state(self.app.clone(), guard::observe))
            .layer(cors(&self.options.cors_origins))
            .layer(CompressionLayer::new())
            .layer(RequestBodyLimitLayer::new(MAX_BODY))
            .with_state(self.app.clone())
    }

    /// Serves until told to stop, then lets open requests end, for as long as the options say.
    pub async fn run(self, listener: TcpListener) -> std::io::Result<()> {
        let (stop, drain) = (self.app.stop().clone(), self.options.drain);
        let serve = axum::serve(listener, self.router()).with_graceful_shutdown(stop.clone().cancelled_owned());
        let drained = async {
            stop.cancelled().await;
            tokio::time::sleep(drain).await;
        };
        tokio::select! {
            biased;
            served = serve => served,
            () = drained => {
                tracing::warn!(drain = ?drain, "requests were still open at the end of the drain; they are cut off");
                Ok(())
            }
        }
    }
}

/// Every route that the OpenAPI document describes.
pub(super) fn routes() -> OpenApiRouter<App> {
    guarded_routes().merge(open_routes())
}

fn guarded_routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::head())
        .routes(routes!(search::search))
        .routes(routes!(entries::entry))
        .routes(routes!(entities::entity))
}

fn open_routes() -> OpenApiRouter<App> {
    process_routes().routes(routes!(openapi::openapi))
}

/// What every process has.
fn process_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(status::status))
        .routes(routes!(process::process))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(metrics::metrics))
}

fn cors(origins: &[HeaderValue]) -> CorsLayer {
    CorsLayer::new().allow_methods([Method::GET, Method::HEAD]).allow_origin(origins.to_vec())
}

async fn no_such_route(uri: Uri) -> Problem {
    Problem::no_such_route(&uri)
}

async fn method_not_allowed(method: Method) -> Problem {
    Problem::method_not_allowed(&method)
}

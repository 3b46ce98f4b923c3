//! Which path leads to which handler.

use utoipa_axum::{router::OpenApiRouter, routes};

#[cfg(feature = "archive")]
use super::iceberg;
use super::{
    app::AppState, changes, entities, entries, export, health, lineage, metrics, openapi_route, pod_report, search,
    status,
};

/// What makes work: requests that are limited in number and time.
pub(super) fn search_routes() -> OpenApiRouter<AppState> {
    let routes = OpenApiRouter::new()
        .routes(routes!(search::search))
        .routes(routes!(export::export))
        .routes(routes!(entries::entry))
        .routes(routes!(entities::entity))
        .routes(routes!(lineage::lineage));
    #[cfg(feature = "archive")]
    let routes = routes.merge(iceberg::catalog_routes());
    routes
}

/// What clients wait for: requests that are limited in time, and have a limit of their own in number.
pub(super) fn feed_routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(changes::changes))
}

/// What every server has.
pub(super) fn status_routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(status::status))
        .routes(routes!(pod_report::pod_report))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(metrics::metrics))
}

/// The description of the interface.
pub(super) fn document_routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(openapi_route::openapi))
}

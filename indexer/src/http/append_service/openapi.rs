//! The interface of the service of appends as a document, generated from its routes.

use std::sync::LazyLock;

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use utoipa::openapi::{InfoBuilder, License, OpenApi, OpenApiBuilder, Paths, ServerBuilder};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{app::AppendApp, handlers};
use crate::http::{health, metrics};

/// All routes.
pub(super) fn append_routes() -> OpenApiRouter<AppendApp> {
    OpenApiRouter::with_openapi(head())
        .routes(routes!(handlers::append))
        .routes(routes!(handlers::confirm))
        .routes(routes!(health::healthz))
        .routes(routes!(handlers::append_readyz))
        .routes(routes!(metrics::metrics))
        .routes(routes!(append_openapi))
}

/// This document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "meta",
    responses((status = 200, description = "this document", body = serde_json::Value))
)]
async fn append_openapi() -> Response {
    static JSON: LazyLock<String> =
        LazyLock::new(|| append_routes().into_openapi().to_pretty_json().unwrap_or_default());
    ([(header::CONTENT_TYPE, "application/json")], JSON.as_str()).into_response()
}

/// The document without its paths.
fn head() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Tidemark: append")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Appends to a write-ahead log in object storage, for programs of this machine. An answer of 200 is a proof: the entry is \
             committed. Errors are RFC 9457 problems that name the entry.",
        ))
        .license(Some(License::new("Apache-2.0")))
        .build();
    OpenApiBuilder::new().info(info).paths(Paths::new()).servers(Some([ServerBuilder::new().url(".").build()])).build()
}

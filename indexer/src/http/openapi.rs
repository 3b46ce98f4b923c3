//! `GET /openapi.json`: the interface as a document, generated from the code that serves it.

use std::sync::LazyLock;

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use utoipa::openapi::{ContactBuilder, InfoBuilder, License, OpenApi, OpenApiBuilder, Paths, ServerBuilder};

use super::{problem::Problem, server};

/// The document, built once.
static DOCUMENT: LazyLock<Option<String>> = LazyLock::new(|| document().to_pretty_json().ok());

/// The interface of this service as an OpenAPI document.
pub fn document() -> OpenApi {
    let mut document = server::routes().into_openapi();
    let paths = std::mem::take(&mut document.paths.paths);
    // A wildcard is a matter of the router: clients see a parameter.
    document.paths.paths = paths.into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    document
}

/// The document without its paths.
pub(super) fn head() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Tidemark")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Search over a write-ahead log in object storage. Every answer names the generation, manifest and watermark \
             that it rests on; errors are RFC 9457 problems that name the parameter at fault.",
        ))
        .license(Some(License::new("Apache-2.0")))
        .contact(Some(ContactBuilder::new().url(Some(env!("CARGO_PKG_REPOSITORY"))).build()))
        .build();
    OpenApiBuilder::new().info(info).paths(Paths::new()).servers(Some([ServerBuilder::new().url(".").build()])).build()
}

/// This document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "meta",
    responses((status = 200, description = "this document", body = serde_json::Value))
)]
pub(crate) async fn openapi() -> Response {
    match DOCUMENT.as_deref() {
        Some(document) => (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], document).into_response(),
        None => Problem::internal().into_response(),
    }
}

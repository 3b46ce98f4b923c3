//! The OpenAPI document, generated from the routes and their handlers.

use std::sync::LazyLock;

use serde_json::Value;
use tidemark_search::query_forms_list;
use utoipa::openapi::{ContactBuilder, InfoBuilder, License, OpenApi, OpenApiBuilder, Paths, ServerBuilder};
use utoipa_axum::router::OpenApiRouter;

use super::{app::AppState, routes};

/// The document as JSON, built once.
pub(super) fn document_json() -> &'static str {
    static JSON: LazyLock<String> = LazyLock::new(|| format!("{:#}", document()));
    &JSON
}

/// The interface of this service as an OpenAPI document.
pub fn document() -> Value {
    let mut document = serde_json::to_value(routes_document()).unwrap_or_default();
    let paths = document["paths"].as_object_mut().into_iter().flat_map(|paths| paths.values_mut());
    let operations = paths.filter_map(|path| path.get_mut("get")?.get_mut("parameters")?.as_array_mut());
    for parameter in operations.flatten() {
        if parameter["name"] == "q" {
            let summary = parameter["description"].as_str().unwrap_or_default();
            parameter["description"] = format!("{summary}\n\n{}", query_forms_list()).into();
        }
        // A parameter without a value counts as left out: a form sends its empty fields.
        if parameter["in"] == "query" && parameter["required"] != true {
            parameter["allowEmptyValue"] = true.into();
        }
    }
    document
}

/// The document as the routes describe it.
fn routes_document() -> OpenApi {
    let routes = OpenApiRouter::<AppState>::with_openapi(head())
        .merge(routes::search_routes())
        .merge(routes::feed_routes())
        .merge(routes::status_routes())
        .merge(routes::document_routes());
    let mut document = routes.into_openapi();
    let paths = std::mem::take(&mut document.paths.paths);
    // A wildcard is a matter of the router: clients see a parameter.
    document.paths.paths = paths.into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    document
}

/// The document without its paths.
fn head() -> OpenApi {
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

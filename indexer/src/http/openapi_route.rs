//! `GET /openapi.json`: the interface as a document.

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use super::app::AppState;

/// This document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "meta",
    responses((status = 200, description = "this document", body = serde_json::Value))
)]
pub(crate) async fn openapi(State(app): State<AppState>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], app.openapi()).into_response()
}

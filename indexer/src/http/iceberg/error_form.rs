//! Errors below `/iceberg` in Iceberg's form, whoever makes them: a handler, the check of the token, the limit of requests, a panic.

use axum::{
    Json,
    extract::Request,
    http::{Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::answers::{IcebergErrorAnswer, IcebergErrorModel};
use crate::http::problem::HttpProblem;

/// What the paths of the catalog begin with.
const PREFIX: &str = "/iceberg";

/// Gives answers below `/iceberg` the form that clients of Iceberg's interface know; others pass.
pub(in crate::http) async fn use_iceberg_form(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_catalog = path.strip_prefix(PREFIX).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let is_head = request.method() == Method::HEAD;
    let response = next.run(request).await;
    if !is_catalog {
        return response;
    }
    if is_head && response.status() == StatusCode::OK {
        return StatusCode::NO_CONTENT.into_response();
    }
    match response.extensions().get::<HttpProblem>().cloned() {
        Some(problem) => in_iceberg_form(response, &problem),
        None => response,
    }
}

/// The same answer with another body: its other headers say when to try again, or how to authenticate.
fn in_iceberg_form(response: Response, problem: &HttpProblem) -> Response {
    let kind = error_type(problem).to_owned();
    let error = IcebergErrorModel { message: problem.detail.clone(), kind, code: problem.status };
    let (mut parts, _) = response.into_parts();
    let (form, body) = Json(IcebergErrorAnswer { error }).into_response().into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.extend(form.headers);
    Response::from_parts(parts, body)
}

/// The name that Iceberg's own clients and servers have for it.
fn error_type(problem: &HttpProblem) -> &'static str {
    let name = problem.kind.rsplit(':').next().unwrap_or_default();
    match (name, problem.status) {
        ("no-such-namespace", _) => "NoSuchNamespaceException",
        ("no-such-table", _) => "NoSuchTableException",
        (_, 401) => "NotAuthorizedException",
        (_, 404) => "NotFoundException",
        (_, 405) => "UnsupportedOperationException",
        (_, 503) => "ServiceUnavailableException",
        (_, 400..=499) => "BadRequestException",
        _ => "InternalServerError",
    }
}

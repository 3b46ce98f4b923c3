//! Errors as clients see them: RFC 9457 problem details, and the one place where kinds of errors become statuses.

use std::{fmt::Write as _, ops::Deref};

use axum::{
    Json,
    http::{HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use tidemark_search::{SearchError, api::IndexVersion};

/// What went wrong, as `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct ProblemDetails {
    /// Names the kind of problem; stable, made for programs.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// The kind of problem in words.
    pub(crate) title: String,
    /// The HTTP status.
    pub(crate) status: u16,
    /// What happened this time, and what to do.
    pub(crate) detail: String,
    /// The parameter at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) parameter: Option<String>,
    /// Where to start again, relative to the request's URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) restart: Option<String>,
    /// The generation of the index that is served, if one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) generation: Option<String>,
    /// The number of its manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) manifest: Option<u64>,
    /// Every entry whose second lies before this one is decided and served.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) watermark: Option<Timestamp>,
    /// Seconds after which a retry may succeed.
    #[serde(skip)]
    pub(crate) retry_after: Option<u64>,
}

/// Why a request is not answered as asked. Boxed, so that results stay small.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HttpProblem(Box<ProblemDetails>);

impl Deref for HttpProblem {
    type Target = ProblemDetails;

    fn deref(&self) -> &ProblemDetails {
        &self.0
    }
}

/// The media type of problems.
pub(crate) const MEDIA_TYPE: &str = "application/problem+json";

impl HttpProblem {
    pub(crate) fn new(status: StatusCode, kind: &str, title: &str, detail: impl Into<String>) -> Self {
        Self(Box::new(ProblemDetails {
            kind: format!("urn:tidemark:problem:{kind}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            parameter: None,
            restart: None,
            generation: None,
            manifest: None,
            watermark: None,
            retry_after: None,
        }))
    }

    /// A parameter whose value cannot be used.
    pub(crate) fn invalid(parameter: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid-parameter", "a parameter has a value that is not valid", detail)
            .about(parameter)
    }

    /// A parameter that this resource does not have.
    pub(crate) fn unknown_parameter(parameter: &str, known: &[String]) -> Self {
        let remedy =
            if known.is_empty() { "leave it out".to_owned() } else { format!("use one of: {}", known.join(", ")) };
        let detail = format!("there is no parameter \"{parameter}\" at this address; {remedy}");
        Self::new(StatusCode::BAD_REQUEST, "unknown-parameter", "there is no such parameter", detail).about(parameter)
    }

    /// A URL that leads nowhere.
    pub(crate) fn no_such_route(uri: &Uri) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "no-such-route",
            "there is nothing at this address",
            format!("\"{}\" is not an address of this service; \"openapi.json\" lists them all", uri.path()),
        )
    }

    /// A path that cannot be decoded.
    pub(crate) fn unreadable_path(why: &str) -> Self {
        let title = "the address cannot be read";
        Self::new(StatusCode::BAD_REQUEST, "unreadable-path", title, format!("the path {why}"))
    }

    /// A method that a resource does not have; `offered` names those that there are.
    pub(crate) fn method_not_allowed(method: &Method, offered: &str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            "the method is not allowed here",
            format!("\"{method}\" is not offered at this address; use {offered}"),
        )
    }

    /// A page of another origin that opens a WebSocket.
    pub(crate) fn forbidden_origin() -> Self {
        let detail = "a page of another origin may not open a WebSocket here; name its origin with \"--cors-origin\"";
        Self::new(StatusCode::FORBIDDEN, "forbidden-origin", "the origin of the page is not allowed", detail)
    }

    /// A query string that is too long.
    pub(crate) fn too_long(limit: usize) -> Self {
        Self::new(
            StatusCode::URI_TOO_LONG,
            "too-long",
            "the query string is too long",
            format!("the query string may have at most {limit} bytes; shorten \"q\" or use fewer filters"),
        )
    }

    /// A request without the token.
    pub(crate) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "the request has no valid token",
            "send \"Authorization: Bearer\" with the token, or the token as the password of HTTP Basic",
        )
    }

    /// Too many requests at once.
    pub(crate) fn overloaded(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "the service is overloaded", detail).retry_after(1)
    }

    /// There is nothing to serve yet, or no longer.
    pub(crate) fn not_ready(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", "the service is not ready", detail).retry_after(2)
    }

    /// The object store fails.
    pub(crate) fn storage(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "storage", "the object store failed", detail).retry_after(5)
    }

    /// A namespace that the catalog of tables does not have.
    #[cfg(feature = "archive")]
    pub(crate) fn no_such_namespace(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "no-such-namespace", "there is no such namespace", detail)
    }

    /// A table that the catalog of tables does not have.
    #[cfg(feature = "archive")]
    pub(crate) fn no_such_table(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "no-such-table", "there is no such table", detail)
    }

    /// The archive is damaged, or is not this log's.
    #[cfg(feature = "archive")]
    pub(crate) fn archive_unreadable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "archive", "the archive cannot be read", detail)
    }

    /// A fault of ours. The details are in the log.
    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the service failed",
            "the request could not be answered because of a fault in the service; report it with what its log says",
        )
    }

    /// Says what is served while the problem shows.
    pub(crate) fn at(mut self, index_version: Option<IndexVersion>) -> Self {
        if let Some(IndexVersion { generation, manifest, watermark }) = index_version {
            self.0.generation = Some(generation);
            self.0.manifest = Some(manifest);
            self.0.watermark = Some(watermark);
        }
        self
    }

    /// Says where to start again.
    pub(crate) fn restart(mut self, url: String) -> Self {
        self.0.restart = Some(url);
        self
    }

    /// Names the header that took the place of `parameter`, if the problem is about that.
    pub(crate) fn in_header(mut self, parameter: &str, header: &str) -> Self {
        if self.parameter.as_deref() == Some(parameter) {
            let Self(problem) = &mut self;
            problem.parameter = Some(header.to_owned());
            let _ = write!(problem.detail, "; it came in the header \"{header}\": start again without it");
        }
        self
    }

    /// The status of the answer.
    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn about(mut self, parameter: impl Into<String>) -> Self {
        self.0.parameter = Some(parameter.into());
        self
    }

    /// Says after how many seconds a retry may succeed.
    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.0.retry_after = Some(seconds);
        self
    }
}

/// The one mapping from search errors to statuses.
impl From<SearchError> for HttpProblem {
    fn from(error: SearchError) -> Self {
        let detail = error.to_string();
        match error {
            SearchError::Invalid { parameter, detail } => Self::invalid(parameter, detail),
            SearchError::NotFound { .. } => {
                Self::new(StatusCode::NOT_FOUND, "not-found", "it is not in the index", detail)
            }
            SearchError::Gone { .. } => Self::new(StatusCode::GONE, "gone", "the page is not served any more", detail),
            SearchError::GenerationChanged { .. } => Self::new(
                StatusCode::GONE,
                "generation-changed",
                "the position is of a generation that was replaced",
                detail,
            )
            .about("from"),
            SearchError::NotVisible { .. } => Self::new(
                StatusCode::GATEWAY_TIMEOUT,
                "not-visible",
                "the entry did not become visible in time",
                detail,
            )
            .about("min_token")
            .retry_after(1),
            SearchError::Overloaded { .. } => Self::overloaded(detail),
            SearchError::NotReady { .. } => Self::not_ready(detail),
            SearchError::Storage { .. } => Self::storage(detail),
            SearchError::Internal { detail } => {
                tracing::error!(error = %detail, "a search failed");
                Self::internal()
            }
        }
    }
}

impl IntoResponse for HttpProblem {
    fn into_response(self) -> Response {
        let (status, retry_after) = (self.status(), self.retry_after);
        let mut response = (status, Json(&*self.0)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        // For layers that give it another form.
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_of_an_internal_error_stays_inside() {
        let problem = HttpProblem::from(SearchError::Internal { detail: "secret path /var/x".to_owned() });
        assert_eq!(problem.status, 500);
        assert!(!problem.detail.contains("secret"));
    }

    #[test]
    fn an_invalid_value_names_its_parameter() {
        let problem = HttpProblem::from(SearchError::Invalid {
            parameter: "cursor",
            detail: "it is of another index".to_owned(),
        });
        assert_eq!((problem.status, problem.parameter.as_deref()), (400, Some("cursor")));
    }
}

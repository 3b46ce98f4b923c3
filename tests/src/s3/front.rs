//! The HTTP front: counts requests, acts out faults, checks the end of signed URLs, and sets the `Date` header.

use std::{convert::Infallible, io, sync::Arc};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, DATE, HeaderValue},
    http::request::Parts,
};
use jiff::{SignedDuration, Timestamp};
use s3s::{
    Body, S3Result,
    auth::{S3Auth, SecretKey},
    config::{S3Config, StaticConfigProvider},
    service::{S3Service, S3ServiceBuilder},
};

use super::{S3State, api::S3Api};
use crate::faults::{InjectedFault, StoreOperation, until_lifted};

/// S3 takes a signing date that lies this far ahead of its own clock.
const LEAD: SignedDuration = SignedDuration::from_mins(15);
/// S3 takes no URL that lasts longer than this.
const LONGEST: i64 = 7 * 24 * 3600;

/// What parses requests and checks signatures.
pub(super) fn service(shared: &Arc<S3State>) -> S3Service {
    let mut config = S3Config::default();
    // The moved clock decides (see `expired`), not the machine's.
    config.presigned_url_max_skew_time_secs = 400 * 24 * 3600;
    let mut builder = S3ServiceBuilder::new(S3Api(Arc::clone(shared)));
    builder.set_auth(AccessKeys(Arc::clone(shared)));
    builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
    builder.build()
}

/// The key that the server takes at present.
struct AccessKeys(Arc<S3State>);

#[async_trait::async_trait]
impl S3Auth for AccessKeys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let (known, secret) = self.0.keys.lock().clone();
        if known == access_key { Ok(secret.into()) } else { Err(s3s::s3_error!(InvalidAccessKeyId)) }
    }
}

/// Answers one request; an error breaks the connection.
pub(super) async fn answer(
    shared: Arc<S3State>,
    service: S3Service,
    request: Request<Incoming>,
) -> Result<Response<Body>, io::Error> {
    let operation = operation(&request);
    *shared.counts().entry(operation).or_default() += 1;
    let struck = shared.faults().strike(operation, request.uri().path().trim_start_matches('/'));
    let fault = struck.map(|(_, fault)| fault);
    let broken = || io::Error::new(io::ErrorKind::ConnectionAborted, "a fault broke the connection");
    match fault {
        Some(InjectedFault::Drop) => return Err(broken()),
        Some(InjectedFault::Unavailable) => return Ok(refusal(&shared, StatusCode::SERVICE_UNAVAILABLE, "SlowDown")),
        Some(InjectedFault::Forbidden) => return Ok(refusal(&shared, StatusCode::FORBIDDEN, "AccessDenied")),
        Some(InjectedFault::Locked) => return Ok(refusal(&shared, StatusCode::FORBIDDEN, "ObjectLocked")),
        _ => {}
    }
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    if let Some(InjectedFault::LandLater(time)) = fault {
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            apply(&shared, &service, parts, body).await
        });
        return Err(broken());
    }
    if let Some((rule, InjectedFault::Hold)) = struck {
        until_lifted(&shared.faults, rule).await;
    }
    if let Some(InjectedFault::Delay(time)) = fault {
        tokio::time::sleep(time).await;
    }
    let Ok(response) = apply(&shared, &service, parts, body).await;
    match fault {
        Some(InjectedFault::DropAfter) => Err(broken()),
        Some(InjectedFault::FailAfter) => Ok(refusal(&shared, StatusCode::INTERNAL_SERVER_ERROR, "InternalError")),
        Some(InjectedFault::Truncate) => truncate(response).await,
        _ => Ok(response),
    }
}

async fn apply(shared: &S3State, service: &S3Service, parts: Parts, body: Bytes) -> Result<Response<Body>, Infallible> {
    if let Some(why) = expired(&parts, shared.clock.now()) {
        return Ok(refusal(shared, StatusCode::FORBIDDEN, why));
    }
    let request = Request::from_parts(parts, Body::from(body));
    let mut response = match service.call(request).await {
        Ok(response) => response,
        Err(_) => refusal(shared, StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
    };
    response.headers_mut().insert(DATE, date(shared.clock.now()));
    Ok(response)
}

/// Half of the answer's bytes under the headers of the whole: the connection breaks in the middle.
async fn truncate(response: Response<Body>) -> Result<Response<Body>, io::Error> {
    let (parts, body) = response.into_parts();
    let whole = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let half = whole.slice(..whole.len() / 2);
    let cut = futures::stream::iter([Ok(half), Err(io::Error::from(io::ErrorKind::ConnectionAborted))]);
    Ok(Response::from_parts(parts, Body::from(s3s::dto::StreamingBlob::wrap(cut))))
}

fn operation<B>(request: &Request<B>) -> StoreOperation {
    let query = request.uri().query().unwrap_or_default();
    let has = |name: &str| query.split('&').any(|pair| pair == name || pair.split('=').next() == Some(name));
    let object = request.uri().path().trim_matches('/').contains('/');
    match *request.method() {
        _ if has("uploads") || has("uploadId") => StoreOperation::Multipart,
        Method::GET if has("list-type") => StoreOperation::List,
        Method::GET if object => StoreOperation::Get,
        Method::HEAD if object => StoreOperation::Head,
        Method::PUT if object => StoreOperation::Put,
        Method::DELETE if object => StoreOperation::Delete,
        Method::POST if has("delete") => StoreOperation::DeleteMany,
        _ => StoreOperation::Other,
    }
}

/// Why the moved clock refuses a signed URL, if it does.
fn expired(parts: &Parts, now: Timestamp) -> Option<&'static str> {
    let query = parts.uri.query()?;
    let value = |name: &str| {
        query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    let signed = signing_date(value("X-Amz-Date")?)?;
    let lasts: i64 = value("X-Amz-Expires")?.parse().ok()?;
    if lasts > LONGEST {
        return Some("AuthorizationQueryParametersError");
    }
    if signed.duration_since(now) > LEAD {
        return Some("RequestTimeTooSkewed");
    }
    (now.duration_since(signed) > SignedDuration::from_secs(lasts)).then_some("AccessDenied")
}

fn signing_date(text: &str) -> Option<Timestamp> {
    jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", text)
        .ok()?
        .to_zoned(jiff::tz::TimeZone::UTC)
        .ok()
        .map(|at| at.timestamp())
}

fn refusal(shared: &S3State, status: StatusCode, code: &str) -> Response<Body> {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>refused by the test's server</Message></Error>"
    );
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    response.headers_mut().insert(DATE, date(shared.clock.now()));
    response
}

fn date(now: Timestamp) -> HeaderValue {
    let text = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&now);
    text.ok()
        .and_then(|text| HeaderValue::from_str(&text).ok())
        .unwrap_or_else(|| HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))
}

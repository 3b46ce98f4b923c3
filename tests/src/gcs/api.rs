//! Requests and answers of the XML API.

use std::{collections::BTreeMap, fmt::Write as _, sync::atomic::Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, HeaderValue, LAST_MODIFIED, RANGE},
    http::{HeaderMap, request::Parts, response::Builder},
};
use jiff::{Timestamp, fmt::rfc2822::DateTimePrinter};
use percent_encoding::percent_decode_str;
use url::form_urlencoded;

use super::{
    GcsState,
    authorization::{GcsRefusal, authorize},
    objects::{GcsBucket, GcsObject, ListingPage, ObjectMetadata},
};

const GENERATION: &str = "x-goog-generation";
const IF_GENERATION: &str = "x-goog-if-generation-match";

const NO_BUCKET: GcsRefusal = (StatusCode::NOT_FOUND, "NoSuchBucket");
const NO_KEY: GcsRefusal = (StatusCode::NOT_FOUND, "NoSuchKey");
const NO_UPLOAD: GcsRefusal = (StatusCode::NOT_FOUND, "NoSuchUpload");
const BAD_CONDITION: GcsRefusal = (StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
const BAD_RANGE: GcsRefusal = (StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange");
const BAD_REQUEST: GcsRefusal = (StatusCode::BAD_REQUEST, "InvalidArgument");
const NO_METHOD: GcsRefusal = (StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed");

type GcsResponse = Response<Full<Bytes>>;

/// A request to an object, or to a bucket where `key` is empty.
struct GcsRequest {
    parts: Parts,
    key: String,
    query: BTreeMap<String, String>,
    body: Bytes,
    now: Timestamp,
}

pub(super) async fn answer(state: &GcsState, request: Request<Incoming>) -> GcsResponse {
    let (parts, body) = request.into_parts();
    // An upload that breaks off writes nothing.
    let answered = match body.collect().await {
        Ok(body) => handle(state, parts, body.to_bytes()),
        Err(_) => Err(BAD_REQUEST),
    };
    let mut answer = answered.unwrap_or_else(|(status, code)| {
        let text = format!("<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code></Error>");
        with_body(Response::builder().status(status), text)
    });
    answer.headers_mut().insert(DATE, http_date(state.clock.now()));
    answer
}

fn handle(state: &GcsState, parts: Parts, body: Bytes) -> Result<GcsResponse, GcsRefusal> {
    let now = state.clock.now();
    let query: BTreeMap<_, _> =
        form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    authorize(&parts, &query, now)?;
    let path = parts.uri.path().trim_start_matches('/');
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    let bucket = percent_decode_str(bucket).decode_utf8_lossy().into_owned();
    let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
    let mut buckets = state.buckets();
    let bucket = buckets.get_mut(&bucket).ok_or(NO_BUCKET)?;
    let request = GcsRequest { parts, key, query, body, now };
    if !state.ignore_preconditions.load(Ordering::Relaxed) {
        request.check_generation(bucket)?;
    }
    request.apply(bucket)
}

impl GcsRequest {
    fn apply(self, bucket: &mut GcsBucket) -> Result<GcsResponse, GcsRefusal> {
        let upload = self.query.get("uploadId").map(String::as_str);
        match (&self.parts.method, upload) {
            (&Method::GET, None) if self.key.is_empty() => Ok(self.list(bucket)),
            (&Method::GET | &Method::HEAD, None) => self.read(bucket.objects.get(&self.key).ok_or(NO_KEY)?),
            (&Method::PUT, Some(id)) => {
                let number = self.query.get("partNumber").and_then(|number| number.parse().ok()).ok_or(BAD_REQUEST)?;
                bucket.put_part(id, &self.key, number, self.body.clone()).ok_or(NO_UPLOAD)?;
                Ok(with_body(Response::builder().header(ETAG, format!("\"{number}\"")), ""))
            }
            (&Method::POST, Some(id)) => {
                let generation = bucket.complete_upload(id, &self.key, self.now).ok_or(NO_UPLOAD)?;
                let text = format!(
                    "<CompleteMultipartUploadResult><ETag>\"{generation}\"</ETag></CompleteMultipartUploadResult>"
                );
                Ok(with_body(Response::builder().header(GENERATION, generation), text))
            }
            (&Method::DELETE, Some(id)) => bucket.abort_upload(id).map(|()| no_content()).ok_or(NO_UPLOAD),
            (&Method::POST, None) if self.query.contains_key("uploads") => {
                let id = bucket.begin_upload(&self.key, self.metadata());
                let text =
                    format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>");
                Ok(with_body(Response::builder(), text))
            }
            (&Method::PUT, None) => {
                let generation = bucket.write(&self.key, self.body.clone(), self.metadata(), self.now);
                let head = Response::builder().header(GENERATION, generation).header(ETAG, format!("\"{generation}\""));
                Ok(with_body(head, ""))
            }
            (&Method::DELETE, None) => bucket.objects.remove(&self.key).map(|_| no_content()).ok_or(NO_KEY),
            _ => Err(NO_METHOD),
        }
    }

    /// Compares the generation that the request names with the object's; 0 is the one of no object.
    fn check_generation(&self, bucket: &GcsBucket) -> Result<(), GcsRefusal> {
        let Some(wanted) = self.parts.headers.get(IF_GENERATION) else { return Ok(()) };
        let wanted: u64 = wanted.to_str().ok().and_then(|text| text.parse().ok()).ok_or(BAD_REQUEST)?;
        if wanted == bucket.generation(&self.key) { Ok(()) } else { Err(BAD_CONDITION) }
    }

    fn metadata(&self) -> ObjectMetadata {
        let headers = self.parts.headers.iter().filter(|(name, _)| name.as_str().starts_with("x-goog-meta-"));
        headers.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    fn read(&self, object: &GcsObject) -> Result<GcsResponse, GcsRefusal> {
        let mut head = Response::builder()
            .header(LAST_MODIFIED, http_date(object.time))
            .header(GENERATION, object.generation)
            .header(ETAG, format!("\"{}\"", object.generation));
        for (name, value) in &object.metadata {
            head = head.header(name, value);
        }
        let size = object.body.len();
        let Some((first, end)) = range(&self.parts.headers, size) else {
            return Ok(with_body(head, object.body.clone()));
        };
        if first >= end {
            return Err(BAD_RANGE);
        }
        let head = head.status(StatusCode::PARTIAL_CONTENT);
        let head = head.header(CONTENT_RANGE, format!("bytes {first}-{}/{size}", end - 1));
        Ok(with_body(head, object.body.slice(first..end)))
    }

    /// A page, after the key of `start-after` and that of the token of the page before.
    fn list(&self, bucket: &GcsBucket) -> GcsResponse {
        let value = |name: &str| self.query.get(name).map(String::as_str).unwrap_or_default();
        let after = value("start-after").max(value("continuation-token"));
        let ListingPage { found, next } = bucket.list(value("prefix"), after);
        let mut text = "<?xml version='1.0' encoding='UTF-8'?><ListBucketResult>".to_owned();
        for (key, size, time) in found {
            let key = xml(&key);
            let _ = write!(
                text,
                "<Contents><Key>{key}</Key><Size>{size}</Size><LastModified>{time:.3}</LastModified></Contents>"
            );
        }
        if let Some(next) = next {
            let _ = write!(text, "<NextContinuationToken>{}</NextContinuationToken>", xml(&next));
        }
        text.push_str("</ListBucketResult>");
        with_body(Response::builder(), text)
    }
}

/// The first byte that is asked for and the one after the last, of a body of `size` bytes.
fn range(headers: &HeaderMap, size: usize) -> Option<(usize, usize)> {
    let (first, last) = headers.get(RANGE)?.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
    let end = last.parse().map_or(size, |last: usize| size.min(last.saturating_add(1)));
    Some((first.parse().ok()?, end))
}

fn xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\n', "&#10;").replace('\r', "&#13;")
}

fn with_body(head: Builder, body: impl Into<Bytes>) -> GcsResponse {
    let body = body.into();
    let length = body.len();
    // An answer whose head cannot be built has none of the headers that clients require, so that they report it.
    head.header(CONTENT_LENGTH, length).body(Full::new(body)).unwrap_or_default()
}

fn no_content() -> GcsResponse {
    let mut answer = GcsResponse::default();
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

fn http_date(time: Timestamp) -> HeaderValue {
    let text = DateTimePrinter::new().timestamp_to_rfc9110_string(&time).unwrap_or_default();
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))
}

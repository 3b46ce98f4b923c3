//! The HTTP client below `object_store`, for what that crate does not pass on.
//!
//! It counts requests, keeps the `Date` of each answer, and escapes invalid keys in the pages of a listing (see
//! [`crate::keys`]).

use std::borrow::Cow;

use async_trait::async_trait;
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
    },
};
use quick_xml::{Reader, escape::unescape, events::Event};

use crate::{
    keys,
    request_counter::{RequestCounter, operation},
    time::StoreSecond,
};

/// The store's clock when it answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnswerTime(pub(crate) StoreSecond);

/// Connects as `object_store` would, with an [`RequestObserver`] in between.
#[derive(Debug)]
pub(crate) struct ObservedConnector {
    /// Where requests are counted.
    pub(crate) requests: RequestCounter,
}

impl HttpConnector for ObservedConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(RequestObserver { inner, requests: self.requests.clone() }))
    }
}

#[derive(Debug)]
struct RequestObserver {
    inner: HttpClient,
    requests: RequestCounter,
}

#[async_trait]
impl HttpService for RequestObserver {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let listing = is_listing(request.method().as_str(), request.uri().query().unwrap_or_default());
        let operation = operation(request.method().as_str(), listing);
        let answer = self.inner.execute(request).await;
        self.requests.count(operation, answer.as_ref().ok().map(|answer| answer.status().as_u16()));
        let mut response = answer?;
        if let Some(answered) = date(&response) {
            response.extensions_mut().insert(AnswerTime(answered));
        }
        if !listing || !response.status().is_success() {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let page = body.bytes().await?;
        let page = std::str::from_utf8(&page).map_err(|error| HttpError::new(HttpErrorKind::Decode, error))?;
        Ok(HttpResponse::from_parts(parts, escape_page(page).into_owned().into()))
    }
}

fn is_listing(method: &str, query: &str) -> bool {
    method == "GET" && query.split('&').any(|pair| matches!(pair, "list-type=2" | "versions=" | "comp=list"))
}

fn date(response: &HttpResponse) -> Option<StoreSecond> {
    let date = response.headers().get("date")?.to_str().ok()?;
    parse_date(date)
}

/// The second of an HTTP date, as in `Sun, 06 Nov 1994 08:49:37 GMT`.
pub(crate) fn parse_date(date: &str) -> Option<StoreSecond> {
    let time = jiff::fmt::rfc2822::parse(date).ok()?;
    Some(StoreSecond::floor(time.timestamp()))
}

/// `page` of a listing with each invalid key escaped.
fn escape_page(page: &str) -> Cow<'_, str> {
    // S3 and Google name an object by `Key`, Azure by `Name`.
    let tag: &[u8] = if page.contains("<EnumerationResults") { b"Name" } else { b"Key" };
    let mut reader = Reader::from_str(page);
    let mut escaped = String::new();
    let mut copied = 0;
    // The transport parses the page after this and reports what is no XML.
    while let Ok(event) = reader.read_event() {
        match event {
            Event::Start(element) if element.name().as_ref() == tag => {
                let Ok(span) = reader.read_to_end(element.name()) else { break };
                let (Ok(start), Ok(end)) = (usize::try_from(span.start), usize::try_from(span.end)) else { break };
                let text = &page[start..end];
                // A text with an unknown entity is compared as it stands.
                let key = unescape(text).unwrap_or(Cow::Borrowed(text));
                if keys::is_invalid(&key) {
                    escaped.push_str(&page[copied..start]);
                    escaped.push_str(&keys::escaped(&key));
                    copied = end;
                }
            }
            Event::Eof => break,
            _ => {}
        }
    }
    if copied == 0 {
        return Cow::Borrowed(page);
    }
    escaped.push_str(&page[copied..]);
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn page(keys: &[&str]) -> String {
        let contents =
            keys.iter().map(|key| ["<Contents><Key>", key, "</Key></Contents>"].concat()).collect::<String>();
        format!("<ListBucketResult><Name>b</Name><KeyCount>2</KeyCount>{contents}</ListBucketResult>")
    }

    #[test]
    fn a_page_without_invalid_keys_stays_as_it_is() {
        let page = page(&["log/a", "log/b&amp;c"]);
        assert!(matches!(escape_page(&page), Cow::Borrowed(same) if same == page));
    }

    #[test]
    fn invalid_keys_are_escaped_in_place() {
        let before = page(&["log/a", "log//x", "log/../x", "log/&#x1;", "log/z"]);
        let after = page(&[
            "log/a",
            &keys::escaped("log//x"),
            &keys::escaped("log/../x"),
            &keys::escaped("log/\u{1}"),
            "log/z",
        ]);
        assert_eq!(escape_page(&before), after);
    }

    #[test]
    fn azure_names_objects_differently() {
        let page = "<EnumerationResults><Blobs><Blob><Name>a//b</Name></Blob></Blobs></EnumerationResults>";
        assert!(escape_page(page).contains(&keys::escaped("a//b")));
    }

    #[test]
    fn reads_http_dates() {
        let second = parse_date("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(second, Some(StoreSecond::from_unix(784_111_777)));
        assert_eq!(parse_date("yesterday"), None);
    }

    #[test]
    fn knows_a_listing_by_its_query() {
        assert!(is_listing("GET", "list-type=2&prefix=log%2F"));
        assert!(is_listing("GET", "prefix=x&versions="));
        assert!(is_listing("GET", "restype=container&comp=list"));
        assert!(!is_listing("GET", "prefix=list-type=2"));
        assert!(!is_listing("PUT", "list-type=2"));
    }

    proptest! {
        #[test]
        fn any_page_is_read_without_a_panic(page in "(<Key>|</Key>|&|;|#|x|//|é|[0-9a-f])*") {
            let _ = escape_page(&page);
        }
    }
}

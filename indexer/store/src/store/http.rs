//! The HTTP client below `object_store`, which sees what that crate does not hand on.
//!
//! It keeps each answer's `Date`, and it escapes hostile keys in the pages of a listing (see [`super::keys`]).

use std::borrow::Cow;

use async_trait::async_trait;
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
    },
};

use super::{
    keys,
    requests::{RequestCounter, operation},
};
use crate::StoreSecond;

/// The store's clock when it answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered(pub(crate) StoreSecond);

/// Connects as `object_store` would, with an [`Observer`] in between.
#[derive(Debug)]
pub(crate) struct Connector {
    /// Where requests are counted.
    pub(crate) requests: RequestCounter,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Observer { inner, requests: self.requests.clone() }))
    }
}

#[derive(Debug)]
struct Observer {
    inner: HttpClient,
    requests: RequestCounter,
}

#[async_trait]
impl HttpService for Observer {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let listing = is_listing(request.method().as_str(), request.uri().query().unwrap_or_default());
        let operation = operation(request.method().as_str(), listing);
        let answer = self.inner.execute(request).await;
        self.requests.count(operation, answer.as_ref().ok().map(|answer| answer.status().as_u16()));
        let mut response = answer?;
        if let Some(answered) = date(&response) {
            response.extensions_mut().insert(Answered(answered));
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
    method == "GET" && query.split('&').any(|pair| pair == "list-type=2" || pair == "comp=list")
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

/// `page` of a listing with each hostile key escaped.
fn escape_page(page: &str) -> Cow<'_, str> {
    // S3 and Google name an object by `Key`, Azure by `Name`.
    let tag = if page.contains("<EnumerationResults") { "Name" } else { "Key" };
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    let mut escaped = String::new();
    let mut copied = 0;
    let mut at = 0;
    while let Some((start, end)) = element(page, at, &open, &close) {
        let key = unescape_xml(&page[start..end]);
        if keys::is_hostile(&key) {
            escaped.push_str(&page[copied..start]);
            escaped.push_str(&keys::escaped(&key));
            copied = end;
        }
        at = end;
    }
    if copied == 0 {
        return Cow::Borrowed(page);
    }
    escaped.push_str(&page[copied..]);
    Cow::Owned(escaped)
}

/// Where the text of the next element at or after `at` starts and ends.
fn element(page: &str, at: usize, open: &str, close: &str) -> Option<(usize, usize)> {
    let start = at + page[at..].find(open)? + open.len();
    let end = start + page[start..].find(close)?;
    Some((start, end))
}

/// The text that an XML text node means. What is no known entity stays as it is.
fn unescape_xml(text: &str) -> Cow<'_, str> {
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('&') {
        plain.push_str(&rest[..start]);
        rest = &rest[start..];
        if let Some((character, end)) = rest.find(';').and_then(|end| Some((entity(&rest[1..end])?, end))) {
            plain.push(character);
            rest = &rest[end + 1..];
        } else {
            plain.push('&');
            rest = &rest[1..];
        }
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

fn entity(name: &str) -> Option<char> {
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let code = name.strip_prefix('#')?;
            let code = match code.strip_prefix(['x', 'X']) {
                Some(digits) => u32::from_str_radix(digits, 16),
                None => code.parse(),
            };
            char::from_u32(code.ok()?)
        }
    }
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
    fn a_page_without_hostile_keys_stays_as_it_is() {
        let page = page(&["log/a", "log/b&amp;c"]);
        assert!(matches!(escape_page(&page), Cow::Borrowed(same) if same == page));
    }

    #[test]
    fn hostile_keys_are_escaped_in_place() {
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

//! What the destinations that are asked over HTTP share: the client, its bounds, and what an answer's status means.

use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::fmt::rfc2822;
use reqwest::{
    Certificate, Client, ClientBuilder, Method, RequestBuilder, Response, StatusCode,
    header::{AUTHORIZATION, DATE, HeaderMap, HeaderValue, RETRY_AFTER},
    redirect::Policy,
};
use tidemark_store::error_chain;
use url::{Host, Url};

use super::{
    address_guard::{GuardedResolver, check_literal},
    destination::BatchAnswer,
};

/// How much of an answer that is no success is kept for people.
const MAX_DETAIL_BYTES: usize = 512;

/// Where to send records, and how.
#[derive(Clone, Debug)]
pub struct HttpDestinationOptions {
    /// Where.
    pub url: Url,
    /// How long a request may take, with its answer.
    pub timeout: Duration,
    /// The file with the value of the header `Authorization`; read again for each request.
    pub authorization: Option<PathBuf>,
    /// The file with the certificates of the authorities to trust, in place of the system's.
    pub authorities: Option<PathBuf>,
    /// Whether a destination that is not on loopback may be asked without TLS.
    pub allow_http: bool,
    /// Whether link-local addresses and those of metadata services may be asked.
    pub allow_link_local: bool,
}

/// Why nothing can be sent to a destination.
#[derive(Debug, thiserror::Error)]
pub enum InvalidDestination {
    /// No destination was named.
    #[error("no destination was named; nothing is delivered; give --webhook, --elasticsearch or --websocket")]
    None,
    /// The URL is none of a destination.
    #[error("\"{url}\" is no destination: {why}; nothing is delivered; {remedy}")]
    Url {
        /// The URL.
        url: String,
        /// Why.
        why: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A file cannot be used.
    #[error("\"{path}\" cannot be used: {why}; nothing is delivered; correct the file", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The client cannot be made.
    #[error("the HTTP client cannot be made: {0}; nothing is delivered")]
    Client(String),
}

impl InvalidDestination {
    /// The URL is none of a destination.
    pub(super) fn url(url: &Url, why: String, remedy: &'static str) -> Self {
        Self::Url { url: without_secrets(url), why, remedy }
    }
}

/// Sends requests to one destination. It follows no redirects, uses no proxy, and verifies certificates.
#[derive(Debug)]
pub(super) struct DestinationClient {
    client: Client,
    options: HttpDestinationOptions,
}

impl DestinationClient {
    pub(super) fn new(options: HttpDestinationOptions) -> Result<Self, InvalidDestination> {
        Self::with(options, Client::builder(), GuardedResolver::default())
    }

    /// One whose connections may become those of another protocol.
    pub(super) fn for_upgrades(options: HttpDestinationOptions) -> Result<Self, InvalidDestination> {
        Self::with(options, Client::builder().http1_only(), GuardedResolver::default())
    }

    fn with(
        options: HttpDestinationOptions,
        builder: ClientBuilder,
        resolver: GuardedResolver,
    ) -> Result<Self, InvalidDestination> {
        let url = &options.url;
        let refused = |why: String, remedy| InvalidDestination::url(url, why, remedy);
        if !url.username().is_empty() || url.password().is_some() {
            let why = "it holds credentials, which would be logged".to_owned();
            return Err(refused(why, "put them into a file, and name that with --authorization-file"));
        }
        match url.scheme() {
            "https" => {}
            "http" if options.allow_http || is_loopback(url) => {}
            "http" => {
                let why = "\"http\" would send records and credentials in the clear".to_owned();
                return Err(refused(why, "use https://, or give --allow-http"));
            }
            other => return Err(refused(format!("its scheme is \"{other}\""), "use https://")),
        }
        if !options.allow_link_local {
            check_literal(url).map_err(|error| refused(error.to_string(), "name another destination"))?;
        }
        let mut builder = builder.timeout(options.timeout).redirect(Policy::none()).no_proxy();
        if !options.allow_link_local {
            builder = builder.dns_resolver(Arc::new(resolver));
        }
        if let Some(path) = &options.authorities {
            let unusable = |why: String| InvalidDestination::File { path: path.clone(), why };
            let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
            let trusted = Certificate::from_pem_bundle(&pem).map_err(|error| unusable(error.to_string()))?;
            if trusted.is_empty() {
                return Err(unusable("it holds no certificate in PEM".to_owned()));
            }
            builder = builder.tls_certs_only(trusted);
        }
        let client = builder.build().map_err(|error| InvalidDestination::Client(error_chain(&error)))?;
        Ok(Self { client, options })
    }

    pub(super) fn url(&self) -> &Url {
        &self.options.url
    }

    /// How long a request may take, with its answer.
    pub(super) fn timeout(&self) -> Duration {
        self.options.timeout
    }

    /// A POST to `url`, with the credentials as they are now.
    pub(super) fn post(&self, url: Url) -> Result<RequestBuilder, BatchAnswer> {
        self.request(Method::POST, url)
    }

    /// A GET of `url`, with the credentials as they are now.
    pub(super) fn get(&self, url: Url) -> Result<RequestBuilder, BatchAnswer> {
        self.request(Method::GET, url)
    }

    /// A request to `url`, with the credentials as they are now.
    pub(super) fn request(&self, method: Method, url: Url) -> Result<RequestBuilder, BatchAnswer> {
        let request = self.client.request(method, url);
        let Some(path) = &self.options.authorization else { return Ok(request) };
        let unusable = |why: String| failed(format!("\"{}\" cannot be used as credentials: {why}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
        let mut value = HeaderValue::from_str(text.trim()).map_err(|error| unusable(error.to_string()))?;
        value.set_sensitive(true);
        Ok(request.header(AUTHORIZATION, value))
    }
}

/// Sends a request. A failure says nothing of whether it arrived.
pub(super) async fn send(request: RequestBuilder) -> Result<Response, BatchAnswer> {
    request.send().await.map_err(|error| failed(error_chain(&error.without_url())))
}

/// Reads the body of an answer; one of more than `limit` bytes is a failure.
pub(super) async fn read_body(answer: Response, limit: usize) -> Result<Vec<u8>, BatchAnswer> {
    let read = read_within(answer, limit).await?;
    read.ok_or_else(|| failed(format!("the answer has more than {limit} bytes")))
}

/// Reads the body of an answer; `None` if it has more than `limit` bytes.
pub(super) async fn read_within(mut answer: Response, limit: usize) -> Result<Option<Vec<u8>>, BatchAnswer> {
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(|error| failed(error_chain(&error.without_url())))? {
        if body.len() + part.len() > limit {
            return Ok(None);
        }
        body.extend_from_slice(&part);
    }
    Ok(Some(body))
}

/// What an answer means that is no success.
pub(super) async fn refusal(answer: Response) -> BatchAnswer {
    let (status, retry_after) = (answer.status(), retry_after(answer.headers()));
    let detail = read_start(answer).await;
    let why = format!("the destination answers {status}{}{detail}", if detail.is_empty() { "" } else { ": " });
    match status {
        // Of the records: others may be taken.
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
            BatchAnswer::Refused { why }
        }
        // Of the destination, its address or its credentials: so are redirects, which are not followed.
        _ => BatchAnswer::Failed { why, retry_after },
    }
}

pub(super) fn failed(why: String) -> BatchAnswer {
    BatchAnswer::Failed { why, retry_after: None }
}

/// The first bytes of an answer, on one line.
async fn read_start(mut answer: Response) -> String {
    let mut start = Vec::new();
    while let Ok(Some(part)) = answer.chunk().await {
        start.extend_from_slice(&part[..part.len().min(MAX_DETAIL_BYTES - start.len())]);
        if start.len() == MAX_DETAIL_BYTES {
            break;
        }
    }
    String::from_utf8_lossy(&start).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// How long a destination wants to be left alone: seconds, or a date, which is compared with that of the answer.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let wanted = text(RETRY_AFTER)?;
    if let Ok(seconds) = wanted.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let (until, now) = (rfc2822::parse(wanted).ok()?.timestamp(), rfc2822::parse(text(DATE)?).ok()?.timestamp());
    Some(until.duration_since(now).try_into().unwrap_or_default())
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(v4)) => v4.is_loopback(),
        Some(Host::Ipv6(v6)) => v6.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// The URL as it may be logged.
fn without_secrets(url: &Url) -> String {
    let mut shown = url.clone();
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_query(None);
    shown.to_string()
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::delivery::address_guard::NameLookUp;

    fn options(url: &str) -> HttpDestinationOptions {
        HttpDestinationOptions {
            url: url.parse().unwrap(),
            timeout: Duration::from_secs(1),
            authorization: None,
            authorities: None,
            allow_http: false,
            allow_link_local: false,
        }
    }

    fn refused(options: HttpDestinationOptions) -> String {
        DestinationClient::new(options).unwrap_err().to_string()
    }

    #[test]
    fn a_url_that_would_leak_or_lead_astray_is_refused() {
        for (url, why) in [
            ("http://example.org/", "in the clear"),
            ("ftp://example.org/", "scheme is \"ftp\""),
            ("https://user:hunter2@example.org/", "credentials"),
            ("https://169.254.169.254/latest", "link-local"),
        ] {
            let error = refused(options(url));
            assert!(error.contains(why) && !error.contains("hunter2"), "{error}");
        }
        for url in ["https://example.org/", "http://127.0.0.1:1/", "http://localhost/", "http://[::1]/"] {
            assert!(DestinationClient::new(options(url)).is_ok(), "{url}");
        }
        let allowed = HttpDestinationOptions { allow_http: true, ..options("http://example.org/") };
        assert!(DestinationClient::new(allowed).is_ok());
        let allowed = HttpDestinationOptions { allow_link_local: true, ..options("https://169.254.169.254/") };
        assert!(DestinationClient::new(allowed).is_ok());
    }

    /// A client for which these names lead where they say: to a link, to this machine, or to both.
    fn client_of_names(options: HttpDestinationOptions) -> DestinationClient {
        let look_up: NameLookUp = |name| {
            let (link, loopback) = ("169.254.169.254:0".parse().unwrap(), "127.0.0.1:0".parse().unwrap());
            Box::pin(async move {
                match name.as_str() {
                    "link.test" => Ok(vec![link]),
                    "loopback.test" => Ok(vec![loopback]),
                    "both.test" => Ok(vec![link, loopback]),
                    _ => Err(io::Error::other("no such name")),
                }
            })
        };
        DestinationClient::with(options, Client::builder(), GuardedResolver { look_up }).unwrap()
    }

    #[tokio::test]
    async fn a_name_that_leads_to_a_link_gets_nothing_unless_that_is_allowed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let app = axum::Router::new().fallback(async || "taken");
        tokio::spawn(async move { axum::serve(listener, app).await });
        let post = async |name: &str| {
            let options = options(&format!("http://{name}:{port}/"));
            let client = client_of_names(HttpDestinationOptions { allow_http: true, ..options });
            send(client.post(client.url().clone()).ok().unwrap()).await.map(|answer| answer.status())
        };
        let Err(BatchAnswer::Failed { why, .. }) = post("link.test").await else { panic!("it was sent") };
        assert!(why.contains("\"link.test\" is at 169.254.169.254, a link-local address"), "{why}");
        // What is not refused is used.
        for name in ["loopback.test", "both.test"] {
            assert_eq!(post(name).await.ok(), Some(StatusCode::OK), "{name}");
        }
        // Where it is allowed the system resolves.
        let allowed = options(&format!("http://localhost:{port}/"));
        let allowed = client_of_names(HttpDestinationOptions { allow_link_local: true, ..allowed });
        assert!(send(allowed.post(allowed.url().clone()).ok().unwrap()).await.is_ok());
    }

    #[test]
    fn a_file_without_certificates_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        let error = refused(HttpDestinationOptions { authorities: Some(path), ..options("https://example.org/") });
        assert!(error.contains("no certificate"), "{error}");
    }

    #[test]
    fn a_destination_may_ask_for_seconds_or_for_a_date() {
        let wanted = |pairs: &[(reqwest::header::HeaderName, &'static str)]| {
            retry_after(&pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect())
        };
        assert_eq!(wanted(&[(RETRY_AFTER, "120")]), Some(Duration::from_mins(2)));
        let (date, later) = ("Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:30 GMT");
        assert_eq!(wanted(&[(RETRY_AFTER, later), (DATE, date)]), Some(Duration::from_secs(30)));
        assert_eq!(wanted(&[(RETRY_AFTER, date), (DATE, later)]), Some(Duration::ZERO));
        for absent in [&[][..], &[(RETRY_AFTER, "soon")], &[(RETRY_AFTER, later)], &[(RETRY_AFTER, "-1")]] {
            assert_eq!(wanted(absent), None, "{absent:?}");
        }
    }
}

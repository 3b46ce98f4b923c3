//! From a URL to a store.

mod azure;
mod google;
mod s3;

use std::{
    path::Path as FilePath,
    sync::{Arc, OnceLock},
    time::Duration,
};

use object_store::{Certificate, ClientOptions, ObjectStore, RetryConfig, memory::InMemory};
use url::Url;

use super::{
    Backend, RequestCounter, Signs, Store, StoreAccess, StoreEnvironment, StoreError,
    credentials::Folder as CredentialsFolder,
    folder::Folder,
    http::Connector,
    renewed::{Opened, Renewed},
};

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest silence of a store in the middle of a request, and longest wait for the answer to a write.
const SILENCE: Duration = Duration::from_secs(30);
/// Longest request, large bodies included.
const REQUEST: Duration = Duration::from_mins(10);

/// What kind of store a URL names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Memory,
    Folder,
    S3,
    Google,
    Azure,
}

impl Kind {
    pub(crate) fn of(url: &Url) -> Self {
        Self::named(url.scheme()).unwrap_or(Self::Memory)
    }

    fn named(scheme: &str) -> Option<Self> {
        match scheme {
            "memory" => Some(Self::Memory),
            "file" => Some(Self::Folder),
            "s3" => Some(Self::S3),
            "gs" => Some(Self::Google),
            "az" => Some(Self::Azure),
            _ => None,
        }
    }

    /// Whether the store is behind HTTP, with answers that have a date and absences that may be a missing bucket.
    pub(crate) fn speaks_http(self) -> bool {
        matches!(self, Self::S3 | Self::Google | Self::Azure)
    }

    /// The prefix of all keys of the store that `url` names. A folder's URL names the folder itself.
    pub(crate) fn base(self, url: &Url) -> String {
        if self == Self::Folder {
            return String::new();
        }
        let segments = url.path().split('/').filter(|segment| !segment.is_empty());
        segments.map(decoded).collect::<Vec<_>>().join("/")
    }
}

/// `segment` of a URL's path without its percent-encoding.
pub(crate) fn decoded(segment: &str) -> String {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let [first, tail @ ..] = rest {
        let escape = (*first == b'%').then(|| tail.get(..2).and_then(|digits| hex::decode(digits).ok())).flatten();
        if let Some(byte) = escape {
            bytes.extend(byte);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a store is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A folder is made if it does not exist.
    Writing,
    /// Nothing is changed.
    Reading,
}

pub(super) fn open(url: &Url, access: &StoreAccess, purpose: Purpose) -> Result<Store, StoreError> {
    let kind = match Kind::named(url.scheme()) {
        Some(Kind::Memory) => return Ok(Store::over(Arc::new(InMemory::new()), url.clone())),
        Some(Kind::Folder) => {
            let path = url.to_file_path();
            return folder(
                &path.map_err(|()| {
                    unusable(url, "it names no folder of this machine".to_owned(), "write \"file:///path\"")
                })?,
                purpose,
            );
        }
        Some(kind) => kind,
        None => {
            let scheme = url.scheme();
            return Err(unusable(url, format!("\"{scheme}\" is no known scheme"), "use s3, gs, az, file or memory"));
        }
    };
    let certificates = access.certificates(url.as_str())?;
    let transport = Transport { certificates, requests: access.requests.clone() };
    let (inner, signs) = match &access.credentials_dir {
        None => {
            let (inner, signing) = transport.open(kind, url, &access.environment)?;
            (inner, Signs::Always(signing))
        }
        Some(folder) => {
            let folder = CredentialsFolder::new(folder, kind, url.as_str());
            let (url, environment, transport) = (url.clone(), access.environment.clone(), transport.clone());
            let renewed = Renewed::new(
                url.clone().as_str(),
                folder,
                Box::new(move |credentials| transport.open(kind, &url, &credentials.over(&environment))),
            );
            (Arc::new(renewed.clone()) as Arc<dyn ObjectStore>, Signs::Renewed(renewed))
        }
    };
    let certificates = transport.certificates;
    Ok(Store::with(Backend { inner, kind, signs, certificates, client: OnceLock::new() }, url.clone()))
}

/// What the clients of a store have in common, whatever its credentials.
#[derive(Clone)]
struct Transport {
    /// In PEM.
    certificates: Option<Vec<u8>>,
    requests: RequestCounter,
}

impl Transport {
    fn open(&self, kind: Kind, url: &Url, environment: &StoreEnvironment) -> Result<Opened, StoreError> {
        match kind {
            Kind::S3 => s3::open(url, environment, self),
            Kind::Google => google::open(url, environment, self),
            Kind::Azure => azure::open(url, environment, self),
            Kind::Memory | Kind::Folder => {
                Err(unusable(url, "it takes no credentials".to_owned(), "leave the credentials folder out"))
            }
        }
    }

    fn connector(&self) -> Connector {
        Connector { requests: self.requests.clone() }
    }

    /// Set before the environment's settings, which may allow plain http.
    fn client_options(&self, url: &Url) -> Result<ClientOptions, StoreError> {
        let pem = self.certificates.as_deref().unwrap_or_default();
        let certificates = Certificate::from_pem_bundle(pem).map_err(|error| {
            unusable(url, error.to_string(), "put certificates in PEM into the file that the store's settings name")
        })?;
        let options =
            ClientOptions::new().with_connect_timeout(CONNECT).with_read_timeout(SILENCE).with_timeout(REQUEST);
        Ok(certificates.into_iter().fold(options, ClientOptions::with_root_certificate))
    }
}

pub(super) fn folder(path: &FilePath, purpose: Purpose) -> Result<Store, StoreError> {
    let (may, opened) = match purpose {
        Purpose::Writing => ("write", Folder::open(path)),
        Purpose::Reading => ("read", Folder::reading(path)),
    };
    let refused = |error: std::io::Error| StoreError::Unusable {
        url: format!("file://{}", path.display()),
        why: error.to_string(),
        remedy: format!("name a folder that this user may {may}"),
    };
    let (inner, path) = opened.map_err(refused)?;
    let url = Url::from_directory_path(&path).map_err(|()| refused(std::io::ErrorKind::InvalidFilename.into()))?;
    let backend = Backend::of(Arc::new(inner), Kind::Folder);
    Ok(Store::with(backend, url))
}

fn bucket(url: &Url) -> Result<&str, StoreError> {
    match url.host_str() {
        Some(bucket) if !bucket.is_empty() => Ok(bucket),
        _ => {
            Err(unusable(url, "it names no bucket".to_owned(), &format!("write \"{}://bucket/prefix\"", url.scheme())))
        }
    }
}

/// Every request is one attempt: [`super::retry`] repeats those that may be repeated.
fn one_attempt() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

/// Refuses an endpoint without encryption unless the variable `allow` allows it.
fn check_scheme(
    url: &Url,
    endpoint: Option<&str>,
    environment: &StoreEnvironment,
    allow: &str,
) -> Result<(), StoreError> {
    match endpoint {
        Some(endpoint) if endpoint.starts_with("http://") && !environment.is_true(allow) => Err(unusable(
            url,
            format!("its endpoint \"{endpoint}\" is plain http"),
            &format!("use https, or set {allow}=true to allow it"),
        )),
        _ => Ok(()),
    }
}

fn unusable(url: &Url, why: String, remedy: &str) -> StoreError {
    StoreError::Unusable { url: url.to_string(), why, remedy: remedy.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str, environment: &[(&str, &str)]) -> String {
        let environment: StoreEnvironment =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        open(&url.parse().unwrap(), &environment.into(), Purpose::Writing).unwrap_err().to_string()
    }

    #[test]
    fn a_url_that_cannot_be_opened_says_why() {
        assert!(refusal("ftp://host/x", &[]).contains("\"ftp\" is no known scheme"));
        assert!(refusal("s3:///x", &[]).contains("it names no bucket"));
        let plain = [("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")];
        assert!(refusal("s3://bucket/x", &plain).contains("set AWS_ALLOW_HTTP=true"));
        assert!(refusal("az://container/x", &[]).contains("AZURE_STORAGE_ACCOUNT"));
    }

    #[test]
    fn keys_lie_below_the_path_of_the_url() {
        let base = |url: &str| {
            let url = url.parse().unwrap();
            Kind::of(&url).base(&url)
        };
        assert_eq!(base("s3://bucket"), "");
        assert_eq!(base("s3://bucket/a/b%20c/"), "a/b c");
        assert_eq!(base("file:///tmp/x"), "");
        assert_eq!(base("memory:///log"), "log");
    }

    #[test]
    fn opening_asks_nothing_of_the_store() {
        let environment = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret")];
        let environment: StoreEnvironment =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let store = open(&"s3://bucket/log".parse().unwrap(), &environment.into(), Purpose::Writing).unwrap();
        assert_eq!(store.below("/x/y/").url().as_str(), "s3://bucket/log/x/y");
    }
}

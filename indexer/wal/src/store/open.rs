//! From a URL to a store.

use std::{path::Path as FilePath, sync::Arc, time::Duration};

use object_store::{
    ClientOptions, RetryConfig, aws::AmazonS3Builder, azure::MicrosoftAzureBuilder, gcp::GoogleCloudStorageBuilder,
    memory::InMemory,
};
use url::Url;

use super::{Backend, Environment, Store, StoreError, folder::Folder, http::Connector};

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest request: the `R` that the log's parameters assume must not be shorter.
const REQUEST: Duration = Duration::from_secs(30);

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
fn decoded(segment: &str) -> String {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let [first, tail @ ..] = rest {
        let escape = (*first == b'%')
            .then(|| tail.get(..2).and_then(|digits| hex::decode(digits).ok()))
            .flatten();
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

pub(super) fn open(url: &Url, environment: &Environment) -> Result<Store, StoreError> {
    match Kind::named(url.scheme()) {
        Some(Kind::Memory) => Ok(Store::over(Arc::new(InMemory::new()), url.clone())),
        Some(Kind::Folder) => {
            let path = url
                .to_file_path()
                .map_err(|()| unusable(url, "it names no folder of this machine".to_owned()))?;
            folder(&path)
        }
        Some(Kind::S3) => s3(url, environment),
        Some(Kind::Google) => google(url, environment),
        Some(Kind::Azure) => azure(url, environment),
        None => Err(unusable(
            url,
            format!(
                "\"{}\" is no known scheme; use s3, gs, az, file or memory",
                url.scheme()
            ),
        )),
    }
}

pub(super) fn folder(path: &FilePath) -> Result<Store, StoreError> {
    let refused = |error: std::io::Error| StoreError::Unusable {
        url: format!("file://{}", path.display()),
        why: format!("{error}; name a folder that this user may write"),
    };
    let (inner, path) = Folder::open(path).map_err(refused)?;
    let url = Url::from_directory_path(&path).map_err(|()| refused(std::io::ErrorKind::InvalidFilename.into()))?;
    let kind = Kind::Folder;
    Ok(Store::with(
        Backend {
            inner: Arc::new(inner),
            kind,
        },
        url,
    ))
}

fn s3(url: &Url, environment: &Environment) -> Result<Store, StoreError> {
    let bucket = bucket(url)?;
    let mut builder = AmazonS3Builder::new().with_client_options(client_options());
    for (setting, value) in environment.settings("AWS_") {
        builder = builder.with_config(setting, value);
    }
    let builder = builder
        .with_bucket_name(bucket)
        .with_http_connector(Connector)
        .with_retry(one_attempt());
    let inner = builder.build().map_err(|error| unusable(url, error.to_string()))?;
    let kind = Kind::S3;
    Ok(Store::with(
        Backend {
            inner: Arc::new(inner),
            kind,
        },
        url.clone(),
    ))
}

fn google(url: &Url, environment: &Environment) -> Result<Store, StoreError> {
    let bucket = bucket(url)?;
    let mut builder = GoogleCloudStorageBuilder::new().with_client_options(client_options());
    for (setting, value) in environment.settings("GOOGLE_") {
        builder = builder.with_config(setting, value);
    }
    if let Some(path) = environment.get("SERVICE_ACCOUNT") {
        builder = builder.with_service_account_path(path);
    }
    let builder = builder
        .with_bucket_name(bucket)
        .with_http_connector(Connector)
        .with_retry(one_attempt());
    let inner = builder.build().map_err(|error| unusable(url, error.to_string()))?;
    let kind = Kind::Google;
    Ok(Store::with(
        Backend {
            inner: Arc::new(inner),
            kind,
        },
        url.clone(),
    ))
}

fn azure(url: &Url, environment: &Environment) -> Result<Store, StoreError> {
    let container = bucket(url)?;
    let mut builder = MicrosoftAzureBuilder::new().with_client_options(client_options());
    for (setting, value) in environment.settings("AZURE_") {
        builder = builder.with_config(setting, value);
    }
    let builder = builder
        .with_container_name(container)
        .with_http_connector(Connector)
        .with_retry(one_attempt());
    let inner = builder.build().map_err(|error| unusable(url, error.to_string()))?;
    let kind = Kind::Azure;
    Ok(Store::with(
        Backend {
            inner: Arc::new(inner),
            kind,
        },
        url.clone(),
    ))
}

fn bucket(url: &Url) -> Result<&str, StoreError> {
    match url.host_str() {
        Some(bucket) if !bucket.is_empty() => Ok(bucket),
        _ => Err(unusable(
            url,
            format!("it names no bucket; write \"{}://bucket/prefix\"", url.scheme()),
        )),
    }
}

/// Every request is one attempt: [`super::retry`] repeats those that may be repeated.
fn one_attempt() -> RetryConfig {
    RetryConfig {
        max_retries: 0,
        ..RetryConfig::default()
    }
}

/// Set before the environment's settings, which may allow plain http.
fn client_options() -> ClientOptions {
    ClientOptions::new().with_connect_timeout(CONNECT).with_timeout(REQUEST)
}

fn unusable(url: &Url, why: String) -> StoreError {
    StoreError::Unusable {
        url: url.to_string(),
        why,
    }
}

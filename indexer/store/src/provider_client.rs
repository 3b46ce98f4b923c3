//! What the clients of all providers have in common.

use std::{sync::Arc, time::Duration};

use object_store::{Certificate, ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use crate::{
    certificates::TrustedCertificates,
    configuration::{ConfiguredValue, StoreConfiguration},
    environment::StoreEnvironment,
    errors::StoreError,
    http::ObservedConnector,
    object_versions::ListVersions,
    request_counter::RequestCounter,
    scheme::StoreScheme,
    sign::SignPut,
};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a store may be silent within a request, and how long the answer to a write may take.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a request may take, large bodies included.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(10);

/// A provider's transport, and what signs requests for it.
#[derive(Clone)]
pub(crate) struct ProviderClient {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) signer: Arc<dyn SignPut>,
    /// `None` where versions are not read.
    pub(crate) versions: Option<Arc<dyn ListVersions>>,
    /// The client of signed URLs, which trusts the same authorities.
    pub(crate) http: reqwest::Client,
    pub(crate) configuration: Arc<StoreConfiguration>,
}

/// The connection settings of a store's clients, whatever its credentials.
#[derive(Clone)]
pub(crate) struct TransportSettings {
    /// Authorities that sign the server's certificate in place of those that the system trusts.
    pub(crate) certificates: Option<TrustedCertificates>,
    pub(crate) requests: RequestCounter,
}

impl TransportSettings {
    pub(crate) fn connector(&self) -> ObservedConnector {
        ObservedConnector { requests: self.requests.clone() }
    }

    /// Options that a builder takes before the environment's settings, which may allow plain http.
    pub(crate) fn client_options(&self, url: &Url) -> Result<ClientOptions, StoreError> {
        let pem = self.certificates.as_ref().map(|certificates| certificates.pem.as_slice()).unwrap_or_default();
        let certificates = Certificate::from_pem_bundle(pem).map_err(|error| {
            unusable(url, error.to_string(), "put certificates in PEM into the file that the store's settings name")
        })?;
        let options = ClientOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_read_timeout(READ_TIMEOUT)
            .with_timeout(REQUEST_TIMEOUT)
            .with_no_system_certificates(self.certificates.is_some());
        Ok(certificates.into_iter().fold(options, ClientOptions::with_root_certificate))
    }

    /// The part of the configuration that all providers have.
    pub(crate) fn configuration(&self, scheme: StoreScheme, url: &Url) -> StoreConfiguration {
        let certificates = self.certificates.as_ref().map(|certificates| certificates.file.clone());
        StoreConfiguration { certificates, ..StoreConfiguration::local(scheme, url) }
    }

    /// An HTTP client that trusts the same authorities. `builder` may have settings of its own.
    pub(crate) fn http_client(
        &self,
        url: &Url,
        builder: reqwest::ClientBuilder,
    ) -> Result<reqwest::Client, StoreError> {
        let refused = |error: reqwest::Error| {
            unusable(
                url,
                format!("no HTTP client can be made: {error}"),
                "check the certificates in the store's settings",
            )
        };
        let builder = match &self.certificates {
            None => builder,
            Some(trusted) => {
                builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(&trusted.pem).map_err(refused)?)
            }
        };
        builder.build().map_err(refused)
    }
}

/// The bucket or container of `url`.
pub(crate) fn bucket_name(url: &Url) -> Result<&str, StoreError> {
    match url.host_str() {
        Some(bucket) if !bucket.is_empty() => Ok(bucket),
        _ => {
            Err(unusable(url, "it names no bucket".to_owned(), &format!("write \"{}://bucket/prefix\"", url.scheme())))
        }
    }
}

/// The transport never retries: a create must not meet itself. [`crate::retry`] retries what may be repeated.
pub(crate) fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

/// Refuses an endpoint without encryption unless the variable `allow` allows it.
pub(crate) fn check_encryption(
    url: &Url,
    endpoint: Option<&ConfiguredValue>,
    environment: &StoreEnvironment,
    allow: &str,
) -> Result<(), StoreError> {
    match endpoint {
        Some(endpoint) if endpoint.value.starts_with("http://") && !environment.is_true(allow) => Err(unusable(
            url,
            format!("its endpoint {endpoint} is plain http"),
            &format!("use https, or set {allow}=true to allow it"),
        )),
        _ => Ok(()),
    }
}

/// The refusal of settings that a provider's builder cannot use.
pub(crate) fn bad_settings(url: &Url, error: &object_store::Error) -> StoreError {
    unusable(url, error.to_string(), "correct the store's settings or the environment")
}

pub(crate) fn unusable(url: &Url, why: String, remedy: &str) -> StoreError {
    StoreError::Unusable { url: url.to_string(), why, remedy: remedy.to_owned() }
}

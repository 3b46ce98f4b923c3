//! The HTTP client that AWS's crate asks for credentials with: the product's own, so that there is one TLS stack.

use std::time::Duration;

use aws_smithy_runtime_api::client::{
    http::{HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector},
    orchestrator::{HttpRequest, HttpResponse},
    result::ConnectorError,
    runtime_components::RuntimeComponents,
};
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use url::Url;

use crate::{errors::StoreError, provider_client::TransportSettings};

/// How long a request may take where AWS's crate names no time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends the requests for credentials.
#[derive(Clone, Debug)]
pub(super) struct CredentialsHttpClient {
    services: reqwest::Client,
    /// Plain http is what the machine or the container gives: no proxy is between.
    metadata: reqwest::Client,
}

#[derive(Debug)]
struct CredentialsConnector {
    client: CredentialsHttpClient,
    timeout: Duration,
}

impl CredentialsHttpClient {
    /// `services` is for what speaks https.
    pub(super) fn new(url: &Url, transport: &TransportSettings, services: reqwest::Client) -> Result<Self, StoreError> {
        Ok(Self { services, metadata: transport.http_client(url, reqwest::Client::builder().no_proxy())? })
    }

    async fn send(self, request: HttpRequest, timeout: Duration) -> Result<HttpResponse, ConnectorError> {
        let (parts, body) = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?.into_parts();
        let body = body.bytes().map(Bytes::copy_from_slice);
        let body =
            body.ok_or_else(|| ConnectorError::user("a request for credentials has no body in memory".into()))?;
        let uri = parts.uri.to_string();
        let client = if uri.starts_with("http://") { self.metadata } else { self.services };
        let request = client.request(parts.method, uri).headers(parts.headers).body(body).timeout(timeout);
        let answer = request.send().await.map_err(failure)?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = answer.bytes().await.map_err(failure)?;
        let invalid = |error: aws_smithy_runtime_api::http::HttpError| ConnectorError::other(error.into(), None);
        let mut response = HttpResponse::new(status.try_into().map_err(invalid)?, SdkBody::from(body));
        for (name, value) in &headers {
            // A header that is no text says nothing about credentials.
            if let Ok(value) = value.to_str() {
                response.headers_mut().append(name.as_str().to_owned(), value.to_owned());
            }
        }
        Ok(response)
    }
}

fn failure(error: reqwest::Error) -> ConnectorError {
    if error.is_timeout() { ConnectorError::timeout(error.into()) } else { ConnectorError::io(error.into()) }
}

impl HttpClient for CredentialsHttpClient {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        let timeouts = settings.connect_timeout().zip(settings.read_timeout());
        let timeout = timeouts.map_or(REQUEST_TIMEOUT, |(connect, read)| connect + read);
        SharedHttpConnector::new(CredentialsConnector { client: self.clone(), timeout })
    }
}

impl HttpConnector for CredentialsConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::new(self.client.clone().send(request, self.timeout))
    }
}

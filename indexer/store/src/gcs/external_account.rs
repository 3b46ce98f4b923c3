//! Google: workload identity federation. A token of another provider, in a file or behind a URL, is exchanged for one of Google's.
//!
//! Google's own crate for it brings an HTTP client of its own, which would not trust a store's authorities.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use object_store::{CredentialProvider, gcp::GcpCredential};
use reqwest::header::CONTENT_TYPE;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use url::{Url, form_urlencoded};

use crate::{
    errors::{StoreError, error_chain},
    renewed_credential::{FreshCredential, RenewedCredential},
};

/// The `type` of such a credentials file.
pub(super) const EXTERNAL_ACCOUNT: &str = "external_account";
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// How long each of the requests may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a token of a service account is valid where no lifetime is asked for.
const SERVICE_ACCOUNT_VALIDITY: Duration = Duration::from_hours(1);

/// A credentials file of the type `external_account`.
#[derive(Clone, Deserialize)]
pub(super) struct ExternalAccount {
    audience: String,
    subject_token_type: String,
    token_url: Url,
    service_account_impersonation_url: Option<Url>,
    credential_source: SubjectTokenSource,
}

/// Where the token of the other provider is.
#[derive(Clone, Deserialize)]
struct SubjectTokenSource {
    file: Option<PathBuf>,
    url: Option<Url>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    format: SubjectTokenFormat,
}

/// How the token stands there: alone, or in a field of JSON.
#[derive(Clone, Default, Deserialize)]
struct SubjectTokenFormat {
    subject_token_field_name: Option<String>,
}

#[derive(Deserialize)]
struct ExchangedToken {
    access_token: String,
    expires_in: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServiceAccountToken {
    access_token: String,
}

/// Tokens of an external account, renewed before they end.
pub(super) struct ExternalAccountTokens {
    url: Url,
    account: ExternalAccount,
    http: reqwest::Client,
    current: RenewedCredential<GcpCredential>,
}

impl ExternalAccount {
    /// Reads a credentials file; what it lacks or names otherwise is the error.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let account: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let SubjectTokenSource { file, url, .. } = &account.credential_source;
        if file.is_none() && url.is_none() {
            return Err("its credential_source is neither a file nor a url, and no other kind is known".to_owned());
        }
        Ok(account)
    }

    /// The address of the service account that is impersonated.
    pub(super) fn service_account(&self) -> Option<String> {
        let last = self.service_account_impersonation_url.as_ref()?.path_segments()?.next_back()?;
        Some(last.strip_suffix(":generateAccessToken")?.replace("%40", "@"))
    }
}

impl ExternalAccountTokens {
    pub(super) fn new(url: Url, account: ExternalAccount, http: reqwest::Client) -> Self {
        Self { url, account, http, current: RenewedCredential::default() }
    }

    async fn fetch(&self) -> Result<FreshCredential<GcpCredential>, StoreError> {
        let ExternalAccount { audience, subject_token_type, token_url, service_account_impersonation_url, .. } =
            &self.account;
        let subject_token = self.subject_token().await?;
        let exchange = form_urlencoded::Serializer::new(String::new())
            .append_pair("audience", audience)
            .append_pair("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")
            .append_pair("requested_token_type", "urn:ietf:params:oauth:token-type:access_token")
            .append_pair("scope", SCOPE)
            .append_pair("subject_token", &subject_token)
            .append_pair("subject_token_type", subject_token_type)
            .finish();
        let request = self.http.post(token_url.clone()).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        let ExchangedToken { access_token, expires_in } = self.answer(token_url, request.body(exchange)).await?;
        let Some(url) = service_account_impersonation_url else {
            let credential = GcpCredential { bearer: access_token };
            return Ok(FreshCredential { credential, validity: Some(Duration::from_secs(expires_in)) });
        };
        let lifetime = format!("{}s", SERVICE_ACCOUNT_VALIDITY.as_secs());
        let request = self.http.post(url.clone()).bearer_auth(access_token);
        let request = request.json(&json!({ "scope": [SCOPE], "lifetime": lifetime }));
        let ServiceAccountToken { access_token } = self.answer(url, request).await?;
        let credential = GcpCredential { bearer: access_token };
        Ok(FreshCredential { credential, validity: Some(SERVICE_ACCOUNT_VALIDITY) })
    }

    /// The token of the other provider, read each time: it is short-lived.
    async fn subject_token(&self) -> Result<String, StoreError> {
        let SubjectTokenSource { file, url, headers, format } = &self.account.credential_source;
        let (text, place) = match (file, url) {
            (Some(file), _) => {
                let place = file.display().to_string();
                let read = tokio::fs::read_to_string(file).await;
                (read.map_err(|error| self.missing(&place, error.to_string()))?, place)
            }
            (None, Some(url)) => {
                let request = headers
                    .iter()
                    .fold(self.http.get(url.clone()), |request, (name, value)| request.header(name, value));
                (self.text(url, request).await?, url.to_string())
            }
            (None, None) => return Err(self.missing("credential_source", "it names no token".to_owned())),
        };
        let Some(field) = &format.subject_token_field_name else { return Ok(text.trim().to_owned()) };
        let answer: Value = serde_json::from_str(&text).map_err(|error| self.missing(&place, error.to_string()))?;
        let token = answer[field].as_str().map(str::to_owned);
        token.ok_or_else(|| self.missing(&place, format!("it has no field \"{field}\"")))
    }

    async fn answer<T: DeserializeOwned>(&self, url: &Url, request: reqwest::RequestBuilder) -> Result<T, StoreError> {
        let text = self.text(url, request).await?;
        serde_json::from_str(&text).map_err(|error| self.failed(url, &error.to_string()))
    }

    async fn text(&self, url: &Url, request: reqwest::RequestBuilder) -> Result<String, StoreError> {
        let failed = |error: reqwest::Error| self.failed(url, &error_chain(&error.without_url()));
        let answer = request.timeout(REQUEST_TIMEOUT).send().await.map_err(failed)?;
        let status = answer.status();
        let text = answer.text().await.map_err(failed)?;
        match status.as_u16() {
            200..300 => Ok(text),
            400..408 => Err(StoreError::Unusable {
                url: self.url.to_string(),
                why: format!("\"{url}\" gave no token: status {status}: {text:.400}"),
                remedy: "correct the credentials file, or the pool and provider of the workload identity".to_owned(),
            }),
            _ => Err(self.failed(url, &format!("status {status}: {text:.400}"))),
        }
    }

    fn failed(&self, url: &Url, why: &str) -> StoreError {
        let why = format!("\"{url}\" gave no token: {why}");
        StoreError::Failed { url: self.url.to_string(), key: "credentials".to_owned(), why }
    }

    fn missing(&self, file: &str, why: String) -> StoreError {
        let remedy = "let the platform put its token there, or correct credential_source".to_owned();
        StoreError::Missing { url: self.url.to_string(), file: file.to_owned(), why, remedy }
    }
}

#[async_trait]
impl CredentialProvider for ExternalAccountTokens {
    type Credential = GcpCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<GcpCredential>> {
        self.current.get(self.fetch()).await
    }
}

impl fmt::Debug for ExternalAccountTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExternalAccountTokens({})", self.account.audience)
    }
}

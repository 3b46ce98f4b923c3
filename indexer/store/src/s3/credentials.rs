//! Credentials as AWS's own crate finds them: variables, profiles (SSO, a process, roles), web identity, containers, instances.
//!
//! The keys that a folder of credentials or the environment names are not looked for here.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials as _, error::CredentialsError},
};
use aws_smithy_async::time::{SystemTimeSource, TimeSource as _};
use object_store::{
    CredentialProvider,
    aws::{AwsCredential, AwsCredentialProvider},
};
use url::Url;

use super::{credentials_http::CredentialsHttpClient, profile::AwsProfile};
use crate::{
    configuration::ConfiguredValue,
    environment::StoreEnvironment,
    errors::{StoreError, error_chain},
    provider_client::TransportSettings,
    renewed_credential::{FreshCredential, RenewedCredential},
};

/// How long credentials may take to come: a process of the user's or two requests, each with its retries.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(30);
/// The credentials that a profile or the machine gives, renewed before they end.
struct AwsCredentialChain {
    url: Url,
    /// Where they come from, in words.
    source: String,
    region: String,
    profile: AwsProfile,
    http: CredentialsHttpClient,
    current: RenewedCredential<AwsCredential>,
}

/// Credentials that neither a folder nor the environment's keys give, with where they come from, in words.
pub(super) fn credential_chain(
    url: &Url,
    environment: &StoreEnvironment,
    transport: &TransportSettings,
    http: &reqwest::Client,
    region: &ConfiguredValue,
    profile: AwsProfile,
) -> Result<(String, AwsCredentialProvider), StoreError> {
    let source = chain_source(environment, &profile);
    let client = CredentialsHttpClient::new(url, transport, http.clone())?;
    let chain = AwsCredentialChain::new(url.clone(), source.clone(), region.value.clone(), profile, client);
    Ok((source, Arc::new(chain)))
}

/// Where credentials come from that neither a folder nor the environment holds, in words.
fn chain_source(environment: &StoreEnvironment, profile: &AwsProfile) -> String {
    /// The fields of a profile that give credentials, in the order in which AWS's crate reads them.
    const FIELDS: [&str; 6] = [
        "role_arn",
        "web_identity_token_file",
        "sso_session",
        "sso_start_url",
        "credential_process",
        "aws_access_key_id",
    ];
    const VARIABLES: [&str; 3] =
        ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"];
    let field = || FIELDS.iter().find_map(|field| profile.get(field));
    match field() {
        Some(field) => field.source,
        None => match environment.first_name(&VARIABLES) {
            Some(variable) => environment.source(variable),
            None if environment.is_true("AWS_EC2_METADATA_DISABLED") => {
                "no variable, no profile, and AWS_EC2_METADATA_DISABLED".to_owned()
            }
            None => "instance metadata".to_owned(),
        },
    }
}

impl AwsCredentialChain {
    fn new(url: Url, source: String, region: String, profile: AwsProfile, http: CredentialsHttpClient) -> Self {
        Self { url, source, region, profile, http, current: RenewedCredential::default() }
    }

    /// Asks for credentials. The files are read again, so that a new login counts.
    async fn resolve(&self) -> Result<Credentials, CredentialsError> {
        let config = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(self.region.clone()))
            .http_client(self.http.clone())
            .profile_files(self.profile.files());
        let config = match self.profile.selected() {
            Some(profile) => config.profile_name(profile),
            None => config,
        };
        let resolve = async {
            let config = config.load().await;
            let provider = config.credentials_provider().ok_or_else(CredentialsError::not_loaded_no_source)?;
            provider.provide_credentials().await
        };
        let late = |_| Err(CredentialsError::provider_timed_out(CREDENTIALS_TIMEOUT));
        // It is large, and every request holds the place for it.
        tokio::time::timeout(CREDENTIALS_TIMEOUT, Box::pin(resolve)).await.unwrap_or_else(late)
    }

    fn refusal(&self, error: &CredentialsError) -> StoreError {
        let (url, why) = (self.url.to_string(), error_chain(error));
        let why = why.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        let why = format!("no AWS credentials were got ({}): {why}", self.source);
        match error {
            CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_) => {
                let remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in AWS_PROFILE, or run where AWS \
                    gives an identity";
                StoreError::Unusable { url, why, remedy: remedy.to_owned() }
            }
            _ => StoreError::Failed { url, key: "credentials".to_owned(), why },
        }
    }
}

#[async_trait]
impl CredentialProvider for AwsCredentialChain {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let fetch = async {
            let credentials = self.resolve().await.map_err(|error| self.refusal(&error))?;
            // AWS gives the end as a time of day, so only this machine's clock tells how far away it is. That decides when to renew,
            // and nothing about a log.
            let validity =
                credentials.expiry().map(|end| end.duration_since(SystemTimeSource::new().now()).unwrap_or_default());
            let credential = AwsCredential {
                key_id: credentials.access_key_id().to_owned(),
                secret_key: credentials.secret_access_key().to_owned(),
                token: credentials.session_token().map(str::to_owned),
            };
            Ok(FreshCredential { credential, validity })
        };
        self.current.get(fetch).await
    }
}

impl fmt::Debug for AwsCredentialChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AwsCredentialChain({})", self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chain over a profile whose process prints `answer` and counts its runs in a file.
    fn chain(folder: &tempfile::TempDir, answer: &str) -> AwsCredentialChain {
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("answer"), answer).unwrap();
        let process = format!("echo run >> {}; cat {}", path("runs"), path("answer"));
        std::fs::write(path("config"), format!("[profile logs]\ncredential_process = {process}\n")).unwrap();
        let variables = [("AWS_CONFIG_FILE", path("config")), ("AWS_PROFILE", "logs".to_owned())];
        let environment = variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let profile = AwsProfile::load(&environment).unwrap();
        let url: Url = "s3://wal".parse().unwrap();
        let transport = TransportSettings { certificates: None, requests: crate::RequestCounter::default() };
        let http = CredentialsHttpClient::new(&url, &transport, reqwest::Client::new()).unwrap();
        let source = chain_source(&environment, &profile);
        AwsCredentialChain::new(url, source, "us-east-1".to_owned(), profile, http)
    }

    fn runs(folder: &tempfile::TempDir) -> usize {
        std::fs::read_to_string(folder.path().join("runs")).unwrap_or_default().lines().count()
    }

    fn answer(key: &str, expiration: &str) -> String {
        serde_json::json!({
            "Version": 1, "AccessKeyId": key, "SecretAccessKey": "s", "SessionToken": "t", "Expiration": expiration,
        })
        .to_string()
    }

    #[tokio::test]
    async fn a_process_is_run_once_for_credentials_that_last_and_again_for_those_that_have_ended() {
        for (expiration, expected) in [("2097-05-17T15:09:54Z", 1), ("2021-05-17T15:09:54Z", 2)] {
            let folder = tempfile::tempdir().unwrap();
            let chain = chain(&folder, &answer("one", expiration));
            for _ in 0..2 {
                assert_eq!(chain.get_credential().await.unwrap().key_id, "one");
            }
            assert_eq!(runs(&folder), expected);
        }
    }

    #[tokio::test]
    async fn a_process_that_gives_no_credentials_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let chain = chain(&folder, "no JSON");
        let error = chain.get_credential().await.unwrap_err();
        let error = crate::errors::classify("s3://wal", "k", &error).to_string();
        for part in ["no AWS credentials were got", "credential_process of profile \"logs\"", "config"] {
            assert!(error.contains(part), "{error}");
        }
    }
}

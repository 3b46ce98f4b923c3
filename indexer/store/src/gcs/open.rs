//! `gs://bucket/prefix`, configured as the Google tools are.

use std::{fs, path::Path, sync::Arc};

use object_store::{
    StaticCredentialProvider,
    gcp::{GcpCredential, GoogleCloudStorageBuilder, GoogleConfigKey},
};
use serde::Deserialize;
use url::Url;

use super::{
    external_account::{EXTERNAL_ACCOUNT, ExternalAccount, ExternalAccountTokens},
    sign::{GoogleSigner, ServiceAccountKey, SigningIdentity},
};
use crate::{
    configuration::{ConfiguredValue, StoreConfiguration},
    environment::StoreEnvironment,
    errors::StoreError,
    provider_client::{
        ProviderClient, TransportSettings, bad_settings, bucket_name, check_encryption, no_retries, unusable,
    },
    scheme::StoreScheme,
};

/// Google's own endpoint.
const DEFAULT_ENDPOINT: &str = "https://storage.googleapis.com";

const ALLOW_HTTP: &str = "GOOGLE_ALLOW_HTTP";
const EMULATOR: &str = "STORAGE_EMULATOR_HOST";
const CREDENTIALS_KEY: &str = "GOOGLE_SERVICE_ACCOUNT_KEY";
const BEARER_TOKEN: &str = "GOOGLE_BEARER_TOKEN";
/// Variables that name a file of credentials, the first one first.
const CREDENTIALS_FILES: [&str; 3] =
    ["GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH", "GOOGLE_APPLICATION_CREDENTIALS"];
/// Where a login is, in the home folder.
const LOGIN: &str = ".config/gcloud/application_default_credentials.json";

/// The parts of a credentials file that signing needs.
#[derive(Default, Deserialize)]
struct CredentialsFile {
    client_email: Option<String>,
    private_key: Option<String>,
    gcs_base_url: Option<String>,
    /// The kind of file.
    r#type: Option<String>,
    #[serde(skip)]
    external: Option<ExternalAccount>,
}

pub(crate) fn open(
    url: &Url,
    environment: &StoreEnvironment,
    transport: &TransportSettings,
) -> Result<ProviderClient, StoreError> {
    let bucket = bucket_name(url)?;
    let (file, source) = CredentialsFile::find(url, environment)?.unzip();
    let file = file.unwrap_or_default();
    let mut settings = environment.clone();
    if file.external.is_some() {
        // `object_store` does not know the kind of file.
        settings.unset(&[CREDENTIALS_KEY]);
        settings.unset(&CREDENTIALS_FILES);
    }
    let mut builder = configured(&settings).with_client_options(transport.client_options(url)?);
    let http = transport.http_client(url, reqwest::Client::builder())?;
    let emulator = emulator(environment);
    if let Some(emulator) = &emulator {
        builder = builder.with_config(GoogleConfigKey::BaseUrl, &emulator.value);
    }
    // Naming an emulator is asking for plain http.
    if emulator.is_some() || environment.is_true(ALLOW_HTTP) {
        builder = builder.with_config(GoogleConfigKey::Client(object_store::ClientConfigKey::AllowHttp), "true");
    }
    let credentials = if environment.is_true("GOOGLE_SKIP_SIGNATURE") {
        builder = unsigned(builder);
        "none: GOOGLE_SKIP_SIGNATURE".to_owned()
    } else if environment.first_name(&[BEARER_TOKEN]).is_some() {
        environment.source(BEARER_TOKEN)
    } else if let Some(source) = source {
        source
    } else if emulator.is_some() {
        builder = unsigned(builder);
        "none: an emulator needs none".to_owned()
    } else {
        "the metadata server of Google Cloud".to_owned()
    };
    let endpoint = emulator.clone().or_else(|| configured_endpoint(environment));
    let endpoint = endpoint.or_else(|| {
        let source = "gcs_base_url of the credentials".to_owned();
        file.gcs_base_url.map(|value| ConfiguredValue { value, source })
    });
    if emulator.is_none() {
        check_encryption(url, endpoint.as_ref(), environment, ALLOW_HTTP)?;
    }
    let endpoint = endpoint.unwrap_or_else(|| ConfiguredValue::default_of(DEFAULT_ENDPOINT));
    if let Some(external) = file.external.clone() {
        builder = builder.with_credentials(Arc::new(ExternalAccountTokens::new(url.clone(), external, http.clone())));
    }
    let builder = builder.with_bucket_name(bucket).with_http_connector(transport.connector()).with_retry(no_retries());
    let store = Arc::new(builder.build().map_err(|error| bad_settings(url, &error))?);
    let identity = match (file.client_email.zip(file.private_key), file.external) {
        (Some((account, pem)), _) => SigningIdentity::Key(ServiceAccountKey { account, pem }),
        (None, Some(external)) => match external.service_account() {
            Some(account) => SigningIdentity::Impersonated(account),
            None => SigningIdentity::Nobody(
                "an external account that impersonates no service account signs nothing",
                "create the credentials file with --service-account",
            ),
        },
        (None, None) if emulator.is_some() => SigningIdentity::Nobody(
            "an emulator without credentials signs nothing",
            "name the key file of a service account in GOOGLE_APPLICATION_CREDENTIALS; an emulator takes any",
        ),
        (None, None) => SigningIdentity::Machine,
    };
    let signer = GoogleSigner {
        store: store.clone(),
        endpoint: endpoint.value.clone(),
        bucket: bucket.to_owned(),
        identity,
        http: http.clone(),
    };
    let configuration = StoreConfiguration {
        endpoint: Some(endpoint),
        credentials: Some(credentials),
        ..transport.configuration(StoreScheme::Google, url)
    };
    Ok(ProviderClient { store, signer: Arc::new(signer), versions: None, http, configuration: Arc::new(configuration) })
}

/// The endpoint, where it is not Google's own.
pub(crate) fn endpoint(environment: &StoreEnvironment) -> Option<String> {
    emulator(environment).or_else(|| configured_endpoint(environment)).map(|endpoint| endpoint.value)
}

fn emulator(environment: &StoreEnvironment) -> Option<ConfiguredValue> {
    let emulator = environment.configured(&[EMULATOR])?;
    Some(ConfiguredValue { value: with_scheme(&emulator.value), ..emulator })
}

fn configured_endpoint(environment: &StoreEnvironment) -> Option<ConfiguredValue> {
    environment.configured(&["GOOGLE_BASE_URL"])
}

fn configured(environment: &StoreEnvironment) -> GoogleCloudStorageBuilder {
    let settings = environment.settings("GOOGLE_").into_iter();
    settings.fold(GoogleCloudStorageBuilder::new(), |builder, (key, value)| builder.with_config(key, value.value))
}

/// A client that asks for no credentials. `object_store` asks for them before a write even where it does not sign.
fn unsigned(builder: GoogleCloudStorageBuilder) -> GoogleCloudStorageBuilder {
    let none = StaticCredentialProvider::new(GcpCredential { bearer: String::new() });
    builder.with_skip_signature(true).with_credentials(Arc::new(none))
}

fn with_scheme(host: &str) -> String {
    if host.contains("://") { host.to_owned() } else { format!("http://{host}") }
}

/// The file that `gcloud auth application-default login` writes: its text and its name.
fn login(environment: &StoreEnvironment) -> Option<(String, String)> {
    let file = Path::new(environment.first(&["HOME"])?).join(LOGIN);
    Some((fs::read_to_string(&file).ok()?, format!("\"{}\"", file.display())))
}

impl CredentialsFile {
    /// The credentials that the environment names, and where they come from in words; `None` where it names none.
    fn find(url: &Url, environment: &StoreEnvironment) -> Result<Option<(Self, String)>, StoreError> {
        let (text, source) = if let Some(key) = environment.configured(&[CREDENTIALS_KEY]) {
            (key.value, key.source)
        } else if let Some(file) = environment.configured(&CREDENTIALS_FILES) {
            let text = fs::read_to_string(&file.value).map_err(|error| {
                let remedy = "correct GOOGLE_APPLICATION_CREDENTIALS";
                unusable(url, format!("its credentials file {file} cannot be read: {error}"), remedy)
            })?;
            (text, file.to_string())
        } else if let Some((text, file)) = login(environment).filter(|_| emulator(environment).is_none()) {
            (text, file)
        } else {
            return Ok(None);
        };
        let mut found: Self = serde_json::from_str(&text).map_err(|error| {
            let remedy = "give a service account's key file";
            unusable(url, format!("its credentials are not valid JSON ({source}): {error}"), remedy)
        })?;
        if found.r#type.as_deref() == Some(EXTERNAL_ACCOUNT) {
            let external = ExternalAccount::parse(&text).map_err(|why| {
                unusable(url, format!("its credentials cannot be used ({source}): {why}"), "create the file again")
            })?;
            found.external = Some(external);
        }
        Ok(Some((found, source)))
    }
}

//! `gs://bucket/prefix`, configured as the Google tools are.

use std::{fs, sync::Arc};

use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use serde::Deserialize;
use url::Url;

use super::sign::{GoogleSigner, ServiceAccountKey};
use crate::{
    environment::StoreEnvironment,
    errors::StoreError,
    transport::{ProviderClient, TransportSettings, bad_settings, bucket_name, check_encryption, no_retries, unusable},
};

/// Google's own endpoint.
const DEFAULT_ENDPOINT: &str = "https://storage.googleapis.com";

/// The parts of a credentials file that signing needs.
#[derive(Default, Deserialize)]
struct CredentialsFile {
    client_email: Option<String>,
    private_key: Option<String>,
    gcs_base_url: Option<String>,
}

pub(crate) fn open(
    url: &Url,
    environment: &StoreEnvironment,
    transport: &TransportSettings,
) -> Result<ProviderClient, StoreError> {
    let bucket = bucket_name(url)?;
    let mut builder = configured(environment).with_client_options(transport.client_options(url)?);
    let emulator = environment.first(&["STORAGE_EMULATOR_HOST"]).map(with_scheme);
    if let Some(emulator) = &emulator {
        // Naming an emulator is asking for plain http.
        builder = builder.with_config(GoogleConfigKey::BaseUrl, emulator);
        builder = builder.with_config(GoogleConfigKey::Client(object_store::ClientConfigKey::AllowHttp), "true");
    }
    let credentials = credentials(url, &builder)?;
    let endpoint = builder.get_config_value(&GoogleConfigKey::BaseUrl).or(credentials.gcs_base_url);
    let endpoint = endpoint.unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
    if emulator.is_none() {
        check_encryption(url, Some(&endpoint), environment, "GOOGLE_ALLOW_HTTP")?;
    }
    let builder = builder.with_bucket_name(bucket).with_http_connector(transport.connector()).with_retry(no_retries());
    let store = Arc::new(builder.build().map_err(|error| bad_settings(url, &error))?);
    let key = credentials.client_email.zip(credentials.private_key);
    let signer = GoogleSigner {
        store: store.clone(),
        endpoint,
        bucket: bucket.to_owned(),
        key: key.map(|(account, pem)| ServiceAccountKey { account, pem }),
    };
    Ok(ProviderClient { store, signer: Arc::new(signer), versions: None })
}

/// The endpoint, where it is not Google's own.
pub(crate) fn endpoint(environment: &StoreEnvironment) -> Option<String> {
    let emulator = environment.first(&["STORAGE_EMULATOR_HOST"]).map(with_scheme);
    emulator.or_else(|| configured(environment).get_config_value(&GoogleConfigKey::BaseUrl))
}

fn configured(environment: &StoreEnvironment) -> GoogleCloudStorageBuilder {
    let settings = environment.settings("GOOGLE_").into_iter();
    settings.fold(GoogleCloudStorageBuilder::new(), |builder, (key, value)| builder.with_config(key, value))
}

fn with_scheme(host: &str) -> String {
    if host.contains("://") { host.to_owned() } else { format!("http://{host}") }
}

fn credentials(url: &Url, builder: &GoogleCloudStorageBuilder) -> Result<CredentialsFile, StoreError> {
    let files = [GoogleConfigKey::ServiceAccount, GoogleConfigKey::ApplicationCredentials];
    let text = if let Some(text) = builder.get_config_value(&GoogleConfigKey::ServiceAccountKey) {
        text
    } else if let Some(file) = files.iter().find_map(|key| builder.get_config_value(key)) {
        fs::read_to_string(&file).map_err(|error| {
            let remedy = "correct GOOGLE_APPLICATION_CREDENTIALS";
            unusable(url, format!("its credentials file \"{file}\" cannot be read: {error}"), remedy)
        })?
    } else {
        return Ok(CredentialsFile::default());
    };
    serde_json::from_str(&text).map_err(|error| {
        unusable(url, format!("its credentials are not valid JSON: {error}"), "give a service account's key file")
    })
}

//! `gs://bucket/prefix`, configured as the Google tools are.

use std::{fs, sync::Arc};

use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use serde::Deserialize;
use url::Url;

use super::{Opened, StoreEnvironment, Transport, bucket, check_scheme, one_attempt, unusable};
use crate::{
    sign::{GoogleSigning, Signing},
    store::StoreError,
};

/// Where Google's objects are.
const GOOGLE: &str = "https://storage.googleapis.com";

/// The parts of a credentials file that signing needs.
#[derive(Default, Deserialize)]
struct Credentials {
    client_email: Option<String>,
    private_key: Option<String>,
    gcs_base_url: Option<String>,
}

pub(super) fn open(url: &Url, environment: &StoreEnvironment, transport: &Transport) -> Result<Opened, StoreError> {
    let bucket = bucket(url)?;
    let mut builder = GoogleCloudStorageBuilder::new().with_client_options(transport.client_options(url)?);
    for (key, value) in environment.settings("GOOGLE_") {
        builder = builder.with_config(key, value);
    }
    let emulator = environment.first(&["STORAGE_EMULATOR_HOST"]).map(with_scheme);
    if let Some(emulator) = &emulator {
        // Naming an emulator is asking for plain http.
        builder = builder.with_config(GoogleConfigKey::BaseUrl, emulator);
        builder = builder.with_config(GoogleConfigKey::Client(object_store::ClientConfigKey::AllowHttp), "true");
    }
    let credentials = credentials(url, &builder)?;
    let endpoint = builder.get_config_value(&GoogleConfigKey::BaseUrl).or(credentials.gcs_base_url);
    let endpoint = endpoint.unwrap_or_else(|| GOOGLE.to_owned());
    if emulator.is_none() {
        check_scheme(url, Some(&endpoint), environment, "GOOGLE_ALLOW_HTTP")?;
    }
    let builder = builder.with_bucket_name(bucket).with_http_connector(transport.connector()).with_retry(one_attempt());
    let store = Arc::new(
        builder
            .build()
            .map_err(|error| unusable(url, error.to_string(), "correct the store's settings or the environment"))?,
    );
    let signing = GoogleSigning {
        store: store.clone(),
        endpoint,
        bucket: bucket.to_owned(),
        key: credentials.client_email.zip(credentials.private_key),
    };
    Ok((store, Some(Signing::Google(signing))))
}

fn with_scheme(host: &str) -> String {
    if host.contains("://") { host.to_owned() } else { format!("http://{host}") }
}

fn credentials(url: &Url, builder: &GoogleCloudStorageBuilder) -> Result<Credentials, StoreError> {
    let files = [GoogleConfigKey::ServiceAccount, GoogleConfigKey::ApplicationCredentials];
    let text = if let Some(text) = builder.get_config_value(&GoogleConfigKey::ServiceAccountKey) {
        text
    } else if let Some(file) = files.iter().find_map(|key| builder.get_config_value(key)) {
        fs::read_to_string(&file).map_err(|error| {
            let remedy = "correct GOOGLE_APPLICATION_CREDENTIALS";
            unusable(url, format!("its credentials file \"{file}\" cannot be read: {error}"), remedy)
        })?
    } else {
        return Ok(Credentials::default());
    };
    serde_json::from_str(&text).map_err(|error| {
        unusable(url, format!("its credentials are no JSON: {error}"), "give a service account's key file")
    })
}

//! `az://container/prefix`, configured as the Azure tools are.

use std::sync::Arc;

use object_store::{
    ClientOptions,
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
};
use url::Url;

use super::sign::AzureSigner;
use crate::{
    environment::{StoreEnvironment, is_true},
    errors::StoreError,
    transport::{ProviderClient, TransportSettings, bad_settings, bucket_name, check_encryption, no_retries, unusable},
};

/// The account that every emulator has, and its key: published by Microsoft.
const EMULATOR_ACCOUNT: (&str, &str) =
    ("devstoreaccount1", "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==");
/// Variables under the names that Azure's own tools read, and ours for them.
const ALIASES: [(&str, AzureConfigKey); 4] = [
    ("AZURE_STORAGE_ACCOUNT", AzureConfigKey::AccountName),
    ("AZURE_STORAGE_KEY", AzureConfigKey::AccessKey),
    ("AZURE_STORAGE_SAS_TOKEN", AzureConfigKey::SasKey),
    ("AZURE_STORAGE_SERVICE_ENDPOINT", AzureConfigKey::Endpoint),
];
/// The parts of a connection string that matter here.
const CONNECTION_STRING_PARTS: [(&str, AzureConfigKey); 4] = [
    ("AccountName", AzureConfigKey::AccountName),
    ("AccountKey", AzureConfigKey::AccessKey),
    ("SharedAccessSignature", AzureConfigKey::SasKey),
    ("BlobEndpoint", AzureConfigKey::Endpoint),
];

pub(crate) fn open(
    url: &Url,
    environment: &StoreEnvironment,
    transport: &TransportSettings,
) -> Result<ProviderClient, StoreError> {
    let builder = configured(environment, transport.client_options(url)?);
    let value = |key| builder.get_config_value(&key);
    let endpoint = value(AzureConfigKey::Endpoint);
    check_encryption(url, endpoint.as_deref(), environment, "AZURE_ALLOW_HTTP")?;
    let emulated = value(AzureConfigKey::UseEmulator).as_deref().is_some_and(is_true);
    let (mut account, mut key) = (value(AzureConfigKey::AccountName), value(AzureConfigKey::AccessKey));
    if emulated {
        account = account.or_else(|| Some(EMULATOR_ACCOUNT.0.to_owned()));
        key = key.or_else(|| Some(EMULATOR_ACCOUNT.1.to_owned()));
    }
    let account =
        account.ok_or_else(|| unusable(url, "no account is named".to_owned(), "set AZURE_STORAGE_ACCOUNT"))?;
    let builder = builder
        .with_container_name(bucket_name(url)?)
        .with_http_connector(transport.connector())
        .with_retry(no_retries());
    let store = Arc::new(builder.build().map_err(|error| bad_settings(url, &error))?);
    let signer = AzureSigner { store: store.clone(), account, key };
    Ok(ProviderClient { store, signer: Arc::new(signer), versions: None })
}

/// The endpoint. An account has one of its own, so that it is a part of where a container is.
pub(crate) fn endpoint(environment: &StoreEnvironment) -> Option<String> {
    let builder = configured(environment, ClientOptions::new());
    let named = builder.get_config_value(&AzureConfigKey::Endpoint);
    let account = || builder.get_config_value(&AzureConfigKey::AccountName);
    named.or_else(|| account().map(|account| format!("https://{account}.blob.core.windows.net")))
}

fn configured(environment: &StoreEnvironment, options: ClientOptions) -> MicrosoftAzureBuilder {
    let mut builder = MicrosoftAzureBuilder::new().with_client_options(options);
    let connection = environment.first(&["AZURE_STORAGE_CONNECTION_STRING"]).unwrap_or_default();
    for (key, value) in connection_settings(connection) {
        builder = builder.with_config(key, value);
    }
    for (name, key) in ALIASES {
        if let Some(value) = environment.first(&[name]) {
            builder = builder.with_config(key, value);
        }
    }
    for (key, value) in environment.settings("AZURE_") {
        builder = builder.with_config(key, value);
    }
    builder
}

/// The settings in a connection string, as in `AccountName=a;AccountKey=k;EndpointSuffix=core.windows.net`.
fn connection_settings(text: &str) -> Vec<(AzureConfigKey, String)> {
    let pairs: Vec<_> = text.split(';').filter_map(|pair| pair.split_once('=')).collect();
    let value = |name: &str| pairs.iter().find(|(other, _)| other.trim() == name).map(|(_, value)| value.trim());
    let mut settings: Vec<_> =
        CONNECTION_STRING_PARTS.iter().filter_map(|(name, key)| Some((*key, value(name)?.to_owned()))).collect();
    if let (None, Some(account), Some(suffix)) = (value("BlobEndpoint"), value("AccountName"), value("EndpointSuffix"))
    {
        let scheme = value("DefaultEndpointsProtocol").unwrap_or("https");
        settings.push((AzureConfigKey::Endpoint, format!("{scheme}://{account}.blob.{suffix}")));
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_is_taken_apart() {
        let text = "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=a2V5==;EndpointSuffix=core.windows.net";
        let settings = connection_settings(text);
        assert!(settings.contains(&(AzureConfigKey::AccessKey, "a2V5==".to_owned())));
        assert!(settings.contains(&(AzureConfigKey::Endpoint, "https://a.blob.core.windows.net".to_owned())));
        assert!(connection_settings("").is_empty());
    }
}

//! `az://container/prefix`, configured as the Azure tools are.

use std::sync::Arc;

use object_store::{
    ClientOptions,
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
};
use url::Url;

use super::sign::AzureSigner;
use crate::{
    configuration::{ConfiguredValue, StoreConfiguration},
    environment::{StoreEnvironment, is_true},
    errors::StoreError,
    scheme::StoreScheme,
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
const CONNECTION_STRING: &str = "AZURE_STORAGE_CONNECTION_STRING";
const ENDPOINTS: [&str; 3] = ["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT", "AZURE_STORAGE_SERVICE_ENDPOINT"];
const ACCOUNTS: [&str; 2] = ["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"];
const KEYS: [&str; 4] =
    ["AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_MASTER_KEY", "AZURE_STORAGE_KEY"];
const SAS_TOKENS: [&str; 2] = ["AZURE_STORAGE_SAS_KEY", "AZURE_STORAGE_SAS_TOKEN"];
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
    let configured =
        |key, names: &[&str]| value(key).map(|value| ConfiguredValue { value, source: source(environment, names) });
    let endpoint = configured(AzureConfigKey::Endpoint, &ENDPOINTS);
    check_encryption(url, endpoint.as_ref(), environment, "AZURE_ALLOW_HTTP")?;
    let emulated = value(AzureConfigKey::UseEmulator).as_deref().is_some_and(is_true);
    let (mut account, mut key) = (configured(AzureConfigKey::AccountName, &ACCOUNTS), value(AzureConfigKey::AccessKey));
    let mut credentials = credentials_source(&builder, environment);
    if emulated {
        account = account.or_else(|| Some(ConfiguredValue::default_of(EMULATOR_ACCOUNT.0)));
        if key.is_none() {
            "the emulator's published key".clone_into(&mut credentials);
        }
        key = key.or_else(|| Some(EMULATOR_ACCOUNT.1.to_owned()));
    }
    let account = account.ok_or_else(|| {
        let remedy = "set AZURE_STORAGE_ACCOUNT, or \"account\" in the store's settings";
        unusable(url, "no account is named".to_owned(), remedy)
    })?;
    let builder = builder
        .with_container_name(bucket_name(url)?)
        .with_http_connector(transport.connector())
        .with_retry(no_retries());
    let store = Arc::new(builder.build().map_err(|error| bad_settings(url, &error))?);
    let signer = AzureSigner { store: store.clone(), account: account.value.clone(), key };
    let own_endpoint = || ConfiguredValue::default_of(account_endpoint(&account.value));
    let configuration = StoreConfiguration {
        endpoint: Some(endpoint.unwrap_or_else(own_endpoint)),
        account: Some(account),
        credentials: Some(credentials),
        ..transport.configuration(StoreScheme::Azure, url)
    };
    Ok(ProviderClient {
        store,
        signer: Arc::new(signer),
        versions: None,
        http: transport.http_client(url, reqwest::Client::builder())?,
        configuration: Arc::new(configuration),
    })
}

/// The endpoint. An account has one of its own, so that it is a part of where a container is.
pub(crate) fn endpoint(environment: &StoreEnvironment) -> Option<String> {
    let builder = configured(environment, ClientOptions::new());
    let named = builder.get_config_value(&AzureConfigKey::Endpoint);
    let account = || builder.get_config_value(&AzureConfigKey::AccountName);
    named.or_else(|| account().map(|account| account_endpoint(&account)))
}

fn account_endpoint(account: &str) -> String {
    format!("https://{account}.blob.core.windows.net")
}

/// Where a value comes from that one of the variables `names` may hold, or a part of the connection string.
fn source(environment: &StoreEnvironment, names: &[&str]) -> String {
    environment.source(environment.first_name(names).unwrap_or(CONNECTION_STRING))
}

/// Where the credentials come from, in words, in the order in which `object_store` takes them.
fn credentials_source(builder: &MicrosoftAzureBuilder, environment: &StoreEnvironment) -> String {
    let is_set = |key| builder.get_config_value(&key).is_some_and(|value| !value.is_empty());
    if environment.is_true("AZURE_SKIP_SIGNATURE") {
        "none: AZURE_SKIP_SIGNATURE".to_owned()
    } else if is_set(AzureConfigKey::Token) {
        source(environment, &["AZURE_STORAGE_TOKEN"])
    } else if is_set(AzureConfigKey::AccessKey) {
        source(environment, &KEYS)
    } else if is_set(AzureConfigKey::FederatedTokenFile) {
        source(environment, &["AZURE_FEDERATED_TOKEN_FILE"])
    } else if is_set(AzureConfigKey::ClientSecret) {
        source(environment, &["AZURE_STORAGE_CLIENT_SECRET", "AZURE_CLIENT_SECRET"])
    } else if is_set(AzureConfigKey::SasKey) {
        source(environment, &SAS_TOKENS)
    } else {
        "managed identity".to_owned()
    }
}

fn configured(environment: &StoreEnvironment, options: ClientOptions) -> MicrosoftAzureBuilder {
    let mut builder = MicrosoftAzureBuilder::new().with_client_options(options);
    let connection = environment.first(&[CONNECTION_STRING]).unwrap_or_default();
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

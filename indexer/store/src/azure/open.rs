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
    provider_client::{
        ProviderClient, TransportSettings, bad_settings, bucket_name, check_encryption, no_retries, unusable,
    },
    scheme::StoreScheme,
};

/// The account that every emulator has, and its key: published by Microsoft.
const EMULATOR_ACCOUNT: (&str, &str) =
    ("devstoreaccount1", "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==");
/// Variables under the names that Azure's own tools read, and ours for them.
const ALIASES: [(&str, AzureConfigKey); 3] = [
    ("AZURE_STORAGE_ACCOUNT", AzureConfigKey::AccountName),
    ("AZURE_STORAGE_KEY", AzureConfigKey::AccessKey),
    ("AZURE_STORAGE_SERVICE_ENDPOINT", AzureConfigKey::Endpoint),
];
const CONNECTION_STRING: &str = "AZURE_STORAGE_CONNECTION_STRING";
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
    let settings = AzureSettings::of(environment);
    let builder = settings.builder(transport.client_options(url)?);
    let endpoint = settings.get(AzureConfigKey::Endpoint);
    check_encryption(url, endpoint.as_ref(), environment, "AZURE_ALLOW_HTTP")?;
    let emulated = settings.get(AzureConfigKey::UseEmulator).is_some_and(|emulator| is_true(&emulator.value));
    let mut account = settings.get(AzureConfigKey::AccountName);
    let mut key = settings.get(AzureConfigKey::AccessKey).map(|key| key.value);
    let mut credentials = settings.credentials_source(environment);
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
    let settings = AzureSettings::of(environment);
    let named = settings.get(AzureConfigKey::Endpoint).map(|endpoint| endpoint.value);
    named.or_else(|| Some(account_endpoint(&settings.get(AzureConfigKey::AccountName)?.value)))
}

fn account_endpoint(account: &str) -> String {
    format!("https://{account}.blob.core.windows.net")
}

/// What the connection string and the variables set, each with its source. Of two values for one key the later one counts.
struct AzureSettings(Vec<(AzureConfigKey, ConfiguredValue)>);

impl AzureSettings {
    fn of(environment: &StoreEnvironment) -> Self {
        let connection = environment.configured(&[CONNECTION_STRING]);
        let connection = connection.into_iter().flat_map(|ConfiguredValue { value, source }| {
            let settings = connection_settings(&value).into_iter();
            settings.map(move |(key, value)| (key, ConfiguredValue { value, source: source.clone() }))
        });
        let aliases = ALIASES.iter().filter_map(|(name, key)| Some((*key, environment.configured(&[*name])?)));
        Self(connection.chain(aliases).chain(environment.settings("AZURE_")).collect())
    }

    fn get(&self, key: AzureConfigKey) -> Option<ConfiguredValue> {
        self.0.iter().rev().find(|(other, _)| *other == key).map(|(_, value)| value.clone())
    }

    fn builder(&self, options: ClientOptions) -> MicrosoftAzureBuilder {
        let builder = MicrosoftAzureBuilder::new().with_client_options(options);
        self.0.iter().fold(builder, |builder, (key, value)| builder.with_config(*key, &value.value))
    }

    /// Where the credentials come from, in words, in the order in which `object_store` takes them.
    fn credentials_source(&self, environment: &StoreEnvironment) -> String {
        use AzureConfigKey::{AccessKey, ClientSecret, FederatedTokenFile, SasKey, Token};
        if environment.is_true("AZURE_SKIP_SIGNATURE") {
            return "none: AZURE_SKIP_SIGNATURE".to_owned();
        }
        let keys = [Token, AccessKey, FederatedTokenFile, ClientSecret, SasKey].into_iter();
        let mut found = keys.filter_map(|key| self.get(key)).filter(|found| !found.value.is_empty());
        found.next().map_or_else(|| "managed identity".to_owned(), |found| found.source)
    }
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

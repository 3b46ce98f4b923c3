//! What is asked of Azure with a SAS token, and which account counts. The token is the example of Azure's documentation.

use std::path::Path;

use crate::recording_server::RecordingServer;
use tidemark_store::{Store, StoreAccess, StoreError, StoreSecond, StoreSettings, UrlSigner, UserMetadata};

const SAS: &str = "?sv=2022-11-02&ss=b&srt=sco&sp=rwdlacx&se=2097-05-17T15:09:54Z&spr=https&sig=C7%2BZeEOWbrxPA3R0%3D";

fn open(settings: &StoreSettings, variables: &[(&str, &str)]) -> Result<Store, StoreError> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Store::open_as(&"az://wal/orders".parse().unwrap(), &StoreAccess::new(settings, variables.collect()))
}

fn with_account(account: &str, folder: &Path) -> StoreSettings {
    let credentials_dir = Some(folder.to_owned());
    StoreSettings { account: Some(account.to_owned()), credentials_dir, ..StoreSettings::default() }
}

#[tokio::test]
async fn a_sas_token_of_a_secret_goes_with_each_request_and_signs_no_url() {
    let (server, folder) = (RecordingServer::start(|_| (201, String::new())), tempfile::tempdir().unwrap());
    std::fs::write(folder.path().join("AZURE_STORAGE_SAS_TOKEN"), SAS).unwrap();
    let settings = StoreSettings {
        endpoint: Some(server.url.clone()),
        allow_http: Some(true),
        ..with_account("one", folder.path())
    };
    let store = open(&settings, &[("AZURE_STORAGE_ACCOUNT", "two"), ("AZURE_STORAGE_KEY", "a2V5")]).unwrap();
    store.put("one", "body".into()).await.unwrap();
    let target = server.requests().remove(0).target;
    let (path, query) = target.split_once('?').unwrap();
    assert!(path.ends_with("/wal/orders/one"), "{path}");
    for pair in ["sv=2022-11-02", "sig=C7%2BZeEOWbrxPA3R0%3D"] {
        assert!(query.split('&').any(|found| found == pair), "{query}");
    }
    let configuration = store.configuration().unwrap();
    assert_eq!(configuration.account.unwrap().to_string(), "one (setting \"account\" of the store)");
    let file = folder.path().join("AZURE_STORAGE_SAS_TOKEN");
    assert_eq!(configuration.credentials, Some(format!("file \"{}\"", file.display())));
    let at = StoreSecond::from_unix(1_700_000_000);
    let unsigned = UrlSigner::of(&store).put_url("x", at, at.next(), &UserMetadata::new()).await.unwrap_err();
    assert!(matches!(unsigned, StoreError::Unsignable { .. }), "{unsigned}");
}

#[test]
fn the_account_of_the_settings_counts_before_that_of_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("AZURE_STORAGE_ACCOUNT_KEY"), "a2V5").unwrap();
    std::fs::write(folder.path().join("AZURE_STORAGE_ACCOUNT_NAME"), "two").unwrap();
    let store = open(&with_account("one", folder.path()), &[]).unwrap();
    assert_eq!(store.location(), "az://wal/orders?endpoint=https://one.blob.core.windows.net");
    let configuration = store.configuration().unwrap();
    assert_eq!(configuration.account.unwrap().value, "one");
    assert_eq!(configuration.endpoint.unwrap().value, "https://one.blob.core.windows.net");
}

#[test]
fn without_a_key_and_a_token_the_key_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = open(&with_account("one", folder.path()), &[]).unwrap().configuration().unwrap_err().to_string();
    assert!(refusal.contains("AZURE_STORAGE_ACCOUNT_KEY"), "{refusal}");
}

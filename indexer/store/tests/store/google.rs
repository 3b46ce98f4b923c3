//! What no server here answers for Google: workload identity federation. The emulator's part is that no credentials are asked for.
//!
//! The answers are the examples of Google's documentation. They show that the requests have the documented form, not that Google
//! takes them.

use std::{collections::BTreeMap, path::Path};

use crate::recording_server::{RecordedRequest, RecordingServer};
use serde_json::{Value, json};
use tidemark_store::{Store, StoreEnvironment, StoreError, StoreSecond, UrlSigner, UserMetadata};

const ACCOUNT: &str = "signer@project.iam.gserviceaccount.com";

fn open(variables: &[(&str, &str)]) -> Result<Store, StoreError> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Store::open_with(&"gs://wal/orders".parse().unwrap(), &variables.collect::<StoreEnvironment>())
}

/// Google's STS, its service of accounts, and the storage itself.
fn google() -> RecordingServer {
    RecordingServer::start(|request| match request.target.as_str() {
        "/v1/token" => {
            let answer = json!({
                "access_token": "federated", "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
                "token_type": "Bearer", "expires_in": 3600,
            });
            (200, answer.to_string())
        }
        target if target.ends_with(":generateAccessToken") => {
            (200, json!({ "accessToken": "impersonated", "expireTime": "2097-05-17T15:09:54Z" }).to_string())
        }
        "/subject" => (200, json!({ "value": "of-the-machine" }).to_string()),
        _ => (200, String::new()),
    })
}

/// A credentials file as `gcloud iam workload-identity-pools create-cred-config` writes it.
fn credentials(folder: &Path, server: &RecordingServer, source: &Value, impersonates: bool) -> String {
    let mut file = json!({
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/cluster",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": format!("{}/v1/token", server.url),
        "credential_source": source,
    });
    if impersonates {
        let url = format!("{}/v1/projects/-/serviceAccounts/{ACCOUNT}:generateAccessToken", server.url);
        file["service_account_impersonation_url"] = url.into();
    }
    let path = folder.join("credentials.json");
    std::fs::write(&path, file.to_string()).unwrap();
    path.display().to_string()
}

fn store(server: &RecordingServer, file: &str) -> Store {
    let variables = [
        ("GOOGLE_APPLICATION_CREDENTIALS", file),
        ("GOOGLE_BASE_URL", server.url.as_str()),
        ("GOOGLE_ALLOW_HTTP", "true"),
    ];
    open(&variables).unwrap()
}

fn form(request: &RecordedRequest) -> BTreeMap<String, String> {
    url::form_urlencoded::parse(request.body.as_bytes()).into_owned().collect()
}

/// Google: "Obtain a token from the Security Token Service" and `generateAccessToken`.
#[tokio::test]
async fn a_token_of_another_provider_is_exchanged_and_impersonates_a_service_account() {
    let (server, folder) = (google(), tempfile::tempdir().unwrap());
    let token = folder.path().join("token");
    std::fs::write(&token, "of-the-cluster\n").unwrap();
    let file = credentials(folder.path(), &server, &json!({ "file": token }), true);
    let store = store(&server, &file);
    for key in ["one", "two"] {
        store.put(key, "body".into()).await.unwrap();
    }
    let requests = server.requests();
    let targets: Vec<_> = requests.iter().map(|request| request.target.as_str()).collect();
    let account = format!("/v1/projects/-/serviceAccounts/{ACCOUNT}:generateAccessToken");
    assert_eq!(
        targets,
        ["/v1/token", &account, "/wal/orders%2Fone", "/wal/orders%2Ftwo"],
        "a token serves until it ends"
    );
    let exchange = form(&requests[0]);
    for (name, value) in [
        ("audience", "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/cluster"),
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        ("scope", "https://www.googleapis.com/auth/cloud-platform"),
        ("subject_token", "of-the-cluster"),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
    ] {
        assert_eq!(exchange.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert_eq!(requests[1].headers["authorization"], "Bearer federated");
    assert_eq!(requests[2].headers["authorization"], "Bearer impersonated");
    let configuration = store.configuration().unwrap();
    assert_eq!(configuration.credentials, Some(format!("{file} (variable GOOGLE_APPLICATION_CREDENTIALS)")));
}

#[tokio::test]
async fn a_token_behind_a_url_may_be_a_field() {
    let (server, folder) = (google(), tempfile::tempdir().unwrap());
    let source = json!({
        "url": format!("{}/subject", server.url), "headers": { "Metadata": "True" },
        "format": { "type": "json", "subject_token_field_name": "value" },
    });
    let store = store(&server, &credentials(folder.path(), &server, &source, false));
    store.put("one", "body".into()).await.unwrap();
    let requests = server.requests();
    assert_eq!((requests[0].target.as_str(), requests[0].headers["metadata"].as_str()), ("/subject", "True"));
    assert_eq!(form(&requests[1])["subject_token"], "of-the-machine");
    assert_eq!(requests[2].headers["authorization"], "Bearer federated");
    let at = StoreSecond::from_unix(1_700_000_000);
    let unsigned = UrlSigner::of(&store).put_url("x", at, at.next(), &UserMetadata::new()).await.unwrap_err();
    assert!(unsigned.to_string().contains("impersonates no service account"), "{unsigned}");
}

#[tokio::test]
async fn a_source_that_is_not_known_or_not_there_is_named() {
    let (server, folder) = (google(), tempfile::tempdir().unwrap());
    let aws = json!({ "environment_id": "aws1", "region_url": "http://169.254.169.254" });
    let file = credentials(folder.path(), &server, &aws, false);
    let refusal = open(&[("GOOGLE_APPLICATION_CREDENTIALS", file.as_str())]).unwrap_err().to_string();
    for part in [file.as_str(), "variable GOOGLE_APPLICATION_CREDENTIALS", "neither a file nor a url"] {
        assert!(refusal.contains(part), "{refusal}");
    }
    let absent = folder.path().join("absent");
    let store = store(&server, &credentials(folder.path(), &server, &json!({ "file": absent }), false));
    let refusal = store.put("one", "body".into()).await.unwrap_err();
    assert!(matches!(&refusal, StoreError::Missing { file, .. } if *file == absent.display().to_string()), "{refusal}");
}

#[tokio::test]
async fn an_emulator_is_asked_without_credentials() {
    let server = google();
    let store = open(&[("STORAGE_EMULATOR_HOST", &server.url)]).unwrap();
    store.put("one", "body".into()).await.unwrap();
    let requests = server.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    let authorization = requests[0].headers.get("authorization").map(String::as_str);
    assert!([None, Some("Bearer")].contains(&authorization), "no token is sent: {requests:?}");
    let configuration = store.configuration().unwrap();
    assert_eq!(configuration.credentials.as_deref(), Some("none: an emulator needs none"));
    assert_eq!(configuration.endpoint.unwrap().to_string(), format!("{} (variable STORAGE_EMULATOR_HOST)", server.url));
}

//! How a store is reached: settings of its own over the variables of the process.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{environment::StoreEnvironment, request_counter::RequestCounter};

/// Settings of one store. What is left out comes from the environment, as each store's own tools read it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StoreSettings {
    /// The server's URL; for AWS, Google and Azure it follows from the store's own URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The bucket's region (S3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The storage account (Azure).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Whether the endpoint may be plain http.
    #[serde(rename = "allowHTTP", skip_serializing_if = "Option::is_none")]
    pub allow_http: Option<bool>,
    /// A file of certificates in PEM that sign the server's, in place of those that the system trusts. Read again when it
    /// changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// A folder with one file a credential, named as the variable of the store's own tools, as a mounted Secret is. Read
    /// again when a file changes; the process's own credentials are not used then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_dir: Option<PathBuf>,
}

/// How a store is opened: variables, files, and the counter of its requests. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct StoreAccess {
    pub(crate) environment: StoreEnvironment,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) credentials_dir: Option<PathBuf>,
    pub(crate) requests: RequestCounter,
}

/// The variables that an endpoint, a region and plain http have in each store's tools.
const ENDPOINTS: [&str; 3] = ["AWS_ENDPOINT_URL", "GOOGLE_BASE_URL", "AZURE_STORAGE_ENDPOINT"];
const OTHER_ENDPOINTS: [&str; 6] = [
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT",
    "STORAGE_EMULATOR_HOST",
    "AZURE_STORAGE_SERVICE_ENDPOINT",
    "AZURE_STORAGE_CONNECTION_STRING",
];
const REGIONS: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];
const ACCOUNTS: [&str; 2] = ["AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME"];
const ALLOW_HTTP: [&str; 3] = ["AWS_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP", "AZURE_ALLOW_HTTP"];

impl StoreAccess {
    /// `settings` over `environment`. Touches no file.
    pub fn new(settings: &StoreSettings, environment: StoreEnvironment) -> Self {
        let StoreSettings { endpoint, region, account, allow_http, ca_file, credentials_dir } = settings;
        let mut environment = environment;
        if endpoint.is_some() {
            environment.unset(&OTHER_ENDPOINTS);
        }
        let allow_http = allow_http.map(|allow| allow.to_string());
        let set = [
            (&ENDPOINTS[..], endpoint, "endpoint"),
            (&REGIONS, region, "region"),
            (&ACCOUNTS, account, "account"),
            (&ALLOW_HTTP, &allow_http, "allowHTTP"),
        ];
        for (names, value, setting) in set {
            let Some(value) = value else { continue };
            for name in names {
                environment.set_from(name, value, &format!("setting \"{setting}\" of the store"));
            }
        }
        Self {
            environment,
            ca_file: ca_file.clone(),
            credentials_dir: credentials_dir.clone(),
            requests: RequestCounter::default(),
        }
    }

    /// Counts the store's requests in `requests`.
    pub fn counted(self, requests: &RequestCounter) -> Self {
        Self { requests: requests.clone(), ..self }
    }
}

impl From<StoreEnvironment> for StoreAccess {
    fn from(environment: StoreEnvironment) -> Self {
        Self { environment, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_replace_what_the_process_has() {
        let process = [("AWS_ENDPOINT_URL_S3", "http://other"), ("AWS_REGION", "eu"), ("AWS_ALLOW_HTTP", "true")];
        let process: StoreEnvironment = process.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let text = r#"{"endpoint": "http://s3.corp", "region": "us-east-1", "allowHTTP": false}"#;
        let access = StoreAccess::new(&serde_json::from_str(text).unwrap(), process.clone());
        assert_eq!(access.environment.first(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]), Some("http://s3.corp"));
        assert_eq!(access.environment.get("AWS_REGION"), Some("us-east-1"));
        assert!(!access.environment.is_true("AWS_ALLOW_HTTP"));
        let none = StoreAccess::new(&StoreSettings::default(), process);
        assert_eq!(none.environment.get("AWS_ENDPOINT_URL_S3"), Some("http://other"));
    }

    #[test]
    fn an_unknown_setting_is_refused() {
        assert!(serde_json::from_str::<StoreSettings>(r#"{"bucket": "x"}"#).is_err());
    }
}

//! `s3://bucket/prefix`, configured as the AWS tools are.

use std::{fs, path::PathBuf, sync::Arc};

use object_store::{
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    client::HttpConnector as _,
};
use url::Url;

use super::{sign::S3Signer, versions::S3Versions};
use crate::{
    environment::StoreEnvironment,
    errors::StoreError,
    transport::{ProviderClient, TransportSettings, bad_settings, bucket_name, check_encryption, no_retries},
};

/// Variables that say where credentials come from; without one of them the shared files are read.
const CREDENTIALS: [&str; 5] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
];
/// What the shared files may set.
const SETTINGS: [(&str, &str); 5] = [
    ("aws_access_key_id", "AWS_ACCESS_KEY_ID"),
    ("aws_secret_access_key", "AWS_SECRET_ACCESS_KEY"),
    ("aws_session_token", "AWS_SESSION_TOKEN"),
    ("region", "AWS_REGION"),
    ("endpoint_url", "AWS_ENDPOINT_URL"),
];

/// Where an endpoint that is not Amazon's own is named, the first one first.
const ENDPOINTS: [&str; 3] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];

/// The endpoint, where it is not Amazon's own.
pub(crate) fn endpoint(environment: &StoreEnvironment) -> Option<String> {
    with_shared_files(environment).first(&ENDPOINTS).map(str::to_owned)
}

pub(crate) fn open(
    url: &Url,
    environment: &StoreEnvironment,
    transport: &TransportSettings,
) -> Result<ProviderClient, StoreError> {
    let environment = with_shared_files(environment);
    let endpoint = environment.first(&ENDPOINTS);
    check_encryption(url, endpoint, &environment, "AWS_ALLOW_HTTP")?;
    let options = transport.client_options(url)?;
    let mut builder = AmazonS3Builder::new().with_client_options(options.clone());
    for (key, value) in environment.settings("AWS_") {
        builder = builder.with_config(key, value);
    }
    let builder =
        builder.with_bucket_name(bucket_name(url)?).with_http_connector(transport.connector()).with_retry(no_retries());
    let region = [AmazonS3ConfigKey::Region, AmazonS3ConfigKey::DefaultRegion];
    let region = region.iter().find_map(|key| builder.get_config_value(key));
    let region = region.unwrap_or_else(|| "us-east-1".to_owned());
    let store = Arc::new(builder.build().map_err(|error| bad_settings(url, &error))?);
    let options = options.with_allow_http(environment.is_true("AWS_ALLOW_HTTP"));
    let client = transport.connector().connect(&options).map_err(|error| bad_settings(url, &error))?;
    let versions = Arc::new(S3Versions { store: store.clone(), client });
    Ok(ProviderClient { store: store.clone(), signer: Arc::new(S3Signer { store, region }), versions: Some(versions) })
}

/// The environment, supplemented from `~/.aws/config` and `~/.aws/credentials` where no variable names credentials.
fn with_shared_files(environment: &StoreEnvironment) -> StoreEnvironment {
    let mut settings = StoreEnvironment::default();
    if environment.first(&CREDENTIALS).is_none() {
        let profile = environment.first(&["AWS_PROFILE", "AWS_DEFAULT_PROFILE"]).unwrap_or("default");
        for (variable, name) in [("AWS_CONFIG_FILE", "config"), ("AWS_SHARED_CREDENTIALS_FILE", "credentials")] {
            let file = environment.first(&[variable]).map(PathBuf::from);
            let file = file.or_else(|| Some(PathBuf::from(environment.first(&["HOME"])?).join(".aws").join(name)));
            if let Some(text) = file.and_then(|file| fs::read_to_string(file).ok()) {
                settings = profile_settings(&text, profile).or(settings);
            }
        }
    }
    environment.or(settings)
}

/// The settings of `profile` in a shared file, under the names of their variables.
fn profile_settings(text: &str, profile: &str) -> StoreEnvironment {
    let mut settings = StoreEnvironment::default();
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            let section = section.trim();
            inside = section.strip_prefix("profile ").unwrap_or(section).trim() == profile;
        } else if let Some((name, value)) = line.split_once('=').filter(|_| inside)
            && let Some((_, variable)) = SETTINGS.iter().find(|(setting, _)| *setting == name.trim())
        {
            settings.set(variable, value.trim());
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
        [default]\nregion = eu-west-1\n# aws_access_key_id = no\n\n\
        [profile logs]\naws_access_key_id=ID\naws_secret_access_key = a=b\nother = x\n";

    #[test]
    fn a_profile_of_the_shared_files_is_read() {
        let logs = profile_settings(FILE, "logs");
        assert_eq!(logs.get("AWS_ACCESS_KEY_ID"), Some("ID"));
        assert_eq!(logs.get("AWS_SECRET_ACCESS_KEY"), Some("a=b"));
        assert_eq!(logs.get("AWS_REGION"), None);
        assert_eq!(profile_settings(FILE, "default").get("AWS_REGION"), Some("eu-west-1"));
        assert_eq!(profile_settings(FILE, "none").get("AWS_REGION"), None);
    }

    #[test]
    fn variables_come_before_files() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), FILE).unwrap();
        let mut environment = StoreEnvironment::default();
        environment.set("AWS_SHARED_CREDENTIALS_FILE", file.path().to_str().unwrap());
        assert_eq!(with_shared_files(&environment).get("AWS_REGION"), Some("eu-west-1"));
        environment.set("AWS_REGION", "us-west-2");
        assert_eq!(with_shared_files(&environment).get("AWS_REGION"), Some("us-west-2"));
    }

    #[test]
    fn files_are_not_read_where_variables_name_credentials() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), FILE).unwrap();
        let mut environment = StoreEnvironment::default();
        environment.set("AWS_SHARED_CREDENTIALS_FILE", file.path().to_str().unwrap());
        environment.set("AWS_ACCESS_KEY_ID", "x");
        assert_eq!(with_shared_files(&environment).get("AWS_REGION"), None);
    }
}

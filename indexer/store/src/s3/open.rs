//! `s3://bucket/prefix`, configured as the AWS tools are.

use std::sync::Arc;

use object_store::{
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    client::HttpConnector as _,
};
use url::Url;

#[cfg(not(feature = "aws-credentials"))]
use super::without_profiles::{NoAwsProfile as AwsProfile, credential_chain};
#[cfg(feature = "aws-credentials")]
use super::{credentials::credential_chain, profile::AwsProfile};
use super::{sign::S3Signer, versions::S3Versions, write_headers::write_headers};
use crate::{
    configuration::{ConfiguredValue, StoreConfiguration},
    environment::{StoreEnvironment, is_true},
    errors::StoreError,
    provider_client::{
        ProviderClient, TransportSettings, bad_settings, bucket_name, check_encryption, no_retries, unusable,
    },
    scheme::StoreScheme,
};

/// Where an endpoint that is not Amazon's own is named, the first one first.
const ENDPOINTS: [&str; 3] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];
const REGIONS: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];
/// Either of them means that the environment holds the credentials.
const STATIC_KEYS: [&str; 2] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
const VIRTUAL_HOSTED_STYLE: &str = "AWS_VIRTUAL_HOSTED_STYLE_REQUEST";
const DEFAULT_REGION: &str = "us-east-1";
/// How the alias of an access point ends. AWS serves access points in virtual-hosted style alone.
const ACCESS_POINT_ALIAS: &str = "-s3alias";

/// The endpoint, where it is not Amazon's own.
pub(crate) fn endpoint(environment: &StoreEnvironment) -> Option<String> {
    let profile = AwsProfile::load(environment).ok()?;
    configured_endpoint(environment, &profile).map(|endpoint| endpoint.value)
}

/// The file of authorities that AWS's tools trust in place of the system's.
pub(crate) fn ca_bundle(environment: &StoreEnvironment) -> Option<ConfiguredValue> {
    let of_profile = || AwsProfile::load(environment).ok()?.get("ca_bundle");
    environment.configured(&["AWS_CA_BUNDLE"]).or_else(of_profile)
}

pub(crate) fn open(
    url: &Url,
    environment: &StoreEnvironment,
    transport: &TransportSettings,
) -> Result<ProviderClient, StoreError> {
    let bucket = bucket_name(url)?;
    if bucket.contains('%') {
        return Err(unusable(url, format!("\"{bucket}\" is no name of a bucket"), "name an access point by its alias"));
    }
    let profile = AwsProfile::load(environment).map_err(|refusal| unusable(url, refusal.why, refusal.remedy))?;
    let endpoint = configured_endpoint(environment, &profile);
    check_encryption(url, endpoint.as_ref(), environment, "AWS_ALLOW_HTTP")?;
    let region = environment.configured(&REGIONS).or_else(|| profile.get("region"));
    let region = region.unwrap_or_else(|| ConfiguredValue::default_of(DEFAULT_REGION));
    let options = transport.client_options(url)?;
    let mut builder = AmazonS3Builder::new().with_client_options(options.clone());
    // What names an endpoint is resolved here.
    let mut settings = environment.clone();
    settings.unset(&ENDPOINTS);
    for (key, value) in settings.settings("AWS_") {
        builder = builder.with_config(key, value.value);
    }
    if let Some(endpoint) = &endpoint {
        check_virtual_host(url, bucket, endpoint, &builder, environment)?;
        builder = builder.with_endpoint(&endpoint.value);
    } else if bucket.ends_with(ACCESS_POINT_ALIAS) {
        builder = builder.with_virtual_hosted_style_request(true);
    }
    let http = transport.http_client(url, reqwest::Client::builder())?;
    let headers = write_headers(&builder).map_err(|(why, remedy)| unusable(url, why.to_owned(), remedy))?;
    let credentials = if environment.is_true("AWS_SKIP_SIGNATURE") {
        "none: AWS_SKIP_SIGNATURE".to_owned()
    } else if let Some(name) = environment.first_name(&STATIC_KEYS) {
        environment.source(name)
    } else {
        let (source, provider) = credential_chain(url, environment, transport, &http, &region, profile)?;
        builder = builder.with_credentials(provider);
        source
    };
    let builder = builder
        .with_bucket_name(bucket)
        .with_region(&region.value)
        .with_http_connector(transport.connector())
        .with_retry(no_retries());
    let store = Arc::new(builder.build().map_err(|error| bad_settings(url, &error))?);
    let options = options.with_allow_http(environment.is_true("AWS_ALLOW_HTTP"));
    let client = transport.connector().connect(&options).map_err(|error| bad_settings(url, &error))?;
    let pays = headers.contains_key("x-amz-request-payer");
    let versions = Arc::new(S3Versions { store: store.clone(), client, pays });
    let own_endpoint = || ConfiguredValue::default_of(format!("https://s3.{}.amazonaws.com", region.value));
    let configuration = StoreConfiguration {
        endpoint: Some(endpoint.unwrap_or_else(own_endpoint)),
        region: Some(region.clone()),
        credentials: Some(credentials),
        ..transport.configuration(StoreScheme::S3, url)
    };
    Ok(ProviderClient {
        store: store.clone(),
        signer: Arc::new(S3Signer { store, region: region.value, headers }),
        versions: Some(versions),
        http,
        configuration: Arc::new(configuration),
    })
}

fn configured_endpoint(environment: &StoreEnvironment, profile: &AwsProfile) -> Option<ConfiguredValue> {
    if environment.is_true("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") {
        return None;
    }
    environment.configured(&ENDPOINTS).or_else(|| profile.endpoint())
}

/// In virtual-hosted style the endpoint names the bucket: one that does not would serve every bucket as the same place.
fn check_virtual_host(
    url: &Url,
    bucket: &str,
    endpoint: &ConfiguredValue,
    builder: &AmazonS3Builder,
    environment: &StoreEnvironment,
) -> Result<(), StoreError> {
    let style = builder.get_config_value(&AmazonS3ConfigKey::VirtualHostedStyleRequest);
    let names_bucket = || {
        let host = endpoint.value.split_once("://").map_or(endpoint.value.as_str(), |(_, host)| host);
        host.strip_prefix(bucket).is_some_and(|rest| rest.starts_with('.'))
    };
    if !style.is_some_and(|style| is_true(&style)) || names_bucket() {
        return Ok(());
    }
    let why = format!(
        "{} asks for virtual-hosted style, and the endpoint {endpoint} does not begin with the bucket, so that all buckets would be \
         one place",
        environment.source(VIRTUAL_HOSTED_STYLE),
    );
    Err(unusable(url, why, &format!("put \"{bucket}.\" before the endpoint's host, or unset {VIRTUAL_HOSTED_STYLE}")))
}

#[cfg(test)]
#[cfg(feature = "aws-credentials")]
mod tests {
    use super::*;
    use crate::{Store, StoreAccess, StoreSettings};

    const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret")];

    fn open(url: &str, variables: &[(&str, &str)]) -> Result<StoreConfiguration, String> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let store = Store::open_with(&url.parse().unwrap(), &variables.collect());
        store.and_then(|store| store.configuration()).map_err(|error| error.to_string())
    }

    fn with_config(text: &str, variables: &[(&str, &str)]) -> Result<StoreConfiguration, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let config = [("AWS_CONFIG_FILE", file.path().to_str().unwrap())];
        open("s3://wal/orders", &[&config, variables].concat())
    }

    #[test]
    fn a_profile_gives_the_region_where_the_environment_gives_the_keys() {
        let text = "[default]\nregion = eu-west-1\nendpoint_url = https://s3.corp\n[profile logs]\nregion = mars-1\n";
        let found = with_config(text, &KEYS).unwrap();
        assert_eq!(found.region.unwrap().value, "eu-west-1");
        assert_eq!(found.endpoint.unwrap().value, "https://s3.corp");
        assert_eq!(found.credentials.as_deref(), Some("variable AWS_ACCESS_KEY_ID"));
        let found = with_config(text, &[&KEYS[..], &[("AWS_PROFILE", "logs")]].concat()).unwrap();
        assert_eq!(found.region.unwrap().value, "mars-1");
        let found = with_config(text, &[&KEYS[..], &[("AWS_REGION", "us-west-2")]].concat()).unwrap();
        assert_eq!(
            found.region.unwrap(),
            ConfiguredValue { value: "us-west-2".to_owned(), source: "variable AWS_REGION".to_owned() }
        );
    }

    #[test]
    fn an_endpoint_of_s3_comes_before_one_of_all_services_and_either_before_a_profiles() {
        let profile = "[default]\nendpoint_url = https://profile\n";
        let all = ("AWS_ENDPOINT_URL", "https://all");
        let found = |variables: &[(&str, &str)]| {
            with_config(profile, &[&KEYS[..], variables].concat()).unwrap().endpoint.unwrap().value
        };
        assert_eq!(found(&[all, ("AWS_ENDPOINT_URL_S3", "https://s3")]), "https://s3");
        assert_eq!(found(&[all]), "https://all");
        assert_eq!(found(&[]), "https://profile");
        let ignored = [("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")];
        assert_eq!(found(&ignored), "https://s3.us-east-1.amazonaws.com");
    }

    #[test]
    fn an_unknown_profile_is_refused_even_beside_keys() {
        let error = with_config("[default]\n", &[&KEYS[..], &[("AWS_PROFILE", "none")]].concat()).unwrap_err();
        assert!(error.contains("profile \"none\" (variable AWS_PROFILE)") && error.contains("correct AWS_PROFILE"));
    }

    #[test]
    fn each_source_of_credentials_is_named_and_no_secret_is() {
        type EnvironmentPairs<'a> = &'a [(&'a str, &'a str)];
        let cases: [(&str, EnvironmentPairs<'_>, &str); 7] = [
            (
                "[default]\naws_access_key_id = id\naws_secret_access_key = hidden\n",
                &[],
                "aws_access_key_id of profile",
            ),
            ("[default]\nsso_session = corp\n[sso-session corp]\nsso_region = x\n", &[], "sso_session of profile"),
            ("[default]\ncredential_process = /bin/give hidden\n", &[], "credential_process of profile \"default\""),
            ("[default]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = y\n", &[], "role_arn of profile"),
            ("", &[("AWS_WEB_IDENTITY_TOKEN_FILE", "/token")], "variable AWS_WEB_IDENTITY_TOKEN_FILE"),
            (
                "",
                &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1")],
                "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            ),
            ("", &[], "instance metadata"),
        ];
        for (text, variables, expected) in cases {
            let found = with_config(text, variables).unwrap();
            let credentials = found.credentials.clone().unwrap();
            assert!(credentials.contains(expected), "{credentials}");
            assert!(!format!("{found:?}").contains("hidden"), "{found:?}");
        }
    }

    #[test]
    fn a_bundle_of_certificates_is_named_with_its_source() {
        for text in ["[default]\nca_bundle = /nowhere/ca.pem\n", ""] {
            let variable = [("AWS_CA_BUNDLE", "/nowhere/ca.pem")];
            let error = with_config(text, if text.is_empty() { &variable } else { &[] }).unwrap_err();
            let source = if text.is_empty() { "variable AWS_CA_BUNDLE" } else { "ca_bundle of profile \"default\"" };
            assert!(error.contains("\"/nowhere/ca.pem\" cannot be used") && error.contains(source), "{error}");
        }
    }

    #[test]
    fn two_buckets_do_not_become_one_place() {
        let style = |endpoint| {
            let style = [(VIRTUAL_HOSTED_STYLE, "true"), ("AWS_ENDPOINT_URL", endpoint)];
            open("s3://wal", &[&KEYS[..], &style].concat())
        };
        for endpoint in ["https://s3.corp", "https://wally.s3.corp", "https://s3.corp/wal"] {
            let error = style(endpoint).unwrap_err();
            assert!(error.contains(endpoint) && error.contains("put \"wal.\" before"), "{error}");
        }
        style("https://wal.s3.corp").unwrap();
        let own = [&KEYS[..], &[(VIRTUAL_HOSTED_STYLE, "true")]].concat();
        open("s3://wal", &own).unwrap();
    }

    #[test]
    fn a_setting_of_the_store_is_named_as_the_source() {
        let text = r#"{"endpoint": "https://s3.corp", "region": "eu-1"}"#;
        let settings: StoreSettings = serde_json::from_str(text).unwrap();
        let environment = KEYS.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
        let access = StoreAccess::new(&settings, environment);
        let found = Store::open_as(&"s3://wal".parse().unwrap(), &access).unwrap().configuration().unwrap();
        assert_eq!(found.endpoint.unwrap().source, "setting \"endpoint\" of the store");
        assert_eq!(found.region.unwrap().source, "setting \"region\" of the store");
    }
}

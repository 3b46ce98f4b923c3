//! What no server here answers for AWS: sources of credentials, encryption, requester-pays.
//!
//! The answers are the examples of AWS's documentation. They show that the requests have the documented form, not that AWS
//! takes them.

use std::{
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use crate::recording_server::{RecordedRequest, RecordingServer};
use tidemark_store::{Create, Store, StoreError, StoreSecond, UrlSigner, UserMetadata};

/// The tests of this file that a child process runs.
const SIGNS: &str = "aws::signs_a_url_with_the_credentials_of_its_environment";
const WRITES: &str = "aws::writes_an_object_with_what_its_environment_names";
const PRINTED: &str = "printed: ";
/// Set for that process alone.
const CHILD_VARIABLE: &str = "TIDEMARK_TEST_CHILD";

/// Runs in a child process, since AWS's crate reads the variables of the process.
#[tokio::test]
#[ignore = "the other tests run it in a process of its own"]
async fn signs_a_url_with_the_credentials_of_its_environment() {
    if std::env::var_os(CHILD_VARIABLE).is_none() {
        return;
    }
    let at = StoreSecond::from_unix(1_700_000_000);
    let ends = at.after(Duration::from_mins(1));
    let put = match Store::open(&"s3://wal/orders".parse().unwrap()) {
        Ok(store) => UrlSigner::of(&store).put_url("x", at, ends, &UserMetadata::new()).await,
        Err(error) => Err(error),
    };
    match put {
        Ok(put) => println!("{PRINTED}{}", put.unwrap().url),
        Err(error) => println!("{PRINTED}{error}"),
    }
}

/// As the test above, with a write, which is tried once.
#[tokio::test]
#[ignore = "the other tests run it in a process of its own"]
async fn writes_an_object_with_what_its_environment_names() {
    if std::env::var_os(CHILD_VARIABLE).is_none() {
        return;
    }
    let store = Store::open(&"s3://wal/orders".parse().unwrap()).unwrap();
    let created = store.create("x", "body".into(), &UserMetadata::new()).await;
    // A client of signed URLs trusts whom the store's own client does.
    let put = store.client().unwrap().put(std::env::var("AWS_ENDPOINT_URL").unwrap()).body("body").send().await;
    println!("{PRINTED}{created:?}, signed URL: {}", put.is_ok());
}

/// The URL that a child process signs with these variables, or its refusal.
fn signed(home: &Path, variables: &[(&str, &str)]) -> String {
    printed_by(SIGNS, home, variables)
}

/// What the test `child` prints in a process that has these variables alone.
fn printed_by(child: &str, home: &Path, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", child, "--ignored", "--nocapture"]).env_clear().env("HOME", home).env(CHILD_VARIABLE, "1");
    let Output { stdout, stderr, .. } = command.envs(variables.iter().copied()).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    let line = stdout.lines().find_map(|line| Some(line.split_once(PRINTED)?.1.to_owned()));
    line.unwrap_or_else(|| panic!("nothing was printed: {stdout}\n{stderr}"))
}

fn assert_signed_by(url: &str, key: &str, token: &str) {
    let url: url::Url = url.parse().unwrap_or_else(|_| panic!("no URL was signed: {url}"));
    let value = |name| url.query_pairs().find(|(other, _)| other == name).map(|(_, value)| value.into_owned());
    let credential = value("X-Amz-Credential").unwrap();
    assert!(credential.starts_with(&format!("{key}/")), "{credential}");
    assert_eq!(value("X-Amz-Security-Token").as_deref(), Some(token));
}

/// A home folder with the text as its `~/.aws/config`.
fn home(config: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(".aws")).unwrap();
    std::fs::write(home.path().join(".aws/config"), config).unwrap();
    home
}

fn targets(requests: &[RecordedRequest]) -> Vec<String> {
    requests.iter().map(|request| format!("{} {}", request.method, request.target)).collect()
}

/// AWS: "Retrieve security credentials from instance metadata", version 2.
#[test]
fn an_instance_gives_credentials() {
    let server = RecordingServer::start(|request| match (request.method.as_str(), request.target.as_str()) {
        ("PUT", "/latest/api/token") => (200, "AQAEAL".to_owned()),
        (_, target) if target.ends_with("/iam/security-credentials/") => (200, "s3access".to_owned()),
        (_, target) if target.ends_with("/iam/security-credentials/s3access") => {
            let text = r#"{"Code": "Success", "LastUpdated": "2012-04-26T16:39:16Z", "Type": "AWS-HMAC",
                "AccessKeyId": "ASIAIOSFODNN7EXAMPLE", "SecretAccessKey": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
                "Token": "token", "Expiration": "2097-05-17T15:09:54Z"}"#;
            (200, text.to_owned())
        }
        _ => (404, String::new()),
    });
    let home = home("");
    let url = signed(home.path(), &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &server.url)]);
    assert_signed_by(&url, "ASIAIOSFODNN7EXAMPLE", "token");
    let requests = server.requests();
    assert_eq!(requests[0].method, "PUT");
    let with_token = |request: &RecordedRequest| request.headers.contains_key("x-aws-ec2-metadata-token");
    assert!(requests[1..].iter().all(with_token), "{requests:?}");
}

#[test]
fn an_instance_is_not_asked_where_a_profile_answers() {
    let server = RecordingServer::start(|_| (404, String::new()));
    let home = home("[profile logs]\naws_access_key_id = AKID\naws_secret_access_key = s\naws_session_token = t\n");
    let variables = [("AWS_PROFILE", "logs"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &server.url)];
    assert_signed_by(&signed(home.path(), &variables), "AKID", "t");
    assert_eq!(targets(&server.requests()), [""; 0]);
}

#[test]
fn keys_in_the_file_of_credentials_count_before_those_in_the_config() {
    let server = RecordingServer::start(|_| (404, String::new()));
    let keys =
        |key: &str| format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = s\naws_session_token = t\n");
    let home = home(&keys("OFCONFIG"));
    std::fs::write(home.path().join(".aws/credentials"), keys("OFCREDENTIALS")).unwrap();
    let url = signed(home.path(), &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &server.url)]);
    assert_signed_by(&url, "OFCREDENTIALS", "t");
}

#[test]
fn without_any_credentials_the_refusal_says_so() {
    let home = home("");
    let refusal = signed(home.path(), &[("AWS_EC2_METADATA_DISABLED", "true")]);
    for part in ["no AWS credentials were got", "AWS_EC2_METADATA_DISABLED", "set AWS_ACCESS_KEY_ID"] {
        assert!(refusal.contains(part), "{refusal}");
    }
}

/// AWS: the answer of EKS Pod Identity's agent, which the containers of ECS have too.
#[test]
fn an_agent_of_the_pod_gives_credentials() {
    let server = RecordingServer::start(|_| {
        let text = r#"{"AccessKeyId": "ASIAPOD", "SecretAccessKey": "s", "Token": "t", "AccountId": "123456789012",
            "Expiration": "2097-05-17T15:09:54Z"}"#;
        (200, text.to_owned())
    });
    // A pod has no shared files.
    let home = tempfile::tempdir().unwrap();
    let token = home.path().join("token");
    std::fs::write(&token, "of-the-pod").unwrap();
    let uri = format!("{}/v1/credentials", server.url);
    let variables = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.to_str().unwrap()),
    ];
    assert_signed_by(&signed(home.path(), &variables), "ASIAPOD", "t");
    let requests = server.requests();
    assert_eq!(targets(&requests), ["GET /v1/credentials"]);
    assert_eq!(requests[0].headers["authorization"], "of-the-pod");
}

/// AWS: the example of `AssumeRoleWithWebIdentity`.
#[test]
fn a_web_identity_is_exchanged_for_credentials() {
    let server = RecordingServer::start(|_| {
        let text = "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
            <AssumeRoleWithWebIdentityResult><SubjectFromWebIdentityToken>amzn1.account.AF6RHO7KZU5XRVQJGXK6HB56KR2A\
            </SubjectFromWebIdentityToken><AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/FederatedWebIdentityRole/app1\
            </Arn><AssumedRoleId>AROACLKWSDQRAOEXAMPLE:app1</AssumedRoleId></AssumedRoleUser><Credentials>\
            <SessionToken>AQoDYXdzEE0a8ANexample1ewxE5TijQyp</SessionToken><SecretAccessKey>s</SecretAccessKey>\
            <Expiration>2097-10-24T23:00:23Z</Expiration><AccessKeyId>ASgeIAIOSFODNN7EXAMPLE</AccessKeyId></Credentials>\
            </AssumeRoleWithWebIdentityResult><ResponseMetadata><RequestId>ad4156e9</RequestId></ResponseMetadata>\
            </AssumeRoleWithWebIdentityResponse>";
        (200, text.to_owned())
    });
    let home = home("");
    let token = home.path().join("token");
    std::fs::write(&token, "of-the-cluster").unwrap();
    let variables = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/FederatedWebIdentityRole"),
        ("AWS_ENDPOINT_URL_STS", &server.url),
        ("AWS_REGION", "eu-west-1"),
    ];
    assert_signed_by(&signed(home.path(), &variables), "ASgeIAIOSFODNN7EXAMPLE", "AQoDYXdzEE0a8ANexample1ewxE5TijQyp");
    let requests = server.requests();
    assert_eq!(requests.len(), 1);
    for part in ["Action=AssumeRoleWithWebIdentity", "WebIdentityToken=of-the-cluster", "RoleArn=arn%3Aaws%3Aiam"] {
        assert!(requests[0].body.contains(part), "{}", requests[0].body);
    }
}

/// AWS: a profile of IAM Identity Center after `aws sso login`, and the answer of `GetRoleCredentials`.
#[test]
fn a_login_of_sso_gives_credentials() {
    let server = RecordingServer::start(|_| {
        let text = r#"{"roleCredentials": {"accessKeyId": "ASIASSO", "secretAccessKey": "s", "sessionToken": "t",
            "expiration": 4019843394000}}"#;
        (200, text.to_owned())
    });
    let home = home(
        "[profile my-dev]\nsso_session = my-sso\nsso_account_id = 123456789011\nsso_role_name = readOnly\n\
         [sso-session my-sso]\nsso_region = us-east-1\nsso_start_url = https://my-sso-portal.awsapps.com/start\n",
    );
    // The name of the file is the SHA-1 of the session's name.
    let cache = home.path().join(".aws/sso/cache");
    std::fs::create_dir_all(&cache).unwrap();
    let login = r#"{"startUrl": "https://my-sso-portal.awsapps.com/start", "region": "us-east-1",
        "accessToken": "of-the-login", "expiresAt": "2097-05-17T15:09:54Z"}"#;
    std::fs::write(cache.join("0ad374308c5a4e22f723adf10145eafad7c4031c.json"), login).unwrap();
    let variables = [("AWS_PROFILE", "my-dev"), ("AWS_ENDPOINT_URL_SSO", server.url.as_str())];
    assert_signed_by(&signed(home.path(), &variables), "ASIASSO", "t");
    let requests = server.requests();
    assert_eq!(targets(&requests), ["GET /federation/credentials?role_name=readOnly&account_id=123456789011"]);
    assert_eq!(requests[0].headers["x-amz-sso_bearer_token"], "of-the-login");
}

/// AWS: the answer to a request that the bucket's policy forbids.
#[tokio::test]
async fn a_refusal_names_where_the_credentials_are_from() {
    let (store, _server) =
        answered(403, "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>", &[]);
    let refusal = store.get("x", 10).await.unwrap_err();
    assert!(matches!(refusal, StoreError::Denied { .. }), "{refusal}");
    assert!(refusal.to_string().contains("(credentials: variable AWS_ACCESS_KEY_ID)"), "{refusal}");
}

/// A server whose certificate a private authority signed is trusted because `AWS_CA_BUNDLE`, or `ca_bundle` of the profile,
/// names that authority.
#[test]
fn a_private_authority_is_trusted_because_it_is_named() {
    let home = home("");
    let [authority, other] = ["ca.pem", "other.pem"].map(|name| home.path().join(name));
    let server = RecordingServer::start_with_tls(&authority, |_| (200, String::new()));
    RecordingServer::start_with_tls(&other, |_| (200, String::new()));
    let config = home.path().join(".aws/config");
    std::fs::write(config, format!("[profile corp]\nca_bundle = {}\n", authority.display())).unwrap();
    let written = |variables: &[(&str, &str)]| {
        let own = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_ENDPOINT_URL", &server.url)];
        printed_by(WRITES, home.path(), &[&own, variables].concat())
    };
    let [authority, other] = [&authority, &other].map(|file| file.to_str().unwrap());
    for distrusting in [&[][..], &[("AWS_CA_BUNDLE", other)]] {
        let refused = written(distrusting);
        assert!(refused.starts_with("Unknown") && refused.ends_with("signed URL: false"), "{refused}");
        assert!(refused.to_lowercase().contains("certificate"), "{refused}");
    }
    assert_eq!(targets(&server.requests()), [""; 0]);
    for trusting in [("AWS_CA_BUNDLE", authority), ("AWS_PROFILE", "corp")] {
        assert_eq!(written(&[trusting]), "Committed, signed URL: true");
    }
    assert_eq!(targets(&server.requests()), ["PUT /wal/orders/x", "PUT /", "PUT /wal/orders/x", "PUT /"]);
}

/// A store whose writes the server records, with variables beside its keys.
fn recorded(variables: &[(&str, &str)]) -> (Store, RecordingServer) {
    answered(200, "", variables)
}

fn answered(status: u16, answer: &'static str, variables: &[(&str, &str)]) -> (Store, RecordingServer) {
    let server = RecordingServer::start(move |_| (status, answer.to_owned()));
    let own = [
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_ENDPOINT_URL", &server.url),
        ("AWS_ALLOW_HTTP", "true"),
    ];
    let variables = own.iter().chain(variables).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let store = Store::open_with(&"s3://wal/orders".parse().unwrap(), &variables.collect()).unwrap();
    (store, server)
}

/// AWS: the headers of `PutObject` for SSE-KMS, SSE-C and requester-pays buckets. A signed URL has what the store's own write has.
#[tokio::test]
async fn a_signed_url_encrypts_and_pays_as_the_stores_own_write_does() {
    type NamedValues<'a> = &'a [(&'a str, &'a str)];
    // The key is 32 bytes; its MD5 is of the bytes, not of the base64.
    let key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
    let cases: [(NamedValues<'_>, NamedValues<'_>); 4] = [
        (
            &[
                ("AWS_SERVER_SIDE_ENCRYPTION", "aws:kms"),
                ("AWS_SSE_KMS_KEY_ID", "arn:aws:kms:us-east-1:123456789012:key/1234abcd"),
                ("AWS_SSE_BUCKET_KEY_ENABLED", "true"),
            ],
            &[
                ("x-amz-server-side-encryption", "aws:kms"),
                ("x-amz-server-side-encryption-aws-kms-key-id", "arn:aws:kms:us-east-1:123456789012:key/1234abcd"),
                ("x-amz-server-side-encryption-bucket-key-enabled", "true"),
            ],
        ),
        (&[("AWS_SERVER_SIDE_ENCRYPTION", "AES256")], &[("x-amz-server-side-encryption", "AES256")]),
        (
            &[("AWS_SERVER_SIDE_ENCRYPTION", "sse-c"), ("AWS_SSE_CUSTOMER_KEY_BASE64", key)],
            &[
                ("x-amz-server-side-encryption-customer-algorithm", "AES256"),
                ("x-amz-server-side-encryption-customer-key", key),
                ("x-amz-server-side-encryption-customer-key-md5", "KYvwGXoFFJ42a2u2GDWhwQ=="),
            ],
        ),
        (&[("AWS_REQUEST_PAYER", "requester")], &[("x-amz-request-payer", "requester")]),
    ];
    for (variables, expected) in cases {
        let (store, server) = recorded(variables);
        assert!(matches!(store.create("x", "body".into(), &UserMetadata::new()).await, Create::Committed));
        let own = server.requests().remove(0).headers;
        let at = StoreSecond::from_unix(1_700_000_000);
        let signer = UrlSigner::of(&store);
        let put =
            signer.put_url("x", at, at.after(Duration::from_mins(1)), &UserMetadata::new()).await.unwrap().unwrap();
        let names = put.url.query_pairs().find(|(name, _)| name == "X-Amz-SignedHeaders").unwrap().1.into_owned();
        for (name, value) in expected {
            assert_eq!(own.get(*name).map(String::as_str), Some(*value), "{name} of the store's own write");
            assert_eq!(put.headers.get(*name).map(String::as_str), Some(*value), "{name} of the signed URL");
            assert!(names.split(';').any(|signed| signed == *name), "{name} is signed: {names}");
        }
    }
}

#[test]
fn a_key_for_encryption_without_its_kind_is_refused() {
    let variables = [("AWS_SSE_KMS_KEY_ID", "k"), ("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
    let error = Store::open_with(&"s3://wal".parse().unwrap(), &variables).unwrap_err().to_string();
    assert!(error.contains("set AWS_SERVER_SIDE_ENCRYPTION"), "{error}");
}

/// AWS: an access point is addressed by its alias, as a host of its region.
#[tokio::test]
async fn the_alias_of_an_access_point_is_a_host() {
    let variables = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_REGION", "us-west-2")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
    let alias = "my-access-point-hrzrlukc5m36ft7okagglf3gmwluquse1b-s3alias";
    let store = Store::open_with(&format!("s3://{alias}/orders").parse().unwrap(), &variables).unwrap();
    let at = StoreSecond::from_unix(1_700_000_000);
    let signer = UrlSigner::of(&store);
    let put = signer.put_url("x", at, at.after(Duration::from_mins(1)), &UserMetadata::new()).await.unwrap().unwrap();
    assert_eq!(put.url.host_str(), Some(format!("{alias}.s3.us-west-2.amazonaws.com").as_str()));
    assert_eq!(put.url.path(), "/orders/x");
}

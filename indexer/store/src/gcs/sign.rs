//! Google: V4 signatures with a chosen date.
//!
//! `object_store` dates a URL by the local clock and signs no headers, and the condition is one.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{RSA_PKCS1_SHA256, RsaKeyPair},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use object_store::gcp::GoogleCloudStorage;
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::sign::{PutRequest, SignError, SignPut, SignedPut, encode_path, encode_query};

const ALGORITHM: &str = "GOOG4-RSA-SHA256";
/// What to do about an endpoint that cannot be used.
const ENDPOINT_REMEDY: &str = "correct the endpoint in the store's settings";
/// Signs for a service account whose key only Google has.
const SIGN_BLOB_URL: &str = "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts";
/// How long that service may take.
const SIGN_BLOB_TIMEOUT: Duration = Duration::from_secs(10);

/// What signs for a bucket: the private key of the credentials file, else Google's own service.
pub(super) struct GoogleSigner {
    pub(super) store: Arc<GoogleCloudStorage>,
    pub(super) endpoint: String,
    pub(super) bucket: String,
    pub(super) identity: SigningIdentity,
    pub(super) http: reqwest::Client,
}

/// In whose name URLs are signed.
pub(super) enum SigningIdentity {
    /// The service account of a credentials file, by its key.
    Key(ServiceAccountKey),
    /// A service account that the credentials impersonate, by Google's service.
    Impersonated(String),
    /// The service account of the machine, by Google's service.
    Machine,
    /// Nobody: why, and what to do.
    Nobody(&'static str, &'static str),
}

/// The service account of a credentials file, and its private key.
pub(super) struct ServiceAccountKey {
    /// The account's address.
    pub(super) account: String,
    pub(super) pem: String,
}

/// A request in the form that is signed, all but the signature.
struct UnsignedRequest {
    url: String,
    text: String,
}

#[async_trait]
impl SignPut for GoogleSigner {
    async fn sign_put(&self, request: &PutRequest<'_>) -> Result<SignedPut, SignError> {
        let headers = request.headers(("x-goog-if-generation-match", "0"), "x-goog-meta-");
        let account = match &self.identity {
            SigningIdentity::Key(key) => key.account.clone(),
            SigningIdentity::Impersonated(account) => account.clone(),
            SigningIdentity::Machine => self.store.signing_credentials().get_credential().await?.email.clone(),
            SigningIdentity::Nobody(why, remedy) => return Err(SignError::Unsignable((*why).to_owned(), remedy)),
        };
        let unsigned = self.unsigned(&account, request, &headers)?;
        let signature = match &self.identity {
            SigningIdentity::Key(key) => sign_rsa_sha256(&key.pem, unsigned.text.as_bytes())?,
            _ => self.sign_blob(&account, unsigned.text.as_bytes()).await?,
        };
        let url = format!("{}&X-Goog-Signature={}", unsigned.url, hex::encode(signature));
        let url = url
            .parse()
            .map_err(|error| SignError::Unsignable(format!("\"{}\": {error}", self.endpoint), ENDPOINT_REMEDY))?;
        Ok(SignedPut { url, headers })
    }
}

impl GoogleSigner {
    fn unsigned(
        &self,
        account: &str,
        request: &PutRequest<'_>,
        headers: &BTreeMap<String, String>,
    ) -> Result<UnsignedRequest, SignError> {
        let endpoint = self.endpoint.trim_end_matches('/');
        let path = format!("/{}/{}", encode_query(&self.bucket), encode_path(request.path.as_ref()));
        let host = host(endpoint)
            .ok_or_else(|| SignError::Unsignable(format!("\"{endpoint}\" is not an endpoint"), ENDPOINT_REMEDY))?;
        let mut signed = headers.clone();
        signed.insert("host".to_owned(), host);
        let names = signed.keys().cloned().collect::<Vec<_>>().join(";");
        let lines = signed.iter().map(|(name, value)| [name, ":", value.trim(), "\n"].concat()).collect::<String>();
        let date = request.signed_at.timestamp().strftime("%Y%m%dT%H%M%SZ").to_string();
        let scope = format!("{}/auto/storage/goog4_request", &date[..8]);
        let query = format!(
            "X-Goog-Algorithm={ALGORITHM}&X-Goog-Credential={}&X-Goog-Date={date}&X-Goog-Expires={}\
             &X-Goog-SignedHeaders={}",
            encode_query(&format!("{account}/{scope}")),
            request.validity(),
            encode_query(&names),
        );
        let canonical = format!("PUT\n{path}\n{query}\n{lines}\n{names}\nUNSIGNED-PAYLOAD");
        Ok(UnsignedRequest {
            url: format!("{endpoint}{path}?{query}"),
            text: format!("{ALGORITHM}\n{date}\n{scope}\n{}", hex::encode(Sha256::digest(canonical))),
        })
    }

    /// Has Google sign `text` with the key of `account`, for workloads that have an identity but no key.
    async fn sign_blob(&self, account: &str, text: &[u8]) -> Result<Vec<u8>, SignError> {
        let refused = |why: String| {
            SignError::Unsignable(
                format!("Google did not sign for \"{account}\": {why}"),
                "grant it the role Service Account Token Creator on itself",
            )
        };
        let token = self.store.credentials().get_credential().await?;
        let answer = self
            .http
            .post(format!("{SIGN_BLOB_URL}/{account}:signBlob"))
            .timeout(SIGN_BLOB_TIMEOUT)
            .bearer_auth(&token.bearer)
            .json(&serde_json::json!({ "payload": STANDARD.encode(text) }))
            .send()
            .await
            .and_then(reqwest::Response::error_for_status);
        let answer = answer.map_err(|error| refused(error.to_string()))?;
        let answer: serde_json::Value = answer.json().await.map_err(|error| refused(error.to_string()))?;
        let signature = answer["signedBlob"].as_str().and_then(|text| STANDARD.decode(text).ok());
        signature.ok_or_else(|| refused("its answer has no signature".to_owned()))
    }
}

/// The `Host` header that a client sends to `endpoint`.
fn host(endpoint: &str) -> Option<String> {
    let url: Url = endpoint.parse().ok()?;
    let host = url.host_str()?;
    Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

fn sign_rsa_sha256(pem: &str, text: &[u8]) -> Result<Vec<u8>, SignError> {
    let unusable = |why: &dyn std::fmt::Display| {
        SignError::Unsignable(format!("the service account's key is not an RSA key: {why}"), "give a new key file")
    };
    let key = match PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| unusable(&error))? {
        PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
        PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
        _ => return Err(unusable(&"it is of another kind")),
    };
    let key = key.map_err(|error| unusable(&error))?;
    let mut signature = vec![0; key.public_modulus_len()];
    let signed = key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text, &mut signature);
    signed.map_err(|error| unusable(&error))?;
    Ok(signature)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use aws_lc_rs::{
        encoding::{AsDer as _, Pkcs8V1Der},
        rsa::{KeyPair, KeySize},
    };
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    use object_store::{
        gcp::GoogleCloudStorageBuilder,
        path::Path,
        signer::{SignedUrlOptions, Signer as _},
    };
    use reqwest::{
        Method,
        header::{HeaderName, HeaderValue},
    };

    use super::*;
    use crate::{StoreSecond, sign::assert_signs_like};

    /// A private key of this run's own.
    static KEY: LazyLock<String> = LazyLock::new(|| {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let lines = BASE64_STANDARD.encode(der.as_ref());
        format!("-----BEGIN PRIVATE KEY-----\n{lines}\n-----END PRIVATE KEY-----\n")
    });
    const ACCOUNT: &str = "signer@project.iam.gserviceaccount.com";

    fn signing(endpoint: &str) -> GoogleSigner {
        let key = serde_json::json!({
            "private_key": *KEY, "private_key_id": "1", "client_email": ACCOUNT, "client_id": "1",
        });
        let store = GoogleCloudStorageBuilder::new()
            .with_bucket_name("bucket")
            .with_service_account_key(key.to_string())
            .build()
            .unwrap();
        GoogleSigner {
            store: Arc::new(store),
            endpoint: endpoint.to_owned(),
            bucket: "bucket".to_owned(),
            identity: SigningIdentity::Key(ServiceAccountKey { account: ACCOUNT.to_owned(), pem: KEY.clone() }),
            http: reqwest::Client::new(),
        }
    }

    /// The form of a canonical request that Google documents: verb, path, query, headers, names, payload.
    #[test]
    fn signs_googles_documented_form() {
        let path = Path::parse("log/a b").unwrap();
        let request = PutRequest {
            path: &path,
            signed_at: StoreSecond::floor("2019-02-01T09:00:00Z".parse().unwrap()),
            ends: StoreSecond::floor("2019-02-01T10:00:00Z".parse().unwrap()),
            metadata: &[("token".to_owned(), "t1".to_owned())].into(),
        };
        let headers = request.headers(("x-goog-if-generation-match", "0"), "x-goog-meta-");
        let unsigned = signing("https://storage.googleapis.com").unsigned(ACCOUNT, &request, &headers).ok().unwrap();
        let query = "X-Goog-Algorithm=GOOG4-RSA-SHA256\
            &X-Goog-Credential=signer%40project.iam.gserviceaccount.com%2F20190201%2Fauto%2Fstorage%2Fgoog4_request\
            &X-Goog-Date=20190201T090000Z&X-Goog-Expires=3600\
            &X-Goog-SignedHeaders=host%3Bx-goog-if-generation-match%3Bx-goog-meta-token";
        let canonical = format!(
            "PUT\n/bucket/log/a%20b\n{query}\nhost:storage.googleapis.com\nx-goog-if-generation-match:0\n\
             x-goog-meta-token:t1\n\nhost;x-goog-if-generation-match;x-goog-meta-token\nUNSIGNED-PAYLOAD"
        );
        let digest = hex::encode(Sha256::digest(canonical));
        let scope = "20190201/auto/storage/goog4_request";
        assert_eq!(unsigned.text, format!("GOOG4-RSA-SHA256\n20190201T090000Z\n{scope}\n{digest}"));
        assert_eq!(unsigned.url, format!("https://storage.googleapis.com/bucket/log/a%20b?{query}"));
    }

    #[tokio::test]
    async fn agrees_with_the_stores_own_signer() {
        let signing = signing("https://storage.googleapis.com");
        let path = Path::parse("log/entry.yaml").unwrap();
        let options = SignedUrlOptions::default()
            .with_signed_header(HeaderName::from_static("x-goog-if-generation-match"), HeaderValue::from_static("0"))
            .with_signed_header(HeaderName::from_static("x-goog-meta-token"), HeaderValue::from_static("t1"));
        let minute = Duration::from_mins(1);
        let theirs = signing.store.signed_url_opts(Method::PUT, &path, minute, &options).await.unwrap();
        assert_signs_like(&theirs, &signing, &path, "X-Goog").await;
    }

    #[test]
    fn a_port_belongs_to_the_signed_host() {
        assert_eq!(host("http://127.0.0.1:4443").unwrap(), "127.0.0.1:4443");
        assert_eq!(host("https://storage.googleapis.com:443").unwrap(), "storage.googleapis.com");
    }
}

//! Google: V4 signatures with a chosen date.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use object_store::gcp::GoogleCloudStorage;
use ring::{rand::SystemRandom, signature};
use sha2::{Digest as _, Sha256};
use url::Url;

use super::{Failure, Request, SignedPut, encoded};

const ALGORITHM: &str = "GOOG4-RSA-SHA256";
/// Signs for a service account whose key only Google has.
const IAM: &str = "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts";

/// What signs for a bucket: the private key of the credentials file, else Google's own service.
#[derive(Clone)]
pub(crate) struct GoogleSigning {
    pub(crate) store: Arc<GoogleCloudStorage>,
    pub(crate) endpoint: String,
    pub(crate) bucket: String,
    /// The service account's address and its private key in PEM.
    pub(crate) key: Option<(String, String)>,
}

/// A request in the form that is signed, all but the signature.
struct Unsigned {
    url: String,
    text: String,
}

impl GoogleSigning {
    pub(super) async fn put_url(&self, request: &Request<'_>) -> Result<SignedPut, Failure> {
        let headers = request.headers(("x-goog-if-generation-match", "0"), "x-goog-meta-");
        let account = match &self.key {
            Some((account, _)) => account.clone(),
            None => self.store.signing_credentials().get_credential().await?.email.clone(),
        };
        let unsigned = self.unsigned(&account, request, &headers)?;
        let signature = match &self.key {
            Some((_, key)) => rsa_sha256(key, unsigned.text.as_bytes())?,
            None => self.sign_blob(&account, unsigned.text.as_bytes()).await?,
        };
        let url = format!("{}&X-Goog-Signature={}", unsigned.url, hex::encode(signature));
        let url = url.parse().map_err(|error| Failure::Unsignable(format!("\"{}\": {error}", self.endpoint)))?;
        Ok(SignedPut { url, headers })
    }

    fn unsigned(
        &self,
        account: &str,
        request: &Request<'_>,
        headers: &std::collections::BTreeMap<String, String>,
    ) -> Result<Unsigned, Failure> {
        let endpoint = self.endpoint.trim_end_matches('/');
        let path = format!("/{}/{}", encoded(&self.bucket, false), encoded(request.path.as_ref(), true));
        let host = host(endpoint).ok_or_else(|| Failure::Unsignable(format!("\"{endpoint}\" is no endpoint")))?;
        let mut signed = headers.clone();
        signed.insert("host".to_owned(), host);
        let names = signed.keys().cloned().collect::<Vec<_>>().join(";");
        let lines: String = signed.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
        let date = request.signed_at.timestamp().strftime("%Y%m%dT%H%M%SZ").to_string();
        let scope = format!("{}/auto/storage/goog4_request", &date[..8]);
        let query = format!(
            "X-Goog-Algorithm={ALGORITHM}&X-Goog-Credential={}&X-Goog-Date={date}&X-Goog-Expires={}\
             &X-Goog-SignedHeaders={}",
            encoded(&format!("{account}/{scope}"), false),
            request.validity(),
            encoded(&names, false),
        );
        let canonical = format!("PUT\n{path}\n{query}\n{lines}\n{names}\nUNSIGNED-PAYLOAD");
        Ok(Unsigned {
            url: format!("{endpoint}{path}?{query}"),
            text: format!("{ALGORITHM}\n{date}\n{scope}\n{}", hex::encode(Sha256::digest(canonical))),
        })
    }

    /// Has Google sign `text` with the key of `account`, for workloads that have an identity but no key.
    async fn sign_blob(&self, account: &str, text: &[u8]) -> Result<Vec<u8>, Failure> {
        let refused = |why: String| {
            Failure::Unsignable(format!(
                "Google did not sign for \"{account}\": {why}; grant it the role Service Account Token Creator on itself"
            ))
        };
        let token = self.store.credentials().get_credential().await?;
        let answer = reqwest::Client::new()
            .post(format!("{IAM}/{account}:signBlob"))
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

fn rsa_sha256(pem: &str, text: &[u8]) -> Result<Vec<u8>, Failure> {
    let unusable =
        |why: &dyn std::fmt::Display| Failure::Unsignable(format!("the service account's key is no RSA key: {why}"));
    let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
    let key = STANDARD.decode(base64).map_err(|error| unusable(&error))?;
    let key = if pem.contains("BEGIN RSA PRIVATE KEY") {
        signature::RsaKeyPair::from_der(&key)
    } else {
        signature::RsaKeyPair::from_pkcs8(&key)
    };
    let key = key.map_err(|error| unusable(&error))?;
    let mut signed = vec![0; key.public().modulus_len()];
    let random = SystemRandom::new();
    key.sign(&signature::RSA_PKCS1_SHA256, &random, text, &mut signed).map_err(|error| unusable(&error))?;
    Ok(signed)
}

//! S3: Signature Version 4 in the query, with a chosen date.
//!
//! `rusty-s3` signs. `object_store` could, but dates a URL by the local clock and signs no headers, and the condition is one.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use object_store::{
    aws::{AmazonS3, AwsCredential},
    signer::Signer as _,
};
use reqwest::Method;
use url::Url;

use crate::{
    sign::{CreateBucketRequest, PutRequest, SignError, SignPut, SignedPut},
    time::StoreSecond,
};

/// The store's credentials, and the region that they sign for.
pub(super) struct S3Signer {
    pub(super) store: Arc<AmazonS3>,
    pub(super) region: String,
    /// Headers of every write, which a URL must carry too.
    pub(super) headers: BTreeMap<String, String>,
}

/// How long the URL is valid that the store itself signs. Only its address is used.
const ADDRESS_VALIDITY: Duration = Duration::from_secs(1);
/// How long the request that creates a bucket is valid. It is sent at once.
const CREATE_BUCKET_VALIDITY: Duration = Duration::from_mins(1);

#[async_trait]
impl SignPut for S3Signer {
    async fn sign_put(&self, request: &PutRequest<'_>) -> Result<SignedPut, SignError> {
        // Only the store knows the object's address (path or virtual host); its own signature has the local date.
        let mut url = self.store.signed_url(Method::PUT, request.path, ADDRESS_VALIDITY).await?;
        url.set_query(None);
        let credential = self.store.credentials().get_credential().await?;
        let mut headers = request.headers(("if-none-match", "*"), "x-amz-meta-");
        headers.extend(self.headers.clone());
        let (method, validity) = (rusty_s3::Method::Put, request.validity());
        let url = sign(method, url, &self.region, &credential, request.signed_at, validity, &headers);
        Ok(SignedPut { url, headers })
    }

    async fn sign_create_bucket(&self) -> Result<Option<CreateBucketRequest>, SignError> {
        let bucket = object_store::path::Path::default();
        let url = self.store.signed_url(Method::PUT, &bucket, CREATE_BUCKET_VALIDITY).await?;
        // The body names the region, except for the first region of AWS, which refuses its own name.
        let Self { region, .. } = self;
        let body = match region.as_str() {
            "us-east-1" | "auto" => String::new(),
            _ => format!(
                "<CreateBucketConfiguration><LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
            ),
        };
        Ok(Some(CreateBucketRequest { url, body }))
    }
}

fn sign(
    method: rusty_s3::Method,
    url: Url,
    region: &str,
    credential: &AwsCredential,
    signed_at: StoreSecond,
    validity: u64,
    headers: &BTreeMap<String, String>,
) -> Url {
    rusty_s3::signing::sign(
        &signed_at.timestamp(),
        method,
        url,
        &credential.key_id,
        &credential.secret_key,
        credential.token.as_deref(),
        region,
        validity,
        std::iter::empty(),
        headers.iter().map(|(name, value)| (name.as_str(), value.as_str())),
    )
}

#[cfg(test)]
mod tests {
    use object_store::{aws::AmazonS3Builder, path::Path, signer::SignedUrlOptions};
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;
    use crate::sign::{assert_signs_like, query_value};

    /// The example in AWS's documentation of query signatures.
    #[test]
    fn signs_awss_published_example() {
        let credential = AwsCredential {
            key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            token: None,
        };
        let url = "https://examplebucket.s3.amazonaws.com/test.txt".parse().unwrap();
        let at = StoreSecond::floor("2013-05-24T00:00:00Z".parse().unwrap());
        let none = BTreeMap::new();
        let url = sign(rusty_s3::Method::Get, url, "us-east-1", &credential, at, 86400, &none);
        let expected = "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
        assert_eq!(query_value(&url, "X-Amz-Signature"), expected);
    }

    /// What the local clock would sign at its own second, a chosen date signs at the same second.
    #[tokio::test]
    async fn agrees_with_the_stores_own_signer() {
        let store = AmazonS3Builder::new()
            .with_bucket_name("bucket")
            .with_region("eu-west-1")
            .with_access_key_id("id")
            .with_secret_access_key("secret")
            .with_token("session/token+")
            .build()
            .unwrap();
        let path = Path::parse("log/ünï (1)=&+.yaml").unwrap();
        let options = SignedUrlOptions::default()
            .with_signed_header(HeaderName::from_static("if-none-match"), HeaderValue::from_static("*"))
            .with_signed_header(HeaderName::from_static("x-amz-meta-token"), HeaderValue::from_static("t1"));
        let minute = Duration::from_mins(1);
        let theirs = store.signed_url_opts(Method::PUT, &path, minute, &options).await.unwrap();
        let signing = S3Signer { store: Arc::new(store), region: "eu-west-1".to_owned(), headers: BTreeMap::new() };
        let ours = assert_signs_like(&theirs, &signing, &path, "X-Amz").await;
        assert_eq!(ours.url.path(), theirs.path());
        assert_eq!(ours.headers["if-none-match"], "*");
    }
}

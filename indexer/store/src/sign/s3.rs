//! S3: Signature Version 4 in the query, with a chosen date.

use std::{collections::BTreeMap, sync::Arc};

use object_store::{
    aws::{AmazonS3, AwsCredential},
    signer::Signer as _,
};
use reqwest::Method;
use url::Url;

use super::{BucketRequest, Failure, Request, SignedPut};
use crate::StoreSecond;

/// The store's credentials, and the region that they sign for.
#[derive(Clone)]
pub(crate) struct S3Signing {
    pub(crate) store: Arc<AmazonS3>,
    pub(crate) region: String,
}

impl S3Signing {
    pub(super) async fn put_url(&self, request: &Request<'_>) -> Result<SignedPut, Failure> {
        // Only the store knows the object's address (path or virtual host); its own signature has the local date.
        let mut url = self.store.signed_url(Method::PUT, request.path, std::time::Duration::from_secs(1)).await?;
        url.set_query(None);
        let credential = self.store.credentials().get_credential().await?;
        Ok(signed(url, &self.region, &credential, request))
    }

    /// What makes the bucket. Its body names the region, which the first region of AWS wants left out.
    pub(super) async fn bucket_request(&self) -> object_store::Result<BucketRequest> {
        let minute = std::time::Duration::from_mins(1);
        let url = self.store.signed_url(Method::PUT, &object_store::path::Path::default(), minute).await?;
        let Self { region, .. } = self;
        let body = match region.as_str() {
            "us-east-1" | "auto" => String::new(),
            _ => format!(
                "<CreateBucketConfiguration><LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
            ),
        };
        Ok(BucketRequest { url, body })
    }
}

fn signed(url: Url, region: &str, credential: &AwsCredential, request: &Request<'_>) -> SignedPut {
    let headers = request.headers(("if-none-match", "*"), "x-amz-meta-");
    let method = rusty_s3::Method::Put;
    let validity = request.validity();
    let url = sign(method, url, region, credential, request.signed_at, validity, &headers);
    SignedPut { url, headers }
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
    use std::time::Duration;

    use object_store::{aws::AmazonS3Builder, path::Path, signer::SignedUrlOptions};
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;
    use crate::sign::query;

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
        assert_eq!(query(&url, "X-Amz-Signature"), expected);
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
        let date: jiff::civil::DateTime = query(&theirs, "X-Amz-Date").trim_end_matches('Z').parse().unwrap();
        let signed_at = StoreSecond::floor(date.in_tz("UTC").unwrap().timestamp());
        let signing = S3Signing { store: Arc::new(store), region: "eu-west-1".to_owned() };
        let request = Request {
            path: &path,
            signed_at,
            ends: signed_at.after(minute),
            metadata: &[("token".to_owned(), "t1".to_owned())].into(),
        };
        let ours = signing.put_url(&request).await.ok().unwrap();
        assert_eq!(query(&ours.url, "X-Amz-Signature"), query(&theirs, "X-Amz-Signature"));
        assert_eq!(ours.url.path(), theirs.path());
        assert_eq!(ours.headers["if-none-match"], "*");
    }
}

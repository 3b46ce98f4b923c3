//! S3: Signature Version 4 in the query, with a chosen date.

use std::sync::Arc;

use object_store::{
    aws::{AmazonS3, AwsCredential},
    signer::Signer as _,
};
use reqwest::Method;
use url::Url;

use super::{Failure, Request, SignedPut};

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
}

fn signed(url: Url, region: &str, credential: &AwsCredential, request: &Request<'_>) -> SignedPut {
    let headers = request.headers(("if-none-match", "*"), "x-amz-meta-");
    let url = rusty_s3::signing::sign(
        &request.signed_at.timestamp(),
        rusty_s3::Method::Put,
        url,
        &credential.key_id,
        &credential.secret_key,
        credential.token.as_deref(),
        region,
        request.validity(),
        std::iter::empty(),
        headers.iter().map(|(name, value)| (name.as_str(), value.as_str())),
    );
    SignedPut { url, headers }
}

//! Azure: a service SAS on one blob, with the permission to create and no other.
//!
//! A SAS signs no headers, so the user metadata is sent but not enforced, and the condition is the permission: `c`
//! creates a blob and never writes to one that exists. `object_store` begins a SAS at the local clock's moment and chooses the
//! permissions itself.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use object_store::{azure::MicrosoftAzure, signer::Signer as _};
use percent_encoding::percent_decode_str;
use reqwest::Method;
use url::Url;

use crate::{
    sign::{PutRequest, SignError, SignPut, SignedPut, encode_query},
    time::StoreSecond,
};

/// The version of the signature's form.
const VERSION: &str = "2023-11-03";

/// The account, and the key that signs for it.
pub(super) struct AzureSigner {
    pub(super) store: Arc<MicrosoftAzure>,
    pub(super) account: String,
    /// The account's key in base64, where the store has one.
    pub(super) key: Option<String>,
}

/// How long before the signing date a URL begins, as Azure advises: the clocks of its servers differ. A URL of a date that
/// leads by more is refused, as S3 refuses it.
const BEGIN_MARGIN: Duration = Duration::from_mins(15);
/// How long the URL is valid that the store itself signs. Only its address is used.
const ADDRESS_VALIDITY: Duration = Duration::from_secs(1);

#[async_trait]
impl SignPut for AzureSigner {
    async fn sign_put(&self, request: &PutRequest<'_>) -> Result<SignedPut, SignError> {
        let Some(key) = &self.key else {
            return Err(SignError::Unsignable(
                "only an account key signs URLs, and none is configured".to_owned(),
                "set AZURE_STORAGE_KEY",
            ));
        };
        // Only the store knows the blob's address; its own signature allows more than to create.
        let mut url = self.store.signed_url(Method::PUT, request.path, ADDRESS_VALIDITY).await?;
        url.set_query(None);
        let mut headers = request.headers(("if-none-match", "*"), "x-ms-meta-");
        headers.insert("x-ms-blob-type".to_owned(), "BlockBlob".to_owned());
        let begins = request.signed_at.before(BEGIN_MARGIN);
        let url = signed(url, &self.account, key, "c", begins, request.ends, VERSION)?;
        Ok(SignedPut { url, headers })
    }
}

/// `url` with a service SAS of `permissions` from `begins` until `ends`.
fn signed(
    mut url: Url,
    account: &str,
    key: &str,
    permissions: &str,
    begins: StoreSecond,
    ends: StoreSecond,
    version: &str,
) -> Result<Url, SignError> {
    let unusable = |error: base64::DecodeError| {
        SignError::Unsignable(format!("the account key is not base64: {error}"), "correct AZURE_STORAGE_KEY")
    };
    let key = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(key).map_err(unusable)?);
    let (begins, ends) = (begins.to_string(), ends.to_string());
    let resource = canonical(&url, account);
    // Fields in between: identifier, address range, protocol; snapshot, encryption scope, five answer headers.
    let text = format!("{permissions}\n{begins}\n{ends}\n{resource}\n\n\n\n{version}\nb\n\n\n\n\n\n\n");
    let signature = STANDARD.encode(hmac::sign(&key, text.as_bytes()));
    url.set_query(Some(&format!(
        "sv={version}&sp={permissions}&st={}&se={}&sr=b&sig={}",
        encode_query(&begins),
        encode_query(&ends),
        encode_query(&signature)
    )));
    Ok(url)
}

/// The blob as the signature names it: `/blob/account/container/key`, without percent-encoding.
fn canonical(url: &Url, account: &str) -> String {
    let path = percent_decode_str(url.path()).decode_utf8_lossy();
    // An emulator's path begins with the account already.
    if url.host_str().is_some_and(|host| host.contains(account)) {
        format!("/blob/{account}{path}")
    } else {
        format!("/blob{path}")
    }
}

#[cfg(test)]
mod tests {
    use object_store::{azure::MicrosoftAzureBuilder, path::Path};

    use super::*;
    use crate::sign::query_value;

    const KEY: &str = "c2VjcmV0";

    fn signing() -> AzureSigner {
        let store = MicrosoftAzureBuilder::new()
            .with_account("account")
            .with_access_key(KEY)
            .with_container_name("container")
            .build()
            .unwrap();
        AzureSigner { store: Arc::new(store), account: "account".to_owned(), key: Some(KEY.to_owned()) }
    }

    /// With the permission and the times of the store's own signer, the signature is the same.
    #[tokio::test]
    async fn agrees_with_the_stores_own_signer() {
        let signing = signing();
        let path = Path::parse("log/entry.yaml").unwrap();
        let minute = Duration::from_mins(1);
        let theirs = signing.store.signed_url(Method::PUT, &path, minute).await.unwrap();
        let second = |name| StoreSecond::floor(query_value(&theirs, name).parse().unwrap());
        let (begins, ends, version) = (second("st"), second("se"), query_value(&theirs, "sv"));
        let mut url = theirs.clone();
        url.set_query(None);
        let permissions = query_value(&theirs, "sp");
        let ours = signed(url, "account", KEY, &permissions, begins, ends, &version).ok().unwrap();
        assert_eq!(query_value(&ours, "sig"), query_value(&theirs, "sig"));
    }

    #[tokio::test]
    async fn a_url_can_only_create_and_ends_at_the_second() {
        let path = Path::parse("log/entry.yaml").unwrap();
        let request = PutRequest {
            path: &path,
            signed_at: StoreSecond::from_unix(1_700_000_000),
            ends: StoreSecond::from_unix(1_700_000_600),
            metadata: &[("token".to_owned(), "t1".to_owned())].into(),
        };
        let put = signing().sign_put(&request).await.ok().unwrap();
        assert_eq!(query_value(&put.url, "sp"), "c");
        assert_eq!(query_value(&put.url, "st"), "2023-11-14T21:58:20Z");
        assert_eq!(query_value(&put.url, "se"), "2023-11-14T22:23:20Z");
        assert_eq!(put.headers["x-ms-blob-type"], "BlockBlob");
    }
}

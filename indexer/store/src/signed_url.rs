//! Signed URLs: the right to create one object until one second, for anyone who holds the URL.
//!
//! The end is a second of the store's clock that the token fixes, whatever the local clock says. S3 and Google take
//! a signing date and a duration, so the date is chosen and the duration follows; Azure takes the end itself. The
//! URL can only create: the store refuses it once the object exists.

use std::time::Duration;

use bytes::Bytes;
use url::Url;

use crate::{
    errors::{StoreError, error_chain},
    http::parse_date,
    object::UserMetadata,
    sign::{PutRequest, SignError, SignedPut},
    store::Store,
    time::StoreSecond,
};

/// The longest validity that S3 and Google accept.
const MAX_VALIDITY: Duration = Duration::from_hours(7 * 24);

/// Signs URLs for the objects of one store, with the store's own credentials.
#[derive(Clone, Debug)]
pub struct UrlSigner {
    store: Store,
}

/// A store's answer to a signed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedPutResponse {
    /// The HTTP status: 200 or 201 created, 409 or 412 (403 on Azure) the object exists, 400 or 403 refused.
    pub status: u16,
    /// The store's clock when it answered.
    pub date: Option<StoreSecond>,
}

impl SignedPutResponse {
    /// Whether the object was created by this request.
    pub fn created(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

impl UrlSigner {
    /// The signer of `store`.
    pub fn of(store: &Store) -> Self {
        Self { store: store.clone() }
    }

    /// Whether the store has signed URLs. A folder and a store in memory have none: the writer creates there itself,
    /// under the same rule.
    pub fn has_urls(&self) -> bool {
        self.store.signer().is_some()
    }

    /// A URL that creates `key` with `metadata`, signed as of `signed_at` and valid until `ends`; `None` where the store
    /// has no URLs.
    ///
    /// Refused unless `ends` lies after `signed_at`, by at most seven days. Azure signs no metadata, but sends it.
    pub async fn put_url(
        &self,
        key: &str,
        signed_at: StoreSecond,
        ends: StoreSecond,
        metadata: &UserMetadata,
    ) -> Result<Option<SignedPut>, StoreError> {
        let Some(signer) = self.store.signer() else {
            return Ok(None);
        };
        let path = self.store.path(key)?;
        let validity = ends.since(signed_at);
        if validity.is_zero() || validity > MAX_VALIDITY {
            let why = format!("it would be valid from {signed_at} to {ends}");
            let refused = SignError::Unsignable(why, "choose a validity of more than 0 s and at most 7 days");
            return Err(refused.at(self.store.url(), key));
        }
        let signed = signer.sign_put(&PutRequest { path: &path, signed_at, ends, metadata }).await;
        signed.map(Some).map_err(|error| error.at(self.store.url(), key))
    }
}

/// Uses the right that `put` gives. One attempt: an error means that the outcome is unknown.
pub async fn put_signed(
    client: &reqwest::Client,
    put: &SignedPut,
    body: Bytes,
) -> Result<SignedPutResponse, StoreError> {
    let mut request = client.put(put.url.clone()).body(body);
    for (name, value) in &put.headers {
        request = request.header(name, value);
    }
    let answer = request.send().await.map_err(|error| unanswered(&put.url, &error.without_url()))?;
    let date = answer.headers().get("date").and_then(|date| date.to_str().ok());
    Ok(SignedPutResponse { status: answer.status().as_u16(), date: date.and_then(parse_date) })
}

/// The failure of a signed request. The query is left out: it holds the signature.
fn unanswered(url: &Url, error: &reqwest::Error) -> StoreError {
    let mut server = url.clone();
    server.set_query(None);
    server.set_path("");
    StoreError::Failed {
        url: server.to_string(),
        key: url.path().trim_start_matches('/').to_owned(),
        why: error_chain(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::query_value;

    fn s3() -> Store {
        let variables = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret")];
        let environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Store::open_with(&"s3://bucket/log".parse().unwrap(), &environment).unwrap()
    }

    #[tokio::test]
    async fn the_end_is_the_second_that_was_asked_for() {
        let at = StoreSecond::from_unix(1_700_000_000);
        let signer = UrlSigner::of(&s3());
        let metadata = [("token".to_owned(), "t1".to_owned())].into();
        let put = signer.put_url("x", at, at.after(Duration::from_mins(10)), &metadata).await.unwrap().unwrap();
        assert_eq!(query_value(&put.url, "X-Amz-Date"), "20231114T221320Z");
        assert_eq!(query_value(&put.url, "X-Amz-Expires"), "600");
        assert_eq!(query_value(&put.url, "X-Amz-SignedHeaders"), "host;if-none-match;x-amz-meta-token");
        assert_eq!(put.headers["x-amz-meta-token"], "t1");
    }

    #[tokio::test]
    async fn an_end_before_the_signing_date_or_a_week_later_is_refused() {
        let at = StoreSecond::from_unix(1_700_000_000);
        let signer = UrlSigner::of(&s3());
        for ends in [at, StoreSecond::from_unix(1), at.after(MAX_VALIDITY).next()] {
            let refused = signer.put_url("x", at, ends, &UserMetadata::new()).await.unwrap_err();
            assert!(matches!(refused, StoreError::Unsignable { .. }), "{refused}");
        }
        assert!(signer.put_url("x", at, at.after(MAX_VALIDITY), &UserMetadata::new()).await.is_ok());
    }

    #[tokio::test]
    async fn memory_has_no_urls() {
        let at = StoreSecond::from_unix(1_700_000_000);
        let signer = UrlSigner::of(&Store::memory());
        assert!(!signer.has_urls());
        assert_eq!(signer.put_url("x", at, at.next(), &UserMetadata::new()).await.unwrap(), None);
    }
}

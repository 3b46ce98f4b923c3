//! Signed URLs: a right to create one object until one second, for whoever holds the URL.
//!
//! The end is a second of the store's clock that the token fixes, whatever the local clock says. S3 and Google take
//! a signing date and a duration, so the date is chosen and the duration follows; Azure takes the end itself. The
//! URL can only create: the store refuses it once the object exists.

mod azure;
mod gcs;
mod s3;

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use url::Url;

pub(crate) use self::{azure::AzureSigning, gcs::GoogleSigning, s3::S3Signing};
use crate::{
    Store, StoreError, StoreSecond, UserMetadata,
    store::{error_chain, parse_date},
};

/// Longest time that S3 and Google let a signed URL be valid.
const LONGEST: Duration = Duration::from_hours(7 * 24);

/// How a store signs, and with what.
#[derive(Clone)]
pub(crate) enum Signing {
    S3(S3Signing),
    Google(GoogleSigning),
    Azure(AzureSigning),
}

/// A signed request for a bucket to be made.
pub(crate) struct BucketRequest {
    pub(crate) url: Url,
    pub(crate) body: String,
}

impl Signing {
    /// What makes the store's bucket when it is put; `None` for stores that are not S3.
    pub(crate) async fn bucket_request(&self) -> object_store::Result<Option<BucketRequest>> {
        match self {
            Self::S3(signing) => signing.bucket_request().await.map(Some),
            Self::Google(_) | Self::Azure(_) => Ok(None),
        }
    }
}

/// Signs URLs for the objects of one store, with the store's own credentials.
#[derive(Clone, Debug)]
pub struct UrlSigner {
    store: Store,
}

/// The right to create one object: `PUT` the body to `url` with exactly these headers.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SignedPut {
    /// Where to put the body. It is a secret until it ends.
    pub url: Url,
    /// The headers that must be sent with it: the condition and the user metadata.
    pub headers: BTreeMap<String, String>,
}

/// What a store said to a signed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedPutResponse {
    /// The HTTP status: 200 or 201 created, 409 or 412 the object exists, 400 or 403 refused.
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
        self.store.has_urls()
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
        let Some(signing) = self.store.signing()? else {
            return Ok(None);
        };
        let path = self.store.path(key)?;
        let validity = ends.since(signed_at);
        if validity.is_zero() || validity > LONGEST {
            let why = format!("it would be valid from {signed_at} to {ends}");
            return Err(self.unsignable(key, why, "let it be valid for more than 0 s and at most 7 days"));
        }
        let request = Request { path: &path, signed_at, ends, metadata };
        let signed = match &signing {
            Signing::S3(signing) => signing.put_url(&request).await,
            Signing::Google(signing) => signing.put_url(&request).await,
            Signing::Azure(signing) => signing.put_url(&request).await,
        };
        signed.map(Some).map_err(|failure| match failure {
            Failure::Store(error) => self.store.error(key, &error),
            Failure::Unsignable(why, remedy) => self.unsignable(key, why, remedy),
        })
    }

    fn unsignable(&self, key: &str, why: String, remedy: &str) -> StoreError {
        let (url, key) = (self.store.url().to_string(), key.to_owned());
        StoreError::Unsignable { url, key, why, remedy: remedy.to_owned() }
    }
}

/// What a URL is to allow.
struct Request<'a> {
    path: &'a object_store::path::Path,
    signed_at: StoreSecond,
    ends: StoreSecond,
    metadata: &'a UserMetadata,
}

impl Request<'_> {
    /// The headers of the condition and of the metadata, names in lower case.
    fn headers(&self, condition: (&str, &str), prefix: &str) -> BTreeMap<String, String> {
        let metadata = self.metadata.iter().map(|(name, value)| (format!("{prefix}{name}"), value.clone()));
        metadata.chain([(condition.0.to_owned(), condition.1.to_owned())]).collect()
    }

    fn validity(&self) -> u64 {
        self.ends.since(self.signed_at).as_secs()
    }
}

/// Why nothing was signed.
enum Failure {
    /// The credentials could not be had.
    Store(object_store::Error),
    /// The credentials cannot sign: why, and what to do.
    Unsignable(String, &'static str),
}

impl From<object_store::Error> for Failure {
    fn from(error: object_store::Error) -> Self {
        Self::Store(error)
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

/// The failure of a signed request, without the signature.
fn unanswered(url: &Url, error: &reqwest::Error) -> StoreError {
    let mut place = url.clone();
    place.set_query(None);
    place.set_path("");
    StoreError::Failed {
        url: place.to_string(),
        key: url.path().trim_start_matches('/').to_owned(),
        why: error_chain(error),
    }
}

/// `text` percent-encoded as signatures want it: all but unreserved characters and, in a path, slashes.
fn encoded(text: &str, slashes: bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            b'/' if slashes => encoded.push('/'),
            _ => {
                encoded.push('%');
                encoded.push_str(&hex::encode_upper([byte]));
            }
        }
    }
    encoded
}

/// The value of a parameter of `url`'s query.
#[cfg(test)]
fn query(url: &Url, name: &str) -> String {
    let mut values = url.query_pairs().filter(|(other, _)| other == name);
    values.next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(query(&put.url, "X-Amz-Date"), "20231114T221320Z");
        assert_eq!(query(&put.url, "X-Amz-Expires"), "600");
        assert_eq!(query(&put.url, "X-Amz-SignedHeaders"), "host;if-none-match;x-amz-meta-token");
        assert_eq!(put.headers["x-amz-meta-token"], "t1");
    }

    #[tokio::test]
    async fn an_end_before_the_signing_date_or_a_week_later_is_refused() {
        let at = StoreSecond::from_unix(1_700_000_000);
        let signer = UrlSigner::of(&s3());
        for ends in [at, StoreSecond::from_unix(1), at.after(LONGEST).next()] {
            let refused = signer.put_url("x", at, ends, &UserMetadata::new()).await.unwrap_err();
            assert!(matches!(refused, StoreError::Unsignable { .. }), "{refused}");
        }
        assert!(signer.put_url("x", at, at.after(LONGEST), &UserMetadata::new()).await.is_ok());
    }

    #[tokio::test]
    async fn memory_has_no_urls() {
        let at = StoreSecond::from_unix(1_700_000_000);
        let signer = UrlSigner::of(&Store::memory());
        assert!(!signer.has_urls());
        assert_eq!(signer.put_url("x", at, at.next(), &UserMetadata::new()).await.unwrap(), None);
    }

    #[test]
    fn only_unreserved_characters_stay() {
        assert_eq!(encoded("a/b c~é", true), "a/b%20c~%C3%A9");
        assert_eq!(encoded("a/b", false), "a%2Fb");
    }
}

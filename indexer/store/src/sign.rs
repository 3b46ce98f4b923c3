//! What signs a request that creates one object, as each provider implements it.

use std::collections::BTreeMap;

use async_trait::async_trait;
use object_store::path::Path;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use crate::{
    errors::{StoreError, classify},
    object::UserMetadata,
    time::StoreSecond,
};

/// What signatures leave unencoded in a query: unreserved characters alone.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// What signatures leave unencoded in a path: slashes too.
const PATH: &AsciiSet = &QUERY.remove(b'/');

/// Signs requests for the objects of one store, with the store's own credentials.
#[async_trait]
pub(crate) trait SignPut: Send + Sync {
    /// A request that creates one object and is valid until [`PutRequest::ends`].
    async fn sign_put(&self, request: &PutRequest<'_>) -> Result<SignedPut, SignError>;

    /// A request that creates the store's bucket; `None` where Tidemark creates none: stores that are not S3.
    async fn sign_create_bucket(&self) -> Result<Option<CreateBucketRequest>, SignError> {
        Ok(None)
    }
}

/// What a signed request may do.
pub(crate) struct PutRequest<'a> {
    pub(crate) path: &'a Path,
    pub(crate) signed_at: StoreSecond,
    pub(crate) ends: StoreSecond,
    pub(crate) metadata: &'a UserMetadata,
}

/// A signed request that creates a bucket.
pub(crate) struct CreateBucketRequest {
    pub(crate) url: Url,
    pub(crate) body: String,
}

/// The right to create one object: `PUT` the body to `url` with exactly these headers.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SignedPut {
    /// Where to put the body. It is a secret until it ends.
    pub url: Url,
    /// The headers that must be sent with it: the condition and the user metadata.
    pub headers: BTreeMap<String, String>,
}

/// Why nothing was signed.
pub(crate) enum SignError {
    /// The credentials could not be read.
    Credentials(object_store::Error),
    /// The credentials cannot sign: why, and what to do.
    Unsignable(String, &'static str),
}

impl PutRequest<'_> {
    /// The headers of the condition and of the metadata, names in lower case.
    pub(crate) fn headers(&self, condition: (&str, &str), prefix: &str) -> BTreeMap<String, String> {
        let metadata = self.metadata.iter().map(|(name, value)| (format!("{prefix}{name}"), value.clone()));
        metadata.chain([(condition.0.to_owned(), condition.1.to_owned())]).collect()
    }

    /// For how many seconds the request is valid.
    pub(crate) fn validity(&self) -> u64 {
        self.ends.since(self.signed_at).as_secs()
    }
}

impl SignError {
    /// The error for object `key` of the store `url`.
    pub(crate) fn at(self, url: &Url, key: &str) -> StoreError {
        match self {
            Self::Credentials(error) => classify(url.as_str(), key, &error),
            Self::Unsignable(why, remedy) => {
                let (url, key, remedy) = (url.to_string(), key.to_owned(), remedy.to_owned());
                StoreError::Unsignable { url, key, why, remedy }
            }
        }
    }
}

impl From<object_store::Error> for SignError {
    fn from(error: object_store::Error) -> Self {
        Self::Credentials(error)
    }
}

/// `text` as signatures want it in a query.
pub(crate) fn encode_query(text: &str) -> String {
    utf8_percent_encode(text, QUERY).to_string()
}

/// `text` as signatures want it in a path.
pub(crate) fn encode_path(text: &str) -> String {
    utf8_percent_encode(text, PATH).to_string()
}

/// The value of a parameter of `url`'s query.
#[cfg(test)]
pub(crate) fn query_value(url: &Url, name: &str) -> String {
    let mut values = url.query_pairs().filter(|(other, _)| other == name);
    values.next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

/// Signs what `theirs`, a URL of the store's own signer, allows for a minute: the same object at the same second has the same
/// signature. The names of the parameters begin with `prefix`.
#[cfg(test)]
pub(crate) async fn assert_signs_like(theirs: &Url, ours: &dyn SignPut, path: &Path, prefix: &str) -> SignedPut {
    let date = query_value(theirs, &format!("{prefix}-Date"));
    let date: jiff::civil::DateTime = date.trim_end_matches('Z').parse().unwrap();
    let signed_at = StoreSecond::floor(date.in_tz("UTC").unwrap().timestamp());
    let ends = signed_at.after(std::time::Duration::from_mins(1));
    let metadata = [("token".to_owned(), "t1".to_owned())].into();
    let ours = ours.sign_put(&PutRequest { path, signed_at, ends, metadata: &metadata }).await.ok().unwrap();
    let signature = format!("{prefix}-Signature");
    assert_eq!(query_value(&ours.url, &signature), query_value(theirs, &signature));
    ours
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unreserved_characters_stay() {
        assert_eq!(encode_path("a/b c~é"), "a/b%20c~%C3%A9");
        assert_eq!(encode_query("a/b"), "a%2Fb");
    }
}

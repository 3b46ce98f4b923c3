//! The checks of signed URLs.

use std::time::Duration;

use super::{
    checks::{MAX_PROBE_BODY, now},
    outcome::{CheckFailure, CheckResult, CheckSuccess},
};
use crate::{
    errors::StoreError,
    object::UserMetadata,
    sign::SignedPut,
    signed_url::{SignedPutResponse, UrlSigner, put_signed},
    store::Store,
    time::StoreSecond,
};

const NO_URLS: &str = "this store has no signed URLs; writers create in it themselves";
/// How long ago the expired URL ended: more than a store may allow for clocks that differ.
const EXPIRED_AGE: Duration = Duration::from_mins(20);
const URL_VALIDITY: Duration = Duration::from_mins(5);

pub(super) async fn expired(store: &Store) -> CheckResult {
    if !UrlSigner::of(store).has_urls() {
        return Ok(CheckSuccess::NotPromised(NO_URLS.to_owned()));
    }
    let now = now(store).await?;
    let ended = now.before(EXPIRED_AGE);
    let put = match sign(store, "expired", ended.before(URL_VALIDITY), ended).await? {
        Ok(put) => put,
        Err(unsigned) => return Ok(unsigned),
    };
    let answer = use_url(store, &put, "late").await?;
    let present = store.head("expired").await?.is_some();
    if answer.created() || present {
        Err(CheckFailure::BrokenPromise(format!("a URL that ended at {ended} was accepted at {now}")))
    } else {
        Ok(CheckSuccess::Kept(format!("status {}", answer.status)))
    }
}

pub(super) async fn once(store: &Store) -> CheckResult {
    let now = now(store).await?;
    let put = match sign(store, "signed", now, now.after(URL_VALIDITY)).await? {
        Ok(put) => put,
        Err(unsigned) => return Ok(unsigned),
    };
    let first = use_url(store, &put, "first").await?;
    if !first.created() {
        return Err(CheckFailure::BrokenPromise(format!(
            "a URL that is valid until {} got status {}",
            now.after(URL_VALIDITY),
            first.status
        )));
    }
    let second = use_url(store, &put, "second").await?;
    let mut bare = put.clone();
    bare.headers.retain(|name, _| name != "if-none-match" && name != "x-goog-if-generation-match");
    let without = use_url(store, &bare, "third").await?;
    let object = store.get("signed", MAX_PROBE_BODY).await?;
    let Some(object) = object else {
        return Err(CheckFailure::BrokenPromise("the object that a signed URL created is absent".to_owned()));
    };
    if object.body.as_deref() != Some(b"first") {
        return Err(CheckFailure::BrokenPromise("a signed URL that may only create replaced the object".to_owned()));
    }
    if second.created() || without.created() {
        return Err(CheckFailure::BrokenPromise("a second use of a signed URL was reported as successful".to_owned()));
    }
    if object.metadata != named() {
        return Err(CheckFailure::BrokenPromise(format!(
            "{:?} was signed and {:?} came back",
            named(),
            object.metadata
        )));
    }
    let date = if first.date.is_some() { "dated" } else { "undated" };
    Ok(CheckSuccess::Kept(format!(
        "status {} ({date}), again {}, without the condition {}",
        first.status, second.status, without.status
    )))
}

/// A signed URL of `key`; the result of the check where the store has none, or its credentials sign none.
async fn sign(
    store: &Store,
    key: &str,
    signed_at: StoreSecond,
    ends: StoreSecond,
) -> Result<Result<SignedPut, CheckSuccess>, CheckFailure> {
    match UrlSigner::of(store).put_url(key, signed_at, ends, &named()).await {
        Ok(Some(put)) => Ok(Ok(put)),
        Ok(None) => Ok(Err(CheckSuccess::NotPromised(NO_URLS.to_owned()))),
        Err(StoreError::Unsignable { why, .. }) => {
            Ok(Err(CheckSuccess::NotPromised(format!("{why}: Tidemark's writers cannot append here"))))
        }
        Err(error) => Err(error.into()),
    }
}

fn named() -> UserMetadata {
    [("token".to_owned(), "0ujtsYcgvSTl8PAuAdqWYSMnLOv".to_owned())].into()
}

async fn use_url(store: &Store, put: &SignedPut, body: &'static str) -> Result<SignedPutResponse, StoreError> {
    put_signed(&store.client()?, put, body.into()).await
}

//! The checks of signed URLs.

use std::time::Duration;

use super::{
    Broken, Kept, Seen,
    checks::{SMALL, now},
};
use crate::{SignedPut, SignedPutResponse, Store, StoreError, UrlSigner, UserMetadata, put_signed};

const NO_URLS: &str = "this store has no signed URLs; writers create in it themselves";
/// How long ago the expired URL ended: more than a store may allow for clocks that differ.
const LONG_AGO: Duration = Duration::from_mins(20);
const VALID: Duration = Duration::from_mins(5);

pub(super) async fn expired(place: &Store) -> Seen {
    if !UrlSigner::of(place).has_urls() {
        return Ok(Kept::NotPromised(NO_URLS));
    }
    let now = now(place).await?;
    let ended = now.before(LONG_AGO);
    let Some(put) = UrlSigner::of(place).put_url("expired", ended.before(VALID), ended, &named()).await? else {
        return Ok(Kept::NotPromised(NO_URLS));
    };
    let answer = used(place, &put, "late").await?;
    let present = place.head("expired").await?.is_some();
    if answer.created() || present {
        Err(Broken::Promise(format!("a URL that ended at {ended} was accepted at {now}")))
    } else {
        Ok(Kept::Yes(format!("status {}", answer.status)))
    }
}

pub(super) async fn once(place: &Store) -> Seen {
    let now = now(place).await?;
    let Some(put) = UrlSigner::of(place).put_url("signed", now, now.after(VALID), &named()).await? else {
        return Ok(Kept::NotPromised(NO_URLS));
    };
    let first = used(place, &put, "first").await?;
    if !first.created() {
        return Err(Broken::Promise(format!(
            "a URL that is valid until {} got status {}",
            now.after(VALID),
            first.status
        )));
    }
    let second = used(place, &put, "second").await?;
    let mut bare = put.clone();
    bare.headers.retain(|name, _| name != "if-none-match" && name != "x-goog-if-generation-match");
    let without = used(place, &bare, "third").await?;
    let object = place.get("signed", SMALL).await?;
    let Some(object) = object else {
        return Err(Broken::Promise("the object that a signed URL created is absent".to_owned()));
    };
    if object.body.as_deref() != Some(b"first") {
        return Err(Broken::Promise("a signed URL that may only create replaced the object".to_owned()));
    }
    if second.created() || without.created() {
        return Err(Broken::Promise("a second use of a signed URL was said to have succeeded".to_owned()));
    }
    if object.metadata != named() {
        return Err(Broken::Promise(format!("{:?} was signed and {:?} came back", named(), object.metadata)));
    }
    let date = if first.date.is_some() { "dated" } else { "undated" };
    Ok(Kept::Yes(format!(
        "status {} ({date}), again {}, without the condition {}",
        first.status, second.status, without.status
    )))
}

fn named() -> UserMetadata {
    [("token".to_owned(), "0ujtsYcgvSTl8PAuAdqWYSMnLOv".to_owned())].into()
}

async fn used(place: &Store, put: &SignedPut, body: &'static str) -> Result<SignedPutResponse, StoreError> {
    put_signed(place.client()?, put, body.into()).await
}

//! The checks that need no signed URL.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, future, stream};

use super::outcome::{CheckFailure, CheckResult, CheckSuccess};
use crate::{
    errors::StoreError,
    object::{Create, UserMetadata},
    store::Store,
    time::StoreSecond,
};

/// Creates of one key at once, of which exactly one may succeed.
const RACERS: usize = 32;
/// Objects of the listing: more than a page of S3 and of Google, which have 1 000; one of Azure has 5 000.
const LISTED_OBJECTS: usize = 1001;
/// Writes of these at once.
const MAX_CONCURRENT_WRITES: usize = 32;
/// The folder of the listing's objects.
const LISTING_PREFIX: &str = "list";
/// Keys whose order tells bytes from words, from cases and from what a URL escapes, in the order of their bytes.
const ORDERED_KEYS: [&str; 6] = ["order/a+b", "order/a-b", "order/a0", "order/aB", "order/aa", "order/a~"];
/// How long store time may stand still.
const STANDSTILL_TIMEOUT: Duration = Duration::from_secs(10);
/// How often store time is read meanwhile.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// A bound of the bodies that the probe writes, in bytes.
pub(super) const MAX_PROBE_BODY: u64 = 1024;

pub(super) async fn second_create(store: &Store) -> CheckResult {
    let none = UserMetadata::new();
    match store.create("create", "first".into(), &none).await {
        Create::Committed => {}
        Create::Lost => {
            return Err(CheckFailure::BrokenPromise(
                "the first create of a fresh key was refused as existing".to_owned(),
            ));
        }
        Create::Unknown(error) => return Err(error.into()),
    }
    let second = store.create("create", "second".into(), &none).await;
    let body = store.get("create", MAX_PROBE_BODY).await?.and_then(|object| object.body);
    if body.as_deref() != Some(b"first") {
        return Err(CheckFailure::BrokenPromise(
            "a second create replaced the object: the store ignores the condition".to_owned(),
        ));
    }
    match second {
        Create::Lost => Ok(CheckSuccess::Kept("the first object stayed".to_owned())),
        Create::Committed => Err(CheckFailure::BrokenPromise("a second create was reported as successful".to_owned())),
        Create::Unknown(error) => Err(error.into()),
    }
}

pub(super) async fn race(store: &Store) -> CheckResult {
    let bodies = (0..RACERS).map(|racer| Bytes::from(format!("racer {racer}")));
    let racers = bodies.map(|body| async move {
        let outcome = store.create("race", body.clone(), &UserMetadata::new()).await;
        (outcome, body)
    });
    let outcomes = future::join_all(racers).await;
    let winners: Vec<&Bytes> =
        outcomes.iter().filter(|(outcome, _)| matches!(outcome, Create::Committed)).map(|(_, body)| body).collect();
    let unknown = outcomes.iter().filter(|(outcome, _)| matches!(outcome, Create::Unknown(_))).count();
    let body = store.get("race", MAX_PROBE_BODY).await?.and_then(|object| object.body);
    match winners.as_slice() {
        [winner] if body.as_ref() == Some(winner) => {
            Ok(CheckSuccess::Kept(format!("1 won, {} lost, {unknown} got no answer", RACERS - 1 - unknown)))
        }
        [_] => Err(CheckFailure::BrokenPromise("the object is not the one winner's".to_owned())),
        // The winner's answer was lost: the others got right answers.
        [] if unknown > 0 && body.is_some() => Ok(CheckSuccess::Kept(format!("1 won unseen, {unknown} got no answer"))),
        winners => {
            Err(CheckFailure::BrokenPromise(format!("{} of {RACERS} got the answer that they won", winners.len())))
        }
    }
}

/// Writes the objects of the listing, and lists them.
pub(super) async fn listing(store: &Store) -> CheckResult {
    let writes = stream::iter(keys()).map(|key| async move { store.put(&key, Bytes::new()).await });
    writes.buffer_unordered(MAX_CONCURRENT_WRITES).try_collect::<Vec<()>>().await?;
    let mut listed = listed(store, LISTING_PREFIX, None).await?;
    listed.sort_unstable();
    if listed == keys() {
        Ok(CheckSuccess::Kept(format!("{LISTED_OBJECTS} keys written and listed")))
    } else {
        Err(CheckFailure::BrokenPromise(format!("{} keys listed of {LISTED_OBJECTS} written", listed.len())))
    }
}

pub(super) async fn order(store: &Store) -> CheckResult {
    let keys = keys();
    let middle = LISTED_OBJECTS / 2;
    let rest = listed(store, LISTING_PREFIX, keys.get(middle).map(String::as_str)).await?;
    for key in ORDERED_KEYS {
        store.put(key, Bytes::new()).await?;
    }
    let ordered = listed(store, "order", None).await?;
    if ordered != ORDERED_KEYS {
        return Err(CheckFailure::BrokenPromise(format!("{ordered:?} was listed of {ORDERED_KEYS:?}")));
    }
    if rest == keys[middle + 1..] {
        Ok(CheckSuccess::Kept(format!("{} keys in order after the one in the middle", rest.len())))
    } else {
        Err(CheckFailure::BrokenPromise(format!(
            "{} keys listed after the one in the middle, {} follow it",
            rest.len(),
            LISTED_OBJECTS - 1 - middle
        )))
    }
}

pub(super) async fn time(store: &Store) -> CheckResult {
    let first = now(store).await?;
    let mut last = first;
    let mut polls = STANDSTILL_TIMEOUT.as_millis() / POLL_INTERVAL.as_millis();
    while last == first && polls > 0 {
        tokio::time::sleep(POLL_INTERVAL).await;
        polls -= 1;
        let now = now(store).await?;
        if now < last {
            return Err(CheckFailure::BrokenPromise(format!("store time went from {last} back to {now}")));
        }
        last = now;
    }
    if last > first {
        Ok(CheckSuccess::Kept(format!("from {first} to {last}")))
    } else {
        Err(CheckFailure::BrokenPromise(format!(
            "store time stood still at {first} for {} s",
            STANDSTILL_TIMEOUT.as_secs()
        )))
    }
}

pub(super) async fn metadata(store: &Store) -> CheckResult {
    if !store.supports_user_metadata() {
        return Ok(CheckSuccess::NotPromised("a folder keeps none".to_owned()));
    }
    let sent: UserMetadata = [("token", "0ujtsYcgvSTl8PAuAdqWYSMnLOv"), ("operation", "7")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    match store.create("metadata", Bytes::new(), &sent).await {
        Create::Committed => {}
        Create::Lost => {
            return Err(CheckFailure::BrokenPromise("the create of a fresh key was refused as existing".to_owned()));
        }
        Create::Unknown(error) => return Err(error.into()),
    }
    let came = store.get("metadata", MAX_PROBE_BODY).await?.map(|object| object.metadata);
    if came.as_ref() == Some(&sent) {
        Ok(CheckSuccess::Kept("two names with their values".to_owned()))
    } else {
        Err(CheckFailure::BrokenPromise(format!("{sent:?} was sent and {came:?} came back")))
    }
}

/// Deletes all that the probe wrote, and a key that it never wrote.
pub(super) async fn deletion(store: &Store) -> CheckResult {
    let written = listed(store, "", None).await?;
    let absent = "never-written".to_owned();
    let doomed: Vec<String> = written.iter().cloned().chain([absent]).collect();
    store.delete(&doomed).await?;
    let left = listed(store, "", None).await?;
    if left.is_empty() {
        Ok(CheckSuccess::Kept(format!("{} objects", written.len())))
    } else {
        Err(CheckFailure::BrokenPromise(format!("{} of {} objects are still listed", left.len(), written.len())))
    }
}

/// The store's time: that of an object written now.
pub(super) async fn now(store: &Store) -> Result<StoreSecond, StoreError> {
    store.put("time", Bytes::new()).await?;
    let info = store.head("time").await?;
    let absent = || store.failed("time", "it was written and is absent: reads do not follow writes".to_owned());
    Ok(info.ok_or_else(absent)?.time)
}

fn keys() -> Vec<String> {
    (0..LISTED_OBJECTS).map(|n| format!("{LISTING_PREFIX}/{n:04}")).collect()
}

/// The keys of a folder. The adapter refuses a listing that is out of order.
async fn listed(store: &Store, prefix: &str, after: Option<&str>) -> Result<Vec<String>, CheckFailure> {
    let keys = store.list(prefix, after).map_ok(|info| info.key).try_collect().await;
    keys.map_err(|error| match error {
        StoreError::Unusable { why, .. } => CheckFailure::BrokenPromise(why),
        error => error.into(),
    })
}

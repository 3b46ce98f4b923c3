//! The checks that need no signed URL.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, future, stream};

use super::{Broken, Kept, Seen};
use crate::{Create, Store, StoreError, StoreSecond, UserMetadata};

const RACERS: usize = 32;
/// Objects of the listing: more than a page of any store.
const MANY: usize = 1001;
const AT_ONCE: usize = 32;
/// The folder of the listing's objects.
const LISTING: &str = "list";
/// How long store time may stand still.
const STANDSTILL: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(250);
/// Bodies of the probe are smaller.
pub(super) const SMALL: u64 = 1024;

pub(super) async fn second_create(place: &Store) -> Seen {
    let none = UserMetadata::new();
    match place.create("create", "first".into(), &none).await {
        Create::Committed => {}
        Create::Lost => {
            return Err(Broken::Promise("the first create of a fresh key was refused as existing".to_owned()));
        }
        Create::Unknown(error) => return Err(error.into()),
    }
    let second = place.create("create", "second".into(), &none).await;
    let body = place.get("create", SMALL).await?.and_then(|object| object.body);
    if body.as_deref() != Some(b"first") {
        return Err(Broken::Promise("a second create replaced the object: the store ignores the condition".to_owned()));
    }
    match second {
        Create::Lost => Ok(Kept::Yes("the first object stayed".to_owned())),
        Create::Committed => Err(Broken::Promise("a second create was said to have succeeded".to_owned())),
        Create::Unknown(error) => Err(error.into()),
    }
}

pub(super) async fn race(place: &Store) -> Seen {
    let bodies = (0..RACERS).map(|racer| Bytes::from(format!("racer {racer}")));
    let racers = bodies.map(|body| async move {
        let outcome = place.create("race", body.clone(), &UserMetadata::new()).await;
        (outcome, body)
    });
    let outcomes = future::join_all(racers).await;
    let winners: Vec<&Bytes> =
        outcomes.iter().filter(|(outcome, _)| matches!(outcome, Create::Committed)).map(|(_, body)| body).collect();
    let unknown = outcomes.iter().filter(|(outcome, _)| matches!(outcome, Create::Unknown(_))).count();
    let body = place.get("race", SMALL).await?.and_then(|object| object.body);
    match winners.as_slice() {
        [winner] if body.as_ref() == Some(winner) => {
            Ok(Kept::Yes(format!("1 won, {} lost, {unknown} got no answer", RACERS - 1 - unknown)))
        }
        [_] => Err(Broken::Promise("the object is not the one winner's".to_owned())),
        // A winner whose answer was lost: the others were all told the truth.
        [] if unknown > 0 && body.is_some() => Ok(Kept::Yes(format!("1 won unseen, {unknown} got no answer"))),
        winners => Err(Broken::Promise(format!("{} of {RACERS} were told that they won", winners.len()))),
    }
}

/// Writes the objects of the listing, and lists them.
pub(super) async fn listing(place: &Store) -> Seen {
    let writes = stream::iter(keys()).map(|key| async move { place.put(&key, Bytes::new()).await });
    writes.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    let mut listed = listed(place, None).await?;
    listed.sort_unstable();
    if listed == keys() {
        Ok(Kept::Yes(format!("{MANY} keys written and listed")))
    } else {
        Err(Broken::Promise(format!("{} keys listed of {MANY} written", listed.len())))
    }
}

pub(super) async fn order(place: &Store) -> Seen {
    let keys = keys();
    let middle = MANY / 2;
    // The adapter refuses a listing that is out of order.
    let rest = listed(place, keys.get(middle).map(String::as_str)).await?;
    if rest == keys[middle + 1..] {
        Ok(Kept::Yes(format!("{} keys in order after the one in the middle", rest.len())))
    } else {
        Err(Broken::Promise(format!(
            "{} keys listed after the one in the middle, {} follow it",
            rest.len(),
            MANY - 1 - middle
        )))
    }
}

pub(super) async fn time(place: &Store) -> Seen {
    let first = now(place).await?;
    let mut last = first;
    let mut polls = STANDSTILL.as_millis() / POLL.as_millis();
    while last == first && polls > 0 {
        tokio::time::sleep(POLL).await;
        polls -= 1;
        let now = now(place).await?;
        if now < last {
            return Err(Broken::Promise(format!("store time went from {last} back to {now}")));
        }
        last = now;
    }
    if last > first {
        Ok(Kept::Yes(format!("from {first} to {last}")))
    } else {
        Err(Broken::Promise(format!("store time stood still at {first} for {} s", STANDSTILL.as_secs())))
    }
}

pub(super) async fn metadata(place: &Store) -> Seen {
    if !place.supports_user_metadata() {
        return Ok(Kept::NotPromised("a folder keeps none"));
    }
    let sent: UserMetadata = [("token", "0ujtsYcgvSTl8PAuAdqWYSMnLOv"), ("operation", "7")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    match place.create("metadata", Bytes::new(), &sent).await {
        Create::Committed => {}
        Create::Lost => return Err(Broken::Promise("the create of a fresh key was refused as existing".to_owned())),
        Create::Unknown(error) => return Err(error.into()),
    }
    let came = place.get("metadata", SMALL).await?.map(|object| object.metadata);
    if came.as_ref() == Some(&sent) {
        Ok(Kept::Yes("two names with their values".to_owned()))
    } else {
        Err(Broken::Promise(format!("{sent:?} was sent and {came:?} came back")))
    }
}

/// Deletes all that the probe wrote, and some that it did not.
pub(super) async fn deletion(place: &Store) -> Seen {
    let written: Vec<String> = place.list("", None).map_ok(|info| info.key).try_collect().await?;
    let absent = "never-written".to_owned();
    let doomed: Vec<String> = written.iter().cloned().chain([absent]).collect();
    place.delete(&doomed).await?;
    let left: Vec<String> = place.list("", None).map_ok(|info| info.key).try_collect().await?;
    if left.is_empty() {
        Ok(Kept::Yes(format!("{} objects", written.len())))
    } else {
        Err(Broken::Promise(format!("{} of {} objects are still listed", left.len(), written.len())))
    }
}

/// The store's time: that of an object written now.
pub(super) async fn now(place: &Store) -> Result<StoreSecond, StoreError> {
    place.put("time", Bytes::new()).await?;
    let info = place.head("time").await?;
    let absent = || place.failed("time", "it was written and is absent: reads do not follow writes".to_owned());
    Ok(info.ok_or_else(absent)?.time)
}

fn keys() -> Vec<String> {
    (0..MANY).map(|n| format!("{LISTING}/{n:04}")).collect()
}

async fn listed(place: &Store, after: Option<&str>) -> Result<Vec<String>, StoreError> {
    place.list(LISTING, after).map_ok(|info| info.key).try_collect().await
}

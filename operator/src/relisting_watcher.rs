//! A watch that knows when it may not go on.
//!
//! kube-rs tries a watch that is refused again and again, without an event when it may go on: nobody could tell whether what is
//! known is still the truth. A list answers that, so one follows each refusal.

use std::fmt::Debug;

use futures::{Stream, StreamExt as _, stream};
use kube::{
    Api, Resource,
    runtime::watcher::{self, Config, Error, Event, watcher},
};
use serde::de::DeserializeOwned;

/// [`watcher`], which begins again with a list when the API server refuses to go on.
pub(crate) fn relisting_watcher<K>(api: Api<K>, config: Config) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let start = move || watcher(api.clone(), config.clone()).boxed();
    stream::unfold((start(), start), async |(mut events, start)| {
        let event = events.next().await?;
        if event.as_ref().is_err_and(is_refusal) {
            events = start();
        }
        Some((event, (events, start)))
    })
}

fn is_refusal(error: &Error) -> bool {
    let code = match error {
        Error::WatchStartFailed(kube::Error::Api(status)) | Error::WatchError(status) => status.code,
        _ => return false,
    };
    matches!(code, 401 | 403)
}

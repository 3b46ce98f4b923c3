//! A watch that lists again after a refusal.
//!
//! kube-rs tries a watch that is refused again and again, without an event when it succeeds, so that it would be unknown whether the
//! cache is current. A list answers that, so one follows each refusal.

use std::fmt::Debug;

use futures::{Stream, StreamExt as _, stream};
use kube::{
    Api, Resource,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Config, Error, Event, watcher},
    },
};
use serde::de::DeserializeOwned;

use crate::metrics::OperatorMetrics;

/// Objects of one page of a list.
const PAGE_SIZE: u32 = 500;

/// [`watcher`], which begins again with a list when the API server refuses to go on. Its failures are counted and logged, and whether
/// every `kind` of `namespace` (none is all of them) is known is in `metrics`.
pub(crate) fn relisting_watcher<K>(
    api: Api<K>,
    config: Config,
    metrics: &OperatorMetrics,
    kind: &str,
    namespace: Option<&str>,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send + use<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = config.page_size(PAGE_SIZE);
    let start = move || watcher(api.clone(), config.clone()).boxed();
    let events = stream::unfold((start(), start), async |(mut events, start)| {
        let event = events.next().await?;
        if event.as_ref().is_err_and(is_refusal) {
            events = start();
        }
        Some((event, (events, start)))
    });
    let (metrics, kind, namespace) = (metrics.clone(), kind.to_owned(), namespace.map(str::to_owned));
    metrics.watch_synced(&kind, namespace.as_deref(), false);
    events.default_backoff().inspect(move |event: &watcher::Result<Event<K>>| match event {
        Ok(Event::InitDone) => metrics.watch_synced(&kind, namespace.as_deref(), true),
        Ok(_) => {}
        Err(error) => {
            metrics.watch_failed(&kind);
            if matches!(error, Error::InitialListFailed(_)) {
                metrics.watch_synced(&kind, namespace.as_deref(), false);
            }
            tracing::warn!(%kind, %error, "watch failed; restarting");
        }
    })
}

fn is_refusal(error: &Error) -> bool {
    let code = match error {
        Error::WatchStartFailed(kube::Error::Api(status)) | Error::WatchError(status) => status.code,
        _ => return false,
    };
    matches!(code, 401 | 403)
}

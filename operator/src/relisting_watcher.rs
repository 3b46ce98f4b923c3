//! A watch that lists again after a refusal, and waits longer after each failure.
//!
//! kube-rs tries a watch that is refused again and again, without an event when it succeeds, so that it would be unknown whether the
//! cache is current. A list answers that, so one follows each refusal. Its own back-off is reset by that list: where a kind may be
//! listed and not watched, everything would be listed and reconciled each second.

use std::{fmt::Debug, time::Duration};

use futures::{Stream, StreamExt as _, stream};
use kube::{
    Api, Resource,
    runtime::{
        utils::Backoff as _,
        watcher::{self, Config, DefaultBackoff, Error, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use crate::metrics::OperatorMetrics;

/// Objects of one page of a list.
/// As many as `kubectl` asks for.
const PAGE_SIZE: u32 = 500;
/// A failure that goes on with the same words is logged as a warning this often.
const WARNING_INTERVAL: Duration = Duration::from_mins(10);

/// [`watcher`], which begins again with a list when the API server refuses to go on. Its failures are counted, logged and waited after,
/// and whether every `kind` of `namespace` (none is all of them) is known is in `metrics`.
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
    let failures = WatchFailures::new(metrics, kind, namespace);
    stream::unfold((start(), start, failures, None), async |(mut events, start, mut failures, wait)| {
        if let Some(wait) = wait {
            sleep(wait).await;
        }
        let event = events.next().await?;
        if event.as_ref().is_err_and(is_refusal) {
            events = start();
        }
        let wait = failures.note(&event);
        Some((event, (events, start, failures, wait)))
    })
}

/// The failures of one watch: what is reported of them, and how long each is waited after.
struct WatchFailures {
    metrics: OperatorMetrics,
    kind: String,
    namespace: Option<String>,
    backoff: DefaultBackoff,
    /// What was logged as a warning last, and when.
    warned: Option<(String, Instant)>,
}

impl WatchFailures {
    fn new(metrics: &OperatorMetrics, kind: &str, namespace: Option<&str>) -> Self {
        let (kind, namespace) = (kind.to_owned(), namespace.map(str::to_owned));
        let failures =
            Self { metrics: metrics.clone(), kind, namespace, backoff: DefaultBackoff::default(), warned: None };
        failures.synced(false);
        failures
    }

    /// Takes note of an event, and answers how long to wait before the next one is asked for.
    fn note<K>(&mut self, event: &watcher::Result<Event<K>>) -> Option<Duration> {
        match event {
            // A list says nothing of the watch that follows.
            Ok(Event::Init | Event::InitApply(_)) => None,
            Ok(Event::InitDone) => {
                self.synced(true);
                None
            }
            Ok(Event::Apply(_) | Event::Delete(_)) => {
                self.backoff.reset();
                self.warned = None;
                None
            }
            Err(error) => {
                self.metrics.watch_failed(&self.kind);
                if is_refusal(error) || matches!(error, Error::InitialListFailed(_)) {
                    self.synced(false);
                }
                self.log(error);
                self.backoff.next()
            }
        }
    }

    fn synced(&self, synced: bool) {
        self.metrics.watch_synced(&self.kind, self.namespace.as_deref(), synced);
    }

    fn log(&mut self, error: &Error) {
        let (kind, namespace, words) = (&self.kind, self.namespace.as_deref(), error.to_string());
        let is_known = |(before, at): &(String, Instant)| *before == words && at.elapsed() < WARNING_INTERVAL;
        if self.warned.as_ref().is_some_and(is_known) {
            tracing::debug!(%kind, namespace, %error, "watch failed again");
            return;
        }
        tracing::warn!(%kind, namespace, %error, "watch failed; it is tried again, later each time");
        self.warned = Some((words, Instant::now()));
    }
}

fn is_refusal(error: &Error) -> bool {
    let code = match error {
        Error::WatchStartFailed(kube::Error::Api(status)) | Error::WatchError(status) => status.code,
        _ => return false,
    };
    matches!(code, 401 | 403)
}

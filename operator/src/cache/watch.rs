//! The watches that fill the cache and say what to reconcile.

use std::{collections::HashSet, sync::Arc};

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1 as core;
use kube::{
    Api, Client, ResourceExt as _,
    api::DynamicObject,
    runtime::watcher::{self, Config, Event},
};
use tidemark_crds::names;
use tokio::{sync::watch, task::JoinSet};

use super::{
    data_pod::DataPod,
    job_pod::JobPod,
    object_cache::ObjectCache,
    owned_object::{ChildKind, OwnedObject},
    sink_pod::SinkPod,
};
use crate::{
    metrics::OperatorMetrics,
    reconcile_queues::{ReconcileQueues, ReconcileTarget},
    relisting_watcher::relisting_watcher,
};

/// The watches of the children and pods. Dropped, they end.
pub(crate) struct WatchSet {
    /// None of these ends by itself; one that does is a bug.
    pub(crate) tasks: JoinSet<()>,
    /// How many of the watches have listed everything once.
    listed: watch::Receiver<usize>,
    wanted: usize,
}

impl WatchSet {
    /// Returns when the cache knows everything that exists.
    pub(crate) fn listed(&self) -> impl Future<Output = ()> + use<> {
        let (mut listed, wanted) = (self.listed.clone(), self.wanted);
        async move {
            // The senders live in the tasks; without them the caller learns it from `tasks`.
            if listed.wait_for(|count| *count >= wanted).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Watches children and pods in a namespace or everywhere, keeps them in `cache`, and sends what has to be reconciled because of
/// them to `queues`.
pub(crate) fn watch(
    client: &Client,
    namespace: Option<&str>,
    cache: &ObjectCache,
    queues: &Arc<ReconcileQueues>,
    metrics: &OperatorMetrics,
) -> WatchSet {
    let (done, listed) = watch::channel(0);
    let done = Arc::new(done);
    let mut tasks = JoinSet::new();
    for kind in ChildKind::ALL.map(Some).into_iter().chain([None]) {
        let watch = ObjectWatch {
            kind,
            namespace: namespace.map(str::to_owned),
            cache: cache.clone(),
            queues: queues.clone(),
            done: done.clone(),
            metrics: metrics.clone(),
        };
        tasks.spawn(watch.run(client.clone()));
    }
    let wanted = tasks.len();
    WatchSet { tasks, listed, wanted }
}

/// One watch: a kind (none is a pod) in a namespace (none is all of them).
struct ObjectWatch {
    kind: Option<ChildKind>,
    namespace: Option<String>,
    cache: ObjectCache,
    queues: Arc<ReconcileQueues>,
    done: Arc<watch::Sender<usize>>,
    metrics: OperatorMetrics,
}

impl ObjectWatch {
    async fn run(self, client: Client) {
        let config = Config::default().labels(&selector());
        let (metrics, namespace) = (&self.metrics, self.namespace.as_deref());
        if let Some(kind) = self.kind {
            let resource = kind.resource();
            let api: Api<DynamicObject> = match &self.namespace {
                Some(namespace) => Api::namespaced_with(client, namespace, &resource),
                None => Api::all_with(client, &resource),
            };
            self.follow(relisting_watcher(api, config, metrics, kind.as_str(), namespace)).await;
        } else {
            let api: Api<core::Pod> = match &self.namespace {
                Some(namespace) => Api::namespaced(client, namespace),
                None => Api::all(client),
            };
            self.follow(relisting_watcher(api, config, metrics, "Pod", namespace)).await;
        }
    }

    async fn follow<K: CacheableObject>(&self, events: impl Stream<Item = watcher::Result<Event<K>>>) {
        let mut events = std::pin::pin!(events);
        let mut listing = HashSet::new();
        let mut listed = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listing.clear(),
                Ok(Event::InitApply(object)) => {
                    listing.insert(object.place());
                    self.put(object).await;
                }
                Ok(Event::InitDone) => {
                    self.trigger(self.cache.retain(self.kind, self.namespace.as_deref(), &listing)).await;
                    listing = HashSet::new();
                    if !std::mem::replace(&mut listed, true) {
                        self.done.send_modify(|count| *count += 1);
                    }
                }
                Ok(Event::Apply(object)) => self.put(object).await,
                Ok(Event::Delete(object)) => {
                    let (namespace, name) = object.place();
                    self.trigger(match self.kind {
                        Some(kind) => self.cache.remove_child(kind, &namespace, &name),
                        None => self.cache.remove_pod(&namespace, &name),
                    })
                    .await;
                }
                // The watch reports it.
                Err(_) => {}
            }
        }
    }

    async fn put<K: CacheableObject>(&self, object: K) {
        match object.keep(self.kind, &self.cache) {
            Ok(targets) => self.trigger(targets).await,
            Err(reason) => tracing::debug!(%reason, "skipped an object with our labels"),
        }
    }

    async fn trigger(&self, targets: Vec<ReconcileTarget>) {
        for target in targets {
            self.queues.send(target).await;
        }
    }
}

/// Objects that the cache keeps.
trait CacheableObject: kube::ResourceExt {
    /// Puts it into the cache. Answers what has to be reconciled, which is nothing if it is no news, or why it belongs to no WAL.
    fn keep(self, kind: Option<ChildKind>, cache: &ObjectCache) -> Result<Vec<ReconcileTarget>, String>;

    fn place(&self) -> (Arc<str>, Arc<str>) {
        (self.namespace().unwrap_or_default().into(), self.name_any().into())
    }
}

impl CacheableObject for DynamicObject {
    fn keep(mut self, kind: Option<ChildKind>, cache: &ObjectCache) -> Result<Vec<ReconcileTarget>, String> {
        let kind = kind.ok_or("it is a pod")?;
        self.managed_fields_mut().clear();
        // In the same order of fields as the answers to writes, with which it is compared.
        let object = serde_json::to_value(self).map_err(|error| error.to_string())?;
        let child = OwnedObject::read(kind, object).map_err(|error| error.to_string())?;
        let targets = child.targets();
        Ok(if cache.put_child(child) { targets } else { Vec::new() })
    }
}

impl CacheableObject for core::Pod {
    fn keep(self, _kind: Option<ChildKind>, cache: &ObjectCache) -> Result<Vec<ReconcileTarget>, String> {
        let (news, targets) = if let Some(pod) = DataPod::read(&self) {
            let target = pod.target();
            (cache.put_pod(pod), vec![target])
        } else if let Some(pod) = SinkPod::read(&self) {
            let targets = pod.targets();
            (cache.put_sink_pod(pod), targets)
        } else {
            let pod = JobPod::read(&self).ok_or("it is neither a data pod nor one of a Job or of a sink")?;
            let target = pod.target();
            (cache.put_job_pod(pod), vec![target])
        };
        Ok(if news { targets } else { Vec::new() })
    }
}

/// Selects everything that the operator made, pods included.
fn selector() -> String {
    format!("{}={},{}", names::LABEL_MANAGED_BY, names::MANAGED_BY, names::LABEL_WAL)
}

//! The cache itself.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use parking_lot::RwLock;

use super::{
    data_pod::DataPod,
    job_pod::JobPod,
    namespaced_name::NamespacedName,
    owned_object::{ChildKind, OwnedObject},
    sink_pod::SinkPod,
};
use crate::{own_writes::OwnWrites, reconcile_queues::ReconcileTarget};

/// Names a child inside of its WAL.
pub(crate) type ChildKey = (ChildKind, Arc<str>);

/// Everything with the labels of one WAL.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnedObjects {
    pub(crate) children: BTreeMap<ChildKey, Arc<OwnedObject>>,
    pub(crate) pods: BTreeMap<Arc<str>, Arc<DataPod>>,
    /// Pods of Jobs.
    pub(crate) job_pods: BTreeMap<Arc<str>, Arc<JobPod>>,
    /// Pods of sinks.
    pub(crate) sink_pods: BTreeMap<Arc<str>, Arc<SinkPod>>,
}

impl OwnedObjects {
    /// The child `name` of kind `kind`.
    pub(crate) fn child(&self, kind: ChildKind, name: &str) -> Option<&Arc<OwnedObject>> {
        self.children.get(&(kind, Arc::from(name)))
    }
}

/// What exists. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct ObjectCache {
    inner: Arc<RwLock<ObjectIndex>>,
}

#[derive(Debug, Default)]
struct ObjectIndex {
    by_wal: HashMap<NamespacedName, OwnedObjects>,
    /// The WAL that an object was last put under: its label may change.
    wals: HashMap<ObjectKey, NamespacedName>,
    /// Digests of what is being written.
    own_writes: OwnWrites<ObjectKey, String>,
}

/// Names an object in the cluster: its kind (none is a pod), namespace and name.
type ObjectKey = (Option<ChildKind>, Arc<str>, Arc<str>);

impl ObjectCache {
    /// What exists with the label of the WAL `key`, whatever controls it.
    pub(crate) fn owned(&self, key: &NamespacedName) -> OwnedObjects {
        self.inner.read().by_wal.get(key).cloned().unwrap_or_default()
    }

    /// One child, whatever WAL its label names.
    pub(crate) fn child(&self, kind: ChildKind, namespace: &str, name: &str) -> Option<Arc<OwnedObject>> {
        let inner = self.inner.read();
        let wal = inner.wals.get(&(Some(kind), namespace.into(), name.into()))?;
        inner.by_wal.get(wal)?.child(kind, name).cloned()
    }

    /// Every data pod.
    pub(crate) fn pods(&self) -> Vec<Arc<DataPod>> {
        self.inner.read().by_wal.values().flat_map(|owned| owned.pods.values().cloned()).collect()
    }

    /// Every pod of a sink.
    pub(crate) fn sink_pods(&self) -> Vec<Arc<SinkPod>> {
        self.inner.read().by_wal.values().flat_map(|owned| owned.sink_pods.values().cloned()).collect()
    }

    /// A child with this digest is about to be written; [`ObjectCache::finish_write`] follows.
    pub(crate) fn begin_write(&self, kind: ChildKind, namespace: &str, name: &str, digest: &str) {
        let object = (Some(kind), namespace.into(), name.into());
        self.inner.write().own_writes.begin(object, digest.to_owned());
    }

    /// Keeps the answer to a write; `None` if it is not known whether the write took effect.
    pub(crate) fn finish_write(&self, kind: ChildKind, namespace: &str, name: &str, child: Option<OwnedObject>) {
        self.inner.write().own_writes.finish(&(Some(kind), namespace.into(), name.into()));
        if let Some(child) = child {
            self.put_child(child);
        }
    }

    /// Keeps a child, unless a newer state of the same object is known. Answers whether it is news: not an own write,
    /// whether the watch or the answer shows it first, and not a change of fields that the operator does not read.
    pub(crate) fn put_child(&self, mut child: OwnedObject) -> bool {
        let mut inner = self.inner.write();
        let object = (Some(child.kind), child.wal.namespace.clone(), child.name.clone());
        let own_write = inner.own_writes.is_own_write(&object, |digest| child.digest.as_deref() == Some(digest));
        let children = &mut inner.insert(&object, &child.wal).children;
        let before = children.get(&(child.kind, child.name.clone()));
        if before.is_some_and(|before| child.is_older_than(before)) {
            return false;
        }
        child.applied |= before.is_some_and(|before| before.applied && child.is_same_as(before));
        let news = !own_write && before.is_none_or(|before| child.differs_from(before));
        children.insert((child.kind, child.name.clone()), Arc::new(child));
        news
    }

    /// Keeps a pod, and answers whether it is news. That an evicted pod was replaced stays known when the one in its place is gone.
    pub(crate) fn put_pod(&self, mut pod: DataPod) -> bool {
        let mut inner = self.inner.write();
        let object = (None, pod.wal.namespace.clone(), pod.name.clone());
        let pods = &mut inner.insert(&object, &pod.wal).pods;
        let before = pods.get(&pod.name);
        let was_replaced = before.and_then(|before| before.eviction.as_ref()).is_some_and(|eviction| eviction.replaced);
        let is_replaced = was_replaced || pods.values().any(|other| other.replaces(&pod));
        if let Some(eviction) = &mut pod.eviction {
            eviction.replaced = is_replaced;
        }
        let news = before.is_none_or(|before| **before != pod);
        for evicted in pods.values_mut().filter(|other| other.eviction.is_some() && pod.replaces(other)) {
            if let Some(eviction) = &mut Arc::make_mut(evicted).eviction {
                eviction.replaced = true;
            }
        }
        pods.insert(pod.name.clone(), Arc::new(pod));
        news
    }

    /// Keeps a pod of a Job, and answers whether it is news.
    pub(crate) fn put_job_pod(&self, pod: JobPod) -> bool {
        let mut inner = self.inner.write();
        let object = (None, pod.wal.namespace.clone(), pod.name.clone());
        let pods = &mut inner.insert(&object, &pod.wal).job_pods;
        let news = pods.get(&pod.name).is_none_or(|before| **before != pod);
        pods.insert(pod.name.clone(), Arc::new(pod));
        news
    }

    /// Keeps a pod of a sink, and answers whether it is news.
    pub(crate) fn put_sink_pod(&self, pod: SinkPod) -> bool {
        let mut inner = self.inner.write();
        let object = (None, pod.wal.namespace.clone(), pod.name.clone());
        let pods = &mut inner.insert(&object, &pod.wal).sink_pods;
        let news = pods.get(&pod.name).is_none_or(|before| **before != pod);
        pods.insert(pod.name.clone(), Arc::new(pod));
        news
    }

    /// Removes a child, and answers what has to be reconciled.
    pub(crate) fn remove_child(&self, kind: ChildKind, namespace: &str, name: &str) -> Vec<ReconcileTarget> {
        self.inner.write().remove(&(Some(kind), namespace.into(), name.into()))
    }

    /// Removes a pod, and answers what has to be reconciled.
    pub(crate) fn remove_pod(&self, namespace: &str, name: &str) -> Vec<ReconcileTarget> {
        self.inner.write().remove(&(None, namespace.into(), name.into()))
    }

    /// Removes every object of the kind (none is a pod) in the namespace (none is all of them) that is not listed, and
    /// answers what has to be reconciled.
    pub(super) fn retain(
        &self,
        kind: Option<ChildKind>,
        namespace: Option<&str>,
        listed: &HashSet<(Arc<str>, Arc<str>)>,
    ) -> Vec<ReconcileTarget> {
        let mut inner = self.inner.write();
        let inside = |object: &ObjectKey| object.0 == kind && namespace.is_none_or(|namespace| *object.1 == *namespace);
        let gone = inner
            .wals
            .keys()
            .filter(|object| inside(object) && !listed.contains(&(object.1.clone(), object.2.clone())));
        let gone: Vec<ObjectKey> = gone.cloned().collect();
        gone.iter().flat_map(|object| inner.remove(object)).collect()
    }
}

impl ObjectIndex {
    /// Puts the object under the WAL `key`, and removes it from the one that it was under.
    fn insert(&mut self, object: &ObjectKey, key: &NamespacedName) -> &mut OwnedObjects {
        if self.wals.get(object).is_some_and(|before| before != key) {
            self.remove(object);
        }
        self.wals.insert(object.clone(), key.clone());
        self.by_wal.entry(key.clone()).or_default()
    }

    /// Removes the object, and answers what has to be reconciled.
    fn remove(&mut self, object: &ObjectKey) -> Vec<ReconcileTarget> {
        let Some(key) = self.wals.remove(object) else { return Vec::new() };
        let Some(owned) = self.by_wal.get_mut(&key) else { return Vec::new() };
        let targets = if let Some(kind) = object.0 {
            let child = owned.children.remove(&(kind, object.2.clone()));
            child.map(|child| child.targets()).unwrap_or_default()
        } else {
            let of_job = owned.job_pods.remove(&object.2).map(|pod| pod.target());
            let of_sink = owned.sink_pods.remove(&object.2).map(|pod| pod.targets()).unwrap_or_default();
            let of_wal = owned.pods.remove(&object.2).map(|pod| pod.target());
            of_wal.into_iter().chain(of_job).chain(of_sink).collect()
        };
        let has_pods = !(owned.pods.is_empty() && owned.job_pods.is_empty() && owned.sink_pods.is_empty());
        if owned.children.is_empty() && !has_pods {
            self.by_wal.remove(&key);
        }
        targets
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config_map(wal: &str, version: &str, data: &str) -> OwnedObject {
        let object = json!({
            "metadata": {
                "namespace": "data", "name": "orders-control", "uid": "u1", "resourceVersion": version,
                "labels": {"tidemark.dev/wal": wal},
            },
            "data": {"purge": data},
        });
        OwnedObject::read(ChildKind::ConfigMap, object).unwrap()
    }

    fn data(cache: &ObjectCache, wal: &str) -> Option<String> {
        let owned = cache.owned(&NamespacedName::new("data", wal));
        let child = owned.child(ChildKind::ConfigMap, "orders-control")?;
        Some(child.object()["data"]["purge"].as_str()?.to_owned())
    }

    #[test]
    fn an_older_state_does_not_replace_a_newer_one() {
        let cache = ObjectCache::default();
        cache.put_child(config_map("orders", "10", "new"));
        cache.put_child(config_map("orders", "9", "old"));
        assert_eq!(data(&cache, "orders").as_deref(), Some("new"));
    }

    #[test]
    fn an_own_write_is_no_news_and_a_change_by_others_is() {
        let cache = ObjectCache::default();
        assert!(cache.put_child(config_map("orders", "10", "a")), "it is new");
        assert!(!cache.put_child(config_map("orders", "10", "a")), "the watch shows what the answer showed");
        assert!(!cache.put_child(config_map("orders", "9", "b")), "late");
        assert!(!cache.put_child(config_map("orders", "11", "a")), "nothing that is kept has moved");
        assert!(cache.put_child(config_map("orders", "12", "b")), "somebody changed it");
        assert_eq!(&*cache.child(ChildKind::ConfigMap, "data", "orders-control").unwrap().resource_version, "12");
    }

    #[test]
    fn a_watch_that_is_faster_than_the_answer_is_no_news_once() {
        let applied = |version, data| {
            let mut child = config_map("orders", version, data);
            child.digest = Some("d".into());
            child
        };
        let cache = ObjectCache::default();
        cache.put_child(config_map("orders", "1", "a"));
        cache.begin_write(ChildKind::ConfigMap, "data", "orders-control", "d");
        assert!(cache.put_child(config_map("orders", "2", "theirs")), "somebody was first");
        assert!(!cache.put_child(applied("3", "b")), "our own");
        assert!(cache.put_child(applied("4", "theirs")), "somebody changed it before the answer came");
        cache.finish_write(ChildKind::ConfigMap, "data", "orders-control", Some(applied("3", "b")));
        assert_eq!(data(&cache, "orders").as_deref(), Some("theirs"), "the answer is older");
        cache.begin_write(ChildKind::ConfigMap, "data", "orders-control", "d");
        cache.finish_write(ChildKind::ConfigMap, "data", "orders-control", None);
        assert!(cache.put_child(applied("5", "b")), "what failed is reconciled");
    }

    #[test]
    fn that_an_evicted_pod_was_replaced_stays_known() {
        let pod = |name: &str, second, status| {
            let labels = json!({"app.kubernetes.io/component": "indexer", "tidemark.dev/wal": "orders"});
            let created = format!("2026-11-28T10:00:0{second}Z");
            let metadata = json!({
                "namespace": "data", "name": name, "uid": name, "creationTimestamp": created, "labels": labels,
            });
            DataPod::read(&serde_json::from_value(json!({"metadata": metadata, "status": status})).unwrap()).unwrap()
        };
        let runs = || json!({"phase": "Running", "podIP": "10.0.0.1"});
        let evicted = || pod("first", 1, json!({"phase": "Failed", "reason": "Evicted"}));
        let cache = ObjectCache::default();
        let is_replaced = || cache.pods().into_iter().find_map(|pod| Some(pod.eviction.as_ref()?.replaced));
        for earlier in [pod("older", 0, runs()), pod("first", 1, runs()), pod("second", 2, json!({"phase": "Pending"}))]
        {
            cache.put_pod(earlier);
        }
        cache.put_pod(evicted());
        assert_eq!(is_replaced(), Some(false), "it ran itself, as did one that was made before");
        cache.put_pod(pod("second", 2, runs()));
        assert_eq!(is_replaced(), Some(true));
        cache.remove_pod("data", "second");
        cache.put_pod(pod("third", 3, json!({"phase": "Pending"})));
        assert!(!cache.put_pod(evicted()), "it is no news");
        assert_eq!(is_replaced(), Some(true));
    }

    #[test]
    fn an_object_whose_label_changes_moves() {
        let cache = ObjectCache::default();
        cache.put_child(config_map("orders", "1", "a"));
        cache.put_child(config_map("bills", "2", "b"));
        assert_eq!((data(&cache, "orders"), data(&cache, "bills").as_deref()), (None, Some("b")));
        cache.remove_child(ChildKind::ConfigMap, "data", "orders-control");
        assert_eq!(data(&cache, "bills"), None);
    }

    #[test]
    fn what_a_list_lacks_is_gone_in_its_namespace_only() {
        let cache = ObjectCache::default();
        cache.put_child(config_map("orders", "1", "a"));
        assert!(cache.retain(Some(ChildKind::ConfigMap), Some("other"), &HashSet::new()).is_empty());
        assert!(cache.retain(Some(ChildKind::Service), None, &HashSet::new()).is_empty());
        assert_eq!(
            cache.retain(Some(ChildKind::ConfigMap), None, &HashSet::new()),
            [ReconcileTarget::new("WAL", NamespacedName::new("data", "orders"))]
        );
        assert_eq!(data(&cache, "orders"), None);
    }

    #[test]
    fn a_child_of_another_kind_is_news_for_its_controller_and_for_the_wal() {
        let object = json!({
            "metadata": {
                "namespace": "data", "name": "verify-1", "uid": "u2", "resourceVersion": "1",
                "labels": {"tidemark.dev/wal": "orders"},
                "ownerReferences": [{"kind": "Other", "name": "orders", "uid": "o", "controller": true}],
            },
        });
        let child = OwnedObject::read(ChildKind::ConfigMap, object).unwrap();
        let target = |kind| ReconcileTarget::new(kind, NamespacedName::new("data", "orders"));
        assert_eq!(child.targets(), [target("WAL"), target("Other")], "the same name, of two kinds");
        let cache = ObjectCache::default();
        cache.put_child(child);
        assert_eq!(cache.remove_child(ChildKind::ConfigMap, "data", "verify-1"), [target("WAL"), target("Other")]);
    }
}

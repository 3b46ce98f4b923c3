//! What exists: the children and pods of every WAL, from watches that see nothing but objects with Tidemark's labels.
//!
//! An object is kept as little more than its JSON text, without status and bookkeeping, so that ten thousand WALs fit into a
//! small pod. Reading costs no request.

mod child;
mod pod;
mod watch;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

pub(crate) use self::{
    child::{Child, ChildKind, Rollout},
    pod::{Pod, Trouble},
    watch::watch,
};

/// Names a WAL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WalKey {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

impl WalKey {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for WalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Names a child inside of its WAL.
pub(crate) type ChildKey = (ChildKind, Arc<str>);

/// Everything that bears the labels of one WAL.
#[derive(Clone, Debug, Default)]
pub(crate) struct Family {
    pub(crate) children: BTreeMap<ChildKey, Arc<Child>>,
    pub(crate) pods: BTreeMap<Arc<str>, Arc<Pod>>,
}

impl Family {
    /// The child `name` of kind `kind`.
    pub(crate) fn child(&self, kind: ChildKind, name: &str) -> Option<&Arc<Child>> {
        self.children.get(&(kind, Arc::from(name)))
    }
}

/// The store. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cache {
    inner: Arc<RwLock<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    families: HashMap<WalKey, Family>,
    /// Which family an object was last put into: its label may change.
    homes: HashMap<Home, WalKey>,
    /// Digests of what is being written, until a watch or the answer shows it.
    writing: HashMap<Home, String>,
}

/// Names an object in the cluster: its kind (none is a pod), namespace and name.
type Home = (Option<ChildKind>, Arc<str>, Arc<str>);

impl Cache {
    /// What exists of the WAL `key`.
    pub(crate) fn family(&self, key: &WalKey) -> Family {
        self.read().families.get(key).cloned().unwrap_or_default()
    }

    /// One child.
    pub(crate) fn child(&self, key: &WalKey, kind: ChildKind, name: &str) -> Option<Arc<Child>> {
        self.read().families.get(key)?.child(kind, name).cloned()
    }

    /// Every pod.
    pub(crate) fn pods(&self) -> Vec<Arc<Pod>> {
        self.read().families.values().flat_map(|family| family.pods.values().cloned()).collect()
    }

    /// Tells that a child with this digest is about to be written; [`Cache::written`] follows.
    pub(crate) fn writing(&self, kind: ChildKind, key: &WalKey, name: &str, digest: &str) {
        self.write().writing.insert((Some(kind), key.namespace.clone(), name.into()), digest.to_owned());
    }

    /// Keeps what a write answered; `None` is one of which nobody knows what it did.
    pub(crate) fn written(&self, kind: ChildKind, key: &WalKey, name: &str, child: Option<Child>) {
        self.write().writing.remove(&(Some(kind), key.namespace.clone(), name.into()));
        if let Some(child) = child {
            self.put_child(child);
        }
    }

    /// Keeps a child, unless a newer state of the same object is known. Answers whether it is news: not the echo of a write,
    /// whether the watch or the answer shows it first, and not a change of something that nobody here reads.
    pub(crate) fn put_child(&self, child: Child) -> bool {
        let mut inner = self.write();
        let home = (Some(child.kind), child.wal.namespace.clone(), child.name.clone());
        let echo = inner.writing.get(&home).is_some_and(|digest| child.digest.as_deref() == Some(digest));
        if echo {
            inner.writing.remove(&home);
        }
        let children = &mut inner.move_in(&home, &child.wal).children;
        let before = children.get(&(child.kind, child.name.clone()));
        if before.is_some_and(|before| child.is_older_than(before)) {
            return false;
        }
        let news = !echo && before.is_none_or(|before| child.differs_from(before));
        children.insert((child.kind, child.name.clone()), Arc::new(child));
        news
    }

    /// Keeps a pod, and answers whether it is news.
    pub(crate) fn put_pod(&self, pod: Pod) -> bool {
        let mut inner = self.write();
        let home = (None, pod.wal.namespace.clone(), pod.name.clone());
        let pods = &mut inner.move_in(&home, &pod.wal).pods;
        let news = pods.get(&pod.name).is_none_or(|before| **before != pod);
        pods.insert(pod.name.clone(), Arc::new(pod));
        news
    }

    /// Forgets a child, and answers whose it was.
    pub(crate) fn remove_child(&self, kind: ChildKind, namespace: &str, name: &str) -> Option<WalKey> {
        self.write().remove(&(Some(kind), namespace.into(), name.into()))
    }

    /// Forgets a pod, and answers whose it was.
    pub(crate) fn remove_pod(&self, namespace: &str, name: &str) -> Option<WalKey> {
        self.write().remove(&(None, namespace.into(), name.into()))
    }

    /// Forgets every object of the kind (none is a pod) in the namespace (none is all of them) that is not listed, and
    /// answers whose they were.
    fn retain(
        &self,
        kind: Option<ChildKind>,
        namespace: Option<&str>,
        listed: &HashSet<(Arc<str>, Arc<str>)>,
    ) -> Vec<WalKey> {
        let mut inner = self.write();
        let inside = |home: &Home| home.0 == kind && namespace.is_none_or(|namespace| *home.1 == *namespace);
        let gone =
            inner.homes.keys().filter(|home| inside(home) && !listed.contains(&(home.1.clone(), home.2.clone())));
        let gone: Vec<Home> = gone.cloned().collect();
        gone.iter().filter_map(|home| inner.remove(home)).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The family that the object belongs into; it leaves the one that it was in.
    fn move_in(&mut self, home: &Home, key: &WalKey) -> &mut Family {
        if self.homes.get(home).is_some_and(|before| before != key) {
            self.remove(home);
        }
        self.homes.insert(home.clone(), key.clone());
        self.families.entry(key.clone()).or_default()
    }

    fn remove(&mut self, home: &Home) -> Option<WalKey> {
        let key = self.homes.remove(home)?;
        let family = self.families.get_mut(&key)?;
        match home.0 {
            Some(kind) => drop(family.children.remove(&(kind, home.2.clone()))),
            None => drop(family.pods.remove(&home.2)),
        }
        if family.children.is_empty() && family.pods.is_empty() {
            self.families.remove(&key);
        }
        Some(key)
    }
}

/// Whether resource version `a` is older than `b`. They are opaque texts by contract and numbers in fact; what is no number
/// counts as newer, which costs at most one request too many.
pub(crate) fn is_older(a: &str, b: &str) -> bool {
    matches!((a.parse::<u64>(), b.parse::<u64>()), (Ok(a), Ok(b)) if a < b)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config_map(wal: &str, version: &str, data: &str) -> Child {
        let object = json!({
            "metadata": {
                "namespace": "data", "name": "orders-control", "uid": "u1", "resourceVersion": version,
                "labels": {"tidemark.dev/wal": wal},
            },
            "data": {"purge": data},
        });
        Child::read(ChildKind::ConfigMap, object).unwrap()
    }

    fn data(cache: &Cache, wal: &str) -> Option<String> {
        let family = cache.family(&WalKey::new("data", wal));
        let child = family.child(ChildKind::ConfigMap, "orders-control")?;
        Some(child.object()["data"]["purge"].as_str()?.to_owned())
    }

    #[test]
    fn an_older_state_does_not_replace_a_newer_one() {
        let cache = Cache::default();
        cache.put_child(config_map("orders", "10", "new"));
        cache.put_child(config_map("orders", "9", "old"));
        assert_eq!(data(&cache, "orders").as_deref(), Some("new"));
    }

    #[test]
    fn the_echo_of_a_write_is_no_news_and_a_change_by_others_is() {
        let cache = Cache::default();
        assert!(cache.put_child(config_map("orders", "10", "a")), "it is new");
        assert!(!cache.put_child(config_map("orders", "10", "a")), "the watch shows what the answer told");
        assert!(!cache.put_child(config_map("orders", "9", "b")), "late");
        assert!(!cache.put_child(config_map("orders", "11", "a")), "nothing that is kept has moved");
        assert!(cache.put_child(config_map("orders", "12", "b")), "somebody changed it");
        let key = WalKey::new("data", "orders");
        assert_eq!(&*cache.child(&key, ChildKind::ConfigMap, "orders-control").unwrap().resource_version, "12");
    }

    #[test]
    fn a_watch_that_is_faster_than_the_answer_is_no_news_once() {
        let applied = |version, data| {
            let mut child = config_map("orders", version, data);
            child.digest = Some("d".into());
            child
        };
        let (cache, key) = (Cache::default(), WalKey::new("data", "orders"));
        cache.put_child(config_map("orders", "1", "a"));
        cache.writing(ChildKind::ConfigMap, &key, "orders-control", "d");
        assert!(cache.put_child(config_map("orders", "2", "theirs")), "somebody was first");
        assert!(!cache.put_child(applied("3", "b")), "our own");
        assert!(cache.put_child(applied("4", "theirs")), "somebody changed it before the answer came");
        cache.written(ChildKind::ConfigMap, &key, "orders-control", Some(applied("3", "b")));
        assert_eq!(data(&cache, "orders").as_deref(), Some("theirs"), "the answer is older");
        cache.writing(ChildKind::ConfigMap, &key, "orders-control", "d");
        cache.written(ChildKind::ConfigMap, &key, "orders-control", None);
        assert!(cache.put_child(applied("5", "b")), "what failed is looked at");
    }

    #[test]
    fn an_object_whose_label_changes_moves() {
        let cache = Cache::default();
        cache.put_child(config_map("orders", "1", "a"));
        cache.put_child(config_map("bills", "2", "b"));
        assert_eq!((data(&cache, "orders"), data(&cache, "bills").as_deref()), (None, Some("b")));
        cache.remove_child(ChildKind::ConfigMap, "data", "orders-control");
        assert_eq!(data(&cache, "bills"), None);
    }

    #[test]
    fn what_a_list_lacks_is_gone_in_its_namespace_only() {
        let cache = Cache::default();
        cache.put_child(config_map("orders", "1", "a"));
        assert!(cache.retain(Some(ChildKind::ConfigMap), Some("other"), &HashSet::new()).is_empty());
        assert!(cache.retain(Some(ChildKind::Service), None, &HashSet::new()).is_empty());
        assert_eq!(cache.retain(Some(ChildKind::ConfigMap), None, &HashSet::new()), [WalKey::new("data", "orders")]);
        assert_eq!(data(&cache, "orders"), None);
    }
}

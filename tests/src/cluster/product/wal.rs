//! A WAL with its namespace, Secret and buckets on the cluster's MinIO, and waits that print its story when they fail.

use std::time::Duration;

use anyhow::{Context, ensure};
use kube::{Api, api::Patch};
use serde_json::{Value, json};
use tidemark_crds::{ConditionType, Wal, condition, names};

use super::{
    super::{Cluster, StoreInside},
    LogOutside, answered, until,
};

/// How long a WAL may take to come into a state. Generous: a test machine may be loaded.
pub const PATIENCE: Duration = Duration::from_mins(4);

/// The Secret with the store's keys in every namespace of a [`TestWal`].
pub const SECRET: &str = "store";

/// A WAL to be made: names, places and the spec, which a test may change before [`WalPlan::apply`].
#[derive(Clone, Debug)]
pub struct WalPlan {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its spec: entries are sealed 16 s after their second, as in the demo.
    pub spec: Value,
}

/// A WAL on a cluster. Nothing is removed with this value.
pub struct TestWal<'a> {
    cluster: &'a Cluster,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Where its buckets are.
    pub store: StoreInside,
    http: reqwest::Client,
}

impl WalPlan {
    /// A WAL whose places are the buckets `NAMESPACE-NAME-{wal,meta,vmeta,idx}` of the cluster's MinIO.
    pub fn new(namespace: &str, name: &str, store: &StoreInside) -> Self {
        let bucket = |place: &str| format!("s3://{namespace}-{name}-{place}");
        let spec = json!({
            "storage": {
                "endpoint": store.endpoint, "region": "us-east-1", "allowHTTP": true,
                "credentials": {"type": "Secret", "secretRef": {"name": SECRET}},
            },
            "log": {
                "url": bucket("wal") + "/log", "expiry": "10s", "requestTimeout": "5s", "visibilityDelay": "1s",
            },
            "metadata": {"urls": [bucket("meta"), bucket("vmeta")]},
            "index": {"url": bucket("idx") + "/index"},
            // The nodes of a test share one disk.
            "indexer": {"cache": {"size": "1Gi"}},
            "search": {"cache": {"size": "1Gi"}},
            "jobs": {"cache": {"size": "1Gi"}},
        });
        Self { namespace: namespace.to_owned(), name: name.to_owned(), spec }
    }

    /// Changes the spec by a JSON merge patch.
    pub fn with(mut self, patch: &Value) -> Self {
        merge(&mut self.spec, patch);
        self
    }

    /// The resource.
    pub fn resource(&self) -> Value {
        json!({
            "apiVersion": "tidemark.dev/v1alpha1", "kind": "WAL",
            "metadata": {"name": self.name, "namespace": self.namespace}, "spec": self.spec,
        })
    }

    /// Makes the namespace (restricted, as the product promises to pass), the Secret, the buckets and the WAL.
    pub async fn apply(self, cluster: &Cluster) -> anyhow::Result<TestWal<'_>> {
        let wal = self.prepare(cluster).await?;
        cluster.apply(&self.resource().to_string()).await?;
        Ok(wal)
    }

    /// The same without the WAL.
    pub async fn prepare<'a>(&self, cluster: &'a Cluster) -> anyhow::Result<TestWal<'a>> {
        let store = cluster.minio().await?;
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": self.namespace, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        });
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET, "namespace": self.namespace},
            "stringData": {"AWS_ACCESS_KEY_ID": store.access_key, "AWS_SECRET_ACCESS_KEY": store.secret_key},
        });
        cluster.apply(&format!("{namespace}\n---\n{secret}")).await?;
        for url in self.urls() {
            let bucket = url.strip_prefix("s3://").and_then(|rest| rest.split('/').next());
            match store.create_bucket(bucket.context("a place is a bucket of S3")?).await {
                Err(error) if !error.to_string().contains("BucketAlreadyOwnedByYou") => return Err(error),
                _ => {}
            }
        }
        TestWal::existing(cluster, &self.namespace, &self.name, store)
    }

    fn urls(&self) -> Vec<String> {
        let one = |pointer| self.spec.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let metadata = self.spec.pointer("/metadata/urls").and_then(Value::as_array).into_iter().flatten();
        let metadata = metadata.filter_map(Value::as_str).map(str::to_owned);
        one("/log/url").into_iter().chain(one("/index/url")).chain(metadata).collect()
    }
}

impl<'a> TestWal<'a> {
    /// A WAL that others made, with the store of its places.
    pub fn existing(cluster: &'a Cluster, namespace: &str, name: &str, store: StoreInside) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build()?;
        Ok(Self { cluster, namespace: namespace.to_owned(), name: name.to_owned(), store, http })
    }

    /// The resource as the API server has it.
    pub async fn get(&self) -> anyhow::Result<Wal> {
        Ok(self.api().get(&self.name).await?)
    }

    /// Its API.
    pub fn api(&self) -> Api<Wal> {
        Api::namespaced(self.cluster.client(), &self.namespace)
    }

    /// Changes the resource by a JSON merge patch, such as `{"spec": {"suspend": true}}`.
    pub async fn patch(&self, patch: &Value) -> anyhow::Result<Wal> {
        Ok(self.api().patch(&self.name, &kube::api::PatchParams::default(), &Patch::Merge(patch)).await?)
    }

    /// Waits until the operator has seen the newest spec and a condition has a status and, unless empty, a reason; gives
    /// its message. Panics with conditions, pods and events.
    pub async fn until_condition(&self, kind: ConditionType, status: &str, reason: &str) -> String {
        let what = format!("{kind:?}={status} {reason}");
        self.until(&what, async |wal| {
            let seen = wal.status.as_ref()?;
            let current = seen.observed_generation == wal.metadata.generation;
            let found = condition(&seen.conditions, kind)?;
            let wanted = found.status == status && (reason.is_empty() || found.reason == reason);
            (current && wanted).then(|| found.message.clone())
        })
        .await
    }

    /// Waits for `Ready=True`.
    pub async fn until_ready(&self) {
        self.until_condition(ConditionType::Ready, "True", "").await;
    }

    /// Waits until `ask` finds what it wants in the resource. Panics with conditions, pods and events.
    pub async fn until<T>(&self, what: &str, ask: impl AsyncFn(&Wal) -> Option<T>) -> T {
        match answered(PATIENCE, async || ask(&self.get().await.ok()?).await).await {
            Some(found) => found,
            None => panic!("not within {PATIENCE:?}: {what} of \"{}\"\n{}", self.name, self.story().await),
        }
    }

    /// Conditions, pods and events of its namespace, to be read by a person.
    pub async fn story(&self) -> String {
        let questions: [&[&str]; 3] = [
            &["get", "wal", "-o", "jsonpath={range .items[*]}{.metadata.name}{\"\\n\"}{.status}{\"\\n\"}{end}"],
            &["get", "pods", "-o", "wide"],
            &["get", "events", "--sort-by=.metadata.creationTimestamp"],
        ];
        let mut story = String::new();
        for words in questions {
            let words = [words, &["-n", &self.namespace, "--request-timeout=10s"]].concat();
            let answer = self.cluster.kubectl(words).await.unwrap_or_else(|error| error.to_string());
            story.push_str(&answer);
            story.push('\n');
        }
        story
    }

    /// The URL of its search Service on this machine.
    pub async fn search_url(&self) -> anyhow::Result<String> {
        let service = names::WalComponent::Search.child_name(&self.name);
        self.cluster.service_url(&self.namespace, &service, names::SERVICE_PORT).await
    }

    /// An answer of its API through the Service: `ask("/v1/search", &[("q", "kind:bundle")])`.
    pub async fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> anyhow::Result<Value> {
        let url = reqwest::Url::parse_with_params(&format!("{}{path}", self.search_url().await?), parameters)?;
        let answer = self.http.get(url.clone()).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{status} for {url}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// Its log, to be written and read from this machine. The buckets must exist.
    pub async fn log(&self) -> anyhow::Result<LogOutside> {
        let Wal { spec, .. } = self.get().await?;
        LogOutside::open(&spec.log.url, &spec.metadata.urls, &self.store.environment())
    }

    /// Waits until search has sealed all that is in the log now, and panics if it misses or doubles anything.
    pub async fn agrees_with(&self, log: &LogOutside) -> usize {
        let listed = async || until("the log is listed", PATIENCE, async || log.entries().await.ok()).await;
        let logged = listed().await;
        let found = self
            .until("search has sealed the log", async |_| {
                let url = self.search_url().await.ok()?;
                let found = super::found_by(&self.http, &url).await.ok()?;
                found.has_sealed(&logged).then_some(found)
            })
            .await;
        found.compared_with(&listed().await, &logged).assert_same();
        logged.len()
    }
}

fn merge(whole: &mut Value, patch: &Value) {
    let (Value::Object(whole), Value::Object(patch)) = (&mut *whole, patch) else {
        *whole = patch.clone();
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            whole.remove(key);
        } else {
            merge(whole.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

//! A WAL with its tasks: made, waited for, and shown as a person sees them.

use std::{collections::BTreeSet, time::Duration};

use futures::TryStreamExt as _;
use kube::{Api, api::ListParams};
use serde_json::{Value, json};
use tidemark_catalog::{Generation, IndexChain, LogCursor, RootChain};
use tidemark_crds::{WalTask, WalTaskState, WalTaskStatus};
use tidemark_store::{Entropy, Store};
use tidemark_tests::{
    Cluster, S3Server,
    cluster::product::{LogOutside, PATIENCE, TestWal, WalPlan, until},
    s3::{ACCESS_KEY, SECRET_KEY},
    stores,
};
use tidemark_wal::{Log, Token};

use super::setup::shell;

/// The Secret for the store of the copies: of this WAL only the pods of snapshots have it.
const COPY_SECRET: &str = "copies";

/// A WAL with its tasks.
pub(crate) struct TaskWorld<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) plan: WalPlan,
    pub(crate) wal: TestWal<'a>,
    /// Where its snapshots are copied to: a server that the WAL's own keys do not open.
    pub(crate) copies: S3Server,
}

impl<'a> TaskWorld<'a> {
    /// A WAL with this change, whose snapshots are copied to a second server.
    pub(crate) async fn create(cluster: &'a Cluster, namespace: &str, change: &Value) -> Self {
        let store = cluster.minio().await.expect("the store starts");
        let copies = S3Server::on(cluster.listener().expect("it listens")).expect("the second server starts");
        copies.create_bucket(&copy_bucket(namespace));
        let copy_to = json!({"url": copy_url(namespace), "storage": copy_storage(&copies)});
        let plan = WalPlan::new(namespace, "orders", &store).with(change);
        let plan = plan.with(&json!({"snapshots": {"copyTo": copy_to}}));
        let wal = plan.prepare(cluster).await.expect("its places are made");
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": COPY_SECRET, "namespace": namespace},
            "stringData": {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY},
        });
        cluster.apply(&format!("{secret}\n---\n{}", plan.resource())).await.expect("the WAL is made");
        Self { cluster, plan, wal, copies }
    }

    /// A plan of a second WAL of the same log, whose index lies beside the copies and is begun with them.
    pub(crate) fn plan_from_copies(&self, name: &str) -> WalPlan {
        let (namespace, bucket) = (&self.plan.namespace, format!("{}-{name}-idx", self.plan.namespace));
        self.copies.create_bucket(&bucket);
        let mut plan = self.plan.clone().with(&json!({
            // The copies there are another index's, which is registered.
            "snapshots": null,
            "index": {"url": format!("s3://{bucket}/index"), "storage": copy_storage(&self.copies)},
            "bootstrap": {"fromURL": copy_url(namespace)},
        }));
        name.clone_into(&mut plan.name);
        plan
    }

    pub(crate) fn tasks(&self) -> Api<WalTask> {
        Api::namespaced(self.cluster.client(), &self.plan.namespace)
    }

    pub(crate) async fn list(&self) -> Vec<WalTask> {
        self.tasks().list(&ListParams::default()).await.expect("the API server answers").items
    }

    /// Makes a task of this type.
    pub(crate) async fn make(&self, name: &str, kind: &str) {
        let task = json!({
            "apiVersion": "tidemark.dev/v1alpha1", "kind": "WALTask",
            "metadata": {"name": name, "namespace": self.plan.namespace},
            "spec": {"walRef": {"name": "orders"}, "type": kind},
        });
        self.cluster.apply(&task.to_string()).await.expect("the task is made");
    }

    /// The status of the task once it ended. Panics unless it succeeded, with the story of its namespace.
    pub(crate) async fn succeeded(&self, name: &str) -> WalTaskStatus {
        let tasks = self.tasks();
        let status = self
            .wal
            .until(&format!("task {name} ends"), async |_| {
                let status = tasks.get(name).await.ok()?.status?;
                status.state?.is_terminal().then_some(status)
            })
            .await;
        assert_eq!(status.state, Some(WalTaskState::Succeeded), "{status:#?}\n{}", self.wal.story().await);
        status
    }

    /// What `kubectl tidemark WORDS` prints. Panics if it fails.
    pub(crate) async fn plugin(&self, words: &str) -> String {
        let said = shell(self.cluster, &format!("kubectl tidemark {words} -n {}", self.plan.namespace)).await;
        let said = said.unwrap_or_else(|error| panic!("{error}"));
        println!("$ kubectl tidemark {words}\n{said}");
        said
    }

    /// `kubectl get waltask`.
    pub(crate) async fn table(&self) -> String {
        let words = ["get", "waltask", "-n", &self.plan.namespace, "-o", "wide"];
        let table = self.cluster.kubectl(words).await.expect("it is shown");
        println!("{table}");
        table
    }

    /// The index's store, as this machine reaches it.
    pub(crate) fn index(&self) -> Store {
        self.place("/index/url")
    }

    /// The keys of what the archive consists of.
    pub(crate) async fn archive(&self) -> Vec<String> {
        let listed = self.index().list("archive/", None).map_ok(|object| object.key).try_collect().await;
        listed.expect("it is listed")
    }

    fn place(&self, path: &str) -> Store {
        let url = self.plan.spec.pointer(path).and_then(Value::as_str).expect("a place");
        stores::open(url, &self.wal.store.environment())
    }

    /// The chain of the open generation.
    async fn chain(&self) -> Option<IndexChain> {
        IndexChain::open(&self.index(), Generation::first(), Entropy::from_os()).follow().await.ok()
    }

    /// Appends until the last look at these entries is published, after which nothing of them changes.
    pub(crate) async fn until_settled(&self, log: &LogOutside, entries: &BTreeSet<Token>) {
        let writer = log.writer("grace").await.expect("the writer opens");
        let appending = log.append_forever(writer, "orders", Duration::from_secs(10));
        let newest = entries.last().expect("there are entries").second();
        until("the entries are settled", PATIENCE, async || {
            let latest = self.chain().await?.latest().await.ok()??;
            (latest.state.audited > newest).then_some(())
        })
        .await;
        appending.abort();
    }

    /// Records what the index keeps of the log, as its indexer does within the hour.
    pub(crate) async fn record_keeps(&self) {
        let chain = self.chain().await.expect("the index answers");
        let latest = chain.latest().await.expect("the index answers").expect("it has a manifest");
        let metadata = ["/metadata/urls/0", "/metadata/urls/1"].map(|path| self.place(path));
        let root = RootChain::open(&Log::over(self.place("/log/url"), metadata.into()), Entropy::from_os());
        let name = chain.index().url().to_string();
        root.keep(&name, chain.generation(), LogCursor(latest.state.audited)).await.expect("it is recorded");
    }
}

fn copy_bucket(namespace: &str) -> String {
    format!("{namespace}-copies")
}

fn copy_url(namespace: &str) -> String {
    format!("s3://{}/orders", copy_bucket(namespace))
}

fn copy_storage(copies: &S3Server) -> Value {
    storage(&copies.endpoint(), COPY_SECRET)
}

/// A store with its keys in this Secret.
pub(crate) fn storage(endpoint: &str, secret: &str) -> Value {
    json!({
        "endpoint": endpoint, "region": "us-east-1", "allowHTTP": true,
        "credentials": {"type": "Secret", "secretRef": {"name": secret}},
    })
}

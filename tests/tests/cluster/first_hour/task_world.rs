//! A WAL with its tasks: made, waited for, and shown as a person sees them.

use kube::{Api, api::ListParams};
use serde_json::{Value, json};
use tidemark_crds::{WalTask, WalTaskState, WalTaskStatus};
use tidemark_tests::{
    Cluster,
    cluster::product::{TestWal, WalPlan},
};

use super::setup::shell;

/// A Secret that only the pods of snapshots have.
const COPY_SECRET: &str = "copies";

/// A WAL with its tasks.
pub(crate) struct TaskWorld<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) plan: WalPlan,
    pub(crate) wal: TestWal<'a>,
}

impl<'a> TaskWorld<'a> {
    /// A WAL with this change, whose snapshots are copied to a bucket with a Secret of its own.
    pub(crate) async fn create(cluster: &'a Cluster, namespace: &str, change: &Value) -> Self {
        let store = cluster.minio().await.expect("the store starts");
        let copies = format!("{namespace}-copies");
        let copy_to = json!({"url": format!("s3://{copies}/orders"), "storage": {
            "endpoint": store.endpoint, "region": "us-east-1", "allowHTTP": true,
            "credentials": {"type": "Secret", "secretRef": {"name": COPY_SECRET}},
        }});
        let plan = WalPlan::new(namespace, "orders", &store).with(change);
        let plan = plan.with(&json!({"snapshots": {"copyTo": copy_to}}));
        let wal = plan.prepare(cluster).await.expect("its places are made");
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": COPY_SECRET, "namespace": namespace},
            "stringData": {"AWS_ACCESS_KEY_ID": store.access_key, "AWS_SECRET_ACCESS_KEY": store.secret_key},
        });
        store.create_bucket(&copies).await.expect("the bucket of the copies is made");
        cluster.apply(&format!("{secret}\n---\n{}", plan.resource())).await.expect("the WAL is made");
        Self { cluster, plan, wal }
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
}

//! The cluster that the tests of refusals share, its healthy WAL, and what they all ask.

use std::{cell::Cell, collections::BTreeSet, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::ListParams};
use object_store::{ObjectStore, aws::AmazonS3Builder};
use serde_json::{Value, json};
use tidemark_crds::{ConditionType, condition};
use tidemark_tests::cluster::{
    Cluster, StoreInside,
    product::{TestWal, WalPlan},
};
use tokio::sync::OnceCell;

static INSTALLED: OnceCell<()> = OnceCell::const_new();

/// The namespace of the WAL that nothing is wrong with.
pub(crate) const HEALTHY: &str = "healthy";

/// One cluster of one node with the chart, and a WAL that is ready.
pub(crate) async fn cluster() -> &'static Cluster {
    let builder = Cluster::builder().product().await.expect("the image is built");
    let cluster = builder.shared().await.expect("the cluster starts");
    let install = async || {
        let more = ["--set=replicaCount=1", "--set=pollInterval=2s"];
        cluster.install_chart(&more).await.expect("the chart is installed");
        let healthy = plan(cluster, HEALTHY, HEALTHY).await.with(&json!({"search": {"replicas": 1}}));
        healthy.apply(cluster).await.expect("it is applied").until_ready().await;
    };
    INSTALLED.get_or_init(install).await;
    cluster
}

/// A small WAL without search.
pub(crate) async fn plan(cluster: &Cluster, namespace: &str, name: &str) -> WalPlan {
    let store = cluster.minio().await.expect("the store starts");
    let resources = json!({"requests": {"cpu": "10m", "memory": "32Mi"}});
    WalPlan::new(namespace, name, &store)
        .with(&json!({"indexer": {"resources": resources}, "search": {"resources": resources, "replicas": 0}}))
}

/// The plan with its keys in another Secret.
pub(crate) fn keys_in(plan: WalPlan, secret: &str) -> WalPlan {
    plan.with(&json!({"storage": {"credentials": {"secretRef": {"name": secret}}}}))
}

pub(crate) async fn put_secret(cluster: &Cluster, namespace: &str, name: &str, data: Value) {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "stringData": data,
    });
    cluster.apply(&secret.to_string()).await.expect("the Secret is taken");
}

pub(crate) fn keys(id: &str, secret: &str) -> Value {
    json!({"AWS_ACCESS_KEY_ID": id, "AWS_SECRET_ACCESS_KEY": secret})
}

/// Waits for the one reason of `StorageReady` and looks at what it says.
pub(crate) async fn refused(wal: &TestWal<'_>, reason: &str, says: &[&str]) {
    let message = wal.until_condition(ConditionType::StorageReady, "False", reason).await;
    assert_message(reason, &message, says);
    wal.until_condition(ConditionType::Ready, "False", reason).await;
}

/// Fact, effect and remedy are parted by semicolons.
pub(crate) fn assert_message(reason: &str, message: &str, says: &[&str]) {
    println!("{reason}: {message}");
    assert!(message.matches("; ").count() >= 2, "a fact, an effect, a remedy: {message}");
    for part in says {
        assert!(message.contains(part), "\"{part}\" is in: {message}");
    }
}

/// Does `work` and sees to it that the healthy WAL is ready and answers searches throughout, and that no container has started
/// twice in the end.
pub(crate) async fn unaffected<T>(cluster: &Cluster, namespace: &str, work: impl Future<Output = T>) -> T {
    let plan = plan(cluster, HEALTHY, HEALTHY).await;
    let healthy = plan.prepare(cluster).await.expect("it is there");
    let (asked, failed, unknown) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let watching = async {
        let mut known = true;
        loop {
            // A busy machine may leave a request without an answer: that says nothing about the WAL.
            if let Ok(wal) = healthy.get().await {
                let conditions = wal.status.map(|status| status.conditions).unwrap_or_default();
                let ready = condition(&conditions, ConditionType::Ready);
                known = match ready.map(|ready| (&*ready.status, &*ready.reason)) {
                    Some(("True", _)) => true,
                    // Nor do two polls that the operator missed, or what an indexer that had no time is behind after them.
                    Some(("Unknown", _)) => false,
                    Some(("False", "Backfilling")) if !known => false,
                    _ => panic!("the healthy WAL is not ready: {ready:?}"),
                };
                unknown.set(unknown.get() + u32::from(!known));
            }
            asked.set(asked.get() + 1);
            if let Err(error) = healthy.ask("/v1/search", &[("size", "1")]).await {
                println!("a search of the healthy WAL failed: {error:#}");
                failed.set(failed.get() + 1);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let done = tokio::select! { done = work => done, () = watching => unreachable!("it has no end") };
    println!("meanwhile {} of {} searches of the healthy WAL failed", failed.get(), asked.get());
    assert!(asked.get() > 0 && failed.get() <= (asked.get() / 20).max(2), "search of the healthy WAL goes on");
    let most = (asked.get() / 10).max(2);
    assert!(unknown.get() <= most, "{} times it was not known whether the healthy WAL is ready", unknown.get());
    for namespace in [namespace, HEALTHY, tidemark_tests::cluster::product::OPERATOR_NAMESPACE] {
        for pod in pods(cluster, namespace).await {
            let name = pod.name_any();
            let statuses = pod.status.and_then(|status| status.container_statuses).unwrap_or_default();
            let restarts: i32 = statuses.iter().map(|status| status.restart_count).sum();
            assert_eq!(restarts, 0, "pod \"{namespace}/{name}\" has started again");
        }
    }
    done
}

pub(crate) async fn pods(cluster: &Cluster, namespace: &str) -> Vec<Pod> {
    let api = Api::<Pod>::namespaced(cluster.client(), namespace);
    api.list(&ListParams::default()).await.expect("the API server answers").items
}

/// The Events' reasons of a namespace so far.
pub(crate) async fn events(cluster: &Cluster, namespace: &str) -> BTreeSet<String> {
    let words = ["get", "events", "-n", namespace, "-o", "jsonpath={.items[*].reason}"];
    let answer = cluster.kubectl(words).await.expect("the API server answers");
    answer.split_whitespace().map(str::to_owned).collect()
}

/// All keys of a bucket.
pub(crate) async fn objects(store: &StoreInside, bucket: &str) -> BTreeSet<String> {
    use futures::TryStreamExt as _;
    let client = AmazonS3Builder::new()
        .with_endpoint(&store.outside)
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_bucket_name(bucket)
        .with_access_key_id(&store.access_key)
        .with_secret_access_key(&store.secret_key)
        .build()
        .expect("a client");
    let listed = client.list(None).map_ok(|meta| meta.location.to_string()).try_collect();
    listed.await.expect("the bucket is listed")
}

//! What can be wrong with a store: reported in one condition, and mended without a restart.

use std::collections::BTreeSet;

use kube::ResourceExt;
use serde_json::json;
use tempfile::TempDir;
use tidemark_tests::{
    S3Server, TlsFront,
    cluster::Cluster,
    faults::{FaultRule, InjectedFault, StoreOperation},
    issue_certificate,
    s3::{ACCESS_KEY, SECRET_KEY},
};

use super::setup::{cluster, keys, keys_in, plan, pods, put_secret, refused, unaffected};

const KEYS: &str = "refused-keys";
const UNFIT: &str = "refused-stores";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn wrong_keys_missing_keys_and_missing_buckets_are_reported_and_mended() {
    let cluster = cluster().await;
    let work = Box::pin(async { tokio::join!(wrong_key(cluster), missing_secret(cluster), missing_bucket(cluster)) });
    unaffected(cluster, KEYS, work).await;
}

async fn wrong_key(cluster: &Cluster) {
    let plan = keys_in(plan(cluster, KEYS, "wrong").await, "wrong");
    let wal = plan.prepare(cluster).await.expect("its buckets are made");
    // Wrong from the start; later rotated to a wrong one while the pods run.
    for _ in 0..2 {
        put_secret(cluster, KEYS, "wrong", keys("unknown-key", "not-the-right-key")).await;
        cluster.apply(&plan.resource().to_string()).await.expect("it is applied");
        refused(&wal, "AccessDenied", &["s3://refused-keys-wrong-"]).await;
        put_secret(cluster, KEYS, "wrong", keys(&wal.store.access_key, &wal.store.secret_key)).await;
        wal.until_ready().await;
    }
}

async fn missing_secret(cluster: &Cluster) {
    let plan = keys_in(plan(cluster, KEYS, "later").await, "later");
    let wal = plan.apply(cluster).await.expect("it is applied");
    refused(&wal, "CredentialsMissing", &["Secret", "AWS_ACCESS_KEY_ID"]).await;
    put_secret(cluster, KEYS, "later", keys(&wal.store.access_key, &wal.store.secret_key)).await;
    wal.until_ready().await;
}

async fn missing_bucket(cluster: &Cluster) {
    let plan = plan(cluster, KEYS, "bucket").await;
    let wal = plan.prepare(cluster).await.expect("its other buckets are made");
    let plan = plan.with(&json!({"log": {"url": "s3://not-yet-a-bucket/log"}}));
    cluster.apply(&plan.resource().to_string()).await.expect("it is applied");
    refused(&wal, "BucketMissing", &["not-yet-a-bucket"]).await;
    wal.store.create_bucket("not-yet-a-bucket").await.expect("it is created");
    wal.until_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn stores_that_are_read_only_unfit_or_not_trusted_are_reported_and_mended() {
    let cluster = cluster().await;
    let work = Box::pin(async {
        tokio::join!(read_only(cluster), without_preconditions(cluster), rotated_authority(cluster))
    });
    unaffected(cluster, UNFIT, work).await;
}

/// A server of this process with the buckets of a WAL, which is applied: what it is and the server.
async fn on_own_server<'a>(
    cluster: &'a Cluster,
    name: &str,
    change: impl Fn(&S3Server),
) -> (tidemark_tests::cluster::product::TestWal<'a>, S3Server) {
    let server = S3Server::on(cluster.listener().expect("it listens")).expect("the server starts");
    for place in ["wal", "meta", "vmeta", "idx"] {
        server.create_bucket(&format!("{UNFIT}-{name}-{place}"));
    }
    change(&server);
    let plan = plan(cluster, UNFIT, name).await.with(&json!({"storage": {"endpoint": server.endpoint()}}));
    let plan = keys_in(plan, "own");
    let wal = plan.prepare(cluster).await.expect("its namespace is made");
    put_secret(cluster, UNFIT, "own", keys(ACCESS_KEY, SECRET_KEY)).await;
    cluster.apply(&plan.resource().to_string()).await.expect("it is applied");
    (wal, server)
}

async fn read_only(cluster: &Cluster) {
    let forbid = |server: &S3Server| {
        server
            .inject(FaultRule::always(InjectedFault::Forbidden).on(StoreOperation::Put).on(StoreOperation::Multipart));
    };
    let (wal, server) = on_own_server(cluster, "readonly", forbid).await;
    refused(&wal, "ReadOnly", &["s3://refused-stores-readonly-"]).await;
    server.calm();
    wal.until_ready().await;
}

/// What `caRef` promises: the certificates of a changed ConfigMap are trusted by the pods that run, in place of those before.
async fn rotated_authority(cluster: &Cluster) {
    let store = cluster.minio().await.expect("the store starts");
    let server = store.outside.trim_start_matches("http://").parse().expect("an address");
    let listener = cluster.listener().expect("it listens");
    let address = listener.local_addr().expect("it listens").ip();
    let [first, second] = [(); 2].map(|()| {
        let folder = tempfile::tempdir().expect("a folder is made");
        issue_certificate(folder.path(), address).expect("it is written");
        folder
    });
    let mut front = TlsFront::start(listener, server, first.path()).expect("it starts");
    let endpoint = front.url().expect("it listens");
    let plan = plan(cluster, UNFIT, "authority").await.with(&json!({
        "storage": {"endpoint": endpoint, "allowHTTP": false, "caRef": {"name": "authority"}}, "search": {"replicas": 1},
    }));
    let wal = plan.prepare(cluster).await.expect("its buckets are made");
    let trust = async |folder: &TempDir| {
        let certificates = std::fs::read_to_string(folder.path().join("ca.crt")).expect("it is readable");
        let config_map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "authority", "namespace": UNFIT},
            "data": {"ca.crt": certificates},
        });
        cluster.apply(&config_map.to_string()).await.expect("the ConfigMap is taken");
    };
    let pods_of_wal = async || {
        let pods = pods(cluster, UNFIT).await.into_iter().filter(|pod| pod.name_any().starts_with("authority-"));
        pods.filter_map(|pod| pod.uid()).collect::<BTreeSet<_>>()
    };
    trust(&first).await;
    cluster.apply(&plan.resource().to_string()).await.expect("it is applied");
    wal.until_ready().await;
    let before = pods_of_wal().await;
    assert_eq!(before.len(), 2, "an indexer and a search pod");
    trust(&second).await;
    refused(&wal, "Unreachable", &["s3://refused-stores-authority-", "certificate"]).await;
    front.exchange_certificate(second.path()).expect("it is served");
    wal.until_ready().await;
    let log = wal.log().await.expect("it opens");
    let writer = log.writer("client").await.expect("it opens");
    log.append(&writer, "orders", "after the rotation").await.expect("it is appended");
    // Before it is sealed search alone reads it, from the log.
    wal.until("search reads the log", async |_| {
        let found = wal.ask("/v1/search", &[("q", "rotation")]).await.ok()?;
        (found["total"] == 1).then_some(())
    })
    .await;
    assert_eq!(pods_of_wal().await, before, "no pod was replaced");
}

async fn without_preconditions(cluster: &Cluster) {
    let (wal, server) = on_own_server(cluster, "unfit", S3Server::ignore_preconditions).await;
    refused(&wal, "StoreUnsupported", &["s3://refused-stores-unfit-"]).await;
    server.keep_preconditions();
    wal.until_ready().await;
}

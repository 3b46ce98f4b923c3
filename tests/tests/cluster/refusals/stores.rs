//! What can be wrong with a store: told in one condition, and mended without a restart.

use serde_json::json;
use tidemark_tests::{
    S3Server,
    cluster::Cluster,
    faults::{FaultRule, InjectedFault, StoreOperation},
    s3::{ACCESS_KEY, SECRET_KEY},
};

use super::setup::{cluster, keys, keys_in, plan, put_secret, refused, unaffected};

const KEYS: &str = "refused-keys";
const UNFIT: &str = "refused-stores";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn wrong_keys_missing_keys_and_missing_buckets_are_told_and_mended() {
    let cluster = cluster().await;
    let work = Box::pin(async { tokio::join!(wrong_key(cluster), missing_secret(cluster), missing_bucket(cluster)) });
    unaffected(cluster, KEYS, work).await;
}

async fn wrong_key(cluster: &Cluster) {
    let plan = keys_in(plan(cluster, KEYS, "wrong").await, "wrong");
    let wal = plan.prepare(cluster).await.expect("its buckets are made");
    // Wrong from the start; later rotated to a wrong one while the pods run.
    for _ in 0..2 {
        put_secret(cluster, KEYS, "wrong", keys("nobody", "not-the-right-key")).await;
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
async fn read_only_buckets_and_stores_without_preconditions_are_told() {
    let cluster = cluster().await;
    let work = Box::pin(async { tokio::join!(read_only(cluster), without_preconditions(cluster)) });
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

async fn without_preconditions(cluster: &Cluster) {
    let (wal, server) = on_own_server(cluster, "unfit", S3Server::ignore_preconditions).await;
    refused(&wal, "StoreUnsupported", &["s3://refused-stores-unfit-"]).await;
    server.keep_preconditions();
    wal.until_ready().await;
}

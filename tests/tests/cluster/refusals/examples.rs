//! Each file of `examples/broken` ends in what it says, and the demo's store is all that it needs.

use std::path::Path;

use serde_json::json;
use tidemark_crds::ConditionType;
use tidemark_tests::cluster::{
    Cluster,
    product::{TestWal, WalPlan},
};

use super::setup::{assert_message, cluster, keys, plan, put_secret, refused, unaffected};

const DEMO: &str = "tidemark-demo";

/// The file, at the cluster's store in place of the demo's.
fn example(name: &str, endpoint: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../examples/broken/{name}.yaml"));
    let yaml = std::fs::read_to_string(file).expect("it is there");
    yaml.replace("http://demo-s3.tidemark-demo.svc:9000", endpoint)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn each_broken_example_ends_in_what_it_says() {
    let cluster = cluster().await;
    // The namespace, the Secret and the buckets that demo.yaml makes.
    let urls = json!({"log": {"url": "s3://wal/demo"}, "index": {"url": "s3://idx/demo"},
        "metadata": {"urls": ["s3://meta", "s3://vmeta"]}});
    let demo = plan(cluster, DEMO, "demo").await.with(&urls).prepare(cluster).await.expect("the buckets are made");
    put_secret(cluster, DEMO, "demo-s3", keys(&demo.store.access_key, &demo.store.secret_key)).await;

    let refusal = cluster.apply(&example("plain-http", &demo.store.endpoint)).await.expect_err("it is refused");
    assert!(refusal.to_string().contains("allowHTTP"), "{refusal}");
    let work = Box::pin(async { tokio::join!(wrong_bucket(cluster), wrong_key(cluster), wrong_region(cluster)) });
    unaffected(cluster, DEMO, work).await;
}

async fn applied<'a>(cluster: &'a Cluster, name: &str) -> TestWal<'a> {
    // The plan is for its buckets and namespace only: what is applied is the file.
    let plan = WalPlan { name: name.to_owned(), ..plan(cluster, DEMO, name).await };
    let wal = plan.prepare(cluster).await.expect("the namespace is there");
    cluster.apply(&example(name, &wal.store.endpoint)).await.expect("it is applied");
    wal
}

async fn wrong_bucket(cluster: &Cluster) {
    let wal = applied(cluster, "wrong-bucket").await;
    refused(&wal, "BucketMissing", &["no-such-bucket"]).await;
    wal.store.create_bucket("no-such-bucket").await.expect("it is created");
    wal.until_ready().await;
}

async fn wrong_key(cluster: &Cluster) {
    let wal = applied(cluster, "wrong-key").await;
    refused(&wal, "AccessDenied", &["s3://"]).await;
    put_secret(cluster, DEMO, "broken-key", keys(&wal.store.access_key, &wal.store.secret_key)).await;
    wal.until_condition(ConditionType::Ready, "True", "").await;
}

async fn wrong_region(cluster: &Cluster) {
    let wal = applied(cluster, "wrong-region").await;
    let message = wal.until_condition(ConditionType::StorageReady, "False", "").await;
    assert_message("wrong-region", &message, &["us-east-1"]);
    wal.patch(&json!({"spec": {"storage": {"region": "us-east-1"}}})).await.expect("it is taken");
    wal.until_ready().await;
}

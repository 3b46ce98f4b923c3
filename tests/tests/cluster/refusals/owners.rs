//! An index belongs to one owner, and a pod template asks for nothing that the namespace's owner did not give.

use std::collections::BTreeMap;

use kube::{ResourceExt as _, api::DeleteParams};
use serde_json::json;
use tidemark_crds::ConditionType;
use tidemark_tests::{
    TidemarkProcess,
    cluster::{
        Cluster,
        product::{PATIENCE, WalPlan, until},
    },
};

use super::{
    deletion::gone,
    setup::{assert_message, cluster, events, plan, refused, unaffected},
};

const OWNERS: &str = "refused-owners";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn an_index_of_another_owner_and_a_template_with_privilege_are_refused() {
    let cluster = cluster().await;
    let work =
        Box::pin(async { tokio::join!(two_on_one_index(cluster), another_cluster(cluster), privilege(cluster)) });
    unaffected(cluster, OWNERS, work).await;
}

async fn two_on_one_index(cluster: &Cluster) {
    let first = plan(cluster, OWNERS, "first").await;
    let (spec, log) = (first.spec.clone(), first.spec["log"]["url"].as_str().expect("it has a log").to_owned());
    let first = first.apply(cluster).await.expect("it is applied");
    first.until_ready().await;
    let uid = first.get().await.expect("it is there").uid().expect("it has a UID");
    let other_log = plan(cluster, OWNERS, "third").await.with(&json!({"index": spec["index"]}));
    let same_log = spec.clone();
    let second = WalPlan { spec, ..plan(cluster, OWNERS, "second").await };
    let second = second.apply(cluster).await.expect("it is applied");
    let third = other_log.apply(cluster).await.expect("it is applied");
    refused(&second, "OwnedByAnother", &["\"refused-owners/first\"", &uid]).await;
    refused(&third, "OwnedByAnother", &["\"refused-owners/first\"", &log]).await;
    // Neither whose it is nor a purge gets the other log's records out of the way.
    third.patch(&json!({"spec": {"adoptOwner": uid, "deletionPolicy": "Purge"}})).await.expect("it is taken");
    refused(&third, "OwnedByAnother", &[&log]).await;
    third.api().delete("third", &DeleteParams::default()).await.expect("it is deleted");
    gone(&third).await;
    let log = first.log().await.expect("the log opens");
    let writer = log.writer("test").await.expect("the log has parameters");
    let appended = log.append(&writer, "orders", "still indexed").await.expect("it is appended");
    first.until("it indexes on", async |wal| (wal.status.as_ref()?.entries? >= 1).then_some(())).await;
    println!("\"first\" keeps its index, with {appended}");
    first.until_ready().await;
    // Where its index is cannot be changed. Made again with one of its own, it reads the same log.
    second.api().delete("second", &DeleteParams::default()).await.expect("it is deleted");
    gone(&second).await;
    let own = json!({"index": {"url": "s3://refused-owners-second-idx/index"}});
    WalPlan { spec: same_log, ..plan(cluster, OWNERS, "second").await }
        .with(&own)
        .apply(cluster)
        .await
        .expect("it is applied")
        .until_ready()
        .await;
}

/// The flags of `tidemark index` for a plan.
fn flags(plan: &WalPlan) -> Vec<String> {
    let of =
        |pointer: &str| plan.spec.pointer(pointer).and_then(|value| value.as_str()).expect("it is there").to_owned();
    let words = [
        ["--log".to_owned(), of("/log/url")],
        ["--metadata".to_owned(), of("/metadata/urls/0")],
        ["--metadata".to_owned(), of("/metadata/urls/1")],
        ["--index".to_owned(), of("/index/url")],
        ["--expiry".to_owned(), of("/log/expiry")],
        ["--request-timeout".to_owned(), of("/log/requestTimeout")],
        ["--visibility-delay".to_owned(), of("/log/visibilityDelay")],
    ];
    words.into_iter().flatten().collect()
}

async fn another_cluster(cluster: &Cluster) {
    let plan = plan(cluster, OWNERS, "foreign").await;
    let wal = plan.prepare(cluster).await.expect("its buckets are made");
    let environment: BTreeMap<String, String> = wal.store.environment();
    let owner = ["index", "--owner", "k8s:other-cluster/far/orders/uid-far-away", "--listen", "127.0.0.1:0"];
    let flags = flags(&plan);
    let words: Vec<&str> = owner.into_iter().chain(flags.iter().map(String::as_str)).collect();
    let theirs = TidemarkProcess::serving(&words, &environment).await.expect("it starts");
    until("the other cluster's indexer writes", PATIENCE, async || {
        let process = theirs.get("/v1/process").await.ok()?;
        (process["phase"] == "writing" && process["caughtUp"] == true).then_some(())
    })
    .await;
    theirs.stop().await.expect("it stops");
    cluster.apply(&plan.resource().to_string()).await.expect("it is applied");
    // The other cluster reaches the store at another address, so that this could be a copy of its log.
    let log = flags.iter().skip_while(|flag| *flag != "--log").nth(1).expect("the log is among the flags");
    let theirs = format!("{log}?endpoint={}", environment["AWS_ENDPOINT_URL"]);
    refused(&wal, "LogMoved", &[&theirs, "movedFrom"]).await;
    wal.patch(&json!({"spec": {"log": {"movedFrom": theirs}}})).await.expect("it is taken");
    refused(&wal, "OwnedByAnother", &["\"far/orders\" of cluster \"other-cluster\"", "uid-far-away"]).await;
    wal.patch(&json!({"spec": {"adoptOwner": "uid-far-away"}})).await.expect("it is taken");
    wal.until_ready().await;
    until("the Event is there", PATIENCE, async || {
        events(cluster, OWNERS).await.contains("OwnerAdopted").then_some(())
    })
    .await;
}

async fn privilege(cluster: &Cluster) {
    let asks = json!({"indexer": {"podTemplate": {"spec": {
        "hostNetwork": true, "containers": [{"name": "indexer", "securityContext": {"privileged": true}}],
    }}}});
    let plan = plan(cluster, OWNERS, "privilege").await.with(&asks);
    let wal = plan.apply(cluster).await.expect("it is applied");
    let message = wal.until_condition(ConditionType::Ready, "False", "PodTemplateRefused").await;
    assert_message("PodTemplateRefused", &message, &["hostNetwork"]);
    wal.patch(&json!({"spec": {"indexer": {"podTemplate": null}}})).await.expect("it is taken");
    wal.until_ready().await;
}

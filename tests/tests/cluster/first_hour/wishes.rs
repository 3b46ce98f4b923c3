//! What a person asks of a WAL that runs: the plugin, `helm test`, a pause, and an operator that goes and comes back.

use k8s_openapi::{
    api::core::v1::Pod, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::json;
use tidemark_crds::ConditionType;
use tidemark_tests::{
    Cluster,
    cluster::product::{OPERATOR_NAMESPACE, PATIENCE, WalPlan, until},
};

use super::{
    setup::{installed, shell},
    story,
};

const NAMESPACE: &str = "wishes";

/// Names and restarts of the data pods.
async fn data_pods(cluster: &Cluster) -> Vec<(String, i32)> {
    let pods = Api::<Pod>::namespaced(cluster.client(), NAMESPACE).list(&ListParams::default()).await;
    let restarts = |pod: &Pod| {
        let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        containers.map(|container| container.restart_count).sum()
    };
    pods.expect("the API server answers").iter().map(|pod| (pod.name_any(), restarts(pod))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn a_wal_answers_its_owner_pauses_and_outlives_the_operator() {
    let cluster = installed().await;
    let store = cluster.minio().await.expect("the store starts");
    let wal = WalPlan::new(NAMESPACE, "orders", &store).apply(cluster).await.expect("the WAL is made");
    let log = wal.log().await.expect("its log opens");
    let writer = log.writer("ada").await.expect("the writer opens");
    let first = log.append(&writer, "orders", "first import").await.expect("it is appended");
    wal.until_ready().await;
    // An append that is tried again leaves an entry more.
    assert!(wal.agrees_with(&log).await >= 1);

    let tested = cluster.helm(["test", "tidemark", "-n", OPERATOR_NAMESPACE, "--timeout", "2m"]).await;
    println!("{}", tested.expect("helm test passes"));
    let ask = async |words: &str| {
        let said = shell(cluster, &format!("kubectl tidemark {words} -n {NAMESPACE}")).await;
        said.unwrap_or_else(|error| panic!("{error}"))
    };
    let status = ask("status orders").await;
    println!("{status}");
    assert!(status.contains("CaughtUp") && status.contains("0 restarts"), "{status}");
    assert!(ask("status").await.contains("orders"));
    let found = ask("search orders 'first import' --json").await;
    assert!(found.contains(&first.to_string()), "{found}");
    let checked = ask("check orders").await;
    println!("{checked}");
    assert!(checked.contains("passed") && !checked.contains("FAILED"), "{checked}");
    let report = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("report-{}.tar", std::process::id()));
    ask(&format!("report orders -o {}", report.display())).await;
    let report_text = std::fs::read(&report).expect("the report is written");
    std::fs::remove_file(&report).expect("it is removed");
    for secret in [&store.secret_key, &store.access_key] {
        let found = report_text.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!found, "the report holds a value of the Secret");
    }

    wal.patch(&json!({"spec": {"suspend": true}})).await.expect("it is suspended");
    wal.until_condition(ConditionType::Ready, "True", "Suspended").await;
    let paused = log.append(&writer, "orders", "while it sleeps").await.expect("it is appended");
    let waited = [("q", "sleeps"), ("min_token", &paused.to_string()), ("wait", "15")];
    let found = until("search finds what is new", PATIENCE, async || {
        let found = wal.ask("/v1/search", &waited).await.ok()?;
        found["hits"][0].is_object().then_some(found)
    })
    .await;
    assert_eq!(found["hits"][0]["sealed"], false, "a suspended WAL shows what is new as pending: {found}");
    wal.patch(&json!({"spec": {"suspend": false}})).await.expect("it goes on");
    wal.until_condition(ConditionType::Indexing, "True", "CaughtUp").await;
    assert!(wal.agrees_with(&log).await >= 2);
    let wanted = ["StorageProbed", "RoleTaken", "FirstManifest", "CaughtUp", "Suspended", "Resumed"];
    let reasons = story::events_until(cluster, NAMESPACE, "orders", &wanted).await;
    println!("the Events: {reasons:?}");
    story::assert_in_order(&reasons, &wanted);

    let before = data_pods(cluster).await;
    cluster.helm(["uninstall", "tidemark", "-n", OPERATOR_NAMESPACE, "--wait"]).await.expect("it is uninstalled");
    let definitions = Api::<CustomResourceDefinition>::all(cluster.client());
    definitions.get("wals.tidemark.dev").await.expect("the definition stays");
    wal.get().await.expect("the WAL stays");
    log.append(&writer, "orders", "without an operator").await.expect("it is appended");
    let entries = wal.agrees_with(&log).await;
    assert!(entries >= 3, "its pods go on");
    assert_eq!(data_pods(cluster).await, before, "its pods are the same");

    installed().await;
    wal.until("the operator has seen it again", async |wal| {
        let seen = usize::try_from(wal.status.as_ref()?.entries?).ok()?;
        (seen >= entries).then_some(())
    })
    .await;
    wal.until_ready().await;
    assert_eq!(data_pods(cluster).await, before, "an operator that comes back restarts nothing");
}

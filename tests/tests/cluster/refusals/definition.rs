//! An operator that finds the definition of an older release.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use tidemark_crds::CRD_VERSION_ANNOTATION;
use tidemark_tests::cluster::{
    Cluster,
    product::{OPERATOR_NAMESPACE, PATIENCE, until},
};

use super::setup::{HEALTHY, cluster, plan, pods, unaffected};

/// The operator's one pod that is not about to end.
async fn operator(cluster: &Cluster) -> Option<Pod> {
    let found = pods(cluster, OPERATOR_NAMESPACE).await;
    let mut staying = found.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    staying.next().filter(|_| staying.next().is_none())
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn an_operator_that_finds_an_older_definition_waits_and_the_data_pods_go_on() {
    let cluster = cluster().await;
    unaffected(cluster, HEALTHY, Box::pin(older(cluster))).await;
}

async fn older(cluster: &Cluster) {
    let healthy = plan(cluster, HEALTHY, HEALTHY).await.prepare(cluster).await.expect("it is there");
    let older = format!("{CRD_VERSION_ANNOTATION}=0.0.0");
    cluster.kubectl(["annotate", "crd", "wals.tidemark.dev", "--overwrite", &older]).await.expect("it is older now");
    let first = operator(cluster).await.expect("one operator runs").name_any();
    cluster.kubectl(["delete", "pod", &first, "-n", OPERATOR_NAMESPACE]).await.expect("it is deleted");
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().expect("a client");
    let (waiting, message) = until("another operator says what it waits for", PATIENCE, async || {
        let name = operator(cluster).await?.name_any();
        let url = cluster.pod_url(OPERATOR_NAMESPACE, &name, 8080).await.ok()?;
        let answer = http.get(format!("{url}/readyz")).send().await.ok()?;
        (answer.status().as_u16() == 503).then_some(())?;
        let text = answer.text().await.ok()?;
        (name != first && text.contains("older than this operator")).then_some((name, text))
    })
    .await;
    super::setup::assert_message("an older definition", &message, &["0.0.0", "helm upgrade"]);
    // It is not ready, and nothing restarts it; what it made goes on.
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!is_ready(&operator(cluster).await.expect("it runs")), "it is not ready");
    let log = healthy.log().await.expect("the log opens");
    let writer = log.writer("test").await.expect("the log has parameters");
    log.append(&writer, "orders", "while the operator waits").await.expect("it is appended");
    healthy.agrees_with(&log).await;

    // The command that it named.
    let remedy = message.split('"').find(|words| words.starts_with("kubectl ")).expect("it names a command");
    let words = remedy.split(' ').skip(1).map(|word| match word.strip_suffix(".yaml") {
        Some(_) => tidemark_tests::root().join(word).display().to_string(),
        None => word.to_owned(),
    });
    cluster.kubectl(words).await.expect("the command works");
    until("the operator is ready", PATIENCE, async || {
        operator(cluster).await.filter(|pod| is_ready(pod) && pod.name_any() == waiting)
    })
    .await;
}

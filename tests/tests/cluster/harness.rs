//! The whole cluster that other tests stand on: its pods run, its parts can be cut and stopped, and nothing stays.

use std::{collections::BTreeSet, future::Future, time::Duration};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, ResourceExt, api::ListParams};
use tidemark_tests::{
    Cluster,
    cluster::{ClusterBuilder, NetworkCut, images},
};

use crate::cluster_owner::ClusterOwner;

const PATIENCE: Duration = Duration::from_mins(4);

/// A server, its Service, and a Job that asks the one through the other's name: all as restricted as the product's pods.
const WEB: &str = include_str!("harness/web.yaml");

/// One cluster of two nodes for the tests that leave it whole.
async fn cluster() -> &'static Cluster {
    let images = [images::minio().await.expect("it is built"), images::kubectl().await.expect("it is built")];
    let builder = images.into_iter().fold(Cluster::builder().nodes(2).quick_failover(), ClusterBuilder::image);
    builder.shared().await.expect("the cluster starts")
}

async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("never: {what}"))
}

async fn deploy(cluster: &Cluster, namespace: &str) {
    cluster.apply(&WEB.replace("NAMESPACE", namespace)).await.expect("it is applied");
    let ready = ["rollout", "status", "deployment/web", "-n", namespace, "--timeout=240s"];
    cluster.kubectl(ready).await.expect("its pod is ready");
}

async fn is_alive(url: &str) -> bool {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build().expect("a client");
    let answer = client.get(format!("{url}/minio/health/live")).send().await;
    answer.is_ok_and(|answer| answer.status().is_success())
}

async fn is_ready(cluster: &Cluster, node: &str) -> bool {
    let found = Api::<Node>::all(cluster.client()).get(node).await.expect("the API server answers");
    let conditions = found.status.and_then(|status| status.conditions).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The pods behind the Service, with their nodes' numbers.
async fn pods(cluster: &Cluster, namespace: &str) -> Vec<(Pod, u8)> {
    let selected = ListParams::default().labels("app=web");
    let found =
        Api::<Pod>::namespaced(cluster.client(), namespace).list(&selected).await.expect("the API server answers");
    let numbered = found.items.into_iter().filter_map(|pod| {
        let node = pod.spec.as_ref()?.node_name.as_ref()?.strip_prefix("node")?.parse().ok()?;
        Some((pod, node))
    });
    numbered.collect()
}

#[tokio::test]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn a_restricted_pod_runs_and_finds_a_service_by_its_name() {
    let cluster = cluster().await;
    deploy(cluster, "names").await;
    let url = cluster.service_url("names", "web", 80).await.expect("it has an address");
    // Its endpoints follow the pod that is ready.
    until("the Service answers", async || is_alive(&url).await.then_some(())).await;
    let done = ["wait", "job/ask", "-n", "names", "--for=condition=Complete", "--timeout=240s"];
    cluster.kubectl(done).await.expect("a pod finds the Service by its name");
}

#[tokio::test]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn a_node_cut_off_from_everything_is_replaced_and_comes_back() {
    let cluster = cluster().await;
    deploy(cluster, "cut").await;
    let (lost, node) = pods(cluster, "cut").await.remove(0);
    let name = format!("node{node}");
    cluster.cut(node, NetworkCut::Everything).expect("it is cut");
    until("the node is not ready", async || (!is_ready(cluster, &name).await).then_some(())).await;
    let url = cluster.service_url("cut", "web", 80).await.expect("it has an address");
    until("another pod answers", async || is_alive(&url).await.then_some(())).await;
    cluster.heal(node).expect("it is healed");
    until("the node is ready", async || is_ready(cluster, &name).await.then_some(())).await;
    until("the lost pod is gone", async || {
        let names: BTreeSet<String> = pods(cluster, "cut").await.iter().map(|(pod, _)| pod.name_any()).collect();
        (!names.contains(&lost.name_any())).then_some(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn a_node_cut_off_from_the_api_server_keeps_its_pods_as_zombies() {
    let cluster = cluster().await;
    let store = cluster.minio().await.expect("the store starts");
    deploy(cluster, "zombie").await;
    let (zombie, node) = pods(cluster, "zombie").await.remove(0);
    let url = cluster.pod_url("zombie", &zombie.name_any(), 9000).await.expect("it has an address");
    cluster.cut(node, NetworkCut::ApiServer).expect("it is cut");
    let other = until("a second pod runs elsewhere", async || {
        pods(cluster, "zombie").await.into_iter().find(|(_, at)| *at != node).map(|(pod, _)| pod.name_any())
    })
    .await;
    let second = until("it has an address", async || cluster.pod_url("zombie", &other, 9000).await.ok()).await;
    until("the second pod answers", async || is_alive(&second).await.then_some(())).await;
    until("the zombie lives on", async || is_alive(&url).await.then_some(())).await;
    let heard = cluster.exec_in_node(node, &["bash", "-c", "exec 3<>/dev/tcp/10.99.0.254/9000"]);
    heard.unwrap_or_else(|error| panic!("its node reaches the store \"{}\": {error}", store.endpoint));
    cluster.heal(node).expect("it is healed");
    until("the zombie is gone", async || (!is_alive(&url).await).then_some(())).await;
}

#[tokio::test]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn etcd_and_the_store_come_back_with_what_they_knew() {
    let cluster = cluster().await;
    let store = cluster.minio().await.expect("the store starts");
    store.create_bucket("kept").await.expect("it is created");
    cluster.stop_minio();
    assert!(!is_alive(&store.outside).await, "it is stopped");
    cluster.start_minio().await.expect("it starts again");
    let again = store.create_bucket("kept").await.expect_err("it is still there").to_string();
    assert!(again.contains("BucketAlreadyOwnedByYou"), "{again}");

    cluster.kubectl(["create", "configmap", "kept"]).await.expect("it is created");
    cluster.stop_etcd();
    let asked = cluster.kubectl(["create", "configmap", "lost", "--request-timeout=2s"]).await;
    assert!(asked.is_err(), "nothing can be written");
    cluster.start_etcd().await.expect("it starts again");
    cluster.kubectl(["get", "configmap", "kept"]).await.expect("it is still there");
}

#[tokio::test]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn two_clusters_at_once_know_nothing_of_each_other() {
    let (one, two) = tokio::join!(Cluster::builder().start(), Cluster::builder().start());
    let (one, two) = (one.expect("it starts"), two.expect("it starts"));
    one.kubectl(["create", "namespace", "mine"]).await.expect("it is created");
    let missing = two.kubectl(["get", "namespace", "mine"]).await.expect_err("the other has none");
    assert!(missing.to_string().contains("NotFound"), "{missing}");
}

#[tokio::test]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn nothing_stays_when_the_owner_is_killed() {
    let mut owner = ClusterOwner::start(&["--bare"]).await;
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: 'tidemark.dev/pause:1'}]}}";
    owner.kubectl(&["wait", "serviceaccount/default", "--for=create", "--timeout=240s"], "").await;
    owner.kubectl(&["apply", "-f", "-"], pod).await;
    owner.kubectl(&["wait", "pod/p", "--for=condition=Ready", "--timeout=240s"], "").await;
    assert!(owner.traces().iter().any(|trace| trace.contains("cgroup")), "{:?}", owner.traces());
    owner.kill().await;
    until("nothing is left", async || owner.traces().is_empty().then_some(())).await;
}

#[tokio::test]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn nothing_stays_after_ctrl_c() {
    let mut owner = ClusterOwner::start(&["--bare", "--nodes", "2"]).await;
    owner.interrupt().await;
    assert_eq!(owner.traces(), Vec::<String>::new());
}

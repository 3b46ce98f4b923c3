//! A settled WAL costs the API server no write, and both the API server and the store a bounded number of questions.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{Api, ResourceExt, api::ListParams};
use tidemark_crds::Wal;
use tidemark_tests::{
    Cluster,
    cluster::product::{WalPlan, until},
};

use super::{audit::Since, setup::installed};

const NAMESPACE: &str = "quiet";
/// How long it is watched.
const WATCHED: Duration = Duration::from_mins(2);
/// How long nothing may be written before it counts as settled: longer than the pause between two writes of figures.
const SETTLED: Duration = Duration::from_secs(70);
const PATIENCE: Duration = Duration::from_mins(6);
/// How often it is measured, if a condition changes each time but the last.
const TRIES: u32 = 3;
/// Requests of one pod to its stores in a second, all in all.
const STORE_REQUESTS: f64 = 4.0;
/// Reads of the operator's two replicas in a minute, watches that begin anew included.
const READS: f64 = 60.0;

/// Requests to the stores since each pod's start, by pod, role of the store and operation.
async fn store_requests(cluster: &Cluster) -> BTreeMap<String, u64> {
    let pods = Api::<Pod>::namespaced(cluster.client(), NAMESPACE).list(&ListParams::default()).await;
    let mut requests = BTreeMap::new();
    for pod in pods.expect("the API server answers") {
        let url = cluster.pod_url(NAMESPACE, &pod.name_any(), 7280).await.expect("the pod has an address");
        let told = reqwest::get(format!("{url}/metrics")).await.expect("the pod answers").text().await;
        let component = &pod.labels()["app.kubernetes.io/component"];
        for line in told.expect("it is text").lines() {
            let Some(rest) = line.strip_prefix("tidemark_store_requests_total{") else { continue };
            let (labels, count) = rest.split_once("} ").expect("a figure");
            let value = |name: &str| {
                let rest = labels.split(&format!("{name}=\"")).nth(1).unwrap_or_default();
                rest.split('"').next().unwrap_or_default().to_owned()
            };
            let key = format!("{component} {} {}", value("role"), value("operation"));
            *requests.entry(key).or_default() += count.parse::<u64>().expect("a count");
        }
    }
    requests
}

/// What tells whether a condition has changed, also if it is again as it was.
fn flips(wal: &Wal) -> Vec<(String, String, String)> {
    let conditions = wal.status.iter().flat_map(|status| &status.conditions);
    let flip = |condition: &Condition| {
        (condition.type_.clone(), condition.reason.clone(), condition.last_transition_time.0.to_string())
    };
    conditions.map(flip).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd; 'make cluster-test' runs it"]
async fn a_settled_wal_writes_nothing_to_the_api_server() {
    let cluster = installed().await;
    let store = cluster.minio().await.expect("the store starts");
    let wal = WalPlan::new(NAMESPACE, "still", &store).apply(cluster).await.expect("the WAL is made");
    let log = wal.log().await.expect("its log opens");
    let writer = log.writer("ada").await.expect("the writer opens");
    for message in ["one", "two", "three"] {
        log.append(&writer, "orders", message).await.expect("it is appended");
    }
    wal.until_ready().await;
    assert_eq!(wal.agrees_with(&log).await, 3);
    let mut since = (Since::now(), tokio::time::Instant::now());
    until("the operator writes nothing for a while", PATIENCE, async || {
        if !since.0.asked().writes.is_empty() {
            since = (Since::now(), tokio::time::Instant::now());
        }
        (since.1.elapsed() > SETTLED).then_some(())
    })
    .await;

    let (mut before, mut seen, mut asked): (_, Wal, _);
    let mut tries = 0;
    loop {
        (before, seen) = (store_requests(cluster).await, wal.get().await.expect("it is there"));
        let since = Since::now();
        // Not a synchronisation: the span that is measured.
        tokio::time::sleep(WATCHED).await;
        asked = since.asked();
        tries += 1;
        // A condition that changes, as when a busy machine delays a pod's answer, has to be written. Then it is measured again.
        if tries == TRIES || flips(&seen) == flips(&wal.get().await.expect("it is there")) {
            break;
        }
    }
    let (after, version) = (store_requests(cluster).await, seen.resource_version());
    println!("{WATCHED:?} of a settled WAL: the operator's requests to the API server: {asked:?}");
    let mut by_component: BTreeMap<&str, u64> = BTreeMap::new();
    for (what, count) in &after {
        let more = count - before.get(what).copied().unwrap_or_default();
        println!("  to the store: {what}: {more}");
        *by_component.entry(what.split(' ').next().unwrap_or_default()).or_default() += more;
    }
    assert!(asked.writes.is_empty(), "a settled WAL is written to: {asked:?}");
    assert!(asked.others.is_empty(), "others write to a settled WAL: {asked:?}");
    assert_eq!(wal.get().await.expect("it is there").resource_version(), version, "it has changed");
    let reads: u64 = asked.reads.values().sum();
    assert!(reads as f64 <= READS * WATCHED.as_secs_f64() / 60.0, "{reads} reads: {asked:?}");
    for (component, requests) in by_component {
        println!("  {component}: {requests} requests, {:.2} a second", requests as f64 / WATCHED.as_secs_f64());
        assert!(requests as f64 <= STORE_REQUESTS * WATCHED.as_secs_f64(), "{component}: {requests} requests");
    }
}

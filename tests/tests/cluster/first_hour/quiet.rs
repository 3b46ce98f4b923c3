//! A settled WAL costs the API server no write, and both the API server and the store a bounded number of questions.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::ListParams};
use tidemark_tests::{
    Cluster,
    cluster::product::{TestWal, WalPlan, until},
};
use tokio::time::Instant;

use super::{audit::AuditPosition, setup::installed};

const NAMESPACE: &str = "quiet";
/// How long it is watched at a time.
const WATCHED: Duration = Duration::from_mins(2);
/// How often it is watched at most until one time is quiet: on a busy machine the operator may miss two polls, and says
/// so. What writes as a habit does so each time.
const TIMES: u32 = 3;
/// How long nothing may be written before it counts as settled: longer than the pause between two writes of figures.
const SETTLED: Duration = Duration::from_secs(70);
const PATIENCE: Duration = Duration::from_mins(6);
/// Requests of one pod to its stores in a second, all in all.
const STORE_REQUESTS: f64 = 4.0;
/// Reads of the operator's two replicas in a minute, watches that begin again included.
const READS: f64 = 60.0;

/// Requests to the stores since each pod's start, by pod, role of the store and operation.
async fn store_requests(cluster: &Cluster) -> anyhow::Result<BTreeMap<String, u64>> {
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build()?;
    let pods = Api::<Pod>::namespaced(cluster.client(), NAMESPACE).list(&ListParams::default()).await?;
    let mut requests = BTreeMap::new();
    for pod in pods {
        let url = cluster.pod_url(NAMESPACE, &pod.name_any(), 7280).await?;
        let printed = http.get(format!("{url}/metrics")).send().await?.error_for_status()?.text().await?;
        let component = &pod.labels()["app.kubernetes.io/component"];
        for line in printed.lines() {
            let Some(rest) = line.strip_prefix("tidemark_store_requests_total{") else { continue };
            let (labels, count) = rest.split_once("} ").context("a figure")?;
            let value = |name: &str| {
                let rest = labels.split(&format!("{name}=\"")).nth(1).unwrap_or_default();
                rest.split('"').next().unwrap_or_default().to_owned()
            };
            let key = format!("{component} {} {}", value("role"), value("operation"));
            *requests.entry(key).or_default() += count.parse::<u64>()?;
        }
    }
    Ok(requests)
}

async fn settled() {
    let mut since = (AuditPosition::now(), Instant::now());
    until("the operator writes nothing for a while", PATIENCE, async || {
        if !since.0.asked().writes.is_empty() {
            since = (AuditPosition::now(), Instant::now());
        }
        (since.1.elapsed() > SETTLED).then_some(())
    })
    .await;
}

/// Watches it once: an error says what was not quiet, or could not be measured.
async fn watched(cluster: &Cluster, wal: &TestWal<'_>) -> anyhow::Result<()> {
    let (before, version) = (store_requests(cluster).await?, wal.get().await?.resource_version());
    let since = AuditPosition::now();
    // Not a synchronisation: the span that is measured.
    tokio::time::sleep(WATCHED).await;
    let asked = since.asked();
    let after = store_requests(cluster).await?;
    println!("{WATCHED:?} of a settled WAL: the operator's requests to the API server: {asked:?}");
    let mut by_component: BTreeMap<&str, u64> = BTreeMap::new();
    for (what, count) in &after {
        let more = count.checked_sub(before.get(what).copied().unwrap_or_default());
        let more = more.with_context(|| format!("{what}: {count} requests, and more before: a pod was restarted"))?;
        println!("  to the store: {what}: {more}");
        *by_component.entry(what.split(' ').next().unwrap_or_default()).or_default() += more;
    }
    ensure!(asked.writes.is_empty(), "a settled WAL is written to: {asked:?}");
    ensure!(asked.others.is_empty(), "others write to a settled WAL: {asked:?}");
    ensure!(wal.get().await?.resource_version() == version, "it has changed");
    let reads: u64 = asked.reads.values().sum();
    ensure!(reads as f64 <= READS * WATCHED.as_secs_f64() / 60.0, "{reads} reads: {asked:?}");
    for (component, requests) in by_component {
        println!("  {component}: {requests} requests, {:.2} a second", requests as f64 / WATCHED.as_secs_f64());
        ensure!(requests as f64 <= STORE_REQUESTS * WATCHED.as_secs_f64(), "{component}: {requests} requests");
    }
    Ok(())
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
    // An append that is tried again leaves an entry more.
    assert!(wal.agrees_with(&log).await >= 3);
    let mut seen = Vec::new();
    for _ in 0..TIMES {
        settled().await;
        match watched(cluster, &wal).await {
            Ok(()) => return,
            Err(error) => seen.push(format!("{error:#}")),
        }
    }
    panic!("not quiet in any of {TIMES} times {WATCHED:?}: {seen:#?}");
}

//! Pods and the processes in them.

use anyhow::Context;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod, policy::v1::PodDisruptionBudget};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Preconditions},
};
use tidemark_tests::cluster::product::OPERATOR_NAMESPACE;

use super::world::{FailureWorld, WAL, until};

pub(crate) const INDEXER: &str = "app.kubernetes.io/component=indexer";
pub(crate) const SEARCH: &str = "app.kubernetes.io/component=search";
pub(crate) const OPERATOR: &str = "app.kubernetes.io/name=tidemark-operator";

/// What a scenario wants to know of a pod.
#[derive(Clone, Debug)]
pub(crate) struct PodSnapshot {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) node: u8,
    pub(crate) restarts: i32,
    pub(crate) ready: bool,
    /// It is not being deleted.
    pub(crate) stays: bool,
    /// The exit code with which its container ended last.
    pub(crate) exit: Option<i32>,
}

impl FailureWorld {
    /// The pods of a namespace that a label selects.
    pub(crate) async fn pods(&self, namespace: &str, label: &str) -> anyhow::Result<Vec<PodSnapshot>> {
        let pods = Api::<Pod>::namespaced(self.cluster.client(), namespace);
        let found = pods.list(&ListParams::default().labels(label)).await?.items;
        Ok(found.iter().filter_map(seen).collect())
    }

    /// Waits until exactly one indexer pod is there and is the holder of the index.
    pub(crate) async fn indexer(&self) -> PodSnapshot {
        until("one indexer pod, which writes", async || {
            let [pod] = <[PodSnapshot; 1]>::try_from(self.pods(WAL, INDEXER).await.ok()?).ok()?;
            let holder = self.latest().await.state.holder?.identity.to_string();
            (pod.stays && pod.ready && pod.uid == holder).then_some(pod)
        })
        .await
    }

    /// The answer of `/v1/process` of a pod.
    pub(crate) async fn process(&self, pod: &PodSnapshot) -> anyhow::Result<serde_json::Value> {
        let url = self.cluster.pod_url(WAL, &pod.name, 7280).await?;
        self.process_at(&url).await
    }

    /// The answer of `/v1/process` at a URL.
    pub(crate) async fn process_at(&self, url: &str) -> anyhow::Result<serde_json::Value> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(std::time::Duration::from_secs(3))
            .build()
            .context("client")?;
        Ok(client.get(format!("{url}/v1/process")).send().await?.json().await?)
    }

    /// The operator that leads, by its pod's name.
    pub(crate) async fn leader(&self) -> Option<String> {
        let leases = Api::<Lease>::namespaced(self.cluster.client(), OPERATOR_NAMESPACE);
        let lease = leases.get("tidemark-operator").await.ok()?;
        lease.spec?.holder_identity.filter(|holder| !holder.is_empty())
    }

    /// Waits until the operator makes again what somebody deleted.
    pub(crate) async fn operator_works(&self) {
        let budgets = Api::<PodDisruptionBudget>::namespaced(self.cluster.client(), WAL);
        let before = until("a budget", async || budgets.get("orders-search").await.ok()?.uid()).await;
        let only = Preconditions { uid: Some(before.clone()), ..Preconditions::default() };
        let only = DeleteParams::default().preconditions(only);
        until("the budget is there again", async || {
            let uid = budgets.get("orders-search").await.ok()?.uid()?;
            if uid == before {
                // An API server that has just begun may fail it.
                let _ = budgets.delete("orders-search", &only).await;
            }
            (uid != before).then_some(())
        })
        .await;
    }

    /// Deletes every operator pod, and waits until another one leads.
    pub(crate) async fn operators_are_replaced(&self) {
        let leader = until("one operator leads", async || self.leader().await).await;
        let delete = ["delete", "pods", "-n", OPERATOR_NAMESPACE, "-l", OPERATOR];
        self.cluster.kubectl(delete).await.expect("they are deleted");
        until("another one leads", async || self.leader().await.filter(|name| *name != leader)).await;
    }

    /// What the containers of an indexer pod have logged.
    pub(crate) fn logged_by(&self, pod: &PodSnapshot) -> String {
        let PodSnapshot { name, uid, node, .. } = pod;
        let folder = self.cluster.logs().join(format!("node{node}/pods/{WAL}_{name}_{uid}/indexer"));
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
        files.map(|file| std::fs::read_to_string(file.path()).unwrap_or_default()).collect()
    }

    /// Waits until a pod is gone, and gives the exit code that its container had before, if its node reported that in time.
    pub(crate) async fn exit_code(&self, pod: &PodSnapshot) -> Option<i32> {
        let mut exit = None;
        until("the pod is gone", async || {
            let pods = self.pods(WAL, INDEXER).await.ok()?;
            let seen = pods.into_iter().find(|seen| seen.uid == pod.uid);
            exit = seen.as_ref().and_then(|seen| seen.exit).or(exit);
            seen.is_none().then_some(())
        })
        .await;
        exit
    }

    /// The number, among the cluster's processes, of the program that a pod runs as a writer.
    pub(crate) fn process_id(&self, pod: &PodSnapshot) -> Option<u32> {
        self.process_with(&format!("TIDEMARK_IDENTITY={}", pod.uid))
    }

    /// The number of the process that has a variable in its environment.
    pub(crate) fn process_with(&self, variable: &str) -> Option<u32> {
        let script = "grep -slz \"^$1$\" /proc/[0-9]*/environ | cut -d / -f 3";
        let said = self.cluster.exec_in_node(1, &["sh", "-c", script, "sh", variable]).ok()?;
        said.lines().next()?.parse().ok()
    }

    /// Sends a signal to a process by its number among the cluster's.
    pub(crate) fn signal(&self, node: u8, signal: &str, process: u32) -> anyhow::Result<()> {
        self.cluster.exec_in_node(node, &["kill", &format!("-{signal}"), &process.to_string()]).map(drop)
    }

    /// The number of a node's kubelet.
    pub(crate) fn kubelet(&self, node: u8) -> anyhow::Result<u32> {
        let name = format!("--hostname-override=node{node}");
        let script = "grep -slz -- \"^$1$\" /proc/[0-9]*/cmdline | cut -d / -f 3 | while read -r p; do \
                      grep -q kubelet \"/proc/$p/comm\" && echo \"$p\"; done; true";
        let said = self.cluster.exec_in_node(node, &["sh", "-c", script, "sh", &name])?;
        said.lines().next().context("there is none")?.parse().context("it is no number")
    }
}

fn seen(pod: &Pod) -> Option<PodSnapshot> {
    let status = pod.status.as_ref()?;
    let container = status.container_statuses.as_ref().and_then(|all| all.first());
    let ended = container.and_then(|container| container.last_state.as_ref()?.terminated.as_ref());
    Some(PodSnapshot {
        name: pod.name_any(),
        uid: pod.uid()?,
        node: pod.spec.as_ref()?.node_name.as_ref()?.strip_prefix("node")?.parse().ok()?,
        restarts: container.map_or(0, |container| container.restart_count),
        ready: container.is_some_and(|container| container.ready),
        stays: pod.metadata.deletion_timestamp.is_none() && status.phase.as_deref() == Some("Running"),
        exit: ended.map(|ended| ended.exit_code),
    })
}

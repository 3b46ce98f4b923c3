//! What a scenario that failed has left behind, so that it fails no other one.

use serde_json::Value;
use tidemark_tests::cluster::product::OPERATOR_NAMESPACE;

use super::{
    delivery::DESTINATION,
    world::{FailureWorld, WAL, until},
};

/// Wakes every process of the cluster that is frozen.
const WAKE: &str = "grep -ls '^State:.T' /proc/[0-9]*/status | cut -d / -f 3 | xargs -r kill -CONT";

impl FailureWorld {
    /// Undoes everything that a scenario may have done and not undone.
    pub(crate) async fn put_right(&self) {
        for node in [1, 2] {
            self.cluster.heal(node).expect("it is healed");
        }
        self.cluster.exec_in_node(1, &["sh", "-c", WAKE]).expect("the frozen wake up");
        if self.chain().latest().await.is_err() {
            self.cluster.start_minio().await.expect("the store starts again");
        }
        if self.cluster.kubectl(["get", "nodes", "--request-timeout=5s"]).await.is_err() {
            self.cluster.start_etcd().await.expect("etcd starts again");
        }
        self.place_jobs(&Value::Null).await;
        let commands: [&[&str]; 3] = [
            &["scale", "deployment/tidemark-operator", "-n", OPERATOR_NAMESPACE, "--replicas=2"],
            &["delete", "walsinks,waltasks", "--all", "-n", WAL, "--wait=false"],
            &["delete", "namespace", DESTINATION, "--ignore-not-found", "--wait=false"],
        ];
        for command in commands {
            until(&format!("{command:?} succeeds"), async || self.cluster.kubectl(command).await.ok()).await;
        }
    }
}

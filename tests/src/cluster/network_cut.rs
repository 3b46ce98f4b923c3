//! Partitions: a node that some or all of the others do not hear any more.

use anyhow::ensure;

use super::{Cluster, control_plane::SERVICES, namespaces::NetworkPlace};

/// What a node is cut off from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkCut {
    /// From the API server, in both directions: its pods become zombies that still reach everything else.
    ApiServer,
    /// From everything outside of the node.
    Everything,
}

impl Cluster {
    /// Cuts a node off, connections that exist included. Nodes are numbered from 1 and named `node1`, `node2`.
    pub fn cut(&self, node: u8, cut: NetworkCut) -> anyhow::Result<()> {
        self.lead_services_past(node)?;
        self.cut_off.lock().insert(node);
        match cut {
            NetworkCut::Everything => self.at_control(&["ip", "link", "set", &format!("veth{node}"), "down"]),
            NetworkCut::ApiServer => self.at_control(&["nft", &refusal(node)]),
        }
    }

    /// Ends every cut of a node. Its kubelet starts again: it would find out only after half a minute or so that its connections of
    /// before are dead.
    pub fn heal(&self, node: u8) -> anyhow::Result<()> {
        if !self.cut_off.lock().remove(&node) {
            return Ok(());
        }
        self.at_control(&["ip", "link", "set", &format!("veth{node}"), "up"])?;
        // Made and deleted, so that it is no error when there was none.
        self.at_control(&["nft", &format!("add table inet cut{node}; delete table inet cut{node}")])?;
        self.restart_kubelet(node)
    }

    /// The test's own way to Services must not lead through a node that is cut off.
    fn lead_services_past(&self, node: u8) -> anyhow::Result<()> {
        let nodes = self.nodes.lock().len();
        ensure!((1..=nodes).contains(&usize::from(node)), "there is no node {node}: the cluster has {nodes}");
        let other = if node == 1 && nodes > 1 { 2 } else { 1 };
        self.at_control(&["ip", "route", "replace", SERVICES, "via", &format!("10.99.0.{other}")])
    }

    fn at_control(&self, words: &[&str]) -> anyhow::Result<()> {
        self.namespaces.run(NetworkPlace::ControlPlane, words).map(|_| ())
    }
}

/// Rules beside the API server that drop what comes from the node and its pods, and what goes to its kubelet.
fn refusal(node: u8) -> String {
    format!(
        "add table inet cut{node}; \
         add chain inet cut{node} in {{ type filter hook input priority 0; }}; \
         add rule inet cut{node} in ip saddr {{ 10.99.0.{node}, 10.244.{node}.0/24 }} tcp dport 6443 drop; \
         add rule inet cut{node} in ip saddr 10.99.0.{node} tcp sport 10250 drop"
    )
}

//! A real Kubernetes on this machine, for as long as a test needs it.
//!
//! - [`ApiServer`]: etcd and an API server on loopback, without root: for everything that needs no running pod;
//! - [`Cluster`]: one or two nodes whose pods really run, in namespaces of its own; needs root and Debian's containerd;
//! - [`images`]: what pods are made of;
//! - [`product`]: the chart, a WAL on the cluster's MinIO, and a log whose entries are compared with what search answers.
//!
//! Everything is built from Go modules (`tests/tools/go.sh`) or comes from Debian (`tests/tools/debian.sh`), has its state in
//! a temporary folder and ends with the process that started it, also when that is killed. When a test panics, logs stay
//! under `target/test-logs/`.
//!
//! What it is not: the network plugin enforces no `NetworkPolicy`, and nothing in the cluster reaches the world outside.

mod access;
mod api_server;
mod builder;
mod cgroups;
mod cluster_command;
mod control_plane;
mod forward;
pub mod images;
mod logs;
mod namespaces;
mod network_cut;
mod node;
pub(crate) mod pki;
pub mod product;
mod reaper;
mod store;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
};

use kube::{Client, Config};
use parking_lot::Mutex;

pub use api_server::{ApiServer, ApiServerBuilder};
pub use builder::ClusterBuilder;
pub use cluster_command::ClusterCommand;
pub use network_cut::NetworkCut;
pub use store::StoreInside;

use self::{
    forward::PortForwarder,
    logs::ClusterLogs,
    namespaces::{ClusterNamespaces, NetworkPlace},
    node::ClusterNode,
};
use crate::watchdog::WatchedProcess;

/// A whole Kubernetes. Dropping it, or the end of the process, removes it.
pub struct Cluster {
    // First: with them everything inside ends at once.
    namespaces: ClusterNamespaces,
    parts: Mutex<ClusterPrograms>,
    nodes: Mutex<Vec<ClusterNode>>,
    store: Mutex<Option<(StoreInside, WatchedProcess)>>,
    cut_off: Mutex<BTreeSet<u8>>,
    forwarder: PortForwarder,
    ports: Mutex<BTreeMap<SocketAddr, u16>>,
    config: Config,
    kubectl: ClusterCommand,
    helm: ClusterCommand,
    logs: ClusterLogs,
}

/// The programs beside the nodes.
struct ClusterPrograms {
    etcd: WatchedProcess,
    api: WatchedProcess,
    controllers: WatchedProcess,
    scheduler: WatchedProcess,
    dns: WatchedProcess,
}

impl Cluster {
    /// The choices before a start.
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder::default()
    }

    /// A client of the administrator, new each time: a client must not outlive the runtime of the test that made it.
    /// Panics outside of a tokio runtime.
    pub fn client(&self) -> Client {
        Client::try_from(self.config()).expect("the configuration has worked before")
    }

    /// The administrator's configuration; set `auth_info.impersonate` to act as somebody else.
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    /// The path of the administrator's kubeconfig, which works on this machine while the cluster lives.
    pub fn kubeconfig(&self) -> &Path {
        self.kubectl.kubeconfig()
    }

    /// Where the programs and pods log. The folder stays when a test panics, with the state of all objects added.
    pub fn logs(&self) -> &Path {
        self.logs.folder()
    }

    /// SIGKILL to etcd: the API server answers nothing until [`Self::start_etcd`].
    pub fn stop_etcd(&self) {
        self.parts.lock().etcd.stop();
    }

    /// Starts etcd with what it knew, and waits until the API server is ready again.
    pub async fn start_etcd(&self) -> anyhow::Result<()> {
        self.parts.lock().etcd.start_again()?;
        self.ready().await
    }

    /// SIGKILL to the API server.
    pub fn stop_api_server(&self) {
        self.parts.lock().api.stop();
    }

    /// Starts the API server and waits until it is ready.
    pub async fn start_api_server(&self) -> anyhow::Result<()> {
        self.parts.lock().api.start_again()?;
        self.ready().await
    }

    /// Starts every other control program again that ended meanwhile: they do not outlive a long absence of the API server.
    fn revive(&self) -> anyhow::Result<()> {
        let ClusterPrograms { controllers, scheduler, dns, .. } = &mut *self.parts.lock();
        for part in [controllers, scheduler, dns] {
            if part.ended().is_some() {
                part.start_again()?;
            }
        }
        Ok(())
    }

    async fn ready(&self) -> anyhow::Result<()> {
        api_server::ready(&self.client(), &mut []).await?;
        self.revive()
    }

    /// Kills a node's kubelet and starts it again: its pods go on meanwhile.
    pub fn restart_kubelet(&self, node: u8) -> anyhow::Result<()> {
        let mut nodes = self.nodes.lock();
        let kubelet = nodes.get_mut(usize::from(node) - 1).and_then(ClusterNode::kubelet_process);
        Ok(kubelet.map_or(Ok(()), WatchedProcess::start_again)?)
    }

    /// Takes an OCI archive into the images of every node. Pods name it with `imagePullPolicy: Never` or `IfNotPresent`.
    pub fn import(&self, archive: impl AsRef<Path>) -> anyhow::Result<()> {
        self.nodes.lock().iter().try_for_each(|node| node.import(archive.as_ref()))
    }

    /// Runs a command in a node's network, among the cluster's processes and mounts. Blocks until its end.
    pub fn exec_in_node<W: AsRef<std::ffi::OsStr>>(&self, node: u8, words: &[W]) -> anyhow::Result<String> {
        self.namespaces.run(NetworkPlace::Node(node), words)
    }
}

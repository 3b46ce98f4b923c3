//! Ways into a cluster from a test: programs, and URLs of Services and pods.

use std::{
    ffi::OsStr,
    fs::File,
    net::{IpAddr, SocketAddr, TcpListener},
    os::fd::AsFd,
};

use anyhow::Context;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Api;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{Cluster, ClusterCommand, control_plane::DNS, namespaces::NetworkPlace};

impl Cluster {
    /// Runs `kubectl` and gives what it printed.
    pub async fn kubectl<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> anyhow::Result<String> {
        self.kubectl.run(words).await
    }

    /// Runs `helm` and gives what it printed.
    pub async fn helm<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> anyhow::Result<String> {
        self.helm.run(words).await
    }

    /// `kubectl apply --server-side -f -` with some YAML.
    pub async fn apply(&self, yaml: &str) -> anyhow::Result<String> {
        self.kubectl.run_with(["apply", "--server-side", "-f", "-"], yaml).await
    }

    /// `kubectl`, for other ways to call it.
    pub fn kubectl_command(&self) -> &ClusterCommand {
        &self.kubectl
    }

    /// `helm`, for other ways to call it.
    pub fn helm_command(&self) -> &ClusterCommand {
        &self.helm
    }

    /// A URL on this machine, without a trailing slash, that leads to a Service's cluster address. The way goes through
    /// kube-proxy of a node that is not cut off.
    pub async fn service_url(&self, namespace: &str, name: &str, port: u16) -> anyhow::Result<String> {
        let service = Api::<Service>::namespaced(self.client(), namespace).get(name).await?;
        let address = service.spec.and_then(|spec| spec.cluster_ip).context("the Service has no address")?;
        self.url(address.parse().with_context(|| format!("Service \"{name}\" has the address \"{address}\""))?, port)
    }

    /// A URL on this machine, without a trailing slash, that leads to one pod.
    pub async fn pod_url(&self, namespace: &str, name: &str, port: u16) -> anyhow::Result<String> {
        let pod = Api::<Pod>::namespaced(self.client(), namespace).get(name).await?;
        let address = pod.status.and_then(|status| status.pod_ip).context("the pod has no address yet")?;
        self.url(address.parse()?, port)
    }

    /// A listener of this process on the cluster's network, beside the API server: pods reach it, this machine does by
    /// [`Self::url`]. It closes with the value, not with the cluster.
    pub fn listener(&self) -> anyhow::Result<TcpListener> {
        let network = File::open(self.namespaces.network(NetworkPlace::ControlPlane))?;
        let address = (DNS.parse::<IpAddr>()?, 0);
        // A socket stays in the network of the thread that made it.
        let bound = std::thread::spawn(move || -> anyhow::Result<TcpListener> {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(TcpListener::bind(address)?)
        });
        bound.join().ok().context("the thread that listens has panicked")?
    }

    /// A URL on this machine that leads to an address on the cluster's network. Asked again, it is the same.
    pub fn url(&self, address: IpAddr, port: u16) -> anyhow::Result<String> {
        let target = SocketAddr::new(address, port);
        let mut ports = self.ports.lock();
        let open = match ports.get(&target) {
            Some(open) => *open,
            None => self.forwarder.open(target)?,
        };
        ports.insert(target, open);
        Ok(format!("http://127.0.0.1:{open}"))
    }
}

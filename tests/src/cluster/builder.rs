//! The start of a whole cluster.

use std::{
    ffi::OsString,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::ensure;
use k8s_openapi::api::core::v1::{Node as NodeResource, ServiceAccount};
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::{
    Cluster, ClusterCommand, ClusterPrograms, api_server,
    control_plane::{ControlPlane, DNS},
    forward::PortForwarder,
    images,
    logs::ClusterLogs,
    namespaces::{ClusterNamespaces, NetworkPlace},
    node::{ClusterNode, NodeSurroundings},
    pki::CertificateAuthority,
};
use crate::{
    tools,
    watchdog::{ProcessRecipe, WatchedProcess},
};

const PATIENCE: Duration = Duration::from_mins(4);

/// The clusters that tests of this process share, each with what it was asked to be.
static SHARED: Mutex<Vec<(ClusterBuilder, &OnceCell<Cluster>)>> = Mutex::new(Vec::new());

/// How a [`Cluster`] is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterBuilder {
    nodes: u8,
    quick_failover: bool,
    images: Vec<PathBuf>,
    arguments: Vec<String>,
}

impl Default for ClusterBuilder {
    fn default() -> Self {
        Self { nodes: 1, quick_failover: false, images: Vec::new(), arguments: Vec::new() }
    }
}

impl ClusterBuilder {
    /// How many nodes: 1 or 2, named `node1` and `node2`.
    pub fn nodes(mut self, nodes: u8) -> Self {
        self.nodes = nodes;
        self
    }

    /// A silent node is `NotReady` after 12 s and its pods are replaced 3 s later, instead of 40 s and 5 min.
    pub fn quick_failover(mut self) -> Self {
        self.quick_failover = true;
        self
    }

    /// An OCI archive that every node has from the start.
    pub fn image(mut self, archive: impl Into<PathBuf>) -> Self {
        self.images.push(archive.into());
        self
    }

    /// One more argument for `kube-apiserver`.
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Starts the cluster that all tests of a process share which ask for the same. Each test takes a namespace of its
    /// own. It goes with the process.
    pub async fn shared(self) -> anyhow::Result<&'static Cluster> {
        self.shared_cell().get_or_try_init(|| self.start()).await
    }

    fn shared_cell(&self) -> &'static OnceCell<Cluster> {
        let mut shared = SHARED.lock();
        if let Some((_, cell)) = shared.iter().find(|(wanted, _)| wanted == self) {
            return cell;
        }
        // Never freed: tests keep references to it for as long as the process lives.
        let cell: &OnceCell<Cluster> = Box::leak(Box::default());
        shared.push((self.clone(), cell));
        cell
    }

    /// Starts it and waits until its nodes are ready: about 10 s, and minutes when the programs are not built yet.
    pub async fn start(self) -> anyhow::Result<Cluster> {
        ensure!((1..=2).contains(&self.nodes), "a cluster has 1 or 2 nodes, not {}", self.nodes);
        let tools = ClusterTools::ready().await?;
        let logs = ClusterLogs::create("cluster")?;
        let namespaces = ClusterNamespaces::create(&logs, self.nodes)?;
        let pki = CertificateAuthority::create(namespaces.reaper().state().join("pki"))?;
        let arguments = self.api_arguments();
        let plane = ControlPlane { pki: &pki, host: DNS.parse()?, ports: [2379, 2380, 6443], extra: &arguments };
        let forwarder = PortForwarder::enter(&namespaces.network(NetworkPlace::ControlPlane))?;
        let api: IpAddr = DNS.parse()?;
        plane.issue()?;
        let port = forwarder.open((api, 6443).into())?;
        let kubeconfig = pki.kubeconfig_for("admin", &format!("https://127.0.0.1:{port}"))?;
        let config = api_server::read(&kubeconfig).await?;

        let begin = begin_in(&namespaces, &logs);
        let state = namespaces.reaper().state();
        let mut etcd = begin("etcd", plane.etcd(&tools.etcd, &state.join("etcd")))?;
        let mut api = begin("kube-apiserver", plane.api_server(&tools.kubernetes))?;
        let url = plane.url();
        let around = NodeSurroundings {
            namespaces: &namespaces,
            pki: &pki,
            server: &url,
            programs: &tools.kubernetes,
            logs: logs.folder(),
        };
        // Images are taken in while the API server starts.
        let mut nodes = Vec::new();
        for number in 1..=self.nodes {
            let node = ClusterNode::start(number, &around).await?;
            self.images.iter().chain([&tools.pause]).try_for_each(|archive| node.import(archive))?;
            nodes.push(node);
        }
        let client = Client::try_from(config.clone())?;
        api_server::ready(&client, &mut [&mut api, &mut etcd]).await?;
        let controllers = plane.controllers(&tools.kubernetes, &self.controller_arguments())?;
        let controllers = begin("kube-controller-manager", controllers)?;
        let scheduler = begin("kube-scheduler", plane.scheduler(&tools.kubernetes)?)?;
        let dns = begin("coredns", plane.dns(&tools.coredns, state)?)?;
        nodes.iter_mut().try_for_each(|node| node.join(&around))?;
        nodes_ready(&client, self.nodes, logs.folder()).await?;

        let words = |program: PathBuf| ClusterCommand::new(program, kubeconfig.clone(), state.to_owned());
        let (kubectl, helm) = (words(tools.kubernetes.join("kubectl")), words(tools.helm.join("helm")));
        drop(begin);
        logs.on_panic(collect(kubectl.clone()), look(kubectl.clone()));
        Ok(Cluster {
            namespaces,
            parts: Mutex::new(ClusterPrograms { etcd, api, controllers, scheduler, dns }),
            nodes: Mutex::new(nodes),
            store: Mutex::default(),
            cut_off: Mutex::default(),
            forwarder,
            ports: Mutex::default(),
            config,
            kubectl,
            helm,
            logs,
        })
    }

    fn api_arguments(&self) -> Vec<String> {
        let mut arguments = self.arguments.clone();
        if self.quick_failover {
            let seconds = ["not-ready", "unreachable"].map(|what| format!("--default-{what}-toleration-seconds=3"));
            arguments.extend(seconds);
        }
        arguments
    }

    fn controller_arguments(&self) -> Vec<String> {
        let quick = ["--node-monitor-grace-period=12s", "--node-monitor-period=2s"].map(str::to_owned);
        if self.quick_failover { quick.to_vec() } else { Vec::new() }
    }
}

/// The folders of the programs, and the image that every pod needs.
struct ClusterTools {
    etcd: PathBuf,
    kubernetes: PathBuf,
    coredns: PathBuf,
    helm: PathBuf,
    pause: PathBuf,
}

impl ClusterTools {
    async fn ready() -> anyhow::Result<Self> {
        tokio::task::spawn_blocking(|| tools::script("debian.sh", &[])).await??;
        Ok(Self {
            etcd: tools::go("etcd").await?,
            kubernetes: tools::go("kubernetes").await?,
            coredns: tools::go("coredns").await?,
            helm: tools::go("helm").await?,
            pause: images::pause().await?,
        })
    }
}

/// Starts programs beside the API server.
fn begin_in<'a>(
    namespaces: &'a ClusterNamespaces,
    logs: &'a ClusterLogs,
) -> impl Fn(&str, Vec<OsString>) -> std::io::Result<WatchedProcess> + use<'a> {
    move |name, command| {
        WatchedProcess::start(ProcessRecipe {
            prefix: namespaces.prefix(NetworkPlace::ControlPlane),
            ..ProcessRecipe::new(command, logs.folder().join(format!("{name}.log")))
        })
    }
}

/// Waits until all nodes are ready and pods may be made in the namespace `default`.
async fn nodes_ready(client: &Client, wanted: u8, logs: &Path) -> anyhow::Result<()> {
    let give_up = tokio::time::Instant::now() + PATIENCE;
    let nodes = Api::<NodeResource>::all(client.clone());
    let accounts = Api::<ServiceAccount>::default_namespaced(client.clone());
    loop {
        // An API server that has just begun may answer an error.
        let found = nodes.list(&kube::api::ListParams::default()).await.map(|list| list.items);
        let ready = found.iter().flatten().filter(|node| is_ready(node)).count();
        let account = accounts.get_opt("default").await;
        if ready == usize::from(wanted) && matches!(account, Ok(Some(_))) {
            return Ok(());
        }
        let names = found.map(|nodes| nodes.iter().map(ResourceExt::name_any).collect::<Vec<_>>());
        let account = account.map(|account| account.is_some());
        ensure!(
            tokio::time::Instant::now() < give_up,
            "{ready} of {wanted} nodes are ready after {PATIENCE:?}; nodes: {names:?}; an account for pods: {account:?}; see the \
             logs in \"{}\"",
            logs.display()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn is_ready(node: &NodeResource) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Writes down all objects and events beside the logs.
fn collect(kubectl: ClusterCommand) -> impl Fn(&Path) + Send + Sync {
    const QUESTIONS: [(&str, &[&str]); 6] = [
        ("all.txt", &["get", "all,configmaps,serviceaccounts,networkpolicies,leases", "-A", "-o", "wide"]),
        ("tidemark.yaml", &["get", "tidemark", "-A", "-o", "yaml"]),
        ("events.txt", &["get", "events", "-A", "--sort-by=.lastTimestamp"]),
        ("pods.txt", &["describe", "pods", "-A"]),
        ("pods.yaml", &["get", "pods", "-A", "-o", "yaml"]),
        ("nodes.txt", &["describe", "nodes"]),
    ];
    move |folder| {
        for (name, words) in QUESTIONS {
            let Ok(file) = std::fs::File::create(folder.join(name)) else { continue };
            let Ok(errors) = file.try_clone() else { continue };
            let mut command = kubectl.command();
            command.args(words).arg("--request-timeout=5s").stdin(Stdio::null()).stdout(file).stderr(errors);
            let _ = command.status();
        }
    }
}

/// Nodes, resources of the product and pods on one line, as `kubectl get` shows them.
fn look(kubectl: ClusterCommand) -> impl Fn() -> String + Send + Sync {
    move || {
        let seen = ["nodes", "tidemark", "pods"].map(|kind| {
            let mut command = kubectl.command();
            command.args(["get", kind, "-A", "--no-headers", "--request-timeout=5s"]).stdin(Stdio::null());
            let shown = command.output().map_or_else(
                |error| error.to_string(),
                |ended| String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned(),
            );
            let lines: Vec<_> =
                shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
            format!("{kind}: {}", lines.join(", "))
        });
        seen.join("; ")
    }
}

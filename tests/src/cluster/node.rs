//! A node: containerd, kubelet and kube-proxy on a network of their own.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use serde_json::json;

use super::{
    cgroups,
    control_plane::DNS,
    namespaces::{ClusterNamespaces, NetworkPlace},
    pki::{CertificateAuthority, CertificateSubject},
};
use crate::watchdog::{ProcessRecipe, WatchedProcess};

/// The image that holds a pod's namespaces.
pub(crate) const PAUSE: &str = "tidemark.dev/pause:1";

const PATIENCE: Duration = Duration::from_mins(4);

/// The programs of one node. Dropping it kills them.
pub(crate) struct ClusterNode {
    number: u8,
    folder: PathBuf,
    // In the order in which they end.
    proxy: Option<WatchedProcess>,
    kubelet: Option<WatchedProcess>,
    containerd: WatchedProcess,
}

/// What a node needs to know of its cluster.
pub(crate) struct NodeSurroundings<'a> {
    pub(crate) namespaces: &'a ClusterNamespaces,
    pub(crate) pki: &'a CertificateAuthority,
    /// The API server's URL.
    pub(crate) server: &'a str,
    /// Kubernetes' own programs.
    pub(crate) programs: &'a Path,
    pub(crate) logs: &'a Path,
}

impl ClusterNode {
    /// Starts containerd and waits until it answers. No pod can run before [`Self::join`].
    pub(crate) async fn start(number: u8, around: &NodeSurroundings<'_>) -> anyhow::Result<Self> {
        let folder = around.namespaces.reaper().state().join(format!("node{number}"));
        let logs = around.logs.join(format!("node{number}"));
        fs::create_dir_all(folder.join("cni"))?;
        fs::create_dir_all(logs.join("pods"))?;
        fs::write(folder.join("containerd.toml"), containerd(&folder)?)?;
        fs::write(folder.join("cni/10-bridge.conflist"), bridge(&folder, number).to_string())?;
        let command = ["containerd".into(), "--config".into(), folder.join("containerd.toml").into_os_string()];
        let containerd = begin(number, around, "containerd", command.into())?;
        let mut node = Self { number, folder, proxy: None, kubelet: None, containerd };
        node.wait_for_containerd().await?;
        Ok(node)
    }

    /// Starts kubelet and kube-proxy.
    pub(crate) fn join(&mut self, around: &NodeSurroundings<'_>) -> anyhow::Result<()> {
        self.kubelet = Some(begin(self.number, around, "kubelet", self.kubelet(around)?)?);
        self.proxy = Some(begin(self.number, around, "kube-proxy", self.proxy(around)?)?);
        Ok(())
    }

    /// Takes an OCI archive into the node's images.
    pub(crate) fn import(&self, archive: &Path) -> anyhow::Result<()> {
        let mut ctr = std::process::Command::new("ctr");
        ctr.arg("--address").arg(self.socket()).args(["--namespace", "k8s.io", "images", "import"]).arg(archive);
        let ended = ctr.output().context("ctr does not run; it comes with Debian's containerd")?;
        let errors = String::from_utf8_lossy(&ended.stderr);
        ensure!(ended.status.success(), "image \"{}\" was not imported: {}", archive.display(), errors.trim());
        Ok(())
    }

    /// The kubelet, once the node has joined.
    pub(crate) fn kubelet_process(&mut self) -> Option<&mut WatchedProcess> {
        self.kubelet.as_mut()
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("containerd.sock")
    }

    async fn wait_for_containerd(&mut self) -> anyhow::Result<()> {
        let give_up = tokio::time::Instant::now() + PATIENCE;
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            let log = self.containerd.log().display().to_string();
            ensure!(self.containerd.ended().is_none(), "containerd ended; its log is \"{log}\"");
            ensure!(tokio::time::Instant::now() < give_up, "containerd does not answer; its log is \"{log}\"");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    fn kubelet(&self, around: &NodeSurroundings<'_>) -> anyhow::Result<Vec<OsString>> {
        let (number, name) = (self.number, format!("node{}", self.number));
        let user = format!("system:node:{name}");
        let address = format!("10.99.0.{number}");
        let who = CertificateSubject { user: &user, group: "system:nodes" };
        around.pki.issue(&name, who, &[&name], &[address.parse()?])?;
        let kubeconfig = around.pki.kubeconfig_for(&name, around.server)?;
        let config = self.folder.join("kubelet.yaml");
        let cgroup = cgroups::of_node(around.namespaces.reaper().name(), number);
        let settings = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": true},
                "x509": {"clientCAFile": around.pki.path("ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": around.pki.path(&format!("{name}.crt")),
            "tlsPrivateKeyFile": around.pki.path(&format!("{name}.key")),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroup,
            "failSwapOn": false,
            "enforceNodeAllocatable": [],
            "containerRuntimeEndpoint": format!("unix://{}", self.socket().display()),
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"},
            "imageGCHighThresholdPercent": 100,
            "clusterDNS": [DNS],
            "clusterDomain": "cluster.local",
            "resolvConf": "",
            "podLogsDir": around.logs.join(&name).join("pods"),
            "volumePluginDir": self.folder.join("volume-plugins"),
            "serializeImagePulls": false,
            // A changed Secret or ConfigMap is in its pods soon.
            "syncFrequency": "5s",
            "nodeStatusUpdateFrequency": "2s",
            "nodeLeaseDurationSeconds": 8,
        });
        fs::write(&config, settings.to_string())?;
        Ok(vec![
            around.programs.join("kubelet").into(),
            option("--config=", config),
            option("--kubeconfig=", kubeconfig),
            option("--root-dir=", self.folder.join("kubelet")),
            format!("--hostname-override={name}").into(),
            format!("--node-ip={address}").into(),
        ])
    }

    fn proxy(&self, around: &NodeSurroundings<'_>) -> anyhow::Result<Vec<OsString>> {
        let name = format!("proxy{}", self.number);
        let who = CertificateSubject { user: "system:kube-proxy", group: "kubernetes" };
        let settings = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": around.pki.kubeconfig(&name, who, around.server)?},
            "hostnameOverride": format!("node{}", self.number),
            "mode": "nftables",
            "clusterCIDR": "10.244.0.0/16",
            // It may not write the machine's settings, and need not.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        });
        let config = self.folder.join("proxy.yaml");
        fs::write(&config, settings.to_string())?;
        Ok(vec![around.programs.join("kube-proxy").into(), option("--config=", config)])
    }
}

fn begin(
    number: u8,
    around: &NodeSurroundings<'_>,
    name: &str,
    command: Vec<OsString>,
) -> std::io::Result<WatchedProcess> {
    WatchedProcess::start(ProcessRecipe {
        prefix: around.namespaces.prefix(NetworkPlace::Node(number)),
        ..ProcessRecipe::new(command, around.logs.join(format!("node{number}/{name}.log")))
    })
}

fn option(name: &str, value: impl AsRef<OsStr>) -> OsString {
    let mut option = OsString::from(name);
    option.push(value);
    option
}

/// The configuration of containerd 1.6 and later ones that still read version 2.
fn containerd(folder: &Path) -> anyhow::Result<String> {
    const OVERLAY: i64 = 0x794c_7630;
    // An overlay cannot lie on another one, as inside a container.
    let nested = rustix::fs::statfs(folder)?.f_type == OVERLAY;
    let snapshotter = if nested { "native" } else { "overlayfs" };
    let folder = folder.display();
    Ok(format!(
        r#"version = 2
root = "{folder}/containerd/root"
state = "{folder}/containerd/state"
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # The machine may lack CAP_SYS_RESOURCE; without this no pod starts there.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/containerd/opt"
"#
    ))
}

fn bridge(folder: &Path, number: u8) -> serde_json::Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "tidemark",
        "plugins": [{
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": true,
            "ipMasq": false,
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "dataDir": folder.join("addresses"),
                "ranges": [[{"subnet": format!("10.244.{number}.0/24")}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })
}

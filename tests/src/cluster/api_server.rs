//! etcd and an API server, and nothing else: for controllers and CRDs.

use std::{
    ffi::{OsStr, OsString},
    net::{IpAddr, Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::sync::OnceCell;

use super::{
    ClusterCommand, control_plane::ControlPlane, logs::ClusterLogs, pki::CertificateAuthority, reaper::ClusterReaper,
};
use crate::{
    tools,
    watchdog::{ProcessRecipe, WatchedProcess},
};

/// How long the API server may take to be ready. On a loaded machine it has been seen to take 20 s.
const PATIENCE: Duration = Duration::from_mins(4);
/// Tries at finding ports that stay free until the servers have them.
const TRIES: u32 = 5;

static SHARED: OnceCell<ApiServer> = OnceCell::const_new();

/// A real API server on loopback. Needs no root; several run at once. Dropping it, or the end of the process, removes it.
///
/// No node and no scheduler exist: pods stay `Pending`. Without [`ApiServerBuilder::controllers`] garbage is not collected,
/// makes service accounts or acts on Deployments either.
pub struct ApiServer {
    config: Config,
    kubectl: ClusterCommand,
    servers: ApiServerPrograms,
    logs: ClusterLogs,
    // Last: it waits until everything above has gone.
    _reaper: ClusterReaper,
}

struct ApiServerPrograms {
    // In the order in which they end.
    controllers: Option<WatchedProcess>,
    api: WatchedProcess,
    etcd: WatchedProcess,
}

/// How an [`ApiServer`] is to be.
#[derive(Clone, Debug, Default)]
pub struct ApiServerBuilder {
    controllers: bool,
    arguments: Vec<String>,
}

impl ApiServerBuilder {
    /// With the controllers of Kubernetes: garbage collection by owner references, Deployments, service accounts.
    pub fn controllers(mut self) -> Self {
        self.controllers = true;
        self
    }

    /// One more argument for `kube-apiserver`, such as `--enable-admission-plugins=NodeRestriction,AlwaysPullImages`.
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Starts it and waits until it is ready: about 4 s, and minutes when the programs are not built yet.
    pub async fn start(self) -> anyhow::Result<ApiServer> {
        let mut last = None;
        for _ in 0..TRIES {
            match ApiServer::try_start(&self).await {
                Ok(server) => return Ok(server),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no try was made")?)
    }
}

impl ApiServer {
    /// etcd and the API server.
    pub async fn start() -> anyhow::Result<Self> {
        Self::builder().start().await
    }

    /// The choices before a start.
    pub fn builder() -> ApiServerBuilder {
        ApiServerBuilder::default()
    }

    /// One for all tests of a process, with the controllers of Kubernetes and policies that may rewrite objects: each test takes a
    /// namespace of its own.
    pub async fn shared() -> anyhow::Result<&'static Self> {
        // Policies that rewrite are off by default in 1.34.
        let policies = [
            "--feature-gates=MutatingAdmissionPolicy=true",
            "--runtime-config=admissionregistration.k8s.io/v1beta1=true",
        ];
        let builder = policies.into_iter().fold(Self::builder().controllers(), ApiServerBuilder::argument);
        SHARED.get_or_try_init(|| builder.start()).await
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

    /// The path of the administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        self.kubectl.kubeconfig()
    }

    /// Runs `kubectl` and gives what it printed.
    pub async fn kubectl<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> anyhow::Result<String> {
        self.kubectl.run(words).await
    }

    /// `kubectl apply --server-side -f -` with some YAML.
    pub async fn apply(&self, yaml: &str) -> anyhow::Result<String> {
        self.kubectl.run_with(["apply", "--server-side", "-f", "-"], yaml).await
    }

    /// `kubectl`, for other ways to call it.
    pub fn kubectl_command(&self) -> &ClusterCommand {
        &self.kubectl
    }

    /// Where the programs log. The folder stays when a test panics.
    pub fn logs(&self) -> &Path {
        self.logs.folder()
    }

    /// SIGKILL to the API server; etcd keeps what it knows.
    pub fn stop_server(&mut self) {
        self.servers.api.stop();
    }

    /// Starts a stopped API server and waits until it is ready.
    pub async fn start_server(&mut self) -> anyhow::Result<()> {
        self.servers.api.start_again()?;
        ready(&self.client(), &mut [&mut self.servers.api]).await
    }

    async fn try_start(wanted: &ApiServerBuilder) -> anyhow::Result<Self> {
        let etcd = tools::go("etcd").await?;
        let programs = tools::go("kubernetes").await?;
        let logs = ClusterLogs::create("api-server")?;
        let (reaper, _) = ClusterReaper::start(&logs, |_| vec!["cat".into()])?;
        let pki = CertificateAuthority::create(reaper.state().join("pki"))?;
        let plane = ControlPlane {
            pki: &pki,
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            ports: free_ports()?,
            extra: &wanted.arguments,
        };
        let kubeconfig = plane.issue()?;
        let begin = |name: &str, command: Vec<OsString>| {
            WatchedProcess::start(ProcessRecipe::new(command, logs.folder().join(format!("{name}.log"))))
        };
        let mut servers = ApiServerPrograms {
            etcd: begin("etcd", plane.etcd(&etcd, &reaper.state().join("etcd")))?,
            api: begin("kube-apiserver", plane.api_server(&programs))?,
            controllers: None,
        };
        let config = read(&kubeconfig).await?;
        let ApiServerPrograms { api, etcd, .. } = &mut servers;
        ready(&Client::try_from(config.clone())?, &mut [api, etcd]).await?;
        if wanted.controllers {
            servers.controllers = Some(begin("kube-controller-manager", plane.controllers(&programs, &[])?)?);
        }
        let kubectl = ClusterCommand::new(programs.join("kubectl"), kubeconfig, reaper.state().to_owned());
        Ok(Self { config, kubectl, servers, logs, _reaper: reaper })
    }
}

/// The client configuration that a kubeconfig holds.
pub(crate) async fn read(kubeconfig: &PathBuf) -> anyhow::Result<Config> {
    let mut config =
        Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &KubeConfigOptions::default()).await?;
    // The environment's proxy must not see what stays on this machine.
    config.proxy_url = None;
    Ok(config)
}

/// Waits until the API server says that it is ready, which it does to a holder of this cluster's certificates only. Ends
/// early when one of the servers does.
pub(crate) async fn ready(client: &Client, servers: &mut [&mut WatchedProcess]) -> anyhow::Result<()> {
    let give_up = tokio::time::Instant::now() + PATIENCE;
    loop {
        let question = http_get("/readyz")?;
        let answer = tokio::time::timeout(Duration::from_secs(5), client.request_text(question)).await;
        if matches!(answer, Ok(Ok(_))) {
            return Ok(());
        }
        for server in &mut *servers {
            if let Some(status) = server.ended() {
                bail!("a server ended ({status}); its log is \"{}\": {}", server.log().display(), tail(server.log()));
            }
        }
        if tokio::time::Instant::now() > give_up {
            let logs = servers.first().map(|server| server.log().display().to_string()).unwrap_or_default();
            bail!("the API server is not ready after {PATIENCE:?}; its log is \"{logs}\": {answer:?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn http_get(path: &str) -> anyhow::Result<hyper::http::Request<Vec<u8>>> {
    Ok(hyper::http::Request::get(path).body(Vec::new())?)
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

/// Ports that are free now: all are held until the last is found, so that they differ.
fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    let held = (0..N).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    let ports = held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect::<anyhow::Result<Vec<u16>>>()?;
    ports.try_into().ok().context("a port each")
}

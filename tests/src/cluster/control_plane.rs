//! The arguments of the programs that make a control plane.

use std::{
    ffi::OsString,
    net::IpAddr,
    path::{Path, PathBuf},
};

use super::pki::{CertificateAuthority, CertificateSubject};

/// The first address of the range of Services, which is the API server's own Service.
const SERVICE_OF_THE_API: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 1));
/// Where Services get their addresses from.
pub(crate) const SERVICES: &str = "10.96.0.0/16";

/// Where a whole cluster's control plane is on its network, with the DNS server beside it.
pub(crate) const DNS: &str = "10.99.0.254";

/// What the programs of one control plane agree on.
pub(crate) struct ControlPlane<'a> {
    pub(crate) pki: &'a CertificateAuthority,
    /// Where the API server listens, and is found by everybody in the cluster.
    pub(crate) host: IpAddr,
    /// Ports: of etcd for clients, of etcd for its peers, of the API server.
    pub(crate) ports: [u16; 3],
    /// Arguments that a test adds to the API server's.
    pub(crate) extra: &'a [String],
}

impl ControlPlane<'_> {
    /// The API server's URL.
    pub(crate) fn url(&self) -> String {
        format!("https://{}:{}", self.host, self.ports[2])
    }

    /// The certificate of the API server, and of the administrator with a kubeconfig.
    pub(crate) fn issue(&self) -> anyhow::Result<PathBuf> {
        let names = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ];
        let loopback = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
        let server = CertificateSubject { user: "kube-apiserver", group: "kubernetes" };
        self.pki.issue("apiserver", server, &names, &[loopback, SERVICE_OF_THE_API, self.host])?;
        self.pki.kubeconfig("admin", CertificateSubject::ADMIN, &self.url())
    }

    /// etcd, which does not wait for the disk: a test's data may be lost with the machine.
    pub(crate) fn etcd(&self, program: &Path, data: &Path) -> Vec<OsString> {
        let [clients, peers, _] = self.ports.map(|port| format!("http://127.0.0.1:{port}"));
        let mut words = vec![program.join("etcd").into_os_string(), "--data-dir".into(), data.into()];
        let options = [
            format!("--listen-client-urls={clients}"),
            format!("--advertise-client-urls={clients}"),
            format!("--listen-peer-urls={peers}"),
            format!("--initial-advertise-peer-urls={peers}"),
            format!("--initial-cluster=default={peers}"),
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
        ];
        words.extend(options.map(OsString::from));
        words
    }

    /// The API server with RBAC and the usual admission plugins, pod security among them.
    pub(crate) fn api_server(&self, programs: &Path) -> Vec<OsString> {
        let file = |name: &str| self.pki.path(name).display().to_string();
        let [etcd, _, port] = self.ports;
        let host = self.host;
        let mut words = vec![programs.join("kube-apiserver").into_os_string()];
        let options = [
            format!("--etcd-servers=http://127.0.0.1:{etcd}"),
            format!("--bind-address={}", if host.is_loopback() { host.to_string() } else { "0.0.0.0".to_owned() }),
            format!("--advertise-address={host}"),
            format!("--endpoint-reconciler-type={}", if host.is_loopback() { "none" } else { "lease" }),
            format!("--secure-port={port}"),
            format!("--tls-cert-file={}", file("apiserver.crt")),
            format!("--tls-private-key-file={}", file("apiserver.key")),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--service-account-key-file={}", file("sa.pub")),
            format!("--service-account-signing-key-file={}", file("sa.key")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-cluster-ip-range={SERVICES}"),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--allow-privileged=true".to_owned(),
            format!("--kubelet-client-certificate={}", file("admin.crt")),
            format!("--kubelet-client-key={}", file("admin.key")),
            format!("--kubelet-certificate-authority={}", file("ca.crt")),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
        ];
        words.extend(options.map(OsString::from));
        words.extend(self.extra.iter().map(OsString::from));
        words
    }

    /// The controllers of Kubernetes itself: garbage collection, Deployments, service accounts and the rest.
    pub(crate) fn controllers(&self, programs: &Path, extra: &[String]) -> anyhow::Result<Vec<OsString>> {
        let who = CertificateSubject { user: "system:kube-controller-manager", group: "kubernetes" };
        let kubeconfig = self.pki.kubeconfig("controller-manager", who, &self.url())?;
        let mut words = vec![programs.join("kube-controller-manager").into_os_string()];
        let options = [
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--service-account-private-key-file={}", self.pki.path("sa.key").display()),
            format!("--root-ca-file={}", self.pki.path("ca.crt").display()),
            "--use-service-account-credentials=true".to_owned(),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
        ];
        words.extend(options.map(OsString::from));
        words.extend(extra.iter().map(OsString::from));
        Ok(words)
    }

    /// The DNS server for names of Services and pods.
    pub(crate) fn dns(&self, program: &Path, folder: &Path) -> anyhow::Result<Vec<OsString>> {
        let kubeconfig = self.pki.kubeconfig("coredns", CertificateSubject::ADMIN, &self.url())?;
        let settings = folder.join("Corefile");
        // A name outside of the cluster does not exist: nothing in a test may ask the world. In a block of its own, since
        // `template` answers before `kubernetes` within one.
        let text = format!(
            "cluster.local:53 in-addr.arpa:53 {{\n bind {DNS}\n errors\n kubernetes {{\n  kubeconfig {}\n  ttl 2\n }}\n}}\n\
             .:53 {{\n bind {DNS}\n template ANY ANY {{\n  rcode NXDOMAIN\n }}\n}}\n",
            kubeconfig.display()
        );
        std::fs::write(&settings, text)?;
        Ok(vec![program.join("coredns").into(), "-conf".into(), settings.into()])
    }

    /// The scheduler.
    pub(crate) fn scheduler(&self, programs: &Path) -> anyhow::Result<Vec<OsString>> {
        let who = CertificateSubject { user: "system:kube-scheduler", group: "kubernetes" };
        let kubeconfig = self.pki.kubeconfig("scheduler", who, &self.url())?;
        let mut words = vec![programs.join("kube-scheduler").into_os_string()];
        let options = [
            format!("--kubeconfig={}", kubeconfig.display()),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
        ];
        words.extend(options.map(OsString::from));
        Ok(words)
    }
}

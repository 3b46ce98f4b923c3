//! Data pods that are acted.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tidemark_crds::names::{self, WalComponent};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// What the pods of a role say and do.
#[derive(Clone, Debug)]
struct PodRole {
    /// The answer of `/v1/process`; none is a pod that does not answer.
    says: Option<Value>,
    ready: bool,
    /// Whether newcomers stay pending.
    pending: bool,
}

/// How many addresses were given out.
static ADDRESSES: AtomicU32 = AtomicU32::new(0);
/// 127.64.0.1, without its first byte.
const FIRST_ADDRESS: u32 = 0x40_0001;

/// By the value of the label of the component.
type PodRoles = Arc<Mutex<HashMap<&'static str, PodRole>>>;

/// A kubelet that starts nothing: every pod of a namespace runs at once, on an address of its own, and says what is wanted.
pub struct FakePods {
    client: Client,
    namespace: String,
    port: u16,
    parts: PodRoles,
    /// Pods and servers; they end with this value.
    _tasks: JoinSet<()>,
}

impl FakePods {
    /// Acts the pods of `namespace`. Indexers write and have caught up, search serves, until something else is wanted.
    pub async fn start(client: Client, namespace: &str) -> anyhow::Result<Self> {
        // The port is free on one address of loopback, and each pod has one of its own.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()?.port();
        let parts = PodRoles::default();
        let defaults = [
            (WalComponent::Indexer.as_str(), say::writing(1, 10)),
            (WalComponent::Search.as_str(), say::serving()),
            (names::COMPONENT_SINK, say::delivering(7)),
        ];
        for (component, says) in defaults {
            parts.lock().insert(component, PodRole { says: Some(says), ready: true, pending: false });
        }
        let mut tasks = JoinSet::new();
        tasks.spawn(act(Api::namespaced(client.clone(), namespace), port, parts.clone()));
        Ok(Self { client, namespace: namespace.to_owned(), port, parts, _tasks: tasks })
    }

    /// The port of all pods.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on the pods of this role say this.
    pub fn say(&self, component: WalComponent, says: Value) {
        self.change(component, |part| part.says = Some(says));
    }

    /// From now on the pods of sinks say this.
    pub fn say_of_sinks(&self, says: Value) {
        self.parts.lock().entry(names::COMPONENT_SINK).and_modify(|part| part.says = Some(says));
    }

    /// From now on the pods of this role do not answer.
    pub fn silence(&self, component: WalComponent) {
        self.change(component, |part| part.says = None);
    }

    /// Whether the kubelet calls the pods of this role ready: those that are there, and those that come.
    pub async fn ready(&self, component: WalComponent, ready: bool) -> anyhow::Result<()> {
        self.change(component, |part| part.ready = ready);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        for pod in api.list(&kube::api::ListParams::default()).await? {
            let ip = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
            if let Some(ip) = ip.filter(|_| role(&pod) == Some(component.as_str())) {
                run(&api, &pod, &ip, ready).await?;
            }
        }
        Ok(())
    }

    /// The kubelet evicts the pods of this role, with these words.
    pub async fn evict(&self, component: WalComponent, message: &str) -> anyhow::Result<()> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        for pod in api
            .list(&kube::api::ListParams::default())
            .await?
            .into_iter()
            .filter(|pod| role(pod) == Some(component.as_str()))
        {
            let status = json!({"status": {
                "phase": "Failed", "reason": "Evicted", "message": message,
                "conditions": [{
                    "type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet",
                    "lastTransitionTime": pod.metadata.creation_timestamp,
                }],
            }});
            api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&status)).await?;
        }
        Ok(())
    }

    /// Readiness of the pods of this role that come later.
    pub fn newcomers_ready(&self, component: WalComponent, ready: bool) {
        self.change(component, |part| part.ready = ready);
    }

    /// Pods of this role that come later stay pending, until [`FakePods::start_pending`].
    pub fn keep_pending(&self, component: WalComponent) {
        self.change(component, |part| part.pending = true);
    }

    /// Starts the pods of this role that stayed pending.
    pub async fn start_pending(&self, component: WalComponent) -> anyhow::Result<()> {
        self.change(component, |part| part.pending = false);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        for pod in api.list(&kube::api::ListParams::default()).await? {
            // A change by which the watch shows them again.
            let seen = json!({"metadata": {"annotations": {"started": "true"}}});
            if role(&pod) == Some(component.as_str()) {
                api.patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&seen)).await?;
            }
        }
        Ok(())
    }

    fn change(&self, component: WalComponent, change: impl FnOnce(&mut PodRole)) {
        self.parts.lock().entry(component.as_str()).and_modify(change);
    }
}

/// What data pods say.
pub mod say {
    use serde_json::{Value, json};

    /// Stands for the UID of the pod that says it.
    pub(super) const OWN: &str = "own";

    /// `process` of another pod.
    pub fn of_another(mut process: Value) -> Value {
        process["identity"] = json!("another");
        process
    }

    /// An indexer that writes and has caught up.
    pub fn writing(epoch: u64, entries: u64) -> Value {
        json!({
            "version": "0.1.0", "kind": "indexer", "phase": "writing", "identity": OWN, "generation": "g1", "epoch": epoch,
            "manifest": 1, "horizon": "2026-11-21T10:00:10Z", "cursor": "2026-11-21T10:00:00Z", "lagSeconds": 0,
            "pendingEntries": 0, "entries": entries, "caughtUp": true, "probed": true, "adoptedFrom": null, "writer": "i",
            "problems": [],
        })
    }

    /// `process` some minutes later, in which nothing was appended.
    pub fn later(mut process: Value, minutes: u64) -> Value {
        process["cursor"] = json!(format!("2026-11-21T10:{minutes:02}:00Z"));
        process["horizon"] = json!(format!("2026-11-21T10:{minutes:02}:10Z"));
        process
    }

    /// A search pod that serves.
    pub fn serving() -> Value {
        json!({"version": "0.1.0", "kind": "search", "phase": "serving", "identity": OWN, "manifest": 1, "problems": []})
    }

    /// A sink that has acknowledged everything up to this seq.
    pub fn delivering(seq: u64) -> Value {
        json!({
            "version": "0.1.0", "identity": OWN, "problems": [],
            "sink": {
                "holding": true, "acknowledged": {"generation": "g1", "seq": seq}, "lagOperations": 0, "lagSeconds": 0,
                "unacknowledged": 0, "delivered": seq, "deadLettered": 0, "breaker": "closed",
            },
        })
    }

    /// A sink whose destination takes nothing.
    pub fn waiting(seq: u64, lag_seconds: u64, error: &str) -> Value {
        let mut says = delivering(seq);
        says["sink"]["breaker"] = json!("open");
        says["sink"]["lastError"] = json!(error);
        says["sink"]["lagOperations"] = json!(900);
        says["sink"]["lagSeconds"] = json!(lag_seconds);
        says
    }

    /// An indexer that cannot open its storage.
    pub fn problem(reason: &str, message: &str) -> Value {
        json!({
            "version": "0.1.0", "kind": "indexer", "phase": "starting", "identity": OWN,
            "problems": [{"reason": reason, "role": "log", "message": message}],
        })
    }

    /// `process` in another phase.
    pub fn phase(mut process: Value, phase: &str) -> Value {
        process["phase"] = json!(phase);
        process
    }
}

async fn act(api: Api<Pod>, port: u16, parts: PodRoles) {
    let mut servers = JoinSet::new();
    let mut known: HashMap<String, Ipv4Addr> = HashMap::new();
    let config = watcher::Config::default().labels(&format!("{}={}", names::LABEL_MANAGED_BY, names::MANAGED_BY));
    let mut pods = std::pin::pin!(watcher::watcher(api.clone(), config).default_backoff().applied_objects());
    while let Some(pod) = pods.next().await {
        let Ok(pod) = pod else { continue };
        let (Some(uid), Some(component)) = (pod.uid(), role(&pod)) else { continue };
        if known.contains_key(&uid) || parts.lock().get(component).is_some_and(|part| part.pending) {
            continue;
        }
        let (ip, listener) = listen(port).await;
        known.insert(uid.clone(), ip);
        servers.spawn(serve(listener, uid, component, parts.clone()));
        let wanted = || parts.lock().get(component).is_some_and(|part| part.ready);
        let mut ready = wanted();
        loop {
            // A pod that is gone by now needs no status.
            drop(run(&api, &pod, &ip.to_string(), ready).await);
            // A change meanwhile saw a pod without an address, and left the status to this task.
            if ready == wanted() {
                break;
            }
            ready = !ready;
        }
    }
}

/// An address of loopback on which the port is free, of which there are enough for everybody.
async fn listen(port: u16) -> (Ipv4Addr, TcpListener) {
    loop {
        let number = ADDRESSES.fetch_add(1, Ordering::Relaxed);
        let [_, b, c, d] = (FIRST_ADDRESS + number % (1 << 23)).to_be_bytes();
        let ip = Ipv4Addr::new(127, b, c, d);
        if let Ok(listener) = TcpListener::bind(SocketAddr::from((ip, port))).await {
            return (ip, listener);
        }
    }
}

async fn serve(listener: TcpListener, uid: String, component: &'static str, parts: PodRoles) {
    let mut answers = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let mut says = parts.lock().get(component).and_then(|part| part.says.clone());
        if let Some(says) = says.as_mut().filter(|says| says["identity"] == say::OWN) {
            says["identity"] = json!(uid);
        }
        answers.spawn(answer(stream, says));
        while answers.try_join_next().is_some() {}
    }
}

/// Answers one request; nothing to say closes the connection.
async fn answer(mut stream: TcpStream, says: Option<Value>) {
    let mut request = [0; 4096];
    let read = stream.read(&mut request).await;
    if let (Ok(1..), Some(says)) = (read, says) {
        let body = says.to_string();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n", body.len());
        drop(stream.write_all(format!("{head}connection: close\r\n\r\n{body}").as_bytes()).await);
    }
}

async fn run(api: &Api<Pod>, pod: &Pod, ip: &str, ready: bool) -> anyhow::Result<()> {
    let ready = if ready { "True" } else { "False" };
    let status = json!({"status": {
        "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": "2026-11-21T10:00:00Z"}],
    }});
    match api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&status)).await {
        // A roll-out removes pods meanwhile.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        patched => Ok(patched.map(drop)?),
    }
}

fn role(pod: &Pod) -> Option<&'static str> {
    let role = pod.labels().get(names::LABEL_COMPONENT)?;
    let acted = WalComponent::ALL.map(WalComponent::as_str).into_iter().chain([names::COMPONENT_SINK]);
    acted.into_iter().find(|acted| acted == role)
}

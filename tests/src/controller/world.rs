//! A namespace on a real API server, with an operator that watches it and pods that are acted.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::Context;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Namespace, Pod},
    events::v1::Event,
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tidemark_crds::{
    ConditionType, KINDS, SinkConditionType, Wal, WalSink, WalSinkStatus, WalTask, WalTaskState, WalTaskStatus,
    condition, names::WalComponent,
};
use tokio::sync::OnceCell;

use super::{FakePods, OperatorOptions, OperatorProcess};
use crate::cluster::ApiServer;

/// How long anything may take to become true.
const PATIENCE: Duration = Duration::from_mins(3);

static WORLDS: AtomicU32 = AtomicU32::new(0);
static INSTALLED: OnceCell<()> = OnceCell::const_new();

/// A namespace of its own on the shared API server.
pub struct ControllerWorld {
    /// The API server, with the controllers of Kubernetes.
    pub server: &'static ApiServer,
    /// The administrator.
    pub client: Client,
    /// Its name.
    pub namespace: String,
    /// The data pods.
    pub pods: FakePods,
}

impl ControllerWorld {
    /// A namespace without an operator.
    pub async fn create() -> anyhow::Result<Self> {
        let server = ApiServer::shared().await?;
        INSTALLED.get_or_try_init(|| install(server)).await?;
        let client = server.client();
        let namespace = format!("world-{}", WORLDS.fetch_add(1, Ordering::Relaxed));
        server.kubectl(["create", "namespace", &namespace]).await?;
        let pods = FakePods::start(client.clone(), &namespace).await?;
        let world = Self { server, client, namespace, pods };
        eventually("the CRD is served", async || Ok(world.wals().list(&ListParams::default()).await.ok())).await?;
        Ok(world)
    }

    /// A namespace with a ready WAL "orders" and its operator.
    pub async fn ready() -> anyhow::Result<(Self, OperatorProcess)> {
        let world = Self::create().await?;
        let operator = world.operator().await?;
        world.make("orders", "").await?;
        world.is_ready("orders").await?;
        Ok((world, operator))
    }

    /// How an operator for this namespace is started.
    pub fn options(&self) -> OperatorOptions {
        OperatorOptions {
            kubeconfig: self.server.kubeconfig().to_owned(),
            image: "tidemark.dev/tidemark:one".to_owned(),
            identity: "one".to_owned(),
            lease_namespace: self.namespace.clone(),
            pod_port: self.pods.port(),
            flags: vec![
                format!("--namespace={}", self.namespace),
                // On a busy machine a shorter one is lost, and what a reconciliation had still to say is never said.
                "--lease-duration=60s".to_owned(),
                "--poll-interval=1s".to_owned(),
            ],
        }
    }

    /// An operator for this namespace.
    pub async fn operator(&self) -> anyhow::Result<OperatorProcess> {
        OperatorProcess::start(&self.options()).await
    }

    /// The WALs of the namespace.
    pub fn wals(&self) -> Api<Wal> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Things of the namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Makes a WAL, with more of a spec.
    pub async fn make(&self, name: &str, spec: &str) -> anyhow::Result<()> {
        self.server.apply(&wal_yaml(&self.namespace, name, spec)).await.map(drop)
    }

    /// Changes a WAL.
    pub async fn change(&self, name: &str, patch: Value) -> anyhow::Result<Wal> {
        Ok(self.wals().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await?)
    }

    /// Waits until a condition of a WAL has this status and reason (`True/Ready`), and gives its message.
    pub async fn is(&self, name: &str, kind: ConditionType, wanted: &str) -> anyhow::Result<String> {
        let what = format!("{} of \"{name}\" is {wanted}", kind.as_str());
        let found = eventually(&what, async || {
            let wal = self.wals().get(name).await?;
            let status = wal.status.unwrap_or_default();
            let found = condition(&status.conditions, kind);
            let found = found.filter(|found| {
                // That it is ready must be said of this spec.
                let promised = kind == ConditionType::Ready && found.status == "True";
                let spoken_of = if promised { found.observed_generation } else { status.observed_generation };
                spoken_of == wal.metadata.generation
            });
            Ok(found.filter(|found| format!("{}/{}", found.status, found.reason) == wanted).map(|c| c.message.clone()))
        });
        let found = found.await;
        if found.is_err() {
            let status = self.wals().get_opt(name).await?.and_then(|wal| wal.status);
            return found.with_context(|| format!("{status:#?}"));
        }
        found
    }

    /// The tasks of the namespace.
    pub fn tasks(&self) -> Api<WalTask> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Makes a task of the WAL "orders", with more of a spec.
    pub async fn make_task(&self, name: &str, spec: &str) -> anyhow::Result<()> {
        let namespace = &self.namespace;
        let more = if spec.is_empty() { String::new() } else { format!(", {spec}") };
        let task = format!(
            "{{apiVersion: tidemark.dev/v1alpha1, kind: WALTask, metadata: {{namespace: {namespace}, name: {name}}}, \
             spec: {{walRef: {{name: orders}}, type: GC{more}}}}}"
        );
        self.server.apply(&task).await.map(drop)
    }

    /// Waits until a task is in this state, and gives its status.
    pub async fn task_is(&self, name: &str, state: WalTaskState) -> anyhow::Result<WalTaskStatus> {
        let what = format!("task \"{name}\" is {}", state.as_str());
        let found = eventually(&what, async || {
            let status = self.tasks().get(name).await?.status;
            Ok(status.filter(|status| status.state == Some(state)))
        });
        let found = found.await;
        if found.is_err() {
            let status = self.tasks().get_opt(name).await?.and_then(|task| task.status);
            return found.with_context(|| format!("{status:#?}"));
        }
        found
    }

    /// Makes a sink of the WAL "orders" for a search server, with more of a spec.
    pub async fn make_sink(&self, name: &str, spec: &str) -> anyhow::Result<()> {
        let namespace = &self.namespace;
        let more = if spec.is_empty() { String::new() } else { format!(", {spec}") };
        let sink = format!(
            "{{apiVersion: tidemark.dev/v1alpha1, kind: WALSink, metadata: {{namespace: {namespace}, name: {name}}}, \
             spec: {{walRef: {{name: orders}}, type: Elasticsearch, elasticsearch: {{url: 'https://os.test:9200', index: orders}}{more}}}}}"
        );
        self.server.apply(&sink).await.map(drop)
    }

    /// Waits until a condition of a sink has this status and reason (`True/Ready`), and gives the status.
    pub async fn sink_is(&self, name: &str, kind: SinkConditionType, wanted: &str) -> anyhow::Result<WalSinkStatus> {
        let what = format!("{kind:?} of sink \"{name}\" is {wanted}");
        let found = eventually(&what, async || {
            let sink = self.api::<WalSink>().get(name).await?;
            let status = sink.status.filter(|status| status.observed_generation == sink.metadata.generation);
            Ok(status.filter(|status| {
                condition(&status.conditions, kind)
                    .is_some_and(|found| format!("{}/{}", found.status, found.reason) == wanted)
            }))
        });
        let found = found.await;
        if found.is_err() {
            let status = self.api::<WalSink>().get_opt(name).await?.and_then(|sink| sink.status);
            return found.with_context(|| format!("{status:#?}"));
        }
        found
    }

    /// Waits for the pod of a Job.
    pub async fn job_pod(&self, job: &str) -> anyhow::Result<Pod> {
        let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
        eventually(&format!("Job \"{job}\" has a pod"), async || {
            Ok(self.api::<Pod>().list(&of_job).await?.items.into_iter().next())
        })
        .await
    }

    /// The program in the pod of a Job ends with this code and leaves this text.
    pub async fn end_job(&self, job: &str, code: i32, message: &str) -> anyhow::Result<()> {
        let pod = self.job_pod(job).await?;
        let (name, created) = (pod.metadata.name.unwrap_or_default(), pod.metadata.creation_timestamp);
        let image = pod.spec.into_iter().flat_map(|spec| spec.containers).next().and_then(|container| container.image);
        let status = json!({"status": {
            "phase": if code == 0 { "Succeeded" } else { "Failed" },
            "containerStatuses": [{
                "name": "jobs", "image": image, "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {
                    "exitCode": code, "reason": if code == 0 { "Completed" } else { "Error" }, "message": message,
                    "startedAt": created, "finishedAt": created,
                }},
            }],
        }});
        self.api::<Pod>().patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await?;
        Ok(())
    }

    /// Waits until a WAL is ready.
    pub async fn is_ready(&self, name: &str) -> anyhow::Result<String> {
        self.is(name, ConditionType::Ready, "True/Ready").await
    }

    /// The Deployment of a role of a WAL.
    pub async fn deployment(&self, wal: &str, component: WalComponent) -> anyhow::Result<Deployment> {
        Ok(self.api::<Deployment>().get(&component.child_name(wal)).await?)
    }

    /// The image that the Deployment of a role asks for.
    pub async fn image(&self, wal: &str, component: WalComponent) -> anyhow::Result<String> {
        let deployment = self.deployment(wal, component).await?;
        let pod = deployment.spec.context("it has a spec")?.template.spec.context("it has a pod")?;
        pod.containers.into_iter().next().and_then(|container| container.image).context("it has an image")
    }

    /// Reasons of the Events on a WAL, in the order in which they were written.
    pub async fn events(&self, name: &str) -> anyhow::Result<Vec<String>> {
        self.events_on("WAL", name).await
    }

    /// Reasons of the Events on an object of this kind, in the order in which they were written.
    pub async fn events_on(&self, kind: &str, name: &str) -> anyhow::Result<Vec<String>> {
        let mut events = self.api::<Event>().list(&ListParams::default()).await?.items;
        events.retain(|event| event.regarding.as_ref().and_then(|about| about.name.as_deref()) == Some(name));
        events.retain(|event| event.regarding.as_ref().and_then(|about| about.kind.as_deref()) == Some(kind));
        events.sort_by_key(|event| event.event_time.clone());
        Ok(events.into_iter().filter_map(|event| event.reason).collect())
    }

    /// Waits until there is an Event with this reason on a WAL.
    pub async fn has_event(&self, name: &str, reason: &str) -> anyhow::Result<()> {
        eventually(&format!("Event {reason} on \"{name}\""), async || {
            Ok(self.events(name).await?.iter().any(|found| found == reason).then_some(()))
        })
        .await
    }

    /// Waits until there is no such WAL.
    pub async fn is_gone(&self, name: &str) -> anyhow::Result<()> {
        eventually(&format!("WAL \"{name}\" is gone"), async || {
            Ok(self.wals().get_opt(name).await?.is_none().then_some(()))
        })
        .await
    }

    /// Begins to delete the namespace; its objects go in the API server's own time.
    pub async fn delete_namespace(&self) -> anyhow::Result<()> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        api.delete(&self.namespace, &kube::api::DeleteParams::default()).await?;
        Ok(())
    }
}

/// Installs the definition of each kind.
async fn install(server: &ApiServer) -> anyhow::Result<()> {
    for kind in KINDS {
        server.apply(&kind.definition_yaml()?).await?;
    }
    Ok(())
}

/// A WAL as YAML, with more of a spec (flow style, such as `suspend: true, search: {replicas: 2}`).
pub fn wal_yaml(namespace: &str, name: &str, spec: &str) -> String {
    let places = format!(
        "storage: {{endpoint: 'https://s3.test', credentials: {{type: Secret, secretRef: {{name: keys}}}}}}, \
         log: {{url: 's3://wal/{namespace}-{name}', expiry: 10s}}, metadata: {{urls: ['s3://meta']}}, \
         index: {{url: 's3://index/{namespace}-{name}'}}"
    );
    let spec = if spec.is_empty() { places } else { format!("{places}, {spec}") };
    format!(
        "{{apiVersion: tidemark.dev/v1alpha1, kind: WAL, metadata: {{namespace: {namespace}, name: {name}}}, spec: {{{spec}}}}}"
    )
}

/// Waits until `look` finds something; an error of it, or too long a wait, is the end.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let looking = async {
        loop {
            if let Some(found) = look().await? {
                return anyhow::Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.with_context(|| format!("{what}: not within {PATIENCE:?}"))?
}

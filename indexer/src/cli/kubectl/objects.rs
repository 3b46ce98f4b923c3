//! A WAL and what belongs to it, as `kubectl` shows them.

use anyhow::Context as _;
use serde_json::Value;
use tidemark_crds::names::{self, WalComponent};

use super::client::{KubectlClient, PortForward};

/// Port of a data pod.
const POD_PORT: u16 = 7280;
/// Port of the search Service.
const SERVICE_PORT: u16 = 80;
/// The resource, with its group: another group may have a kind of this name.
pub(super) const RESOURCE: &str = "wals.tidemark.dev";

/// One WAL, and `kubectl` in its namespace.
pub(super) struct WalObject {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) object: Value,
    pub(super) client: KubectlClient,
}

/// The answer of a data pod at `/v1/process`.
pub(super) type PodReportResult = anyhow::Result<Value>;

impl WalObject {
    pub(super) async fn get(client: &KubectlClient, name: &str) -> anyhow::Result<Self> {
        let object = client.json(&["get", RESOURCE, name]).await?;
        let namespace = text(&object, "/metadata/namespace").to_owned();
        Ok(Self { name: name.to_owned(), client: client.in_namespace(&namespace), namespace, object })
    }

    /// The WAL `name`; with none, the only one of the namespace.
    pub(super) async fn get_or_only(client: &KubectlClient, name: Option<&str>) -> anyhow::Result<Self> {
        if let Some(name) = name {
            return Self::get(client, name).await;
        }
        let wals = client.list(&["get", RESOURCE]).await?;
        let names: Vec<_> = wals.iter().map(|wal| text(wal, "/metadata/name")).collect();
        match names.as_slice() {
            [only] => Self::get(client, only).await,
            [] => anyhow::bail!("there is no WAL in this namespace; name another one with -n"),
            several => anyhow::bail!("there are several WALs in this namespace; name one of {}", several.join(", ")),
        }
    }

    /// The indexer's and the search's pods, by name.
    pub(super) async fn pods(&self) -> anyhow::Result<Vec<Value>> {
        let selector = format!("{},{} in (indexer,search)", self.selector(), names::LABEL_COMPONENT);
        let mut pods = self.client.list(&["get", "pods", "--selector", &selector]).await?;
        pods.sort_by(|a, b| text(a, "/metadata/name").cmp(text(b, "/metadata/name")));
        Ok(pods)
    }

    /// The pods of the Jobs of its tasks.
    pub(super) async fn task_pods(&self) -> anyhow::Result<Vec<Value>> {
        let selector = format!("{}={},{}", names::LABEL_WAL, self.name, names::LABEL_TASK);
        self.client.list(&["get", "pods", "--selector", &selector]).await
    }

    /// The pods of its sinks.
    pub(super) async fn sink_pods(&self) -> anyhow::Result<Vec<Value>> {
        let selector = format!("{},{}", self.selector(), names::LABEL_SINK);
        self.client.list(&["get", "pods", "--selector", &selector]).await
    }

    /// The selector of everything that the operator created for this WAL.
    pub(super) fn selector(&self) -> String {
        format!("app.kubernetes.io/name=tidemark,app.kubernetes.io/instance={}", self.name)
    }

    /// The WAL's Events, oldest first.
    pub(super) async fn events(&self) -> anyhow::Result<Vec<Value>> {
        let selector = format!("involvedObject.kind=WAL,involvedObject.name={}", self.name);
        let mut events = self.client.list(&["get", "events", "--field-selector", &selector]).await?;
        events.sort_by(|a, b| event_time(a).cmp(event_time(b)));
        Ok(events)
    }

    /// The report of the pod `name`.
    pub(super) async fn process(&self, name: &str) -> PodReportResult {
        let forward = self.client.forward(&format!("pod/{name}"), POD_PORT).await?;
        let answer = forward.get("/v1/process", &[], None).await?;
        anyhow::ensure!(answer.status.is_success(), "it answers {}: {}", answer.status, answer.body.trim());
        serde_json::from_str(&answer.body).context("it answers no JSON")
    }

    /// The pods with their reports, fetched at the same time.
    pub(super) async fn processes(&self, pods: Vec<Value>) -> Vec<(Value, PodReportResult)> {
        let asked = pods.into_iter().map(|pod| async move {
            let process = self.process(text(&pod, "/metadata/name")).await;
            (pod, process)
        });
        futures::future::join_all(asked).await
    }

    /// The search Service, forwarded: `kubectl` takes any of its pods that runs, ready or not.
    pub(super) async fn search_service(&self) -> anyhow::Result<PortForward> {
        self.client.forward(&format!("svc/{}-search", self.name), SERVICE_PORT).await
    }

    /// A search pod that is ready and stays, forwarded; `None` if there is none now.
    pub(super) async fn ready_search_pod(&self) -> anyhow::Result<Option<PortForward>> {
        let pods = self.pods().await?;
        let is_ready = |pod: &&Value| {
            text(pod, "/metadata/labels/app.kubernetes.io~1component") == WalComponent::Search.as_str()
                && text(pod, "/metadata/deletionTimestamp").is_empty()
                && readiness(pod).0
        };
        let Some(pod) = pods.iter().find(is_ready) else { return Ok(None) };
        let forward = self.client.forward(&format!("pod/{}", text(pod, "/metadata/name")), POD_PORT).await?;
        Ok(Some(forward))
    }
}

/// A WAL's conditions.
pub(super) fn conditions(wal: &Value) -> &[Value] {
    wal.pointer("/status/conditions").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The text at `pointer`, empty where there is none.
pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The value at `pointer` for display, `-` where there is none.
pub(super) fn display_value(object: &Value, pointer: &str) -> String {
    match object.pointer(pointer) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    }
}

/// When an Event happened last.
pub(super) fn event_time(event: &Value) -> &str {
    ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"]
        .iter()
        .map(|at| text(event, at))
        .find(|time| !time.is_empty())
        .unwrap_or_default()
}

/// Whether a pod's containers are ready, and how often they were started again.
pub(super) fn readiness(pod: &Value) -> (bool, u64) {
    let containers = pod.pointer("/status/containerStatuses").and_then(Value::as_array);
    let containers = containers.map_or(&[][..], Vec::as_slice);
    let ready = !containers.is_empty() && containers.iter().all(|container| container["ready"] == true);
    (ready, containers.iter().filter_map(|container| container["restartCount"].as_u64()).sum())
}

/// Why a pod's container does not run, as Kubernetes reports it.
pub(super) fn waiting(pod: &Value) -> Option<String> {
    let containers = pod.pointer("/status/containerStatuses").and_then(Value::as_array)?;
    let waiting = containers.iter().find_map(|container| container.pointer("/state/waiting"))?;
    Some(format!("{} {}", text(waiting, "/reason"), text(waiting, "/message")).trim().to_owned())
}

/// The rows as lines with aligned columns.
pub(super) fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

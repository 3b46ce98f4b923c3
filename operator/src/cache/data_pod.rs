//! A pod of a WAL, as far as the operator needs it.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use tidemark_crds::names::{self, WalComponent};

use super::name::NamespacedName;

/// A container that was restarted this often and is not ready counts as crashing, whatever its present state is.
const CRASH_RESTARTS: i32 = 3;

/// A data pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DataPod {
    pub(crate) wal: NamespacedName,
    pub(crate) name: Arc<str>,
    pub(crate) uid: Box<str>,
    /// UID of the WAL that it was made for.
    pub(crate) wal_uid: Box<str>,
    pub(crate) component: WalComponent,
    /// Where it can be polled, once its container runs.
    pub(crate) address: Option<Box<str>>,
    pub(crate) terminating: bool,
    /// What keeps it from running.
    pub(crate) trouble: Option<PodTrouble>,
}

/// What keeps a pod from running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PodTrouble {
    /// No node takes it.
    Unschedulable(Box<str>),
    /// This image cannot be pulled.
    Image(Box<str>),
    /// Its container cannot be created.
    Config(Box<str>),
    /// Its program crashes repeatedly, last in this way.
    Crashing(Box<str>),
}

impl DataPod {
    /// Reads a pod; `None` when it is no data pod.
    pub(crate) fn read(pod: &core::Pod) -> Option<Self> {
        let metadata = &pod.metadata;
        let labels = metadata.labels.as_ref()?;
        let component = match labels.get(names::LABEL_COMPONENT)?.as_str() {
            "indexer" => WalComponent::Indexer,
            "search" => WalComponent::Search,
            _ => return None,
        };
        let status = pod.status.as_ref();
        let running = status.and_then(|status| status.phase.as_deref()) == Some("Running");
        let address = status.and_then(|status| status.pod_ip.as_deref()).filter(|ip| running && !ip.is_empty());
        Some(Self {
            wal: NamespacedName::new(metadata.namespace.as_deref()?, labels.get(names::LABEL_WAL)?),
            name: metadata.name.as_deref()?.into(),
            uid: metadata.uid.as_deref()?.into(),
            wal_uid: labels.get(names::LABEL_WAL_UID).map_or("", String::as_str).into(),
            component,
            address: address.map(Box::from),
            terminating: metadata.deletion_timestamp.is_some(),
            trouble: status.and_then(trouble),
        })
    }
}

fn trouble(status: &core::PodStatus) -> Option<PodTrouble> {
    let conditions = status.conditions.iter().flatten();
    let mut unscheduled = conditions
        .filter(|condition| condition.type_ == "PodScheduled" && condition.reason.as_deref() == Some("Unschedulable"));
    if let Some(condition) = unscheduled.next() {
        return Some(PodTrouble::Unschedulable(condition.message.as_deref().unwrap_or_default().into()));
    }
    status.container_statuses.iter().flatten().find_map(container_trouble)
}

fn container_trouble(container: &core::ContainerStatus) -> Option<PodTrouble> {
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
    let reason = waiting.and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
    match reason {
        // The kubelet alternates between these in other words each time; the condition must not.
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
            Some(PodTrouble::Image(container.image.as_str().into()))
        }
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            let message = waiting.and_then(|waiting| waiting.message.as_deref()).unwrap_or(reason);
            Some(PodTrouble::Config(message.into()))
        }
        "CrashLoopBackOff" => Some(PodTrouble::Crashing(last_end(container))),
        _ if container.restart_count >= CRASH_RESTARTS && !container.ready => {
            Some(PodTrouble::Crashing(last_end(container)))
        }
        _ => None,
    }
}

/// How the container ended last.
fn last_end(container: &core::ContainerStatus) -> Box<str> {
    let end = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    match end {
        Some(end) => format!("{}, exit code {}", end.reason.as_deref().unwrap_or("Error"), end.exit_code).into(),
        None => "how it ended is not known".into(),
    }
}

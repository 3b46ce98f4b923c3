//! The pod of a sink, and the labels of what belongs to one.

use std::collections::BTreeMap;

use tidemark_crds::names;

use super::{
    data_pod_plan::{account_digest, port, with_identity},
    environment,
    metadata::{component_labels, jobs_labels},
    platform::PlatformSettings,
    volumes,
};
use crate::{
    controllers::wal::validate::{StorePlace, ValidatedRole, ValidatedWal},
    pod::{MountedVolume, PodPlan},
};

/// Seconds that a sink has to store what is acknowledged and to release its consumer.
const GRACE_SECS: i64 = 30;

/// What makes the pods of sinks differ from each other.
pub(crate) struct SinkPodSettings<'a> {
    /// What it runs.
    pub(crate) image: &'a str,
    /// Variables beside those of the index.
    pub(crate) variables: Vec<(&'static str, String)>,
    /// Volumes beside those of the index.
    pub(crate) volumes: Vec<MountedVolume>,
    pub(crate) service_account: String,
    /// Labels that say whose it is.
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) role: &'a ValidatedRole,
}

/// A pod that has the index of the WAL and no other of its stores, and reports on the common port.
pub(crate) fn plan<'a>(
    wal: &'a ValidatedWal,
    platform: &'a PlatformSettings,
    settings: SinkPodSettings<'a>,
) -> PodPlan<'a> {
    let SinkPodSettings { image, variables, volumes: further, service_account, labels, role } = settings;
    let stores = [(StorePlace::Index, &wal.stores.index.1)];
    let mut volumes = volumes::common(&stores, &role.cache);
    volumes.extend(further);
    PodPlan {
        container: names::COMPONENT_SINK,
        image,
        image_pull_policy: platform.image_pull_policy.as_deref(),
        arguments: vec![names::COMPONENT_SINK.to_owned()],
        environment: environment::sink(wal, &stores, &role.cache, &variables),
        ports: vec![port()],
        volumes,
        // A sink that waits, for its destination or for another process of its name, is in order: a restart would not help. One that
        // cannot go on ends by itself.
        liveness: None,
        readiness: None,
        lifecycle: None,
        labels: with_identity(wal, &stores, labels),
        annotations: account_digest(&role.service_account_annotations),
        service_account,
        restart_policy: None,
        grace_secs: GRACE_SECS,
        spread: None,
        resources: &role.resources,
        user: &role.template,
    }
}

/// The labels of the children of the sink `sink` of the WAL, and of its pod.
pub(crate) fn labels(wal: &ValidatedWal, sink: &str, uid: &str) -> BTreeMap<String, String> {
    let mut labels = jobs_labels(wal, names::COMPONENT_SINK);
    labels.insert(names::LABEL_SINK.to_owned(), sink.to_owned());
    labels.insert(names::LABEL_SINK_UID.to_owned(), uid.to_owned());
    labels
}

/// The labels that select the pod of a sink. They never change: a Deployment's selector cannot.
pub(crate) fn selector_labels(wal: &ValidatedWal, sink: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from(component_labels(wal, names::COMPONENT_SINK));
    labels.insert(names::LABEL_SINK.to_owned(), sink.to_owned());
    labels
}

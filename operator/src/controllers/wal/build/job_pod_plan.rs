//! The pod of a job.

use std::collections::BTreeMap;

use tidemark_crds::names;

use super::{data_pod_plan::with_identity, environment, metadata::jobs_labels, platform::PlatformSettings, volumes};
use crate::{controllers::wal::validate::ValidatedWal, pod::PodPlan};

/// Seconds that a job has to end by itself. What it wrote by then is resumed by the next attempt.
const GRACE_SECS: i64 = 30;

/// What makes the pods of jobs differ from each other.
pub(crate) struct JobSettings<'a> {
    /// What it runs.
    pub(crate) image: &'a str,
    /// Command of the program, with its arguments.
    pub(crate) arguments: Vec<String>,
    pub(crate) service_account: String,
    /// Labels that say whose it is.
    pub(crate) labels: BTreeMap<String, String>,
    /// Names the task for good: another one has another name, and all attempts have one.
    pub(crate) task: String,
    /// Whether it copies snapshots, and has the store of the copies for that.
    pub(crate) copies: bool,
}

/// A pod that has the WAL's stores, runs once, and listens to nobody.
pub(crate) fn plan<'a>(
    wal: &'a ValidatedWal,
    platform: &'a PlatformSettings,
    settings: JobSettings<'a>,
) -> PodPlan<'a> {
    let JobSettings { image, arguments, service_account, labels, task, copies } = settings;
    let role = &wal.jobs.role;
    let stores = if copies { wal.stores.with_copy() } else { wal.stores.of_index() };
    PodPlan {
        container: names::COMPONENT_JOBS,
        image,
        image_pull_policy: platform.image_pull_policy.as_deref(),
        arguments,
        environment: environment::job(wal, &stores, &task),
        ports: Vec::new(),
        volumes: volumes::common(&stores, &role.cache),
        liveness: None,
        readiness: None,
        lifecycle: None,
        labels: with_identity(wal, &stores, labels),
        annotations: BTreeMap::new(),
        service_account,
        restart_policy: Some("Never"),
        grace_secs: GRACE_SECS,
        spread: None,
        resources: &role.resources,
        user: &role.template,
    }
}

/// The labels of a Job of the WAL and of its pod; `further` say which.
pub(crate) fn labels(wal: &ValidatedWal, further: [(&str, &str); 2]) -> BTreeMap<String, String> {
    let mut labels = jobs_labels(wal, names::COMPONENT_JOBS);
    labels.extend(further.map(|(name, value)| (name.to_owned(), value.to_owned())));
    labels
}

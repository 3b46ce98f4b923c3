//! What a pod is for, and the template that follows from it.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Affinity, Container, ContainerPort, EnvVar, Lifecycle, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
        ResourceRequirements, SeccompProfile, TopologySpreadConstraint, VolumeMount,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use tidemark_crds::PodTemplateSettings;

use super::{
    container::{self, some},
    mounted_volume::{MountedVolume, node_disk_bytes},
};

/// User and group of the image.
const USER_ID: i64 = 65532;

/// A pod of one container: everything that makes it differ from other pods of ours.
pub(crate) struct PodPlan<'a> {
    /// Name of the container.
    pub(crate) container: &'static str,
    pub(crate) image: &'a str,
    /// When the kubelet pulls the image; `None` leaves it to Kubernetes.
    pub(crate) image_pull_policy: Option<&'a str>,
    /// Command of the program, with its arguments.
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<EnvVar>,
    pub(crate) ports: Vec<ContainerPort>,
    pub(crate) volumes: Vec<MountedVolume>,
    pub(crate) liveness: Option<Probe>,
    pub(crate) readiness: Option<Probe>,
    pub(crate) lifecycle: Option<Lifecycle>,
    /// Labels of the pod: they say whose it is, and what selects it.
    pub(crate) labels: BTreeMap<String, String>,
    /// Annotations of the pod.
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) service_account: String,
    /// `None` is `Always`, the only one that a Deployment takes.
    pub(crate) restart_policy: Option<&'static str>,
    /// Seconds until a pod that is to stop is killed, unless the user asks for others.
    pub(crate) grace_secs: i64,
    /// How pods spread, unless the user asks for another way.
    pub(crate) spread: Option<PodSpread>,
    /// Requests and limits of the role; those of the user's template replace them, name by name.
    pub(crate) resources: &'a ResourceRequirements,
    /// What the user's template adds.
    pub(crate) user: &'a PodTemplateSettings,
}

/// How the pods of a role keep apart, as far as that is possible.
pub(crate) struct PodSpread {
    /// Over nodes.
    pub(crate) constraints: Vec<TopologySpreadConstraint>,
    /// Over zones, where nodes have one.
    pub(crate) affinity: Affinity,
}

impl PodPlan<'_> {
    /// Seconds until a pod that is to stop is killed.
    pub(crate) fn termination_grace_secs(&self) -> i64 {
        self.user.termination_grace_period_seconds.unwrap_or(self.grace_secs)
    }

    /// The template for a Deployment or a Job.
    pub(crate) fn template(mut self) -> PodTemplateSpec {
        // Ours come last: they select the pods.
        let mut labels = self.user.labels.clone();
        labels.append(&mut self.labels);
        let mut annotations = self.user.annotations.clone();
        annotations.append(&mut self.annotations);
        let metadata = ObjectMeta {
            labels: Some(labels),
            annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
            ..ObjectMeta::default()
        };
        PodTemplateSpec { metadata: Some(metadata), spec: Some(self.spec()) }
    }

    fn spec(mut self) -> PodSpec {
        let user = self.user;
        let disk_bytes = node_disk_bytes(&self.volumes);
        let (volumes, mounts) = std::mem::take(&mut self.volumes).into_iter().unzip();
        let spread = self.spread.take().map(|PodSpread { constraints, affinity }| (constraints, affinity));
        let (constraints, affinity) = spread.unzip();
        // A user who says how pods spread says all of it.
        let affinity = affinity.filter(|_| user.topology_spread_constraints.is_none());
        PodSpec {
            service_account_name: Some(self.service_account.clone()),
            automount_service_account_token: Some(false),
            // A Service that is called "tidemark" would set variables that look like ours.
            enable_service_links: Some(false),
            security_context: Some(security()),
            volumes: some(volumes),
            restart_policy: self.restart_policy.map(str::to_owned),
            termination_grace_period_seconds: Some(self.termination_grace_secs()),
            node_selector: Some(user.node_selector.clone()).filter(|selector| !selector.is_empty()),
            tolerations: some(user.tolerations.clone()),
            affinity: user.affinity.clone().or(affinity),
            topology_spread_constraints: user.topology_spread_constraints.clone().map_or(constraints, some),
            priority_class_name: user.priority_class_name.clone(),
            image_pull_secrets: some(user.image_pull_secrets.clone()),
            containers: vec![self.container(mounts, disk_bytes)],
            ..PodSpec::default()
        }
    }

    fn container(self, mounts: Vec<VolumeMount>, disk_bytes: u64) -> Container {
        Container {
            name: self.container.to_owned(),
            image: Some(self.image.to_owned()),
            image_pull_policy: self.image_pull_policy.map(str::to_owned),
            args: Some(self.arguments),
            env: some([self.environment, self.user.env.clone()].concat()),
            ports: some(self.ports),
            volume_mounts: some(mounts),
            resources: Some(container::resources(self.resources, self.user.resources.as_ref(), disk_bytes)),
            liveness_probe: self.liveness,
            readiness_probe: self.readiness,
            lifecycle: self.lifecycle,
            security_context: Some(container::security()),
            // The last lines of a process that ended say why.
            termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
            ..Container::default()
        }
    }
}

fn security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER_ID),
        run_as_group: Some(USER_ID),
        // Without it the user could not read the mounted keys.
        fs_group: Some(USER_ID),
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::batch::v1::{Job, JobSpec},
        apimachinery::pkg::apis::meta::v1::OwnerReference,
    };
    use serde_json::json;

    use super::*;
    use crate::{child_metadata::child_metadata, pod};

    fn user() -> PodTemplateSettings {
        PodTemplateSettings {
            labels: [("team", "a"), ("job", "theirs")].map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            termination_grace_period_seconds: Some(7),
            ..PodTemplateSettings::default()
        }
    }

    fn plan<'a>(user: &'a PodTemplateSettings, resources: &'a ResourceRequirements) -> PodPlan<'a> {
        PodPlan {
            container: "task",
            image: "tidemark.dev/tidemark:0.1.0",
            image_pull_policy: None,
            arguments: ["verify", "--once"].map(str::to_owned).into(),
            environment: Vec::new(),
            ports: Vec::new(),
            volumes: vec![pod::scratch("tmp", "/tmp", 1 << 30)],
            liveness: None,
            readiness: None,
            lifecycle: None,
            labels: [("job".to_owned(), "ours".to_owned())].into(),
            annotations: BTreeMap::new(),
            service_account: "orders-jobs".to_owned(),
            restart_policy: Some("Never"),
            grace_secs: 30,
            spread: None,
            resources,
            user,
        }
    }

    /// A Job refuses pods that restart always, needs no probes, and is owned by something that is no WAL.
    #[test]
    fn a_plan_makes_the_pod_of_a_job_as_well() {
        let (user, resources) = (user(), ResourceRequirements::default());
        let owner = OwnerReference {
            api_version: "tidemark.dev/v1alpha1".to_owned(),
            kind: "Other".to_owned(),
            name: "verify-1".to_owned(),
            uid: "u".to_owned(),
            controller: Some(true),
            block_owner_deletion: None,
        };
        let job = Job {
            metadata: child_metadata("data", &owner, "verify-1-1".to_owned(), [].into()),
            spec: Some(JobSpec { template: plan(&user, &resources).template(), ..JobSpec::default() }),
            ..Job::default()
        };
        let job = serde_json::to_value(job).unwrap();
        assert_eq!(job["metadata"]["ownerReferences"][0]["kind"], "Other");
        let template = &job["spec"]["template"];
        assert_eq!(template["metadata"]["labels"], json!({"team": "a", "job": "ours"}));
        let pod = &template["spec"];
        assert_eq!((&pod["restartPolicy"], &pod["serviceAccountName"]), (&json!("Never"), &json!("orders-jobs")));
        assert_eq!(pod["terminationGracePeriodSeconds"], 7, "the user's");
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        let container = &pod["containers"][0];
        assert_eq!(container["args"], json!(["verify", "--once"]));
        assert_eq!(container["volumeMounts"][0]["mountPath"], "/tmp");
        assert_eq!(container["resources"]["requests"]["ephemeral-storage"], "1Gi", "the scheduler knows");
        for absent in ["ports", "livenessProbe", "readinessProbe", "lifecycle", "env"] {
            assert!(container[absent].is_null(), "{absent}");
        }
    }

    #[test]
    fn probes_are_those_of_the_plan() {
        let (user, resources) = (user(), ResourceRequirements::default());
        let alive = pod::http_probe("http", "/healthz", 10, 6);
        let plan = PodPlan { liveness: Some(alive), restart_policy: None, ..plan(&user, &resources) };
        let template = serde_json::to_value(plan.template()).unwrap();
        assert!(template["spec"]["restartPolicy"].is_null());
        let container = &template["spec"]["containers"][0];
        assert_eq!(container["livenessProbe"]["httpGet"], json!({"path": "/healthz", "port": "http"}));
        assert!(container["readinessProbe"].is_null());
    }
}

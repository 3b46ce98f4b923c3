//! Names, labels and annotations that several parts agree on.

use serde::{Deserialize, Serialize};

/// API group of the resources.
pub const GROUP: &str = "tidemark.dev";
/// Version of the API.
pub const VERSION: &str = "v1alpha1";
/// The kind of a write-ahead log.
pub const KIND: &str = "WAL";
/// The kind of what is done once to a WAL.
pub const TASK_KIND: &str = "WALTask";
/// The kind of what delivers the changes of a WAL's index.
pub const SINK_KIND: &str = "WALSink";
/// Category that `kubectl get tidemark` lists.
pub const CATEGORY: &str = "tidemark";

/// What a WAL may be called: with every suffix its children's names are labels of DNS.
pub const WAL_NAME_PATTERN: &str = "^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$";

/// Label: the program, always [`APP`].
pub const LABEL_NAME: &str = "app.kubernetes.io/name";
/// Label: the WAL's name.
pub const LABEL_INSTANCE: &str = "app.kubernetes.io/instance";
/// Label: the role, a [`WalComponent`].
pub const LABEL_COMPONENT: &str = "app.kubernetes.io/component";
/// Label: who manages the object, always [`MANAGED_BY`].
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Label: the WAL's name. With [`LABEL_WAL_UID`] it finds the children of one WAL.
pub const LABEL_WAL: &str = "tidemark.dev/wal";
/// Label: the WAL's UID. A child that bears another one is an orphan of an earlier WAL of the same name.
pub const LABEL_WAL_UID: &str = "tidemark.dev/wal-uid";

/// Label of a Job and its pod: name of the task that they are an attempt of.
pub const LABEL_TASK: &str = "tidemark.dev/task";
/// Label of a Job and its pod: type of their task.
pub const LABEL_TASK_TYPE: &str = "tidemark.dev/task-type";
/// Label of a task that a schedule of its WAL made: the schedule, a type of task in lower case.
pub const LABEL_SCHEDULE: &str = "tidemark.dev/schedule";
/// Annotation of such a task: the time at which it was due, to the minute.
pub const ANNOTATION_SLOT: &str = "tidemark.dev/slot";
/// Annotation of such a task: what the index held when it was made, as JSON.
pub const ANNOTATION_INDEX_FIGURES: &str = "tidemark.dev/index-figures";
/// Value of [`LABEL_COMPONENT`] on Jobs, their pods and their ServiceAccount.
pub const COMPONENT_JOBS: &str = "jobs";
/// Value of [`LABEL_COMPONENT`] on the ServiceAccount of cleanups.
pub const COMPONENT_CLEANUP: &str = "cleanup";

/// Label of what belongs to a sink: its name.
pub const LABEL_SINK: &str = "tidemark.dev/sink";
/// Label of what belongs to a sink: its UID.
pub const LABEL_SINK_UID: &str = "tidemark.dev/sink-uid";
/// Value of [`LABEL_COMPONENT`] on the children of a sink and its pods, and the suffix of their names: none is named like a WAL's.
pub const COMPONENT_SINK: &str = "sink";

/// Value of [`LABEL_NAME`].
pub const APP: &str = "tidemark";
/// Value of [`LABEL_MANAGED_BY`].
pub const MANAGED_BY: &str = "tidemark-operator";
/// Value of [`LABEL_NAME`] on the operator's own pods: NetworkPolicies let these in.
pub const OPERATOR_APP: &str = "tidemark-operator";

/// Annotation of the data Deployments: the release revision that they were built by.
pub const ANNOTATION_RELEASE: &str = "tidemark.dev/release";
/// Annotation of the data Deployments: digest of the part of the spec that their pods are made of.
pub const ANNOTATION_SPEC_DIGEST: &str = "tidemark.dev/spec-digest";
/// Annotation of a WAL: the release revision that its owner agrees to.
pub const ANNOTATION_APPROVE_UPGRADE: &str = "tidemark.dev/approve-upgrade";
/// Finalizer of a WAL whose index is removed with it.
pub const FINALIZER_PURGE: &str = "tidemark.dev/purge";

/// Field manager of the children.
pub const MANAGER_CHILDREN: &str = "tidemark-operator-wal";
/// Field manager of a WAL's status.
pub const MANAGER_STATUS: &str = "tidemark-operator-wal-status";

/// Field manager of the Jobs.
pub const MANAGER_TASK_CHILDREN: &str = "tidemark-operator-waltask";
/// Field manager of a task's status.
pub const MANAGER_TASK_STATUS: &str = "tidemark-operator-waltask-status";

/// Field manager of a sink's children.
pub const MANAGER_SINK_CHILDREN: &str = "tidemark-operator-walsink";
/// Field manager of a sink's status.
pub const MANAGER_SINK_STATUS: &str = "tidemark-operator-walsink-status";

/// Name of the port on which a data pod and the Service answer.
pub const PORT_NAME: &str = "http";
/// Port of a data pod.
pub const CONTAINER_PORT: u16 = 7280;
/// Port of the search Service.
pub const SERVICE_PORT: u16 = 80;
/// Key of the control ConfigMap that asks for a purge: its value is the UID of the WAL to purge.
pub const CONTROL_PURGE_KEY: &str = "purge";

/// The roles of a WAL's pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum WalComponent {
    /// Tails the log, compacts and publishes.
    #[default]
    Indexer,
    /// Answers queries.
    Search,
}

impl WalComponent {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Indexer, Self::Search];

    /// The value of [`LABEL_COMPONENT`], and the suffix of the children's names.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Indexer => "indexer",
            Self::Search => "search",
        }
    }

    /// Name of the Deployment, ServiceAccount, NetworkPolicy and, for search, Service and PodDisruptionBudget.
    pub fn child_name(self, wal: &str) -> String {
        format!("{wal}-{}", self.as_str())
    }

    /// The labels that select the pods of this role of the WAL `wal`, in the order of their names.
    pub fn selector(self, wal: &str) -> [(&'static str, String); 3] {
        [(LABEL_COMPONENT, self.as_str().to_owned()), (LABEL_INSTANCE, wal.to_owned()), (LABEL_NAME, APP.to_owned())]
    }

    /// [`Self::selector`] as `kubectl --selector` and the scale subresource write it.
    pub fn selector_text(self, wal: &str) -> String {
        self.selector(wal).map(|(name, value)| format!("{name}={value}")).join(",")
    }
}

/// Name of the ConfigMap through which the operator asks the indexer for something.
pub fn control_config_map(wal: &str) -> String {
    format!("{wal}-control")
}

/// Name of the ServiceAccount of jobs.
pub fn jobs_service_account(wal: &str) -> String {
    format!("{wal}-{COMPONENT_JOBS}")
}

/// Name of the NetworkPolicy of jobs.
pub fn jobs_network_policy(wal: &str) -> String {
    format!("{wal}-{COMPONENT_JOBS}")
}

/// Name of the ServiceAccount of cleanups: the only one that needs a right to delete from the log.
pub fn cleanup_service_account(wal: &str) -> String {
    format!("{wal}-{COMPONENT_CLEANUP}")
}

/// Name of the Deployment, ServiceAccount and NetworkPolicy of a sink.
pub fn sink_child(sink: &str) -> String {
    format!("{sink}-{COMPONENT_SINK}")
}

/// Name of a sink's consumer in the index, which has at most 40 characters. A sink that is made again has another one: it begins where
/// its spec says, and not where the one before was, whose destination may have been another one.
pub fn sink_consumer(sink: &str, uid: &str) -> String {
    let sink: String = sink.chars().take(31).collect();
    let uid: String = uid.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    format!("{}-{}", sink.trim_end_matches('-'), uid.to_ascii_lowercase())
}

/// Name of the task that a schedule of `wal` makes for a slot, which is counted in minutes since 1970: whoever makes it, it is the
/// same one.
pub fn scheduled_task(wal: &str, schedule: &str, minute: u64) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut digits: Vec<u8> = std::iter::successors(Some(minute), |left| (*left >= 36).then_some(left / 36))
        .map(|left| DIGITS[usize::try_from(left % 36).unwrap_or_default()])
        .collect();
    digits.reverse();
    format!("{wal}-{schedule}-{}", digits.into_iter().map(char::from).collect::<String>())
}

/// Name of the Job of a task's attempt, which counts from 1.
pub fn job(task: &str, attempt: usize) -> String {
    format!("{task}-{attempt}")
}

/// The address of the search Service inside the cluster.
pub fn search_url(namespace: &str, wal: &str) -> String {
    format!("http://{}.{namespace}.svc", WalComponent::Search.child_name(wal))
}

/// The owner that a data pod registers with the log: `k8s:<cluster id>/<namespace>/<name>/<uid>`.
pub fn owner(cluster_id: &str, namespace: &str, wal: &str, uid: &str) -> String {
    format!("k8s:{cluster_id}/{namespace}/{wal}/{uid}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_longest_name_makes_labels_of_dns() {
        let pattern = regex::Regex::new(WAL_NAME_PATTERN).unwrap();
        let longest = "a".repeat(40);
        assert!(pattern.is_match(&longest) && !pattern.is_match(&"a".repeat(41)));
        assert!(WalComponent::ALL.iter().all(|component| component.child_name(&longest).len() <= 63));
        assert!(control_config_map(&longest).len() <= 63);
        assert!(cleanup_service_account(&longest).len() <= 63);
        assert!(job(&"a".repeat(59), 10).len() <= 63);
        assert!(scheduled_task(&longest, "snapshot", 36_u64.pow(6)).len() <= 59);
    }

    #[test]
    fn a_sink_that_is_made_again_is_another_consumer() {
        let uid = "0F8fad5b-d9cb-469f-a165-70867728950e";
        assert_eq!(sink_consumer("orders-opensearch", uid), "orders-opensearch-0f8fad5b");
        assert_ne!(sink_consumer("a", uid), sink_consumer("a", "7c9e6679-7425-40de-944b-e07fc1f90ae7"));
        assert!(sink_child(&"a".repeat(40)).len() <= 63);
    }

    proptest! {
        /// As the catalog takes it: what begins the name of a sink, and digits of a UID behind it.
        #[test]
        fn the_consumer_of_each_sink_has_a_name_that_the_catalog_takes(
            sink in "[a-z]([-a-z0-9]{0,38}[a-z0-9])?", uid in "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}",
        ) {
            let consumer = sink_consumer(&sink, &uid);
            prop_assert!(regex::Regex::new(WAL_NAME_PATTERN).unwrap().is_match(&consumer), "{}", consumer);
            prop_assert!(consumer.ends_with(&uid[..8]));
        }
    }

    #[test]
    fn a_slot_has_one_name() {
        assert_eq!(scheduled_task("orders", "snapshot", 0), "orders-snapshot-0");
        assert_eq!(scheduled_task("orders", "verify", 35), "orders-verify-z");
        assert_eq!(scheduled_task("orders", "cleanup", 36 * 36 + 1), "orders-cleanup-101");
    }

    #[test]
    fn the_selector_is_written_in_the_order_of_names() {
        assert_eq!(
            WalComponent::Search.selector_text("orders"),
            "app.kubernetes.io/component=search,app.kubernetes.io/instance=orders,app.kubernetes.io/name=tidemark"
        );
    }
}

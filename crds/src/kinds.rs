//! The kinds of resources, in one table.
//!
//! The generated files with the chart's definitions and access rights, `lint` and the operator's check of the installed
//! definitions all read it, so that a kind that is added here is known everywhere.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use crate::{
    crd::{crd_yaml, wal_crd, wal_sink_crd, wal_task_crd},
    names,
};

/// A kind of resource of this API group.
#[derive(Clone, Copy, Debug)]
pub struct ResourceKind {
    /// `kind` of its objects.
    pub kind: &'static str,
    /// Name of the resource in URLs and in RBAC rules.
    pub plural: &'static str,
    /// Version of the API that this release speaks.
    pub version: &'static str,
    /// Its definition.
    pub definition: fn() -> CustomResourceDefinition,
    /// Where in its objects a role with a pod template is, such as `spec.indexer`.
    pub pod_roles: &'static [&'static str],
    /// Fields of its `spec` that hold a cron schedule with its time zone.
    pub schedules: &'static [&'static str],
    /// What the operator may do with its objects, beside writing their status.
    pub operator_verbs: &'static [&'static str],
    /// What it needs these verbs for: one sentence.
    pub operator_reason: &'static str,
    /// Who may make, change and delete its objects.
    pub writers: ResourceWriters,
}

/// Users who may make, change and delete the objects of a kind. Each aggregated role includes those of lesser ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResourceWriters {
    /// Who may edit what is in a namespace.
    Editors,
    /// Who administers a namespace.
    Admins,
}

/// Every kind.
pub const KINDS: &[ResourceKind] = &[
    ResourceKind {
        kind: names::KIND,
        plural: "wals",
        version: names::VERSION,
        definition: wal_crd,
        pod_roles: &["spec.indexer", "spec.search", "spec.jobs"],
        schedules: &["snapshots", "cleanup", "verify", "gc"],
        operator_verbs: &["get", "list", "watch", "patch"],
        operator_reason: "Reads the WALs it serves; a patch sets and removes the purge finalizer.",
        writers: ResourceWriters::Editors,
    },
    ResourceKind {
        kind: names::TASK_KIND,
        plural: "waltasks",
        version: names::VERSION,
        definition: wal_task_crd,
        pod_roles: &[],
        schedules: &[],
        operator_verbs: &["get", "list", "watch", "create", "delete"],
        operator_reason: "Runs the tasks that it is given, makes those that are due, and deletes those that ended long ago.",
        // A task deletes from the log, or takes an index back to an earlier state.
        writers: ResourceWriters::Admins,
    },
    ResourceKind {
        kind: names::SINK_KIND,
        plural: "walsinks",
        version: names::VERSION,
        definition: wal_sink_crd,
        pod_roles: &["spec"],
        schedules: &[],
        operator_verbs: &["get", "list", "watch"],
        operator_reason: "Reads the sinks whose pods it runs.",
        writers: ResourceWriters::Editors,
    },
];

impl ResourceKind {
    /// Name of the definition, such as `wals.tidemark.dev`.
    pub fn definition_name(&self) -> String {
        format!("{}.{}", self.plural, names::GROUP)
    }

    /// Name of the generated file.
    pub fn file_name(&self) -> String {
        format!("{}.yaml", self.plural)
    }

    /// Whether its objects have a scale subresource.
    pub(crate) fn scales(&self) -> bool {
        let versions = (self.definition)().spec.versions;
        versions.iter().filter_map(|version| version.subresources.as_ref()).any(|parts| parts.scale.is_some())
    }

    /// Content of the generated file.
    pub fn definition_yaml(&self) -> Result<String, serde_norway::Error> {
        crd_yaml(&(self.definition)())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_definition_bears_the_names_of_the_table() {
        for kind in KINDS {
            let definition = (kind.definition)();
            assert_eq!(definition.metadata.name, Some(kind.definition_name()));
            assert_eq!(
                (definition.spec.names.kind.as_str(), definition.spec.names.plural.as_str()),
                (kind.kind, kind.plural)
            );
            let version = definition.spec.versions.iter().find(|version| version.name == kind.version).unwrap();
            // The operator may write the status, and nothing else of an object beside its finalizers.
            assert!(version.subresources.as_ref().is_some_and(|parts| parts.status.is_some()), "{}", kind.kind);
            let schema = serde_json::to_value(&version.schema).unwrap();
            for role in kind.pod_roles {
                let path = role.replace('.', "/properties/");
                let path = format!("/openAPIV3Schema/properties/{path}/properties/podTemplate");
                assert!(schema.pointer(&path).is_some(), "{} has no {path}", kind.kind);
            }
            for part in kind.schedules {
                let path = format!("/openAPIV3Schema/properties/spec/properties/{part}/properties/timeZone");
                assert!(schema.pointer(&path).is_some(), "{} has no {path}", kind.kind);
            }
        }
    }
}

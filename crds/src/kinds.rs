//! The kinds of resources, in one table.
//!
//! The generated files, `lint`, the operator's check of the installed definitions and the tests of the chart all read it, so
//! that a kind that is added here is known everywhere.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use crate::{
    crd::{crd_yaml, wal_crd},
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
    /// Fields of its `spec` that hold a role with a pod template.
    pub pod_roles: &'static [&'static str],
}

/// Every kind.
pub const KINDS: &[ResourceKind] = &[ResourceKind {
    kind: names::KIND,
    plural: "wals",
    version: names::VERSION,
    definition: wal_crd,
    pod_roles: &["indexer", "search"],
}];

impl ResourceKind {
    /// Name of the definition, such as `wals.tidemark.dev`.
    pub fn definition_name(&self) -> String {
        format!("{}.{}", self.plural, names::GROUP)
    }

    /// Name of the generated file.
    pub fn file_name(&self) -> String {
        format!("{}.yaml", self.plural)
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
            let schema = serde_json::to_value(&version.schema).unwrap();
            for role in kind.pod_roles {
                let path = format!("/openAPIV3Schema/properties/spec/properties/{role}/properties/podTemplate");
                assert!(schema.pointer(&path).is_some(), "{} has no {path}", kind.kind);
            }
        }
    }

    #[test]
    fn the_generated_files_are_those_of_the_types() {
        for kind in KINDS {
            let file = format!("{}/generated/{}", env!("CARGO_MANIFEST_DIR"), kind.file_name());
            let kept = std::fs::read_to_string(&file).unwrap();
            assert!(kept == kind.definition_yaml().unwrap(), "run `cargo run -p tidemark-crds --bin crdgen`");
        }
    }
}

//! Finalizers: set and removed.
//!
//! `kube::runtime::finalizer` wraps a whole reconciliation and keeps the finalizer on every object until it is deleted. Here the deletion
//! policy decides whether a WAL has one, and may change; so the two writes alone are what is needed.

use std::fmt::Debug;

use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::cache::NamespacedName;

/// A finalizer, and who writes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ManagedFinalizer {
    pub(crate) name: &'static str,
    pub(crate) field_manager: &'static str,
}

impl ManagedFinalizer {
    /// Whether the object has it.
    pub(crate) fn is_on(self, metadata: &ObjectMeta) -> bool {
        metadata.finalizers.iter().flatten().any(|finalizer| finalizer == self.name)
    }

    /// Adds or removes it, unless the object has changed meanwhile: then the next reconciliation tries again. Answers whether
    /// the object still existed.
    pub(crate) async fn set<K>(self, client: &Client, metadata: &ObjectMeta, present: bool) -> Result<bool, kube::Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let mut finalizers = metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|finalizer| finalizer != self.name);
        if present {
            finalizers.push(self.name.to_owned());
        }
        let key = NamespacedName::of(metadata);
        let api: Api<K> = Api::namespaced(client.clone(), &key.namespace);
        let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": metadata.resource_version}});
        let params = PatchParams { field_manager: Some(self.field_manager.to_owned()), ..PatchParams::default() };
        match api.patch_metadata(&key.name, &params, &Patch::Merge(&patch)).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            Err(error) => Err(error),
        }
    }
}

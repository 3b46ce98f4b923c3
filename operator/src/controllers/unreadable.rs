//! An object that this release cannot read: it was stored before the rules of the schema, or by a newer release.

use jiff::Timestamp;
use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Api, Client, Resource,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, error_boundary::InvalidObject},
};
use serde_json::{Value, json};
use tidemark_crds::{ConditionKind, ConditionStatus, Reason, condition, set_condition};

use crate::cache::NamespacedName;

/// Reports it in a log line and, where the API server takes it, in the condition `ready` of the object. Answers the conditions
/// that it has by that; none if it is gone.
pub(crate) async fn report<K>(
    invalid: &InvalidObject,
    client: &Client,
    ready: impl ConditionKind,
    field_manager: &str,
    now: Timestamp,
) -> Result<Vec<Condition>, kube::Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let (key, kind) = (NamespacedName::of(&invalid.metadata), K::kind(&()));
    let message = format!(
        "the {kind} cannot be read: {}; its pods stay as they are; correct the spec, or run the release that wrote it",
        invalid.error
    );
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &key.namespace, &ApiResource::erase::<K>(&()));
    let Some(live) = api.get_opt(&key.name).await? else { return Ok(Vec::new()) };
    let conditions = live.data.pointer("/status/conditions").cloned().unwrap_or_default();
    let mut conditions: Vec<Condition> = serde_json::from_value(conditions).unwrap_or_default();
    if condition(&conditions, ready).is_some_and(|ready| ready.message == message) {
        return Ok(conditions);
    }
    tracing::error!(object = %key, "{message}");
    let generation = invalid.metadata.generation;
    set_condition(&mut conditions, ready, ConditionStatus::False, Reason::SpecInvalid, &message, generation, now);
    let patch: Value = json!({"status": {"conditions": conditions}});
    let params = PatchParams { field_manager: Some(field_manager.to_owned()), ..PatchParams::default() };
    match api.patch_status(&key.name, &params, &Patch::Merge(&patch)).await {
        Ok(_) => Ok(conditions),
        // The API server checks the whole object against the schema, which it does not meet.
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 404 | 422) => Ok(conditions),
        Err(error) => Err(error),
    }
}

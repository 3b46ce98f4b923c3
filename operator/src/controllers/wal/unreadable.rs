//! A WAL that this release cannot read: one that was stored before the rules of the schema, or by a newer release.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, error_boundary::InvalidObject},
};
use serde_json::{Value, json};
use tidemark_crds::{ConditionStatus, ConditionType, Reason, Wal, condition, names, set_condition};

use super::name_of;
use crate::context::Scope;

/// Says so in a log line, a metric and, where the API server takes it, in the WAL's `Ready` condition.
pub(crate) async fn report(invalid: &InvalidObject, scope: &Scope, now: Timestamp) -> Result<(), kube::Error> {
    let key = name_of(&invalid.metadata);
    scope.shared.metrics.invalid_object();
    let message = format!(
        "the WAL cannot be read: {}; its pods stay as they are; correct the spec, or run the release that wrote it",
        invalid.error
    );
    let resource = ApiResource::erase::<Wal>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(scope.shared.client.clone(), &key.namespace, &resource);
    let Some(live) = api.get_opt(&key.name).await? else { return Ok(()) };
    let conditions = live.data.pointer("/status/conditions").cloned().unwrap_or_default();
    let mut conditions: Vec<Condition> = serde_json::from_value(conditions).unwrap_or_default();
    let ready = condition(&conditions, ConditionType::Ready);
    if ready.is_some_and(|ready| ready.message == message) {
        return Ok(());
    }
    tracing::error!(wal = %key, "{message}");
    let generation = invalid.metadata.generation;
    let (kind, status, reason) = (ConditionType::Ready, ConditionStatus::False, Reason::SpecInvalid);
    set_condition(&mut conditions, kind, status, reason, &message, generation, now);
    let patch: Value = json!({"status": {"conditions": conditions}});
    let params = PatchParams { field_manager: Some(names::MANAGER_STATUS.to_owned()), ..PatchParams::default() };
    match api.patch_status(&key.name, &params, &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        // The API server holds the object to a schema that it does not meet.
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 404 | 422) => Ok(()),
        Err(error) => Err(error),
    }
}

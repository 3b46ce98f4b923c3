//! An object that this release cannot read: it was stored before the rules of the schema, or by a newer release.

use jiff::Timestamp;
use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Api, Client, Resource,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, error_boundary::InvalidObject},
};
use serde_json::json;
use tidemark_crds::{ConditionKind, ConditionStatus, ConditionType, Reason, remove_condition, set_condition};

use crate::{cache::NamespacedName, status_writer::status_patch};

/// Reports it in a log line and, where the API server takes it, in the conditions `ready` and `Stalled` of the object. Answers the
/// conditions that it has by that; none if it is gone. `further` is what else a user must know.
pub(crate) async fn report<K>(
    invalid: &InvalidObject,
    client: &Client,
    ready: impl ConditionKind,
    field_manager: &str,
    further: Option<&str>,
    now: Timestamp,
) -> Result<Vec<Condition>, kube::Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let (key, kind) = (NamespacedName::of(&invalid.metadata), K::kind(&()));
    let mut message = format!(
        "the {kind} cannot be read: {}; its pods stay as they are; correct the spec, or run the release that wrote it",
        invalid.error
    );
    message.extend(further.into_iter().flat_map(|further| ["; ", further]));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &key.namespace, &ApiResource::erase::<K>(&()));
    let Some(live) = api.get_opt(&key.name).await? else { return Ok(Vec::new()) };
    let mut status = live.data.get("status").cloned().unwrap_or_else(|| json!({}));
    let before: Vec<Condition> = serde_json::from_value(status["conditions"].clone()).unwrap_or_default();
    let mut conditions = before.clone();
    let generation = invalid.metadata.generation;
    set_condition(&mut conditions, ready, ConditionStatus::False, Reason::SpecInvalid, &message, generation, now);
    // kstatus reads these two of every kind.
    let stalled = ConditionType::Stalled;
    set_condition(&mut conditions, stalled, ConditionStatus::True, Reason::SpecInvalid, &message, generation, now);
    remove_condition(&mut conditions, ConditionType::Reconciling);
    if conditions == before && status["observedGeneration"].as_i64() == generation {
        return Ok(conditions);
    }
    tracing::error!(object = %key, "{message}");
    (status["observedGeneration"], status["conditions"]) = (json!(generation), json!(conditions));
    // All of it is applied: the field manager's next status takes `Stalled` back, which it would not if a merge had added it.
    let patch = status_patch::<K>(&key.name, invalid.metadata.uid.as_deref(), &status);
    let params = PatchParams::apply(field_manager).force();
    let mut written = api.patch_status(&key.name, &params, &Patch::Apply(&patch)).await;
    if matches!(&written, Err(kube::Error::Api(answer)) if answer.code == 500) {
        // Nothing can be applied to an object that the API server cannot type; a merge may do.
        remove_condition(&mut conditions, stalled);
        let patch = json!({"status": {"conditions": conditions, "observedGeneration": generation}});
        let params = PatchParams { field_manager: Some(field_manager.to_owned()), ..PatchParams::default() };
        written = api.patch_status(&key.name, &params, &Patch::Merge(&patch)).await;
    }
    match written {
        Ok(_) => Ok(conditions),
        // The API server checks the whole object against the schema, which it does not meet. A conflict is another object's.
        Err(kube::Error::Api(answer)) if matches!(answer.code, 400 | 404 | 409 | 422) => Ok(conditions),
        Err(error) => Err(error),
    }
}

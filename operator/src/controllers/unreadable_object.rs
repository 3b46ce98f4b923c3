//! An object that this release cannot read: it was stored before the rules of the schema, or by a newer release.

use jiff::Timestamp;
use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Api, Client, Resource,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, error_boundary::InvalidObject},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use serde_path_to_error::Segment;
use tidemark_crds::{ConditionKind, ConditionStatus, ConditionType, Reason, remove_condition, set_condition};

use crate::{cache::NamespacedName, condition_value::ConditionValue, status_writer::status_patch};

/// Reports it in a log line and, where the API server takes it, in the conditions of the object: those that `values` makes of the
/// message and the conditions before, and `Stalled`; where it makes none the object stays as it is. Answers the conditions that it has by
/// that; none if it is gone. `further` is what else a user must know.
pub(crate) async fn report<K, C: ConditionKind>(
    invalid: &InvalidObject,
    client: &Client,
    values: impl FnOnce(&str, &[Condition]) -> Vec<(C, ConditionValue)>,
    field_manager: &str,
    further: Option<&str>,
    now: Timestamp,
) -> Result<Vec<Condition>, kube::Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
{
    let (key, kind) = (NamespacedName::of(&invalid.metadata), K::kind(&()));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &key.namespace, &ApiResource::erase::<K>(&()));
    let Some(live) = api.get_opt(&key.name).await? else { return Ok(Vec::new()) };
    // One that can be read by now is about to be reconciled.
    let cause = serde_json::to_value(&live).ok().and_then(|live| unreadable_field::<K>(&live));
    let mut message = format!(
        "the {kind} cannot be read: {}; its pods stay as they are; correct the spec, or run the release that wrote it",
        cause.unwrap_or_else(|| invalid.error.clone())
    );
    message.extend(further.into_iter().flat_map(|further| ["; ", further]));
    let mut status = live.data.get("status").cloned().unwrap_or_else(|| json!({}));
    let before: Vec<Condition> = serde_json::from_value(status["conditions"].clone()).unwrap_or_default();
    let values = values(&message, &before);
    if values.is_empty() {
        return Ok(before);
    }
    let mut conditions = before.clone();
    let generation = invalid.metadata.generation;
    for (kind, ConditionValue { status, reason, message }) in values {
        set_condition(&mut conditions, kind, status, reason, &message, generation, now);
    }
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

/// The first field that cannot be read as that of a `K`, as far as it is known: its path, its value and what is expected there.
fn unreadable_field<K: DeserializeOwned>(object: &Value) -> Option<String> {
    let error = serde_path_to_error::deserialize::<_, K>(object).err()?;
    let message = error.inner().to_string();
    let mut path = error.path().to_string();
    let mut pointer: String = error.path().iter().filter_map(pointer_to).collect();
    // Inside of a flattened struct serde knows no path: there it is the field without which another error comes, or none.
    while let Some(Value::Object(fields)) = object.pointer(&pointer) {
        let is_culprit = |name: &&String| {
            let mut without = object.clone();
            if let Some(Value::Object(fields)) = without.pointer_mut(&pointer) {
                fields.shift_remove(*name);
            }
            let error = serde_json::from_value::<K>(without).err().map(|error| error.to_string());
            error.is_none_or(|error| error != message && error != format!("missing field `{name}`"))
        };
        let Some(name) = fields.keys().find(is_culprit) else { break };
        path = format!("{path}.{name}");
        pointer.extend(pointer_to(&Segment::Map { key: name.clone() }));
    }
    Some(format!("{path}: {message}"))
}

/// A part of a path as one of a JSON pointer.
fn pointer_to(segment: &Segment) -> Option<String> {
    match segment {
        Segment::Seq { index } => Some(format!("/{index}")),
        Segment::Map { key } => Some(format!("/{}", key.replace('~', "~0").replace('/', "~1"))),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use tidemark_crds::Wal;

    use super::*;
    use crate::controllers::fake_world::wal_spec;

    #[test]
    fn the_field_that_cannot_be_read_is_named_with_its_value_and_what_is_expected() {
        type SpecChange = fn(&mut Value);
        let cases: [(SpecChange, &str); 10] = [
            (
                |spec| spec["search"] = json!({"replicas": "two"}),
                "spec.search.replicas: invalid type: string \"two\", expected i32",
            ),
            (
                |spec| spec["deletionPolicy"] = json!("Newer"),
                "spec.deletionPolicy: unknown variant `Newer`, expected `Retain` or `Purge`",
            ),
            (
                |spec| spec["metadata"]["urls"] = json!([1]),
                "spec.metadata.urls[0]: invalid type: integer `1`, expected a string",
            ),
            (|spec| spec["log"] = json!({"expiry": "1h"}), "spec.log: missing field `url`"),
            (|spec| *spec = json!("all"), "spec: invalid type: string \"all\", expected struct WalSpec"),
            // Fields of a role are flattened.
            (
                |spec| spec["indexer"] = json!({"podTemplate": {}, "cache": {"size": 7}}),
                "spec.indexer.cache.size: invalid type: integer `7`, expected a string",
            ),
            (
                |spec| {
                    spec["search"] =
                        json!({"replicas": 1, "cache": {"volumeClaimTemplate": {"spec": {"accessModes": ["All"]}}}});
                },
                "spec.search.cache.volumeClaimTemplate.spec.accessModes: unknown variant `All`, expected one of `ReadWriteOnce`, `ReadWriteOncePod`, `ReadWriteMany`",
            ),
            (
                |spec| spec["indexer"] = json!({"serviceAccountAnnotations": {"a/b": true}}),
                "spec.indexer.serviceAccountAnnotations.a/b: invalid type: boolean `true`, expected a string",
            ),
            (
                |spec| spec["indexer"] = json!({"cache": {"size": 7}, "podTemplate": "p"}),
                "spec.indexer.cache.size: invalid type: integer `7`, expected a string",
            ),
            (|spec| spec["suspend"] = json!(1), "spec.suspend: invalid type: integer `1`, expected a boolean"),
        ];
        for (change, wanted) in cases {
            let mut spec = wal_spec();
            change(&mut spec);
            let object = json!({"apiVersion": "tidemark.dev/v1alpha1", "kind": "WAL", "metadata": {"name": "orders"}, "spec": spec});
            assert_eq!(unreadable_field::<Wal>(&object).as_deref(), Some(wanted));
        }
        let object = json!({"apiVersion": "tidemark.dev/v1alpha1", "kind": "WAL", "metadata": {"name": "orders"}, "spec": wal_spec()});
        assert_eq!(unreadable_field::<Wal>(&object), None);
    }
}

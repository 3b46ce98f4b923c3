//! Digests of what the pods of a role are made of.

use serde_json::Value;
use tidemark_crds::{WalSpec, names::WalComponent};

use crate::compare;

/// Digest of the part of the spec that the pods of a role are made of. It differs from that of an earlier spec if these pods
/// have to be replaced.
pub(super) fn spec_digest(spec: &WalSpec, component: WalComponent) -> Result<String, serde_json::Error> {
    let mut spec = serde_json::to_value(spec)?;
    let (other, own) = match component {
        WalComponent::Indexer => (["search"].as_slice(), "indexer"),
        WalComponent::Search => (["indexer", "compaction", "adoptOwner"].as_slice(), "search"),
    };
    if let Some(fields) = spec.as_object_mut() {
        for field in ["suspend", "deletionPolicy"].iter().chain(other) {
            fields.shift_remove(*field);
        }
        if let Some(own) = fields.get_mut(own).and_then(Value::as_object_mut) {
            // The token is rolled out also while other changes are held back.
            for field in ["replicas", "service", "allowFrom", "auth", "serviceAccountAnnotations"] {
                own.shift_remove(field);
            }
        }
    }
    Ok(compare::digest(&spec))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(change: impl FnOnce(&mut Value)) -> WalSpec {
        let mut spec = json!({
            "storage": {"credentials": {"type": "WorkloadIdentity"}},
            "log": {"url": "s3://log/a", "expiry": "1h"},
            "metadata": {"urls": ["s3://meta"]},
            "index": {"url": "s3://index/a"},
        });
        change(&mut spec);
        serde_json::from_value(spec).unwrap()
    }

    type SpecChange = fn(&mut Value);

    #[test]
    fn a_digest_moves_with_what_the_pods_of_its_role_are_made_of() {
        let digests = |spec: &WalSpec| WalComponent::ALL.map(|component| spec_digest(spec, component).unwrap());
        let [indexer, search] = digests(&spec(|_| ()));
        let cases: [(SpecChange, bool, bool); 7] = [
            (|spec| spec["suspend"] = json!(true), false, false),
            (|spec| spec["deletionPolicy"] = json!("Purge"), false, false),
            (|spec| spec["search"] = json!({"replicas": 3}), false, false),
            (|spec| spec["search"] = json!({"resources": {"limits": {"memory": "1Gi"}}}), false, true),
            (|spec| spec["search"] = json!({"auth": {"type": "Token", "secretRef": {"name": "t"}}}), false, false),
            (|spec| spec["compaction"] = json!({"enabled": false}), true, false),
            (|spec| spec["log"]["expiry"] = json!("2h"), true, true),
        ];
        for (index, (change, moves_indexer, moves_search)) in cases.into_iter().enumerate() {
            let [new_indexer, new_search] = digests(&spec(change));
            assert_eq!((new_indexer != indexer, new_search != search), (moves_indexer, moves_search), "case {index}");
        }
    }
}

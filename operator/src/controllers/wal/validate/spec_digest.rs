//! Digests of what the pods of a role are made of.

use serde_json::Value;
use tidemark_crds::{WalSpec, names::WalComponent};

use crate::compare;

/// Fields of the spec that the pods of every role are made of. A field that is not listed here, nor for a role, moves no digest:
/// one that a later release adds with a default must not look like a change by the user.
const EVERY_ROLE: [&str; 4] = ["storage", "log", "metadata", "index"];
/// Further fields of the spec that the indexer's pods are made of.
const INDEXER: [&str; 4] = ["indexer", "compaction", "adoptOwner", "bootstrap"];
/// Further fields of the spec that search pods are made of.
const SEARCH: [&str; 1] = ["search"];
/// Fields of a role that its pods are made of. The token is not among them: it is rolled out also while other changes are held
/// back.
const OF_A_ROLE: [&str; 4] = ["resources", "cache", "podTemplate", "serviceAccountAnnotations"];
/// Further fields of search that its pods are made of.
const OF_SEARCH: [&str; 1] = ["cors"];

/// Digest of the part of the spec that the pods of a role are made of. It differs from that of an earlier spec if these pods
/// have to be replaced.
pub(super) fn spec_digest(spec: &WalSpec, component: WalComponent) -> Result<String, serde_json::Error> {
    let mut spec = serde_json::to_value(spec)?;
    let (of_role, own) = match component {
        WalComponent::Indexer => (INDEXER.as_slice(), "indexer"),
        WalComponent::Search => (SEARCH.as_slice(), "search"),
    };
    if let Some(fields) = spec.as_object_mut() {
        fields.retain(|field, _| EVERY_ROLE.contains(&&**field) || of_role.contains(&&**field));
        // The names of files are the indexer's affair.
        if let (WalComponent::Search, Some(index)) = (component, fields.get_mut("index").and_then(Value::as_object_mut))
        {
            index.remove("files");
        }
        if let Some(own) = fields.get_mut(own).and_then(Value::as_object_mut) {
            own.retain(|field, _| OF_A_ROLE.contains(&&**field) || OF_SEARCH.contains(&&**field));
        }
    }
    Ok(compare::digest(&spec))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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
        let cases: [(SpecChange, bool, bool); 12] = [
            (|spec| spec["bootstrap"] = json!({"fromURL": "s3://copies/a"}), true, false),
            (|spec| spec["suspend"] = json!(true), false, false),
            (|spec| spec["deletionPolicy"] = json!("Purge"), false, false),
            (|spec| spec["search"] = json!({"replicas": 3}), false, false),
            (|spec| spec["search"] = json!({"resources": {"limits": {"memory": "1Gi"}}}), false, true),
            (|spec| spec["search"] = json!({"cache": {"size": "16Gi"}}), false, true),
            (|spec| spec["indexer"] = json!({"cache": {"volumeClaimTemplate": {}}}), true, false),
            (|spec| spec["search"] = json!({"auth": {"type": "Token", "secretRef": {"name": "t"}}}), false, false),
            (|spec| spec["search"] = json!({"cors": {"allowOrigins": ["https://a.example.org"]}}), false, true),
            (|spec| spec["compaction"] = json!({"enabled": false}), true, false),
            (|spec| spec["log"]["expiry"] = json!("2h"), true, true),
            (|spec| spec["index"]["files"] = json!(true), true, false),
        ];
        for (index, (change, moves_indexer, moves_search)) in cases.into_iter().enumerate() {
            let [new_indexer, new_search] = digests(&spec(change));
            assert_eq!((new_indexer != indexer, new_search != search), (moves_indexer, moves_search), "case {index}");
        }
    }

    /// Fields of the spec that no data pod is made of.
    const NONE: [&str; 8] = ["suspend", "deletionPolicy", "jobs", "archive", "snapshots", "cleanup", "verify", "gc"];

    /// A new field of the spec fails this test until it is decided whether pods are made of it.
    #[test]
    fn each_field_of_the_spec_is_decided() {
        let crd = serde_json::to_value(tidemark_crds::wal_crd()).unwrap();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let fields = |schema: &Value| {
            let properties = schema["properties"].as_object().unwrap();
            properties.keys().cloned().collect::<BTreeSet<_>>()
        };
        let decided = |lists: &[&[&str]]| lists.concat().into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
        assert_eq!(fields(schema), decided(&[&EVERY_ROLE, &INDEXER, &SEARCH, &NONE]));
        let search = &schema["properties"]["search"];
        let others = ["replicas", "auth", "service", "allowFrom", "serviceAccountAnnotations"];
        assert_eq!(fields(search), decided(&[&OF_A_ROLE, &OF_SEARCH, &others]));
        assert_eq!(fields(&schema["properties"]["indexer"]), decided(&[&OF_A_ROLE, &["serviceAccountAnnotations"]]));
    }
}

//! Writes what was built, where it differs from what is there.

use kube::ResourceExt as _;
use serde_json::{Value, json};
use tidemark_crds::{
    WalSpec,
    names::{self, Component},
};

use super::{build::Children, dereference::Found, exposure::with_token_of, upgrade::Step};
use crate::{
    apply::{Applier, ApplyError, Desired},
    cache::ChildKind,
    compare,
    context::Scope,
};

/// Annotation of a data Deployment: digest of the part of the spec that its pods are made of.
const ANNOTATION_SPEC: &str = "tidemark.dev/spec-digest";

/// What is to be there of a WAL.
pub(crate) struct Wanted {
    /// Everything but the Deployments.
    plain: Vec<Desired>,
    /// Search first: it reads what both releases write.
    deployments: Vec<(Component, Desired)>,
}

/// The children as they are sent to the API server.
pub(crate) fn wanted(children: &Children, spec: &WalSpec) -> Result<Wanted, serde_json::Error> {
    let mut wanted = Wanted { plain: Vec::new(), deployments: Vec::new() };
    for object in children.objects()? {
        let mut desired = desired(object)?;
        if desired.kind == ChildKind::Deployment {
            let search = desired.name == children.search_deployment.name_any();
            let component = if search { Component::Search } else { Component::Indexer };
            desired.object["metadata"]["annotations"][ANNOTATION_SPEC] = json!(spec_digest(spec, component)?);
            wanted.deployments.push((component, desired));
        } else {
            wanted.plain.push(desired);
        }
    }
    Ok(wanted)
}

/// Writes the children of the WAL, the Deployments as far as `step` allows, and removes what is no longer wanted. Answers
/// how many writes that took.
pub(crate) async fn apply(scope: &Scope, found: &Found, wanted: Wanted, step: Step) -> Result<usize, ApplyError> {
    let Scope { shared, cache, .. } = scope;
    let Found { key, uid, family, .. } = found;
    let applier = Applier { client: &shared.client, cache, key, uid, family };
    let Wanted { plain, deployments } = wanted;
    let mut writes = 0;
    for child in &plain {
        writes += usize::from(applier.ensure(child).await?);
    }
    for (component, deployment) in &deployments {
        let rolls = match component {
            Component::Search => step.rolls_search(),
            Component::Indexer => step.rolls_indexer(),
        };
        let written = if rolls || found.rollout(*component).is_none() {
            applier.ensure(deployment).await?
        } else if let Some(closed) = with_token(*component, deployment, found) {
            applier.ensure(&closed).await?
        } else {
            let replicas = deployment.object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
            applier.scale(&deployment.name, i32::try_from(replicas).unwrap_or(i32::MAX)).await?
        };
        writes += usize::from(written);
    }
    let wanted = plain.iter().chain(deployments.iter().map(|(_, deployment)| deployment));
    let kept: Vec<_> = wanted.map(|child| (child.kind, child.name.as_str())).collect();
    Ok(writes + applier.remove_orphans(&kept).await?)
}

/// The held Deployment of search with the token that the spec asks for, if it has another one or none.
fn with_token(component: Component, built: &Desired, found: &Found) -> Option<Desired> {
    if component != Component::Search {
        return None;
    }
    let live = found.family.child(built.kind, &built.name)?.object();
    Some(Desired { object: with_token_of(&built.object, live)?, ..built.clone() })
}

/// Whether the spec asks for other pods than those that are held as they are.
pub(crate) fn holds_back_spec(found: &Found, spec: &WalSpec) -> bool {
    Component::ALL.into_iter().any(|component| {
        let name = component.child_name(&found.key.name);
        let Some(child) = found.family.child(ChildKind::Deployment, &name) else { return false };
        let object = child.object();
        let built =
            object.pointer("/metadata/annotations").and_then(|all| all.get(ANNOTATION_SPEC)).and_then(Value::as_str);
        built.is_some_and(|built| spec_digest(spec, component).is_ok_and(|now| now != built))
    })
}

/// Digest of what the pods of a role are made of.
fn spec_digest(spec: &WalSpec, component: Component) -> Result<String, serde_json::Error> {
    let mut spec = serde_json::to_value(spec)?;
    let (other, own) = match component {
        Component::Indexer => (["search"].as_slice(), "indexer"),
        Component::Search => (["indexer", "compaction", "adoptOwner"].as_slice(), "search"),
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

/// An object of [`Children::objects`], without what is of the request and not of what is compared.
fn desired(mut object: Value) -> Result<Desired, serde_json::Error> {
    let kind = ChildKind::ALL.into_iter().find(|kind| object["kind"] == kind.as_str());
    let name = object.pointer("/metadata/name").and_then(Value::as_str).map(str::to_owned);
    let (Some(kind), Some(name)) = (kind, name) else {
        return Err(serde::de::Error::custom("a child has no name, or is of a kind that is not watched"));
    };
    debug_assert!(object.pointer("/metadata/labels").is_some_and(|labels| labels.get(names::LABEL_WAL).is_some()));
    if let Some(fields) = object.as_object_mut() {
        for field in ["status", "apiVersion", "kind"] {
            fields.shift_remove(field);
        }
    }
    Ok(Desired { kind, name, object })
}

#[cfg(test)]
mod tests {
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

    type Change = fn(&mut Value);

    #[test]
    fn a_digest_moves_with_what_the_pods_of_its_role_are_made_of() {
        let digests = |spec: &WalSpec| Component::ALL.map(|component| spec_digest(spec, component).unwrap());
        let [indexer, search] = digests(&spec(|_| ()));
        let cases: [(Change, bool, bool); 7] = [
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

//! Writes what was built, where it differs from what exists, as far as the upgrade allows.

use serde_json::Value;
use tidemark_crds::names::WalComponent;

use super::{
    build::{ANNOTATION_SPEC, DesiredChildren},
    dereference::ObservedWal,
    search_exposure::with_token_of,
    upgrade::UpgradeStep,
    validate::ValidatedWal,
};
use crate::{
    apply::{ApplyError, ObjectApplier},
    cache::ChildKind,
    context::ReconcileContext,
    desired_object::DesiredObject,
};

/// Writes the children of the WAL, the Deployments as far as `step` allows, and removes what is no longer wanted. Answers
/// how many writes that took.
pub(crate) async fn write_children(
    context: &ReconcileContext,
    observed: &ObservedWal,
    desired: &DesiredChildren,
    step: UpgradeStep,
) -> Result<usize, ApplyError> {
    let applier = ObjectApplier { client: &context.shared.client, cache: &context.cache, owner: observed.owner() };
    let DesiredChildren { plain, search, indexer } = desired;
    let mut writes = 0;
    for child in plain {
        writes += usize::from(applier.ensure(child).await?);
    }
    // Search first: it reads what both releases write.
    let written = if step.rolls_search() || observed.rollout(WalComponent::Search).is_none() {
        applier.ensure(search).await?
    } else if let Some(search) = held_search_with_token(search, observed) {
        applier.ensure(&search).await?
    } else {
        scale(&applier, search).await?
    };
    writes += usize::from(written);
    let written = if step.rolls_indexer() || observed.rollout(WalComponent::Indexer).is_none() {
        applier.ensure(indexer).await?
    } else {
        scale(&applier, indexer).await?
    };
    writes += usize::from(written);
    let kept: Vec<_> = desired.all().map(|child| (child.kind, child.name.as_str())).collect();
    Ok(writes + applier.remove_orphans(&observed.owned, &kept).await?)
}

/// Replicas follow the spec also where everything else of a Deployment is held back.
async fn scale(applier: &ObjectApplier<'_>, deployment: &DesiredObject) -> Result<bool, ApplyError> {
    let replicas = deployment.object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    applier.scale(&deployment.name, i32::try_from(replicas).unwrap_or(i32::MAX)).await
}

/// The Deployment of search that is held back, with the token that the spec asks for; `None` if it has that token already.
fn held_search_with_token(built: &DesiredObject, observed: &ObservedWal) -> Option<DesiredObject> {
    let live = observed.owned.child(built.kind, &built.name)?.object();
    Some(DesiredObject { object: with_token_of(&built.object, live)?, ..built.clone() })
}

/// Whether the spec asks for other pods than those that are held back.
pub(crate) fn holds_back_spec(observed: &ObservedWal, wal: &ValidatedWal) -> bool {
    WalComponent::ALL.into_iter().any(|component| {
        let name = component.child_name(&observed.key.name);
        let Some(child) = observed.owned.child(ChildKind::Deployment, &name) else { return false };
        let object = child.object();
        let built =
            object.pointer("/metadata/annotations").and_then(|all| all.get(ANNOTATION_SPEC)).and_then(Value::as_str);
        built.is_some_and(|built| built != wal.role(component).spec_digest)
    })
}

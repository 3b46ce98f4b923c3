//! Writes what was built, where it differs from what exists, as far as the upgrade allows.

use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt as _;
use serde_json::Value;
use tidemark_crds::names::{self, WalComponent};

use super::{build::DesiredChildren, observe::ObservedWal, search_exposure::with_token_of, upgrade::UpgradeStep};
use crate::{
    cache::ChildKind,
    context::ReconcileContext,
    desired_object::DesiredObject,
    object_applier::{ApplyError, ObjectApplier},
};

/// What came of writing the children.
#[derive(Debug, Default)]
pub(crate) struct ChildWrites {
    /// How many writes it took.
    pub(crate) writes: usize,
    /// Why some were not written, in the order in which they should have been.
    pub(crate) errors: Vec<ApplyError>,
    /// Whether something was found that the watches did not show: what to do with it is decided when they do.
    pub(crate) found: bool,
}

impl ChildWrites {
    fn note(&mut self, written: Result<usize, ApplyError>) {
        match written {
            Ok(writes) => self.writes += writes,
            Err(error) => self.errors.push(error),
        }
    }

    /// Whether nothing more can be written at present.
    fn is_hopeless(&self) -> bool {
        self.errors.last().is_some_and(|error| match error {
            ApplyError::NamespaceTerminating => true,
            // An answer is about one object; without one, the next request would wait for nothing as well.
            ApplyError::Failed { source, .. } => !matches!(source, kube::Error::Api(_)),
            ApplyError::NameTaken { .. }
            | ApplyError::Leftover { .. }
            | ApplyError::Terminating { .. }
            | ApplyError::LeftBehind { .. }
            | ApplyError::Refused { .. }
            | ApplyError::Unwritable(_) => false,
        })
    }
}

/// Writes the children of the WAL, the Deployments as far as `step` allows, and removes what is no longer wanted.
///
/// One that cannot be written stops no other, but for the pods that need it: they are not changed before their NetworkPolicy,
/// ServiceAccount and ConfigMap are as they should be.
pub(crate) async fn write_children(
    context: &ReconcileContext,
    observed: &ObservedWal,
    desired: &DesiredChildren<'_>,
    step: UpgradeStep,
) -> ChildWrites {
    let applier = ObjectApplier { client: &context.shared.client, cache: &context.cache, owner: observed.owner() };
    let mut done = ChildWrites::default();
    let mut held_back = Vec::new();
    for child in &desired.plain {
        let written = applier.ensure(*child).await;
        if written.is_err() {
            held_back.extend(needed_by(*child));
        }
        done.note(written.map(usize::from));
        if done.is_hopeless() {
            return done;
        }
    }
    // Search first: it reads what both releases write.
    for component in [WalComponent::Search, WalComponent::Indexer] {
        let may_change = !held_back.contains(&component);
        let written = write_deployment(&applier, observed, desired, component, may_change, step).await;
        done.found |= matches!(written, Ok(DeploymentWrite::Found));
        done.note(written.map(|written| usize::from(written != DeploymentWrite::None)));
        if done.is_hopeless() {
            return done;
        }
    }
    let kept: Vec<_> = desired.all().map(|child| (child.kind(), child.name())).collect();
    done.note(applier.remove_unwanted(&observed.owned, &kept).await);
    done
}

/// The role whose pods must not change before this child is as it should be. A Service and a budget are none of their needs.
fn needed_by(child: DesiredObject<'_>) -> Option<WalComponent> {
    let labels = match child {
        DesiredObject::NetworkPolicy(policy) => &policy.metadata.labels,
        DesiredObject::ServiceAccount(account) => &account.metadata.labels,
        DesiredObject::ConfigMap(control) => &control.metadata.labels,
        DesiredObject::Deployment(_)
        | DesiredObject::Job(_)
        | DesiredObject::PodDisruptionBudget(_)
        | DesiredObject::Service(_) => return None,
    };
    let role = labels.as_ref()?.get(names::LABEL_COMPONENT)?;
    WalComponent::ALL.into_iter().find(|component| component.as_str() == role)
}

/// What was done with a Deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DeploymentWrite {
    /// It is as it should be, or may not be changed.
    None,
    Written,
    /// It is of another release and had lost its labels or its owner; it has them again.
    Found,
}

impl From<bool> for DeploymentWrite {
    fn from(written: bool) -> Self {
        if written { Self::Written } else { Self::None }
    }
}

async fn write_deployment(
    applier: &ObjectApplier<'_>,
    observed: &ObservedWal,
    desired: &DesiredChildren<'_>,
    component: WalComponent,
    may_change: bool,
    step: UpgradeStep,
) -> Result<DeploymentWrite, ApplyError> {
    let (deployment, rolls) = match component {
        WalComponent::Search => (desired.search, step.rolls_search()),
        WalComponent::Indexer => (desired.indexer, step.rolls_indexer()),
    };
    let name = DesiredObject::Deployment(deployment).name();
    let lost = match observed.rollout(component) {
        Some(_) => None,
        None => applier.lost_rollout(name).await?,
    };
    // The next reconciliation sees it, and decides whether this release may replace its pods.
    let release = deployment.annotations().get(names::ANNOTATION_RELEASE);
    if lost.is_some_and(|lost| lost.release.as_deref() != release.map(String::as_str)) {
        applier.restore_labels(name, serde_json::to_value(deployment)?).await?;
        return Ok(DeploymentWrite::Found);
    }
    if may_change && (rolls || observed.rollout(component).is_none()) {
        return applier.ensure(DesiredObject::Deployment(deployment)).await.map(Into::into);
    }
    if may_change
        && component == WalComponent::Search
        && let Some(held) = held_search_with_token(deployment, observed)?
    {
        return applier.ensure_json(ChildKind::Deployment, name, held).await.map(Into::into);
    }
    // Replicas follow the spec also where everything else is held back; one is what Kubernetes takes for none.
    let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    applier.scale(name, replicas).await.map(Into::into)
}

/// The Deployment of search that is held back, with the token that the spec asks for; `None` if it has that token already.
fn held_search_with_token(built: &Deployment, observed: &ObservedWal) -> serde_json::Result<Option<Value>> {
    let name = DesiredObject::Deployment(built).name();
    let Some(live) = observed.owned.child(ChildKind::Deployment, name) else { return Ok(None) };
    Ok(with_token_of(&serde_json::to_value(built)?, live.object()))
}

/// The roles whose Deployment is made of another spec than the one with these digests.
pub(crate) fn outdated(observed: &ObservedWal, digests: &[(WalComponent, String)]) -> Vec<WalComponent> {
    let is_outdated = |(component, digest): &&(WalComponent, String)| {
        let child = observed.owned.child(ChildKind::Deployment, &component.child_name(&observed.key.name));
        let built = child.and_then(|child| child.rollout.as_ref()?.spec_digest.as_deref());
        built.is_some_and(|built| built != digest)
    };
    digests.iter().filter(is_outdated).map(|(component, _)| *component).collect()
}

//! `Applied`: the pods that run are made of the present spec.

use tidemark_crds::{ConditionStatus, ConditionType, Reason, names::WalComponent};

use super::inputs::ConditionInputs;
use crate::{cache::RolloutStatus, condition_value::ConditionValue};

pub(super) fn evaluate(inputs: &ConditionInputs<'_>) -> ConditionValue {
    // Of two only the one about the spec and its pods: it is repeated while it is not known whether it still holds.
    if let Some(refused) = inputs.refused.as_ref().or(inputs.unfinalized.as_ref()) {
        return refused.clone();
    }
    if inputs.held {
        return ConditionValue::no(
            Reason::Held,
            "the pods are made of an earlier spec: the latest change waits with a new release of the operator; see the condition \
             UpgradePending for how to approve it",
        );
    }
    let mut unfinished = WalComponent::ALL.to_vec();
    unfinished.retain(|component| {
        let is_rolled_out = inputs.rollout(*component).is_some_and(RolloutStatus::is_rolled_out);
        !is_rolled_out || inputs.outdated.contains(component)
    });
    if let Some(cause) = &inputs.unwritten {
        // One failure says nothing of a spec that was applied before, as long as its Deployments are there.
        let before = inputs.before(ConditionType::Applied).filter(|_| unfinished.is_empty());
        let before = before.filter(|before| before.observed_generation == inputs.generation);
        return match before.map(ConditionValue::repeated).filter(|before| before.status == ConditionStatus::True) {
            Some(applied) => applied,
            None => ConditionValue::no(
                Reason::RollingOut,
                format!("not all objects of the WAL are written yet: {cause}; it is tried again"),
            ),
        };
    }
    let is_stalled = |component: &&WalComponent| inputs.rollout(**component).is_some_and(|rollout| rollout.stalled);
    match (unfinished.iter().find(is_stalled), unfinished.first()) {
        (Some(stalled), _) => rolling(inputs, *stalled, Reason::RollOutStalled),
        (None, Some(first)) => rolling(inputs, *first, Reason::RollingOut),
        (None, None) => ConditionValue::yes(Reason::Applied, "the pods are made of the present spec"),
    }
}

fn rolling(inputs: &ConditionInputs<'_>, component: WalComponent, reason: Reason) -> ConditionValue {
    let role = component.as_str();
    let cause = if inputs.rollout(component).is_some_and(|rollout| rollout.paused) {
        "; the Deployment is paused: run \"kubectl rollout resume\"".to_owned()
    } else {
        inputs.pod_failure(component).map(|failure| format!("; {}", failure.message)).unwrap_or_default()
    };
    let message = if reason == Reason::RollOutStalled {
        format!(
            "the {role} pods of the present spec do not become ready, and those before them go on{cause}; see \"kubectl get pods\" and \
             remove the cause, or change the spec back"
        )
    } else {
        format!("the {role} pods of the present spec take the place of those before them{cause}")
    };
    ConditionValue::no(reason, message)
}

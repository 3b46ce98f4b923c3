//! `SearchAvailable`: search answers. The kubelet's readiness counts, not the operator's connection to the pods.

use tidemark_crds::{ConditionType, PodProblem, Reason, names::WalComponent};

use super::inputs::ConditionInputs;
use crate::condition_value::ConditionValue;
use crate::observed_pod::ObservedPod;

pub(super) fn evaluate(inputs: &ConditionInputs<'_>) -> ConditionValue {
    if !inputs.search_wanted {
        return ConditionValue::no(
            Reason::NoReplicas,
            "\"spec.search.replicas\" is 0; nothing can be searched; run \"kubectl scale wal\" to turn search on",
        );
    }
    // What pods reported before this operator polls them for the first time, as far as the kubelet does not know better.
    let before = inputs.before(ConditionType::SearchAvailable).filter(|before| {
        let off = [Reason::NoReplicas, Reason::Available].map(Reason::as_str).contains(&before.reason.as_str());
        inputs.has_unpolled(WalComponent::Search) && !off
    });
    if let Some(before) = before
        .filter(|before| !available(inputs) || Reason::parse(&before.reason).is_some_and(Reason::is_unusable_token))
    {
        return ConditionValue::repeated(before);
    }
    if available(inputs) {
        return match locked(inputs) {
            Some(problem) => ConditionValue::no(problem.reason, problem.message.clone()),
            None if inputs.token_everywhere => ConditionValue::yes(Reason::Available, "search answers"),
            None => ConditionValue::yes(Reason::Available, without_token(inputs)),
        };
    }
    let answering =
        inputs.pods_of(WalComponent::Search).filter(|seen| !seen.pod.terminating).filter_map(ObservedPod::answer);
    if let Some(problem) = answering.flat_map(|process| &process.problems).next() {
        return ConditionValue::no(problem.reason, problem.message.clone());
    }
    let silent = inputs.not_answering(WalComponent::Search);
    let failure = inputs.pod_failure(WalComponent::Search).or(silent);
    failure.or_else(|| inputs.no_replicas(WalComponent::Search)).unwrap_or_else(|| {
        ConditionValue::no(
            Reason::Starting,
            "search starts; it answers when it has read the first manifest of the index",
        )
    })
}

fn without_token(inputs: &ConditionInputs<'_>) -> String {
    let remedy = match inputs.refused {
        Some(_) => "see the condition Applied for why the spec is not in force",
        None => "if that takes long, see \"kubectl get pods\"",
    };
    format!(
        "search answers, and not every search pod asks for the token of \"spec.search.auth\" yet; the Service and the NetworkPolicy \
         admit no further clients until all of them do; {remedy}"
    )
}

/// Whether the kubelet calls a search pod ready.
fn available(inputs: &ConditionInputs<'_>) -> bool {
    inputs.search.is_some_and(|rollout| rollout.available > 0)
}

/// Why every search pod that answers refuses every query, if so.
fn locked<'a>(inputs: &'a ConditionInputs<'_>) -> Option<&'a PodProblem> {
    let answering: Vec<_> = inputs
        .pods_of(WalComponent::Search)
        .filter(|seen| !seen.pod.terminating)
        .filter_map(ObservedPod::answer)
        .collect();
    let mut locked =
        answering.iter().map(|process| process.problems.iter().find(|problem| problem.reason.is_unusable_token()));
    if locked.clone().all(|problem| problem.is_some()) { locked.next().flatten() } else { None }
}

//! `Ready`: of what the other conditions say, what keeps the WAL from its use.

use tidemark_crds::{ConditionStatus, ConditionType, Reason, names::WalComponent};

use super::inputs::ConditionInputs;
use crate::condition_value::ConditionValue;

pub(super) fn ready(
    inputs: &ConditionInputs<'_>,
    storage: &ConditionValue,
    indexing: &ConditionValue,
    search: &ConditionValue,
) -> ConditionValue {
    if let Some(refused) = inputs.refusals() {
        return refused;
    }
    let needed: Vec<&ConditionValue> = if inputs.suspended { Vec::new() } else { vec![storage, indexing] };
    let needed = needed.into_iter().chain(inputs.search_wanted.then_some(search));
    let of = |status| needed.clone().find(|verdict| verdict.status == status);
    if let Some(failing) = of(ConditionStatus::False).or_else(|| of(ConditionStatus::Unknown)) {
        return failing.clone();
    }
    if let Some(differing) = parameters_differ(inputs) {
        return differing;
    }
    match (inputs.suspended, inputs.search_wanted) {
        (true, true) => ConditionValue::yes(
            Reason::Suspended,
            "indexing is suspended; search answers what is published; set \"spec.suspend\" to false to resume",
        ),
        (true, false) => ConditionValue::yes(
            Reason::Suspended,
            "indexing is suspended and search is turned off; set \"spec.suspend\" to false to resume",
        ),
        (false, true) => indexed(inputs, "the log is indexed and can be searched"),
        (false, false) => indexed(inputs, "the log is indexed; search is turned off"),
    }
}

/// What the log records otherwise than the spec says. The indexer goes on with what is recorded, so that the spec is not in force.
fn parameters_differ(inputs: &ConditionInputs<'_>) -> Option<ConditionValue> {
    match inputs.active_indexer() {
        Some((_, process)) => {
            let problem = process.problems.iter().find(|problem| problem.reason == Reason::ParametersDiffer)?;
            Some(ConditionValue::no(problem.reason, problem.message.clone()))
        }
        // It stays as long as an indexer may be about to say whether it is over.
        None if inputs.has_unpolled(WalComponent::Indexer) => {
            let before = inputs.before(ConditionType::Ready).map(ConditionValue::repeated);
            before.filter(|before| before.reason == Reason::ParametersDiffer)
        }
        None => None,
    }
}

/// `Ready`, with what is in the index without its content: nothing waits for that, and users should know.
fn indexed(inputs: &ConditionInputs<'_>, fact: &str) -> ConditionValue {
    let active = inputs.active_indexer().map(|(seen, process)| (&seen.pod.name, process.unreadable_entries));
    let message = match active.filter(|(_, unreadable)| *unreadable > 0) {
        None => fact.to_owned(),
        Some((pod, unreadable)) => format!(
            "{fact}, except for the content of {unreadable} operations, whose objects the store refuses to give; they are tried \
             again every hour; see which by \"kubectl exec {pod} -- tidemark audit --unreadable\", and make them readable (archived \
             tier, permissions)"
        ),
    };
    ConditionValue::yes(Reason::Ready, message)
}

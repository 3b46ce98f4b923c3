//! `SearchAvailable`: search answers. The kubelet's word counts, not the operator's connection to the pods.

use tidemark_crds::{ConditionType, Reason, names::Component};

use super::{Facts, Seen, Verdict, indexing::not_answering};
use crate::process::Problem;

pub(super) fn verdict(facts: &Facts<'_>) -> Verdict {
    if !facts.search_wanted {
        return Verdict::no(
            Reason::NoReplicas,
            "\"spec.search.replicas\" is 0; nothing can be searched; run \"kubectl scale wal\" to turn search on",
        );
    }
    // What pods told before this operator asks them for the first time, in as far as the kubelet does not know better.
    let told = facts.before(ConditionType::SearchAvailable).filter(|before| {
        let off = [Reason::NoReplicas, Reason::Available].map(Reason::as_str).contains(&before.reason.as_str());
        facts.unasked(Component::Search) && !off
    });
    if let Some(told) =
        told.filter(|told| !available(facts) || Reason::parse(&told.reason).is_some_and(Reason::is_unusable_token))
    {
        return Verdict::repeated(told);
    }
    if available(facts) {
        return match locked(facts) {
            Some(problem) => Verdict::no(problem.reason(), problem.message.clone()),
            None => Verdict::yes(Reason::Available, "search answers"),
        };
    }
    let answering = facts.of(Component::Search).filter(|seen| !seen.pod.terminating).filter_map(Seen::answer);
    if let Some(problem) = answering.flat_map(|process| &process.problems).next() {
        return Verdict::no(problem.reason(), problem.message.clone());
    }
    let silent = facts.silent(Component::Search).map(not_answering);
    facts.trouble(Component::Search).or(silent).unwrap_or_else(|| {
        Verdict::no(Reason::Starting, "search starts; it answers when it has read the first manifest of the index")
    })
}

/// Whether the kubelet calls a search pod ready.
fn available(facts: &Facts<'_>) -> bool {
    facts.search.is_some_and(|rollout| rollout.available > 0)
}

/// Why every search pod that answers refuses every query, if so.
fn locked<'a>(facts: &'a Facts<'_>) -> Option<&'a Problem> {
    let answering: Vec<_> =
        facts.of(Component::Search).filter(|seen| !seen.pod.terminating).filter_map(Seen::answer).collect();
    let mut locked =
        answering.iter().map(|process| process.problems.iter().find(|problem| problem.reason().is_unusable_token()));
    if locked.clone().all(|problem| problem.is_some()) { locked.next().flatten() } else { None }
}

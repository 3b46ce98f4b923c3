//! `StorageReady`: the buckets can be used, and this WAL owns the index.

use tidemark_crds::{ConditionType, Reason, names::Component};

use super::{Facts, Seen, Verdict};
use crate::process::{Phase, Problem, Process};

pub(super) fn verdict(facts: &Facts<'_>) -> Verdict {
    match facts.principal() {
        Some((_, process)) => of_indexer(facts, process),
        None => without_indexer(facts),
    }
}

fn of_indexer(facts: &Facts<'_>, process: &Process) -> Verdict {
    if let Some(problem) = problem(process) {
        return Verdict::no(problem.reason(), problem.message.clone());
    }
    if process.probed {
        return Verdict::yes(Reason::Probed, "the buckets can be used, and this WAL owns the index");
    }
    match process.phase {
        Phase::Probing => Verdict::unknown(Reason::Probing, "the indexer tries out what the stores can do"),
        _ => known_before(facts).unwrap_or_else(not_yet),
    }
}

/// While no indexer answers, what was known stays known, unless search says otherwise.
fn without_indexer(facts: &Facts<'_>) -> Verdict {
    let problem = facts.of(Component::Search).filter_map(Seen::answer).find_map(problem);
    match problem {
        Some(problem) => Verdict::no(problem.reason(), problem.message.clone()),
        None => known_before(facts).unwrap_or_else(not_yet),
    }
}

fn known_before(facts: &Facts<'_>) -> Option<Verdict> {
    facts.before(ConditionType::StorageReady).map(Verdict::repeated)
}

fn not_yet() -> Verdict {
    Verdict::unknown(Reason::Starting, "no indexer has looked at the buckets yet")
}

/// What is wrong with the stores, in the process's own words.
pub(super) fn problem(process: &Process) -> Option<&Problem> {
    process.problems.iter().find(|problem| problem.is_storage())
}

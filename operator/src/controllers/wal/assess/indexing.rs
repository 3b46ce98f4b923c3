//! `Indexing`: an indexer publishes what is sealed.

use tidemark_crds::{ConditionStatus, ConditionType, Reason, names::Component};

use super::{Facts, Seen, Verdict, storage};
use crate::process::{Phase, Process};

/// An indexer that has caught up stays so until it is this many seconds behind: a busy log is always a little behind.
const BEHIND_SECONDS: i64 = 60;

pub(super) fn verdict(facts: &Facts<'_>) -> Verdict {
    if facts.suspended {
        return Verdict::no(
            Reason::Suspended,
            "\"spec.suspend\" is set; the log grows and nothing is indexed; set it to false to go on",
        );
    }
    match facts.principal() {
        Some((seen, process)) => of_indexer(facts, seen, process),
        None => without_answer(facts),
    }
}

fn of_indexer(facts: &Facts<'_>, seen: &Seen, process: &Process) -> Verdict {
    if matches!(process.phase, Phase::Purging | Phase::Purged) {
        return Verdict::no(Reason::Purging, "the index is being removed, as \"spec.deletionPolicy\" asks");
    }
    let problem = storage::problem(process).or(process.problems.first());
    if let Some(problem) = problem {
        return Verdict::no(problem.reason(), problem.message.clone());
    }
    match process.phase {
        Phase::Writing if process.caught_up || keeps_up(facts, process) => {
            Verdict::yes(Reason::CaughtUp, "everything that is sealed is in the index")
        }
        Phase::Writing => Verdict::no(
            Reason::Backfilling,
            "the indexer works through entries that are sealed and not published; search lacks them until then; it catches \
             up by itself",
        ),
        Phase::Standby => standby(facts, seen, process),
        Phase::Probing => Verdict::no(Reason::Probing, "the indexer tries out what the stores can do, and starts then"),
        _ => starting(),
    }
}

/// Whether an indexer that had caught up is only a little behind.
fn keeps_up(facts: &Facts<'_>, process: &Process) -> bool {
    let before = facts.before(ConditionType::Indexing);
    let caught_up = before.is_some_and(|before| {
        before.status == ConditionStatus::True.as_str() && before.reason == Reason::CaughtUp.as_str()
    });
    caught_up && process.lag_seconds.unwrap_or(0) <= BEHIND_SECONDS
}

/// A standby alone does not index; whether a silent writer does, nobody knows.
fn standby(facts: &Facts<'_>, seen: &Seen, process: &Process) -> Verdict {
    if let Some(silent) = facts.silent(Component::Indexer) {
        return not_answering(silent);
    }
    let writer = process.writer.as_deref().unwrap_or("unknown");
    Verdict::no(
        Reason::Standby,
        format!(
            "pod \"{}\" waits as a standby: the writer \"{writer}\" has not released the index; it takes over when that one \
             has been silent for 60 s",
            seen.pod.name
        ),
    )
}

fn without_answer(facts: &Facts<'_>) -> Verdict {
    if let Some(before) = facts.unasked(Component::Indexer).then(|| facts.before(ConditionType::Indexing)).flatten() {
        return Verdict::repeated(before);
    }
    let silent = facts.silent(Component::Indexer).map(not_answering);
    facts.trouble(Component::Indexer).or(silent).unwrap_or_else(starting)
}

fn starting() -> Verdict {
    Verdict::no(Reason::Starting, "the indexer starts")
}

pub(super) fn not_answering(seen: &Seen) -> Verdict {
    let pod = &seen.pod.name;
    let since = match seen.observation.seen {
        Some(seen) => format!("has not answered the operator since {seen}"),
        None => "has not answered the operator yet".to_owned(),
    };
    Verdict::unknown(
        Reason::PodNotAnswering,
        format!(
            "pod \"{pod}\" {since}; whether it works is not known; look at its node, and whether a NetworkPolicy keeps the \
             operator from port http"
        ),
    )
}

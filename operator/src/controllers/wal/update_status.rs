//! Writes the status: on a change of a condition at once, for moved figures at most once a minute, else not at all.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tidemark_crds::{
    ConditionType, Cursor, IndexerRole, IndexerStatus, SearchStatus, Wal, WalStatus,
    names::{self, Component},
    set_condition,
};

use super::{
    assess::{Assessment, Facts, Seen, Verdict},
    dereference::Found,
};
use crate::{
    clock,
    context::Scope,
    process::{Phase, Process},
};

/// Between two writes of figures that moved.
const FIGURES: Duration = Duration::from_mins(1);

/// The status that follows from what was seen.
pub(crate) fn next(
    found: &Found,
    generation: Option<i64>,
    facts: &Facts<'_>,
    assessment: &Assessment,
    upgrade: &Verdict,
    now: Timestamp,
) -> WalStatus {
    let mut status = found.status.clone();
    status.observed_generation = generation;
    let Assessment { ready, storage, indexing, search } = assessment;
    let verdicts = [
        (ConditionType::Ready, ready),
        (ConditionType::StorageReady, storage),
        (ConditionType::Indexing, indexing),
        (ConditionType::SearchAvailable, search),
        (ConditionType::UpgradePending, upgrade),
    ];
    for (kind, verdict) in verdicts {
        let Verdict { status: holds, reason, message } = verdict;
        set_condition(&mut status.conditions, kind, *holds, *reason, message, generation, now);
    }
    status.search = Some(SearchStatus {
        replicas: facts.search.map_or(0, |rollout| rollout.replicas),
        selector: Component::Search.selector_text(&found.key.name),
        url: facts.search_wanted.then(|| names::search_url(&found.key.namespace, &found.key.name)),
    });
    if let Some((seen, process)) = facts.principal() {
        figures(&mut status, seen, process);
        status.observed_time = Some(Time(now));
    }
    status
}

/// Takes the figures of the indexer's pod. Only a writer's are the index's.
fn figures(status: &mut WalStatus, seen: &Seen, process: &Process) {
    let role = match process.phase {
        Phase::Writing | Phase::Purging | Phase::Purged => IndexerRole::Writer,
        Phase::Standby => IndexerRole::Standby,
        Phase::Starting | Phase::Probing | Phase::Serving | Phase::Ended => IndexerRole::Starting,
    };
    status.indexer = Some(IndexerStatus { pod: seen.pod.name.to_string(), role });
    if role != IndexerRole::Writer {
        return;
    }
    if let Some(time) = process.cursor {
        status.cursor = Some(Cursor { token: None, time: Time(time) });
    }
    status.horizon = process.horizon.map(Time).or(status.horizon.take());
    status.lag_seconds = process.lag_seconds;
    status.pending_entries = process.pending_entries;
    status.entries = process.entries;
    status.epoch = process.epoch;
    if process.manifest > Some(0) {
        status.generation.clone_from(&process.generation);
    }
    status.version = Some(process.version.clone());
}

/// When a status is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// It says what is there already.
    Never,
    /// Something that people and programs wait for changed.
    Now,
    /// Figures moved; they were written less than a minute ago.
    After(Duration),
}

/// When `after` is to be written over `before`, which was written `since` ago.
pub(crate) fn due(before: &WalStatus, after: &WalStatus, since: Duration) -> Due {
    if still(before) != still(after) {
        return Due::Now;
    }
    // The horizon, the cursor of an idle log and the time of the look move with the clock; alone they are no news.
    let silent = WalStatus {
        cursor: before.cursor.clone(),
        horizon: before.horizon.clone(),
        observed_time: before.observed_time.clone(),
        ..after.clone()
    };
    match FIGURES.checked_sub(since).filter(|left| !left.is_zero()) {
        _ if silent == *before => Due::Never,
        Some(left) => Due::After(left),
        None => Due::Now,
    }
}

/// What does not move while a WAL does its work. A pod may tell the same problem in other words each time: new words alone
/// can wait, but for those on an upgrade, which are the operator's own.
fn still(status: &WalStatus) -> WalStatus {
    let mut conditions = status.conditions.clone();
    for condition in conditions.iter_mut().filter(|condition| condition.type_ != ConditionType::UpgradePending.as_str())
    {
        condition.message.clear();
    }
    WalStatus {
        observed_generation: status.observed_generation,
        conditions,
        search: status.search.clone(),
        indexer: status.indexer.clone(),
        epoch: status.epoch,
        generation: status.generation.clone(),
        ..WalStatus::default()
    }
}

/// How long ago the status was written, as far as it or this operator knows.
pub(crate) fn since(scope: &Scope, found: &Found, now: Timestamp) -> Duration {
    let shown = found.status.observed_time.as_ref().map(|time| time.0);
    let written = shown.into_iter().chain(scope.shared.ledger.written(&found.key)).max();
    written.and_then(|written| Duration::try_from(now.duration_since(written)).ok()).unwrap_or(FIGURES)
}

/// Writes the status.
pub(crate) async fn write(scope: &Scope, found: &Found, status: &WalStatus) -> Result<Wal, kube::Error> {
    let api: Api<Wal> = Api::namespaced(scope.shared.client.clone(), &found.key.namespace);
    let patch = json!({
        "apiVersion": format!("{}/{}", names::GROUP, names::VERSION),
        "kind": names::KIND,
        // Another WAL of the same name is not told what was seen of this one.
        "metadata": {"name": &*found.key.name, "uid": found.uid},
        "status": status,
    });
    let params = PatchParams::apply(names::MANAGER_STATUS).force();
    let ledger = &scope.shared.ledger;
    ledger.writing(&found.key, status);
    let written = api.patch_status(&found.key.name, &params, &Patch::Apply(&patch)).await;
    match &written {
        Ok(written) => ledger.wrote(&found.key, written, clock::now()),
        Err(_) => ledger.not_written(&found.key),
    }
    written
}

/// The present time, as statuses hold it.
pub(crate) fn now() -> Timestamp {
    clock::now()
}

#[cfg(test)]
mod tests {
    use tidemark_crds::{ConditionStatus, Reason};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn status(message: &str, entries: i64) -> WalStatus {
        let mut status =
            WalStatus { entries: Some(entries), observed_time: Some(Time(at(10))), ..WalStatus::default() };
        let (kind, no, reason) = (ConditionType::Ready, ConditionStatus::False, Reason::Unreachable);
        set_condition(&mut status.conditions, kind, no, reason, message, Some(1), at(1));
        status
    }

    #[test]
    fn conditions_are_written_at_once_and_figures_and_words_once_a_minute() {
        let (before, soon, late) = (status("a", 1), Duration::from_secs(20), Duration::from_mins(1));
        let mut ready = before.clone();
        set_condition(
            &mut ready.conditions,
            ConditionType::Ready,
            ConditionStatus::True,
            Reason::Ready,
            "",
            Some(1),
            at(2),
        );
        let mut clock = before.clone();
        (clock.horizon, clock.observed_time) = (Some(Time(at(99))), Some(Time(at(99))));
        clock.cursor = Some(Cursor { token: None, time: Time(at(99)) });
        let mut seen = before.clone();
        seen.observed_generation = Some(2);
        let left = Due::After(Duration::from_secs(40));
        for (name, after, due_soon, due_late) in [
            ("nothing", before.clone(), Due::Never, Due::Never),
            ("the clock alone", clock, Due::Never, Due::Never),
            ("a condition", ready, Due::Now, Due::Now),
            ("the generation", seen, Due::Now, Due::Now),
            ("figures", status("a", 2), left, Due::Now),
            ("other words for the same problem", status("b", 1), left, Due::Now),
        ] {
            assert_eq!((due(&before, &after, soon), due(&before, &after, late)), (due_soon, due_late), "{name}");
        }
    }
}

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
    let WalStatus { search: known, .. } = &status;
    status.search = Some(SearchStatus {
        replicas: facts.search.map_or_else(|| known.as_ref().map_or(0, |_| 0), |rollout| rollout.replicas),
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
    status.generation.clone_from(&process.generation);
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

/// When `after` is to be written over `before`.
pub(crate) fn due(before: &WalStatus, after: &WalStatus, now: Timestamp) -> Due {
    if still(before) != still(after) {
        return Due::Now;
    }
    // The horizon and the time of the look move with the clock; alone they are no news.
    let silent =
        WalStatus { horizon: before.horizon.clone(), observed_time: before.observed_time.clone(), ..after.clone() };
    if silent == *before {
        return Due::Never;
    }
    let written = before.observed_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let since = Duration::try_from(now.duration_since(written)).unwrap_or(FIGURES);
    if since >= FIGURES { Due::Now } else { Due::After(FIGURES.saturating_sub(since)) }
}

/// What does not move while a WAL does its work.
fn still(status: &WalStatus) -> WalStatus {
    WalStatus {
        observed_generation: status.observed_generation,
        conditions: status.conditions.clone(),
        search: status.search.clone(),
        indexer: status.indexer.clone(),
        epoch: status.epoch,
        generation: status.generation.clone(),
        ..WalStatus::default()
    }
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
    let written = api.patch_status(&found.key.name, &params, &Patch::Apply(&patch)).await?;
    scope.shared.ledger.wrote(&found.key, &written);
    Ok(written)
}

/// The present time, as statuses hold it.
pub(crate) fn now() -> Timestamp {
    clock::now()
}

//! What a search service says about itself.

use serde_json::{Map, Value};
use tidemark_catalog::RecordCounts;
use tidemark_store::StoreSecond;

use super::{
    api::{OutcomeCounts, ProcessRole, StatusAnswer, instant},
    view::{Gap, View},
};

/// The status of a view. A process that also writes the index knows more and adds it.
pub(crate) fn of(view: &View, mut problems: Vec<String>) -> StatusAnswer {
    problems.extend(view.gap.as_ref().map(behind));
    let manifest = &view.snapshot.manifest;
    let known = manifest.horizon > StoreSecond::default();
    let mut details = Map::new();
    details.insert("future".to_owned(), Value::from(view.future));
    StatusAnswer {
        horizon: known.then(|| instant(manifest.horizon)),
        position: view.position(),
        lag_seconds: lag(view),
        lag_reason: None,
        epoch: manifest.epoch,
        writer: manifest.holder.as_ref().map(|holder| holder.identity.0.clone()),
        role: ProcessRole::Reader,
        entries: entries(&manifest.totals.standing(), view),
        segments: manifest.segments.len() as u64,
        documents: manifest.totals.records,
        bytes: manifest.totals.bytes,
        unrecognized_keys: view.unrecognized_keys,
        overlay: view.overlay.clone(),
        problems,
        details,
    }
}

/// How long the oldest entry that is frozen by now waits to be published.
fn lag(view: &View) -> u64 {
    view.oldest_and_horizon().map_or(0, |(oldest, horizon)| horizon.since(oldest).as_secs())
}

fn behind(Gap { oldest, start }: &Gap) -> String {
    let minutes = start.since(*oldest).as_secs().div_ceil(60);
    format!(
        "the index is {} h {} min behind: entries before {start} show when they are indexed",
        minutes / 60,
        minutes % 60
    )
}

fn entries(counts: &RecordCounts, view: &View) -> OutcomeCounts {
    OutcomeCounts::of(counts, view.overlay.as_ref().map_or(0, |overlay| overlay.documents))
}

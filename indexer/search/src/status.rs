//! What a search service reports about itself.

use serde_json::{Map, Value};
use tidemark_catalog::RecordCounts;
use tidemark_store::StoreSecond;

use super::{
    api::{OutcomeCounts, ProcessRole, StatusAnswer, instant},
    search_view::{SearchView, UnindexedGap},
};

/// What the search knows: the view, and what keeps it from being current. The program adds what an ingest beside it knows.
pub(crate) fn of_view(view: &SearchView, mut problems: Vec<String>) -> StatusAnswer {
    problems.extend(view.gap.as_ref().map(behind));
    let manifest = &view.index.manifest;
    let known = manifest.horizon > StoreSecond::default();
    let mut details = Map::new();
    details.insert("future".to_owned(), Value::from(view.future));
    StatusAnswer {
        horizon: known.then(|| instant(manifest.horizon)),
        index_version: view.index_version(),
        lag_seconds: lag(view),
        lag_reason: None,
        epoch: manifest.epoch,
        writer: manifest.holder.as_ref().map(|holder| holder.identity.0.clone()),
        role: ProcessRole::Reader,
        entries: entries(&manifest.totals.standing(), view),
        segments: manifest.segments.len() as u64,
        documents: manifest.totals.records,
        bytes: manifest.totals.bytes,
        garbage: None,
        unrecognized_keys: view.unrecognized_keys,
        overlay: view.overlay.clone(),
        problems,
        details,
    }
}

/// How long the oldest entry below the horizon has been waiting to be published.
fn lag(view: &SearchView) -> u64 {
    view.oldest_and_horizon().map_or(0, |(oldest, horizon)| horizon.since(oldest).as_secs())
}

fn behind(UnindexedGap { oldest, start }: &UnindexedGap) -> String {
    let minutes = start.since(*oldest).as_secs().div_ceil(60);
    format!(
        "the index is {} h {} min behind: entries before {start} show when they are indexed",
        minutes / 60,
        minutes % 60
    )
}

fn entries(counts: &RecordCounts, view: &SearchView) -> OutcomeCounts {
    OutcomeCounts::of(counts, view.overlay.as_ref().map_or(0, |overlay| overlay.documents))
}

//! Labels after an append: `label.yaml` is a cache of the newest committed marker, for Datamon's clients.
//!
//! After writing it a writer lists the markers again, and rewrites until the key holds the newest.

use std::time::Duration;

use futures::TryStreamExt as _;

use super::{
    prepared::{CompletionTarget, PreparedEntry},
    session::AppendSession,
};
use crate::{
    datamon::DatamonPath,
    marker::{CompletionMarker, marker_folder, marker_key},
    outcome::Outcome,
    parameters::ParameterSchedule,
    reader::ReaderLimits,
    token::Token,
};
use tidemark_store::StoreError;

/// How often the label's key is rewritten before it is left to the next writer.
const MAX_REWRITES: usize = 8;

impl AppendSession {
    /// Updates the keys of the labels that `token` moved. They are caches: after a failure the next writer updates them.
    pub(super) async fn refresh_labels(&self, token: Token, prepared: &PreparedEntry, schedule: &ParameterSchedule) {
        for part in &prepared.parts {
            let CompletionTarget::Label { repo, label } = &part.target else {
                continue;
            };
            if let Err(error) = self.refresh_label(repo, label, token, schedule).await {
                tracing::warn!(%repo, %label, %token, %error, "label.yaml was not rewritten; the next writer of the label rewrites it");
            }
        }
    }

    async fn refresh_label(
        &self,
        repo: &str,
        label: &str,
        own: Token,
        schedule: &ParameterSchedule,
    ) -> Result<(), StoreError> {
        let label_path = DatamonPath::Label { repo: repo.to_owned(), label: label.to_owned() };
        let Some(path) = label_path.path() else {
            return Ok(());
        };
        let mut held: Option<CompletionMarker> = None;
        for _ in 0..MAX_REWRITES {
            let newest = self.newest_marker(repo, label, own, schedule).await?;
            let Some(newest) = newest.filter(|newest| held.as_ref() != Some(newest)) else {
                return Ok(());
            };
            let key = marker_key(repo, label, newest.token, newest.op);
            let values = self.log.values();
            let body = values.get(&key, ReaderLimits::default().descriptor).await?.and_then(|marker| marker.body);
            let Some(body) = body else {
                return Ok(());
            };
            values.put(&path, body).await?;
            held = Some(newest);
        }
        Ok(())
    }

    /// The newest marker of a committed operation. What completed before `own` could not be newer, so that markers of
    /// tokens older than its bound are not listed.
    async fn newest_marker(
        &self,
        repo: &str,
        label: &str,
        own: Token,
        schedule: &ParameterSchedule,
    ) -> Result<Option<CompletionMarker>, StoreError> {
        let longest = schedule.sets().iter().map(|dated| dated.parameters.commit_bound()).max().unwrap_or_default();
        let oldest = own.second().before(longest + Duration::from_secs(2));
        let folder = marker_folder(repo, label);
        let after = format!("{folder}/{}", Token::first_of(oldest));
        let listed = self.log.values().list(&folder, Some(&after)).try_collect::<Vec<_>>().await?;
        let mut markers: Vec<CompletionMarker> =
            listed.iter().filter_map(|info| CompletionMarker::read(&info.key, info.time)).collect();
        markers.sort_by_key(CompletionMarker::sort_key);
        while let Some(marker) = markers.pop() {
            if marker.token == own || self.is_committed(&marker, schedule).await? {
                return Ok(Some(marker));
            }
        }
        Ok(None)
    }

    async fn is_committed(&self, marker: &CompletionMarker, schedule: &ParameterSchedule) -> Result<bool, StoreError> {
        let found = self.reader.lookup(marker.token, schedule).await?;
        let op = usize::try_from(marker.op).unwrap_or(usize::MAX);
        Ok(found.is_some_and(|found| found.ops.get(op).is_some_and(|op| op.decision.outcome == Outcome::Committed)))
    }
}

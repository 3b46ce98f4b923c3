//! Labels after an append: `label.yaml` is a cache of the newest committed marker, for Datamon's clients.
//!
//! After writing it a writer lists the markers again, and rewrites until the key holds the newest. A value that is younger than
//! the newest marker and is no marker's is a move by a client that knows no markers: it stays. Between that look and the write
//! such a client can still be overwritten; no store offers what would close that gap on every provider.

use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;

use super::{
    prepared::{PreparedEntry, binding},
    session::AppendSession,
};
use crate::{
    datamon::DatamonPath,
    marker::{CompletionMarker, marker_folder, marker_key},
    outcome::Outcome,
    parameters::ParameterSchedule,
    reader::TOKEN_FIELD,
    token::Token,
};
use tidemark_store::{StoreError, StoreSecond, StoredObject};

/// How often the label's key is rewritten before it is left to the next writer.
const MAX_REWRITES: usize = 8;

impl AppendSession {
    /// The newest token of about second `now` that moved a label which `prepared` moves: what moves it next has a later one, so that
    /// moves of one second keep their order.
    pub(super) async fn newest_move(
        &self,
        prepared: &PreparedEntry,
        now: StoreSecond,
    ) -> Result<Option<Token>, StoreError> {
        let mut newest = None;
        for (repo, label) in prepared.labels() {
            let folder = marker_folder(repo, label);
            let after = format!("{folder}/{}", Token::first_of(now));
            let mut listed = self.log.values().list(&folder, Some(&after));
            while let Some(info) = listed.try_next().await? {
                let marker = CompletionMarker::read(&folder, &info.key, info.time);
                // The estimate of the clock may be a second behind; what is later than that is not this log's clock's.
                newest = newest.max(marker.map(|marker| marker.token).filter(|token| token.second() <= now.next()));
            }
        }
        Ok(newest)
    }

    /// Updates the keys of the labels that `token` moved. They are caches: after a failure the next writer updates them.
    pub(super) async fn refresh_labels(&self, token: Token, moved: Vec<(&str, &str)>, schedule: &ParameterSchedule) {
        for (repo, label) in moved {
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
            let markers = self.markers(repo, label, own, schedule).await?;
            let newest = self.newest_committed(&markers, own, schedule).await?;
            let Some(newest) = newest.filter(|newest| held.as_ref() != Some(newest)) else {
                return Ok(());
            };
            let marker = self.value(&marker_key(repo, label, newest.token, newest.op), schedule).await?;
            let Some(body) = marker.and_then(|marker| marker.body) else {
                return Ok(());
            };
            let present = self.value(&path, schedule).await?;
            if present.as_ref().is_some_and(|present| is_of_later_marker(present, &newest, &markers)) {
                return Ok(());
            }
            if let Some(StoredObject { info, body: Some(present), .. }) = present
                && info.time > newest.time
                && present != body
                && !self.is_of_a_marker(&present, repo, label, &markers, schedule).await?
            {
                tracing::info!(%repo, %label, "another client has moved the label since; label.yaml stays");
                return Ok(());
            }
            // Whose value it is, so that no reader takes it for that of an entry without a marker.
            let metadata = binding(newest.token, newest.op);
            self.log.values().put_with(&path, body, &metadata).await?;
            held = Some(newest);
        }
        Ok(())
    }

    /// What the last metadata store holds under `key`, whatever parameters it was written under.
    async fn value(&self, key: &str, schedule: &ParameterSchedule) -> Result<Option<StoredObject>, StoreError> {
        let limit = schedule.sets().iter().map(|dated| dated.parameters.max_descriptor_size).max();
        self.log.values().get(key, limit.unwrap_or_default()).await
    }

    /// Whether a value of the label is the body of one of `markers`: an older refresh that landed late.
    async fn is_of_a_marker(
        &self,
        value: &Bytes,
        repo: &str,
        label: &str,
        markers: &[CompletionMarker],
        schedule: &ParameterSchedule,
    ) -> Result<bool, StoreError> {
        for marker in markers.iter().rev() {
            let found = self.value(&marker_key(repo, label, marker.token, marker.op), schedule).await?;
            if found.is_some_and(|found| found.body.as_ref() == Some(value)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The markers of the label, the newest last. What completed before `own` could not be newer, so that markers of tokens
    /// older than its bound are not listed.
    async fn markers(
        &self,
        repo: &str,
        label: &str,
        own: Token,
        schedule: &ParameterSchedule,
    ) -> Result<Vec<CompletionMarker>, StoreError> {
        let longest = schedule.sets().iter().map(|dated| dated.parameters.commit_bound()).max().unwrap_or_default();
        // What counts is stored before `C` + 2 s after its token's second (README, section 2.2).
        let oldest = own.second().before(longest + Duration::from_secs(2));
        let folder = marker_folder(repo, label);
        let after = format!("{folder}/{}", Token::first_of(oldest));
        let listed = self.log.values().list(&folder, Some(&after)).try_collect::<Vec<_>>().await?;
        let mut markers: Vec<CompletionMarker> =
            listed.iter().filter_map(|info| CompletionMarker::read(&folder, &info.key, info.time)).collect();
        markers.sort_by_key(CompletionMarker::sort_key);
        Ok(markers)
    }

    /// The newest of the markers that is of a committed operation.
    async fn newest_committed(
        &self,
        markers: &[CompletionMarker],
        own: Token,
        schedule: &ParameterSchedule,
    ) -> Result<Option<CompletionMarker>, StoreError> {
        for marker in markers.iter().rev() {
            if marker.token == own || self.is_committed(marker, schedule).await? {
                return Ok(Some(marker.clone()));
            }
        }
        Ok(None)
    }

    async fn is_committed(&self, marker: &CompletionMarker, schedule: &ParameterSchedule) -> Result<bool, StoreError> {
        let Some(found) = self.reader.lookup(marker.token, schedule).await? else { return Ok(false) };
        let op = usize::try_from(marker.op).unwrap_or(usize::MAX);
        // Where it has an expectation only an index knows, and who has heard of that updates the key.
        let is_conditional = found.intent.as_ref().is_ok_and(|intent| intent.expect.is_some());
        Ok(!is_conditional && found.ops.get(op).is_some_and(|op| op.decision.outcome == Outcome::Committed))
    }
}

/// Whether a value of the label is that of a marker after `newest`: of an entry with an expectation, put by who has heard that it is committed.
fn is_of_later_marker(value: &StoredObject, newest: &CompletionMarker, markers: &[CompletionMarker]) -> bool {
    let token = value.metadata.get(TOKEN_FIELD).and_then(|token| token.parse::<Token>().ok());
    markers.iter().any(|marker| Some(marker.token) == token && marker.sort_key() > newest.sort_key())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidemark_store::{Create, Entropy, UserMetadata};

    use super::*;
    use crate::{LogParameters, testing::TestStore};

    const VALUE: &str = "labels/r/v1/label.yaml";

    /// A label with markers that complete one operation each, a second apart; gives the tokens.
    async fn moved(lab: &TestStore, session: &AppendSession, values: &[&str]) -> Vec<Token> {
        let mut tokens = Vec::new();
        for value in values {
            let token = Token::new(lab.now(), &Entropy::seeded(lab.now().unix()));
            let key = marker_key("r", "v1", token, 0);
            let created =
                session.log.values().create(&key, Bytes::from((*value).to_owned()), &UserMetadata::new()).await;
            assert!(matches!(created, Create::Committed));
            tokio::time::advance(Duration::from_secs(1)).await;
            tokens.push(token);
        }
        tokens
    }

    async fn refreshed(present: &'static str, markers: &[&str]) -> Bytes {
        let (lab, schedule) =
            (TestStore::new(), ParameterSchedule::constant(LogParameters::with_expiry(Duration::from_secs(20))));
        let session = AppendSession::new(lab.log(), Arc::new(schedule.clone()), "t", Entropy::seeded(1));
        let tokens = moved(&lab, &session, markers).await;
        tokio::time::advance(Duration::from_secs(2)).await;
        lab.log().values().put(VALUE, Bytes::from_static(present.as_bytes())).await.unwrap();
        session.refresh_label("r", "v1", tokens[tokens.len() - 1], &schedule).await.unwrap();
        lab.log().values().get(VALUE, 1000).await.unwrap().unwrap().body.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_younger_value_of_a_client_that_knows_no_markers_stays() {
        assert_eq!(refreshed("id: theirs", &["id: a", "id: b"]).await, "id: theirs");
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_refresh_with_an_older_markers_value_is_mended() {
        assert_eq!(refreshed("id: a", &["id: a", "id: b"]).await, "id: b");
    }
}

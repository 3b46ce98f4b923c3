//! Completion markers: what makes an operation on a label complete, since the label's own key is overwritten.
//!
//! A marker is created once, at `.tidemark/done/{repo}/{label}/{token}-{op}` in the last metadata store, and holds the
//! new `label.yaml`. The label's own key is a cache of the newest committed marker, for Datamon's clients: after writing
//! it a writer lists the markers again, and rewrites until the key holds the newest.

use std::time::Duration;

use futures::TryStreamExt as _;

use super::{
    LogWriter,
    draft::{CompletionTarget, PreparedEntry},
};
use crate::{DatamonPath, Outcome, ParameterSchedule, ReaderLimits, Token};
use tidemark_store::{StoreError, StoreSecond};

/// How often the label's key is rewritten before it is left to the next writer.
const ROUNDS: usize = 8;

/// A completion marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompletionMarker {
    /// The entry.
    pub token: Token,
    /// The operation within the entry.
    pub op: u32,
    /// The marker's store time.
    pub time: StoreSecond,
}

/// The key of the marker that completes operation `op` of `token` on a label.
pub fn marker_key(repo: &str, label: &str, token: Token, op: u32) -> String {
    format!("{}/{token}-{op}", folder(repo, label))
}

fn folder(repo: &str, label: &str) -> String {
    format!(".tidemark/done/{repo}/{label}")
}

impl CompletionMarker {
    /// The marker at `key`, the last segment of which names entry and operation.
    fn read(key: &str, time: StoreSecond) -> Option<Self> {
        let (token, op) = key.rsplit('/').next()?.split_once('-')?;
        Some(Self { token: token.parse().ok()?, op: op.parse().ok()?, time })
    }

    /// Labels move in the order of their completion, then of their tokens.
    fn order(&self) -> (StoreSecond, Token, u32) {
        (self.time, self.token, self.op)
    }
}

impl LogWriter {
    /// Brings the keys of the labels that `token` moved up to date. They are caches: a failure is for the next writer.
    pub(super) async fn refresh_labels(&self, token: Token, prepared: &PreparedEntry, schedule: &ParameterSchedule) {
        for part in &prepared.parts {
            let CompletionTarget::Label { repo, label } = &part.target else {
                continue;
            };
            if let Err(error) = self.refresh_label(repo, label, token, schedule).await {
                tracing::warn!(%repo, %label, %token, %error, "label.yaml could not be rewritten; the next writer does it");
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
        for _ in 0..ROUNDS {
            let newest = self.newest_marker(repo, label, own, schedule).await?;
            let Some(newest) = newest.filter(|newest| held.as_ref() != Some(newest)) else {
                return Ok(());
            };
            let key = marker_key(repo, label, newest.token, newest.op);
            let values = self.0.log.values();
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
        let folder = folder(repo, label);
        let after = format!("{folder}/{}", Token::first_of(oldest));
        let listed = self.0.log.values().list(&folder, Some(&after)).try_collect::<Vec<_>>().await?;
        let mut markers: Vec<CompletionMarker> =
            listed.iter().filter_map(|info| CompletionMarker::read(&info.key, info.time)).collect();
        markers.sort_by_key(CompletionMarker::order);
        while let Some(marker) = markers.pop() {
            if marker.token == own || self.is_committed(&marker, schedule).await? {
                return Ok(Some(marker));
            }
        }
        Ok(None)
    }

    async fn is_committed(&self, marker: &CompletionMarker, schedule: &ParameterSchedule) -> Result<bool, StoreError> {
        let found = self.0.reader.lookup(marker.token, schedule).await?;
        let op = usize::try_from(marker.op).unwrap_or(usize::MAX);
        Ok(found.is_some_and(|found| found.ops.get(op).is_some_and(|op| op.decision.outcome == Outcome::Committed)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_round_trip(bytes: [u8; 20], op: u32) {
            let token = Token::from_bytes(bytes);
            let time = StoreSecond::from_unix(1);
            prop_assert_eq!(CompletionMarker::read(&marker_key("r", "l", token, op), time), Some(CompletionMarker { token, op, time }));
        }

        #[test]
        fn any_key_is_read_without_a_panic(key: String) {
            let _ = CompletionMarker::read(&key, StoreSecond::default());
        }
    }
}

//! The request to remove the index when its owner is gone: a file, read by the process that writes the index.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use parking_lot::Mutex;
use tidemark_catalog::{CatalogError, IndexOwner, PurgeError, TransactionRejected};
use tokio::time::sleep;

use super::error::ServiceError;
use tidemark_ingest::IngestError;

/// The file of the control folder that requests the removal of the index. It holds the UID of the index's owner.
const PURGE_FILE: &str = "purge";
/// How often the file is looked up.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// More bytes than any UID has.
const MAX_UID_BYTES: usize = 200;

/// The file that requests the removal of the index.
pub(super) struct PurgeRequest {
    file: Option<PathBuf>,
    /// The UID that must stand there; `None` for an owner without one, whose index is never removed this way.
    uid: Option<String>,
    /// What stood there instead and was logged.
    warned: Mutex<Option<String>>,
}

impl PurgeRequest {
    /// The control folder of the index that `owner` has.
    pub(super) fn of(folder: Option<&Path>, owner: &IndexOwner) -> Self {
        let uid = match owner {
            IndexOwner::Resource { uid, .. } => Some(uid.clone()),
            IndexOwner::Named { .. } => None,
        };
        Self { file: folder.map(|folder| folder.join(PURGE_FILE)), uid, warned: Mutex::default() }
    }

    /// Whether the file holds the owner's UID. Anything else in it is logged once and ignored.
    pub(super) async fn is_present(&self) -> bool {
        let Some(file) = &self.file else { return false };
        let Ok(text) = tokio::fs::read_to_string(file).await else { return false };
        let text = text.trim();
        if text.len() < MAX_UID_BYTES && self.uid.as_deref() == Some(text) {
            return true;
        }
        let shown: String = text.chars().take(MAX_UID_BYTES).collect();
        let mut warned = self.warned.lock();
        if !text.is_empty() && warned.as_ref() != Some(&shown) {
            let uid = self.uid.as_deref().unwrap_or("none");
            tracing::warn!(
                file = %file.display(), found = shown, uid,
                "ignoring purge request: it names a different owner"
            );
            *warned = Some(shown);
        }
        false
    }

    /// Waits until the removal is requested.
    pub(super) async fn wait(&self) {
        if self.file.is_none() || self.uid.is_none() {
            std::future::pending::<()>().await;
        }
        while !self.is_present().await {
            sleep(POLL_INTERVAL).await;
        }
    }
}

/// Whether the index was removed on behalf of this very owner: it must not be created again.
pub(super) fn was_purged(failure: &ServiceError) -> bool {
    matches!(failure, ServiceError::Chain(CatalogError::Rejected(TransactionRejected::PurgedForOwner { .. })))
}

impl From<PurgeError> for ServiceError {
    fn from(error: PurgeError) -> Self {
        match error {
            PurgeError::Chain(error) => Self::Chain(error),
            PurgeError::Acquire(error) => IngestError::Acquire(error).into(),
            PurgeError::Publish(error) => IngestError::Publish(error).into(),
            error => Self::Ended { task: "purge", why: error.to_string() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(uid: &str) -> IndexOwner {
        let text = |text: &str| text.to_owned();
        IndexOwner::Resource { cluster: text("c"), namespace: text("n"), name: text("w"), uid: text(uid) }
    }

    #[tokio::test]
    async fn only_the_owners_own_uid_asks() {
        let folder = tempfile::tempdir().unwrap();
        let control = PurgeRequest::of(Some(folder.path()), &owner("u1"));
        assert!(!control.is_present().await, "no file");
        for other in ["", "u", "u11", "U1", "*", "true", "u1 u2"] {
            std::fs::write(folder.path().join(PURGE_FILE), other).unwrap();
            assert!(!control.is_present().await, "{other}");
        }
        std::fs::write(folder.path().join(PURGE_FILE), "u1\n").unwrap();
        assert!(control.is_present().await);
        control.wait().await;
        let named = PurgeRequest::of(Some(folder.path()), &IndexOwner::Named { name: "u1".to_owned() });
        assert!(!named.is_present().await, "a name is no UID");
        assert!(!PurgeRequest::of(None, &owner("u1")).is_present().await);
    }
}

//! Removing the index when its owner is gone: asked for by a file, done by the process that writes.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tidemark_catalog::{CatalogError, IndexOwner, PurgeError, TransactionRejected};
use tokio::time::sleep;

use super::ServiceError;
use tidemark_ingest::IngestError;

/// The file of the control folder that asks for the index to be removed. It holds the UID of the index's owner.
const FILE: &str = "purge";
/// How often the file is looked for.
const LOOK: Duration = Duration::from_secs(1);
/// More bytes than any UID has.
const LONGEST: usize = 200;

/// Where somebody asks for the index to be removed.
pub(super) struct Control {
    file: Option<PathBuf>,
    /// The UID that must stand there; `None` for an owner without one, whose index is never removed this way.
    uid: Option<String>,
    /// What stood there instead, and was warned of.
    warned: Mutex<Option<String>>,
}

impl Control {
    /// The control folder of the index that `owner` has.
    pub(super) fn of(folder: Option<&Path>, owner: &IndexOwner) -> Self {
        let uid = match owner {
            IndexOwner::Resource { uid, .. } => Some(uid.clone()),
            IndexOwner::Named { .. } => None,
        };
        Self { file: folder.map(|folder| folder.join(FILE)), uid, warned: Mutex::default() }
    }

    /// Whether the owner's UID stands in the file. Anything else that stands there is warned of once, and means nothing.
    pub(super) async fn asks(&self) -> bool {
        let Some(file) = &self.file else { return false };
        let Ok(text) = tokio::fs::read_to_string(file).await else { return false };
        let text = text.trim();
        if text.len() < LONGEST && self.uid.as_deref() == Some(text) {
            return true;
        }
        let shown: String = text.chars().take(LONGEST).collect();
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if !text.is_empty() && warned.as_ref() != Some(&shown) {
            let uid = self.uid.as_deref().unwrap_or("none");
            tracing::warn!(
                file = %file.display(), found = shown, uid,
                "a purge is asked for that is not this index's owner's, so nothing is removed"
            );
            *warned = Some(shown);
        }
        false
    }

    /// Waits until it asks.
    pub(super) async fn asked(&self) {
        if self.file.is_none() || self.uid.is_none() {
            std::future::pending::<()>().await;
        }
        while !self.asks().await {
            sleep(LOOK).await;
        }
    }
}

/// Whether the index was removed on behalf of this very owner: it must not be made again.
pub(super) fn was_removed(failure: &ServiceError) -> bool {
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
        let control = Control::of(Some(folder.path()), &owner("u1"));
        assert!(!control.asks().await, "no file");
        for other in ["", "u", "u11", "U1", "*", "true", "u1 u2"] {
            std::fs::write(folder.path().join(FILE), other).unwrap();
            assert!(!control.asks().await, "{other}");
        }
        std::fs::write(folder.path().join(FILE), "u1\n").unwrap();
        assert!(control.asks().await);
        control.asked().await;
        let named = Control::of(Some(folder.path()), &IndexOwner::Named { name: "u1".to_owned() });
        assert!(!named.asks().await, "a name is no UID");
        assert!(!Control::of(None, &owner("u1")).asks().await);
    }
}

//! Keeps the acknowledged position of a consumer in its chain while records are delivered.

use std::time::Duration;

use tidemark_catalog::{CatalogError, ConsumerLease, ConsumerProgress, TransactionRejected};
use tidemark_store::StoreError;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::mutants;

/// How often an idle holder looks whether it still holds the consumer.
const CHECK_INTERVAL: Duration = Duration::from_secs(15);
/// The pause after a store that failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// How long the last position may take when the process is to end: what is not stored is delivered again.
const LAST_ACKNOWLEDGEMENT_TIMEOUT: Duration = Duration::from_secs(8);

/// Appends what is acknowledged, at most once a second, until the delivery ends or the consumer is lost.
pub(crate) struct PositionKeeper {
    lease: ConsumerLease,
    progress: watch::Receiver<ConsumerProgress>,
}

impl PositionKeeper {
    /// Keeps what `progress` says for the holder of `lease`.
    pub(crate) fn new(lease: ConsumerLease, progress: watch::Receiver<ConsumerProgress>) -> Self {
        Self { lease, progress }
    }

    /// Runs until `done`, then stores the last position and releases the consumer.
    ///
    /// # Errors
    ///
    /// [`TransactionRejected::ConsumerFenced`] once another process holds the consumer; others that no retry helps. A store that fails is
    /// asked again.
    pub(crate) async fn run(mut self, done: CancellationToken) -> Result<(), CatalogError> {
        loop {
            tokio::select! {
                biased;
                () = done.cancelled() => break,
                changed = self.progress.changed() => {
                    // The delivery has ended: `done` follows.
                    if changed.is_err() {
                        done.cancelled().await;
                        break;
                    }
                    self.store_progress().await?;
                }
                () = sleep(CHECK_INTERVAL) => unless_transient(self.lease.check().await)?,
            }
        }
        let last = self.progress.borrow_and_update().clone();
        let Ok(stored) = timeout(LAST_ACKNOWLEDGEMENT_TIMEOUT, self.lease.acknowledge(&last)).await else {
            tracing::warn!("the last position was not stored in time; what it acknowledges is delivered again");
            return Ok(());
        };
        stored?;
        self.lease.release().await
    }

    async fn store_progress(&mut self) -> Result<(), CatalogError> {
        let progress = self.progress.borrow_and_update().clone();
        let stored = self.lease.acknowledge(&progress).await.map(|_| ());
        let stored = ignore_planted_fence(stored, &progress).await;
        if stored.as_ref().is_err_and(is_transient) {
            self.progress.mark_changed();
            sleep(RETRY_INTERVAL).await;
        }
        unless_transient(stored)
    }
}

async fn ignore_planted_fence(
    stored: Result<(), CatalogError>,
    progress: &ConsumerProgress,
) -> Result<(), CatalogError> {
    match stored {
        Err(CatalogError::Rejected(TransactionRejected::ConsumerFenced { .. })) if mutants::is_fence_ignored() => {
            mutants::advance_fenced(progress).await
        }
        other => other,
    }
}

fn is_transient(error: &CatalogError) -> bool {
    matches!(error, CatalogError::Store(StoreError::Failed { .. }) | CatalogError::Conflicts { .. })
}

fn unless_transient(result: Result<(), CatalogError>) -> Result<(), CatalogError> {
    match result {
        Err(error) if is_transient(&error) => {
            tracing::warn!(%error, "the position of the consumer was not stored; trying again");
            Ok(())
        }
        other => other,
    }
}

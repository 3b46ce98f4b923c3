//! Guards whose entry is gone: a clean-up that ended between an entry and its guard, or whose deletion of the guard failed, left them.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use tidemark_catalog::LogCursor;
use tidemark_store::Store;
use tidemark_wal::{GUARD_FOLDER, Token, guard_key, guarded_token};

use super::{
    archived_entries::ArchivedEntries, entry_deleter::DeletionFence, entry_proof::ArchivedEntry, error::CleanupError,
};

/// How many guards are looked at, and deleted, at once.
const MAX_BATCH_GUARDS: usize = 1000;
/// Entries that are looked for at once.
const HEADS: usize = 16;

/// Deletes guards that earlier clean-ups left.
///
/// A guard goes only where the store says that its entry is gone, and the archive has the entry whole, with what its guard decided. No entry
/// comes to a guard: the guard is created after its entry was seen, and an entry of these seconds that came now would be expired whatever
/// its guard says.
pub(super) struct LeftGuardDeleter<'a> {
    pub(super) log: &'a Store,
    /// Read from its begin.
    pub(super) archived: ArchivedEntries<'a>,
    pub(super) fence: Option<&'a DeletionFence<'a>>,
}

impl LeftGuardDeleter<'_> {
    /// Deletes those of the seconds below `to`, up to which the plan goes.
    pub(super) async fn run(mut self, to: LogCursor) -> Result<(), CleanupError> {
        let mut listed = self.log.list(GUARD_FOLDER, None);
        let mut guarded = Vec::new();
        while let Some(found) = listed.try_next().await? {
            let Some(token) = guarded_token(&found.key) else { continue };
            if !to.covers(token) {
                break;
            }
            guarded.push(token);
            if guarded.len() >= MAX_BATCH_GUARDS {
                self.delete(std::mem::take(&mut guarded)).await?;
            }
        }
        self.delete(guarded).await
    }

    /// Deletes the guards of those of the entries that are gone.
    async fn delete(&mut self, guarded: Vec<Token>) -> Result<(), CleanupError> {
        let mut left = Vec::new();
        for token in gone(self.log, guarded).await {
            let archived = ArchivedEntry::of(&self.archived.rows_of(token).await?);
            if archived.is_guarded() && archived.missing().is_none() {
                left.push(guard_key(token));
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        if let Some(DeletionFence { cleanups, begun }) = self.fence {
            cleanups.require_own(begun).await?;
        }
        let failed = self.log.delete_each(&left).await;
        tracing::info!(guards = left.len() - failed.len(), "guards that an earlier clean-up left were deleted");
        for (key, error) in failed {
            tracing::warn!(key, %error, "the guard of an entry that is gone stays; the next clean-up tries again");
        }
        Ok(())
    }
}

/// Those of the entries that the store says are gone, in order. Where it does not say, the guard stays.
async fn gone(log: &Store, guarded: Vec<Token>) -> Vec<Token> {
    // Collected before they are streamed: with a closure in the stream the future would not be `Send`.
    let heads: Vec<_> = guarded.into_iter().map(|token| is_gone(log, token)).collect();
    stream::iter(heads).buffered(HEADS).filter_map(std::future::ready).collect().await
}

async fn is_gone(log: &Store, token: Token) -> Option<Token> {
    matches!(log.head(&token.to_string()).await, Ok(None)).then_some(token)
}

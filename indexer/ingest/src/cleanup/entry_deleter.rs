//! The deletion, entry by entry: each one is read in the archive and in the log, and goes if both are the same.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use tidemark_catalog::{CleanupChain, CleanupState, LogCursor};
use tidemark_store::{ChainRecord, Store, StoreError, StoreSecond, error_chain};
use tidemark_wal::{LogReader, Token, guard_key};
use tokio::sync::watch;

use super::{
    archived_entries::ArchivedEntries, entry_proof::ArchivedEntry, error::CleanupError, hold_reason::HoldReason,
    report::DeletionReport,
};
use crate::mutants;

/// How many entries are deleted at once, and how many bytes of them are held at most, if no single one has more.
const MAX_BATCH_ENTRIES: usize = 1000;
const MAX_BATCH_BYTES: u64 = 16 << 20;
/// Entries of a batch that are read at once.
const FETCHES: usize = 16;
/// After so many failures without an entry deleted between them, the store is what fails, or its rights are.
const MAX_FAILURES_IN_A_ROW: u64 = 256;

/// On whose behalf entries are deleted.
pub(super) struct DeletionFence<'a> {
    pub(super) cleanups: &'a CleanupChain,
    pub(super) begun: &'a ChainRecord<CleanupState>,
}

/// Deletes entries of one log.
pub(super) struct EntryDeleter<'a> {
    log: &'a Store,
    archived: ArchivedEntries<'a>,
    mode: DeletionMode<'a>,
    progress: &'a watch::Sender<DeletionReport>,
    batch: DeletionBatch,
    failures_in_a_row: u64,
    last_failure: Option<String>,
}

/// What becomes of an entry that may go.
#[derive(Clone, Copy)]
pub(super) enum DeletionMode<'a> {
    /// It is counted.
    Rehearsal,
    /// It is deleted, as long as no other clean-up has begun.
    Deletion(Option<&'a DeletionFence<'a>>),
}

/// Entries that the archive has whole, and that are not compared with the log yet.
#[derive(Default)]
struct DeletionBatch {
    entries: Vec<(Token, ArchivedEntry)>,
    /// What they take in memory.
    bytes: u64,
}

/// An entry that the archive has byte for byte.
struct ProvenEntry {
    key: String,
    bytes: u64,
    /// The key of the guard that it may have.
    guard: Option<String>,
}

impl<'a> EntryDeleter<'a> {
    pub(super) fn new(
        log: &'a Store,
        archived: ArchivedEntries<'a>,
        mode: DeletionMode<'a>,
        progress: &'a watch::Sender<DeletionReport>,
    ) -> Self {
        let batch = DeletionBatch::default();
        Self { log, archived, mode, progress, batch, failures_in_a_row: 0, last_failure: None }
    }

    /// Deletes the entries below `to` that may go. The listing says where to look and what stays; what goes, the archive says.
    pub(super) async fn run(mut self, reader: &LogReader, to: LogCursor) -> Result<DeletionReport, CleanupError> {
        let mut listed = reader.list(StoreSecond::default(), to.second());
        while let Some(entry) = listed.try_next().await? {
            let archived = ArchivedEntry::of(&self.archived.rows_of(entry.token).await?);
            if let Some(reason) = mutants::held_back(archived.missing()) {
                self.hold(entry.token.to_string(), reason, None);
                continue;
            }
            self.batch.bytes += archived.bytes();
            self.batch.entries.push((entry.token, archived));
            if self.batch.entries.len() >= MAX_BATCH_ENTRIES || self.batch.bytes >= MAX_BATCH_BYTES {
                self.delete_batch().await?;
                if self.is_stopped() {
                    return Ok(self.progress.borrow().clone());
                }
            }
        }
        self.delete_batch().await?;
        Ok(self.progress.borrow().clone())
    }

    /// Deletes what of the batch may go.
    async fn delete_batch(&mut self) -> Result<(), CleanupError> {
        let DeletionBatch { entries, .. } = std::mem::take(&mut self.batch);
        let proven = self.proven(entries).await;
        let deleted = match self.mode {
            DeletionMode::Rehearsal => proven,
            DeletionMode::Deletion(_) if proven.is_empty() => proven,
            DeletionMode::Deletion(fence) => {
                if let Some(DeletionFence { cleanups, begun }) = fence {
                    cleanups.require_own(begun).await?;
                }
                let deleted = self.deleted(proven).await;
                if let Some(last) = deleted.last()
                    && !self.progress.borrow().keeps_versions
                    && is_kept_as_version(self.log, &last.key).await
                {
                    self.progress.send_modify(|report| report.keeps_versions = true);
                }
                deleted
            }
        };
        let bytes: u64 = deleted.iter().map(|entry| entry.bytes).sum();
        if !deleted.is_empty() {
            (self.failures_in_a_row, self.last_failure) = (0, None);
        }
        self.progress.send_modify(|report| {
            report.deleted += deleted.len() as u64;
            report.deleted_bytes += bytes;
            if self.failures_in_a_row >= MAX_FAILURES_IN_A_ROW {
                let (failures, last) = (self.failures_in_a_row, self.last_failure.take().unwrap_or_default());
                report.stopped =
                    Some(format!("{failures} entries in a row were not deleted, the last one since {last}"));
            }
        });
        Ok(())
    }

    /// Deletes the entries. Gives those that are gone.
    async fn deleted(&mut self, proven: Vec<ProvenEntry>) -> Vec<ProvenEntry> {
        let keys: Vec<String> = proven.iter().map(|entry| entry.key.clone()).collect();
        let mut failed = self.log.delete_each(&keys).await;
        let mut deleted = Vec::with_capacity(proven.len());
        for entry in proven {
            let error = failed.remove(&entry.key).filter(|_| mutants::is_looked_at_again());
            let left = match &error {
                Some(error) => state_after(self.log, &entry.key, error).await,
                None => None,
            };
            match (left, error) {
                (Some(reason), Some(error)) => self.hold(entry.key, reason, Some(error_chain(&error))),
                _ => deleted.push(entry),
            }
        }
        delete_guards(self.log, &deleted).await;
        deleted
    }

    /// Reads the entries in the log. Those stay that are not what the archive has.
    async fn proven(&mut self, entries: Vec<(Token, ArchivedEntry)>) -> Vec<ProvenEntry> {
        let log = self.log;
        let read = stream::iter(entries).map(|(token, archived)| async move {
            let key = token.to_string();
            let guard = archived.is_guarded().then(|| guard_key(token));
            (log.get(&key, archived.size()).await, key, guard, archived)
        });
        let mut read = std::pin::pin!(read.buffered(FETCHES));
        let mut proven = Vec::new();
        while let Some((object, key, guard, archived)) = read.next().await {
            match object {
                Ok(Some(object)) => match mutants::held_back(archived.difference(&object)) {
                    None => proven.push(ProvenEntry { key, bytes: object.info.size, guard }),
                    Some(reason) => self.hold(key, reason, None),
                },
                Ok(None) => self.progress.send_modify(|report| report.gone += 1),
                Err(error) => self.hold(key, HoldReason::Unread, Some(error_chain(&error))),
            }
        }
        proven
    }

    fn hold(&mut self, key: String, reason: HoldReason, words: Option<String>) {
        if reason.may_concern_all() {
            self.failures_in_a_row += 1;
            self.last_failure.clone_from(&words);
        }
        self.progress.send_modify(|report| report.hold(key, reason, words));
    }

    fn is_stopped(&self) -> bool {
        self.progress.borrow().stopped.is_some()
    }
}

/// Deletes the guards of entries that are gone: while an entry is there its guard decides it, and what the archive has of it holds the guard
/// too. One that stays goes with the next clean-up.
async fn delete_guards(log: &Store, gone: &[ProvenEntry]) {
    let guards: Vec<String> = gone.iter().filter_map(|entry| entry.guard.clone()).collect();
    if guards.is_empty() {
        return;
    }
    for (key, error) in log.delete_each(&guards).await {
        tracing::warn!(key, %error, "the guard of a deleted entry stays; the next clean-up deletes it");
    }
}

/// Why the entry whose deletion failed stays; `None`: it is gone all the same.
async fn state_after(log: &Store, key: &str, error: &StoreError) -> Option<HoldReason> {
    match log.head(key).await {
        Ok(None) => None,
        Ok(Some(_)) => Some(HoldReason::of_failed_deletion(error)),
        Err(_) => Some(HoldReason::Unknown),
    }
}

/// Whether the bucket keeps the entry, which was deleted, as an older version. Without the right to list versions that is not known, and
/// nothing is said.
async fn is_kept_as_version(log: &Store, key: &str) -> bool {
    match log.version_page(key, None).await {
        Ok(page) => page.is_some_and(|page| !page.versions.is_empty()),
        Err(error) => {
            tracing::debug!(%error, key, "whether the bucket keeps older versions is not known");
            false
        }
    }
}

//! What a clean-up found and did.

use std::collections::BTreeMap;

use tidemark_catalog::LogCursor;
use tidemark_store::StoreSecond;

use super::{hold_reason::HoldReason, retention_rules::RuleVerdict};

/// How many entries that stay are named for each reason.
const MAX_NAMED: usize = 100;

/// An entry that stays although the rules let it go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldEntry {
    /// Its key.
    pub key: String,
    /// Why it stays.
    pub reason: HoldReason,
    /// The store's words, where the store is why.
    pub words: Option<String>,
}

/// What became of the entries that the rules let go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeletionReport {
    /// Entries that were deleted, or would be.
    pub deleted: u64,
    /// Bytes of them.
    pub deleted_bytes: u64,
    /// Entries that were listed and gone before they were read.
    pub gone: u64,
    /// How many stay, by reason.
    pub held: BTreeMap<HoldReason, u64>,
    /// The first hundred of each reason.
    pub named: Vec<HeldEntry>,
    /// Whether the bucket keeps a deleted entry as an older version.
    pub keeps_versions: bool,
    /// Why it ended before it was through.
    pub stopped: Option<String>,
}

/// A clean-up that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CleanupReport {
    /// Store time when it began.
    pub time: StoreSecond,
    /// What each rule lets go.
    pub rules: Vec<RuleVerdict>,
    /// Entries of the seconds below it were let go by all of them.
    pub to: LogCursor,
    /// The log's floor afterwards; before it, if nothing was changed. The beginning where nothing was ever deleted.
    pub floor: LogCursor,
    /// The verified snapshot that vouches for the archive; `None` where nothing was to go.
    pub snapshot: Option<String>,
    /// Entries that the log had.
    pub entries: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Keys in the log that are not entries. They stay.
    pub foreign: u64,
    /// The first of them.
    pub foreign_names: Vec<String>,
    /// What became of the entries.
    pub deletion: DeletionReport,
}

impl DeletionReport {
    pub(super) fn hold(&mut self, key: String, reason: HoldReason, words: Option<String>) {
        let count = self.held.entry(reason).or_default();
        *count += 1;
        if *count <= MAX_NAMED as u64 {
            self.named.push(HeldEntry { key, reason, words });
        }
    }

    /// How many entries stay that the rules let go.
    pub fn held_back(&self) -> u64 {
        self.held.values().sum()
    }

    /// How many of them stay since the clean-up could not do what it wanted.
    pub fn failed(&self) -> u64 {
        self.held.iter().filter(|(reason, _)| reason.is_failure()).map(|(_, count)| count).sum()
    }
}

impl CleanupReport {
    /// How many entries the log has now; with a dry run, would have.
    pub fn left(&self) -> u64 {
        self.entries.saturating_sub(self.deletion.deleted + self.deletion.gone)
    }
}

//! Mutants of the ingest. Each hook returns what is right unless the simulation turns its mutant on.

use std::{ops::Range, time::Duration};

use futures::{future::BoxFuture, stream::BoxStream};
use tidemark_catalog::{CompactionResult, Manifest};
use tidemark_store::{StoreError, StoreSecond, mutant_hooks};
use tidemark_wal::{ListedEntry, Outcome};

use crate::{
    cleanup::HoldReason,
    corrected_totals::CorrectedTotals,
    engine::RecordMarks,
    record::{LatestCommit, OperationRecord},
};

/// Entries in token order, as a listing shows them.
type ListedEntries = BoxStream<'static, Result<ListedEntry, StoreError>>;

/// What was listed before the clock is read; `None` where nothing was.
type EarlyListing = BoxFuture<'static, Result<Option<Vec<ListedEntry>>, StoreError>>;

mutant_hooks! {
    /// `ClockReadAfterListing`: what `list` shows before the clock is read.
    pub(crate) fn early_listing(list: impl FnOnce() -> ListedEntries) -> EarlyListing {
        ClockReadAfterListing => Box::pin(collected(list())),
        _ => Box::pin(std::future::ready(Ok(None))),
    }

    /// `SidecarAfterCause`: the marks that a batch causes are published with the batch after it.
    pub(crate) fn published_marks(
        marks: RecordMarks,
        totals: CorrectedTotals,
        causes: &Range<u64>,
    ) -> (RecordMarks, CorrectedTotals) {
        SidecarAfterCause => marks_of_the_batch_before(marks, totals, causes),
        _ => (marks, totals),
    }

    /// `ClockReadAfterListing`: the part of the early listing below `horizon` in place of `listing`.
    pub(crate) fn listing_below(
        listing: ListedEntries,
        early: Option<Vec<ListedEntry>>,
        horizon: StoreSecond,
    ) -> ListedEntries {
        ClockReadAfterListing => early_below(early, horizon),
        _ => listing,
    }

    /// `PanicEndsListing`: a panic while one entry is read ends the task that reads them all.
    pub(crate) fn caught<T>(read: std::thread::Result<T>) -> std::thread::Result<T> {
        PanicEndsListing => match read {
            Err(panic) => std::panic::resume_unwind(panic),
            read => read,
        },
        _ => read,
    }

    /// `PanicEndsListing`: a stream of entries that breaks off is one that has ended.
    pub(crate) fn is_broken_off(broken_off: bool) -> bool {
        PanicEndsListing => false,
        _ => broken_off,
    }

    /// `FloorIgnored`: what the log's cleanup may have removed is taken for what was never there.
    pub(crate) fn checked_floor<E>(checked: Result<(), E>) -> Result<(), E> {
        FloorIgnored => Ok(()),
        _ => checked,
    }

    /// `LoweredWindowDropsLook`: the newest audit window is that of the seconds before it too.
    pub(crate) fn audit_window(window: Duration, newest: Duration) -> Duration {
        LoweredWindowDropsLook => newest,
        _ => window,
    }

    /// `ArchiveWithoutTimes`: an operation is archived with the time of its token in place of its entry's store time.
    pub(crate) fn archived(record: OperationRecord) -> OperationRecord {
        ArchiveWithoutTimes => without_store_time(record),
        _ => record,
    }

    /// `SnapshotUnread`: a snapshot is verified although nothing was read again.
    pub(crate) fn is_read_again() -> bool {
        SnapshotUnread => false,
        _ => true,
    }

    /// `UnsettledArchived`: what the audit still looks at is archived.
    pub(crate) fn archived_up_to(audited: StoreSecond, cursor: StoreSecond) -> StoreSecond {
        UnsettledArchived => cursor,
        _ => audited,
    }

    /// `PlanAfterDeletion`: a clean-up deletes before it has recorded what.
    pub(crate) fn is_plan_first() -> bool {
        PlanAfterDeletion => false,
        _ => true,
    }

    /// `FloorAfterDeletion`: a clean-up raises the log's floor after it has deleted.
    pub(crate) fn is_floor_first() -> bool {
        FloorAfterDeletion => false,
        _ => true,
    }

    /// `UnverifiedSnapshotTrusted`: what was archived counts, whether a snapshot was verified with it or not.
    pub(crate) fn is_snapshot_needed() -> bool {
        UnverifiedSnapshotTrusted => false,
        _ => true,
    }

    /// `ListedRangeDeleted`: whatever is listed below the floor is deleted. `OversizedDeletedByName`: an entry is deleted of which
    /// the archive has a row and no bytes.
    pub(crate) fn held_back(reason: Option<HoldReason>) -> Option<HoldReason> {
        ListedRangeDeleted => None,
        OversizedDeletedByName => reason.filter(|reason| *reason != HoldReason::NotWhole),
        _ => reason,
    }

    /// `UnknownDeletionTaken`: an entry whose deletion failed is taken for deleted.
    pub(crate) fn is_looked_at_again() -> bool {
        UnknownDeletionTaken => false,
        _ => true,
    }

    /// `CursorOffByOne`: the cursor's second counts as decided too.
    pub(crate) fn cursor_bound(horizon: StoreSecond) -> StoreSecond {
        CursorOffByOne => horizon.next(),
        _ => horizon,
    }

    /// `LateMakesDuplicate`: a late operation makes a duplicate of its retry.
    pub(crate) fn claims_key(claims: bool, outcome: Outcome) -> bool {
        LateMakesDuplicate => claims || outcome == Outcome::Late,
        _ => claims,
    }

    /// `ExpectationOfIndexAlone`: what an intent expects is compared with the index, and not with what precedes it in the batch, whose records
    /// begin with `first_seq`.
    pub(crate) fn newest_before(newest: Option<LatestCommit>, first_seq: u64) -> Option<LatestCommit> {
        ExpectationOfIndexAlone => newest.filter(|newest| newest.seq < first_seq),
        _ => newest,
    }

    /// `DuplicateFromMemory`: whether a key was committed is asked of what this process has decided, and not of the index.
    pub(crate) fn asks_index_for_keys() -> bool {
        DuplicateFromMemory => false,
        _ => true,
    }

    /// `LateMakesDuplicate`, `RetentionFromDuplicate`: the index knows no such claims, so the resolver must not forget them.
    /// `DuplicateFromMemory`: it has them from nowhere else.
    pub(crate) fn forgets_claims() -> bool {
        DuplicateFromMemory => false,
        LateMakesDuplicate => false,
        RetentionFromDuplicate => false,
        _ => true,
    }

    /// `RetentionFromDuplicate`: how long a key counts is measured from its last repetition.
    pub(crate) fn is_measured_from(is_commit: bool) -> bool {
        RetentionFromDuplicate => true,
        _ => is_commit,
    }

    /// `ClosedWithOldDigest`: a generation is completed by the manifest of which it was begun, whatever was published since.
    pub(crate) fn last_copied<T>(last: T, before: T) -> T {
        ClosedWithOldDigest => before,
        _ => last,
    }

    /// `RestoreDecidesAgain`: what an operation is restored as is what the log shows by now: nothing of an update whose descriptors were
    /// removed since.
    pub(crate) fn restored_outcome(outcome: Outcome) -> Outcome {
        RestoreDecidesAgain => if outcome == Outcome::Late { Outcome::Aborted } else { outcome },
        _ => outcome,
    }

    /// `PromotedWithoutOutcomes`: the outcomes that were recorded after the time of the restore are not taken, but decided again.
    pub(crate) fn replaced<T>(generations: Vec<T>) -> Vec<T> {
        PromotedWithoutOutcomes => Vec::new(),
        _ => generations,
    }

    /// `CompactionLosesCorrection`: a compaction replaces every sidecar by one that was made from those known at its start.
    pub(crate) fn adopted(compaction: CompactionResult, manifest: &Manifest) -> CompactionResult {
        CompactionLosesCorrection => replacing_every_sidecar(compaction, manifest),
        _ => compaction,
    }
}

#[cfg(feature = "mutants")]
fn without_store_time(mut record: OperationRecord) -> OperationRecord {
    record.decision.entry_time = record.token.second();
    record
}

#[cfg(feature = "mutants")]
async fn collected(listing: ListedEntries) -> Result<Option<Vec<ListedEntry>>, StoreError> {
    use futures::TryStreamExt as _;

    listing.try_collect().await.map(Some)
}

#[cfg(feature = "mutants")]
fn early_below(early: Option<Vec<ListedEntry>>, horizon: StoreSecond) -> ListedEntries {
    use futures::StreamExt as _;

    let below = early.unwrap_or_default().into_iter().filter(move |listed| listed.token.second() < horizon);
    futures::stream::iter(below.map(Ok)).boxed()
}

#[cfg(feature = "mutants")]
fn replacing_every_sidecar(mut compaction: CompactionResult, manifest: &Manifest) -> CompactionResult {
    if let Some(compacted) = compaction.adds_sidecars.first_mut() {
        let known = &manifest.sidecars;
        if let (Some(first), Some(last)) = (known.first(), known.last()) {
            compacted.causes = first.causes.start..last.causes.end;
        }
        compacted.counts = known.iter().map(|sidecar| sidecar.counts).sum();
        compacted.digest = known.iter().map(|sidecar| sidecar.digest).sum();
        compacted.corrected = known.iter().map(|sidecar| sidecar.corrected).sum();
        compacted.outdated = known.iter().map(|sidecar| sidecar.outdated).sum();
        compaction.removes_sidecars = known.iter().map(|sidecar| sidecar.key.clone()).collect();
    }
    compaction
}

#[cfg(feature = "mutants")]
fn marks_of_the_batch_before(
    marks: RecordMarks,
    totals: CorrectedTotals,
    causes: &Range<u64>,
) -> (RecordMarks, CorrectedTotals) {
    use std::cell::RefCell;

    use tidemark_store::mutants::activation;

    thread_local! {
        static HELD_BACK: RefCell<(u64, RecordMarks, CorrectedTotals)> = RefCell::default();
    }
    // Marks need a batch with records.
    if causes.is_empty() {
        return (marks, totals);
    }
    HELD_BACK.with_borrow_mut(|held| {
        let (run, marks, totals) = std::mem::replace(held, (activation(), marks, totals));
        if run == activation() { (marks, totals) } else { Default::default() }
    })
}

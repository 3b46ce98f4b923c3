//! Mutants of the ingest. Each hook returns its first argument unless the simulation turns its mutant on.

use std::{ops::Range, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, future, stream};
use tidemark_catalog::{CompactionResult, Manifest, SidecarMeta};
use tidemark_store::{StoreError, StoreSecond, mutants::is_active};
use tidemark_wal::{ListedEntry, Outcome};

use crate::{
    batch::CorrectedTotals,
    engine::RecordMarks,
    entry_stream::{EntryListing, EntryReader},
};

const CLOCK_READ_AFTER_LISTING: &str = "ClockReadAfterListing";
const CURSOR_OFF_BY_ONE: &str = "CursorOffByOne";
const LATE_MAKES_DUPLICATE: &str = "LateMakesDuplicate";
const COMPACTION_LOSES_CORRECTION: &str = "CompactionLosesCorrection";
const PANIC_ENDS_LISTING: &str = "PanicEndsListing";
const FLOOR_IGNORED: &str = "FloorIgnored";
const LOWERED_WINDOW_DROPS_LOOK: &str = "LoweredWindowDropsLook";
#[cfg(feature = "mutants")]
const SIDECAR_AFTER_CAUSE: &str = "SidecarAfterCause";

/// The mutants whose body is in this crate. `tests/sim` checks that each name is that of a mutant.
#[cfg(feature = "mutants")]
pub const MUTANT_HOOKS: &[&str] = &[
    CLOCK_READ_AFTER_LISTING,
    CURSOR_OFF_BY_ONE,
    LATE_MAKES_DUPLICATE,
    COMPACTION_LOSES_CORRECTION,
    SIDECAR_AFTER_CAUSE,
    PANIC_ENDS_LISTING,
    FLOOR_IGNORED,
    LOWERED_WINDOW_DROPS_LOOK,
];

/// `ClockReadAfterListing`: what the log holds from `from` on, listed before the clock is read.
pub(crate) async fn early_listing(
    entries: &EntryReader,
    from: StoreSecond,
) -> Result<Option<Vec<ListedEntry>>, StoreError> {
    if !is_active(CLOCK_READ_AFTER_LISTING) {
        return Ok(None);
    }
    entries.list(from, StoreSecond::KSUID_END.next()).try_collect().await.map(Some)
}

/// `ClockReadAfterListing`: the part of the early listing below `horizon` in place of `listing`.
pub(crate) fn listing_below(
    listing: EntryListing,
    early: Option<Vec<ListedEntry>>,
    horizon: StoreSecond,
) -> EntryListing {
    let Some(early) = early else { return listing };
    let below = stream::iter(early.into_iter().map(Ok));
    below.try_filter(move |listed: &ListedEntry| future::ready(listed.token.second() < horizon)).boxed()
}

/// `PanicEndsListing`: a panic while one entry is read ends the task that reads them all.
pub(crate) fn caught<T>(read: std::thread::Result<T>) -> std::thread::Result<T> {
    match read {
        Err(panic) if is_active(PANIC_ENDS_LISTING) => std::panic::resume_unwind(panic),
        read => read,
    }
}

/// `PanicEndsListing`: a stream of entries that breaks off is one that has ended.
pub(crate) fn is_broken_off(broken_off: bool) -> bool {
    broken_off && !is_active(PANIC_ENDS_LISTING)
}

/// `FloorIgnored`: what the log's cleanup may have removed is taken for what was never there.
pub(crate) fn checked_floor<E>(checked: Result<(), E>) -> Result<(), E> {
    if is_active(FLOOR_IGNORED) { Ok(()) } else { checked }
}

/// `LoweredWindowDropsLook`: the newest audit window is that of the seconds before it too.
pub(crate) fn audit_window(window: Duration, newest: Duration) -> Duration {
    if is_active(LOWERED_WINDOW_DROPS_LOOK) { newest } else { window }
}

/// `CursorOffByOne`: the cursor's second counts as decided too.
pub(crate) fn cursor_bound(horizon: StoreSecond) -> StoreSecond {
    if is_active(CURSOR_OFF_BY_ONE) { horizon.next() } else { horizon }
}

/// `LateMakesDuplicate`: a late operation makes a duplicate of its retry.
pub(crate) fn claims_key(claims: bool, outcome: Outcome) -> bool {
    claims || outcome == Outcome::Late && is_active(LATE_MAKES_DUPLICATE)
}

/// `LateMakesDuplicate`: the index knows no late claims, so the resolver must not forget them.
pub(crate) fn forgets_claims(forgets: bool) -> bool {
    forgets && !is_active(LATE_MAKES_DUPLICATE)
}

/// `CompactionLosesCorrection`: a compaction replaces every sidecar by one that was made from those known at its start.
pub(crate) fn adopted(mut compaction: CompactionResult, manifest: &Manifest) -> CompactionResult {
    if is_active(COMPACTION_LOSES_CORRECTION)
        && let Some(merged) = compaction.adds_sidecars.first_mut()
    {
        let known: &[SidecarMeta] = &manifest.sidecars;
        if let (Some(first), Some(last)) = (known.first(), known.last()) {
            merged.causes = first.causes.start..last.causes.end;
        }
        merged.counts = known.iter().map(|sidecar| sidecar.counts).sum();
        merged.digest = known.iter().map(|sidecar| sidecar.digest).sum();
        merged.corrected = known.iter().map(|sidecar| sidecar.corrected).sum();
        merged.outdated = known.iter().map(|sidecar| sidecar.outdated).sum();
        compaction.removes_sidecars = known.iter().map(|sidecar| sidecar.key.clone()).collect();
    }
    compaction
}

/// `SidecarAfterCause`: the marks that a batch causes are published with the batch after it.
#[cfg(feature = "mutants")]
pub(crate) fn published_marks(
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
    if !is_active(SIDECAR_AFTER_CAUSE) || causes.is_empty() {
        return (marks, totals);
    }
    HELD_BACK.with_borrow_mut(|held| {
        let (run, marks, totals) = std::mem::replace(held, (activation(), marks, totals));
        if run == activation() { (marks, totals) } else { Default::default() }
    })
}

/// The marks that are published with the batch that causes them.
#[cfg(not(feature = "mutants"))]
pub(crate) fn published_marks(
    marks: RecordMarks,
    totals: CorrectedTotals,
    _: &Range<u64>,
) -> (RecordMarks, CorrectedTotals) {
    (marks, totals)
}

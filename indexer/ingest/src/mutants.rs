//! Mutants of the ingest. Each hook returns what is right unless the simulation turns its mutant on.

use std::{ops::Range, time::Duration};

use futures::{future::BoxFuture, stream::BoxStream};
use tidemark_catalog::{CompactionResult, Manifest};
use tidemark_store::{StoreError, StoreSecond, mutant_hooks};
use tidemark_wal::{ListedEntry, Outcome};

use crate::{corrected_totals::CorrectedTotals, engine::RecordMarks};

#[cfg(feature = "mutants")]
mod names {
    pub(super) const CLOCK_READ_AFTER_LISTING: &str = "ClockReadAfterListing";
    pub(super) const CURSOR_OFF_BY_ONE: &str = "CursorOffByOne";
    pub(super) const LATE_MAKES_DUPLICATE: &str = "LateMakesDuplicate";
    pub(super) const COMPACTION_LOSES_CORRECTION: &str = "CompactionLosesCorrection";
    pub(super) const PANIC_ENDS_LISTING: &str = "PanicEndsListing";
    pub(super) const FLOOR_IGNORED: &str = "FloorIgnored";
    pub(super) const LOWERED_WINDOW_DROPS_LOOK: &str = "LoweredWindowDropsLook";
    pub(super) const SIDECAR_AFTER_CAUSE: &str = "SidecarAfterCause";

    /// The mutants whose body is in this crate. `tests/sim` checks that each name is that of a mutant.
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
}

#[cfg(feature = "mutants")]
pub use names::MUTANT_HOOKS;
#[cfg(feature = "mutants")]
#[expect(clippy::wildcard_imports, reason = "each hook names its own")]
use names::*;

/// Entries in token order, as a listing shows them.
type ListedEntries = BoxStream<'static, Result<ListedEntry, StoreError>>;

/// What was listed before the clock is read; `None` where nothing was.
type EarlyListing = BoxFuture<'static, Result<Option<Vec<ListedEntry>>, StoreError>>;

mutant_hooks! {
    /// `ClockReadAfterListing`: what `list` shows before the clock is read.
    pub(crate) fn early_listing(list: impl FnOnce() -> ListedEntries) -> EarlyListing {
        CLOCK_READ_AFTER_LISTING => Box::pin(collected(list())),
        _ => Box::pin(std::future::ready(Ok(None))),
    }

    /// `SidecarAfterCause`: the marks that a batch causes are published with the batch after it.
    pub(crate) fn published_marks(
        marks: RecordMarks,
        totals: CorrectedTotals,
        causes: &Range<u64>,
    ) -> (RecordMarks, CorrectedTotals) {
        SIDECAR_AFTER_CAUSE => marks_of_the_batch_before(marks, totals, causes),
        _ => (marks, totals),
    }

    /// `ClockReadAfterListing`: the part of the early listing below `horizon` in place of `listing`.
    pub(crate) fn listing_below(
        listing: ListedEntries,
        early: Option<Vec<ListedEntry>>,
        horizon: StoreSecond,
    ) -> ListedEntries {
        CLOCK_READ_AFTER_LISTING => early_below(early, horizon),
        _ => listing,
    }

    /// `PanicEndsListing`: a panic while one entry is read ends the task that reads them all.
    pub(crate) fn caught<T>(read: std::thread::Result<T>) -> std::thread::Result<T> {
        PANIC_ENDS_LISTING => match read {
            Err(panic) => std::panic::resume_unwind(panic),
            read => read,
        },
        _ => read,
    }

    /// `PanicEndsListing`: a stream of entries that breaks off is one that has ended.
    pub(crate) fn is_broken_off(broken_off: bool) -> bool {
        PANIC_ENDS_LISTING => false,
        _ => broken_off,
    }

    /// `FloorIgnored`: what the log's cleanup may have removed is taken for what was never there.
    pub(crate) fn checked_floor<E>(checked: Result<(), E>) -> Result<(), E> {
        FLOOR_IGNORED => Ok(()),
        _ => checked,
    }

    /// `LoweredWindowDropsLook`: the newest audit window is that of the seconds before it too.
    pub(crate) fn audit_window(window: Duration, newest: Duration) -> Duration {
        LOWERED_WINDOW_DROPS_LOOK => newest,
        _ => window,
    }

    /// `CursorOffByOne`: the cursor's second counts as decided too.
    pub(crate) fn cursor_bound(horizon: StoreSecond) -> StoreSecond {
        CURSOR_OFF_BY_ONE => horizon.next(),
        _ => horizon,
    }

    /// `LateMakesDuplicate`: a late operation makes a duplicate of its retry.
    pub(crate) fn claims_key(claims: bool, outcome: Outcome) -> bool {
        LATE_MAKES_DUPLICATE => claims || outcome == Outcome::Late,
        _ => claims,
    }

    /// `LateMakesDuplicate`: the index knows no late claims, so the resolver must not forget them.
    pub(crate) fn forgets_claims() -> bool {
        LATE_MAKES_DUPLICATE => false,
        _ => true,
    }

    /// `CompactionLosesCorrection`: a compaction replaces every sidecar by one that was made from those known at its start.
    pub(crate) fn adopted(compaction: CompactionResult, manifest: &Manifest) -> CompactionResult {
        COMPACTION_LOSES_CORRECTION => replacing_every_sidecar(compaction, manifest),
        _ => compaction,
    }
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
    if let Some(merged) = compaction.adds_sidecars.first_mut() {
        let known = &manifest.sidecars;
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

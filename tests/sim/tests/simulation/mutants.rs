//! Every mutant is caught within a bounded number of seeds, and its config holds without it.

use std::{collections::BTreeSet, thread::available_parallelism};

use tidemark_sim::{
    ARCHIVE_MUTANTS, CRATE_MUTANTS, ENGINE_MUTANTS, MUTANTS, Mutant, PROCESS_MUTANTS, STORE_MUTANTS, SimScenario,
    first_failure, run_for_mutant, run_seeds,
};

/// Within how many seeds a mutant must be caught.
const SEEDS: u64 = 500;
/// How many seeds of the mutant's config must hold without it. Of a scenario that is the same for all mutants, `seeds.rs` shows it.
const CLEAN: u64 = 4;

fn is_caught(mutant: Mutant) {
    let threads = available_parallelism().map_or(2, usize::from);
    let clean = if SimScenario::of(mutant) == SimScenario::Mixed { CLEAN } else { 0 };
    let clean = run_seeds(0..clean, threads, |seed| run_for_mutant(seed, mutant, None, false));
    if let Some(failed) = first_failure(&clean) {
        panic!("without {mutant:?}: {}", failed.explain(&format!("mixed --config-for {mutant:?}")));
    }
    let reports = run_seeds(0..SEEDS, threads, |seed| run_for_mutant(seed, mutant, Some(mutant), false));
    match first_failure(&reports) {
        Some(caught) => {
            let why = caught.violation.as_deref().unwrap_or_default();
            let broken = broken_rules(mutant);
            assert!(broken.is_empty() || broken.iter().any(|rule| why.contains(rule)), "{mutant:?}: {why}");
            println!("{mutant:?} is caught by seed {}: {why}", caught.seed);
        }
        None => panic!("{mutant:?} is not caught by {SEEDS} seeds"),
    }
}

/// What the violation says of a mutant that may break other rules first: one of these, or anything where there are none.
fn broken_rules(mutant: Mutant) -> &'static [&'static str] {
    match mutant {
        // Not that a record of the chain is missing.
        Mutant::LockSlotTrimmedUnjudged => {
            &["the history of the lock is not linearizable", "is its own, which was trimmed"]
        }
        _ => &[],
    }
}

/// A misspelt name in a crate's list of hooks would be a mutant that is never turned on.
#[test]
fn every_mutant_has_its_body_in_exactly_one_place() {
    let in_simulation = STORE_MUTANTS.into_iter().chain(ENGINE_MUTANTS).chain(ARCHIVE_MUTANTS).chain(PROCESS_MUTANTS);
    let in_simulation = in_simulation.map(Mutant::name);
    // A mutant may need several hooks, also of two crates.
    let in_crates: BTreeSet<&str> = CRATE_MUTANTS.into_iter().flatten().copied().collect();
    let mut bodies: Vec<&str> = in_simulation.chain(in_crates).collect();
    let mut mutants = MUTANTS.map(Mutant::name).to_vec();
    bodies.sort_unstable();
    mutants.sort_unstable();
    assert_eq!(bodies, mutants);
}

macro_rules! caught {
    ($($name:ident: $mutant:ident,)*) => {
        $(#[test]
        fn $name() {
            is_caught(Mutant::$mutant);
        })*

        #[test]
        fn every_mutant_has_its_test() {
            assert_eq!([$(Mutant::$mutant),*], MUTANTS);
        }
    };
}

caught! {
    outcome_from_expiry_alone: OutcomeFromExpiryAlone,
    an_overwritable_descriptor: OverwritableDescriptor,
    the_clock_read_after_the_listing: ClockReadAfterListing,
    cleanup_on_unknown: CleanupOnUnknown,
    no_boundary_check: NoBoundaryCheck,
    cursor_off_by_one_at_the_seconds_edge: CursorOffByOne,
    a_fenced_ingest_that_still_publishes: FencedIngestPublishes,
    a_compaction_that_loses_a_correction: CompactionLosesCorrection,
    a_sidecar_published_after_its_cause: SidecarAfterCause,
    candidates_that_fence_each_other: CandidatesFenceEachOther,
    a_descriptor_of_another_operation_taken_as_proof: ForeignDescriptorAccepted,
    an_outcome_decided_again_on_rebuild: OutcomeDecidedAgain,
    a_lowered_expiry_that_moves_the_horizon_at_once: LoweredExpiryAtOnce,
    an_acknowledgement_that_ignores_visibility: AcknowledgedUnseen,
    a_late_try_that_makes_its_retry_a_duplicate: LateMakesDuplicate,
    a_retention_that_begins_again_with_each_duplicate: RetentionFromDuplicate,
    a_duplicate_decided_from_memory_that_a_restart_forgets: DuplicateFromMemory,
    a_reader_that_accepts_a_slot_below_the_boundary: SlotBelowBoundaryAccepted,
    a_purge_that_deletes_before_the_index_is_closed: PurgeBeforeClosing,
    a_purge_that_deletes_by_prefix: PurgeByPrefix,
    a_purge_that_deletes_its_fence: PurgeDropsFence,
    a_purged_generation_that_is_opened_again: PurgedGenerationReopened,
    an_index_that_takes_another_logs_records: OtherLogAdmitted,
    an_index_that_takes_the_records_of_a_copy_of_its_log: CopiedLogAdmitted,
    a_pin_that_counts_without_its_check: PinUnchecked,
    a_pin_that_is_checked_by_a_stale_read: PinReadStale,
    a_list_of_a_pin_that_is_named_by_its_content: PinListNamedByContent,
    a_grace_that_counts_from_creation: GarbageGraceFromCreation,
    two_collectors_that_do_not_fence_each_other: GarbageCollectorUnfenced,
    garbage_that_the_writer_may_still_publish: GarbageOfPresentEpoch,
    a_list_of_garbage_dropped_though_members_remain: GarbageListDropped,
    a_generation_that_is_opened_only_when_its_maker_has_finished: UnfinishedSuccessorRefused,
    a_reindex_that_closes_with_an_old_digest: ClosedWithOldDigest,
    a_generation_that_is_given_up_while_its_maker_may_switch_to_it: AbandonedUnfenced,
    a_restore_that_decides_outcomes_again: RestoreDecidesAgain,
    outcomes_that_are_decided_again_after_a_promotion: PromotedWithoutOutcomes,
    a_collector_of_copies_that_forgets_their_pins: PinsOfCopiesIgnored,
    a_panic_taken_for_the_end_of_the_listing: PanicEndsListing,
    an_emptied_chain_begun_anew: EmptiedChainBegunAnew,
    a_chain_that_ends_where_a_record_is_missing: HoleTakenForEnd,
    an_entry_larger_than_all_memory_left_out: LargeEntrySkipped,
    a_segment_that_ends_where_the_disk_was_full: FullDiskCutsSegment,
    a_group_key_that_another_entry_bears: GroupKeyCollides,
    an_expectation_that_is_compared_with_the_index_alone: ExpectationOfIndexAlone,
    an_entry_judged_unreadable_while_everything_is_refused: UnreadableWithoutProof,
    more_than_a_hundred_entries_an_hour_judged_unreadable: UnboundedUnreadable,
    a_log_floor_that_is_ignored: FloorIgnored,
    clocks_of_two_stores_taken_for_equal: ClocksTakenForEqual,
    a_lowered_window_that_drops_a_look: LoweredWindowDropsLook,
    a_compaction_of_inputs_that_were_not_verified: UnverifiedCompactionInput,
    a_label_that_is_taken_for_an_earlier_entrys: LabelOfLaterEntry,
    an_archive_without_the_original_store_times: ArchiveWithoutTimes,
    a_snapshot_that_is_verified_without_reading_again: SnapshotUnread,
    an_operation_archived_before_it_is_settled: UnsettledArchived,
    an_object_of_a_lower_epoch_that_is_adopted: LowerEpochAdopted,
    a_deletion_before_its_plan_is_recorded: PlanAfterDeletion,
    a_floor_raised_after_the_deletion: FloorAfterDeletion,
    a_cleanup_that_trusts_an_unverified_snapshot: UnverifiedSnapshotTrusted,
    a_listed_range_that_is_deleted: ListedRangeDeleted,
    an_oversized_entry_deleted_by_its_name: OversizedDeletedByName,
    a_deletion_of_unknown_outcome_taken_for_done: UnknownDeletionTaken,
    a_floor_raised_beside_an_index_of_unknown_needs: UnknownKeepsIgnored,
    a_floor_raised_beside_an_index_that_registers: FloorBesideRegistration,
    a_table_whose_version_a_hint_names: HintTakenForTable,
    a_lock_checked_before_instead_of_at_the_commit: LockCheckedBeforeCommit,
    a_new_holder_that_acts_before_an_earlier_commit_is_past_its_bound: NewHolderActsAtOnce,
    a_lock_slot_trimmed_before_its_entry_is_judged: LockSlotTrimmedUnjudged,
    a_fenced_writer_that_goes_on_by_itself: FencedWriterGoesOn,
    a_trim_past_a_sleeping_reader: TrimmedPastReader,
}

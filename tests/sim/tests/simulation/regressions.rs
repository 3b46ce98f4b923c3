//! Seeds that found real faults, each with the fault. Another version of the code may take another path with the same seed, so
//! each fault also has a test beside the code that was fixed.

use tidemark_sim::SimScenario;

fn holds(scenario: SimScenario, seed: u64) {
    let report = scenario.run(seed, None, false);
    assert!(report.violation.is_none(), "{}", report.explain(scenario.name()));
}

/// A create arrived twice and was answered with a conflict, although the first arrival had taken effect. Its appender paused until
/// the slot was trimmed, took the conflict for proof, and appended the same transaction again.
#[test]
fn a_lost_answer_is_no_proof_about_a_trimmed_slot() {
    holds(SimScenario::Chain, 121);
}

/// A take-over listed up to the old cursor and skipped the seconds that it sealed late itself. An aborted operation is due in
/// the second in which its entry was written: that of an entry from before the old cursor was a skipped one, and its late
/// descriptor was never found.
#[test]
fn a_takeover_audits_what_was_written_in_skipped_seconds() {
    holds(SimScenario::Mixed, 499);
}

/// A restore slept while the writer had its last look at what it had copied, and that was archived. What it made was audited as far as its
/// copy, so an outcome that the archive took for settled was corrected behind it.
#[test]
fn what_was_archived_is_not_corrected_after_a_restore() {
    holds(SimScenario::Generations, 430);
}

/// The same left a restored index that was audited up to below the log's floor, which nobody could promote, although the archive had settled
/// all of it.
#[test]
fn a_restored_index_is_audited_as_far_as_the_archive_beside_it() {
    holds(SimScenario::Generations, 280);
}

/// A restore slept for more than a day after it had taken the role of its generation, which a process before it had filled from a pin. The
/// generation was given up meanwhile, and its pin dropped: without it, it took the records for those of the archive, and another horizon than
/// theirs for a fault of the program.
#[test]
fn a_restore_that_was_given_up_while_it_slept_finds_that_it_was() {
    holds(SimScenario::Generations, 1);
}

/// With the product's own ingest, the model took for a loss what none is: a snapshot that is older than a correction (1 000 125), and an entry
/// that came after the last look at its second (1 000 103; 1 000 143; 1 000 153, where the log is looked at for three hours).
#[test]
fn what_nobody_could_have_recorded_is_not_missed() {
    for seed in [1_000_103, 1_000_125, 1_000_143, 1_000_153] {
        holds(SimScenario::Generations, seed);
    }
}

//! Seeds that found real faults, each with the fault. Another version of the code may take another path with the same seed, so
//! each fault also has a test beside the code that was fixed.

use tidemark_sim::Scenario;

fn holds(scenario: Scenario, seed: u64) {
    let report = scenario.run(seed, None, false);
    assert!(report.violation.is_none(), "{}", report.explain(scenario.name()));
}

/// A create arrived twice and was answered with a conflict, although the first arrival had taken effect. Its appender paused until
/// the slot was trimmed, took the conflict for proof, and appended the same transaction again.
#[test]
fn a_lost_answer_is_no_proof_about_a_trimmed_slot() {
    holds(Scenario::Chain, 121);
}

/// An operation whose descriptor is late is `Aborted` in the index when everything has come to rest: no audit found it. Seen
/// before in other seeds (657 and 1129 of the code before the crates were split), so the cause is older than the seed.
#[test]
#[ignore = "known fault, not mended yet: an audit misses a late descriptor"]
fn an_audit_finds_what_is_late() {
    holds(Scenario::Mixed, 499);
}

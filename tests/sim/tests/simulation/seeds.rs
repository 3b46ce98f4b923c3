//! Many seeds of every scenario hold, and a seed always gives the same trace.

use std::{collections::BTreeSet, io::Write as _, ops::Range, thread::available_parallelism};

use tidemark_sim::{
    SeedReport, SimScenario, first_failure, run_seeds, scenario::generations::INGESTED_SEEDS, totals_of,
};

/// How many seeds of most scenarios are run.
const SEEDS: u64 = 500;
/// How many seeds of `generations` are run with the product's own ingest: one takes twice as long.
const SEEDS_WITH_INGEST: u64 = 160;
/// The first of them: among these each rare event happens, also a snapshot that is older than a correction.
const FIRST_WITH_INGEST: u64 = INGESTED_SEEDS + 350;

fn all_hold(scenario: SimScenario, seeds: Range<u64>) -> Vec<SeedReport> {
    let threads = available_parallelism().map_or(2, usize::from);
    let reports = run_seeds(seeds, threads, |seed| scenario.run(seed, None, false));
    if let Some(failed) = first_failure(&reports) {
        panic!("{}", failed.explain(scenario.name()));
    }
    reports
}

/// Holds in all seeds, and says what happened in them, although the test passes: `println!` would be captured.
fn all_seeds_hold(scenario: SimScenario, seeds: Range<u64>) -> Vec<SeedReport> {
    let from = seeds.start;
    let reports = all_hold(scenario, seeds);
    let totals = format!("{} from {from} on: {}\n", scenario.name(), totals_of(&reports));
    std::io::stdout().write_all(totals.as_bytes()).expect("the terminal takes it");
    let happened = |count: fn(&SeedReport) -> u64| reports.iter().filter(|report| count(report) > 0).count();
    assert_eq!(happened(|report| report.totals.steps), reports.len(), "a seed that does nothing");
    assert!(happened(|report| report.totals.crashes) > reports.len() / 4, "hardly a process ever crashed");
    assert!(happened(|report| report.totals.faults) > reports.len() / 2, "hardly a fault ever happened");
    reports
}

/// Each of these happened in some seed. If nothing rare happens in any, the seeds prove nothing.
fn assert_happened(reports: &[SeedReport], rare: &[&str]) {
    for mark in rare {
        assert!(reports.iter().any(|report| report.marks.contains(*mark)), "\"{mark}\" never happened");
    }
}

#[test]
fn five_hundred_seeds_of_a_whole_log_hold() {
    let reports = all_seeds_hold(SimScenario::Mixed, 0..SEEDS);
    let rare = [
        "indexed Committed",
        "indexed Late",
        "indexed Aborted",
        "indexed Malformed",
        "indexed Duplicate",
        "indexed Expired",
        "indexed Conflicted",
        "an expectation held",
        "corrected to Late",
        "a candidate took over from a silent holder",
        "parameters changed",
        "trimmed",
        "occupied",
        "indexed Unreadable",
        "unreadable: Archived",
        "unreadable: Denied",
        "unreadable: Panics",
        "a descriptor counted by its attributes",
        "the tail stood still while everything was refused",
        "the first records of a chain were lost: Index",
        "the first records of a chain were lost: Root",
        "the middle records of a chain were lost: Index",
        "the middle records of a chain were lost: Root",
        "an indexer refused a damaged chain",
        "a reader refused a damaged chain",
        "an index below the floor was refused",
        "a look-alike of a group's key",
        "a copy of the log was refused",
        "a disk had no room for a batch",
        "a disk had no room for a compaction",
        "a disk was full when segments were opened",
        "a damaged segment was read",
        "an entry is larger than all memory for entries",
    ];
    assert_happened(&reports, &rare);
}

#[test]
fn five_hundred_seeds_of_a_chain_hold() {
    all_seeds_hold(SimScenario::Chain, 0..SEEDS);
}

#[test]
fn five_hundred_seeds_of_pins_and_garbage_hold() {
    let reports = all_seeds_hold(SimScenario::Garbage, 0..SEEDS);
    let rare = [
        "garbage was deleted",
        "a pin counts",
        "a pin holds what the index has dropped",
        "a collector was fenced",
        "a list of garbage was deleted",
    ];
    assert_happened(&reports, &rare);
}

#[test]
fn five_hundred_histories_of_a_lock_are_linearizable() {
    let reports = all_seeds_hold(SimScenario::Locks, 0..SEEDS);
    let rare = [
        "a guarded append was committed",
        "a guarded append was fenced",
        "a renewal or release came too late",
        "a lock was released",
        "slots of the lock were trimmed",
        "the clock of the stores jumped",
        "indexed Committed",
        "indexed Fenced",
        "indexed Aborted",
        "indexed Late",
    ];
    assert_happened(&reports, &rare);
}

#[test]
fn five_hundred_seeds_of_generations_hold() {
    let reports = all_seeds_hold(SimScenario::Generations, 0..SEEDS);
    let rare = [
        "the index switched",
        "the index was restored",
        "a damaged index was restored",
        "the index was promoted",
        "a generation was given up",
        "a task was overtaken or refused",
        "garbage was deleted",
        "the archive was extended",
        "the floor was raised",
        "an entry was deleted",
        "a clean-up was fenced",
        "a snapshot was restored",
        "a snapshot was restored to a second below the floor",
        "the archive alone was restored",
        "a snapshot was copied",
        "a copy was dropped",
        "garbage of copies was deleted",
        "a copy was restored",
        "the archive of the copies was restored",
        "the archive was verified",
        "verified meanwhile",
        "an outcome was corrected",
        "an entry could not be deleted",
    ];
    assert_happened(&reports, &rare);
}

/// What jobs make of an index that is decided from a log, and verifications compare with that.
#[test]
fn a_hundred_and_sixty_seeds_of_the_products_ingest_beside_all_jobs_hold() {
    let reports = all_seeds_hold(SimScenario::Generations, FIRST_WITH_INGEST..FIRST_WITH_INGEST + SEEDS_WITH_INGEST);
    let rare = [
        "the index switched",
        "the index was restored",
        "a damaged index was restored",
        "the index was promoted",
        "a generation was given up",
        "a task was overtaken or refused",
        "garbage was deleted",
        "the archive was extended",
        "an entry was judged unreadable",
        "an unreadable entry was passed over",
        "an outcome was corrected",
        "the floor was raised",
        "an entry was deleted",
        "an entry could not be deleted",
        "a clean-up was fenced",
        "a snapshot was restored",
        "a snapshot of a replaced generation was restored",
        "a snapshot was restored to a second below the floor",
        "a snapshot that is older than a correction was restored",
        "the archive alone was restored",
        "a snapshot was copied",
        "a copy was dropped",
        "garbage of copies was deleted",
        "a copy was restored",
        "the archive of the copies was restored",
        "the archive was verified",
        "verified meanwhile",
    ];
    assert_happened(&reports, &rare);
}

#[test]
fn five_hundred_seeds_of_a_purge_hold() {
    let reports = all_seeds_hold(SimScenario::Purge, 0..SEEDS);
    let rare = [
        "purged",
        "purged by another process before",
        "a purged owner was refused",
        "a writer met the purge",
        "a fenced writer wrote in a slot that was deleted",
        "another log has the prefix",
        "another log was refused",
        "another log lost the race",
    ];
    assert_happened(&reports, &rare);
}

#[test]
fn five_hundred_seeds_of_snapshots_hold() {
    let reports = all_seeds_hold(SimScenario::Snapshots, 0..SEEDS);
    let rare = [
        "a snapshot was verified",
        "a snapshot was dropped",
        "a snapshot met an object that was lost",
        "the archive was extended",
        "an unreadable entry was passed over",
        "garbage was deleted",
        "a pin holds what the index has dropped",
    ];
    assert_happened(&reports, &rare);
}

#[test]
fn five_hundred_seeds_of_cleanups_hold() {
    let reports = all_seeds_hold(SimScenario::Cleanup, 0..SEEDS);
    let rare = [
        "an entry was deleted",
        "the floor was raised",
        "an entry could not be deleted",
        "a clean-up was fenced",
        "a guard was deleted",
        "a guard that another clean-up left was deleted",
        "an index registered meanwhile",
        "an index below the floor was refused",
        "verified meanwhile",
    ];
    assert_happened(&reports, &rare);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for scenario in SimScenario::ALL {
        let (first, second) = (all_hold(scenario, 1..6), all_hold(scenario, 1..6));
        for (first, second) in first.iter().zip(&second) {
            let seed = first.seed;
            assert!(first.lines > 100, "seed {seed} of {} does nothing", scenario.name());
            assert_eq!(first.hash, second.hash, "seed {seed} of {} gave two traces", scenario.name());
        }
        let traces: BTreeSet<&str> = first.iter().map(|report| report.hash.as_str()).collect();
        assert_eq!(traces.len(), first.len(), "two seeds of {} gave the same trace", scenario.name());
    }
}

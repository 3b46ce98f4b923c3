//! Many seeds of every scenario hold, and a seed always gives the same trace.

use std::thread::available_parallelism;

use tidemark_sim::{SeedReport, SimScenario, first_failure, run_seeds};

fn all_hold(scenario: SimScenario, seeds: std::ops::Range<u64>) -> Vec<SeedReport> {
    let threads = available_parallelism().map_or(2, usize::from);
    let reports = run_seeds(seeds, threads, |seed| scenario.run(seed, None, false));
    if let Some(failed) = first_failure(&reports) {
        panic!("{}", failed.explain(scenario.name()));
    }
    reports
}

#[test]
fn five_hundred_seeds_of_a_whole_log_hold() {
    let reports = all_hold(SimScenario::Mixed, 0..500);
    // If nothing rare happens in any seed, the seeds prove nothing.
    for rare in [
        "indexed Committed",
        "indexed Late",
        "indexed Aborted",
        "indexed Malformed",
        "indexed Duplicate",
        "indexed Expired",
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
    ] {
        let seeds = reports.iter().filter(|report| report.marks.contains(rare)).count();
        assert!(seeds > 0, "\"{rare}\" never happened");
    }
}

#[test]
fn five_hundred_seeds_of_a_chain_hold() {
    all_hold(SimScenario::Chain, 0..500);
}

#[test]
fn five_hundred_seeds_of_pins_and_garbage_hold() {
    let reports = all_hold(SimScenario::Garbage, 0..500);
    for rare in [
        "garbage was deleted",
        "a pin counts",
        "a pin holds what the index has dropped",
        "a collector was fenced",
        "a list of garbage was deleted",
    ] {
        let seeds = reports.iter().filter(|report| report.marks.contains(rare)).count();
        assert!(seeds > 0, "\"{rare}\" never happened");
    }
}

/// Days of many processes: four seconds a seed. `make sim SEEDS=500` runs more.
#[test]
fn sixty_seeds_of_generations_hold() {
    let reports = all_hold(SimScenario::Generations, 0..60);
    for rare in [
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
        "the archive was verified",
    ] {
        let seeds = reports.iter().filter(|report| report.marks.contains(rare)).count();
        assert!(seeds > 0, "\"{rare}\" never happened");
    }
}

#[test]
fn five_hundred_seeds_of_a_purge_hold() {
    let reports = all_hold(SimScenario::Purge, 0..500);
    for rare in [
        "purged",
        "purged by another process before",
        "a purged owner was refused",
        "a writer met the purge",
        "a fenced writer wrote in a slot that was deleted",
        "another log has the prefix",
        "another log was refused",
        "another log lost the race",
    ] {
        let seeds = reports.iter().filter(|report| report.marks.contains(rare)).count();
        assert!(seeds > 0, "\"{rare}\" never happened");
    }
}

#[test]
fn five_hundred_seeds_of_snapshots_hold() {
    let reports = all_hold(SimScenario::Snapshots, 0..500);
    for rare in [
        "a snapshot was verified",
        "a snapshot was dropped",
        "a snapshot met an object that was lost",
        "the archive was extended",
        "an unreadable entry was passed over",
        "garbage was deleted",
        "a pin holds what the index has dropped",
    ] {
        let seeds = reports.iter().filter(|report| report.marks.contains(rare)).count();
        assert!(seeds > 0, "\"{rare}\" never happened");
    }
}

/// More than a second a seed. `make sim SEEDS=500` runs more.
#[test]
fn a_hundred_seeds_of_cleanups_hold() {
    let reports = all_hold(SimScenario::Cleanup, 0..100);
    for rare in [
        "an entry was deleted",
        "the floor was raised",
        "an entry could not be deleted",
        "a clean-up was fenced",
        "an index registered meanwhile",
        "an index below the floor was refused",
    ] {
        let seeds = reports.iter().filter(|report| report.marks.contains(rare)).count();
        assert!(seeds > 0, "\"{rare}\" never happened");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for scenario in SimScenario::ALL {
        for seed in [1, 2, 3, 4, 5] {
            let (first, second) = (scenario.run(seed, None, false), scenario.run(seed, None, false));
            assert!(first.lines > 100, "seed {seed} of {} does nothing", scenario.name());
            assert_eq!(first.hash, second.hash, "seed {seed} of {} gave two traces", scenario.name());
        }
        let other = scenario.run(6, None, false);
        assert_ne!(other.hash, scenario.run(7, None, false).hash);
    }
}

//! Runs seeds of the simulation.

use std::{collections::BTreeMap, process::ExitCode, thread::available_parallelism};

use clap::Parser;
use tidemark_sim::{MUTANTS, Mutant, SeedReport, SimScenario, first_failure, run_for_mutant, run_seeds, totals_of};

/// Runs seeds of the simulation: `cargo run -p tidemark-sim -- --seeds 10000 --from 0`.
#[derive(Parser)]
struct SimArgs {
    /// How many seeds to run.
    #[arg(long, default_value_t = 500)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Runs this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Prints the trace while the seed runs.
    #[arg(long)]
    trace: bool,
    /// The scenario: chain, cleanup, garbage, generations, locks, mixed, purge or snapshots.
    #[arg(long, default_value = "mixed")]
    scenario: String,
    /// Turns this mutant on, as in `NoBoundaryCheck`.
    #[arg(long)]
    mutant: Option<String>,
    /// Uses the config that shows this mutant, without turning it on.
    #[arg(long)]
    config_for: Option<String>,
    /// Threads; as many as there are cores when absent.
    #[arg(long)]
    threads: Option<usize>,
}

/// The mutant of this name; an error if there is none.
fn named(name: Option<&str>) -> Result<Option<Mutant>, ()> {
    name.map(|name| Mutant::named(name).ok_or(())).transpose()
}

fn main() -> ExitCode {
    let args = SimArgs::parse();
    let Some(scenario) = SimScenario::named(&args.scenario) else {
        eprintln!(
            "no scenario has the name \"{}\"; the names are {:?}",
            args.scenario,
            SimScenario::ALL.map(SimScenario::name)
        );
        return ExitCode::FAILURE;
    };
    let (Ok(mutant), Ok(target)) = (named(args.mutant.as_deref()), named(args.config_for.as_deref())) else {
        eprintln!("no mutant has this name; the names are {MUTANTS:?}");
        return ExitCode::FAILURE;
    };
    let one = |seed: u64, echo: bool| -> SeedReport {
        match target {
            Some(target) => run_for_mutant(seed, target, mutant, echo),
            None => scenario.run(seed, mutant, echo),
        }
    };
    let reports = if let Some(seed) = args.seed {
        vec![one(seed, args.trace)]
    } else {
        let threads = args.threads.or_else(|| available_parallelism().ok().map(usize::from)).unwrap_or(1);
        run_seeds(args.from..args.from + args.seeds, threads, |seed| one(seed, false))
    };
    if let Some(failed) = first_failure(&reports) {
        println!("{}\nuntil then: {}", failed.explain(&args.scenario), totals_of(&reports));
        return ExitCode::FAILURE;
    }
    println!("hold: {}", totals_of(&reports));
    let mut marks: BTreeMap<&str, u64> = BTreeMap::new();
    for mark in reports.iter().flat_map(|report| &report.marks) {
        *marks.entry(mark).or_default() += 1;
    }
    for (mark, seeds) in marks {
        println!("{seeds:>6} seeds: {mark}");
    }
    ExitCode::SUCCESS
}

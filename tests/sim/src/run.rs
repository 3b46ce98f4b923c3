//! Runs one seed on its own paused runtime, and many seeds on all cores.

use std::{
    collections::BTreeSet,
    future::Future,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

use crate::{
    mutants::{Mutant, turn_on},
    simulated_store::SimulatedStore,
    totals::RunTotals,
};

/// The result of one seed.
#[derive(Clone, Debug)]
pub struct SeedReport {
    /// The seed.
    pub seed: u64,
    /// Hash of the trace.
    pub hash: String,
    /// Lines of the trace.
    pub lines: u64,
    /// What happened.
    pub totals: RunTotals,
    /// The first violated invariant.
    pub violation: Option<String>,
    /// The end of the trace, if an invariant is violated.
    pub tail: String,
    /// Rare things that happened.
    pub marks: BTreeSet<String>,
}

impl SeedReport {
    /// The message of a failed test.
    pub fn explain(&self, scenario: &str) -> String {
        let Self { seed, violation, tail, .. } = self;
        let violation = violation.as_deref().unwrap_or("no invariant is violated");
        format!(
            "seed {seed} of \"{scenario}\": {violation}\nrun it again: cargo run -p tidemark-sim -- --scenario {scenario} --seed {seed} --trace\n{tail}"
        )
    }
}

/// Runs `scenario` with `seed` on this thread, with `mutant` turned on.
pub fn run_seed<F, Fut>(seed: u64, mutant: Option<Mutant>, echo: bool, scenario: F) -> SeedReport
where
    F: FnOnce(u64, bool) -> Fut,
    Fut: Future<Output = SimulatedStore>,
{
    turn_on(mutant);
    let report = catch_unwind(AssertUnwindSafe(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
        let simulated_store = runtime.block_on(scenario(seed, echo));
        let (hash, lines) = simulated_store.trace();
        let violation = simulated_store.failure();
        SeedReport {
            seed,
            hash,
            lines,
            totals: simulated_store.totals(),
            tail: violation.as_ref().map(|_| simulated_store.tail()).unwrap_or_default(),
            violation,
            marks: simulated_store.marks(),
        }
    }));
    turn_on(None);
    report.unwrap_or_else(|panic| SeedReport {
        seed,
        hash: String::new(),
        lines: 0,
        totals: RunTotals::default(),
        violation: Some(format!("panicked: {}", panic_message(panic.as_ref()))),
        tail: String::new(),
        marks: BTreeSet::new(),
    })
}

/// The message of a panic.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
        .unwrap_or_else(|| "without a message".to_owned())
}

/// Runs `one` for each seed on `threads` threads until one of them fails; the reports by seed.
pub fn run_seeds(seeds: Range<u64>, threads: usize, one: impl Fn(u64) -> SeedReport + Sync) -> Vec<SeedReport> {
    let next = AtomicU64::new(seeds.start);
    let failed = AtomicU64::new(u64::MAX);
    let reports = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || seed > failed.load(Ordering::Relaxed) {
                        return;
                    }
                    let report = one(seed);
                    if report.violation.is_some() {
                        failed.fetch_min(seed, Ordering::Relaxed);
                    }
                    reports.lock().push(report);
                }
            });
        }
    });
    let mut reports = reports.into_inner();
    reports.sort_by_key(|report| report.seed);
    reports
}

/// How many seeds these are, and what happened in all of them: one line.
pub fn totals_of(reports: &[SeedReport]) -> String {
    let totals: RunTotals = reports.iter().map(|report| report.totals).sum();
    format!("{} seeds, {totals}", reports.len())
}

/// The first failure among `reports`.
pub fn first_failure(reports: &[SeedReport]) -> Option<&SeedReport> {
    reports.iter().find(|report| report.violation.is_some())
}

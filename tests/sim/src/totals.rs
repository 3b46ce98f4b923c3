//! What happened in a run, in figures.

use std::{fmt, iter::Sum};

/// What happened in one seed, or in many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunTotals {
    /// Calls to a store.
    pub steps: u64,
    /// Crashes of processes.
    pub crashes: u64,
    /// Pauses of processes, calls that are lost, late, arrive twice, or have a false answer or none, and objects that are lost or
    /// refused for good.
    pub faults: u64,
}

impl Sum for RunTotals {
    fn sum<I: Iterator<Item = Self>>(totals: I) -> Self {
        totals.fold(Self::default(), |sum, one| Self {
            steps: sum.steps + one.steps,
            crashes: sum.crashes + one.crashes,
            faults: sum.faults + one.faults,
        })
    }
}

impl fmt::Display for RunTotals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { steps, crashes, faults } = self;
        write!(f, "{steps} steps, {crashes} crashes, {faults} faults")
    }
}

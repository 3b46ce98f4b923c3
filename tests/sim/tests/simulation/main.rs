//! The simulation's tests: many seeds, every mutant, the seeds that found something, and the real engine.

mod mutants;
#[cfg(feature = "tantivy")]
mod real;
mod regressions;
mod seeds;

//! The simulation's tests: many seeds, every planted fault, the seeds that found something, and the real engine.

mod planted;
#[cfg(feature = "tantivy")]
mod real;
mod regressions;
mod seeds;

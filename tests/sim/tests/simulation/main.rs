//! The simulation's tests: many seeds, every mutant, the seeds that found something, and the real engine.

// Its tests are run here: no command of CI builds the unit tests of the simulation's library.
#[expect(dead_code, reason = "the simulation uses the rest")]
#[path = "../../src/lock_history.rs"]
mod lock_history;
mod mutants;
#[cfg(feature = "tantivy")]
mod real;
mod regressions;
mod seeds;

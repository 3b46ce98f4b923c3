//! A seeded simulation of writers, indexers, readers and a trimmer over an object store that delays, loses and doubles.

mod cloud;
mod dice;
mod knobs;
mod mutants;
mod oracle;
mod process;
mod run;
pub mod scenario;
mod store;
mod supervise;
mod trace;
mod truth;
mod weather;
mod world;

pub use cloud::{Cloud, Event, Guard, Metadata, Stored, Watcher, What};
pub use dice::Dice;
pub use knobs::Knobs;
pub use mutants::{MUTANTS, Mutant};
pub use oracle::{Acknowledged, Oracle};
pub use process::Process;
pub use run::{Report, first_failure, run, run_all};
pub use scenario::{Scenario, hunt};
pub use store::SimStore;
pub use supervise::{End, supervise};
pub use trace::Trace;
pub use truth::Truth;
pub use weather::Weather;
pub use world::World;

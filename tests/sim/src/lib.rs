//! A seeded simulation of writers, indexers, readers and a trimmer over an object store that delays, loses and
//! duplicates calls.

mod chain_record;
mod checker;
mod config;
mod expectation_fold;
mod fault_injecting_store;
mod fault_schedule;
mod limited_disk_engine;
mod lock_history;
mod model;
mod mutants;
mod process;
mod refusals;
mod rng;
mod run;
pub mod scenario;
mod simulated_store;
mod supervise;
mod totals;
mod trace;
mod world;

pub use checker::{AppendAcknowledgement, InvariantChecker};
pub use config::SimConfig;
pub use fault_injecting_store::FaultInjectingStore;
pub use fault_schedule::FaultSchedule;
pub use model::LogModel;
pub use mutants::{ARCHIVE_MUTANTS, CRATE_MUTANTS, ENGINE_MUTANTS, MUTANTS, Mutant, PROCESS_MUTANTS, STORE_MUTANTS};
pub use process::SimProcess;
pub use refusals::DisabledKey;
pub use rng::SimRng;
pub use run::{SeedReport, first_failure, run_seed, run_seeds, totals_of};
pub use scenario::{SimScenario, run_for_mutant};
pub use simulated_store::{
    ObjectMetadata, SimulatedStore, StoreChange, StoreEvent, StoreObserver, StoredObject, WriteAdmission,
};
pub use supervise::{ProcessEnd, supervise};
pub use totals::RunTotals;
pub use trace::SimTrace;
pub use world::SimWorld;

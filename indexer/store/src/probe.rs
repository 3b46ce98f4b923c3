//! A trial of what a store must do before a log may live in it.
//!
//! The log protocol rests on few promises: of two creates one fails, a listing is complete and in order, the store's
//! clock moves forward, a signed URL ends and overwrites nothing. Stores that claim to be compatible break them
//! silently, and a log in such a store would lose entries unnoticed. So each is tried once for each prefix, and the
//! report is kept.

mod checks;
mod outcome;
mod report;
mod run;
mod signed;
#[cfg(test)]
mod tests;

pub use report::{ProbeCheck, ProbeReport, ProbeVerdict};
pub use run::probe_store;

//! A seeded simulation of writers, indexers, readers and a trimmer over an object store that delays, loses and doubles.

mod cloud;
mod dice;
mod process;
mod store;
mod trace;
mod weather;

pub use cloud::{Cloud, Event, Guard, Metadata, Stored, Watcher, What};
pub use dice::Dice;
pub use process::Process;
pub use store::SimStore;
pub use trace::Trace;
pub use weather::Weather;

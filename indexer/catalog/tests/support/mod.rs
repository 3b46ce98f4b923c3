//! What the tests of the catalog share: the store with faults of the chain's tests, and a process that works on an index.

#![allow(dead_code, unused_imports, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../../../store/tests/support/mod.rs"]
mod faulty_store;
pub(crate) mod process;

pub(crate) use faulty_store::{CallFault, ScriptedStore, StoreCall, strike_each_call};

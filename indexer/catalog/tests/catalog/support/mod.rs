//! What the tests of the catalog share: the store with faults of the chain's tests, and a process that works on an index.

#[path = "../../../../store/tests/support/mod.rs"]
mod faulty_store;
pub(crate) mod process;

pub(crate) use faulty_store::{CallFault, ScriptedStore, StoreCall, strike_each_call};

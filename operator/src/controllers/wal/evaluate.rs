//! What is true of a WAL, from what was observed: pure, so that every case is a line of a table.
//!
//! A message states the fact, its effect and the remedy, and holds no number that moves: a condition that says the same thing
//! in other words every few seconds would be written every few seconds.

mod applied;
mod indexing;
mod inputs;
mod progress;
mod ready;
mod search;
mod storage;

#[cfg(test)]
mod tests;

pub(crate) use self::{
    inputs::ConditionInputs,
    ready::{WalConditions, evaluate},
};

//! What the simulated processes do.

pub mod chain;

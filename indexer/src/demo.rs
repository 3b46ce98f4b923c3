//! A writer of made-up updates: those of a small team that looks after a data catalogue.

mod catalogue;
mod workload;
mod writer;

pub(crate) use writer::{DemoOptions, run};

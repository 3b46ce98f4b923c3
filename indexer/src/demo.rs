//! A writer that makes a log come alive: the updates of a small team that looks after a data catalogue.

mod catalogue;
mod story;
mod writer;

pub(crate) use writer::{DemoOptions, tell};

//! The catalog on a store in memory with faults, on paused time.

#![allow(clippy::unwrap_used, reason = "a test")]

mod consumers;
mod formats;
mod garbage;
mod logs;
mod purge;
mod root_chain;
mod snapshots;
mod support;
mod writer;

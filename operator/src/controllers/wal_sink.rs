//! The controller of `WALSink` resources, one file a step: look up what exists ([`dereference`]), check the spec and its WAL ([`validate`]),
//! build the children ([`build`]) with the [`variables`] of the program, evaluate the conditions ([`evaluate`]), write the status and Events
//! ([`update_status`]).
//!
//! How far a sink is stands in the index, not here: its consumer is held there by one process at a time, whatever the cluster runs.

mod build;
mod dereference;
mod evaluate;
mod reconcile;
#[cfg(test)]
mod tests;
mod update_status;
mod validate;
mod variables;
mod wal_sink_controller;

pub(crate) use self::wal_sink_controller::WalSinkController;

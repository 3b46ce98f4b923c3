//! The controller of `WALTask` resources, one file a step: look up what exists ([`dereference`]), find out how far the last attempt is
//! ([`attempt`]), decide whether another one may start ([`admit`], [`supported`]) and what comes next ([`plan`]), build its Job ([`build`]), write the
//! status and Events ([`update_status`]).
//!
//! Everything is decided from the task, its WAL, and the Jobs that exist: an operator that starts in the middle goes on where the last
//! one was. A state that is final stays.

mod admit;
mod attempt;
mod build;
mod dereference;
mod plan;
mod reconcile;
#[cfg(test)]
mod tests;
mod update_status;
mod wal_task_controller;

pub(crate) use self::wal_task_controller::WalTaskController;

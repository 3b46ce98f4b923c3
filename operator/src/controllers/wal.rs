//! The controller of `WAL` resources, one file a step: look up what exists ([`observe`]), check the spec ([`validate`]),
//! finish a deletion ([`purge_finalizer`]), plan the upgrade ([`upgrade`]), build the children ([`build`]), write them ([`write_children`]),
//! evaluate the conditions ([`evaluate`]), write the status ([`next_status`]) and Events ([`status_events`]).

pub(crate) mod build;
mod evaluate;
pub(crate) mod failed_writes;
#[cfg(test)]
mod kstatus;
mod next_status;
mod observe;
mod purge_finalizer;
mod reconcile;
pub(crate) mod schedule;
mod search_exposure;
mod stalled_upgrades;
mod status_events;
#[cfg(test)]
mod tests;
pub(crate) mod upgrade;
pub(crate) mod validate;
mod wal_controller;
mod write_children;

pub(crate) use self::wal_controller::WalController;

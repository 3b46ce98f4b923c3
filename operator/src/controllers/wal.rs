//! The controller of `WAL` resources, one file a step: look up what exists ([`dereference`]), check the spec ([`validate`]),
//! finish a deletion ([`purge`]), plan the upgrade ([`upgrade`]), build the children ([`build`]), write them ([`write_children`]),
//! evaluate the conditions ([`evaluate`]), write the status ([`update_status`]) and Events ([`transitions`]).

pub(crate) mod build;
mod dereference;
mod evaluate;
mod failed_writes;
#[cfg(test)]
mod kstatus;
mod purge;
mod reconcile;
mod search_exposure;
mod stalled_upgrades;
#[cfg(test)]
mod tests;
mod transitions;
mod update_status;
pub(crate) mod upgrade;
pub(crate) mod validate;
mod wal_controller;
mod write_children;

pub(crate) use self::wal_controller::WalController;

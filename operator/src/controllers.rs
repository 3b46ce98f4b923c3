//! The controllers of one leader: [`kind_controller::run_kind`] runs the controller of one kind of resource in one part of the cluster,
//! [`run`] runs all of them in all parts.

#[cfg(test)]
pub(crate) mod fake_world;
pub(crate) mod kind_controller;
mod run;
#[cfg(test)]
mod test_kind;
mod unreadable_object;
pub(crate) mod wal;
mod wal_sink;
mod wal_task;
mod writer_image;

pub(crate) use self::run::run;

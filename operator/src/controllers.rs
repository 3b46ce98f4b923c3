//! The controllers of one leader: [`kind::run_kind`] runs the controller of one kind of resource in one part of the cluster,
//! [`run`] runs all of them in all parts.

#[cfg(test)]
pub(crate) mod fake_world;
pub(crate) mod kind;
mod run;
#[cfg(test)]
mod second_kind;
mod unreadable;
pub(crate) mod wal;

pub(crate) use self::run::run;

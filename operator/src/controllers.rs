//! The controllers of one leader: [`kind::run_kind`] runs the controller of one kind of resource in one part of the cluster,
//! [`run`] runs all of them in all parts.

pub(crate) mod kind;
mod run;
mod unreadable;
pub(crate) mod wal;

pub(crate) use self::run::run;

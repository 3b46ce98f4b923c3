//! Tests on a whole Kubernetes: they need root and Debian's containerd, and are ignored unless asked for.
//!
//! `make cluster-test` runs each module in a process of its own, several at once, one test after the other: the tests of a
//! module share a cluster, and most of their time is waiting. By hand: `make cluster-test ONLY=first_hour`.

#[path = "../shared/cluster_owner.rs"]
mod cluster_owner;
mod failures;
mod first_hour;
mod frozen_job;
mod harness;
mod held_store;
mod refusals;
mod upgrade;

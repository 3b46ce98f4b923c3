//! The operator on a real API server: what it writes, what it says, what it leaves alone.
//!
//! Kubernetes' own controllers run; nodes do not, so pods are acted. Each test has a namespace and an operator of its own.

mod access;
mod admission;
mod applied;
mod children;
mod conditions;
mod definition;
mod deletion;
mod exposure;
mod quiet;
mod replicas;
mod schedules;
mod sinks;
mod tasks;
mod traces;
mod upgrade;

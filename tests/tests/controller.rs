//! The operator on a real API server: what it writes, what it says, what it leaves alone.
//!
//! Kubernetes' own controllers run; nodes do not, so pods are acted. Each test has a namespace and an operator of its own.

#[path = "controller/children.rs"]
mod children;
#[path = "controller/conditions.rs"]
mod conditions;
#[path = "controller/definition.rs"]
mod definition;
#[path = "controller/deletion.rs"]
mod deletion;
#[path = "controller/exposure.rs"]
mod exposure;
#[path = "controller/quiet.rs"]
mod quiet;
#[path = "controller/replicas.rs"]
mod replicas;
#[path = "controller/traces.rs"]
mod traces;
#[path = "controller/upgrade.rs"]
mod upgrade;

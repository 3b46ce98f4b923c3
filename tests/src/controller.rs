//! The operator at work on a real API server, with data pods that are acted.
//!
//! [`OperatorProcess`] is the built program in a process of its own, to be stopped and killed. [`FakePods`] is a kubelet that starts
//! nothing: each pod gets an address on loopback, where what a test wants is said.

mod fake_pods;
mod operator;
mod world;

pub use self::{
    fake_pods::{FakePods, say},
    operator::{OperatorOptions, OperatorProcess},
    world::{ControllerWorld, eventually, wal_yaml},
};

//! The tests of the crate from outside, in one program: linking each file apart takes longer than running it.

#![allow(clippy::unwrap_used, reason = "a test")]

#[cfg(feature = "aws-credentials")]
mod aws;
mod azure;
mod chain;
mod clock;
mod google;
#[cfg(feature = "aws-credentials")]
mod recording_server;
#[path = "../support/mod.rs"]
mod support;
mod versions;

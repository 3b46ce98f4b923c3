//! The controller of `WAL` resources.

pub(crate) mod build;
pub(crate) mod validate;

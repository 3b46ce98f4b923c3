//! Why untrusted input is refused.

use serde::{Deserialize, Serialize};

/// Why Tidemark cannot read a payload or a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub struct MalformedInput {
    /// What is wrong with the input.
    pub reason: String,
}

impl MalformedInput {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

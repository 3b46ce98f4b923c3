//! The checkpoints that a client has been sent on its connection, each once.

use tidemark_search::api::{ChangesAnswer, FeedCheckpoint};

/// How many are remembered: the newest ones, which answers repeat.
const MAX_REMEMBERED: usize = 100;

/// What a client was sent.
#[derive(Debug, Default)]
pub(super) struct SentCheckpoints(Vec<FeedCheckpoint>);

impl SentCheckpoints {
    /// Leaves in the answer what the client has not been sent, and remembers that.
    pub(super) fn retain_new(&mut self, answer: &mut ChangesAnswer) {
        // A reindex gives the position another generation, and leaves the snapshot what it was.
        answer.checkpoints.retain(|new| {
            !self.0.iter().any(|sent| (&sent.checkpoint, sent.position.seq) == (&new.checkpoint, new.position.seq))
        });
        self.0.extend_from_slice(&answer.checkpoints);
        self.0.drain(..self.0.len().saturating_sub(MAX_REMEMBERED));
    }

    /// It was not sent after all: the next answer that has it has it again.
    pub(super) fn forget(&mut self, unsent: &FeedCheckpoint) {
        self.0.retain(|sent| sent != unsent);
    }
}

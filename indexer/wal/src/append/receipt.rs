//! What a writer proves of an append.

use crate::token::Token;
use tidemark_store::StoreSecond;

/// What is proven of the operations under an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendReceipt {
    /// The token of the entry.
    pub token: Token,
    /// The draft's first operation within the entry: 0 unless it shares the entry with others.
    pub op: u32,
    /// What is proven.
    pub proof: AppendProof,
    /// How many tokens it took.
    pub attempts: u32,
}

/// What a read-back proves of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendProof {
    /// It is committed, in every index and permanently.
    Committed {
        /// Store time at which everything was seen.
        acknowledged: StoreSecond,
    },
    /// It is complete, in time. Whether it is committed or conflicted depends on every entry with a smaller token, of which some may be
    /// completed yet: indexes decide it, all in the same way, and no writer can tell.
    Undecided {
        /// Store time at which everything was seen.
        seen: StoreSecond,
        /// Store time from which on an index may have decided it.
        decided: StoreSecond,
    },
}

impl AppendReceipt {
    /// Store time at which everything was seen, where that proves that the operations are committed.
    pub fn acknowledged(&self) -> Option<StoreSecond> {
        match self.proof {
            AppendProof::Committed { acknowledged } => Some(acknowledged),
            AppendProof::Undecided { .. } => None,
        }
    }
}

//! Why an append was not acknowledged.

use std::time::Duration;

use super::source::ParameterSourceError;
use crate::{
    lock::{LockError, LockName},
    outcome::Outcome,
    token::Token,
};
use tidemark_store::{ClockError, StoreError, StoreSecond};

/// Why an entry that another process completes was not acknowledged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfirmError {
    /// There is no such entry.
    #[error("the log has no entry \"{token}\"; nothing was confirmed; take the token that the append gave")]
    Absent {
        /// Its token.
        token: Token,
    },
    /// It is not proven that the entry is committed.
    #[error(
        "entry \"{token}\" is not proven to be committed: {why}; confirm it again, look it up, or append again with its idempotency key, under \
         which it counts once for as long as the log keeps keys"
    )]
    Unproven {
        /// Its token.
        token: Token,
        /// The outcome at the read-back, if there was one.
        outcome: Option<Outcome>,
        /// What is missing for the proof.
        why: String,
    },
    /// Store time or the log's parameters could not be read.
    #[error("nothing was confirmed: {0}")]
    Time(String),
}

/// Why an append was not acknowledged. Only [`AppendError::Unproven`], [`AppendError::KeyExpired`], [`AppendError::Fenced`] and
/// [`AppendError::Occupied`] come after an entry was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// A store failed before anything was written.
    #[error("nothing was appended: {0}")]
    Store(#[from] StoreError),
    /// The clock could not be read.
    #[error("nothing was appended: {0}")]
    Clock(#[from] ClockError),
    /// The parameters could not be read.
    #[error("nothing was appended: {0}")]
    Source(#[from] ParameterSourceError),
    /// The draft cannot be appended.
    #[error("the draft cannot be appended: {why}; nothing was appended; correct the draft")]
    Invalid {
        /// What is wrong with the draft.
        why: String,
    },
    /// The stores' clocks are too far apart.
    #[error(
        "the clocks of the stores are {} s apart, more than the {} s that appends allow; nothing was appended; correct the clocks or \
         raise the log's expiry",
        spread.as_secs(),
        allowed.as_secs_f32()
    )]
    Spread {
        /// How far the clocks are apart.
        spread: Duration,
        /// How far they may be apart.
        allowed: Duration,
    },
    /// The lock that guards the draft could not be read, or never had the grant.
    #[error("nothing was appended: {0}")]
    Lock(#[from] LockError),
    /// The lock that guards the draft was granted to another holder, or released, before the entry's slot.
    #[error(
        "entry \"{token}\" is fenced: grant {grant} of lock \"{lock}\" was {}; the entry and its payload stay for a person to reconcile \
         (\"tidemark lock show\"); acquire the lock again, read what was committed meanwhile, and append again",
        if by == grant { "released".to_owned() } else { format!("overtaken by grant {by}") }
    )]
    Fenced {
        /// The entry.
        token: Token,
        /// The lock.
        lock: LockName,
        /// The grant under which it was appended.
        grant: u64,
        /// The newest grant: a later one, or the same if that was released.
        by: u64,
    },
    /// Another operation's object has the key.
    #[error(
        "\"{key}\" exists since {since} and belongs to another update; entry \"{token}\" is aborted; give the update another name"
    )]
    Occupied {
        /// The key.
        key: String,
        /// Store time of the object there.
        since: StoreSecond,
        /// The entry that wanted it.
        token: Token,
    },
    /// An entry may be durable, but it is not proven that it is committed.
    #[error(
        "entry \"{token}\" is not proven to be committed: {why}; look it up, or append again with the idempotency key \
         \"{idempotency_key}\", under which it counts once for as long as the log keeps keys"
    )]
    Unproven {
        /// The newest token, or the one of an earlier attempt that may be committed.
        token: Token,
        /// The outcome at the last read-back, if there was one.
        outcome: Option<Outcome>,
        /// The key under which repeated appends count once.
        idempotency_key: String,
        /// What is missing for the proof.
        why: String,
    },
    /// No try is proven, and the log has forgotten the key of the first one by now: a further one might count beside it.
    #[error(
        "what was appended with the idempotency key \"{idempotency_key}\" is not proven to be committed: {why}; the log's \
         idempotencyRetention has passed since the first try, so that another one might count too; search for the key, and append again \
         only if no operation with it is committed"
    )]
    KeyExpired {
        /// The key of all tries.
        idempotency_key: String,
        /// What became of the tries.
        why: String,
    },
}

impl AppendError {
    /// Whether it says that the entry may be committed.
    pub(super) fn leaves_open(&self) -> bool {
        matches!(self, Self::Unproven { outcome, .. } if !matches!(outcome, Some(Outcome::Late | Outcome::Fenced)))
    }
}

//! Why a lock was not acquired, renewed or released.

use tidemark_store::{ChainError, ClockError, StoreError, StoreSecond};

use super::{limits::InvalidGrant, name::LockName};

/// Why a step of a lock does not apply to what its chain holds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LockRejected {
    /// Another holder has it.
    #[error(
        "lock \"{lock}\" is held by \"{holder}\" under grant {grant}; nothing was acquired; wait until it is released or expires"
    )]
    Held {
        /// The lock.
        lock: LockName,
        /// Its holder.
        holder: String,
        /// The holder's grant.
        grant: u64,
    },
    /// The grant is not the lock's newest one.
    #[error(
        "grant {grant} of lock \"{lock}\" was overtaken by grant {by} of \"{holder}\"; what is appended under it is fenced; acquire the \
         lock again and read what was committed meanwhile"
    )]
    Overtaken {
        /// The lock.
        lock: LockName,
        /// The grant.
        grant: u64,
        /// The newest grant.
        by: u64,
        /// Its holder.
        holder: String,
    },
    /// The grant was released by its holder.
    #[error(
        "grant {grant} of lock \"{lock}\" was released; what is appended under it is fenced; acquire the lock again"
    )]
    Released {
        /// The lock.
        lock: LockName,
        /// The grant.
        grant: u64,
    },
    /// The lock never had such a grant.
    #[error("lock \"{lock}\" has no grant {grant}; nothing was done; acquire the lock, which prints its grant")]
    NoSuchGrant {
        /// The lock.
        lock: LockName,
        /// What was named.
        grant: u64,
    },
}

/// Why a lock was not acquired, renewed, released or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// The chain rejected the step, or failed. After [`ChainError::Unknown`] it is not known whether the slot was appended.
    #[error(transparent)]
    Chain(#[from] ChainError<LockRejected>),
    /// A store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store's clock could not be read.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// The grant that was asked for is beyond a limit.
    #[error("lock \"{lock}\" was not acquired: {why}")]
    Invalid {
        /// The lock.
        lock: LockName,
        /// What is wrong with the grant.
        why: InvalidGrant,
    },
    /// Another holder has it, and the caller does not wait.
    #[error(
        "lock \"{lock}\" is held by \"{holder}\" under grant {grant}{}; nothing was acquired; wait for it, or have it released",
        until.map(|until| format!(" until {until}")).unwrap_or_default()
    )]
    Held {
        /// The lock.
        lock: LockName,
        /// Its holder.
        holder: String,
        /// The holder's grant.
        grant: u64,
        /// When it expires unless it is renewed.
        until: Option<StoreSecond>,
    },
}

impl LockError {
    /// The lock has no such grant.
    pub(crate) fn no_such_grant(lock: &LockName, grant: u64) -> Self {
        ChainError::Rejected(LockRejected::NoSuchGrant { lock: lock.clone(), grant }).into()
    }

    /// Why the chain rejected the step, if it did.
    pub fn rejection(&self) -> Option<&LockRejected> {
        match self {
            Self::Chain(ChainError::Rejected(rejected)) => Some(rejected),
            _ => None,
        }
    }
}

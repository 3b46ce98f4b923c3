//! How a lock is acquired, and how its commands end.

use std::time::Duration;

use clap::Args;
use tidemark_store::{ChainError, Entropy, StoreClock};
use tidemark_wal::{GrantRequest, HeldLock, LockError, LockName, Log, WriteLocks};

use super::{args::span, exit::CommandExit, log::CLOCK_NAME};

/// Who acquires a lock, and how.
#[derive(Debug, Args)]
pub(super) struct GrantArgs {
    /// Who holds the lock: the name that others see, and by which it is found. At most 200 characters.
    #[arg(long, env = "TIDEMARK_HOLDER", value_name = "NAME")]
    holder: String,
    /// What it is held for, for people. At most 1000 characters.
    #[arg(long, env = "TIDEMARK_PURPOSE", value_name = "TEXT")]
    purpose: Option<String>,
    /// How long the lock is held without a renewal before others may acquire it: 1 s to 168 h.
    #[arg(long, env = "TIDEMARK_TTL", value_name = "SPAN", default_value = "30s", value_parser = span)]
    ttl: Duration,
    /// How long after its slot in the lock's chain an entry may still be completed. The next holder waits for so long, and for the longest
    /// request. 1 s to 1 h, and never longer than the log's own bound.
    #[arg(long, env = "TIDEMARK_COMPLETE_WITHIN", value_name = "SPAN", default_value = "10s", value_parser = span)]
    complete_within: Duration,
    /// Fail at once if somebody holds the lock. Else the command waits for it.
    #[arg(long, env = "TIDEMARK_NO_WAIT")]
    no_wait: bool,
}

impl GrantArgs {
    /// Acquires the lock.
    pub(super) async fn acquire(&self, locks: &WriteLocks, name: &LockName) -> anyhow::Result<HeldLock> {
        let Self { holder, purpose, ttl, complete_within, no_wait } = self;
        let (holder, purpose) = (holder.clone(), purpose.clone());
        let request = GrantRequest { holder, purpose, ttl: *ttl, complete_within: *complete_within };
        locks.acquire(name, &request, !no_wait).await.map_err(lock_exit)
    }
}

/// The locks of `log`.
pub(super) fn open_locks(log: &Log) -> WriteLocks {
    WriteLocks::open(log, StoreClock::new(log.stores(), CLOCK_NAME), Entropy::from_os())
}

/// The error with its exit code.
pub(super) fn lock_exit(error: LockError) -> anyhow::Error {
    let exit = match &error {
        LockError::Chain(ChainError::Rejected(_)) => CommandExit::Fenced,
        LockError::Chain(ChainError::Unknown { .. }) => CommandExit::Unknown,
        LockError::Invalid { .. } => CommandExit::Usage,
        _ => CommandExit::Failed,
    };
    exit.with(error)
}
